#!/usr/bin/env python3
"""README's picture: every example enlarged by bicubic interpolation and restored at realism 0, 0.5 and 1.

python scripts/make_strip.py [-o docs/images/examples.jpg]
"""

import argparse
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from idas_sr import IDaSSRPipeline
from idas_sr.imagefiles.formats import EXTENSIONS

ROOT = Path(__file__).resolve().parents[1]
CELL, GAP, LABEL = (400, 320), 6, 26


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input", type=Path, default=ROOT / "examples")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "images" / "examples.jpg")
    parser.add_argument("--model", default="compact")
    parser.add_argument("--realism", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    args = parser.parse_args()
    pipe = IDaSSRPipeline.from_pretrained(args.model)
    pictures = sorted(p for p in args.input.iterdir() if p.suffix.lower() in EXTENSIONS)
    titles = ["input, bicubic", *(f"realism {r:g}" for r in args.realism)]
    width, height = len(titles) * (CELL[0] + GAP) - GAP, LABEL + len(pictures) * (CELL[1] + GAP) - GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for column, title in enumerate(titles):
        draw.text((column * (CELL[0] + GAP) + 4, 4), title, fill="black", font=font)
    for row, path in enumerate(pictures):
        lq = Image.open(path).convert("RGB")
        cells = [lq.resize((lq.width * 4, lq.height * 4), Image.Resampling.BICUBIC)]
        cells += [pipe(lq, realism=r, seed=42).images[0] for r in args.realism]
        for column, cell in enumerate(cells):
            # The middle of the restored picture at its own resolution: shrinking would hide what there is to see.
            left, top = max((cell.width - CELL[0]) // 2, 0), max((cell.height - CELL[1]) // 2, 0)
            cut = cell.crop((left, top, left + CELL[0], top + CELL[1]))
            sheet.paste(cut, (column * (CELL[0] + GAP), LABEL + row * (CELL[1] + GAP)))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.output, quality=90)
    return 0


if __name__ == "__main__":
    sys.exit(main())
