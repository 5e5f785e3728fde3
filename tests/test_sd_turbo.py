"""SD-Turbo's files: loading, errors, verification and training configurations, on a tiny folder of the same layout."""

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import data

from idas_sr.build import build_estimator, build_task
from idas_sr.config import ConfigError, load_config
from idas_sr.networks.sd_turbo import PROMPTS, load_sd_turbo
from idas_sr.networks.sd_turbo_random import TINY, write_random_sd_turbo
from idas_sr.schedule import NoiseSchedule
from idas_sr.training.run import train_stage
from idas_sr.verification.denoising import (
    EPSILON_TIMESTEPS,
    check_schedule,
    epsilon_errors,
    epsilon_limits,
    judge_epsilon,
)
from idas_sr.verification.files import check_configs, check_files, check_tensors
from idas_sr.verification.report import Check, succeeded

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
STAGES = sorted((CONFIGS / "train" / "sd-turbo").glob("[0-9]*.yaml"))
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for every test."""
    monkeypatch.setenv("IDAS_SR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: copy it before changing it."""
    return write_random_sd_turbo(tmp_path_factory.mktemp("weights") / "sd-turbo", TINY)


@pytest.fixture
def copy(weights: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(weights, tmp_path / "copy" / "sd-turbo"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_sd_turbo", ROOT / "scripts" / "verify_sd_turbo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- loading ----


@torch.no_grad()
def test_loads_from_a_folder_with_the_published_layout(weights: Path) -> None:
    backbone = load_sd_turbo(str(weights))
    z0 = backbone.encode(torch.rand(1, 3, 64, 128) * 2 - 1)
    assert z0.shape == (1, 4, 8, 16)
    tokens = backbone.embed("positive", 1)
    assert tokens.shape == (1, 77, TINY.unet["cross_attention_dim"])
    assert backbone.predict_z0(z0, torch.tensor([199.5]), tokens).shape == z0.shape
    stored = load_file(weights / "unet" / WEIGHTS)
    assert all(torch.equal(stored[name], value) for name, value in backbone.unet.state_dict().items())


def test_half_precision_is_honoured_everywhere(weights: Path) -> None:
    backbone = load_sd_turbo(str(weights), dtype=torch.bfloat16)
    assert {p.dtype for p in backbone.parameters()} == {torch.bfloat16}
    assert backbone.schedule.log_sigmas.dtype == torch.float64


def test_prompts_are_embedded_once_and_then_read(weights: Path, cache: Path) -> None:
    first = load_sd_turbo(str(weights)).prompt
    assert tuple(first.config["names"]) == tuple(PROMPTS)
    assert not torch.equal(first.tokens[0], first.tokens[1])
    (stored,) = cache.iterdir()
    save_file({"tokens": torch.zeros_like(first.tokens)}, stored)
    assert load_sd_turbo(str(weights)).prompt.tokens.abs().max() == 0


def test_another_encoder_under_the_same_folder_name_has_its_own_embedding(weights: Path, tmp_path: Path) -> None:
    other = write_random_sd_turbo(tmp_path / "other" / "sd-turbo", TINY, seed=1)
    assert other.name == weights.name
    assert not torch.equal(load_sd_turbo(str(other)).prompt.tokens, load_sd_turbo(str(weights)).prompt.tokens)


@pytest.mark.parametrize(
    "missing", ["vae/config.json", "scheduler/scheduler_config.json", f"unet/{WEIGHTS}", f"vae/{WEIGHTS}"]
)
def test_missing_file_is_one_clear_line(copy: Path, missing: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(ValueError, match=r"missing|no complete SD-Turbo weights") as error:
        load_sd_turbo(str(copy))
    assert str(copy) in str(error.value) and "\n" not in str(error.value)


def test_pickled_weights_are_not_read(copy: Path) -> None:
    torch.save(load_file(copy / "unet" / WEIGHTS), copy / "unet" / "diffusion_pytorch_model.bin")
    (copy / "unet" / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="safetensors"):
        load_sd_turbo(str(copy))


@pytest.mark.parametrize("file", [f"unet/{WEIGHTS}", "text_encoder/model.safetensors"])
def test_truncated_weights_are_one_clear_line(copy: Path, file: str) -> None:
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"no complete SD-Turbo weights|text encoder") as error:
        load_sd_turbo(str(copy))
    assert "\n" not in str(error.value)


def test_missing_text_encoder_names_the_folders(copy: Path) -> None:
    shutil.rmtree(copy / "text_encoder")
    with pytest.raises(ValueError, match="text_encoder/ and tokenizer/"):
        load_sd_turbo(str(copy))


def test_missing_folder_says_where_to_get_the_weights_and_under_which_licence() -> None:
    with pytest.raises(ValueError, match=r"stabilityai/sd-turbo.*Licen[cs]e"):
        load_sd_turbo("./no-such-folder")


# ---- verification ----


def test_configurations_are_compared_key_by_key(copy: Path) -> None:
    assert check_configs(copy, TINY).passed
    path = copy / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": 0.13025}))
    check = check_configs(copy, TINY)
    assert not check.passed
    assert check.rows[1:] == [("vae", "scaling_factor", 0.13025, 0.18215)]
    assert not check_configs(copy).passed, "a tiny UNet is not SD-Turbo's"


def test_missing_and_misshapen_tensors_are_found(copy: Path) -> None:
    assert check_tensors(copy, TINY).passed
    tensors = load_file(copy / "unet" / WEIGHTS)
    del tensors["conv_out.bias"]
    tensors["conv_in.bias"] = torch.zeros(3)
    save_file(tensors, copy / "unet" / WEIGHTS)
    names = {row[1] for row in check_tensors(copy, TINY).rows[1:]}
    assert names == {"conv_out.bias", "conv_in.bias"}


def test_hashes_are_of_the_contents_and_a_damaged_cache_entry_is_found(weights: Path, tmp_path: Path) -> None:
    # A Hub cache: snapshots/REVISION/file -> blobs/SHA-256.
    snapshot, blobs = tmp_path / "snapshots" / ("0" * 40), tmp_path / "blobs"
    blobs.mkdir()
    for path in (p for p in weights.rglob("*") if p.is_file()):
        link = snapshot / path.relative_to(weights)
        link.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        blob = blobs / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link.symlink_to(blob)
    check = check_files(snapshot)
    assert check.passed and "0" * 40 in check.summary
    assert {row[3] for row in check.rows[1:]} == {"as the Hub says"}
    file = snapshot / "unet" / WEIGHTS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.resolve().write_bytes(content)
    assert not check_files(snapshot).passed
    assert [row[0] for row in check_files(snapshot).rows if row[3] == "DAMAGED"] == [f"unet/{WEIGHTS}"]


def test_a_folder_without_safetensors_fails(copy: Path) -> None:
    (copy / "unet" / WEIGHTS).unlink()
    assert not check_files(copy).passed


def test_schedule_is_compared_with_the_table() -> None:
    scaled = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    assert check_schedule(NoiseSchedule.from_config(scaled)).passed
    assert not check_schedule(NoiseSchedule.from_config(scaled | {"beta_schedule": "linear"})).passed
    assert not check_schedule(NoiseSchedule.from_config(scaled | {"beta_end": 0.0121})).passed


def test_epsilon_band_passes_the_linear_estimator_and_rejects_random_weights(weights: Path) -> None:
    backbone = load_sd_turbo(str(weights)).eval().requires_grad_(False)
    limits = epsilon_limits(0.9, backbone.schedule)
    sigma = backbone.schedule.sigma(torch.tensor([float(t) for t in EPSILON_TIMESTEPS]))
    # The best linear estimator of white latents with rms 0.9: worse than any trained network.
    linear = (0.9**2 / (0.9**2 + sigma**2)).tolist()
    assert judge_epsilon(linear, limits)[0]
    # A sample that fits no better than another picture, as a distilled student may give at high noise.
    assert judge_epsilon([min(0.95, 2 * 0.9**2 / w**2) for w in sigma.tolist()], limits)[0]
    z0 = 0.9 * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    random = epsilon_errors(backbone, z0)
    assert min(random) > 0.9
    assert not judge_epsilon(random, limits)[0]
    assert not judge_epsilon(linear[::-1], limits)[0]


def test_success_with_random_weights_means_that_bands_reject_them() -> None:
    mechanics, quality = Check("a", True, ""), Check("b", True, "", needs_training=True)
    rejected = Check("b", False, "", needs_training=True)
    assert succeeded([mechanics, quality]) and not succeeded([mechanics, rejected])
    assert succeeded([mechanics, rejected], random_weights=True)
    assert not succeeded([mechanics, quality], random_weights=True)
    assert not succeeded([Check("a", False, ""), rejected], random_weights=True)


def test_script_on_random_weights(script: ModuleType, tmp_path: Path) -> None:
    report = tmp_path / "out" / "report.md"
    assert script.main(["--random-weights", "--tiny", "--size", "128", "--report", str(report)]) == 0
    text = report.read_text()
    assert "RANDOM WEIGHTS" in text
    for title in ("Files: pass", "Configurations: pass", "Tensors: pass", "Noise schedule: pass"):
        assert f"## {title}" in text
    for title in ("Autoencoder", "Epsilon error", "x0 off the trained timesteps", "One restoration"):
        assert f"## {title}: FAIL" in text
    assert Image.open(report.with_suffix(".png")).size == (128, 128)


def test_script_refuses_weights_that_are_not_sd_turbo(script: ModuleType, weights: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    arguments = ["--sd-path", str(weights), "--size", "64", "--report", str(report)]
    assert script.main(arguments) == 1
    assert "## Configurations: FAIL" in report.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sd-path", "./no-such-folder"], "licen"),
        (["--random-weights", "--tiny", "--image", "no-such-file.png"], "no-such-file.png"),
        (["--random-weights", "--tiny", "--size", "1024"], "larger --image"),
    ],
)
def test_script_errors_are_one_line(
    script: ModuleType, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(arguments) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("verify_sd_turbo:")]
    assert len(lines) == 1 and words in lines[0].lower()


# ---- training ----


def test_there_is_a_configuration_for_each_stage() -> None:
    assert [path.stem for path in STAGES] == ["2-positioning", "3-anchor", "4-steering"]


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_configuration_builds_at_full_size(path: Path) -> None:
    overrides = ["data.root=x", "train.init=null", "backbone.random_weights=true", "loss.lpips=0"]
    config = load_config(CONFIGS / "base.yaml", path, overrides=overrides)
    with torch.device("meta"):
        task = build_task(config)
    own = {name: p for name, p in task.backbone.unet.named_parameters() if "lora_" not in name}
    assert 8.6e8 < sum(p.numel() for p in own.values()) < 8.7e8
    # What else it trains is golden in test_parameters.py.
    assert task.trainable()["generator"][0] is task.estimator


def test_estimator_is_about_as_large_as_its_peer() -> None:
    config = load_config(CONFIGS / "base.yaml", STAGES[0], overrides=["data.root=x", "backbone.random_weights=true"])
    with torch.device("meta"):
        task = build_task(config)
    assert 30e6 <= sum(p.numel() for p in task.estimator.parameters()) <= 36e6
    assert task.estimator.config["stride"] == 2


def test_sd_turbo_without_weights_is_one_clear_line() -> None:
    config = load_config(CONFIGS / "base.yaml", STAGES[0], overrides=["data.root=x"])
    with pytest.raises(ConfigError, match=r"backbone\.path.*backbone\.random_weights"):
        build_task(config)


def test_a_path_for_the_compact_backbone_is_refused(weights: Path) -> None:
    overrides = ["data.root=x", "train.run_dir=x", f"backbone.path={weights}"]
    with pytest.raises(ConfigError, match=r"train\.init"):
        build_task(load_config(CONFIGS / "base.yaml", overrides=overrides))


@pytest.mark.slow
def test_the_three_stages_run_after_each_other_on_a_tiny_folder(weights: Path, tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for index, pixels in enumerate((data.astronaut(), data.coffee(), data.chelsea())):
        Image.fromarray(np.ascontiguousarray(pixels[100:260, 100:260])).save(photographs / f"{index}.png")
    common = [f"data.root={photographs}", "data.split=all", "data.crop=64", "data.workers=0", "train.precision=fp32"]
    common += ["train.steps=2", "train.batch_size=2", "train.warmup=0", "train.grid_every=2", "train.log_every=1"]
    common += ["loss.lpips=0"]  # its trunk does not come with the package
    small = ["estimator.width=16", "estimator.deep_width=16", "estimator.blocks=1", "estimator.severity_width=8"]
    before = None
    for path in STAGES:
        own = [f"train.run_dir={tmp_path / path.stem}"]
        own += [f"train.init={before}"] if before else [f"backbone.path={weights}", *small]
        config = load_config(CONFIGS / "base.yaml", path, overrides=[*common, *own])
        train_stage(config)
        before = tmp_path / path.stem
        lines = [json.loads(line) for line in (before / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2]
        assert all(line["generator_grad"] > 0 for line in lines)
    result = load_file(before / "model" / "unet" / WEIGHTS)
    start = load_file(weights / "unet" / WEIGHTS)
    assert all(torch.equal(result[name], start[name]) for name in start), (
        "the UNet's own weights are frozen in every stage"
    )
    assert (before / "model" / "unet_lora" / "adapter_model.safetensors").is_file()
    first, last = (
        load_file(tmp_path / stage.stem / "model" / "estimator" / WEIGHTS) for stage in (STAGES[0], STAGES[-1])
    )
    assert any(not torch.equal(first[name], last[name]) for name in first)


def test_estimator_of_the_tiny_backbone_takes_two_pixels_per_cell(weights: Path) -> None:
    assert build_estimator(load_sd_turbo(str(weights)), width=16).config["stride"] == 2
