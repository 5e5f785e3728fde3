#!/usr/bin/env python3
"""Three restorations without a model, which stand in every table of results: bicubic, + unsharp mask, + grain.

    python scripts/trivial_baselines.py -i LQ_FOLDER -o OUT_FOLDER
writes OUT_FOLDER/bicubic, OUT_FOLDER/unsharp and OUT_FOLDER/grain, four times the input's size.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

from idas_sr.evaluation.trivial import (
    GRAIN_LEVEL,
    GRAIN_SIZE,
    TRIVIAL,
    UNSHARP_PERCENT,
    UNSHARP_RADIUS,
    restore_trivially,
)
from idas_sr.imagefiles.formats import EXTENSIONS
from idas_sr.imagefiles.reading import read_rgb


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--radius", type=float, default=UNSHARP_RADIUS, help="of the unsharp mask, pixels")
    parser.add_argument("--percent", type=int, default=UNSHARP_PERCENT, help="strength of the unsharp mask")
    parser.add_argument(
        "--grain", type=float, default=GRAIN_LEVEL, help="standard deviation of the grain, 8-bit levels"
    )
    parser.add_argument(
        "--grain-size", type=float, default=GRAIN_SIZE, help="width of the grain: sigma of its blur, pixels"
    )
    args = parser.parse_args()
    pictures = sorted(p for p in args.input.glob("*") if p.suffix.lower() in EXTENSIONS)
    if not pictures:
        print(f"trivial_baselines: no picture in {args.input}", file=sys.stderr)
        return 1
    for name in TRIVIAL:
        (args.output / name).mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(pictures):
        lq = Image.fromarray(read_rgb(path))
        rows = restore_trivially(lq, index, 4, args.radius, args.percent, args.grain, args.grain_size)
        for name, picture in rows.items():
            picture.save(args.output / name / f"{path.stem}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
