"""Every stage that ships builds and takes two steps on a backbone small enough for a test."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config import load_config_from_file

from idas_sr.config import load_config
from idas_sr.networks.store import load_parts
from idas_sr.training.run import CONFIGS, train_stage

STAGES = sorted((CONFIGS / "train").rglob("*.yaml"))
TINY_ESTIMATORS = {
    "idas": {"width": 16, "deep_width": 16, "blocks": 1, "severity_width": 8},
    "rcod": {"width": 8},
    "s3diff": {"scores": "null", "scores_args": "{width: 4, hidden: 8}", "unet_rank": 2, "encoder_rank": 2},
    "invsr": {"widths": "[16,16]", "layers": 1, "head_width": 8, "groups": 4},
}


def tiny_overrides(stage: Path, photographs: Path, run_dir: Path) -> list[str]:
    """What makes a shipped stage run on its own, in a second: small parts from scratch, small crops, no workers."""
    backbone = "tiny-sd-turbo" if stage.parent.name == "sd-turbo" else "tiny"
    method = yaml.safe_load(stage.read_text())["method"]["name"]
    return [
        f"data.root={photographs}",
        f"train.run_dir={run_dir}",
        "train.init=null",
        f"backbone.name={backbone}",
        *(f"estimator.{name}={value}" for name, value in TINY_ESTIMATORS.get(method, {}).items()),
        "data.crop=64",
        "data.workers=0",
        "train.batch_size=2",
        "train.precision=fp32",
        "train.steps=2",
        "train.log_every=1",
        "train.grid_every=0",
        # Their weights do not come with the package.
        "loss.feature=0",
    ]


@pytest.mark.parametrize("stage", STAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_stage_takes_two_steps(stage: Path, photographs: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config = load_config(CONFIGS / "base.yaml", stage, overrides=tiny_overrides(stage, photographs, tmp_path))
    train_stage(config)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    for name, weight in config.loss.items():
        assert (name in lines[0]) == bool(weight), name
    assert all(np.isfinite(value) for line in lines for value in line.values())
    backbone, _ = load_parts(tmp_path / "model")
    assert backbone.latent_channels in (4, 8)


@pytest.mark.parametrize("path", sorted((CONFIGS / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_launcher_reads_its_configuration(path: Path) -> None:
    launcher = load_config_from_file(str(path))
    sizes = {"gpu": (1, 1), "gpus": (1, 8), "machines": (2, 16)}
    assert (launcher.num_machines, launcher.num_processes) == sizes[path.stem]
    # train.precision decides.
    assert launcher.mixed_precision == "no"
