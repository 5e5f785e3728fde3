"""``idas-sr infer``: restore pictures."""

from __future__ import annotations

import argparse
import functools
import json
import logging
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from idas_sr import __version__
from idas_sr.batch import Job, Outcome, Settings, plan, prepare_output, restore_files
from idas_sr.build import METHODS, choose, has_dial
from idas_sr.cli.arguments import METHOD_OPTIONS
from idas_sr.cli.arguments import add_infer_arguments as add_arguments
from idas_sr.cli.machine import PRECISIONS, choose_device, choose_precision
from idas_sr.cli.pictures import encoding_of
from idas_sr.networks.library import find_model, fingerprint
from idas_sr.pipeline import DIAL, REALISM, IDaSSRPipeline

__all__ = ["add_arguments", "run"]

LOGGER = logging.getLogger("idas_sr")
REPOSITORY = Path(__file__).resolve().parents[2]


def run(args: argparse.Namespace) -> int:
    """Restore; 0 if every picture was restored or rightly skipped, else 1.

    Raises:
        ValueError: the run is refused; the message says why.
    """
    with warnings.catch_warnings():
        # Pillow's remarks on damaged files come beside the error that becomes our one line.
        warnings.simplefilter("ignore")
        # Plans for large pictures, and what was done where memory ran out.
        logging.basicConfig(format="%(message)s")
        LOGGER.setLevel(logging.INFO)
        return _restore(args)


def _restore(args: argparse.Namespace) -> int:
    source = args.input or REPOSITORY / "examples"
    output = args.output or (REPOSITORY / "results" if args.input is None else Path("results"))
    if args.input is None and not source.is_dir():
        raise ValueError("The examples are not part of this installation; give a picture or a folder with -i.")
    device = choose_device(args.device)
    precision = choose_precision(args.precision, device, args.model)
    encoding = encoding_of(args)
    jobs = plan(source, output, args.recursive, encoding)
    if args.random_weights:
        choose(METHODS, "method", args.method)
        weights = f"random {args.model}"
        make = functools.partial(IDaSSRPipeline.from_random, args.model, PRECISIONS[precision], method=args.method)
    else:
        folder = find_model(args.model, sd_path=args.sd_path)
        weights = fingerprint(folder)
        make = functools.partial(
            IDaSSRPipeline.from_pretrained, folder, args.method, sd_path=args.sd_path, dtype=PRECISIONS[precision]
        )
    settings = Settings(
        weights,
        REALISM if args.realism is None and has_dial(args.method) else args.realism,
        args.seed,
        args.upscale,
        args.color_fix,
        precision,
        args.method,
        __version__,
        {"steering": args.steering, "kappa": args.kappa, "tile": args.tile, **method_options(args)},
        "RANDOM WEIGHTS" if args.random_weights else None,
        encoding,
        args.target_size,
    )
    load = functools.cache(lambda: _load(make, args, device))
    if not args.resume:
        # Before the first picture, so that a model that does not load refuses the run.
        load()
    if args.summary is not None and not args.summary.resolve().parent.is_dir():
        raise ValueError(f"The folder of --summary {args.summary} does not exist.")
    prepare_output(output)
    return _report(jobs, load, settings, args)


def method_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the method that were given."""
    return {name: getattr(args, name) for name in METHOD_OPTIONS if getattr(args, name) is not None}


def _load(make: Any, args: argparse.Namespace, device: str) -> IDaSSRPipeline:
    pipeline: IDaSSRPipeline = make()
    pipeline.set_options(**method_options(args))
    dial = {name: getattr(args, name) for name in DIAL if getattr(args, name) is not None}
    if dial and not pipeline.restorer.steering.dial:
        # Says which options there are.
        pipeline.set_options(**dial)
    if args.steering is not None or args.kappa is not None:
        pipeline.set_steering(args.steering, **({} if args.kappa is None else {"kappa": args.kappa}))
    return pipeline.to(device)


def _report(jobs: list[Job], load: Any, settings: Settings, args: argparse.Namespace) -> int:
    outcomes: list[Outcome] = []
    try:
        with tqdm(total=len(jobs), unit="picture", disable=None) as bar, logging_redirect_tqdm([LOGGER]):
            for outcome in restore_files(jobs, load, settings, args.batch_size, args.resume):
                outcomes.append(outcome)
                bar.update()
                if outcome.status == "failed":
                    bar.write(f"failed: {outcome.reason}", file=sys.stderr)
                for notice in outcome.notices:
                    bar.write(f"note: {outcome.job.source}: {notice}", file=sys.stderr)
    finally:
        if args.summary is not None:
            values = {
                "settings": json.loads(settings.recipe(b"")) | {"input": None},
                "outcomes": [o.summary() for o in outcomes],
            }
            args.summary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    counts = Counter(outcome.status for outcome in outcomes)
    parts = [f"{counts[status]} {status}" for status in ("restored", "skipped", "failed") if counts[status]]
    print(f"{', '.join(parts)}; results in {args.output or jobs[0].target.parent}")
    return 1 if counts["failed"] else 0
