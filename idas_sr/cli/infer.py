"""``idas-sr infer``: restore pictures."""

from __future__ import annotations

import argparse
import functools
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from idas_sr import __version__
from idas_sr.batch import Job, Settings, check_maps, plan, prepare_output
from idas_sr.build import METHODS, choose, has_dial
from idas_sr.cli import quieten
from idas_sr.cli.arguments import METHOD_OPTIONS
from idas_sr.cli.arguments import add_infer_arguments as add_arguments
from idas_sr.cli.folders import restore_alone, restore_together
from idas_sr.cli.machine import PRECISIONS, choose_device, choose_precision
from idas_sr.cli.pictures import encoding_of
from idas_sr.conditioning import CONDITIONERS
from idas_sr.dial import AUTO
from idas_sr.engines.launch import find_launch
from idas_sr.engines.shards import has_shards, plan_shards
from idas_sr.guidance import GUIDERS
from idas_sr.networks.library import find_model, fingerprint
from idas_sr.pipeline import DIAL, REALISM, IDaSSRPipeline
from idas_sr.planning import keep_freed_memory

__all__ = ["add_arguments", "run"]

LOGGER = logging.getLogger("idas_sr")
SLOTS: dict[str, dict[str, Any]] = {
    "conditioner": {name: CONDITIONERS[name] for name in ("prompt", "hdclip")},
    "guider": GUIDERS,
}
"""What may take the place of a method's own without training; the conditioner visual is trained with its method."""
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
    # Before torch looks for GPUs: each process sees its own.
    launch = find_launch(None if args.engine == "ray" else args.processes)
    device = args.device = choose_device(args.device)
    if args.batch_size is None and device == "cpu":
        # A batch rounds differently: alone, a picture comes out the same whatever else lies in its folder.
        args.batch_size = 1
    encoding = encoding_of(args)
    if args.realism_map is not None and not args.realism_map.exists():
        raise ValueError(f"The realism map {args.realism_map} does not exist.")
    args.input = source
    list_jobs = functools.partial(plan, source, output, args.recursive, encoding)
    if has_shards(source):
        list_jobs = functools.partial(plan_shards, source, output, encoding)
    if args.map:
        list_jobs = functools.partial(_with_maps, list_jobs)
    is_alone = launch.count == 1 and args.engine == "local"
    jobs = list_jobs() if is_alone else []
    load, settings = prepare(args, device)
    if args.summary is not None and not args.summary.resolve().parent.is_dir():
        raise ValueError(f"The folder of --summary {args.summary} does not exist.")
    if is_alone:
        load = functools.cache(load)  # type: ignore[assignment]
        if not args.resume:
            # Before the first picture, so that a model that does not load refuses the run.
            load()
    prepare_output(output)
    if is_alone:
        return restore_alone(jobs, load, settings, args, output)
    return restore_together(list_jobs, load, settings, args, output, launch)


def _with_maps(list_jobs: Callable[[], list[Job]]) -> list[Job]:
    return check_maps(list_jobs())


def prepare(args: argparse.Namespace, device: str) -> tuple[Callable[[], IDaSSRPipeline], Settings]:
    """What loads the pipeline, and the settings of its outputs, as the arguments say.

    Raises:
        ValueError: no such model, method, precision or encoding, or a map of a method that has no realism.
    """
    if args.map and args.method in METHODS and not has_dial(args.method):
        raise ValueError(f"--map compares with realism 0, and the method {args.method} has no dial; leave --map out.")
    precision = choose_precision(args.precision, device, args.model)
    encoding = encoding_of(args)
    if args.random_weights:
        if args.adapter is not None:
            raise ValueError("--adapter belongs to a trained model; leave --random-weights out.")
        choose(METHODS, "method", args.method)
        weights = f"random {args.model}"
        make = functools.partial(IDaSSRPipeline.from_random, args.model, PRECISIONS[precision], method=args.method)
    else:
        folder = find_model(args.model, sd_path=args.sd_path)
        weights = fingerprint(folder, args.adapter)
        make = functools.partial(
            IDaSSRPipeline.from_pretrained,
            folder,
            args.method,
            sd_path=args.sd_path,
            adapter=args.adapter,
            dtype=PRECISIONS[precision],
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
        {
            "steering": args.steering,
            "kappa": args.kappa,
            "tile": args.tile,
            **({"compile": True} if args.compile else {}),
            **method_options(args),
            **_noted(slots_of(args)),
        },
        "RANDOM WEIGHTS" if args.random_weights else None,
        encoding,
        args.target_size,
        args.realism_map,
        args.dial,
        args.consistent,
        args.map,
    )
    return functools.partial(_load, make, args, device), settings


def method_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the method that were given."""
    return {name: getattr(args, name) for name in METHOD_OPTIONS if getattr(args, name) is not None}


def slots_of(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What was given as --conditioner and --guider: a name, and arguments as KEY=VALUE.

    Raises:
        ValueError: an unknown name, or an argument without a key.
    """
    slots = {}
    for slot, known in SLOTS.items():
        given = getattr(args, slot)
        if given is None:
            continue
        name, *pairs = given
        choose(known, slot, name)
        wrong = [pair for pair in pairs if "=" not in pair]
        if wrong:
            raise ValueError(f"--{slot} {name}: {wrong[0]} is no KEY=VALUE.")
        try:
            values = {key: yaml.safe_load(value) for key, value in (pair.split("=", 1) for pair in pairs)}
        except yaml.YAMLError as error:
            raise ValueError(f"--{slot} {name}: a value of {' '.join(pairs)} cannot be read.") from error
        slots[slot] = {"name": name, "args": values}
    return slots


def _noted(slots: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Slots for a recipe: a hash of contents where an argument is a folder, which others have elsewhere."""
    return {
        slot: {**given, "args": {key: _hash_of(value) for key, value in given["args"].items()}}
        for slot, given in slots.items()
    }


def _hash_of(value: Any) -> Any:
    return fingerprint(Path(value)) if isinstance(value, str) and Path(value).is_dir() else value


def _load(make: Any, args: argparse.Namespace, device: str) -> IDaSSRPipeline:
    # Here, because it also runs in processes that this command starts.
    quieten()
    keep_freed_memory()
    pipeline: IDaSSRPipeline = make()
    pipeline.set_options(**method_options(args))
    pipeline.set_slots(**slots_of(args))
    dial = {name: getattr(args, name) for name in DIAL if getattr(args, name) is not None}
    if dial and not pipeline.restorer.steering.dial:
        # Says which options there are.
        pipeline.set_options(**dial)
    if args.steering is not None or args.kappa is not None:
        pipeline.set_steering(args.steering, **({} if args.kappa is None else {"kappa": args.kappa}))
    if args.realism == AUTO:
        pipeline.check_auto()
    if args.compile:
        pipeline.compile_networks()
    return pipeline.to(device)
