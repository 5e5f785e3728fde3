"""Colour fixes: give a restored picture the colours of its input again, as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

WAVELET_LEVELS = 5
FLAT = 1e-3
"""Standard deviation below which a channel has no contrast to rescale: a quarter of a step of 8 bits in [0, 1]."""


def _blur(image: Tensor, dilation: int) -> Tensor:
    """(B, 3, H, W) smoothed by the binomial kernel [1 2 1] x [1 2 1] / 16 whose taps lie ``dilation`` pixels apart."""
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=image.dtype, device=image.device)
    kernel = (taps[:, None] * taps).expand(image.shape[1], 1, 3, 3)
    padded = F.pad(image, (dilation,) * 4, mode="replicate")
    return F.conv2d(padded, kernel, dilation=dilation, groups=image.shape[1])


def low_frequencies(image: Tensor, levels: int = WAVELET_LEVELS) -> Tensor:
    """What remains of (B, 3, H, W) after ``levels`` a-trous wavelet bands with dilations 1, 2, 4 ... are taken off."""
    for level in range(levels):
        image = _blur(image, 2**level)
    return image


def wavelet(image: Tensor, reference: Tensor) -> Tensor:
    """High frequencies of the restored picture on the low ones of the reference (methods.md 1.4; after StableSR).

    Args:
        image: (B, 3, H, W) restored, any range.
        reference: (B, 3, H, W) bicubic upsampling of the unpadded input, same range.

    Raises:
        ValueError: different sizes.
    """
    _check(image, reference)
    # The bands are differences of neighbouring levels, so all of them together are the picture less its last level.
    return image - low_frequencies(image) + low_frequencies(reference)


def adain(image: Tensor, reference: Tensor) -> Tensor:
    """Mean and standard deviation of every channel taken from the reference (methods.md 3; Huang and Belongie 2017).

    Args and errors as ``wavelet``.
    """
    _check(image, reference)
    mean, std = image.mean((2, 3), keepdim=True), image.std((2, 3), keepdim=True, correction=0)
    target_mean, target_std = reference.mean((2, 3), keepdim=True), reference.std((2, 3), keepdim=True, correction=0)
    return (image - mean) * (target_std / std.clamp_min(FLAT)) + target_mean


def none(image: Tensor, reference: Tensor) -> Tensor:
    """The picture as it is."""
    return image


def _check(image: Tensor, reference: Tensor) -> None:
    if image.shape != reference.shape:
        raise ValueError(f"The colour reference has shape {tuple(reference.shape)}, the picture {tuple(image.shape)}.")


COLOR_FIXES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"none": none, "adain": adain, "wavelet": wavelet}

REACH = {"none": 0, "wavelet": 2**WAVELET_LEVELS - 1}
"""Pixels around a pixel that decide its colour; a fix that is not listed looks at the whole picture."""
