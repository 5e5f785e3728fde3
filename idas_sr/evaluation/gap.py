"""The position-state gap over the dial: whether a steered state is as noisy as the timestep that the UNet is told.

Nothing is denoised or decoded for it, so many pictures cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from idas_sr.evaluation.sweep import anchor_picture, position_state_gap
from idas_sr.evaluation.sweep_summary import mean
from idas_sr.methods.base import Method
from idas_sr.resample import pad_to_multiple
from idas_sr.steering import Steering

Gaps = dict[str, list[float | None]]
"""Label of a steering -> one gap per value of realism."""


@torch.inference_mode()
def gaps_of(
    method: Method, steerings: Mapping[str, Steering], realism: Sequence[float], lq: Tensor, hq: Tensor, seed: int
) -> Gaps:
    """Gaps of one picture: (1, 3, h, w) and its reference (1, 3, H, W), both in [0, 1]."""
    start, backbone = anchor_picture(method, lq), method.backbone
    padded = pad_to_multiple(hq * 2 - 1, method.multiple * method.scale)
    z_hq = backbone.encode(padded.to(start.z_lq.device))

    def gap(steering: Steering, r: float) -> float | None:
        return position_state_gap(steering(start.anchor, start.z_lq, r, [seed], backbone.schedule), z_hq, method)

    return {label: [gap(steering, r) for r in realism] for label, steering in steerings.items()}


def measure_gaps(
    method: Method,
    steerings: Mapping[str, Steering],
    realism: Sequence[float],
    pairs: Sequence[Callable[[], tuple[Tensor, Tensor]]],
    jobs: int = 1,
    on_picture: Callable[[], object] = lambda: None,
) -> list[Gaps]:
    """`gaps_of` every pair, ``jobs`` at a time; the seed of a picture is its place.

    Args:
        pairs: each makes (lq, hq) when it is its turn, so that they need not be in memory together.
    """

    def one(place: int) -> Gaps:
        found = gaps_of(method, steerings, realism, *pairs[place](), seed=place)
        on_picture()
        return found

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        return list(pool.map(one, range(len(pairs))))


def summarise_gaps(rows: Sequence[Gaps], realism: Sequence[float]) -> dict[str, Any]:
    """``images``, ``realism`` and per steering ``mean`` and ``abs``: means of g and of its size, one per realism."""
    found = {}
    for label in rows[0]:
        at = [[row[label][i] for row in rows] for i in range(len(realism))]
        sizes = [[None if gap is None else abs(gap) for gap in gaps] for gaps in at]
        found[label] = {"mean": [mean(gaps) for gaps in at], "abs": [mean(gaps) for gaps in sizes]}
    return {"images": len(rows), "realism": list(realism), "steerings": found}
