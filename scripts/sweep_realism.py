#!/usr/bin/env python3
"""What the dial does: realism x seeds on a folder of pairs, measured, plotted and laid side by side.

    python scripts/sweep_realism.py -i LQ -r HQ -o out/sweep --squeezenet squeezenet_v10.pth
    python scripts/sweep_realism.py -i LQ -r HQ -o out/sweep --limit 10 --realism 0 0.25 0.5 0.75 1 --steering all

Pairs have the same stem; the reference is four times the size. Writes OUT/sweep.json (means and settings), sweep.csv
(every single measurement), plots as PNG and report.html, which needs no other file. The same command again goes on
where it was interrupted: what is measured of one picture stands in OUT/images.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from idas_sr.cli import choose_device, ended
from idas_sr.evaluation import plots, report
from idas_sr.evaluation.files import file_sha256, versions, write_csv, write_json
from idas_sr.evaluation.score import pair_by_stem
from idas_sr.evaluation.sweep import Plan, Variant, study_file, variants_of
from idas_sr.evaluation.sweep_summary import CSV_HEAD, csv_rows, summarise
from idas_sr.losses import FeatureDistance
from idas_sr.networks.library import find_model, fingerprint
from idas_sr.pipeline import SEED, IDaSSRPipeline
from idas_sr.steering import RESCHEDULES, STEERINGS


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("-i", "--input", type=Path, required=True, help="folder of low-quality pictures")
    parser.add_argument("-r", "--reference", type=Path, required=True, help="folder of the pictures they should become")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the study")
    parser.add_argument("--realism", type=float, nargs="+", default=[i / 10 for i in range(11)], metavar="R")
    parser.add_argument("--seeds", type=int, nargs="+", default=[SEED, SEED + 1, SEED + 2], metavar="N")
    parser.add_argument(
        "--steering", nargs="+", default=["n1"], choices=[*STEERINGS, "all"], help="ways to steer (default: n1)"
    )
    parser.add_argument(
        "--reschedule", nargs="+", default=[], choices=[*RESCHEDULES, "all"], help="default: the model's own"
    )
    parser.add_argument("--limit", type=int, help="take the first N pairs only")
    parser.add_argument("--pictures", type=int, default=6, help="pairs to show in the report (default: 6)")
    parser.add_argument("--squeezenet", type=Path, help="file of SqueezeNet 1.0 weights, for sqdist")
    parser.add_argument("--model", default="compact", help="saved pipeline (default: compact)")
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="restorations at a time")
    return parser.parse_args(arguments)


def measure(args: argparse.Namespace, plan: Plan, variants: list[Variant], pipe: IDaSSRPipeline) -> list[dict]:
    pairs = pair_by_stem(args.input, args.reference)
    files = [(pair.restored, pair.reference) for pair in list(pairs.values())[: args.limit]]
    distance = FeatureDistance.yardstick(args.squeezenet) if args.squeezenet else None
    records = []
    with tqdm(total=len(files) * len(variants), unit="sweep", disable=not sys.stderr.isatty()) as bar:
        for index, pair in enumerate(files):
            show = index < args.pictures
            done = study_file(
                pipe.restorer, variants, plan, pair, args.output, show, distance, args.jobs, lambda _: bar.update()
            )
            records.append(done)
    return records


def sweep(args: argparse.Namespace) -> None:
    plots.check()
    # A restoration per thread uses the cores already; more threads than cores get in each other's way.
    torch.set_num_threads(1)
    folder = find_model(args.model)
    plan = Plan(
        fingerprint(folder),
        tuple(args.realism),
        tuple(args.seeds),
        file_sha256(args.squeezenet) if args.squeezenet else None,
    )
    pipe = IDaSSRPipeline.from_pretrained(folder).to(choose_device(args.device))
    variants = variants_of(pipe.config["steering"], args.steering, args.reschedule)
    records = measure(args, plan, variants, pipe)
    summary = summarise(records, plan.realism)
    summary |= {
        "settings": {
            "model": args.model,
            "fingerprint": plan.model,
            "seeds": list(plan.seeds),
            "input": str(args.input),
            "reference": str(args.reference),
            "steering": {variant.label: {"name": variant.steering, "args": variant.args} for variant in variants},
        },
        "versions": versions(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }
    write_json(args.output / "sweep.json", summary)
    write_csv(args.output / "sweep.csv", CSV_HEAD, csv_rows(records))
    drawn = plots.draw_all(summary, records, args.output)
    shown = [record["stem"] for record in records[: args.pictures]]
    page = report.write(summary, drawn, shown, args.output)
    print(report.table(summary))
    print(f"\n{len(records)} pairs; {page}")


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    return ended("sweep_realism", lambda: sweep(args), "the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())
