"""A picture of any size by tiles: what belongs to the whole of it is measured first, every tile is restored with it.

Belongs to the whole picture: its severity and with it the timestep, the statistics of normalisations
(`idas_sr.networks.shared`), what a conditioner says of it, and the noise canvas. Everything else is local, and tiles
see enough around them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from idas_sr.methods.base import Method
from idas_sr.networks.shared import SharedStatistics
from idas_sr.planning import SAMPLE_SIDE, Plan
from idas_sr.realism import RealismMap
from idas_sr.resample import pad_to_multiple
from idas_sr.tiling import Grid, Window, bands
from idas_sr.types import Anchor, Memory, Restored

SAMPLE_MARGIN = 1 / 8
"""Share of a sample window's sides that is left out at each of its edges, where it lacks its surroundings."""
SURVEY_OVERLAP = 16
"""Input pixels that windows share when only the severity is measured, which looks less far."""


class Tiles:
    """One picture, its plan, and what its tiles have in common.

    Args:
        method: that restores.
        picture: (3, h, w) in [0, 1], or uint8; may stay on the CPU.
        realism: of the picture; a map on the picture's own grid; or what gives (B,) for an anchor, whose position is
            that of the whole picture in every tile.
        seed: of the fresh noise.
        plan: with a tile.
        device: of the networks.
    """

    def __init__(
        self,
        method: Method,
        picture: Tensor,
        realism: float | RealismMap | Callable[[Anchor], Tensor],
        seed: int,
        plan: Plan,
        device: torch.device,
    ) -> None:
        self.method, self.picture, self.realism, self.seed = method, picture, realism, seed
        self.plan, self.device = plan, device
        height, width = picture.shape[-2:]
        self.rows = _reflected(height, width, method.multiple)
        self.columns = _reflected(width, height, method.multiple)
        self.height, self.width = len(self.rows), len(self.columns)
        self.grid = Grid.cover(self.height, self.width, plan.tile, plan.overlap, method.multiple)
        samples = self._samples()
        self.statistics = SharedStatistics(method, enabled=plan.samples > 0)
        # Told something else of every tile, the network would make another picture of each.
        self.condition = method.conditioner(self.cut(samples), method.backbone).averaged()
        self.severity = self._survey(samples)
        with self.statistics.measured(SAMPLE_MARGIN):
            self.sample = self._restore(samples)

    def cut(self, windows: Sequence[Window]) -> Tensor:
        """(n, 3, h, w) in [-1, 1] on the networks' device, of the picture padded to what they need."""
        cut = self._cut(self.picture, windows)
        return (cut.float() / 255 if cut.dtype == torch.uint8 else cut) * 2 - 1

    def _cut(self, picture: Tensor, windows: Sequence[Window]) -> Tensor:
        parts = [
            picture[:, self.rows[w.top : w.top + w.height]][:, :, self.columns[w.left : w.left + w.width]]
            for w in windows
        ]
        return torch.stack(parts).to(self.device)

    def bands(self, seeds: Sequence[int] | None = None) -> Iterator[Tensor]:
        """(3, rows, w * scale) in about [-1, 1], from top to bottom, without the padding.

        Args:
            seeds: of several restorations, (3 len(seeds), rows, w * scale): a tile is encoded and anchored once for
                all of them. Default: the picture's own seed.
        """
        scale, left = self.method.scale, self.picture.shape[-2] * self.method.scale
        restored = functools.partial(self._restored, seeds=[self.seed] if seeds is None else seeds)
        for band in bands(restored, self.grid, scale, self.plan.batch):
            if left > 0:
                yield band[:, :left, : self.picture.shape[-1] * scale]
            left -= band.shape[1]

    def _restored(self, windows: Sequence[Window], seeds: Sequence[int]) -> Tensor:
        memory, each = Memory(), []
        for seed in seeds:
            with self.statistics.used():
                hq = self._restore(windows, seed, memory).hq
            assert hq is not None
            each.append(hq)
        return torch.cat(each, dim=1)

    def _restore(self, windows: Sequence[Window], seed: int | None = None, memory: Memory | None = None) -> Restored:
        lq = self.cut(windows)
        scale, cell = self.method.scale, self.method.backbone.downsample
        origins = [(window.top * scale // cell, window.left * scale // cell) for window in windows]
        severity = self.severity.expand(len(lq), -1)
        realism = self.realism
        if isinstance(realism, RealismMap):
            # Levels are the whole picture's, so every tile is restored at the same ones.
            realism = replace(realism, values=self._cut(realism.values[0], windows))
        seeds, condition = [self.seed if seed is None else seed] * len(lq), self.condition.expand(len(lq))
        return self.method.restore(lq, realism, seeds, condition, origin=origins, severity=severity, memory=memory)

    def _survey(self, samples: list[Window]) -> Tensor:
        """(1, K) mean of the severity map over the picture."""
        with self.statistics.measured(SAMPLE_MARGIN):
            self._severity_map(samples)
        multiple = self.method.multiple
        overlap = min(SURVEY_OVERLAP, self.plan.overlap) // multiple * multiple
        grid = Grid.cover(self.height, self.width, self.plan.tile, overlap, multiple)
        total, area = torch.zeros((), device=self.device), 0
        with self.statistics.used():
            for window, own in grid.with_cores(multiple):
                inside = _inside(self._severity_map([window]), own, window)
                pixels = (own[0].stop - own[0].start) * (own[1].stop - own[1].start)
                total, area = total + pixels * inside.mean((2, 3)), area + pixels
        return total / area

    def _severity_map(self, windows: Sequence[Window]) -> Tensor:
        lq = self.cut(windows)
        return self.method.severity_map(lq, self.method.encode(lq))

    def _samples(self) -> list[Window]:
        """Windows spread evenly over the picture, as many as cover it or as a sample has."""
        multiple = self.method.multiple
        most = max(min(SAMPLE_SIDE, self.plan.tile) // multiple, 1) * multiple
        height, width = min(self.height, most), min(self.width, most)
        rows, columns = (math.ceil(side / own) for side, own in ((self.height, height), (self.width, width)))
        samples = max(self.plan.samples, 1)
        if rows * columns > samples:
            rows = min(max(round(math.sqrt(samples * rows / columns)), 1), samples)
            columns = max(samples // rows, 1)
        tops, lefts = _spread(self.height - height, rows, multiple), _spread(self.width - width, columns, multiple)
        return [Window(top, left, height, width) for top in tops for left in lefts]


def _spread(room: int, count: int, multiple: int) -> list[int]:
    if count == 1:
        return [room // 2 // multiple * multiple]
    return [room * index // (count - 1) // multiple * multiple for index in range(count)]


def _inside(values: Tensor, own: tuple[slice, slice], window: Window) -> Tensor:
    """The part of a map (B, K, h', w') that is a window's own; all of a map with one value."""
    if values.shape[-1] == values.shape[-2] == 1:
        return values
    rows, columns = window.height // values.shape[-2], window.width // values.shape[-1]
    return values[..., own[0].start // rows : own[0].stop // rows, own[1].start // columns : own[1].stop // columns]


def _reflected(side: int, other: int, multiple: int) -> Tensor:
    """Indices of an axis padded as ``pad_to_multiple`` pads a picture whose other side is ``other``."""
    # How an axis is padded depends on whether the other can be reflected, not on how long it is.
    other = other if other <= multiple else multiple + other % multiple
    index = torch.arange(side, dtype=torch.float32).reshape(1, 1, side, 1).expand(1, 1, side, other)
    return pad_to_multiple(index, multiple)[0, 0, :, 0].long()
