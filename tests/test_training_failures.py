"""What goes wrong in training stops it with one sentence, and leaves what was there."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import skimage.data
import torch
from accelerate import Accelerator
from contract import files_of
from PIL import Image
from safetensors import safe_open
from test_training_configs import tiny_overrides

from idas_sr.build import build_photographs, build_task, build_validation_photographs
from idas_sr.config import Config, ConfigError, load_config
from idas_sr.data.photographs import Collate, Sample
from idas_sr.losses import LearnedDistance
from idas_sr.methods.task import Batch, Losses
from idas_sr.training.checkpoint import load_latest
from idas_sr.training.errors import TrainingError
from idas_sr.training.loop import train
from idas_sr.training.run import CONFIGS, train_stage
from idas_sr.training.validation import Validation

STEERING = CONFIGS / "train" / "compact" / "4-steering.yaml"


def steering(photographs: Path, run_dir: Path, *overrides: str) -> Config:
    torch.set_num_threads(1)
    own = (*tiny_overrides(STEERING, photographs, run_dir), "data.crop=32", "train.steps=6", "train.save_every=2")
    return load_config(CONFIGS / "base.yaml", STEERING, overrides=[*own, *overrides])


class Injected(Collate):
    """The real batches; ``lq`` of the one with the given number (as they are collated) is not a number.

    Steering measures nothing before its first step, so the number is the step.
    """

    def __init__(self, degradation: object, number: int) -> None:
        super().__init__(degradation)  # type: ignore[arg-type]
        self.number, self.count = number, 0

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        batch = super().__call__(samples)
        self.count += 1
        if self.count == self.number:
            batch["lq"] = batch["lq"] * float("nan")
        return batch


def train_injected(config: Config, step: int) -> None:
    stream, collate = build_photographs(config)
    torch.manual_seed(config.seed)
    train(config, build_task(config), stream, Injected(collate.degradation, step), Accelerator())


def test_nan_in_a_batch_stops_with_the_terms_name(photographs: Path, tmp_path: Path) -> None:
    config = steering(photographs, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"^Loss .*pixel.* is not finite at step 5; its batch is in ") as caught:
        train_injected(config, step=5)
    message = str(caught.value)
    assert "\n" not in message and "critic" not in message
    (dumped,) = (tmp_path / "run" / "failure").iterdir()
    assert str(dumped) in message
    with safe_open(dumped, framework="pt") as file:
        assert bool(file.get_tensor("0/lq").isnan().all()) and not bool(file.get_tensor("0/hq").isnan().any())
        assert json.loads(file.metadata()["about"])["step"] == 5
    # The last checkpoint is whole, and the run goes on from it.
    state = load_latest(tmp_path / "run" / "checkpoints")
    assert state is not None and state["step"] == 4
    assert all(bool(value.isfinite().all()) for part in state["weights"]["generator"] for value in part.values())
    train_stage(config)
    train_stage(steering(photographs, tmp_path / "undisturbed"))
    assert files_of(tmp_path / "run" / "model") == files_of(tmp_path / "undisturbed" / "model")


def test_some_updates_may_be_skipped(photographs: Path, tmp_path: Path, caplog) -> None:
    config = steering(photographs, tmp_path, "train.max_skipped=2")
    train_injected(config, step=3)
    # Generator and critic both saw it.
    assert caplog.text.count("is not finite at step 3: update") == 2
    state = load_latest(tmp_path / "checkpoints")
    assert state is not None and state["skipped"] == 2 and state["step"] == 6
    assert all(bool(value.isfinite().all()) for part in state["weights"]["generator"] for value in part.values())


def test_one_more_than_may_be_skipped(photographs: Path, tmp_path: Path) -> None:
    config = steering(photographs, tmp_path, "train.max_skipped=1")
    with pytest.raises(TrainingError, match=r"^Loss critic is not finite at step 3, after 1 skipped updates"):
        train_injected(config, step=3)


def test_gradient_that_is_not_finite_is_named(photographs: Path, tmp_path: Path) -> None:
    config = steering(photographs, tmp_path, "loss.gan=0")
    stream, collate = build_photographs(config)
    task = build_task(config)
    real = task.losses

    def with_a_bad_root(player: str, batch: Batch) -> Losses:
        losses = real(player, batch)
        # The root of zero: the value is fine, its slope is not.
        weight = next(task.estimator.parameters())
        return {**losses, "residual": losses["residual"] + ((weight - weight).square().sum()).sqrt()}

    task.losses = with_a_bad_root
    with pytest.raises(TrainingError, match=r"^The gradient of loss residual is not finite at step 1"):
        train(config, task, stream, collate, Accelerator())


def test_accumulated_step_is_that_of_the_whole_batch(photographs: Path, tmp_path: Path) -> None:
    # Without ranking, which compares the samples of a micro-batch, and the critic, whose spectral norms move with
    # every call.
    settings = ("train.batch_size=4", "loss.ranking=0", "loss.gan=0", "train.lr=1e-3", "train.warmup=1")
    logs = []
    for name, extra in (("whole", ()), ("parts", ("train.accumulate=2",))):
        train_stage(steering(photographs, tmp_path / name, *settings, *extra))
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        logs.append([json.loads(line) for line in lines])
    for whole, parts in zip(*logs, strict=True):
        for term in ("pixel", "latent", "deviation", "positioning", "generator_grad"):
            assert parts[term] == pytest.approx(whole[term], abs=1e-4), (whole["step"], term)
    assert logs[0][0]["latent"] != logs[0][-1]["latent"]


def test_these_change_no_result(photographs: Path, tmp_path: Path) -> None:
    for name, extra in (("plain", ()), ("other", ("data.degrade_on=device", "data.cache_gb=0", "data.workers=1"))):
        train_stage(steering(photographs, tmp_path / name, "train.steps=2", *extra))
    assert files_of(tmp_path / "plain" / "model") == files_of(tmp_path / "other" / "model")


def test_gradient_checkpointing_changes_memory_alone(photographs: Path, tmp_path: Path) -> None:
    norms = []
    for name in ("false", "true"):
        config = steering(
            photographs, tmp_path / name, "train.steps=1", f"train.gradient_checkpointing={name}", "loss.gan=0"
        )
        train_stage(config)
        norms.append(json.loads((tmp_path / name / "log.jsonl").read_text())["generator_grad"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_validation_measures_lpips_where_it_is(tmp_path: Path) -> None:
    Image.fromarray(skimage.data.coffee()).save(tmp_path / "held_out_2.png")
    config = steering(tmp_path, tmp_path / "run", "train.validate_every=1", "data.split=train")
    lpips = LearnedDistance("alex", untrained=True)
    validation = Validation(*build_validation_photographs(config), 1, "lpips@0", None, lpips)
    means, _ = validation.measure(build_task(config), Accelerator(cpu=True))
    assert means["lpips@0"] > 0 and means["lpips@1"] > 0 and "psnr_y@0" in means
    with pytest.raises(ConfigError, match="lpips"):
        Validation(*build_validation_photographs(config), 1, "lpips@0")


def test_validation_measures_the_dial_and_keeps_the_best(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("astronaut", "coffee", "held_out_2"):
        Image.fromarray(skimage.data.coffee() if "2" in name else getattr(skimage.data, name)()).save(
            folder / f"{name}.png"
        )
    settings = ("train.validate_every=1", "train.validation_count=2", "train.save_every=100", "train.keep=1")
    train_stage(steering(folder, tmp_path / "run", *settings, "train.lr=1e-2", "train.warmup=1"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["validation/psnr_y@0"] for line in lines if "validation/psnr_y@0" in line}
    assert list(scores) == [1, 2, 3, 4, 5, 6]
    assert all(f"validation/ssim_y@{r}" in line for line in lines if "validation/psnr_y@0" in line for r in "01")
    best = max(scores, key=lambda step: scores[step])
    kept = [int(path.stem[5:]) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert sorted(kept) == sorted({best, 6})
    with Image.open(tmp_path / "run" / "grids" / "validation_0000006.png") as grid:
        assert grid.size == (2 * 32, 4 * 32)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "train.accumulate=3",
            r"batch_size 2 must be a multiple .* times train.accumulate, 3",
        ),
        ("train.schedule=cosin", r"cosine, linear, constant"),
        ("data.degrade_on=gpu", r"worker, device"),
        ("train.trackers=[tensorbord]", r"tensorboard, wandb"),
    ],
)
def test_setting_that_does_not_exist(photographs: Path, tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        train_stage(steering(photographs, tmp_path / "run", override))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "config.yaml").exists()
