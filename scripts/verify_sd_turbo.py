#!/usr/bin/env python3
"""Check SD-Turbo's weights before anything is built on them; docs/sd_turbo.md explains the report.

    python scripts/verify_sd_turbo.py --sd-path FOLDER --report report.md
    python scripts/verify_sd_turbo.py --random-weights --tiny          # does the check itself work? No weights needed
Exit code 0: all checks passed (with --random-weights: the mechanics work and every band rejects the weights); else 1.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import idas_sr  # isort: skip  (first: it makes torchvision importable)

import diffusers
import numpy as np
import torch

from idas_sr.imagefiles.reading import read_rgb
from idas_sr.networks.sd_turbo import REPOSITORY, find_sd_turbo, load_sd_turbo
from idas_sr.networks.sd_turbo_random import FULL, TINY, Architecture, write_random_sd_turbo
from idas_sr.verification.denoising import verify_networks
from idas_sr.verification.files import verify_files
from idas_sr.verification.report import succeeded, to_markdown

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sd-path", metavar="FOLDER|HUB_ID", help=f"the weights (default: {REPOSITORY} from the Hub or its cache)"
    )
    parser.add_argument("--revision", help="of a Hub id (default: the pinned one)")
    parser.add_argument(
        "--image", metavar="FILE", help="photograph, at least --size pixels a side (default: scikit-image's astronaut)"
    )
    parser.add_argument(
        "--report", metavar="OUT.md", help="write the report there, and the restored picture beside it as .png"
    )
    parser.add_argument(
        "--size", type=int, default=512, help="side of the centre crop, a multiple of 64 (default: %(default)s)"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of the networks (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: CUDA where there is some)")
    parser.add_argument(
        "--random-weights", action="store_true", help="try the checks on random weights in a temporary folder"
    )
    parser.add_argument("--tiny", action="store_true", help="with --random-weights: a thousandth of the width")
    args = parser.parse_args(arguments)
    if args.tiny and not args.random_weights:
        parser.error("--tiny goes with --random-weights only")
    if args.random_weights and args.sd_path:
        parser.error("give --sd-path or --random-weights, not both")
    if args.size < 64 or args.size % 64:
        parser.error(f"--size must be a multiple of 64, not {args.size}")
    return args


def photograph(path: str | None, size: int) -> torch.Tensor:
    """(1, 3, size, size) in [-1, 1], the centre of the picture."""
    if path is None:
        try:
            from skimage import data
        except ImportError as error:
            raise ValueError(
                "Give a photograph with --image FILE (the default one comes with scikit-image)."
            ) from error
        pixels = data.astronaut()
    else:
        pixels = read_rgb(path)
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        raise ValueError(
            f"The photograph has {width}x{height} pixels but {size} a side are needed; give a larger --image."
        )
    top, left = (height - size) // 2, (width - size) // 2
    crop = np.ascontiguousarray(pixels[top : top + size, left : left + size])
    return torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 127.5 - 1


def verify(args: argparse.Namespace, folder: Path, architecture: Architecture) -> bool:
    began = time.perf_counter()
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    image = photograph(args.image, args.size).to(device)
    checks = verify_files(folder, architecture)
    backbone = load_sd_turbo(str(folder), dtype=PRECISIONS[args.precision]).to(device).eval().requires_grad_(False)
    more, picture = verify_networks(backbone, image)
    checks += more
    facts = {
        "folder": "temporary, random weights" if args.random_weights else folder,
        "photograph": f"{args.image or 'astronaut (scikit-image, public domain)'}, centre {args.size}x{args.size}",
        "networks": f"{args.precision} on {device}",
        "versions": f"idas_sr {idas_sr.__version__}, torch {torch.__version__}, diffusers {diffusers.__version__}",
        "time": f"{time.perf_counter() - began:.0f} s",
        "peak memory of the process": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB",
    }
    for check in checks:
        print(f"{'pass' if check.passed else 'FAIL'}  {check.name}: {check.summary}")
    if args.report:
        report = Path(args.report)
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(to_markdown(checks, facts, args.random_weights), encoding="utf-8")
        picture.save(report.with_suffix(".png"))
    good = succeeded(checks, args.random_weights)
    expected = "as it should be" if good else "NOT as it should be"
    print(f"{expected}; {facts['time']}, peak {facts['peak memory of the process']}")
    return good


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    try:
        if not args.random_weights:
            return 0 if verify(args, find_sd_turbo(args.sd_path, args.revision), FULL) else 1
        with tempfile.TemporaryDirectory(prefix="sd-turbo-random-") as folder:
            # The embedding of a random text encoder is worth nothing later.
            os.environ["IDAS_SR_CACHE"] = f"{folder}/cache"
            architecture = TINY if args.tiny else FULL
            weights = write_random_sd_turbo(Path(folder) / "sd-turbo", architecture, PRECISIONS[args.precision])
            return 0 if verify(args, weights, architecture) else 1
    except (ValueError, OSError) as error:
        print(f"verify_sd_turbo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
