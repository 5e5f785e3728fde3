"""How a camera degrades, estimated from its pictures and somebody's clean ones, which need not show the same. Ours.

Blur and noise of a single picture cannot be told from what it shows. So clean photographs are degraded with one set of
values after the other, until they look on average like the camera's pictures: the same power spectrum, the same noise
in flat places, and as much alike from pixel to pixel. JPEG's quality stands in the files.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from idas_sr.data.measured import MeasuredConfig, degrade_measured
from idas_sr.data.photographs import sample_rng

SIDE = 192
"""LQ pixels along the sides of the centre that is looked at."""
BLURS = (0.0, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.3, 2.6, 3.0, 3.5, 4.0, 4.5, 5.0)
NOISES = (0.0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.07)
GRAINS = (0.3, 0.45, 0.6, 0.75, 0.9, 1.1)
"""Values that are tried, in the units of ``MeasuredConfig``."""
ROUNDS = 3
"""Times that blur, noise and grain are tried in turn."""
SPREAD = 0.15
"""Values are drawn from the estimate less and plus this share of it: it is not exact."""
BANDS = np.linspace(1 / 16, 1 / 2, 9)
"""Borders of the bands of the spectrum, cycles per pixel."""
BLOCK = 8
FLAT_SHARE = 0.1
JPEG_LUMA_SUM = 3688
"""Sum of the luma table in Annex K of the JPEG standard (quality 50 of the IJG's library)."""

logger = logging.getLogger(__name__)


def jpeg_quality(path: Path) -> int | None:
    """Quality (1 to 100) with which a JPEG file was written, as the IJG's library counts; None for other files."""
    with Image.open(path) as image:
        tables = getattr(image, "quantization", None)
    if not tables:
        return None
    percent = 100 * sum(tables[0]) / JPEG_LUMA_SUM
    quality = 5000 / percent if percent > 100 else (200 - percent) / 2
    return int(np.clip(round(quality), 1, 100))


def centre(image: np.ndarray, side: int) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, h, w) in [0, 1]: the middle, of at most ``side`` pixels, sides multiples of 4."""
    height, width = (min(length, side) // 4 * 4 for length in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    patch = image[top : top + height, left : left + width]
    return torch.from_numpy(patch.transpose(2, 0, 1).copy())[None].float() / 255


def statistics(lq: Tensor) -> np.ndarray:
    """What a picture (1, 3, h, w) in [0, 1] looks like: log power of each band of its spectrum relative to the lowest,
    log of the noise in its flattest blocks, and correlation of neighbours there."""
    luma = (lq[0] * lq.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0).double().numpy()
    height, width = luma.shape
    window = np.hanning(height)[:, None] * np.hanning(width)[None]
    power = np.abs(np.fft.rfft2((luma - luma.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    inside = [power[(frequency >= a) & (frequency < b)] for a, b in itertools.pairwise(BANDS)]
    log_power = np.log([band.mean() + 1e-6 for band in inside])
    return np.concatenate([log_power[1:] - log_power[0], _flat_noise(luma)])


def _flat_noise(luma: np.ndarray) -> np.ndarray:
    """Twice the log of the noise, and four times the correlation of neighbours, of the flattest blocks."""
    rows, columns = luma.shape[0] // BLOCK, luma.shape[1] // BLOCK
    grid = luma[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    blocks = grid.swapaxes(1, 2).reshape(-1, BLOCK, BLOCK)
    mean = blocks.mean((1, 2))
    usable = blocks[(mean > 0.04) & (mean < 0.96)]
    blocks = usable if len(usable) else blocks
    # Less a plane: slow changes of light are no noise.
    axis = np.arange(BLOCK) - (BLOCK - 1) / 2
    across = (blocks * axis).sum((1, 2)) / (BLOCK * (axis**2).sum())
    down = (blocks * axis[:, None]).sum((1, 2)) / (BLOCK * (axis**2).sum())
    left = blocks - blocks.mean((1, 2), keepdims=True)
    left = left - across[:, None, None] * axis - down[:, None, None] * axis[:, None]
    variance = left.var((1, 2))
    flattest = left[np.argsort(variance)[: max(1, round(FLAT_SHARE * len(left)))]]
    level = np.sqrt(flattest.var()) + 0.5 / 255
    neighbours = (flattest[:, :, 1:] * flattest[:, :, :-1]).mean() + (flattest[:, 1:] * flattest[:, :-1]).mean()
    return np.array([2 * np.log(level), 4 * neighbours / (2 * flattest.var() + 1e-6)])


def estimate(
    pictures: Sequence[np.ndarray],
    clean: Sequence[np.ndarray],
    quality: int | None,
    on_step: Callable[[], object] = lambda: None,
) -> MeasuredConfig:
    """The degradation that makes ``clean`` photographs look like the camera's ``pictures``.

    Args:
        pictures, clean: (H, W, 3) uint8, of any sizes; scenes should be of the same kind.
        quality: of the camera's JPEG; None: not compressed.
        on_step: called after every try.

    Raises:
        ValueError: a picture, or four times less a clean one, is smaller than 64 pixels.
    """
    for kind, images, least in (("low-quality", pictures, 64), ("clean", clean, 256)):
        small = [image for image in images if min(image.shape[:2]) < least]
        if small or not images:
            raise ValueError(f"The {kind} pictures must be at least {least} pixels wide and high, and one or more.")
    wanted = np.mean([statistics(centre(picture, SIDE)) for picture in pictures], axis=0)
    crops = [centre(photograph, 4 * SIDE) for photograph in clean]

    def distance(config: MeasuredConfig) -> float:
        made = [degrade_measured(crop, config, sample_rng(0, index)) for index, crop in enumerate(crops)]
        rounded = [(lq * 255).round() / 255 for lq in made]
        on_step()
        return float(np.square(np.mean([statistics(lq) for lq in rounded], axis=0) - wanted).sum())

    best = MeasuredConfig(
        blur_sigma=(0.0, 0.0), noise=(0.0, 0.0), jpeg_quality=None if quality is None else (quality, quality)
    )
    for _ in range(ROUNDS):
        for name, values in (("blur_sigma", BLURS), ("noise", NOISES), ("grain", GRAINS)):
            tried = [replace(best, **_fixed(name, value)) for value in values]
            best = min(tried, key=distance)
    logger.info("distance left between the statistics: %.3f", distance(best))
    return best


def _fixed(name: str, value: float) -> dict[str, Any]:
    return {name: (value, value)}


def tries() -> int:
    """How often ``estimate`` calls ``on_step``."""
    return ROUNDS * (len(BLURS) + len(NOISES) + len(GRAINS)) + 1


def widened(config: MeasuredConfig) -> MeasuredConfig:
    """Ranges around estimated values, for training."""

    def around(pair: tuple[float, float]) -> tuple[float, float]:
        return (round(pair[0] * (1 - SPREAD), 4), round(pair[1] * (1 + SPREAD), 4))

    return replace(config, blur_sigma=around(config.blur_sigma), noise=around(config.noise), grain=around(config.grain))
