"""The degradation: size, range, 8-bit levels, determinism per sample, the real JPEG, and what it does to a picture."""

import dataclasses
import io
import pickle
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data
from torch import Tensor

from idas_sr.data import corruptions, kernels
from idas_sr.data.degradation import DEGRADATIONS, Degradation, DegradationConfig, OrderConfig, draw_recipe
from idas_sr.data.heldout import HeldoutConfig

CRISP = OrderConfig(blur_prob=0.0, sinc_prob=0.0, resize_probs=(0.0, 0.0, 1.0), noise_scale=0.0, jpeg_quality=(95, 95))


def photographs(size: int = 128) -> Tensor:
    crops = []
    for picture, y, x in ((data.astronaut(), 20, 150), (data.chelsea(), 60, 120), (data.coffee(), 100, 200)):
        crops.append(torch.from_numpy(picture[y : y + size, x : x + size].copy()).permute(2, 0, 1))
    return torch.stack(crops).float() / 255


def generators(seed: int, count: int = 3) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, index]) for index in range(count)]


def gradient_energy(image: Tensor) -> float:
    return float(image.diff(dim=-1).square().mean() + image.diff(dim=-2).square().mean())


def psnr(first: Tensor, second: Tensor) -> float:
    return float(-10 * torch.log10(F.mse_loss(first, second)))


@pytest.mark.parametrize("preset", sorted(DEGRADATIONS))
@pytest.mark.parametrize("size", [128, 60, 16])
def test_output_is_an_8_bit_picture_of_a_quarter_of_the_size(preset: str, size: int) -> None:
    hq = photographs(132)[..., :size, : size + 4]
    for seed in range(6):
        lq = Degradation(preset)(hq, generators(seed))
        assert lq.shape == (3, 3, size // 4, size // 4 + 1)
        assert lq.dtype == torch.float32
        assert lq.min() >= 0 and lq.max() <= 1
        assert torch.equal(lq, (lq * 255).round() / 255)
        assert torch.isfinite(lq).all()


@pytest.mark.parametrize("preset", sorted(DEGRADATIONS))
def test_a_sample_does_not_depend_on_its_companions(preset: str) -> None:
    hq = photographs()
    degrade = Degradation(preset)
    for seed in range(8):
        together = degrade(hq, generators(seed))
        alone = torch.cat([degrade(hq[i : i + 1], [rng]) for i, rng in enumerate(generators(seed))])
        assert torch.equal(together, alone)


@pytest.mark.parametrize("preset", sorted(set(DEGRADATIONS) - {"bicubic"}))
def test_the_generator_decides_and_is_advanced(preset: str) -> None:
    hq = photographs()
    degrade = Degradation(preset)
    rngs = generators(0)
    first = degrade(hq, rngs)
    assert not torch.equal(first, degrade(hq, rngs))
    assert torch.equal(first, degrade(hq, generators(0)))
    assert torch.equal(first, pickle.loads(pickle.dumps(degrade))(hq, generators(0)))


@pytest.mark.parametrize("preset", sorted(DEGRADATIONS))
def test_no_global_generator_and_no_input_is_touched(preset: str) -> None:
    hq = photographs()
    copy = hq.clone()
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    for seed in range(6):
        Degradation(preset)(hq, generators(seed))
    assert torch.equal(torch_state, torch.get_rng_state())
    assert all(np.array_equal(a, b) for a, b in zip(numpy_state, np.random.get_state(), strict=True))
    assert python_state == random.getstate()
    assert torch.equal(hq, copy)


def test_recipes_follow_the_published_probabilities() -> None:
    rng = np.random.default_rng(0)
    config = DEGRADATIONS["realesrgan"]
    assert isinstance(config, DegradationConfig)
    recipes = [draw_recipe(config, rng) for _ in range(4000)]
    tolerance = 0.03  # four standard deviations of a share of 4000
    factors = np.array([r.first.resize_factor for r in recipes])
    assert abs((factors > 1).mean() - 0.2) < tolerance and abs((factors < 1).mean() - 0.7) < tolerance
    assert factors.min() >= 0.15 and factors.max() <= 1.5
    assert abs(np.mean([r.second is not None for r in recipes]) - 0.5) < tolerance
    assert abs(np.mean([r.final_kernel is not None for r in recipes]) - 0.8) < tolerance
    assert abs(np.mean([r.is_jpeg_last for r in recipes]) - 0.5) < tolerance
    assert abs(np.mean([r.first.is_gaussian for r in recipes]) - 0.5) < tolerance
    assert abs(np.mean([r.first.is_gray for r in recipes]) - 0.4) < tolerance
    seconds = [r.second for r in recipes if r.second is not None]
    assert abs(np.mean([s.kernel is not None for s in seconds]) - 0.8) < 1.5 * tolerance
    sizes = {r.first.kernel.shape[0] for r in recipes}
    assert sizes == set(range(3, 22, 2))
    assert {s.kernel.shape[0] for s in seconds if s.kernel is not None} == set(range(3, 16, 2))
    second_factors = np.array([s.resize_factor for s in seconds])
    assert 0.3 <= second_factors.min() < 0.32 and 1.18 < second_factors.max() <= 1.2
    qualities = {r.first_quality for r in recipes} | {r.final_quality for r in recipes}
    assert min(qualities) == 30 and max(qualities) == 95
    sigmas = np.array([r.first.noise_level for r in recipes if r.first.is_gaussian]) * 255
    assert 1 <= sigmas.min() < 1.2 and 29.8 < sigmas.max() <= 30


def test_operations_follow_real_esrgans_order() -> None:
    hq = photographs(64)[:1]
    config = DEGRADATIONS["realesrgan"]
    assert isinstance(config, DegradationConfig)
    seen = set()
    for seed in range(24):
        recipe = draw_recipe(config, np.random.default_rng(seed))
        image = hq
        for stage, side in ((recipe.first, 64), (recipe.second, 16)):
            if stage is not None:
                image = image if stage.kernel is None else corruptions.blur(image, stage.kernel)
                size = int(side * stage.resize_factor)
                image = corruptions.resize(image, (size, size), stage.resize_mode)
                noise = corruptions.add_gaussian_noise if stage.is_gaussian else corruptions.add_poisson_noise
                image = noise(image, stage.noise_level, stage.is_gray, stage.noise_seed)
            if stage is recipe.first:
                image = corruptions.compress_pillow(image, recipe.first_quality)
        if not recipe.is_jpeg_last:
            image = corruptions.compress_pillow(image, recipe.final_quality)
        image = corruptions.resize(image, (16, 16), recipe.final_mode)
        image = image if recipe.final_kernel is None else corruptions.blur(image, recipe.final_kernel)
        if recipe.is_jpeg_last:
            image = corruptions.compress_pillow(image, recipe.final_quality)
        lq = Degradation("realesrgan")(hq, [np.random.default_rng(seed)])
        assert torch.equal(lq, (image.clamp(0, 1) * 255).round() / 255)
        seen.add((recipe.second is None, recipe.is_jpeg_last, recipe.final_kernel is None))
    assert len(seen) >= 6  # of eight ways through the pipeline


def test_presets_of_ours_differ_where_they_say() -> None:
    wide = DEGRADATIONS["realesrgan-wide"]
    assert isinstance(wide, DegradationConfig) and wide.first.blur_sigma == (0.2, 4.0)
    rng = np.random.default_rng(0)
    share = np.mean([draw_recipe(wide, rng) is None for _ in range(4000)])
    assert abs(share - 0.05) < 0.015
    expected = F.interpolate(photographs(), scale_factor=0.25, mode="bicubic", antialias=True).clamp(0, 1)
    lq = Degradation("bicubic")(photographs(), generators(0))
    assert (lq - expected).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("size", [3, 7, 13, 21])
def test_kernels_sum_to_one_and_are_point_symmetric(size: int) -> None:
    made = [
        kernels.bell_kernel(size, 1.3, 2.1, 0.7, profile, 1.5) for profile in ("gaussian", "generalized", "plateau")
    ]
    for kernel in (*made, kernels.sinc_kernel(size, 1.4)):
        assert kernel.shape == (size, size)
        assert kernel.sum() == pytest.approx(1, abs=1e-12)
        assert np.allclose(kernel, kernel[::-1, ::-1], atol=1e-12)


def test_disk_and_motion_kernels_have_the_width_they_are_asked_for() -> None:
    for radius in (0.7, 2.5, 6.0):
        disk = kernels.disk_kernel(radius)
        axis = np.arange(disk.shape[0]) - disk.shape[0] // 2
        # A disk's variance along one axis is r^2 / 4, plus up to 1/12 for the pixels it is gathered in.
        assert radius**2 / 4 < (disk.sum(axis=0) * axis**2).sum() < radius**2 / 4 + 0.2
        assert np.allclose(disk, disk.T) and disk.sum() == pytest.approx(1)
    for angle in (0.0, 1.0, np.pi / 2):
        line = kernels.motion_kernel(12.0, angle)
        axis = np.arange(line.shape[0]) - line.shape[0] // 2
        x, y = np.meshgrid(axis, axis)
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        assert line.sum() == pytest.approx(1)
        assert (line * along**2).sum() == pytest.approx(12.0**2 / 12, rel=0.1)
        assert (line * across**2).sum() < 0.3


def test_an_even_kernel_size_is_refused() -> None:
    with pytest.raises(ValueError, match="odd size"):
        kernels.bell_kernel(4, 1, 1, 0)


def test_blur_is_a_mirrored_correlation() -> None:
    from scipy import ndimage

    image = photographs(32)[:1]
    kernel = kernels.bell_kernel(9, 3.0, 0.8, 0.5)
    expected = np.stack([ndimage.correlate(channel.double().numpy(), kernel, mode="mirror") for channel in image[0]])
    assert np.abs(corruptions.blur(image, kernel)[0].numpy() - expected).max() < 1e-6
    tiny = image[..., :3, :1]
    assert torch.allclose(corruptions.blur(tiny, kernel).mean(), tiny.mean(), atol=0.1)


def test_gaussian_noise_has_the_level_and_the_colour_it_is_asked_for() -> None:
    image = torch.full((1, 3, 128, 128), 0.5)
    colour = corruptions.add_gaussian_noise(image, 0.05, is_gray=False, seed=1) - image
    assert float(colour.std()) == pytest.approx(0.05, rel=0.02)
    assert abs(np.corrcoef(colour[0, 0].flatten(), colour[0, 1].flatten())[0, 1]) < 0.03
    gray = corruptions.add_gaussian_noise(image, 0.05, is_gray=True, seed=1) - image
    assert torch.equal(gray[:, 0], gray[:, 1]) and float(gray.std()) == pytest.approx(0.05, rel=0.03)


def test_poisson_noise_grows_with_the_signal() -> None:
    # Two grey levels make two counts at full brightness: variance = signal / 2 before scaling.
    image = torch.full((1, 3, 128, 128), 0.2)
    image[..., 64:] = 0.6
    noise = corruptions.add_poisson_noise(image, 0.1, is_gray=False, seed=1) - image
    assert float(noise[..., :64].std()) == pytest.approx(0.1 * (0.2 / 2) ** 0.5, rel=0.03)
    assert float(noise[..., 64:].std()) == pytest.approx(0.1 * (0.6 / 2) ** 0.5, rel=0.03)
    gray = corruptions.add_poisson_noise(image, 0.1, is_gray=True, seed=1) - image
    assert torch.allclose(gray[:, 0], gray[:, 2], atol=1e-6) and float(gray.std()) > 0.02


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_on_the_cpu_is_pillows(quality: int) -> None:
    # The whole pipeline reduced to its codec: nothing but a resize by one and two JPEGs of one quality.
    order = dataclasses.replace(CRISP, jpeg_quality=(quality, quality))
    config = DegradationConfig(scale=1, first=order, second=order, second_prob=0.0, final_sinc_prob=0.0)
    hq = photographs(48)[:1]
    array = (hq[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    for _ in range(2):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, format="JPEG", quality=quality)
        array = np.array(Image.open(buffer))
    lq = Degradation(config)(hq, generators(0, 1))
    assert np.array_equal((lq[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy(), array)


def test_kornias_jpeg_is_close_to_the_real_one_and_optional() -> None:
    image = photographs(96)[1:2, ..., :90, :]
    for quality in (40, 90):
        real, approximate = corruptions.compress_pillow(image, quality), corruptions.compress_kornia(image, quality)
        assert approximate.shape == image.shape
        assert psnr(real, approximate) > 35
        assert psnr(real, approximate) > psnr(real, image)
    kornia, pillow = (Degradation("realesrgan", jpeg)(photographs(64), generators(3)) for jpeg in ("kornia", "pillow"))
    assert not torch.equal(kornia, pillow) and psnr(kornia, pillow) > 25
    assert torch.equal(pillow, Degradation("realesrgan")(photographs(64), generators(3)))


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 40), (64, 48)])
def test_blur_is_the_same_on_every_device(size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    kernel = np.random.default_rng(0).random((21, 21))
    kernel /= kernel.sum()
    torch.testing.assert_close(corruptions.blur(image, kernel), corruptions.blur_by_torch(image, kernel))


def test_blur_takes_gradient_energy_away_and_noise_adds_it() -> None:
    hq = photographs()
    config = DegradationConfig(first=CRISP, second=CRISP, second_prob=0.0, final_sinc_prob=0.0)
    crisp = gradient_energy(Degradation(config)(hq, generators(0)))
    energies = []
    for sigma in (1.0, 2.0, 4.0):
        kinds = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        order = dataclasses.replace(
            CRISP, blur_prob=1.0, kernel_sizes=(21, 21), blur_sigma=(sigma, sigma), kind_probs=kinds
        )
        energies.append(gradient_energy(Degradation(dataclasses.replace(config, first=order))(hq, generators(0))))
    assert crisp > energies[0] > energies[1] > energies[2]
    noisy = dataclasses.replace(CRISP, noise_scale=1.0)
    assert gradient_energy(Degradation(dataclasses.replace(config, first=noisy))(hq, generators(0))) > 1.05 * crisp


def test_switching_noise_off_moves_no_other_draw() -> None:
    loud = DEGRADATIONS["realesrgan"]
    assert isinstance(loud, DegradationConfig)
    quiet = dataclasses.replace(
        loud,
        first=dataclasses.replace(loud.first, noise_scale=0.0),
        second=dataclasses.replace(loud.second, noise_scale=0.0),
    )
    for seed in range(20):
        a, b = (draw_recipe(config, np.random.default_rng(seed)) for config in (loud, quiet))
        assert a.final_quality == b.final_quality and a.first.noise_seed == b.first.noise_seed
        assert np.array_equal(a.first.kernel, b.first.kernel)
        assert b.first.noise_level == 0 < a.first.noise_level


def test_the_heldout_family_is_another_one() -> None:
    assert isinstance(DEGRADATIONS["heldout"], HeldoutConfig)
    hq = photographs()
    clean = HeldoutConfig(
        defocus_prob=1.0, defocus_radius=(0.7, 0.7), read_noise=(0, 0), shot_noise=(0, 0), webp_quality=(95, 95)
    )
    soft = dataclasses.replace(clean, defocus_radius=(6.0, 6.0))
    shaken = dataclasses.replace(clean, defocus_prob=0.0, motion_length=(20.0, 20.0))
    noisy = dataclasses.replace(clean, read_noise=(0.03, 0.03))
    energy = {
        name: gradient_energy(Degradation(config)(hq, generators(1)))
        for name, config in (("clean", clean), ("soft", soft), ("shaken", shaken), ("noisy", noisy))
    }
    assert max(energy["soft"], energy["shaken"]) < 0.8 * energy["clean"] < energy["clean"] < energy["noisy"]


def test_wrong_input_is_named() -> None:
    hq = photographs(32)
    with pytest.raises(ValueError, match="realesrgan"):
        Degradation("no-such-preset")
    with pytest.raises(ValueError, match="JPEG codec"):
        Degradation(jpeg="libjpeg")
    degrade = Degradation()
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        degrade(hq * 2 - 1, generators(0))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        degrade(hq * float("nan"), generators(0))
    with pytest.raises(ValueError, match="multiples of 4"):
        degrade(hq[..., :30], generators(0))
    with pytest.raises(ValueError, match="One generator per sample"):
        degrade(hq, generators(0, 2))
    with pytest.raises(ValueError, match="float tensor"):
        degrade((hq * 255).to(torch.uint8), generators(0))
    with pytest.raises(ValueError, match="sum to one"):
        OrderConfig(resize_probs=(0.5, 0.1, 0.1))
    with pytest.raises(ValueError, match="odd"):
        OrderConfig(kernel_sizes=(4, 21))
    with pytest.raises(ValueError, match="none_prob"):
        DegradationConfig(none_prob=1.5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("preset", sorted(DEGRADATIONS))
def test_cuda_makes_the_picture_the_cpu_makes(preset: str) -> None:
    hq = photographs()
    for seed in range(6):
        on_cpu = Degradation(preset, jpeg="kornia")(hq, generators(seed))
        on_cuda = Degradation(preset, jpeg="auto")(hq.cuda(), generators(seed))
        assert on_cuda.is_cuda
        # Rounding ties of a codec and of shot noise may fall to the other side, so not equal but close.
        assert psnr(on_cpu, on_cuda.cpu()) > 30
