"""Power spectra of pictures: how much fine detail there is, and whether a grid is printed into it."""

from __future__ import annotations

import torch
from torch import Tensor

from idas_sr.lines import LINES, SMALLEST, hann, line_logs
from idas_sr.metrics import luma

RINGS = 32
"""Rings of equal width between 0 and 0.5 cycles per pixel, over which a spectrum is averaged."""

HIGH = 0.25
"""Cycles per pixel from which detail counts as high frequency: what a picture of half the size could not hold."""


def _power(plane: Tensor) -> tuple[Tensor, Tensor]:
    """(H, W) -> power (H, W) of every frequency, windowed and without the mean, and that frequency's radius."""
    height, width = plane.shape
    window = hann(height)[:, None] * hann(width)
    power = torch.fft.fft2((plane - plane.mean()) * window).abs().square() / window.square().sum()
    return power, torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)).double()


def radial_power(plane: Tensor) -> Tensor:
    """(H, W) -> (RINGS,) mean power per ring of frequencies; NaN for pictures below `SMALLEST`."""
    if min(plane.shape) < SMALLEST:
        return torch.full((RINGS,), torch.nan, dtype=torch.float64)
    power, radius = _power(plane.double())
    ring = (radius * 2 * RINGS).long()
    inside = ring < RINGS
    total = torch.zeros(RINGS, dtype=torch.float64).index_add_(0, ring[inside], power[inside])
    return total / torch.bincount(ring[inside], minlength=RINGS)


def ring_centres() -> list[float]:
    """Cycles per pixel in the middle of each ring."""
    return [(i + 0.5) / (2 * RINGS) for i in range(RINGS)]


def log_ratio(image: Tensor, reference: Tensor) -> Tensor:
    """(RINGS,) natural logarithm of the luma's radial power over that of the reference.

    Args:
        image: (1, 3, H, W) in [0, 1].
        reference: same shape and range.
    """
    return (radial_power(luma(image)[0]) / radial_power(luma(reference)[0])).log()


def high_band(ratio: Tensor) -> float:
    """Mean of a `log_ratio` between 0.25 and 0.5 cycles per pixel: 0 as much fine detail, below 0 less."""
    return float(ratio[RINGS // 2 :].mean())


def share_above(difference: Tensor, frequency: float = HIGH) -> float:
    """Share of the energy of a difference (H, W) that lies above ``frequency``; NaN where there is none at all."""
    if min(difference.shape) < SMALLEST or not bool((difference != 0).any()):
        return float("nan")
    power, radius = _power(difference.double())
    return float(power[radius > frequency].sum() / power.sum())


def line_ratios(plane: Tensor) -> Tensor:
    """(H, W) -> (4,) power at `LINES` over the geometric mean of its neighbours, both directions together; 1: no grid.

    Spectra of rows (and of columns) are averaged first, so that what counts is a pattern of that period whatever it
    does along the other direction. NaN for pictures below `SMALLEST`.
    """
    if min(plane.shape) < SMALLEST:
        return torch.full((len(LINES),), torch.nan, dtype=torch.float64)
    return line_logs(plane.double()).exp()
