#!/usr/bin/env python3
"""Measure restored pictures.

    python scripts/evaluate.py score RESTORED --reference HQ --squeezenet squeezenet_v10.pth --json out/scores.json

psnr_y, ssim_y (BT.601 luma) and sqdist (SqueezeNet features; lower is closer) need --reference; niqe does not. Files
are paired by their stems. sqdist is not LPIPS: compare it only with itself.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from idas_sr.evaluation.score import PROTOCOL, Scores, pictures_in, score_folder

DIGITS = {"psnr_y": 4, "ssim_y": 4, "sqdist": 4, "niqe": 3}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    score = commands.add_parser("score", help="score a folder of saved pictures", allow_abbrev=False)
    score.add_argument("restored", type=Path, help="folder of restored pictures")
    score.add_argument("--reference", type=Path, help="folder of the pictures that they should be, same stems")
    score.add_argument("--json", type=Path, help="write means and one row per picture there")
    score.add_argument("--squeezenet", type=Path, help="file of SqueezeNet 1.0 weights, for the column sqdist")
    score.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="pictures at a time")
    return parser.parse_args(arguments)


def table(scores: Scores) -> str:
    mean = scores.mean
    head = ["images", *mean]
    row = [str(len(scores.images))]
    row += ["-" if value is None else f"{value:.{DIGITS[name]}f}" for name, value in mean.items()]
    widths = [max(len(a), len(b)) for a, b in zip(head, row, strict=True)]
    return "\n".join("  ".join(x.rjust(w) for x, w in zip(line, widths, strict=True)) for line in (head, row))


def remarks(scores: Scores, args: argparse.Namespace) -> list[str]:
    """What a reader of the table must know about columns that are missing or not over all pictures."""
    said = []
    if args.reference is None:
        said.append("No --reference was given: psnr_y, ssim_y and sqdist are left out.")
    elif args.squeezenet is None:
        said.append("No --squeezenet FILE was given: sqdist is left out.")
    for name in scores.mean:
        without = [stem for stem, row in scores.images.items() if row[name] is None]
        if without:
            said.append(f"{name}: {len(without)} picture(s) are too small and do not count, first: {without[0]}.")
    return said


def score(args: argparse.Namespace) -> None:
    # A picture per thread: several threads per picture on a busy machine are many times slower.
    torch.set_num_threads(1)
    with tqdm(total=len(pictures_in(args.restored)), unit="picture", disable=not sys.stderr.isatty()) as bar:
        scores = score_folder(
            args.restored, args.reference, args.squeezenet, jobs=args.jobs, on_picture=lambda stem: bar.update()
        )
    print(f"{args.restored}  ({PROTOCOL})")
    print(table(scores))
    for line in remarks(scores, args):
        print(line)
    if args.json:
        settings = {
            "restored": str(args.restored),
            "reference": args.reference and str(args.reference),
            "squeezenet": args.squeezenet and str(args.squeezenet),
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(scores.as_json(settings, sys.argv), indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    try:
        score(args)
    except (ValueError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
