"""Metrics against scikit-image, and against what is known without measuring."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from idas_sr.metrics import lr_psnr_y, luma, niqe, psnr_y, ssim_y

YARDSTICK = Path(__file__).parents[2] / "shared" / "tools" / "score.py"


def as_bytes(image: Tensor) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    return (image[0].movedim(0, -1) * 255).round().byte().numpy()


def photograph(name: str) -> Tensor:
    """(1, 3, 288, 384) float64, multiples of 1 / 255, of a CC0 or public domain photograph."""
    return torch.tensor(getattr(data, name)()[:288, :384]).movedim(-1, 0)[None].double() / 255


def noisy(image: Tensor, level: float, seed: int = 0) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed), dtype=image.dtype)
    return ((image * 255 + level * noise).round() / 255).clamp(0, 1)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_psnr_and_ssim_equal_scikit_image(name: str) -> None:
    reference = photograph(name)
    image = noisy(reference, 60)
    a, b = luma(image)[0].numpy(), luma(reference)[0].numpy()
    assert psnr_y(image, reference).item() == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255), abs=1e-6)

    _, similarity = structural_similarity(
        a.round(), b.round(), data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    # Brightness terms are positive: negative similarity is negative contrast, which our definition counts as zero.
    expected = similarity[5:-5, 5:-5].clip(0).mean()
    assert ssim_y(image, reference).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("border", [1, 4])
def test_a_border_is_cut_from_both(border: int) -> None:
    reference = photograph("coffee")
    image = noisy(reference, 20)
    inner = (slice(None), slice(None), slice(border, -border), slice(border, -border))
    for metric in (psnr_y, ssim_y):
        assert metric(image, reference, border).item() == pytest.approx(metric(image[inner], reference[inner]).item())
        assert metric(image, reference, border).item() != pytest.approx(metric(image, reference).item(), abs=1e-6)


def test_a_border_that_leaves_nothing() -> None:
    image = torch.rand(1, 3, 8, 30)
    assert math.isnan(psnr_y(image, image, border=4).item())
    assert math.isnan(ssim_y(image, image, border=4).item())


def test_lr_psnr_asks_whether_the_input_comes_out_again() -> None:
    hq = photograph("chelsea")
    lq = (F.interpolate(hq, scale_factor=0.25, mode="bicubic", antialias=True).clamp(0, 1) * 255).round() / 255
    # The reference itself differs from the input by the rounding to 8 bits only.
    assert lr_psnr_y(hq, lq).item() > 55
    assert lr_psnr_y(noisy(hq, 40), lq).item() < lr_psnr_y(noisy(hq, 10), lq).item() < 55
    # Pillow's reduction is another program's, and gives the same input to a rounding.
    theirs = np.asarray(Image.fromarray(as_bytes(hq)).resize((96, 72), Image.Resampling.BICUBIC))
    assert lr_psnr_y(hq, torch.tensor(theirs).movedim(-1, 0)[None].double() / 255).item() > 50


# BasicSR 1.4.2: calculate_niqe(picture[..., ::-1], crop_border=0, convert_to="gray") of scikit-image 0.26's pictures,
# installed with `pip install --no-deps --no-build-isolation basicsr==1.4.2` in an environment of its own.
NIQE_OF_BASICSR = {
    "astronaut": 3.0610040667996845,
    "chelsea": 2.57208331399021,
    "coffee": 4.0593383127379035,
    "rocket": 7.036616960714636,
}


@pytest.mark.parametrize("name", NIQE_OF_BASICSR)
def test_niqe_equals_basicsr_on_grey(name: str) -> None:
    image = torch.tensor(getattr(data, name)()[..., :3]).movedim(-1, 0)[None].double() / 255
    assert niqe(image).item() == pytest.approx(NIQE_OF_BASICSR[name], abs=0.005)


@pytest.mark.skipif(not YARDSTICK.is_file(), reason="the yardstick is not in ../shared")
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_niqe_equals_the_yardstick(name: str) -> None:
    spec = importlib.util.spec_from_file_location("yardstick", YARDSTICK)
    assert spec is not None and spec.loader is not None
    yardstick = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(yardstick)
    pixels = getattr(data, name)()
    pristine = dict(np.load(YARDSTICK.parents[1] / "data" / "weights" / "niqe_pris_params.npz"))
    image = torch.tensor(pixels).movedim(-1, 0)[None].double() / 255
    assert niqe(image).item() == pytest.approx(yardstick.niqe(pixels, pristine), abs=1e-3)


def test_luma_of_black_and_white() -> None:
    assert luma(torch.zeros(1, 3, 1, 1)).item() == pytest.approx(16)
    assert luma(torch.ones(1, 3, 1, 1)).item() == pytest.approx(235)


def test_equal_pictures() -> None:
    image = photograph("coffee")
    assert ssim_y(image, image).item() == pytest.approx(1)
    assert psnr_y(image, image).item() > 150


def test_each_picture_of_a_batch_has_its_own_value() -> None:
    pictures = [photograph("coffee"), photograph("chelsea")]
    batch = torch.cat(pictures)
    worse = noisy(batch, 10)
    for metric in (psnr_y, ssim_y):
        alone = [metric(a[None], b[None]).item() for a, b in zip(worse, batch, strict=True)]
        assert metric(worse, batch).tolist() == pytest.approx(alone)
    assert niqe(batch).tolist() == pytest.approx([niqe(one).item() for one in pictures])


def test_niqe_rises_with_white_noise() -> None:
    clean = photograph("chelsea")
    values = [niqe(noisy(clean, level)).item() for level in (0, 15, 40)]
    assert values == sorted(values)
    assert values[2] > values[0] + 2


def test_niqe_does_not_depend_on_the_float_type() -> None:
    image = photograph("astronaut")
    assert niqe(image.float()).item() == pytest.approx(niqe(image).item(), abs=1e-9)


def test_niqe_leaves_out_what_no_whole_block_covers() -> None:
    image = photograph("coffee")
    changed = torch.cat([image, torch.rand(1, 3, 288, 40, generator=torch.Generator().manual_seed(0))], dim=3)
    assert niqe(changed).item() == niqe(image).item()


@pytest.mark.parametrize(("height", "width", "known"), [(10, 300, False), (11, 11, True), (1, 1, False)])
def test_ssim_of_small_pictures(height: int, width: int, known: bool) -> None:
    image = torch.rand(1, 3, height, width)
    assert math.isfinite(ssim_y(image, image).item()) == known


@pytest.mark.parametrize(("height", "width", "known"), [(96, 191, False), (96, 192, True), (1, 1, False)])
def test_niqe_of_small_pictures(height: int, width: int, known: bool) -> None:
    image = photograph("coffee")[..., :height, :width]
    assert math.isfinite(niqe(image).item()) == known


def test_flat_picture_has_finite_metrics() -> None:
    flat = torch.full((1, 3, 192, 192), 0.5)
    values = [psnr_y(flat, flat), ssim_y(flat, flat), niqe(flat)]
    assert np.isfinite([value.item() for value in values]).all()
