"""Degradations of one kind with an ordered level, put on a small picture: what ordinal estimators learn from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from idas_sr.data.corruptions import add_gaussian_noise, blur, compress_pillow
from idas_sr.data.kernels import bell_kernel

KINDS = ("blur", "noise", "compression")
"""In the order in which a camera does them."""
MAX_SIGMA = 2.4
"""Pixels of the low-quality picture: width of the Gaussian blur at level 1."""
MAX_NOISE = 0.12
"""Standard deviation of white noise at level 1, in units of white."""
MIN_QUALITY = 15
"""Of JPEG at level 1."""


def degrade_to_levels(image: Tensor, levels: Sequence[float], seed: int) -> Tensor:
    """Blur, then noise, then JPEG, each at its own level; rounded to 8 bits like any file (ranges ours).

    Args:
        image: (1, 3, h, w) in [0, 1].
        levels: one for each of KINDS; 0 leaves that kind out, 1 is severe.
        seed: of the noise.

    Raises:
        ValueError: a level outside [0, 1], or not one for each kind.
    """
    if len(levels) != len(KINDS) or not all(0 <= level <= 1 for level in levels):
        raise ValueError(f"Give one level in [0, 1] for each of {', '.join(KINDS)}, not {list(levels)}.")
    width, noise, loss = levels
    if width:
        # A little concave: the eye and the spectrum change fastest where a picture is almost sharp.
        sigma = MAX_SIGMA * width**0.7
        image = blur(image, bell_kernel(15, sigma, sigma, 0.0).astype("float32"))
    if noise:
        image = add_gaussian_noise(image, MAX_NOISE * noise, is_gray=False, seed=seed)
    if loss:
        return compress_pillow(image, round(100 - (100 - MIN_QUALITY) * loss))
    return (image.clamp(0, 1) * 255).round() / 255


def degrade_batch(images: Tensor, levels: Tensor, seeds: Sequence[int]) -> Tensor:
    """``degrade_to_levels`` of pictures (B, 3, h, w) at levels (B, 3), on the CPU; returned on their device."""
    rows = zip(images.cpu(), levels.tolist(), seeds, strict=True)
    return torch.cat([degrade_to_levels(image[None], row, seed) for image, row, seed in rows]).to(images.device)
