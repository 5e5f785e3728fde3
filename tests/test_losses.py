"""Positioning targets and losses, worked out by hand."""

import math
from pathlib import Path

import pytest
import torch
from torchvision.transforms.functional import gaussian_blur

from idas_sr import losses
from idas_sr.methods import positioning
from idas_sr.schedule import NoiseSchedule

WEIGHTS = Path(__file__).parents[2] / "shared/data/weights/squeezenet_v10.pth"


# ---- positioning ----


def test_rms() -> None:
    assert positioning.rms(torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])).tolist() == pytest.approx([12.5**0.5, 2**0.5])


def test_snr_matching_is_the_deviation_in_units_of_the_schedule(schedule: NoiseSchedule) -> None:
    z_hq = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    step = torch.tensor([0.5, 0.757]).reshape(2, 1, 1, 1) * torch.ones_like(z_hq)
    assert positioning.snr_matching(z_hq + step, z_hq).tolist() == pytest.approx([0.575, 0.87055], rel=1e-5)
    # OMGSR's rule: an rms of .757 lies at index 273.
    assert float(schedule.timestep_of(positioning.snr_matching(z_hq + step, z_hq, 1.0))[1]) == pytest.approx(273, abs=1)


def test_perceptual_target(schedule: NoiseSchedule) -> None:
    expected = [schedule.sigma(torch.tensor([t])).item() for t in (0.0, 199.0, 999.0)]
    assert positioning.perceptual(torch.tensor([0.0, 0.398, 5.0]), schedule).tolist() == pytest.approx(expected)


def test_similarity() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    b = torch.tensor([[0.0, 2.0], [3.0, 3.0]])
    assert positioning.similarity(a, b).tolist() == pytest.approx([0, 1])


def test_similarity_rank(schedule: NoiseSchedule) -> None:
    angle = torch.tensor([0.0, 0.5, 1.0, 2.5])
    z_hq = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    z_lq = torch.stack([angle.cos(), angle.sin()], 1)
    quantiles = 1 - torch.linspace(0.2, 1.2, 4).cos()
    target = positioning.similarity_rank(z_lq, z_hq, quantiles, schedule)
    # Of four quantiles at angles .2, .533, .867, 1.2 lie below: none, one, three, all.
    assert schedule.timestep_of(target).tolist() == pytest.approx([49, 136.5, 311.5, 399], abs=0.05)


# ---- losses of numbers ----


def test_huber() -> None:
    value = losses.huber(torch.tensor([0.1, 0.2, -1.0]), torch.zeros(3))
    assert value.tolist() == pytest.approx([0.005, 0.02, 0.2 * (1 - 0.1)])


def test_ranking() -> None:
    target = torch.tensor([0.0, 1.0])
    assert float(losses.ranking(torch.tensor([0.0, 0.1]), target)) == pytest.approx(0)
    assert float(losses.ranking(torch.tensor([0.0, 0.04]), target)) == pytest.approx((0.06 + 0.06) / 4)
    assert float(losses.ranking(torch.tensor([0.3, 0.0]), target)) == pytest.approx((0.4 + 0.4) / 4)
    # A small true gap asks for no more than itself; equal targets cost nothing whatever is predicted.
    assert float(losses.ranking(torch.tensor([0.0, 0.02]), torch.tensor([0.0, 0.02]))) == pytest.approx(0, abs=1e-7)
    assert float(losses.ranking(torch.tensor([0.0, 5.0]), torch.ones(2))) == 0


def test_calibration_by_hand() -> None:
    error = torch.tensor([[[[1.0, -1.0]], [[1.0, -1.0]]], [[[2.0, 2.0]], [[0.0, 0.0]]]])
    # First: mean 0, power 1. Second: channel means 2 and 0, power 2. Two cells a row: neighbours are all there is, with
    # a product of -1 in both channels of the first, and of 4 over a power of 4 in one channel of the second.
    assert losses.calibration(error).tolist() == pytest.approx([0 + 1, (4 + 0) / 2 + 1 + 0.5], abs=1e-5)


def test_calibration_rises_with_wrong_power_or_mean() -> None:
    noise = torch.randn(1, 4, 128, 128, generator=torch.Generator().manual_seed(0))
    best = float(losses.calibration(noise))
    assert best < 1e-3
    for wrong in (0.8 * noise, 0.5 * noise, 1.2 * noise, noise + 0.2, noise - 0.4):
        assert float(losses.calibration(wrong)) > 0.03


@pytest.mark.parametrize("sigma", [(0.5, 0.5), (1.0, 1.0), (3.0, 3.0), (0.3, 1.5), (1.5, 0.3)])
def test_calibration_rises_with_colour(sigma: tuple[float, float]) -> None:
    """Mean 0 and power 1 are not enough: neighbours must not resemble one another, in either direction."""
    white = torch.randn(1, 4, 128, 128, generator=torch.Generator().manual_seed(0))
    coloured = gaussian_blur(white, [13, 13], list(sigma))
    coloured = (coloured - coloured.mean((2, 3), keepdim=True)) / coloured.std((2, 3), keepdim=True)
    assert float(losses.calibration(white)) < 1e-3
    assert float(losses.calibration(coloured)) > 0.025


def test_calibration_sees_colour_at_coarse_scales() -> None:
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(1, 4, 128, 128, generator=generator)
    slow = torch.nn.functional.interpolate(torch.randn(1, 4, 16, 16, generator=generator), scale_factor=8)
    mixed = (white + 0.35 * slow) / (1 + 0.35**2) ** 0.5
    assert float(losses.autocorrelation(mixed)) > 10 * float(losses.autocorrelation(white))
    # At the finest scale alone it is a tenth of that.
    assert float(losses.autocorrelation(mixed)) > 4 * float(losses.autocorrelation(mixed, (1,)))


def test_autocorrelation_of_a_single_cell() -> None:
    assert losses.autocorrelation(torch.ones(2, 3, 1, 1)).tolist() == [0, 0]


def test_vsd_by_hand() -> None:
    z0 = torch.zeros(1, 1, 1, 2, requires_grad=True)
    real, fake = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[2.0, -1.0]]]])
    value = losses.vsd(z0, real, fake)
    # mean |z0 - real| = 2; the gradient pushes away from the fake score's estimate and towards the prior's.
    (gradient,) = torch.autograd.grad(value.sum(), z0)
    assert value.tolist() == [2.5]
    assert (2 * gradient).flatten().tolist() == [0.5, -2.0]


def test_at_once_has_value_and_gradient_of_the_term() -> None:
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def term(y: torch.Tensor) -> torch.Tensor:
        return y.tanh().square().flatten(1).sum(1)

    plain, at_once = term(x), losses.at_once(term, x)
    torch.testing.assert_close(at_once, plain)
    weights = torch.tensor([1.0, 0.0, 3.0])
    gradients = [torch.autograd.grad((weights * v).sum(), x)[0] for v in (plain, at_once)]
    torch.testing.assert_close(*gradients)


def test_hinge() -> None:
    real, fake = torch.tensor([[[[2.0, 0.5]]]]), torch.tensor([[[[-3.0, 1.0]]]])
    assert losses.hinge_critic(real, fake).tolist() == pytest.approx([0.5 * ((0 + 0.5) / 2 + (0 + 2) / 2)])
    assert losses.hinge_generator(fake).tolist() == pytest.approx([1.0])


def test_grid_sees_what_repeats_and_not_what_is_texture() -> None:
    generator = torch.Generator().manual_seed(0)
    pattern = torch.randn(1, 3, 4, 4, generator=generator).repeat(1, 1, 24, 24)
    texture = torch.randn(1, 3, 96, 96, generator=generator)
    flat = torch.full((1, 3, 96, 96), 0.3)
    centred = pattern - pattern.mean((2, 3), keepdim=True)
    assert float(losses.grid(pattern)) == pytest.approx(float(centred.abs().mean()), rel=1e-5)
    # 36 cells a window: what differs from cell to cell shrinks to a sixth.
    assert float(losses.grid(texture)) == pytest.approx(float(texture.abs().mean()) / 6, rel=0.05)
    assert float(losses.grid(flat)) == pytest.approx(0, abs=1e-6)
    # Wherever the picture is cut, and in pictures that are smaller than the window.
    assert float(losses.grid(pattern[..., 3:90, 5:])) == pytest.approx(float(losses.grid(pattern)), rel=1e-4)
    assert losses.grid(pattern[..., :16, :].expand(2, -1, -1, -1)).shape == (2,)
    with pytest.raises(ValueError, match="8 pixels a side or more"):
        losses.grid(pattern[..., :7, :])


def test_lines_hear_a_pattern_that_follows_the_picture() -> None:
    """Cells that differ in gain: `grid` averages the pattern away, its power stays."""
    generator = torch.Generator().manual_seed(0)
    clean = 0.2 * torch.randn(2, 3, 192, 192, generator=generator)
    gain = torch.tensor([1.0, 1.0, 1.0, -1.0]).repeat(48)
    slow = torch.nn.functional.interpolate(torch.randn(2, 3, 6, 6, generator=generator), (192, 192), mode="bicubic")
    printed = clean + 0.3 * slow * gain
    assert losses.lines(clean, clean).tolist() == [0, 0]
    smooth = clean + 0.3 * slow
    assert (losses.lines(printed, clean) > 3 * losses.lines(smooth, clean)).all()
    # One direction is enough, and either counts.
    torch.testing.assert_close(losses.lines(printed.mT, clean.mT), losses.lines(printed, clean))
    # A step of 8 bits is no line, however flat the picture is.
    flat = torch.zeros(1, 3, 64, 64)
    assert float(losses.lines(flat + 1e-4 * gain[:64], flat)) < 0.01
    with pytest.raises(ValueError, match="64 pixels a side or more"):
        losses.lines(clean[..., :60], clean[..., :60])


def test_lines_are_not_hidden_by_others_beside_them() -> None:
    """The gradient lowers the line and does not raise its neighbours."""
    place = torch.arange(192.0)
    image = (0.1 * torch.randn(1, 1, 192, 192, generator=torch.Generator().manual_seed(0))).requires_grad_()
    line, beside = (torch.cos(2 * torch.pi * f * place).expand(1, 1, 192, -1) for f in (48 / 192, 52 / 192))
    losses.lines(image + 0.2 * line, image.detach()).sum().backward()
    assert image.grad is not None
    pull = [abs(float((image.grad * wave).sum())) for wave in (line, beside)]
    assert pull[0] > 100 * pull[1]


def test_losses_are_per_sample() -> None:
    values = torch.rand(3, 2, 4, 4)
    assert losses.mean_of(values).shape == (3,)
    assert losses.mean_of(values)[1].item() == pytest.approx(values[1].mean().item())


# ---- learned distance ----


def test_learned_distance_without_weights_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"vgg16-397923af\.pth.*loss\.lpips=0") as caught:
        losses.LearnedDistance()
    assert "\n" not in str(caught.value)


# ---- feature distance ----


@pytest.mark.parametrize("where", [None, "nowhere.pth"])
def test_feature_distance_without_weights_says_what_to_do(where: str | None) -> None:
    with pytest.raises(FileNotFoundError, match=r"feature_weights=FILE .*loss\.feature=0"):
        losses.FeatureDistance(where)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="SqueezeNet weights are not at hand")
def test_feature_distance_rises_with_blur(photograph: torch.Tensor) -> None:
    distance = losses.FeatureDistance(WEIGHTS)
    image = photograph[..., :128, :160]
    blurred = torch.cat([gaussian_blur(image, [15, 15], [s, s]) for s in (0.4, 0.8, 1.6, 3.2)])
    with torch.no_grad():
        assert len(distance.features(image)) == 1 + len(distance.layers)
        assert float(distance(image, image)) == 0
        values = distance(blurred, image.expand(4, -1, -1, -1)).tolist()
        shifted = distance(blurred[-1:], image, (3, 5))
        cropped = distance(blurred[-1:, :, 3:, 5:], image[..., 3:, 5:])
    assert values == sorted(values)
    assert 0 < values[0] < 0.5 * values[-1]
    assert math.isclose(float(shifted), float(cropped), rel_tol=1e-5)


def test_power_likelihood_is_best_at_the_mean_square() -> None:
    deviation = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [0.5, 2.0]
    ).reshape(2, 1, 1, 1)
    square = torch.nn.functional.avg_pool2d(deviation.square().mean(1, keepdim=True), 4)
    best = losses.power_likelihood(square, deviation)
    assert best.tolist() == pytest.approx((square.log().mean((1, 2, 3)) + 1).tolist(), rel=1e-4)
    for factor in (0.8, 1.25):
        assert bool((losses.power_likelihood(square * factor, deviation) > best).all())
