"""The noise schedule: every number of the specification's table, and what lies between its rows."""

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

from idas_sr.networks.presets import SD_TURBO_SCHEDULER
from idas_sr.schedule import NoiseSchedule, unsqueeze_like

# t (0-based index), abar, signal, noise, sigma, SNR, log SNR; each is right to half a unit of its last printed digit.
TABLE = """
0 .99915 .99957 .02915 .0292 1175 7.07
24 .97756 .98871 .14981 .1515 43.6 3.77
49 .95263 .97603 .21766 .2230 20.1 3.00
74 .92524 .96189 .27343 .2843 12.4 2.52
99 .89546 .94629 .32332 .3417 8.57 2.15
124 .86341 .92920 .36958 .3977 6.32 1.84
149 .82922 .91062 .41325 .4538 4.86 1.58
174 .79309 .89056 .45487 .5108 3.83 1.34
199 .75524 .86904 .49473 .5693 3.09 1.13
200 .7537 .8682 .4963 .5717 3.06 1.12
224 .71592 .84612 .53299 .6299 2.52 .92
249 .67543 .82185 .56971 .6932 2.08 .73
273 .63574 .79733 .60354 .7569 1.75 .56
299 .59218 .76953 .63861 .8299 1.45 .37
349 .50816 .71285 .70132 .9838 1.03 .03
399 .42609 .65275 .75757 1.1606 .742 -.30
449 .34853 .59037 .80713 1.3672 .535 -.63
499 .27767 .52694 .84990 1.6129 .384 -.96
549 .21510 .46379 .88595 1.9103 .274 -1.29
599 .16175 .40218 .91556 2.2765 .193 -1.65
699 .08313 .28832 .95753 3.3211 .0907 -2.40
749 .05662 .23796 .97128 4.0817 .0600 -2.81
899 .01430 .11958 .99282 8.3028 .0145 -4.23
999 .00466 .06826 .99767 14.6146 .0047 -5.36
"""
ROWS = [row.split() for row in TABLE.strip().splitlines()]


def half_unit(printed: str) -> float:
    """Half a unit of the last printed digit, and a little for the reader's own rounding."""
    return 0.5001 * 10.0 ** -len(printed.partition(".")[2])


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_golden_row(schedule: NoiseSchedule, row: list[str]) -> None:
    signal, noise, sigma = (float(c) for c in schedule.coef(torch.tensor([float(row[0])])))
    values = (signal**2, signal, noise, sigma, sigma**-2, -2 * np.log(sigma))
    for value, printed in zip(values, row[1:], strict=True):
        assert abs(value - float(printed)) <= half_unit(printed) + 1e-6 * abs(value), (value, printed)


def test_table_is_the_schedulers_own(schedule: NoiseSchedule) -> None:
    theirs = EulerDiscreteScheduler.from_config(SD_TURBO_SCHEDULER).alphas_cumprod
    signal, noise, _ = schedule.coef(torch.arange(1000.0))
    assert len(schedule) == 1000
    torch.testing.assert_close(signal**2, theirs, atol=2e-6, rtol=0)
    torch.testing.assert_close(signal**2 + noise**2, torch.ones(1000), atol=1e-6, rtol=0)


def test_between_integers_log_sigma_is_linear(schedule: NoiseSchedule) -> None:
    low, middle, high = schedule.sigma(torch.tensor([199.0, 199.25, 200.0])).log()
    assert low < middle < high
    torch.testing.assert_close(middle, low + 0.25 * (high - low), atol=1e-6, rtol=0)


def test_outside_the_table_is_its_end(schedule: NoiseSchedule) -> None:
    assert schedule.sigma(torch.tensor([-5.0, 1200.0])).tolist() == schedule.sigma(torch.tensor([0.0, 999.0])).tolist()
    assert schedule.timestep_of(torch.tensor([1e-4, 50.0])).tolist() == [0.0, 999.0]


def test_gradient_of_log_sigma_is_the_slope(schedule: NoiseSchedule) -> None:
    timestep = torch.tensor([199.3, 400.7], requires_grad=True)
    (gradient,) = torch.autograd.grad(schedule.log_sigma(timestep).sum(), timestep)
    floor = timestep.detach().floor()
    slope = schedule.log_sigma(floor + 1) - schedule.log_sigma(floor)
    torch.testing.assert_close(gradient.double(), slope, atol=1e-6, rtol=0)


def test_gradient_of_timestep_of_is_the_inverse_slope(schedule: NoiseSchedule) -> None:
    sigma = schedule.sigma(torch.tensor([199.3, 400.7])).requires_grad_()
    (gradient,) = torch.autograd.grad(schedule.timestep_of(sigma).sum(), sigma)
    floor = torch.tensor([199.0, 400.0])
    slope = schedule.log_sigma(floor + 1) - schedule.log_sigma(floor)
    torch.testing.assert_close(gradient.double(), 1 / (slope * sigma.detach()), atol=0, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_table_stays_exact_in_half_precision(dtype: torch.dtype) -> None:
    exact = NoiseSchedule.from_config(SD_TURBO_SCHEDULER)
    inside = torch.nn.Sequential(NoiseSchedule.from_config(SD_TURBO_SCHEDULER)).to("cpu", dtype)[0]
    assert inside.log_sigmas.dtype == torch.float64
    assert torch.equal(inside.log_sigmas, exact.log_sigmas)
    assert torch.equal(exact.half().log_sigmas, inside.log_sigmas)
    assert all(c.dtype == torch.float32 for c in inside.coef(torch.tensor([3.5])))


def test_table_is_not_saved_with_weights(schedule: NoiseSchedule) -> None:
    assert not schedule.state_dict()


def test_linear_betas() -> None:
    linear = NoiseSchedule.from_config({"beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 100})
    assert len(linear) == 100
    assert float(linear.coef(torch.zeros(1))[0] ** 2) == pytest.approx(1 - 1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "squaredcos_cap_v2.*scaled_linear"),
        ({"prediction_type": "v_prediction"}, "v_prediction.*epsilon"),
    ],
)
def test_unknown_schedule_is_refused(change: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NoiseSchedule.from_config({**SD_TURBO_SCHEDULER, **change})


def test_unsqueeze_like() -> None:
    assert unsqueeze_like(torch.arange(3.0), torch.zeros(3, 4, 5, 6)).shape == (3, 1, 1, 1)
