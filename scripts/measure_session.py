#!/usr/bin/env python3
"""How much faster a move of the dial is than a first restoration of the same picture, in one session.

    python scripts/measure_session.py -i examples/mountain.png

Prints the median of several first restorations, each in a session of its own, and of ten moves in one session, in
turn with one another, so that what else the machine does falls on both.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from idas_sr.cli import choose_device
from idas_sr.imagefiles.reading import read_picture
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.session import Session

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "mountain.png"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("-i", "--input", type=Path, default=EXAMPLE, help="picture (default: examples/mountain.png)")
    parser.add_argument("--model", default="compact", help="saved pipeline (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    parser.add_argument("--moves", type=int, default=10, help="of the dial (default: %(default)s)")
    return parser.parse_args(arguments)


def timed(session: Session, realism: float) -> float:
    """Seconds of a restoration, down to a picture on the CPU, which waits for the device."""
    start = time.perf_counter()
    session(realism)
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    try:
        picture = read_picture(args.input).colour
        pipeline = IDaSSRPipeline.from_pretrained(args.model).to(choose_device(args.device))
    except (ValueError, OSError) as error:
        print(f"measure_session: {error}", file=sys.stderr)
        return 2
    dialled = Session(pipeline, picture)
    # The first call also warms up.
    timed(dialled, 0.5)
    first, moves = [], []
    for move in range(args.moves):
        realism = (move + 1) / args.moves
        moves.append(timed(dialled, realism))
        first.append(timed(Session(pipeline, picture), realism))
    height, width = picture.shape[-2:]
    before, after = statistics.median(first), statistics.median(moves)
    print(f"{width}x{height} pixels, {pipeline.device.type}, {torch.get_num_threads()} threads")
    print(f"first restoration {before:.3f} s, move of the dial {after:.3f} s: {before / after:.2f} times as fast")
    return 0


if __name__ == "__main__":
    sys.exit(main())
