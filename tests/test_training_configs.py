"""Every stage that ships builds and takes two steps on a backbone small enough for a test."""

from pathlib import Path

import contract
import pytest
import yaml
from accelerate.commands.config import load_config_from_file

from idas_sr.training.run import CONFIGS

STAGES = sorted((CONFIGS / "train").rglob("*.yaml"))
TINY_ESTIMATORS = {
    "idas": {"width": 16, "deep_width": 16, "blocks": 1, "severity_width": 8},
    "rcod": {"width": 8},
    "s3diff": {"scores": "null", "scores_args": "{width: 4, hidden: 8}", "unet_rank": 2, "encoder_rank": 2},
    "invsr": {"widths": "[16,16]", "layers": 1, "head_width": 8, "groups": 4},
}

FROM_PHOTOGRAPHS = (
    "data.sources.pictures={path: ., lq: null, at_least: 1}",
    "data.degradation=measured",
    "train.adapter=null",
)
"""In place of pairs and of a trained model."""


def own_overrides(stage: Path) -> list[str]:
    """What makes the network of a stage's method small."""
    method = yaml.safe_load(stage.read_text())["method"]["name"]
    small = [f"estimator.{name}={value}" for name, value in TINY_ESTIMATORS.get(method, {}).items()]
    return [*small, *(FROM_PHOTOGRAPHS if stage.stem == "personal" else ())]


def tiny_overrides(stage: Path, photographs: Path, run_dir: Path) -> list[str]:
    """What makes a shipped stage run on its own, in a second."""
    return contract.small(stage, photographs, run_dir, own_overrides(stage), steps=2)


@pytest.mark.parametrize("stage", STAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_stage_takes_two_steps(stage: Path, photographs: Path, tmp_path: Path) -> None:
    contract.trains(stage, photographs, tmp_path, own_overrides(stage), steps=2)


@pytest.mark.parametrize("path", sorted((CONFIGS / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_launcher_reads_its_configuration(path: Path) -> None:
    launcher = load_config_from_file(str(path))
    sizes = {"gpu": (1, 1), "gpus": (1, 8), "machines": (2, 16)}
    assert (launcher.num_machines, launcher.num_processes) == sizes[path.stem]
    # train.precision decides.
    assert launcher.mixed_precision == "no"
