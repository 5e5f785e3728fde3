"""The contract of every steering, and the values of CHARIOT's reschedules and end points."""

import copy

import pytest
import torch
from torch import Tensor

from idas_sr.noise import canvas_noise
from idas_sr.schedule import NoiseSchedule, unsqueeze_like
from idas_sr.steering import RESCHEDULES, STEERINGS, Churn, EndPoint, Steering
from idas_sr.types import Anchor, Steered

GRID = torch.linspace(0, 1, 11).tolist()
every_steering = pytest.mark.parametrize("name", ("n1", "n2", "n3", "n4", "label-only", "noise-only"))
"""With a dial; those without are in test_methods.py."""


@pytest.fixture
def anchor() -> Anchor:
    noise, deviation = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    residual, spread = torch.tensor([0.1, 0.3, 0.5]), torch.full_like(noise, 0.8)
    return Anchor(torch.tensor([60.0, 199.5, 390.0]), noise, 0.5 * deviation, residual, spread=spread)


@pytest.fixture
def z_lq() -> Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@every_steering
def test_input_is_untouched(name: str, anchor: Anchor, z_lq: Tensor, schedule: NoiseSchedule) -> None:
    before, z_before = copy.deepcopy(anchor), z_lq.clone()
    STEERINGS[name]()(anchor, z_lq, 0.7, [0, 1, 2], schedule)
    assert torch.equal(z_lq, z_before)
    for field in ("timestep", "noise", "deviation", "residual"):
        assert torch.equal(getattr(anchor, field), getattr(before, field))


@every_steering
@pytest.mark.parametrize("reschedule", list(RESCHEDULES))
def test_timestep_is_non_decreasing_and_inside_the_table(
    name: str, reschedule: str, z_lq: Tensor, schedule: NoiseSchedule
) -> None:
    for t_hat in ([0.0, 199.5, 390.0], [598.0, 700.0, 999.0]):
        anchor = Anchor(torch.tensor(t_hat), torch.zeros_like(z_lq), torch.zeros_like(z_lq))
        dial = STEERINGS[name](reschedule)
        positions = torch.stack([dial(anchor, z_lq, r, [0, 1, 2], schedule).timestep for r in GRID])
        assert torch.equal(positions[0], anchor.timestep)
        assert (positions.diff(dim=0) >= 0).all()
        assert (positions <= len(schedule) - 1).all()


@every_steering
def test_same_seed_same_output(name: str, anchor: Anchor, z_lq: Tensor, schedule: NoiseSchedule) -> None:
    dial = STEERINGS[name]()
    first, again, other = (dial(anchor, z_lq, 0.7, [s, s + 1, s + 2], schedule) for s in (0, 0, 50))
    assert torch.equal(first.state, again.state)
    assert torch.equal(first.state, other.state) == (name == "label-only")


def ratios(steering: Steering, schedule: NoiseSchedule) -> list[float]:
    """rms(state - z_hq) / w(timestep the UNet is told) over the dial, on a calibrated anchor of two severities."""
    generator = torch.Generator().manual_seed(2)
    z_hq, deviation, u = torch.randn(3, 2, 4, 192, 192, generator=generator).unbind(0)
    timestep = torch.tensor([150.0, 250.0])
    sigma = unsqueeze_like(schedule.sigma(timestep), u)
    error = 0.8 * sigma * deviation
    anchor = Anchor(timestep, (1 - 0.8**2) ** 0.5 * u, torch.zeros_like(u))
    out = []
    for realism in GRID:
        steered = steering(anchor, z_hq + error, realism, [0, 1], schedule)
        rms = (steered.state - z_hq).square().mean((1, 2, 3)).sqrt()
        out += (rms / schedule.sigma(steered.timestep)).tolist()
    return out


@every_steering
def test_paired_is_declared_truthfully(name: str, schedule: NoiseSchedule) -> None:
    worst = max(abs(ratio - 1) for ratio in ratios(STEERINGS[name](), schedule))
    assert worst < 0.01 if STEERINGS[name].paired else worst > 0.05


def test_some_steering_is_paired() -> None:
    assert [name for name, steering in STEERINGS.items() if steering.paired] == ["n1"]


@every_steering
def test_realism_0_is_the_anchor(name: str, anchor: Anchor, z_lq: Tensor, schedule: NoiseSchedule) -> None:
    steered = STEERINGS[name]()(anchor, z_lq, 0, [0, 1, 2], schedule)
    sigma = schedule.sigma(anchor.timestep)
    assert torch.equal(steered.state, z_lq - anchor.deviation + unsqueeze_like(sigma, z_lq) * anchor.noise)
    assert torch.equal(steered.timestep, anchor.timestep)
    assert torch.equal(steered.sigma, sigma)
    assert not steered.fresh.any()


@every_steering
def test_missing_noise_is_one_clear_error(name: str, z_lq: Tensor, schedule: NoiseSchedule) -> None:
    with pytest.raises(ValueError, match=r"needs inversion noise.*use a method that estimates it"):
        STEERINGS[name]()(Anchor(torch.tensor([60.0, 199.5, 390.0])), z_lq, 0.5, [0, 1, 2], schedule)


def test_n3_needs_a_deviation(anchor: Anchor, z_lq: Tensor, schedule: NoiseSchedule) -> None:
    with pytest.raises(ValueError, match=r"needs the deviation.*use a method that estimates it, or steering n2"):
        STEERINGS["n3"]()(Anchor(anchor.timestep, anchor.noise), z_lq, 0.5, [0, 1, 2], schedule)


@every_steering
@pytest.mark.parametrize("realism", [-0.1, 1.0001, 2, float("nan"), torch.tensor([0.0, 0.5, 1.5])])
def test_realism_outside_is_one_clear_error(
    name: str, realism: float | Tensor, anchor: Anchor, z_lq: Tensor, schedule: NoiseSchedule
) -> None:
    with pytest.raises(ValueError, match=r"realism must lie between 0 and 1"):
        STEERINGS[name]()(anchor, z_lq, realism, [0, 1, 2], schedule)


@every_steering
def test_realism_per_sample_is_one_by_one(name: str, anchor: Anchor, z_lq: Tensor, schedule: NoiseSchedule) -> None:
    dial, realism = STEERINGS[name](), torch.tensor([0.0, 0.4, 1.0])
    together = dial(anchor, z_lq, realism, [5, 6, 7], schedule)
    for i in range(3):
        one = Anchor(anchor.timestep[i : i + 1], anchor.noise[i : i + 1], anchor.deviation[i : i + 1])
        alone = dial(one, z_lq[i : i + 1], float(realism[i]), [5 + i], schedule)
        for field in ("timestep", "sigma", "keep", "fresh", "state"):
            assert torch.equal(getattr(together, field)[i : i + 1], getattr(alone, field)), field


@every_steering
def test_only_noise_and_deviation_carry_gradients(
    name: str, anchor: Anchor, z_lq: Tensor, schedule: NoiseSchedule
) -> None:
    leaves = [t.clone().requires_grad_() for t in (anchor.timestep, anchor.noise, anchor.deviation)]
    steered = STEERINGS[name]()(Anchor(*leaves), z_lq, 0.5, [0, 1, 2], schedule)
    assert not steered.timestep.requires_grad
    assert not steered.sigma.requires_grad
    steered.state.square().sum().backward()
    assert leaves[0].grad is None
    assert all(leaf.grad.abs().sum() > 0 for leaf in leaves[1:])


def chart(schedule: NoiseSchedule, reschedule: str, t_hat: float = 199.0, **end: object) -> list[Steered]:
    z = torch.zeros(1, 1, 4, 4)
    dial = Churn(reschedule, **end)
    return [dial(Anchor(torch.tensor([t_hat]), z), z, r, [0], schedule) for r in (0, 0.2, 0.4, 0.6, 0.8, 1)]


def test_s2_values(schedule: NoiseSchedule) -> None:
    positions = [float(s.timestep) for s in chart(schedule, "s2", kind="absolute", t_end=499)]
    assert positions == pytest.approx([199, 252, 310, 372, 436, 499], abs=0.5)


def test_s1_is_linear_in_the_timestep(schedule: NoiseSchedule) -> None:
    positions = [float(s.timestep) for s in chart(schedule, "s1", kind="absolute", t_end=499)]
    assert positions == pytest.approx([199, 259, 319, 379, 439, 499], abs=0.01)


def test_s3_is_linear_in_the_squared_level(schedule: NoiseSchedule) -> None:
    steps = chart(schedule, "s3", kind="absolute", t_end=499)
    assert [float(s.timestep) for s in steps] == pytest.approx([199, 317, 386, 434, 470, 499], abs=0.6)
    assert torch.stack([s.fresh**2 for s in steps]).diff(dim=0).std() < 1e-4


def test_s4_fresh_amplitude_is_linear(schedule: NoiseSchedule) -> None:
    steps = chart(schedule, "s4", kind="absolute", t_end=499)
    end = (1.6129**2 - 0.5693**2) ** 0.5
    assert [float(s.fresh) for s in steps] == pytest.approx([end * r for r in (0, 0.2, 0.4, 0.6, 0.8, 1)], abs=3e-4)
    levels = [(0.5693**2 + (r * end) ** 2) ** 0.5 for r in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    assert [float(schedule.sigma(s.timestep)) for s in steps] == pytest.approx(levels, abs=3e-4)


def test_relative_end_keeps_the_fresh_share(schedule: NoiseSchedule) -> None:
    for t_hat in (49.0, 124.0, 273.0):
        last = chart(schedule, "s2", t_hat, kappa=2.4)[-1]
        assert float(last.fresh / last.sigma) == pytest.approx((1 - 1 / 2.4**2) ** 0.5, abs=1e-4)


def test_relative_end_is_capped(schedule: NoiseSchedule) -> None:
    last = chart(schedule, "s2", 449.0, kappa=2.4)[-1]
    assert float(last.timestep) == pytest.approx(599, abs=1e-3)
    assert float(last.sigma) == pytest.approx(2.2765, abs=1e-4)


def test_end_is_never_below_the_anchor(schedule: NoiseSchedule) -> None:
    sigma = schedule.sigma(torch.tensor([100.0, 700.0]))
    assert EndPoint("absolute", t_end=499)(sigma, schedule).tolist()[1] == float(sigma[1])
    assert EndPoint("relative", kappa=2.4)(sigma, schedule).tolist()[1] == float(sigma[1])


def test_fresh_noise_is_that_of_the_canvas(schedule: NoiseSchedule) -> None:
    z = torch.zeros(1, 4, 6, 6)
    steered = Churn()(Anchor(torch.tensor([199.0]), z), z, 1.0, [42], schedule, (60, 3))
    expected = unsqueeze_like(steered.fresh, z) * canvas_noise([42], (4, 6, 6), (60, 3))
    torch.testing.assert_close(steered.state, expected)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"reschedule": "s5"}, "s1, s2, s3, s4"),
        ({"kind": "far"}, "'relative' or 'absolute'"),
        ({"kappa": 0.9}, "kappa must be at least 1"),
    ],
)
def test_bad_arguments(args: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Churn(**args)  # type: ignore[arg-type]
