#!/usr/bin/env python3
"""How NIQE is gamed: sharpening and film grain at several strengths, niqe against the distance from the reference.

    python scripts/plot_gaming.py -i LQ -r HQ --squeezenet squeezenet_v10.pth --json out/gaming.json \
        --also "OSEDiff=FOLDER" --plot docs/images/gaming.png
    python scripts/plot_gaming.py --strip examples/mountain.png --strip-to docs/images/gaming_strip.jpg

The second makes a strip of one picture with the niqe of each version below it, and needs neither reference nor weights.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from idas_sr.evaluation import plots
from idas_sr.evaluation.files import versions, write_json
from idas_sr.evaluation.gaming import Recipe, draw, measure, strip
from idas_sr.evaluation.score import pair_by_stem, score_folder
from idas_sr.losses import FeatureDistance

SHOWN = (Recipe(), Recipe(100), Recipe(100, 6.0), Recipe(100, 13.0))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("-i", "--input", type=Path, help="folder of low-quality pictures")
    parser.add_argument(
        "-r", "--reference", type=Path, help="folder of the pictures they should become, four times as large"
    )
    parser.add_argument("--squeezenet", type=Path, help="file of SqueezeNet 1.0 weights, for sqdist")
    parser.add_argument("--also", nargs="+", default=[], metavar="NAME=FOLDER", help="restorations to draw as stars")
    parser.add_argument("--plot", type=Path, default=Path("out/gaming.png"))
    parser.add_argument("--json", type=Path, default=Path("out/gaming.json"))
    parser.add_argument("--limit", type=int, help="take the first N pairs only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="pictures at a time")
    parser.add_argument("--strip", type=Path, help="one low-quality picture to show")
    parser.add_argument("--strip-to", type=Path, default=Path("out/gaming_strip.jpg"))
    args = parser.parse_args(arguments)
    if not args.strip and not (args.input and args.reference and args.squeezenet):
        parser.error("give -i, -r and --squeezenet for the plot, or --strip for the strip, or all")
    return args


def plot(args: argparse.Namespace) -> None:
    plots.check()
    torch.set_num_threads(1)
    found = pair_by_stem(args.input, args.reference).values()
    pairs = [(pair.restored, pair.reference) for pair in found][: args.limit]
    distance = FeatureDistance.yardstick(args.squeezenet)
    with tqdm(total=len(pairs), unit="picture", disable=not sys.stderr.isatty()) as bar:
        means = measure(pairs, distance, args.jobs, bar.update)
    others = {}
    for entry in args.also:
        name, _, folder = entry.partition("=")
        others[name] = score_folder(Path(folder), args.reference, args.squeezenet, jobs=args.jobs).mean
    draw(means, others, args.plot)
    write_json(args.json, {"images": len(pairs), "mean": {**means, **others}, "versions": versions()})
    for name, metrics in {**means, **others}.items():
        figures = ((metric, metrics.get(metric)) for metric in ("psnr_y", "sqdist", "niqe"))
        print(f"{name:26s}" + "".join(f"{metric} {value:7.3f}   " for metric, value in figures if value is not None))


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    try:
        if args.strip:
            for name, value in strip(args.strip, SHOWN, args.strip_to).items():
                print(f"{name:26s}niqe {value:7.3f}")
        if args.input:
            plot(args)
    except (ValueError, OSError) as error:
        print(f"plot_gaming: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
