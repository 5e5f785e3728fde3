"""Training from the command line: one stage, or all stages of the compact model in order."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from idas_sr.build import build_photographs, build_task
from idas_sr.config import Config, load_config
from idas_sr.training.loop import train

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
COMPACT_STAGES = ("0-autoencoder", "1-prior", "2-positioning", "3-anchor", "4-steering")


def train_stage(config: Config) -> None:
    """Train the stage that ``config`` describes."""
    accelerator = Accelerator(mixed_precision=config.train.precision)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    # Initial weights only: every draw during training comes from the batch.
    torch.manual_seed(config.seed)
    np.random.seed(config.seed)
    random.seed(config.seed)
    photographs, collate = build_photographs(config)
    train(config, build_task(config), photographs, collate, accelerator)


def main(arguments: list[str]) -> None:
    """``[CONFIG] [key=value ...]``; without CONFIG every stage of the compact model, each resumed or skipped as needed."""
    overrides = [a for a in arguments if "=" in a]
    stages = [Path(a) for a in arguments if "=" not in a]
    stages = stages or [CONFIGS / "train" / "compact" / f"{stage}.yaml" for stage in COMPACT_STAGES]
    for stage in stages:
        train_stage(load_config(CONFIGS / "base.yaml", stage, overrides=overrides))
