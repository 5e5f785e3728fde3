#!/usr/bin/env python3
"""Three restorations without a model, which stand in every table of results: bicubic, + unsharp mask, + grain.

    python scripts/trivial_baselines.py -i LQ_FOLDER -o OUT_FOLDER
writes OUT_FOLDER/bicubic, OUT_FOLDER/unsharp and OUT_FOLDER/grain, four times the input's size.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter

from idas_sr.images import EXTENSIONS


def film_grain(height: int, width: int, level: float, size: float, seed: int) -> np.ndarray:
    """(height, width, 1) grey noise of standard deviation ``level``, blurred by a Gaussian of ``size`` pixels."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    # Periodic, so that grain at the edges is as strong as in the middle.
    grain = gaussian_filter(noise, size, mode="wrap")
    return level * (grain / grain.std())[..., None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--radius", type=float, default=2.0, help="of the unsharp mask, pixels")
    parser.add_argument("--percent", type=int, default=100, help="strength of the unsharp mask")
    parser.add_argument("--grain", type=float, default=6.0, help="standard deviation of the grain, 8-bit levels")
    # White noise would raise NIQE; grain as wide as a photograph's details lowers it.
    parser.add_argument("--grain-size", type=float, default=0.6, help="width of the grain: sigma of its blur, pixels")
    args = parser.parse_args()
    pictures = sorted(p for p in args.input.glob("*") if p.suffix.lower() in EXTENSIONS)
    if not pictures:
        print(f"trivial_baselines: no picture in {args.input}", file=sys.stderr)
        return 1
    for name in ("bicubic", "unsharp", "grain"):
        (args.output / name).mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(pictures):
        lq = Image.open(path).convert("RGB")
        bicubic = lq.resize((lq.width * 4, lq.height * 4), Image.Resampling.BICUBIC)
        unsharp = bicubic.filter(ImageFilter.UnsharpMask(args.radius, args.percent, 0))
        noise = film_grain(unsharp.height, unsharp.width, args.grain, args.grain_size, index)
        grain = Image.fromarray((np.asarray(unsharp) + noise).round().clip(0, 255).astype(np.uint8))
        for name, picture in (("bicubic", bicubic), ("unsharp", unsharp), ("grain", grain)):
            picture.save(args.output / name / f"{path.stem}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
