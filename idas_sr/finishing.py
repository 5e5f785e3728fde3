"""From bands of a restoration to rows of the picture that is written: colours, range and size, a few rows at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from idas_sr.color import COLOR_FIXES, FLAT, REACH
from idas_sr.resample import axis_weights, upsample

PIXELS = 2**20
"""Of the picture, that are worked on at a time."""
CONTEXT = 3
"""Input rows around those that are enlarged: bicubic interpolation looks at two."""


def finish(
    bands: Iterable[Tensor], picture: Tensor, scale: int, color_fix: str, size: tuple[int, int]
) -> Iterator[Tensor]:
    """Rows of the finished picture from top to bottom, the same as if all of it were finished at once.

    Args:
        bands: (3, rows, w * scale) in about [-1, 1], from top to bottom, together the whole of the restoration.
        picture: (3, h, w) in [0, 1], what was restored.
        scale: of the restoration.
        color_fix: entry of COLOR_FIXES. ``adain`` asks for the whole picture first: bands wait in a temporary file.
        size: (height, width) of the finished picture.

    Yields:
        (3, rows, width) in [0, 1], fp32, on the CPU.
    """
    height, width = (side * scale for side in picture.shape[-2:])
    rows = max(PIXELS // width, 1)
    thin = (part.float().cpu() for band in bands for part in band.split(rows, dim=1))
    if color_fix == "adain":
        colored = _adain(thin, picture, scale, rows)
    elif REACH[color_fix]:
        colored = _local(thin, picture, scale, color_fix)
    else:
        colored = thin
    unit = ((part / 2 + 0.5).clamp(0, 1) for part in colored)
    return unit if size == (height, width) else _resized(unit, (height, width), size)


def enlarged(picture: Tensor, scale: int, top: int, bottom: int) -> Tensor:
    """Rows ``top`` to ``bottom`` of ``upsample`` of (3, h, w) in [0, 1]: (3, bottom - top, w * scale) in [-1, 1]."""
    first = max(top // scale - CONTEXT, 0)
    last = min(-(-bottom // scale) + CONTEXT, picture.shape[-2])
    part = upsample(picture[None, :, first:last].float() * 2 - 1, scale)[0]
    return part[:, top - first * scale : bottom - first * scale]


def _local(bands: Iterable[Tensor], picture: Tensor, scale: int, color_fix: str) -> Iterator[Tensor]:
    """A colour fix that looks ``REACH`` rows far: every band waits until that many are there below it."""
    reach, fix, height = REACH[color_fix], COLOR_FIXES[color_fix], picture.shape[-2] * scale
    held, top, done = torch.empty(0), 0, 0
    for band in bands:
        held = torch.cat([held, band], dim=1) if held.numel() else band
        end = top + held.shape[1]
        ready = end if end == height else end - reach
        if ready <= done:
            continue
        fixed = fix(held[None], enlarged(picture, scale, top, end)[None])[0]
        yield fixed[:, done - top : ready - top]
        keep = max(ready - reach, top)
        held, top, done = held[:, keep - top :].clone(), keep, ready


def _adain(bands: Iterable[Tensor], picture: Tensor, scale: int, rows: int) -> Iterator[Tensor]:
    width, height = picture.shape[-1] * scale, picture.shape[-2] * scale
    with tempfile.TemporaryFile() as file:
        restored, reference = _Moments(), _Moments()
        for band in bands:
            restored.add(band)
            file.write(band.movedim(1, 0).contiguous().numpy().data)
        for top in range(0, height, rows):
            reference.add(enlarged(picture, scale, top, min(top + rows, height)))
        factor = reference.std() / restored.std().clamp_min(FLAT)
        file.seek(0)
        for top in range(0, height, rows):
            count = min(rows, height - top)
            values = np.frombuffer(file.read(count * 3 * width * 4), dtype=np.float32).reshape(count, 3, width)
            band = torch.from_numpy(values.copy()).movedim(0, 1)
            yield ((band.double() - restored.mean()) * factor + reference.mean()).float()


class _Moments:
    """Mean and standard deviation of every channel, each (3, 1, 1), of rows that come one after the other."""

    def __init__(self) -> None:
        self.count, self.sums, self.squares = 0, torch.zeros(3, 1, 1).double(), torch.zeros(3, 1, 1).double()

    def add(self, band: Tensor) -> None:
        self.count += band[0].numel()
        self.sums += band.double().sum((1, 2), keepdim=True)
        self.squares += band.double().square().sum((1, 2), keepdim=True)

    def mean(self) -> Tensor:
        return self.sums / self.count

    def std(self) -> Tensor:
        return (self.squares / self.count - self.mean() ** 2).clamp_min(0).sqrt()


def _resized(bands: Iterable[Tensor], before: tuple[int, int], after: tuple[int, int]) -> Iterator[Tensor]:
    """``resize`` of rows: along the width by torch, along the height by the same kernel's weights."""
    first, weights = axis_weights(before[0], after[0])
    count = weights.shape[1]
    # As many output rows at a time as one band's worth of pixels.
    step = max(PIXELS // max(after[1], 1), 1)
    held, top, done = torch.empty(0), 0, 0
    for band in bands:
        band = F.interpolate(
            band[None], size=(band.shape[1], after[1]), mode="bicubic", antialias=True, align_corners=False
        )[0]
        held = torch.cat([held, band], dim=1) if held.numel() else band
        end = top + held.shape[1]
        # The last output row whose inputs are all here.
        ready = int(torch.searchsorted(first + count, end, right=True)) if end < before[0] else after[0]
        while done < ready:
            stop = min(done + step, ready)
            out = torch.empty(held.shape[0], stop - done, after[1])
            for row in range(done, stop):
                low = int(first[row])
                used = held[:, low - top : low - top + count]
                out[:, row - done] = (used * weights[row, : used.shape[1], None]).sum(1)
            yield out.clamp(0, 1)
            done = stop
        if done < after[0]:
            keep = max(int(first[done]), top)
            held, top = held[:, keep - top :].clone(), keep
