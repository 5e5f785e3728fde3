"""Training from the command line: one stage, or all stages of the compact model in order."""

from __future__ import annotations

import importlib.util
import logging
import math
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

from idas_sr.build import build_photographs, build_task, build_validation_photographs, choose
from idas_sr.config import Config, ConfigError, load_config
from idas_sr.losses import FeatureDistance, LearnedDistance
from idas_sr.methods.parameters import parameter_table
from idas_sr.methods.task import Task
from idas_sr.training.loop import train
from idas_sr.training.validation import Validation

logger = logging.getLogger(__name__)
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Ours -> accelerate's, whose "no" YAML reads as false."""
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb"}
"""accelerate's name -> package to install."""
COMPACT_STAGES = ("0-autoencoder", "1-prior", "2-positioning", "3-anchor", "4-steering", "5-severity", "6-polish")


def train_stage(config: Config) -> None:
    """Train the stage that ``config`` describes.

    Raises:
        ConfigError, TrainingError, Stopped, FileNotFoundError, ValueError: each with one sentence that says why.
    """
    accelerator = build_accelerator(config)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    # Initial weights only: every draw during training comes from the batch.
    torch.manual_seed(config.seed)
    np.random.seed(config.seed)
    random.seed(config.seed)
    photographs, collate = build_photographs(config)
    validation = build_validation(config) if config.train.validate_every else None
    task = build_task(config)
    prepare_networks(task, config)
    if accelerator.is_main_process:
        logger.info("%s trains:\n%s", config.train.run_dir, parameter_table(task))
    train(config, task, photographs, collate, accelerator, validation)
    if accelerator.is_main_process:
        logger.info("Peak memory: %.1f GiB", peak_memory(accelerator.device) / 2**30)
    accelerator.end_training()


def prepare_networks(task: Task, config: Config) -> None:
    """Checkpoint activations and compile as ``config.train`` says."""
    for module in task.modules():
        # The parts that diffusers provides: UNet and autoencoder, which cost nearly everything.
        if isinstance(module, UNet2DConditionModel | AutoencoderKL | AutoencoderTiny):
            # DIFFERS: diffusers' AutoencoderTiny leaves out the scaling of its input where it checkpoints.
            if config.train.gradient_checkpointing and not isinstance(module, AutoencoderTiny):
                module.enable_gradient_checkpointing()
            if config.train.compile:
                # An autoencoder is not called itself, only its two halves.
                parts = [module] if isinstance(module, UNet2DConditionModel) else [module.encoder, module.decoder]
                for part in parts:
                    part.compile()


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: by tensors on a GPU, by the whole process on the CPU."""
    if device.type == "cpu":
        import resource  # not on every system

        # Linux counts in KiB.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(torch.accelerator.max_memory_allocated(device))


def build_accelerator(config: Config) -> Accelerator:
    """accelerate's engine for this process, as the launcher and ``config.train`` say.

    Raises:
        ConfigError: unknown precision or tracker, or one that is not installed.
    """
    train_config = config.train
    # Players take turns, so in each backward pass some parameters get no gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    for tracker in train_config.trackers:
        package = choose(TRACKERS, "train.trackers entry", tracker)
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"train.trackers names {tracker}, which is not installed: pip install {package}.")
    accelerator = Accelerator(
        mixed_precision=choose(PRECISIONS, "train.precision", train_config.precision),
        log_with=list(train_config.trackers) or None,
        project_dir=train_config.run_dir,
        kwargs_handlers=[unused],
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ConfigError(
            "This trainer runs on one process or several with whole copies (DDP); sharded weights (FSDP, DeepSpeed) "
            "are not supported yet: launch with one of configs/accelerate/."
        )
    if train_config.trackers:
        settings = {name: str(value) for name, value in flatten(asdict(config)).items()}
        accelerator.init_trackers(Path(train_config.run_dir).name, config=settings)
    return accelerator


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> one with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def build_validation(config: Config) -> Validation:
    """The validation that ``config.train`` asks for, with feature distances and LPIPS where their weights are."""
    distance = None
    if config.feature_weights is not None:
        distance = FeatureDistance.yardstick(config.feature_weights)
    photographs, collate = build_validation_photographs(config)
    try:
        lpips = LearnedDistance("alex")
    except FileNotFoundError as missing:
        logger.info("Validation goes without lpips. %s", missing)
        lpips = None
    return Validation(photographs, collate, config.train.validation_count, config.train.best, distance, lpips)


def stages_of(arguments: list[str]) -> tuple[list[Path], list[Path], list[str]]:
    """Stages to train in order; other configuration files (a data set's), and ``key=value``, that hold for each."""
    files = [Path(a) for a in arguments if "=" not in a]
    stages = [path for path in files if is_stage(path)]
    default = [CONFIGS / "train" / "compact" / f"{stage}.yaml" for stage in COMPACT_STAGES]
    return stages or default, [path for path in files if path not in stages], [a for a in arguments if "=" in a]


def is_stage(path: Path) -> bool:
    """Whether a configuration file says what is trained: it has a section ``train``."""
    try:
        return "train" in yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        # Reading it as a stage says what is wrong with it.
        return True


def main(arguments: list[str]) -> None:
    """``[CONFIG ...] [key=value ...]``; without a stage every one of the compact model, each resumed as needed.

    A finished stage is not trained again; its result is written once more.
    """
    stages, others, overrides = stages_of(arguments)
    # All of them before the first one trains: a mistake in the last should not wait for hours.
    for config in [load_stage(stage, others, overrides) for stage in stages]:
        train_stage(config)


def load_stage(stage: Path, others: list[Path], overrides: list[str]) -> Config:
    """The configuration of one stage; ``train.steps=25%`` means a quarter of the steps that its file names.

    Raises:
        ConfigError: it cannot be used.
    """
    shares = [word for word in overrides if word.startswith("train.steps=") and word.endswith("%")]
    rest = [word for word in overrides if word not in shares]
    config = load_config(CONFIGS / "base.yaml", stage, *others, overrides=rest)
    if not shares:
        return config
    try:
        share = float(shares[-1].removeprefix("train.steps=").removesuffix("%")) / 100
    except ValueError:
        share = 0.0
    if not 0 < share < math.inf:
        raise ConfigError(f"{shares[-1]} is no share; write train.steps=25%, or a number of steps.")
    return replace(config, train=replace(config.train, steps=max(1, round(share * config.train.steps))))
