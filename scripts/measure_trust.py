#!/usr/bin/env python3
"""How much of a restoration is invented along the dial, and what consistency with the input costs.

    python scripts/measure_trust.py invented -i LQ --limit 10
    python scripts/measure_trust.py consistent -i LQ -r HQ -o out/trust --squeezenet squeezenet_v10.pth

The first prints one row per picture: the share of its detail that is invented at each realism. The second
restores a folder of pairs (same stems, the reference four times the size) with and without --consistent into OUT,
scores the saved 8-bit files and prints one row per realism and way; the same command again goes on where it stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from idas_sr.batch import plan, restore_files
from idas_sr.cli import choose_device, ended
from idas_sr.cli.arguments import add_infer_arguments
from idas_sr.cli.infer import prepare
from idas_sr.data.benchmarks import pictures_in
from idas_sr.dial import CALIBRATED, DIALS
from idas_sr.evaluation.score import score_folder
from idas_sr.imagefiles.reading import read_picture
from idas_sr.invention import SEEDS, measure
from idas_sr.pipeline import SEED, IDaSSRPipeline
from idas_sr.types import Memory

COLUMNS = ("lr_psnr", "psnr_y", "ssim_y", "sqdist")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="what", required=True, metavar="invented|consistent")
    invented = commands.add_parser("invented", help="share of invented detail along the dial", allow_abbrev=False)
    invented.add_argument("--realism", type=float, nargs="+", default=[0, 0.25, 0.5, 0.75, 1], metavar="R")
    invented.add_argument("--seeds", type=int, default=SEEDS, help="of the spread (default: %(default)s)")
    both = commands.add_parser("consistent", help="scores with and without --consistent", allow_abbrev=False)
    both.add_argument("-r", "--reference", type=Path, required=True, help="folder of what the pictures should become")
    both.add_argument("-o", "--output", type=Path, required=True, help="folder of the restorations")
    both.add_argument("--squeezenet", type=Path, help="file of SqueezeNet 1.0 weights, for sqdist")
    both.add_argument("--realism", type=float, nargs="+", default=[0, 0.5, 1], metavar="R")
    both.add_argument("--jobs", type=int, default=2, help="pictures scored at a time (default: %(default)s)")
    for command in (invented, both):
        command.add_argument("-i", "--input", type=Path, required=True, help="folder of low-quality pictures")
        command.add_argument("--dial", choices=DIALS, default=CALIBRATED, help="unit of realism (default: %(default)s)")
        command.add_argument("--limit", type=int, metavar="N", help="the first N pictures only")
        command.add_argument("--model", default="compact", help="saved pipeline (default: %(default)s)")
        command.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    return parser.parse_args(arguments)


def print_invented(args: argparse.Namespace) -> None:
    pipeline = IDaSSRPipeline.from_pretrained(args.model).to(choose_device(args.device))
    paths = list(pictures_in(args.input).items())[: args.limit]
    print("| picture | " + " | ".join(f"r = {r:g}" for r in args.realism) + " | spread |")
    print("|---|" + "---|" * (len(args.realism) + 1))
    sums, rising = [0.0] * (len(args.realism) + 1), 0
    for stem, path in paths:
        picture, memory = read_picture(path).colour, Memory()
        found = [
            measure(pipeline, picture, r, memory=memory, seeds=range(SEED, SEED + args.seeds), dial=args.dial)
            for r in args.realism
        ]
        shares = [one.share for one in found]
        rising += shares == sorted(shares) and len(set(shares)) == len(shares)
        row = [*(100 * share for share in shares), 255 * float(found[-1].spread.mean())]
        sums = [a + b for a, b in zip(sums, row, strict=True)]
        print(_row(stem, row), flush=True)
    print(_row("mean", [total / len(paths) for total in sums]))
    print(
        f"\nShares in percent; spread: mean over the picture at the last realism, {args.seeds} seeds, steps of 8 bits."
    )
    print(f"The share rises with every step of realism on {rising} of {len(paths)} pictures.")


def _row(name: str, values: Sequence[float]) -> str:
    return f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |"


def print_consistent(args: argparse.Namespace) -> None:
    head = "| realism | | lr_psnr | its least | " + " | ".join(COLUMNS[1:]) + " |"
    print(head + "\n" + "|---" * (head.count("|") - 1) + "|")
    for realism in args.realism:
        for way in ((), ("--consistent",)):
            folder = args.output / f"r{realism:g}{'-consistent' if way else ''}"
            restore(args, folder, ["--realism", f"{realism:g}", *way])
            scores = score_folder(
                folder, args.references, args.squeezenet, args.jobs, lq=args.inputs, columns=columns_of(args)
            )
            least = min(row["lr_psnr"] or 0 for row in scores.images.values())
            mean = [scores.mean.get(name) for name in COLUMNS]
            words = ["–" if value is None else f"{value:.3f}" for value in mean]
            print(f"| {realism:g} | {' '.join(way)} | {words[0]} | {least:.1f} | {' | '.join(words[1:])} |", flush=True)


def columns_of(args: argparse.Namespace) -> list[str]:
    return [name for name in COLUMNS if name != "sqdist" or args.squeezenet]


def restore(args: argparse.Namespace, folder: Path, options: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    add_infer_arguments(parser)
    own = ["--model", args.model, "--device", args.device, "--dial", args.dial, *options]
    load, settings = prepare(parser.parse_args(own), choose_device(args.device))
    jobs, loaded = plan(args.inputs, folder), []

    def once() -> IDaSSRPipeline:
        if not loaded:
            loaded.append(load())
        return loaded[0]

    with tqdm(total=len(jobs), unit="picture", disable=not sys.stderr.isatty()) as bar:
        for outcome in restore_files(jobs, once, settings, batch_size=1, resume=True):
            bar.update()
            if outcome.status == "failed":
                raise ValueError(outcome.reason)


def choose_pairs(args: argparse.Namespace) -> None:
    """With --limit, folders of links to the first pairs take the place of the whole folders."""
    args.inputs, args.references = args.input, args.reference
    if args.limit is None:
        return
    for name, source in (("inputs", args.input), ("references", args.reference)):
        chosen = args.output / f"{name}-{args.limit}"
        chosen.mkdir(parents=True, exist_ok=True)
        for stem, path in list(pictures_in(source).items())[: args.limit]:
            link = chosen / f"{stem}{path.suffix}"
            if not link.exists():
                link.symlink_to(path.resolve())
        setattr(args, name, chosen)


def tell(args: argparse.Namespace) -> None:
    if args.what == "invented":
        print_invented(args)
    else:
        choose_pairs(args)
        print_consistent(args)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    return ended("measure_trust", lambda: tell(args), "what was restored stays")


if __name__ == "__main__":
    sys.exit(main())
