"""Photographs that were kept from training, degraded: what may be looked at while a model is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from idas_sr.data.degradation import Degradation
from idas_sr.data.photographs import sample_rng
from idas_sr.data.sources import list_photographs
from idas_sr.imagefiles.reading import read_rgb


def load_picture(path: Path) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(read_rgb(path).transpose(2, 0, 1).copy())[None].float() / 255


def held_out_pairs(folder: Path, count: int, degradation: str, zoom: float = 1.0) -> list[tuple[Tensor, Tensor]]:
    """(lq, hq) of held-out photographs: reduced to a shorter side of 512 where larger, then the central 512 x 512.

    ``zoom`` enlarges the centre by bicubic interpolation before it is degraded: targets as soft as the full-size frames
    of many cameras are. The same pairs for the same arguments: degradations follow from the position in the sorted
    list.
    """
    return pairs_of(list_photographs(folder, "validation")[:count], Degradation(degradation), zoom)


def pairs_of(paths: Sequence[Path], degradation: Degradation, zoom: float = 1.0) -> list[tuple[Tensor, Tensor]]:
    """``held_out_pairs`` of chosen photographs."""
    return [held_out_pair(path, index, degradation, zoom) for index, path in enumerate(paths)]


def held_out_pair(path: Path, index: int, degradation: Degradation, zoom: float = 1.0) -> tuple[Tensor, Tensor]:
    """One of ``held_out_pairs``: of the photograph at this place of a list."""
    hq = load_picture(path)
    if min(hq.shape[-2:]) > 512:
        # Straight from a camera, large ones are soft at their own resolution: more blur changes little.
        factor = 512 / min(hq.shape[-2:])
        hq = F.interpolate(hq, scale_factor=factor, mode="bicubic", antialias=True).clamp(0, 1)
    height, width = (min(side, 512) // 16 * 16 for side in hq.shape[-2:])
    top, left = (hq.shape[-2] - height) // 2, (hq.shape[-1] - width) // 2
    hq = hq[..., top : top + height, left : left + width]
    if zoom != 1:
        height, width = (round(side / zoom) for side in hq.shape[-2:])
        top, left = (hq.shape[-2] - height) // 2, (hq.shape[-1] - width) // 2
        centre = hq[..., top : top + height, left : left + width]
        hq = F.interpolate(centre, tuple(hq.shape[-2:]), mode="bicubic").clamp(0, 1)
    return degradation(hq, [sample_rng(2024, index)]), hq
