"""Targets of positioning: which noise level an upsampled picture's latent is said to lie at (methods.md 9.2; ours)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from idas_sr.schedule import NoiseSchedule


def rms(values: Tensor) -> Tensor:
    """(B, ...) -> (B,) root mean square."""
    return values.flatten(1).square().mean(1).sqrt()


def snr_matching(z_lq: Tensor, z_hq: Tensor, factor: float = 1.15) -> Tensor:
    """P-A: w* = factor * rms(z_lq - z_hq), (B,): the picture's deviation as noise, with room for inversion noise."""
    return factor * rms(z_lq - z_hq)


def perceptual(distance: Tensor, schedule: NoiseSchedule, t_scale: float = 500.0) -> Tensor:
    """P-B: w at t* = t_scale * distance, (B,); ``distance`` (B,) is that of the enlarged picture to the clean."""
    return schedule.sigma(t_scale * distance)


def similarity(z_lq: Tensor, z_hq: Tensor) -> Tensor:
    """M_L of RCOD (Eq. in 4.1 of methods.md): cosine of the flattened latents, (B,)."""
    return F.cosine_similarity(z_lq.flatten(1), z_hq.flatten(1))


def similarity_rank(
    z_lq: Tensor, z_hq: Tensor, quantiles: Tensor, schedule: NoiseSchedule, t_min: float = 49.0, t_max: float = 399.0
) -> Tensor:
    """P-C: t* = t_min + (t_max - t_min) F(1 - M_L), (B,) as noise level; F by its ascending ``quantiles`` (Q,)."""
    share = torch.searchsorted(quantiles, 1 - similarity(z_lq, z_hq)).float() / len(quantiles)
    return schedule.sigma(t_min + (t_max - t_min) * share.clamp(0, 1))
