#!/usr/bin/env python3
"""How your camera degrades, as a file for training: from its pictures and from clean photographs of yours.

    python scripts/estimate_degradation.py --lq CAMERA --clean PHOTOGRAPHS -o my-camera.yaml
    python scripts/train.py configs/train/personal.yaml my-camera.yaml data.root=PHOTOGRAPHS

The two folders need not show the same, only scenes of the same kind. What is estimated: width of the blur, level and
grain of the noise, JPEG quality. How: idas_sr/data/estimate.py.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from statistics import median

from omegaconf import OmegaConf
from rich.progress import Progress

import idas_sr
from idas_sr.atomic import write_text
from idas_sr.data.benchmarks import pictures_in
from idas_sr.data.estimate import estimate, jpeg_quality, tries, widened
from idas_sr.data.measured import MeasuredConfig
from idas_sr.imagefiles.reading import read_rgb

LEAST = 5
"""Pictures in each folder."""


def chosen(folder: Path, count: int) -> list[Path]:
    """At most ``count`` pictures, evenly spread over the sorted names.

    Raises:
        ValueError: no such folder, or too few pictures in it.
    """
    paths = list(pictures_in(folder).values())
    if len(paths) < LEAST:
        raise ValueError(f"{folder} holds {len(paths)} pictures where at least {LEAST} are needed; add more.")
    return paths[:: -(-len(paths) // count)]


def as_yaml(config: MeasuredConfig, source: Path, count: int) -> str:
    """What ``scripts/train.py`` reads beside a stage."""
    names = ("blur_sigma", "noise", "grain", "jpeg_quality")
    args = {name: value and list(value) for name in names for value in (getattr(config, name),)}
    data = {
        # In place of the pairs: the clean photographs alone.
        "sources": {"pictures": {"path": ".", "lq": None}},
        "degradation": "measured",
        "degradation_args": args,
    }
    return f"# Estimated from {count} pictures in {source.name}.\n" + OmegaConf.to_yaml({"data": data})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lq", type=Path, required=True, metavar="FOLDER", help="pictures of the camera")
    parser.add_argument("--clean", type=Path, required=True, metavar="FOLDER", help="clean photographs, larger")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.yaml")
    parser.add_argument("--quality", type=int, metavar="Q", help="JPEG quality (default: as the files say)")
    parser.add_argument("--count", type=int, default=30, help="pictures of each (default: %(default)s)")
    args = parser.parse_args()
    try:
        logging.basicConfig(format="%(message)s", level=logging.INFO)
        lq, clean = chosen(args.lq, args.count), chosen(args.clean, args.count)
        qualities = [quality for path in lq if (quality := jpeg_quality(path)) is not None]
        quality = args.quality or (round(median(qualities)) if qualities else None)
        with Progress(transient=True) as progress:
            task = progress.add_task("estimating", total=tries())
            found = estimate(
                [read_rgb(path) for path in lq],
                [read_rgb(path) for path in clean],
                quality,
                lambda: progress.advance(task),
            )
        text = as_yaml(widened(found), args.lq, len(lq))
        write_text(args.output, text)
    except (ValueError, OSError) as error:
        sys.exit(f"estimate_degradation {idas_sr.__version__}: {error}")
    compressed = "none" if quality is None else f"JPEG {quality}"
    print(
        f"blur {found.blur_sigma[0]:g} pixels of the clean picture, noise {found.noise[0] * 255:.1f} grey levels with "
        f"grain {found.grain[0]:g}, compression {compressed}: {args.output}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
