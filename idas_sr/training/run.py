"""Training from the command line: one stage, or all stages of the compact model in order."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from idas_sr.build import build_photographs, build_task, choose
from idas_sr.config import Config, load_config
from idas_sr.training.loop import train

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Ours -> accelerate's, whose "no" YAML reads as false."""
COMPACT_STAGES = ("0-autoencoder", "1-prior", "2-positioning", "3-anchor", "4-steering")


def train_stage(config: Config) -> None:
    """Train the stage that ``config`` describes."""
    accelerator = Accelerator(mixed_precision=choose(PRECISIONS, "train.precision", config.train.precision))
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    # Initial weights only: every draw during training comes from the batch.
    torch.manual_seed(config.seed)
    np.random.seed(config.seed)
    random.seed(config.seed)
    photographs, collate = build_photographs(config)
    train(config, build_task(config), photographs, collate, accelerator)


def stages_of(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """Configuration files to train in order, and the ``key=value`` arguments that hold for each of them."""
    stages = [Path(a) for a in arguments if "=" not in a]
    default = [CONFIGS / "train" / "compact" / f"{stage}.yaml" for stage in COMPACT_STAGES]
    return stages or default, [a for a in arguments if "=" in a]


def main(arguments: list[str]) -> None:
    """``[CONFIG ...] [key=value ...]``; without CONFIG every stage of the compact model, each resumed as needed.

    A finished stage is not trained again; its result is written once more.
    """
    stages, overrides = stages_of(arguments)
    # All of them before the first one trains: a mistake in the last should not wait for hours.
    for config in [load_config(CONFIGS / "base.yaml", stage, overrides=overrides) for stage in stages]:
        train_stage(config)
