"""The methods beside IDaS-SR, against their formulas written out in numpy, and what only they have."""

import shutil
from pathlib import Path

import contract
import numpy as np
import pytest
import torch
from contract import load_script
from PIL import Image
from test_parameters import export_adapter
from test_training_configs import tiny_overrides
from torch import Tensor

from idas_sr.build import METHODS, build_method
from idas_sr.cli import main
from idas_sr.config import Component, ConfigError, load_config
from idas_sr.evaluation.results import read_result
from idas_sr.methods.base import Method
from idas_sr.methods.distillation import RANGES, Distillation
from idas_sr.methods.invsr import STEPS, InvSR
from idas_sr.methods.rcod import RCOD
from idas_sr.networks import lora, presets
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.library import MODELS
from idas_sr.networks.mine import MINE
from idas_sr.networks.noise_predictor import NoisePredictor
from idas_sr.networks.similarity import SimilarityEstimator
from idas_sr.networks.store import save_parts
from idas_sr.networks.visual_prompt import VisualPrompt
from idas_sr.noise import canvas_noise
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.schedule import NoiseSchedule
from idas_sr.steering import AsIs, Temperature
from idas_sr.training.run import CONFIGS, train_stage
from idas_sr.types import Anchor, Condition

ROOT = Path(__file__).parents[1]
study_methods = load_script("study_methods")
SMALL = {"widths": (16, 16), "layers": 1, "head_width": 8, "groups": 4}


@pytest.fixture(scope="module")
def backbone() -> LatentBackbone:
    torch.manual_seed(0)
    return presets.tiny().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def lq(photograph: Tensor) -> Tensor:
    return photograph[..., :32, :48]


def predictor(backbone: LatentBackbone, **args: object) -> NoisePredictor:
    torch.manual_seed(1)
    return NoisePredictor.for_backbone(backbone, 4, **SMALL, **args).eval().requires_grad_(False)


def method(name: str, backbone: LatentBackbone, estimator: object = None, **args: object) -> Method:
    return build_method(backbone, estimator, Component(name, args)).eval()


# ---- numpy: SD-Turbo's schedule and one step, independent of the package ----

BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
ABAR = np.cumprod(1 - BETAS)


def eps(backbone: LatentBackbone, state: np.ndarray, timestep: int, tokens: Tensor) -> np.ndarray:
    """The UNet's noise for a VP state."""
    with torch.no_grad():
        told = torch.full((len(state),), float(timestep))
        return backbone.predict_eps(torch.from_numpy(state).float(), told, tokens).double().numpy()


def denoise(backbone: LatentBackbone, z_t: np.ndarray, timestep: int, tokens: Tensor) -> np.ndarray:
    """(z_t - n eps) / s."""
    s, n = ABAR[timestep] ** 0.5, (1 - ABAR[timestep]) ** 0.5
    return (z_t - n * eps(backbone, z_t, timestep, tokens)) / s


def close(left: Tensor, right: np.ndarray, tolerance: float = 2e-4) -> None:
    np.testing.assert_allclose(left.double().numpy(), right, rtol=tolerance, atol=tolerance)


# ---- InvSR ----


def test_the_published_predictor_has_its_published_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in NoisePredictor().parameters()) / 1e6 == pytest.approx(33.84, abs=0.005)


def test_an_untrained_predictor_spreads_as_little_as_asked(backbone: LatentBackbone, lq: Tensor) -> None:
    timestep = torch.tensor([199.0])
    wide, narrow = (predictor(backbone, log_variance=value)(lq, timestep) for value in (0.0, -4.0))
    torch.testing.assert_close(narrow.spread, wide.spread * np.exp(-2))
    assert torch.equal(narrow.noise, wide.noise)


def test_t9_invsr_step_equals_numpy(backbone: LatentBackbone, lq: Tensor) -> None:
    estimator = predictor(backbone)
    result = method("invsr", backbone, estimator).restore_image(lq, seeds=[5])
    guess = estimator(lq, torch.tensor([199.0]))
    xi = canvas_noise([5], tuple(guess.noise.shape[1:])).double().numpy()
    eta = guess.noise.double().numpy() + guess.spread.double().numpy() * xi
    s, n = ABAR[199] ** 0.5, (1 - ABAR[199]) ** 0.5
    z_lq = result.z_lq.double().numpy()
    expected = denoise(backbone, s * z_lq + n * eta, 199, backbone.embed("clean", 1))
    close(result.z0, expected)
    # 200 is index 199: one index further would be another picture.
    other = denoise(backbone, ABAR[200] ** 0.5 * z_lq + (1 - ABAR[200]) ** 0.5 * eta, 200, backbone.embed("clean", 1))
    assert np.abs(other - expected).max() > 1e-3


def test_t9_idas_with_a_fixed_position_and_a_gaussian_head_is_that_step(backbone: LatentBackbone, lq: Tensor) -> None:
    torch.manual_seed(2)
    mine = MINE.for_backbone(backbone, 4, width=16, deep_width=16, blocks=1, severity_width=8, parameterisation="i3")
    idas = build_method(backbone, mine, Component("idas"), Component("temperature", {"tau": 1.0})).eval()
    with torch.no_grad():
        result = idas.restore(lq, seeds=[5], timestep=torch.tensor([199.0]))
        guess = mine(lq, result.z_lq)
    xi = canvas_noise([5], tuple(guess.noise.shape[1:])).double().numpy()
    eta = guess.noise.double().numpy() + guess.spread.double().numpy() * xi
    s, n = ABAR[199] ** 0.5, (1 - ABAR[199]) ** 0.5
    close(result.z0, denoise(backbone, s * result.z_lq.double().numpy() + n * eta, 199, backbone.embed("clean", 1)))
    assert guess.deviation is None and float(guess.spread.std()) > 0


@pytest.mark.parametrize("steps", STEPS)
def test_steps_are_eulers_at_the_published_timesteps(backbone: LatentBackbone, lq: Tensor, steps: int) -> None:
    published = {1: [200], 2: [200, 100], 3: [200, 100, 50], 4: [200, 150, 100, 50], 5: [250, 200, 150, 100, 50]}
    indices = [t - 1 for t in published[steps]]
    estimator = predictor(backbone)
    calls: list[float] = []
    handle = backbone.unet.register_forward_pre_hook(lambda _, args: calls.append(float(args[1][0])))
    result = method("invsr", backbone, estimator, steps=steps).restore_image(lq, seeds=[5])
    handle.remove()
    assert calls == indices, "one UNet evaluation for every step"

    guess = estimator(lq, torch.tensor([float(indices[0])]))
    xi = canvas_noise([5], tuple(guess.noise.shape[1:])).double().numpy()
    sigmas = [*(((1 - ABAR[i]) / ABAR[i]) ** 0.5 for i in indices), 0.0]
    y = result.z_lq.double().numpy() + sigmas[0] * (guess.noise.double().numpy() + guess.spread.double().numpy() * xi)
    for index, sigma, after in zip(indices, sigmas[:-1], sigmas[1:], strict=True):
        noise = eps(backbone, y / (sigma**2 + 1) ** 0.5, index, backbone.embed("clean", 1))
        y = y + noise * (after - sigma)
    close(result.z0, y, 1e-3)


def test_a_tiled_prediction_is_the_blend_of_its_tiles(backbone: LatentBackbone, photograph: Tensor) -> None:
    picture, t = photograph[..., :48, :32], torch.tensor([199.0])
    tiled, whole = predictor(backbone, tile=32), predictor(backbone, tile=48)
    result = tiled(picture, t).noise
    first, last = (whole(picture[..., top : top + 32, :], t).noise for top in (0, 16))
    # Only the first tile covers the first rows, only the last one the last.
    torch.testing.assert_close(result[..., :16, :], first[..., :16, :])
    torch.testing.assert_close(result[..., 32:, :], last[..., 16:, :])
    low, high = (
        torch.minimum(first[..., 16:, :], last[..., :16, :]),
        torch.maximum(first[..., 16:, :], last[..., :16, :]),
    )
    between = result[..., 16:32, :]
    assert bool(((between >= low - 1e-5) & (between <= high + 1e-5)).all())
    assert not torch.allclose(between, whole(picture, t).noise[..., 16:32, :], atol=1e-3), "attention saw one tile"


def test_the_start_of_training_samples_is_one_of_four(backbone: LatentBackbone) -> None:
    invsr = method("invsr", backbone, predictor(backbone))
    assert isinstance(invsr, InvSR)
    uniform = torch.linspace(0, 0.999, 40)[:, None].expand(-1, 8)
    positions = invsr.training_timestep(torch.zeros(40, 8, 4, 4), {"uniform": uniform})
    assert sorted(set(positions.tolist())) == [99, 149, 199, 249] and positions.tolist().count(99) == 10


# ---- the position without the state ----


@pytest.mark.parametrize(("formula", "level"), [("declared", 749), ("rcod-o", 200), ("rcod-s", 249)])
def test_as_is_is_the_released_formula(backbone: LatentBackbone, lq: Tensor, formula: str, level: int) -> None:
    steering = Component("as-is", {"formula": formula})
    osediff = build_method(backbone, None, Component("osediff", {"timestep": 749}), steering).eval()
    result = osediff.restore_image(lq)
    z_lq = result.z_lq.double().numpy()
    noise = eps(backbone, z_lq, 749, backbone.embed("clean", 1))
    close(result.z0, (z_lq - (1 - ABAR[level]) ** 0.5 * noise) / ABAR[level] ** 0.5)


def test_osediff_declares_999_and_draws_nothing(backbone: LatentBackbone, lq: Tensor) -> None:
    osediff = method("osediff", backbone)
    results = [osediff.restore_image(lq, seeds=[seed]) for seed in (0, 1)]
    assert results[0].anchor.timestep.tolist() == [999.0] and osediff.estimator is None
    assert results[0].steered.realism is None
    assert torch.equal(results[0].z0, results[1].z0)


def test_temperature_goes_from_the_mean_to_a_sample(schedule: NoiseSchedule) -> None:
    z = torch.zeros(1, 4, 8, 8)
    anchor = Anchor(torch.tensor([199.0]), z + 0.3, spread=z + 0.5)
    sigma, xi = float(schedule.sigma(torch.tensor([199.0]))), canvas_noise([7], (4, 8, 8))
    for tau, realism, used in ((None, 0.0, 0.0), (None, 0.4, 0.4), (1.0, 0.0, 1.0)):
        steered = Temperature(tau)(anchor, z, realism, [7], schedule)
        assert (steered.realism is None) == (tau is not None)
        torch.testing.assert_close(steered.state, sigma * (0.3 + used * 0.5 * xi))
        assert steered.timestep.tolist() == [199.0]
    assert Temperature().dial and not Temperature(1.0).dial and not AsIs().dial
    with pytest.raises(ValueError, match="spread"):
        Temperature()(Anchor(torch.tensor([199.0]), z), z, 0.0, [7], schedule)


# ---- the regulariser ----


def test_ranges_of_the_regulariser() -> None:
    timestep, ends = torch.tensor([249.0, 499.0, 749.0]), []
    for name in ("tied", "free", "released"):
        ends.append([RANGES[name](timestep, torch.full((3,), u)).tolist() for u in (0.0, 1.0)])
    assert ends[0] == [[20, 249, 499], [499, 749, 980]]
    assert ends[1] == [[20, 20, 20], [980, 980, 980]]
    assert ends[2] == [[20, 20, 200], [980, 980, 980]]


def test_guidance_of_the_prior_is_classifier_free_and_neutral_at_1() -> None:
    torch.manual_seed(0)
    prior = presets.tiny()
    lora.add_lora(prior.unet, lora.FAKE_SCORE, 2)
    z0 = torch.randn(2, 8, 8, 8)
    batch = {"timestep": torch.tensor([300.0, 600.0]), "seed": torch.arange(2), "uniform": torch.rand(2, 8)}
    tokens = Condition(prior.embed("clean", 2), prior.embed("degraded", 2))
    # An untrained fake score is the prior itself, so the value is what guidance adds: (scale - 1) times the difference.
    values = [Distillation("free", scale).distill(prior, z0, tokens, batch) for scale in (1.0, 2.0, 3.5)]
    assert values[0].tolist() == [0, 0]
    torch.testing.assert_close(values[2], 2.5 * values[1], rtol=1e-3, atol=1e-5)
    assert float(values[1].min()) > 0
    with pytest.raises(ValueError, match="negative"):
        Distillation(guidance=7.5).distill(prior, z0, Condition(tokens.positive), batch)


# ---- options ----


def test_an_option_that_a_method_lacks_is_refused_naming_those_it_has() -> None:
    torch.manual_seed(0)
    tiny = presets.tiny()
    invsr = IDaSSRPipeline.from_backbone(tiny, predictor(tiny), "invsr").eval()
    with pytest.raises(ValueError, match="invsr has no option 'group'; it has steps, timesteps"):
        invsr.set_options(group="fid")
    with pytest.raises(ValueError, match="invsr has no dial; it has steps, timesteps"):
        invsr(torch.rand(3, 16, 16), realism=0.3)
    with pytest.raises(ValueError, match="1 to 5 steps, not 6"):
        invsr.set_options(steps=6)
    with pytest.raises(ValueError, match="must descend"):
        invsr.set_options(timesteps=[100, 200])
    assert invsr.config["options"] in (None, {}), "what was refused has stayed"
    idas = IDaSSRPipeline.from_random("tiny")
    with pytest.raises(ValueError, match="idas has no option 'steps'; it has realism, steering, kappa"):
        idas.set_options(steps=2)


def test_steps_change_the_picture_and_the_seed_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiny = presets.tiny()
    pipe = IDaSSRPipeline.from_backbone(tiny, predictor(tiny), "invsr").eval()
    picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    one, again, other = (pipe(picture, seed=seed, output_type="pt").images for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    pipe.set_options(steps=3)
    three = pipe(picture, seed=0, output_type="pt").images
    assert not torch.equal(one, three)
    pipe.save_pretrained(tmp_path)
    loaded = IDaSSRPipeline.from_pretrained(tmp_path, "invsr")
    assert torch.equal(loaded(picture, seed=0, output_type="pt").images, three), "method, estimator and steps are saved"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_restores_with_random_weights(name: str) -> None:
    contract.restores(name)


def test_a_component_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="There is no method called 'esrgan'; choose one of idas, invsr"):
        method("esrgan", presets.tiny())


# ---- RCOD ----


def rcod(backbone: LatentBackbone, group: str = "auto", low: float = 0.4, high: float = 1.0, **args: object) -> RCOD:
    torch.manual_seed(3)
    estimator = SimilarityEstimator(8, low, high)
    made = build_method(
        backbone, estimator, Component("rcod", {"group": group, **args}), conditioner=Component("prompt")
    )
    assert isinstance(made, RCOD)
    return made.eval()


def test_groups_of_the_paper_and_of_the_released_code(backbone: LatentBackbone) -> None:
    similarity = np.array([0.2, 0.4, 0.45, 0.59, 0.61, 0.79, 0.81, 0.99, 1.0])
    for groups in (1, 2, 3, 4):
        number = np.clip(groups - np.floor(groups * (similarity - 0.4) / 0.6), 1, groups)
        found = rcod(backbone, groups=groups).timestep_of(torch.from_numpy(similarity).float())
        np.testing.assert_array_equal(found.numpy(), 250 * number - 1)
    released = rcod(backbone, grouping="released").timestep_of(torch.tensor([0.71, 0.7, 0.69, 0.5, 0.49, 0.1]))
    assert released.tolist() == [249, 249, 499, 499, 749, 749]


def test_rcod_with_one_group_is_its_host(backbone: LatentBackbone, lq: Tensor) -> None:
    host = method("osediff", backbone, timestep=249.0).restore_image(lq)
    for group in ("auto", "fid"):
        assert torch.equal(rcod(backbone, group, groups=1).restore_image(lq).z0, host.z0)
    assert not torch.equal(rcod(backbone, "neu").restore_image(lq).z0, host.z0)


def test_a_person_or_the_estimator_chooses_the_group(backbone: LatentBackbone, lq: Tensor) -> None:
    for group, index in (("fid", 249), ("neu", 499), ("real", 749)):
        assert rcod(backbone, group).restore_image(lq).steered.timestep.tolist() == [index]
    guess = float(rcod(backbone).estimator(lq).detach())
    for low, high, index in (
        (guess - 0.9, guess + 0.1, 249),
        (guess - 0.5, guess + 0.5, 499),
        (guess - 0.1, guess + 0.9, 749),
    ):
        assert rcod(backbone, low=low, high=high).restore_image(lq).steered.timestep.tolist() == [index]
    with pytest.raises(ValueError, match="no group called 'neu'; choose from auto, fid"):
        rcod(backbone, "neu", groups=1)


def test_a_visual_prompt_depends_on_the_picture_and_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pipe = IDaSSRPipeline.from_random("tiny", method="rcod")
    a, b = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)).unbind(0)
    prompts = [pipe.conditioner(p[None] * 2 - 1, pipe.restorer.backbone).positive for p in (a, b)]
    assert prompts[0].shape == (1, 17, 8) and not torch.allclose(*prompts, atol=1e-4)
    pipe.set_options(group="real")
    before = pipe(a, output_type="pt").images
    pipe.save_pretrained(tmp_path)
    assert torch.equal(IDaSSRPipeline.from_pretrained(tmp_path, "rcod")(a, output_type="pt").images, before)


def test_a_clip_gives_the_visual_prompt(tmp_path: Path, backbone: LatentBackbone) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**small, patch_size=32)).save_pretrained(tmp_path / "clip")
    prompt = VisualPrompt(8, clip=str(tmp_path / "clip"))
    assert prompt(torch.zeros(2, 3, 20, 24), backbone).positive.shape == (2, 50, 8)
    assert {name for name, _ in prompt.named_parameters()} == {"project.weight", "project.bias"}, "CLIP is not trained"
    with pytest.raises(ValueError, match="There is no CLIP in"):
        VisualPrompt(8, clip=str(tmp_path))


# ---- the study ----


def test_the_study_has_a_row_for_every_signature() -> None:
    rows = {row.name: row for row in study_methods.rows_of(MODELS / "compact", [])}
    assert {"idas, realism 0", "idas, realism 0.5", "idas, realism 1"} < rows.keys()
    guided = rows["idas, realism 0.5, HD-CLIP, CFPG a"]
    assert guided.slots["guider"]["args"]["form"] == "a" and guided.call == {"realism": 0.5}
    assert guided.trained > rows["idas, realism 0.5"].trained > 3e6
    picture = {"a": ROOT / "examples" / "street.png"}
    identities = {study_methods.identity(row, picture) for row in rows.values()}
    assert len(identities) == len(rows), "two rows would be taken for one"
    plain = study_methods.Row("s3diff", lambda: None, [])
    names = [(row.name, row.options) for row in study_methods.settings_of(plain, "s3diff")]
    assert names == [("s3diff", {"guided": True}), ("s3diff, C = identity", {"guided": False})]


# ---- from a training to a model ----


@pytest.mark.parametrize("name", ["invsr", "osediff", "rcod"])
def test_an_exported_adapter_is_the_trained_method(name: str, photographs: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    prior = presets.tiny()
    IDaSSRPipeline.from_backbone(prior, None, method=None).save_pretrained(tmp_path / "model")
    save_parts(tmp_path / "prior" / "model", prior)
    stage = CONFIGS / "train" / "compact" / "methods" / f"{name}.yaml"
    overrides = [
        *tiny_overrides(stage, photographs, tmp_path / "run"),
        f"train.init={tmp_path / 'prior'}",
        "train.lr=0.05",
    ]
    train_stage(load_config(CONFIGS / "base.yaml", stage, overrides=[*overrides, "data.crop=32", "train.ema=0"]))
    said = export_adapter.export(tmp_path / "run", tmp_path / "model")
    assert f"adapters/{name}" in said
    picture = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0))
    pipes = [IDaSSRPipeline.from_pretrained(tmp_path / folder, name) for folder in ("run/model", "model")]
    one, two = (pipe(picture, output_type="pt").images for pipe in pipes)
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    # What was trained counts: the prior alone gives another picture.
    torch.manual_seed(0)
    untrained = IDaSSRPipeline.from_backbone(prior, pipes[0].estimator, name, conditioner=pipes[0].conditioner)
    if name != "invsr":
        assert not torch.allclose(untrained(picture, output_type="pt").images, one, atol=1e-4)
    # The same command line, with the options of this method only.
    np_picture = (picture.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(np_picture).save(tmp_path / "in" / "a.png")
    command = ["infer", "-i", str(tmp_path / "in"), "--model", str(tmp_path / "model"), "--method", name]
    options = {
        "invsr": [["--steps", "3"], ["--timesteps", "200", "100"]],
        "osediff": [[]],
        "rcod": [["--group", "real"]],
    }
    for index, option in enumerate(options[name]):
        assert main([*command, "-o", str(tmp_path / f"out{index}"), *option]) == 0
        assert (tmp_path / f"out{index}" / "a.png").is_file()
    if name == "invsr":
        shutil.copytree(tmp_path / "out0", tmp_path / "hq")
        places = ["-i", str(tmp_path / "in"), "-r", str(tmp_path / "hq"), "-o", str(tmp_path / "study")]
        study = [*places, "--model", str(tmp_path / "model"), "--threads", "1", "--also", f"run={tmp_path / 'run'}"]
        assert study_methods.main(study) == 0
        table = read_result(tmp_path / "study" / "methods.json")["rows"]
        assert [table[f"invsr, steps {count}"]["unet_evaluations"] for count in STEPS] == [1, 2, 3, 4, 5]
        assert {"bicubic", "unsharp", "grain"} < table.keys()
        assert table["run"]["trained"] == table["invsr, steps 1"]["trained"] > 0
        means = {name: row["mean"]["psnr_y"] for name, row in table.items()}
        # With as many steps as its stage says.
        assert means["run"] == pytest.approx(means["invsr, steps 2"], abs=1e-3)
        # The reference is what three steps gave.
        assert means["invsr, steps 3"] > means["invsr, steps 1"]
        # Again: what is done is read, and a row whose record is lost is made anew.
        (tmp_path / "study" / "invsr, steps 2.json").unlink()
        times = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "study").glob("*/a.png")}
        assert study_methods.main(study) == 0
        again = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "study").glob("*/a.png")}
        changed = {row for row in table if again[row] != times[row]}
        assert changed - {"bicubic", "unsharp", "grain"} == {"invsr, steps 2"}
    wrong = ["--group", "fid"] if name == "invsr" else ["--steps", "2"]
    for option in (wrong, ["--realism", "0.5"], ["--kappa", "2"]):
        assert main([*command, "-o", str(tmp_path / "none"), *option]) == 2
    assert not (tmp_path / "none").exists()
