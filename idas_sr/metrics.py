"""Metrics as functions of tensors; folders and protocols are not known here."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate1d
from torch import Tensor

LUMA_BT601 = (65.481, 128.553, 24.966)
"""Weights of R, G, B in [0, 1] for luma in 16 .. 235 (ITU-R BT.601)."""

GREY_BT601 = (0.299, 0.587, 0.114)
"""Weights of R, G, B for grey of the pictures' own range (ITU-R BT.601)."""

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # Wang et al. 2004, section III-C
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # Wang et al. 2004, K1 = 0.01, K2 = 0.03

NIQE_BLOCK = 96  # Mittal et al. 2013, section II-B
NIQE_WINDOW, NIQE_SIGMA = 7, 7 / 6  # Mittal et al. 2013, equation 2


def luma(image: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> luma (B, H, W), 16 to 235."""
    weights = image.new_tensor(LUMA_BT601, dtype=torch.float64)
    return (image.double() * weights[:, None, None]).sum(1) + 16


def _cut(image: Tensor, border: int) -> Tensor:
    """(B, 3, H, W) -> without ``border`` pixels on each side; empty where there is no more."""
    return image[..., border : max(border, image.shape[-2] - border), border : max(border, image.shape[-1] - border)]


def psnr_y(image: Tensor, reference: Tensor, border: int = 0) -> Tensor:
    """(B,) decibels between lumas, peak 255; ``border`` pixels on each side do not count.

    Without a border that is the convention of the one-step papers; CCSR and SeeSR cut 4. NaN where nothing is left.
    """
    image, reference = _cut(image, border), _cut(reference, border)
    error = (luma(image) - luma(reference)).square().mean((1, 2)).clamp_min(1e-12)
    return 10 * (255**2 / error).log10()


def lr_psnr_y(image: Tensor, lq: Tensor) -> Tensor:
    """(B,) decibels between the lumas of the picture, brought back to the input's size, and of the input.

    Faithfulness to the input, which needs no reference: antialiased bicubic reduction, not rounded.

    Args:
        image: (B, 3, H, W) in [0, 1].
        lq: (B, 3, h, w) in [0, 1].
    """
    reduced = F.interpolate(image, size=tuple(lq.shape[-2:]), mode="bicubic", antialias=True, align_corners=False)
    return psnr_y(reduced.clamp(0, 1), lq)


def _gaussian(size: int, sigma: float) -> np.ndarray:
    window = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    return window / window.sum()


def _windowed_mean(planes: Tensor, size: int, sigma: float) -> Tensor:
    """(B, H, W) -> (B, H - size + 1, W - size + 1): Gaussian means where the window lies inside the picture."""
    window = _gaussian(size, sigma).tolist()
    # Sums of shifted pictures, in place, instead of a convolution in float64.
    for axis in (1, 2):
        length = planes.shape[axis] - size + 1
        total = window[0] * planes.narrow(axis, 0, length)
        for i in range(1, size):
            total.add_(planes.narrow(axis, i, length), alpha=window[i])
        planes = total
    return planes


def ssim_y(image: Tensor, reference: Tensor, border: int = 0) -> Tensor:
    """(B,) structural similarity of lumas rounded to integers (Wang et al. 2004, equation 13).

    11 x 11 Gaussian window of sigma 1.5, averaged where the window lies inside the picture; NaN for pictures smaller
    than the window. The contrast and structure term counts as zero where it is negative, as in the published numbers.

    Args:
        image: (B, 3, H, W) in [0, 1].
        reference: same shape and range.
        border: pixels on each side that are cut off first.
    """
    image, reference = _cut(image, border), _cut(reference, border)
    if min(image.shape[-2:]) < SSIM_WINDOW:
        return image.new_full((len(image),), torch.nan, dtype=torch.float64)
    a, b = luma(image).round(), luma(reference).round()
    moments = torch.cat([a, b, a * a, b * b, a * b])
    mean_a, mean_b, power_a, power_b, product = _windowed_mean(moments, SSIM_WINDOW, SSIM_SIGMA).chunk(5)
    variances = power_a - mean_a**2 + power_b - mean_b**2
    contrast = (2 * (product - mean_a * mean_b) + SSIM_C2) / (variances + SSIM_C2)
    brightness = (2 * mean_a * mean_b + SSIM_C1) / (mean_a**2 + mean_b**2 + SSIM_C1)
    return (brightness * contrast.clamp_min(0)).mean((1, 2))


@lru_cache(maxsize=1)
def _pristine_model() -> tuple[Tensor, Tensor]:
    """Mean (36,) and covariance (36, 36) of the features of undistorted photographs, as published with NIQE."""
    with (
        files("idas_sr").joinpath("evaluation", "niqe_pris_params.npz").open("rb") as file,
        np.load(file) as parameters,
    ):
        mean, covariance = parameters["mu_pris_param"].ravel(), parameters["cov_pris_param"]
    return torch.from_numpy(mean).double(), torch.from_numpy(covariance).double()


def _gamma(x: Tensor) -> Tensor:
    return torch.lgamma(x).exp()


@lru_cache(maxsize=1)
def _shape_table() -> tuple[Tensor, Tensor]:
    """Shapes 0.2, 0.201 .. 10 of a generalised Gaussian, and E|x|^2 / E x^2 of each, which rises with the shape."""
    shape = torch.arange(200, 10_001, dtype=torch.float64) / 1000
    return shape, _gamma(2 / shape).square() / (_gamma(1 / shape) * _gamma(3 / shape))


def _fit_asymmetric(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape, left and right scale, each (N,), of asymmetric generalised Gaussians fitted to the samples (N, S).

    Moment matching of Lasmar et al. 2009, as in Mittal et al. 2013, equations 5 to 7.
    """
    left, right = (((x * side).square().sum(1) / side.sum(1).clamp_min(1)).sqrt() for side in (x < 0, x > 0))
    balance = left / right.clamp_min(1e-12)
    ratio = x.abs().mean(1).square() / x.square().mean(1).clamp_min(1e-12)
    ratio = ratio * (balance**3 + 1) * (balance + 1) / (balance**2 + 1).square()
    shapes, ratios = _shape_table()
    middles = (ratios[1:] + ratios[:-1]) / 2
    shape = shapes[torch.searchsorted(middles, ratio)]
    to_scale = (_gamma(1 / shape) / _gamma(3 / shape)).sqrt()
    return shape, left * to_scale, right * to_scale


def _block_features(blocks: Tensor) -> Tensor:
    """(N, s, s) normalised blocks -> (N, 18): the blocks' own distribution, then that of products of neighbours."""
    shape, left, right = _fit_asymmetric(blocks.flatten(1))
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        product = blocks * blocks.roll(shift, (1, 2))
        shape, left, right = _fit_asymmetric(product.flatten(1))
        mean = (right - left) * _gamma(2 / shape) / _gamma(1 / shape)
        features += [shape, mean, left, right]
    return torch.stack(features, 1)


def _normalised(grey: Tensor) -> Tensor:
    """(H, W) grey 0 .. 255 less its local mean, over its local deviation (Mittal et al. 2013, equations 1 to 3).

    Where a picture is flat, the last bit of the mean decides the sign of a value that should be zero, and the signs are
    counted: another summation order moves NIQE by up to 0.08. With SciPy's the published means come out.
    """
    window = _gaussian(NIQE_WINDOW, NIQE_SIGMA)

    def local_mean(plane: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(plane, window, 0, mode="nearest"), window, 1, mode="nearest")

    plane = grey.numpy()
    mean = local_mean(plane)
    deviation = np.sqrt(np.abs(local_mean(plane * plane) - mean**2))
    return torch.from_numpy((plane - mean) / (deviation + 1))


def _natural_features(grey: Tensor) -> Tensor:
    """(H, W) grey 0 .. 255, whole blocks -> (blocks, 36): 18 features at full size beside 18 at half size."""
    features = []
    for size in (NIQE_BLOCK, NIQE_BLOCK // 2):
        normalised = _normalised(grey)
        features.append(_block_features(normalised.unfold(0, size, size).unfold(1, size, size).flatten(0, 1)))
        grey = F.interpolate(grey[None, None], scale_factor=0.5, mode="bicubic", antialias=True)[0, 0]
    return torch.cat(features, 1)


def _rounded_grey(image: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, H, W) float64, whole levels 0 .. 255, on the CPU.

    One pixel of ten thousand lies on .5, where the last bit decides, and a handful of pixels move NIQE by 0.003. The
    levels are therefore made exact, whatever type they came in, and NumPy's product decides.
    """
    levels = (image.detach().cpu().double() * 255 * 1000).round() / 1000
    return torch.from_numpy(levels.movedim(1, -1).contiguous().numpy() @ np.array(GREY_BT601)).round()


def niqe(image: Tensor) -> Tensor:
    """(B,) distance of a picture's statistics from those of undistorted photographs; lower is more natural.

    Mittal, Soundararajan and Bovik 2013 with the published pristine model: grey rounded to integers, blocks of 96 (48
    at half size), cut at the right and bottom to whole blocks. NaN for pictures of less than two blocks.

    Args:
        image: (B, 3, H, W) in [0, 1].
    """
    rows, columns = image.shape[-2] // NIQE_BLOCK, image.shape[-1] // NIQE_BLOCK
    if rows * columns < 2:
        return image.new_full((len(image),), torch.nan, dtype=torch.float64)
    pristine_mean, pristine_covariance = _pristine_model()
    distances = []
    for grey in _rounded_grey(image)[:, : rows * NIQE_BLOCK, : columns * NIQE_BLOCK]:
        features = _natural_features(grey)
        gap = pristine_mean - features.mean(0)
        pooled = (pristine_covariance + features.T.cov()) / 2
        distances.append((gap @ torch.linalg.pinv(pooled) @ gap).sqrt())
    return torch.stack(distances).to(image.device)
