"""Fresh noise that is addressed, not stored: any block of any canvas, the same on every device, tile plan and batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BLOCK = 64
"""Side of a noise block in latent cells (methods.md 9.7)."""


def block(seed: int, row: int, column: int, channels: int) -> np.ndarray:
    """(C, 64, 64) standard normal block (row, column) of ``seed``'s canvas, from the counter-based Philox generator."""
    key = np.array([seed % 2**64, row << 32 | column], dtype=np.uint64)
    # Channel first: a backbone with more channels sees the same numbers in its first ones.
    return np.random.Generator(np.random.Philox(key=key)).standard_normal((channels, BLOCK, BLOCK), dtype=np.float32)


Origin = tuple[int, int] | Sequence[tuple[int, int]]
"""(row, column) of a window's top left cell on the canvas; one for all samples, or one for each."""


def canvas_noise(seeds: Sequence[int], shape: tuple[int, int, int], origin: Origin = (0, 0)) -> Tensor:
    """Window of the seeds' infinite noise canvases.

    Args:
        seeds: one per sample; equal seeds give equal noise.
        shape: (C, h, w) of the window.
        origin: (row, column) of its top left cell on the canvas, not negative; or one per sample.

    Returns:
        (B, C, h, w) fp32 on the CPU.
    """
    if origin and not isinstance(origin[0], int):
        # Tiles of one picture: what differs is the place, not the seed.
        each = [canvas_noise([seed], shape, place) for seed, place in zip(seeds, origin, strict=True)]  # type: ignore[arg-type]
        return torch.cat(each)
    channels, height, width = shape
    top, left = origin
    out = np.empty((len(seeds), channels, height, width), dtype=np.float32)
    for row in range(top // BLOCK, (top + height - 1) // BLOCK + 1):
        for column in range(left // BLOCK, (left + width - 1) // BLOCK + 1):
            y0, x0 = max(row * BLOCK, top), max(column * BLOCK, left)
            y1, x1 = min((row + 1) * BLOCK, top + height), min((column + 1) * BLOCK, left + width)
            inside = (
                slice(None),
                slice(y0 - row * BLOCK, y1 - row * BLOCK),
                slice(x0 - column * BLOCK, x1 - column * BLOCK),
            )
            for sample, seed in enumerate(seeds):
                out[sample, :, y0 - top : y1 - top, x0 - left : x1 - left] = block(seed, row, column, channels)[inside]
    return torch.from_numpy(out)
