"""``idas-sr evaluate``: measure restored pictures by the protocol realisr-v1, or run a whole benchmark."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm import tqdm

from idas_sr import __version__
from idas_sr.batch import Settings
from idas_sr.cli.machine import PRECISIONS, choose_device, choose_precision
from idas_sr.evaluation.benchmark import BenchmarkConfig, load_benchmark
from idas_sr.evaluation.columns import COLUMNS, MissingMetricError
from idas_sr.evaluation.expect import compare, difference_table, load_expected
from idas_sr.evaluation.files import write_csv, write_json
from idas_sr.evaluation.results import read_result, rows_in
from idas_sr.evaluation.results import table as results_table
from idas_sr.evaluation.run import report_json, report_table, run_benchmark, write_report
from idas_sr.evaluation.score import PROTOCOL, Scores, available_cores, pictures_in, score_folder
from idas_sr.networks.library import find_model, fingerprint
from idas_sr.pipeline import IDaSSRPipeline

DESCRIPTION = """Measure restored pictures, by the protocol realisr-v1 (docs/evaluation_protocol.md).
sqdist (SqueezeNet features; lower is closer) is not LPIPS: compare it only with itself."""

EXAMPLES = """examples:
  %(prog)s score RESTORED --reference HQ --lq LQ --json out/scores.json
      a folder of saved pictures; files are paired by their stems
  %(prog)s run configs/benchmark/realsr.yaml data.root=FOLDER realism=[0,0.5,1]
      a whole benchmark: restores what is missing, scores it beside three restorations without a model, prints the
      table. The same command again does only the rest; accelerate launch scripts/evaluate.py run uses several GPUs.
  %(prog)s check mine.json theirs.json
      whether files of results are complete and consistent, and their rows

The first two with --expect FILE.json: exit code 1 where a mean differs from that file's by more than the tolerance.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``evaluate``, which has three commands of its own."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    commands = parser.add_subparsers(dest="what", required=True, metavar="score|run|check", parser_class=type(parser))
    score = commands.add_parser("score", help="score a folder of saved pictures", allow_abbrev=False)
    score.add_argument("restored", type=Path, help="folder of restored pictures")
    score.add_argument("--reference", type=Path, help="folder of the pictures that they should be, same stems")
    score.add_argument("--lq", type=Path, help="folder of the pictures that they were made from, for lr_psnr")
    score.add_argument("--json", type=Path, help="write means, one row per picture, versions and hashes there")
    score.add_argument("--csv", type=Path, help="write one row per picture there")
    score.add_argument("--squeezenet", type=Path, help="file of SqueezeNet 1.0 weights, for the column sqdist")
    score.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME",
        help=f"measure these, and fail where one cannot be measured (default: all that can): {', '.join(COLUMNS)}",
    )
    score.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto", help="of learned columns")
    score.add_argument("--jobs", type=int, default=available_cores(), help="pictures at a time")
    score.set_defaults(act=score_command)
    benchmark = commands.add_parser("run", help="restore and score a benchmark", allow_abbrev=False)
    benchmark.add_argument("config", type=Path, help="configs/benchmark/NAME.yaml")
    benchmark.add_argument("overrides", nargs="*", metavar="key=value", help="data.root=FOLDER, realism=[0,0.5,1] ...")
    benchmark.set_defaults(act=run_command)
    check = commands.add_parser("check", help="check files of results, yours or other people's", allow_abbrev=False)
    check.add_argument("files", nargs="+", type=Path, metavar="FILE.json", help="what score --json or run wrote")
    check.set_defaults(act=check_command)
    for command in (score, benchmark):
        command.add_argument("--expect", type=Path, metavar="FILE.json", help="exit with 1 where means differ from it")


def table(scores: Scores) -> str:
    mean = scores.mean
    head = ["images", *mean]
    row = [str(len(scores.images))]
    row += ["-" if value is None else f"{value:.{COLUMNS[name].digits}f}" for name, value in mean.items()]
    widths = [max(len(a), len(b)) for a, b in zip(head, row, strict=True)]
    return "\n".join("  ".join(x.rjust(w) for x, w in zip(line, widths, strict=True)) for line in (head, row))


def gate(ours: dict[str, Any], expected: dict[str, Any] | None) -> int:
    """Print what differs; 1 where anything is outside its tolerance."""
    if expected is None:
        return 0
    differences = compare(ours, expected)
    print(difference_table(differences))
    outside = [d for d in differences if not d.is_within]
    print(f"{len(differences) - len(outside)} of {len(differences)} expected values are reproduced.")
    return 1 if outside else 0


def score_command(args: argparse.Namespace) -> int:
    expected = load_expected(args.expect) if args.expect else None
    with tqdm(total=len(pictures_in(args.restored)), unit="picture", disable=None) as bar:
        scores = score_folder(
            args.restored,
            args.reference,
            args.squeezenet,
            jobs=args.jobs,
            on_picture=lambda stem: bar.update(),
            lq=args.lq,
            columns=args.columns,
            device=choose_device(args.device),
        )
    print(f"{args.restored}  ({PROTOCOL})")
    print(table(scores))
    for line in scores.notes:
        print(line)
    settings = {
        name: value and str(value)
        for name, value in vars(args).items()
        if name in ("restored", "reference", "lq", "squeezenet", "device")
    }
    values = scores.as_json(settings, sys.argv)
    if args.json:
        write_json(args.json, values)
    if args.csv:
        columns = list(next(iter(scores.images.values())))
        lines = [[stem, *row.values()] for stem, row in scores.images.items()]
        write_csv(args.csv, ["stem", *columns], [*lines, ["mean", *(scores.mean[name] for name in columns)]])
    return gate(values, expected)


def check_command(args: argparse.Namespace) -> int:
    """Print the rows of each file, the next one only where the last was right."""
    for path in args.files:
        result = read_result(path)
        rows = rows_in(result, path.stem)
        print(f"{path}: {len(rows)} row(s) of results, complete and consistent ({result['protocol']})")
        print(results_table(rows))
    return 0


def model_of(config: BenchmarkConfig, device: str) -> tuple[Callable[[], IDaSSRPipeline], Settings]:
    """What loads the pipeline, once, and what its pictures depend on."""
    model = config.model
    precision = choose_precision(model.precision, device.split(":")[0], model.name)
    folder = find_model(model.name, sd_path=model.sd_path)
    extra = {"steering": model.steering, "kappa": model.kappa}
    settings = Settings(
        fingerprint(folder),
        config.levels[0],
        config.seed,
        config.scale,
        model.color_fix,
        precision,
        model.method,
        __version__,
        extra,
    )

    def load() -> IDaSSRPipeline:
        pipeline = IDaSSRPipeline.from_pretrained(
            folder, model.method, sd_path=model.sd_path, dtype=PRECISIONS[precision]
        )
        if model.steering is not None or model.kappa is not None:
            pipeline.set_steering(model.steering, **({} if model.kappa is None else {"kappa": model.kappa}))
        return pipeline.to(device)

    return functools.cache(load), settings


def run_command(args: argparse.Namespace) -> int:
    expected = load_expected(args.expect) if args.expect else None
    config = load_benchmark(args.config, args.overrides)
    is_cpu = choose_device(config.model.device) == "cpu"
    state = PartialState(cpu=is_cpu)
    load, settings = model_of(config, str(state.device))
    with tqdm(total=0, unit="step", disable=None if state.is_main_process else True) as bar:

        def on_progress(what: str, count: int) -> None:
            if what == "plan":
                bar.reset(count)
            else:
                bar.set_description(what, refresh=False)
                bar.update(count)

        report = run_benchmark(config, state, load, settings, on_progress)
    if report is None:
        return 0
    described = {
        "config": str(args.config),
        "overrides": args.overrides,
        "model": config.model.name,
        "fingerprint": settings.model,
        "realism": config.levels,
        "seed": config.seed,
        "scale": config.scale,
        "color_fix": settings.color_fix,
        "precision": settings.precision,
        "processes": state.num_processes,
        "device": str(state.device),
    }
    path = write_report(config, report, described, sys.argv)
    print(f"{config.title}  ({PROTOCOL}; {report.restored} restored now)")
    print(report_table(config, report))
    for line in report.notes:
        print(line)
    print(f"Written: {path}, {path.with_suffix('.csv').name}, table.md")
    return gate(report_json(config, report, described, sys.argv), expected)


def run(args: argparse.Namespace) -> int:
    """Score or run; 1 where a wanted metric cannot be measured or an expected value is missed, else 0."""
    # Learned columns are compared in their fourth decimal.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    try:
        return args.act(args)
    except MissingMetricError as error:
        print(f"idas-sr evaluate: error: {error}", file=sys.stderr)
        return 1
