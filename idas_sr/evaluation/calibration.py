"""How a dial is calibrated: what its moves change, and what realism a severity asks for, on held-out photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from idas_sr.losses import FeatureDistance
from idas_sr.methods.base import Method
from idas_sr.metrics import psnr_y
from idas_sr.resample import pad_to_multiple
from idas_sr.types import Memory

CELLS = 20
"""Of a dial's table."""


@dataclass(frozen=True)
class Curve:
    """One picture along the dial, with one seed.

    Attributes:
        timestep: that the method declared.
        realism: raw, ascending.
        steps: feature distance (root of sqdist) between neighbouring restorations, not rounded to 8 bits; one fewer.
        sqdist, psnr_y: of each, rounded to 8 bits, to the reference.
    """

    timestep: float
    realism: tuple[float, ...]
    steps: tuple[float, ...]
    sqdist: tuple[float, ...]
    psnr_y: tuple[float, ...]


@torch.inference_mode()
def measure(
    method: Method, pair: tuple[Tensor, Tensor], realism: Sequence[float], distance: FeatureDistance, seed: int
) -> Curve:
    """Restore a pair's input at every realism, anchored once.

    Args:
        method: on its device, in inference mode.
        pair: (lq, hq), (1, 3, h, w) and (1, 3, 4 h, 4 w) in [0, 1].
        realism: raw, ascending.
        distance: for the steps and sqdist.
        seed: of the fresh noise, the same along the curve.
    """
    lq, hq = pair
    device = next(method.parameters()).device
    padded, memory = pad_to_multiple(lq.to(device) * 2 - 1, method.multiple), Memory()
    reference, before = distance.features(hq * 2 - 1), None
    steps, sqdist, psnr = [], [], []
    for level in realism:
        made = method.restore_image(padded, level, [seed], memory).hq
        assert made is not None
        picture = (made[..., : hq.shape[-2], : hq.shape[-1]].float().cpu() / 2 + 0.5).clamp(0, 1)
        features = distance.features(picture * 2 - 1)
        if before is not None:
            steps.append(float(distance.between(before, features).sqrt()))
        saved, before = (picture * 255).round() / 255, features
        sqdist.append(float(distance.between(distance.features(saved * 2 - 1), reference)))
        psnr.append(float(psnr_y(saved, hq)))
    assert memory.anchor is not None
    return Curve(float(memory.anchor.timestep), tuple(realism), tuple(steps), tuple(sqdist), tuple(psnr))


def fine_grid(count: int = 16) -> tuple[float, ...]:
    """Raw realism from 0 to 1, close together near 0, where fresh noise grows fastest."""
    return tuple((index / count) ** 2 for index in range(count + 1))


def dial_table(curves: Sequence[Curve], cells: int = CELLS) -> tuple[float, ...]:
    """Raw realism at even positions of the dial, between which the pictures move equally far on average.

    Args:
        curves: of pictures at the same realism, from 0 to 1.
        cells: of the table.
    """
    realism = curves[0].realism
    way = np.concatenate([[0.0], np.cumsum(np.mean([curve.steps for curve in curves], axis=0))])
    table = np.interp(np.linspace(0, way[-1], cells + 1), way, realism).round(6)
    table[0], table[-1] = 0.0, 1.0
    return tuple(table.tolist())


def unevenness(steps: Sequence[float]) -> float:
    """Largest of some steps over the smallest; 1 where all are equal."""
    return max(steps) / max(min(steps), 1e-12)
