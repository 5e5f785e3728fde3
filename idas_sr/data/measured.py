"""The degradation of one camera, with the values that ``idas_sr.data.estimate`` finds in its pictures. Ours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from idas_sr.data import corruptions
from idas_sr.data.kernels import bell_kernel

SHARP = 0.2
"""Pixels of blur below which there is none."""


@dataclass(frozen=True)
class MeasuredConfig:
    """Gaussian blur, reduction, correlated noise, JPEG; ranges are (low, high), both included, in this order."""

    scale: int = 4
    blur_sigma: tuple[float, float] = (0.5, 2.0)  # HQ pixels
    noise: tuple[float, float] = (0.0, 0.02)  # standard deviation in [0, 1] units, of the LQ picture
    grain: tuple[float, float] = (0.3, 0.3)  # LQ pixels, see corruptions.correlated_noise; 0.3 is nearly white
    jpeg_quality: tuple[int, int] | None = None  # None: not compressed

    def __post_init__(self) -> None:
        for name in ("blur_sigma", "noise", "grain", "jpeg_quality"):
            pair = getattr(self, name)
            if pair is not None and not (len(pair) == 2 and 0 <= pair[0] <= pair[1]):
                raise ValueError(f"{name} must be (low, high) with 0 <= low <= high, got {pair}")
        if self.grain[0] <= 0:
            raise ValueError(f"grain must be above 0, got {self.grain}")


def degrade_measured(image: Tensor, config: MeasuredConfig, rng: np.random.Generator) -> Tensor:
    """(1, 3, H, W) in [0, 1] -> (1, 3, H/s, W/s), every draw from ``rng``."""
    sigma, noise, grain = (rng.uniform(*pair) for pair in (config.blur_sigma, config.noise, config.grain))
    quality = 0 if config.jpeg_quality is None else int(rng.integers(*config.jpeg_quality, endpoint=True))
    if sigma > SHARP:
        image = corruptions.blur(image, bell_kernel(2 * round(3 * sigma) + 1, sigma, sigma, 0.0))
    lq = corruptions.bicubic_down(image, config.scale)
    field = corruptions.correlated_noise(torch.Size(lq.shape), grain, rng).to(lq.device)
    lq = (lq + noise * field).clamp(0, 1)
    return corruptions.compress_pillow(lq, quality) if quality else lq
