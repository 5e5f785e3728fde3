#!/usr/bin/env python3
"""What training stages cost on this machine: parameters, activation memory, samples per second, time of 1000 steps.

    python scripts/measure_throughput.py data.root=PHOTOGRAPHS feature_weights=FILE       # the compact recipe
    python scripts/measure_throughput.py configs/train/sd-turbo/*.yaml backbone.random_weights=true train.batch_size=1
Without data.root the stages train on noise. Each one runs in a process of its own, from scratch, so none needs the one
before it.
"""

import argparse
import multiprocessing
import os
import platform
import sys
from concurrent.futures import ProcessPoolExecutor

import torch

import idas_sr  # noqa: F401  (first: it makes torchvision importable)
from idas_sr.config import Config, ConfigError, load_config
from idas_sr.training.errors import TrainingError
from idas_sr.training.measure import Cost, measure_cost
from idas_sr.training.run import CONFIGS, stages_of

GIB = 2**30


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("settings", nargs="*", metavar="CONFIG|key=value", help="as for scripts/train.py")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each stage; the fastest counts")
    return parser.parse_intermixed_args(arguments)


def machine() -> str:
    if torch.accelerator.is_available():
        return (
            torch.cuda.get_device_name() if torch.cuda.is_available() else str(torch.accelerator.current_accelerator())
        )
    threads = os.environ.get("OMP_NUM_THREADS", str(torch.get_num_threads()))
    return f"{platform.machine()} CPU, {threads} threads, torch {torch.__version__}"


def configurations(settings: list[str]) -> tuple[dict[str, Config], bool]:
    stages, others, overrides = stages_of(settings)
    is_noise = not any(setting.startswith(("data.root=", "data={")) for setting in overrides)
    own = ["train.init=null", *(["data.root=noise"] if is_noise else []), *overrides]
    return {stage.stem: load_config(CONFIGS / "base.yaml", stage, *others, overrides=own) for stage in stages}, is_noise


def row(name: str, config: Config, cost: Cost) -> str:
    cells = (
        name,
        f"{config.data.crop}",
        f"{cost.batch_size}",
        config.train.precision,
        f"{cost.trained / 1e6:.2f}",
        f"{cost.frozen / 1e6:.2f}",
        f"{cost.activation_bytes / GIB:.2f}",
        f"{cost.peak_bytes / GIB:.1f}",
        f"{cost.samples_per_second:.3g}",
        f"{1000 * cost.seconds:.0f}",
    )
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| stage | crop | batch | precision | trained M | frozen M | activations per sample GiB | peak GiB | samples/s "
    "| s per 1000 steps |\n|---|---|---|---|---|---|---|---|---|---|"
)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    try:
        stages, is_noise = configurations(args.settings)
        print(
            f"{machine()}; {'noise' if is_noise else 'photographs'}; fastest of {args.steps} steps\n\n{HEAD}",
            flush=True,
        )
        context = multiprocessing.get_context("spawn")
        for name, config in stages.items():
            # Peak memory of a process never falls: one for each stage.
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                print(row(name, config, pool.submit(measure_cost, config, args.steps, is_noise).result()), flush=True)
    except (ConfigError, TrainingError, FileNotFoundError, ValueError) as error:
        print(f"measure_throughput: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
