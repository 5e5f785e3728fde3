"""Acceptance tests T1 - T12 of the specification (methods.md 9.8), by name, on real networks and the real schedule."""

# ruff: noqa: N802  (the names carry the labels of the specification)

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from idas_sr import steering as steering_module
from idas_sr.methods.base import Method
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.presets import SD_TURBO_SCHEDULER
from idas_sr.noise import canvas_noise
from idas_sr.resample import upsample
from idas_sr.schedule import NoiseSchedule, unsqueeze_like
from idas_sr.steering import RESCHEDULES, STEERINGS, Churn, Steering
from idas_sr.types import Anchor

GRID = torch.linspace(0, 1, 11).tolist()
ABSOLUTE = {"kind": "absolute", "t_end": 499.0}
ENDS = {"relative": {"kind": "relative", "kappa": 2.4}, "absolute": ABSOLUTE}
every_dial = pytest.mark.parametrize("end", ENDS)
every_reschedule = pytest.mark.parametrize("reschedule", list(RESCHEDULES))


def constant(value: float, like: Tensor) -> Tensor:
    return torch.full((len(like),), value)


def calibrated(schedule: NoiseSchedule, t_hat: float = 199.0, size: int = 512) -> tuple[Anchor, Tensor, Tensor]:
    """(anchor, z_lq, z_hq) with more than 1e6 elements: rms(z_lq - z_hq) = .55, inversion noise of equation A2."""
    generator = torch.Generator().manual_seed(0)
    z_hq, deviation, u = (torch.randn(1, 4, size, size, generator=generator) for _ in range(3))
    deviation = 0.55 * deviation
    timestep = torch.tensor([t_hat])
    noise = u - deviation / unsqueeze_like(schedule.sigma(timestep), u)
    return Anchor(timestep, noise), z_hq + deviation, z_hq


def state_ratios(steering: Steering, schedule: NoiseSchedule, t_hat: float = 199.0) -> list[float]:
    """rms(y_r - z_hq) / w(t_r) over the grid of realism."""
    anchor, z_lq, z_hq = calibrated(schedule, t_hat)
    ratios = []
    for realism in GRID:
        steered = steering(anchor, z_lq, realism, [0], schedule)
        ratios.append(float((steered.state - z_hq).double().square().mean().sqrt() / schedule.sigma(steered.timestep)))
    return ratios


@contextmanager
def calls(module: nn.Module) -> Iterator[list[tuple]]:
    """The positional arguments of every call of a real module."""
    seen: list[tuple] = []
    handle = module.register_forward_hook(lambda _, args, __: seen.append(args))
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple]]:
    """Which fresh noise steering asks for; the real function still answers."""
    asked: list[tuple] = []

    def watched(*args: object) -> Tensor:
        asked.append(args)
        return canvas_noise(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(steering_module, "canvas_noise", watched)
        yield asked


@pytest.fixture
def lq() -> Tensor:
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(3)) * 2 - 1


# ---- T1: VE and VP forms ----


@pytest.mark.parametrize("t", [0.0, 24.5, 199.0, 499.0, 749.25])
def test_T1_ve_and_vp_forms_agree(tiny_backbone: LatentBackbone, t: float) -> None:
    generator = torch.Generator().manual_seed(1)
    z, noise = torch.randn(2, 2, 8, 8, 8, generator=generator).unbind(0)
    timestep, tokens = constant(t, z), tiny_backbone.embed("clean", 2)
    signal, amplitude, sigma = (unsqueeze_like(c, z) for c in tiny_backbone.schedule.coef(timestep))
    with torch.no_grad():
        ve = tiny_backbone.predict_z0(z + sigma * noise, timestep, tokens)
        z_t = signal * z + amplitude * noise
        vp = (z_t - amplitude * tiny_backbone.predict_eps(z_t, timestep, tokens)) / signal
    assert float((ve - vp).abs().max()) <= 1e-6 * max(1.0, float(ve.abs().max()))
    assert float((ve - z).abs().max()) > 1e-3  # the network did something


def test_T1_x0_uses_the_states_level_and_no_other(tiny_method: Method, lq: Tensor) -> None:
    with torch.no_grad():
        restored = tiny_method.restore(lq, 1.0)
        state, t_r = restored.steered.state, restored.steered.timestep
        sigma = unsqueeze_like(tiny_method.backbone.schedule.sigma(t_r), state)
        tokens = tiny_method.conditioner(lq, tiny_method.backbone).positive
        eps = tiny_method.backbone.predict_eps(state / (1 + sigma**2).sqrt(), t_r, tokens)
    torch.testing.assert_close(restored.z0, state - sigma * eps, atol=1e-5, rtol=1e-5)


# ---- T2: index convention ----


def test_T2_index_convention(schedule: NoiseSchedule) -> None:
    assert float(schedule.coef(torch.tensor([199.0]))[2]) == pytest.approx(0.5693, abs=1e-4)
    signal, noise, _ = schedule.coef(torch.tensor([249.0]))
    assert float(signal / noise) == pytest.approx(1.4426, abs=1e-4)
    # RCOD's constant is one of index 200, InvSR's user-facing "200" is index 199.
    assert float(schedule.coef(torch.tensor([200.0]))[0] ** 2) == pytest.approx(0.7537, abs=5e-5)


# ---- T3: realism 0 ----


def test_T3_realism_0_does_not_depend_on_the_seed(tiny_method: Method, lq: Tensor) -> None:
    with torch.no_grad():
        first, second = (tiny_method.restore(lq, 0.0, seeds) for seeds in ([0, 1], [98, 99]))
        moved = [tiny_method.restore(lq, 1.0, seeds).hq for seeds in ([0, 1], [98, 99])]
    assert torch.equal(first.hq, second.hq)
    assert not torch.equal(*moved)


def test_T3_realism_0_is_the_mine_only_path(tiny_method: Method, lq: Tensor) -> None:
    backbone = tiny_method.backbone
    with torch.no_grad():
        restored = tiny_method.restore(lq, 0.0)
        z_lq = backbone.encode(upsample(lq, 4))
        anchor = tiny_method.anchor(lq, z_lq)
        sigma = backbone.schedule.sigma(anchor.timestep)
        state = z_lq - anchor.deviation + unsqueeze_like(sigma, z_lq) * anchor.noise
        z0 = backbone.predict_z0(state, anchor.timestep, backbone.embed("clean", 2))
        assert torch.equal(restored.steered.state, state)
        assert torch.equal(restored.steered.timestep, anchor.timestep)
        assert torch.equal(restored.hq, backbone.decode(z0))


@pytest.mark.parametrize("round_timestep", [False, True])
def test_T3_realism_0_draws_nothing(
    schedule: NoiseSchedule, monkeypatch: pytest.MonkeyPatch, round_timestep: bool
) -> None:
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    # Positions that round upwards: their level is above the anchor's unless the anchor is rounded too.
    anchor = Anchor(torch.tensor([199.7, 250.5001, 399.0]), z.flip(0))
    with drawn(monkeypatch) as asked:
        steered = Churn(round_timestep=round_timestep)(anchor, z, 0.0, [0, 1, 2], schedule)
        assert not asked
        assert steered.fresh.tolist() == [0.0] * 3
        Churn()(anchor, z, 0.5, [0, 1, 2], schedule)
        assert len(asked) == 1


def test_T3_realism_0_within_a_batch_of_others(schedule: NoiseSchedule) -> None:
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    anchor, realism = Anchor(torch.tensor([199.0, 250.0]), z.flip(0)), torch.tensor([0.0, 1.0])
    first, second = (Churn()(anchor, z, realism, seeds, schedule).state for seeds in ([0, 1], [2, 3]))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


# ---- T4: variance ----


@every_dial
@every_reschedule
def test_T4_variance_n1_keeps_the_declared_level(schedule: NoiseSchedule, reschedule: str, end: str) -> None:
    ratios = state_ratios(STEERINGS["n1"](reschedule, **ENDS[end]), schedule)
    assert max(abs(ratio - 1) for ratio in ratios) <= 0.01, ratios


@every_dial
@every_reschedule
def test_T4_variance_n4_fails_the_same_criterion(schedule: NoiseSchedule, reschedule: str, end: str) -> None:
    ratios = state_ratios(STEERINGS["n4"](reschedule, **ENDS[end]), schedule)
    assert max(abs(ratio - 1) for ratio in ratios) > 0.1, ratios
    # At its start it is the anchor: only the middle and the end drift.
    assert abs(ratios[0] - 1) <= 0.01


def effective(steering: Steering, anchor: Anchor, z_lq: Tensor, z_hq: Tensor, schedule: NoiseSchedule) -> list[float]:
    """Timesteps whose level the states really have, at r = 0, .25, .5, .75, 1."""
    states = [steering(anchor, z_lq, r, [0], schedule).state for r in (0, 0.25, 0.5, 0.75, 1)]
    return [float(schedule.timestep_of((state - z_hq).square().mean().sqrt()[None])) for state in states]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("n1", [199, 266, 341, 419, 499]),
        ("n2", [199, 269, 342, 420, 515]),
        ("n4", [199, 205, 245, 358, 515]),
    ],
)
def test_T4_variance_steerings_of_the_whole_noise_sit_where_the_specification_says(
    schedule: NoiseSchedule, name: str, expected: list[float]
) -> None:
    """The Monte-Carlo check of 9.4: absolute end 499, log-w reschedule, anchor noise u - d / w (A2)."""
    found = effective(STEERINGS[name]("s2", **ABSOLUTE), *calibrated(schedule), schedule)
    assert found == pytest.approx(expected, abs=2.0)


def split(schedule: NoiseSchedule, error: float) -> tuple[Anchor, Tensor, Tensor]:
    """(anchor, z_lq, z_hq) of parameterisation I-2 at 199: the deviation is known but for ``error`` (rms)."""
    generator = torch.Generator().manual_seed(0)
    z_hq, known, unknown, u = (torch.randn(1, 4, 512, 512, generator=generator) for _ in range(4))
    timestep = torch.tensor([199.0])
    known, unknown = (0.55**2 - error**2) ** 0.5 * known, error * unknown
    share = (1 - (error / schedule.sigma(timestep)) ** 2).sqrt()
    return Anchor(timestep, unsqueeze_like(share, u) * u, known), z_hq + known + unknown, z_hq


def test_T4_variance_n3_with_a_known_deviation_is_declared(schedule: NoiseSchedule) -> None:
    found = effective(STEERINGS["n3"]("s2", **ABSOLUTE), *split(schedule, 0.0), schedule)
    assert found == pytest.approx([199, 266, 341, 419, 499], abs=2.0)


def test_T4_variance_n3_has_the_gap_of_the_specification(schedule: NoiseSchedule) -> None:
    """w_r^2 + e^2 (1 - cos^2 w_r^2 / w^2), for e = .45: gaps 0, -.09, -.05, .02, .04 (9.4)."""
    anchor, z_lq, z_hq = split(schedule, 0.45)
    gaps = []
    for r in (0, 0.25, 0.5, 0.75, 1):
        steered = STEERINGS["n3"]("s2", **ABSOLUTE)(anchor, z_lq, r, [0], schedule)
        level = (steered.state - z_hq).square().mean().sqrt() / schedule.sigma(steered.timestep)
        gaps.append(float(level.log()))
    assert gaps == pytest.approx([0, -0.09, -0.05, 0.02, 0.04], abs=0.006)


def test_n2_of_i2_is_n2_of_the_noise_it_stands_for(schedule: NoiseSchedule) -> None:
    """The anchor z_L - d + w u is z_L + w eta with eta = u - d / w: N2 turns that eta, so d comes back with r."""
    anchor, z_lq, _ = split(schedule, 0.3)
    assert anchor.noise is not None and anchor.deviation is not None
    eta = anchor.noise - anchor.deviation / unsqueeze_like(schedule.sigma(anchor.timestep), z_lq)
    for realism in (0.3, 0.8, 1.0):
        ours = STEERINGS["n2"]()(anchor, z_lq, realism, [0], schedule).state
        whole = STEERINGS["n2"]()(Anchor(anchor.timestep, eta), z_lq, realism, [0], schedule).state
        torch.testing.assert_close(ours, whole, atol=1e-5, rtol=1e-5)


def test_n2_and_n3_forget_the_anchors_noise_at_realism_1(schedule: NoiseSchedule) -> None:
    anchor, z_lq, _ = split(schedule, 0.3)
    assert anchor.noise is not None and anchor.deviation is not None
    other = Anchor(anchor.timestep, anchor.noise.flip(-1), anchor.deviation)
    for name, centre in (("n2", z_lq), ("n3", z_lq - anchor.deviation)):
        first, second = (STEERINGS[name]()(a, z_lq, 1.0, [0], schedule) for a in (anchor, other))
        torch.testing.assert_close(first.state, second.state)
        fresh = unsqueeze_like(first.fresh, centre) * canvas_noise([0], (4, 512, 512))
        torch.testing.assert_close(first.state, centre + fresh, atol=1e-5, rtol=1e-5)


# ---- T5: N1 is the forward kernel ----


@every_dial
@pytest.mark.parametrize("realism", [0.1, 0.5, 1.0])
def test_T5_n1_is_the_two_stage_forward_kernel(schedule: NoiseSchedule, end: str, realism: float) -> None:
    generator = torch.Generator().manual_seed(2)
    z_lq, noise = torch.randn(2, 2, 4, 16, 16, generator=generator).unbind(0)
    anchor = Anchor(torch.tensor([120.5, 199.0]), noise)
    steered = Churn(**ENDS[end])(anchor, z_lq, realism, [4, 5], schedule)
    signal, amplitude, _ = (unsqueeze_like(c, z_lq) for c in schedule.coef(anchor.timestep))
    later, _, _ = (unsqueeze_like(c, z_lq) for c in schedule.coef(steered.timestep))
    # First to t-hat in VP form, then from t-hat to t_r by the chain's own transition.
    z_hat, share = signal * z_lq + amplitude * noise, (later / signal) ** 2
    z_r = share.sqrt() * z_hat + (1 - share).sqrt() * canvas_noise([4, 5], (4, 16, 16))
    torch.testing.assert_close(steered.state * later, z_r, atol=2e-5, rtol=1e-5)


# ---- T6: reschedule ----


@every_dial
@every_reschedule
@pytest.mark.parametrize("round_timestep", [False, True])
def test_T6_reschedule(schedule: NoiseSchedule, reschedule: str, end: str, round_timestep: bool) -> None:
    t_hat = torch.tensor([49.0, 123.4, 199.0, 305.6])
    z = torch.zeros(4, 1, 4, 4)
    dial = Churn(reschedule, round_timestep, **ENDS[end])
    steps = [dial(Anchor(t_hat, z), z, realism, range(4), schedule) for realism in GRID]
    positions = torch.stack([step.timestep for step in steps])
    assert (positions.diff(dim=0) > 0).all()
    start = t_hat.round() if round_timestep else t_hat
    assert torch.equal(positions[0], start)
    w_end = torch.minimum(2.4 * schedule.sigma(start), schedule.sigma(torch.tensor([599.0])))
    t_end = torch.full((4,), 499.0) if end == "absolute" else schedule.timestep_of(w_end)
    torch.testing.assert_close(positions[-1], t_end.round() if round_timestep else t_end, atol=1e-3, rtol=0)
    for step in steps:
        assert torch.equal(step.sigma, schedule.sigma(step.timestep))
        assert not round_timestep or torch.equal(step.timestep, step.timestep.round())
        total = (step.keep.double() ** 2 + step.fresh.double() ** 2).sqrt()
        torch.testing.assert_close(total, schedule.sigma(step.timestep).double(), atol=0, rtol=2e-6)


def test_T6_inverse_of_sigma(schedule: NoiseSchedule) -> None:
    timestep = torch.cat([torch.arange(1000.0), torch.linspace(0, 999, 5001)])
    torch.testing.assert_close(schedule.timestep_of(schedule.sigma(timestep)), timestep, atol=1e-3, rtol=0)
    sigma = torch.logspace(-1.5, 1.1, 200)
    torch.testing.assert_close(schedule.sigma(schedule.timestep_of(sigma)), sigma, atol=0, rtol=2e-6)


# ---- T7: continuity ----


@every_reschedule
def test_T7_state_is_continuous_in_realism(schedule: NoiseSchedule, reschedule: str) -> None:
    generator = torch.Generator().manual_seed(5)
    z, noise = torch.randn(2, 1, 4, 64, 64, generator=generator).unbind(0)
    dial, anchor = Churn(reschedule), Anchor(torch.tensor([199.0]), noise)

    def squared_moves(grid: list[float]) -> Tensor:
        states = torch.stack([dial(anchor, z, r, [0], schedule).state for r in grid])
        return states.diff(dim=0).double().square().mean((1, 2, 3, 4))

    whole = torch.linspace(0, 1, 201).tolist()
    assert float(squared_moves(whole).max()) / 0.005 <= 2.0  # Hoelder 1/2 up to 0
    inner = torch.linspace(0.05, 1, 191).tolist()
    assert float(squared_moves(inner).sqrt().max()) / 0.005 <= 3.0  # Lipschitz from .05 on


# ---- T8: one evaluation ----


@pytest.mark.parametrize("realism", [0.0, 0.7, 1.0])
def test_T8_one_unet_evaluation_and_one_decode(tiny_method: Method, lq: Tensor, realism: float) -> None:
    backbone = tiny_method.backbone
    with torch.no_grad(), calls(backbone.unet) as unet, calls(backbone.vae.decoder) as decoder:
        restored = tiny_method.restore(lq, realism)
    assert len(unet) == 1
    assert len(decoder) == 1
    # What the UNet saw: the VP state at t_r, for the whole batch at once.
    sample, timestep = unet[0][:2]
    sigma = unsqueeze_like(restored.steered.sigma, sample)
    torch.testing.assert_close(sample, restored.steered.state / (1 + sigma**2).sqrt(), atol=1e-6, rtol=1e-6)
    assert torch.equal(timestep, restored.steered.timestep)
    # And the state is the anchor's plus noise of rms b_r.
    anchored = tiny_method.restore(lq, 0.0).steered.state
    moved = (restored.steered.state - anchored).square().mean((1, 2, 3)).sqrt()
    assert moved.tolist() == pytest.approx(restored.steered.fresh.tolist(), rel=0.1)


# ---- T9: reduction to InvSR ----


def numpy_invsr_step(z_lq: np.ndarray, noise: np.ndarray, unet: UNet2DConditionModel, tokens: Tensor) -> np.ndarray:
    """InvSR's single step from user timestep 200, i.e. index 199, with its own cache of sigmas (1.3 of methods.md)."""
    c = SD_TURBO_SCHEDULER
    betas = np.linspace(c["beta_start"] ** 0.5, c["beta_end"] ** 0.5, c["num_train_timesteps"]) ** 2
    alphas_cumprod = np.cumprod(1 - betas)
    sigma = np.sqrt((1 - alphas_cumprod) / alphas_cumprod)[200 - 1]
    y = z_lq + sigma * noise
    model_input = torch.from_numpy(y / np.sqrt(sigma**2 + 1)).float()
    with torch.no_grad():
        eps = unet(model_input, 200 - 1, encoder_hidden_states=tokens).sample
    return y - sigma * eps.double().numpy()


def test_T9_fixed_position_is_invsr(tiny_backbone: LatentBackbone) -> None:
    generator = torch.Generator().manual_seed(6)
    z_lq, mean, xi = torch.randn(3, 1, 8, 8, 8, generator=generator).unbind(0)
    noise = mean + 0.3 * xi
    steered = Churn()(Anchor(torch.tensor([199.0]), noise), z_lq, 0.0, [0], tiny_backbone.schedule)
    tokens = tiny_backbone.embed("clean", 1)
    with torch.no_grad():
        z0 = tiny_backbone.predict_z0(steered.state, steered.timestep, tokens, steered.sigma)
    expected = numpy_invsr_step(z_lq.double().numpy(), noise.double().numpy(), tiny_backbone.unet, tokens)
    np.testing.assert_allclose(z0.numpy(), expected, atol=2e-5)


# ---- T10: tiles ----


def test_T10_tile_of_the_state_is_a_crop_of_the_whole(schedule: NoiseSchedule) -> None:
    z, noise = torch.randn(2, 1, 4, 100, 90, generator=torch.Generator().manual_seed(7)).unbind(0)
    whole = Churn()(Anchor(torch.tensor([199.0]), noise), z, 0.8, [5], schedule).state
    window = (..., slice(40, 100), slice(17, 77))
    tile = Churn()(Anchor(torch.tensor([199.0]), noise[window]), z[window], 0.8, [5], schedule, (40, 17)).state
    assert torch.equal(tile, whole[window])


# ---- T11: fidelity ----


def test_T11_mmse_grows_with_realism_on_a_gaussian(schedule: NoiseSchedule) -> None:
    """Prior N(0, I): the best denoiser is y / (1 + w^2), its error w^2 / (1 + w^2); more noise cannot help it."""
    generator = torch.Generator().manual_seed(8)
    z_hq, u = torch.randn(2, 1, 4, 512, 512, generator=generator).unbind(0)
    anchor = Anchor(torch.tensor([199.0]), u)
    errors = []
    for realism in GRID:
        steered = Churn()(anchor, z_hq, realism, [9], schedule)
        sigma = unsqueeze_like(steered.sigma, z_hq).double()
        errors.append(float((steered.state.double() / (1 + sigma**2) - z_hq).square().mean()))
        assert errors[-1] == pytest.approx(float(sigma**2 / (1 + sigma**2)), rel=0.01)
    assert all(later >= earlier for earlier, later in pairwise(errors)), errors
    assert errors[-1] > 1.5 * errors[0]


# ---- T12: half precision ----


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_T12_half_precision_network_with_fp32_coefficients(tiny_backbone: LatentBackbone, dtype: torch.dtype) -> None:
    unet = UNet2DConditionModel.from_config(tiny_backbone.unet.config)
    unet.load_state_dict(tiny_backbone.unet.state_dict())
    half = LatentBackbone(tiny_backbone.vae, unet.to(dtype), tiny_backbone.prompt, tiny_backbone.schedule)
    timestep = torch.tensor([999.0, 199.0])
    sigma = half.schedule.sigma(timestep)
    assert sigma.dtype == torch.float32
    assert float(sigma[0]) == pytest.approx(14.6146, abs=1e-4)
    z, noise = torch.randn(2, 2, 8, 8, 8, generator=torch.Generator().manual_seed(9)).unbind(0)
    state = z + unsqueeze_like(sigma, z) * noise
    with torch.no_grad():
        tokens = tiny_backbone.embed("clean", 2)
        low, full = (b.predict_z0(state, timestep, tokens) for b in (half, tiny_backbone))
    assert low.dtype == torch.float32
    assert low.isfinite().all()
    # The network's rounding is amplified by w, nothing else is rounded.
    limit = unsqueeze_like(sigma, z) * (0.005 if dtype == torch.float16 else 0.05)
    assert ((low - full).abs() <= limit).all()


def test_every_listed_acceptance_test_is_here() -> None:
    names = [name for name, value in globals().items() if inspect.isfunction(value) and name.startswith("test_T")]
    assert {int(name.split("_")[1][1:]) for name in names} == set(range(1, 13))
