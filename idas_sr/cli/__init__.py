"""The command line: ``idas-sr infer`` restores pictures."""

from __future__ import annotations

import argparse
import functools
import json
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from tqdm import tqdm

from idas_sr import __version__
from idas_sr.batch import Job, Outcome, Settings, plan, prepare_output, restore_files
from idas_sr.build import METHODS, choose
from idas_sr.cli.arguments import PRECISIONS, build_parser
from idas_sr.cli.pictures import encoding_of
from idas_sr.networks.library import find_model, fingerprint
from idas_sr.pipeline import IDaSSRPipeline

REPOSITORY = Path(__file__).resolve().parents[2]
INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended: 128 + SIGINT."""


def choose_device(name: str) -> str:
    """The device that ``name`` stands for here.

    Raises:
        ValueError: this machine has none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    if not there[name]():
        raise ValueError(
            f"This machine has no {name} device that torch can use; leave --device out or give --device cpu."
        )
    return name


def choose_precision(name: str, device: str, model: str) -> str:
    """The precision that ``name`` stands for here.

    Raises:
        ValueError: fp16 on the CPU.
    """
    if name == "auto":
        # The small model gains little from half precision and stays equal on every device without it.
        half = "fp16" if device == "cuda" else "bf16"
        return half if model == "sd-turbo" else "fp32"
    if name == "fp16" and device == "cpu":
        raise ValueError("fp16 is for GPUs; use --precision bf16 or fp32 on the CPU.")
    return name


def infer(args: argparse.Namespace) -> int:
    """Restore; 0 if every picture was restored or rightly skipped, else 1.

    Raises:
        ValueError: the run is refused; the message says why.
    """
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
        make = functools.partial(IDaSSRPipeline.from_random, args.model, PRECISIONS[precision])
    else:
        folder = find_model(args.model, sd_path=args.sd_path)
        weights = fingerprint(folder)
        make = functools.partial(
            IDaSSRPipeline.from_pretrained, folder, args.method, sd_path=args.sd_path, dtype=PRECISIONS[precision]
        )
    settings = Settings(
        weights,
        args.realism,
        args.seed,
        args.upscale,
        args.color_fix,
        precision,
        args.method,
        __version__,
        {"steering": args.steering, "kappa": args.kappa},
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


def _load(make: Any, args: argparse.Namespace, device: str) -> IDaSSRPipeline:
    pipeline = make()
    if args.steering is not None or args.kappa is not None:
        pipeline.set_steering(args.steering, **({} if args.kappa is None else {"kappa": args.kappa}))
    return pipeline.to(device)


def _report(jobs: list[Job], load: Any, settings: Settings, args: argparse.Namespace) -> int:
    outcomes: list[Outcome] = []
    try:
        with tqdm(total=len(jobs), unit="picture", disable=None) as bar:
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


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run a command line; returns the exit code. A mistake of the user's ends in one line, never in a traceback."""
    args = build_parser(prog).parse_args(arguments)
    # Its loading bars and notes on configuration files would hide our own lines.
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # Pillow's remarks on damaged files come beside the error that becomes our one line.
            warnings.simplefilter("ignore")
            return infer(args)
    except (ValueError, OSError) as error:
        print(f"{prog or 'idas-sr'} {args.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog or 'idas-sr'} {args.command}: interrupted; --resume goes on from here", file=sys.stderr)
        return INTERRUPTED
