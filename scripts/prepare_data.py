#!/usr/bin/env python3
"""Get data ready. Nothing is ever downloaded; each command says where a set is to be had.

python scripts/prepare_data.py benchmark realsr --root RealSRVal_crop128
python scripts/prepare_data.py benchmark imagenet-test-rebuilt --source ILSVRC2012_val --root FOLDER
python scripts/prepare_data.py check data.root=PHOTOGRAPHS data.crop=512
python scripts/prepare_data.py check configs/data/paper.yaml data.root=DATASETS
python scripts/prepare_data.py shard configs/data/paper.yaml data.root=DATASETS -o SHARDS
python scripts/prepare_data.py pack data.root=PHOTOGRAPHS -o SMALL --mib 38
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from idas_sr.build import list_training_entries
from idas_sr.config import Config, load_config
from idas_sr.data.benchmarks import IMAGENET_TEST_SEED
from idas_sr.data.check import KINDS, Finding, check_entries
from idas_sr.data.pack import pack
from idas_sr.data.shards import write_index, write_shards
from idas_sr.evaluation.benchmark import load_benchmark
from idas_sr.evaluation.files import write_json
from idas_sr.evaluation.prepare import build_set, inspect_set
from idas_sr.evaluation.score import available_cores

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BENCHMARKS = CONFIGS / "benchmark"
LISTED = 20
"""Findings of each kind that are printed; the report file has them all."""


def add_benchmark(subparsers: Any) -> None:
    """``benchmark NAME``: build a test set, or check one."""
    names = sorted(path.stem for path in BENCHMARKS.glob("*.yaml"))
    parser = subparsers.add_parser("benchmark", help="build or check a test set", allow_abbrev=False)
    parser.add_argument("name", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--root", type=Path, help="folder of the set; without it: say where to get the set")
    parser.add_argument("--source", type=Path, help="make the set from this folder first")
    parser.add_argument(
        "--count", type=int, help="pictures of a set that is made here (default: as many as the original)"
    )
    parser.add_argument("--seed", type=int, default=IMAGENET_TEST_SEED, help="of a set that is made here")
    parser.add_argument("--jobs", type=int, default=available_cores(), help="processes")
    parser.add_argument("--hashes", type=Path, metavar="FILE", help="JSON file of the hashes that the set must have")
    parser.add_argument("--write-hashes", type=Path, metavar="FILE", help="write such a file")
    parser.set_defaults(run=benchmark)


def benchmark(args: argparse.Namespace) -> int:
    overrides = [f"data.root={args.root}"] if args.root else []
    if args.hashes:
        overrides.append(f"data.hash_file={args.hashes}")
    config = load_benchmark(BENCHMARKS / f"{args.name}.yaml", overrides, needs_root=False)
    if args.root is None:
        size = "x".join(map(str, config.data.lq_size)) if config.data.lq_size else "of different sizes"
        print(f"{config.title}: {config.data.count} pictures {size}, x{config.scale:g}. {config.data.source}")
        print("Give its folder with --root to check it.")
        return 0
    if args.source:
        with tqdm(unit="picture", disable=None) as bar:
            print(build_set(config, args.source, args.count, args.seed, args.jobs, lambda stem: bar.update()))
    hashes, verdict = inspect_set(config, args.count)
    print(f"{config.title}: names, number and sizes fit. {verdict.reason}")
    for side, value in hashes.items():
        print(f"{side} {value}")
    if args.write_hashes:
        write_json(args.write_hashes, hashes)
    return 1 if verdict.is_different else 0


def training_set(settings: list[str]) -> Config:
    """``[CONFIG ...] key=value ...`` as training reads them."""
    files = [Path(setting) for setting in settings if "=" not in setting]
    overrides = ["train.run_dir=unused", *(setting for setting in settings if "=" in setting)]
    return load_config(CONFIGS / "base.yaml", *files, overrides=overrides)


def add_check(subparsers: Any) -> None:
    """``check``: find what would stop or spoil a training."""
    parser = subparsers.add_parser(
        "check", help="find unreadable, too small, duplicate and mismatched training pictures", allow_abbrev=False
    )
    parser.add_argument("settings", nargs="+", metavar="CONFIG|key=value", help="as for scripts/train.py")
    parser.add_argument("--jobs", type=int, default=available_cores(), help="processes")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all findings, tab-separated")
    parser.set_defaults(run=check)


def check(args: argparse.Namespace) -> int:
    config = training_set(args.settings)
    entries = list_training_entries(config.data)
    with tqdm(total=len(entries), unit="picture", disable=None) as bar:
        findings = check_entries(entries, config.data.crop, jobs=args.jobs, on_each=bar.update)
    if args.report:
        args.report.write_text("".join(f"{f.kind}\t{f.name}\t{f.reason}\n" for f in findings), encoding="utf-8")
    show_findings(findings)
    print(f"{len(entries)} pictures of split {config.data.split}, {len(findings)} findings.")
    return 1 if findings else 0


def show_findings(findings: list[Finding]) -> None:
    table = Table("what", "picture", "why")
    for kind in KINDS:
        of_kind = [finding for finding in findings if finding.kind == kind]
        for finding in of_kind[:LISTED]:
            table.add_row(finding.kind, finding.name, finding.reason)
        if len(of_kind) > LISTED:
            table.add_row(kind, f"and {len(of_kind) - LISTED} more", "all of them with --report FILE")
    if findings:
        Console().print(table)


def add_shard(subparsers: Any) -> None:
    """``shard``: pack a training set into tars that are read by offset."""
    parser = subparsers.add_parser("shard", help="pack training pictures into indexed tars", allow_abbrev=False)
    parser.add_argument("settings", nargs="*", metavar="CONFIG|key=value", help="as for scripts/train.py")
    parser.add_argument("-o", "--output", type=Path, required=True, help="new folder of the shards")
    parser.add_argument("--shard-mb", type=int, default=500, help="size of a shard in 10^6 bytes (default: 500)")
    parser.add_argument(
        "--index-only", action="store_true", help="index the tars that are in the output folder already"
    )
    parser.set_defaults(run=shard)


def shard(args: argparse.Namespace) -> int:
    if args.index_only:
        print(write_index(args.output))
        return 0
    # Both splits: which side a picture is on follows from its name, in a shard too.
    entries = list_training_entries(training_set([*args.settings, "data.split=all"]).data)
    for path in write_shards(entries, args.output, args.shard_mb * 1_000_000):
        print(path)
    print(f"{len(entries)} pictures; train with data.root={args.output}")
    return 0


def add_pack(subparsers: Any) -> None:
    """``pack``: the training split in a number of bytes, to be sent to a machine that trains."""
    parser = subparsers.add_parser("pack", help="make a training set small enough to send", allow_abbrev=False)
    parser.add_argument("settings", nargs="*", metavar="CONFIG|key=value", help="as for scripts/train.py")
    parser.add_argument("-o", "--output", type=Path, required=True, help="new folder of WebP files")
    parser.add_argument("--mib", type=float, default=38.0, help="of all files together (default: %(default)s)")
    parser.add_argument("--quality", type=int, default=90, help="of WebP, 1 to 100 (default: %(default)s)")
    parser.set_defaults(run=pack_small)


def pack_small(args: argparse.Namespace) -> int:
    entries = list_training_entries(training_set(args.settings).data)
    with tqdm(total=len(entries), unit="picture", disable=None) as bar:
        side, size = pack(
            entries, args.output, round(args.mib * 2**20), args.quality, lambda done: bar.update(done - bar.n)
        )
    print(
        f"{len(entries)} pictures, shorter sides {side} at most, {size / 2**20:.1f} MiB. They are one split already, "
        f"under new names: train with data.root={args.output} data.split=all"
    )
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    subparsers = parser.add_subparsers(dest="command", required=True)
    add_benchmark(subparsers)
    add_check(subparsers)
    add_shard(subparsers)
    add_pack(subparsers)
    args = parser.parse_args(arguments)
    try:
        return args.run(args)
    except (ValueError, OSError) as error:
        print(f"prepare_data: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
