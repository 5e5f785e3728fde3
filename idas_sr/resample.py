"""Resizing of image tensors: to the target size before encoding, and padding to what the networks need."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

A = -0.5
"""Of the bicubic kernel (Keys 1981), as torch and Pillow have it where they low-pass."""


def upsample(lq: Tensor, scale: int) -> Tensor:
    """(B, 3, H/s, W/s) in [-1, 1] -> (B, 3, H, W) in [-1, 1], bicubic, clamped."""
    return F.interpolate(lq, scale_factor=scale, mode="bicubic", align_corners=False).clamp(-1, 1)


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Grow (B, 3, H, W) at the right and bottom to multiples of ``multiple``; reflects, or repeats a too small edge."""
    height, width = image.shape[-2:]
    while image.shape[-2] % multiple or image.shape[-1] % multiple:
        h, w = image.shape[-2:]
        # A reflection needs more pixels than it adds; a picture smaller than its pad takes several rounds.
        down, right = min(-h % multiple, max(h - 1, 0)), min(-w % multiple, max(w - 1, 0))
        if (-h % multiple and not down) or (-w % multiple and not right):
            return F.pad(image, (0, -w % multiple, 0, -h % multiple), mode="replicate")
        image = F.pad(image, (0, right, 0, down), mode="reflect")
    assert image.shape[-2] >= height and image.shape[-1] >= width
    return image


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) to ``size`` (height, width): bicubic, low-passed where it shrinks; as it is where the size is right.

    Bicubic overshoots at edges; whoever needs a range clamps.
    """
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False)


def axis_weights(before: int, after: int) -> tuple[Tensor, Tensor]:
    """``resize`` of an axis as numbers: (after,) first input row and (after, n) weights of the rows from there on."""
    ratio = before / after
    stretch = max(ratio, 1.0)
    count = min(math.ceil(2 * stretch) * 2 + 1, before)
    center = (torch.arange(after, dtype=torch.float64) + 0.5) * ratio
    low = (center - 2 * stretch + 0.5).floor().clamp(0, before - count)
    place = (low[:, None] + torch.arange(count) + 0.5 - center[:, None]).abs() / stretch
    near = ((A + 2) * place - (A + 3)) * place**2 + 1
    far = (((place - 5) * place + 8) * place - 4) * A
    weights = torch.where(place < 1, near, torch.where(place < 2, far, 0.0))
    return low.long(), (weights / weights.sum(1, keepdim=True)).float()
