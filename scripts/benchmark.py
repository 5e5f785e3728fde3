#!/usr/bin/env python3
"""How fast restoration is on this machine: end to end and part by part, alone or in turn with other networks.

    python scripts/benchmark.py --against rrdbnet srvgg
    python scripts/benchmark.py --sizes 128 256 512 --json speed.json --markdown speed.md
    python scripts/benchmark.py --model sd-turbo --random-weights --precision bf16 --against diffusers --rounds 5
Times are medians after warming up; ratios are between runs of the same round. Nothing else should run beside it.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging

import idas_sr  # noqa: F401  (first: it makes torchvision importable)
from idas_sr.benchmarking.report import to_markdown
from idas_sr.benchmarking.run import DTYPES, Benchmark, Options
from idas_sr.planning import keep_freed_memory

SIZES = (128, 256, 512, 1024)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", default="compact", help="name, folder or Hub id (default: %(default)s)")
    parser.add_argument("--random-weights", action="store_true", help="build --model untrained")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128], metavar="SIDE", help=f"of {SIZES}, or others")
    parser.add_argument("--against", nargs="+", default=[], metavar="NAME", help="rrdbnet, srvgg, diffusers, compiled")
    parser.add_argument("--precision", choices=("auto", *DTYPES), default="auto", help="auto: the fastest")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's own choice)")
    parser.add_argument("--rounds", type=int, default=10, help="counted (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=2, help="rounds before them (default: %(default)s)")
    parser.add_argument("--tile", default="auto", help="as for infer (default: %(default)s)")
    parser.add_argument(
        "--keep-memory", action="store_true", help="keep freed memory in the process, as infer does; all networks gain"
    )
    parser.add_argument("--no-parts", action="store_true", help="only end to end")
    parser.add_argument("--no-memory", action="store_true", help="start no further processes to measure memory")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    tile = args.tile if args.tile == "auto" else int(args.tile)
    if args.keep_memory:
        keep_freed_memory()
    try:
        options = Options(
            args.model,
            args.random_weights,
            tuple(args.sizes),
            tuple(args.against),
            args.precision,
            args.device,
            args.rounds,
            args.warm_up,
            parts=not args.no_parts,
            memory=not args.no_memory,
            tile=tile,
            keep_memory=args.keep_memory,
        )
        result = Benchmark(options).run()
    except (ValueError, OSError) as error:
        print(f"benchmark.py: error: {error}", file=sys.stderr)
        return 2
    table = to_markdown(result)
    print(table)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(table, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
