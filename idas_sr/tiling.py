"""Tiling as a function of functions: cut, call, blend and hand out finished rows, in memory that a tile decides.

Knows windows and weights, no network. Weights are separable and symmetric and sum to one at every place; they are zero
in the outer quarter of an overlap, where a tile lacks the context that the picture has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """A rectangle of the input, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, picture: Tensor) -> Tensor:
        """The rectangle of (..., H, W)."""
        return picture[..., self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Axis:
    """Where the tiles of one axis lie.

    Attributes:
        length: of the axis.
        starts: first pixel of every tile, rising; the last tile ends at ``length``.
        tile: length of every tile.
    """

    length: int
    starts: tuple[int, ...]
    tile: int

    @classmethod
    def cover(cls, length: int, tile: int, overlap: int, multiple: int = 1) -> Axis:
        """As few tiles of equal length as overlap by at least ``overlap``, as short as that allows.

        Args:
            length: of the axis, a multiple of ``multiple`` like all the others.
            tile: upper limit of a tile's length; 0: one tile for everything.
            overlap: of neighbours, below ``tile``.
            multiple: of starts and lengths.

        Raises:
            ValueError: a length that is no positive multiple, or an overlap as large as the tile.
        """
        if length < 1 or any(value % multiple for value in (length, tile, overlap)):
            raise ValueError(f"Length {length}, tile {tile} and overlap {overlap} must be multiples of {multiple}.")
        if tile == 0 or length <= tile:
            return cls(length, (0,), length)
        if not 0 <= overlap < tile:
            raise ValueError(f"The overlap must be at least 0 and below the tile's {tile} pixels, not {overlap}.")
        count = math.ceil((length - overlap) / (tile - overlap))
        tile = math.ceil((length + (count - 1) * overlap) / count / multiple) * multiple
        room = (length - tile) // multiple
        return cls(length, tuple(room * i // (count - 1) * multiple for i in range(count)), tile)

    def overlaps(self) -> list[int]:
        """Length that every tile but the first shares with the one before."""
        return [before + self.tile - start for before, start in pairwise(self.starts)]

    def cores(self, multiple: int = 1) -> list[tuple[int, int]]:
        """(first, end) of every tile's own part, on the axis: neighbours meet in the middle of their overlap."""
        shared = zip(self.starts[1:], self.overlaps(), strict=True)
        cuts = [start + overlap // 2 // multiple * multiple for start, overlap in shared]
        return list(pairwise([0, *cuts, self.length]))

    def weights(self, scale: int = 1) -> list[Tensor]:
        """(tile * scale,) fp32 blending weights of every tile in the output; at every place all of them sum to 1."""
        overlaps = [overlap * scale for overlap in self.overlaps()]
        place = torch.arange(self.tile * scale, dtype=torch.float64) + 0.5
        raw = []
        for index in range(len(self.starts)):
            weight = torch.ones_like(place)
            if index > 0:
                weight = torch.minimum(weight, _ramp(place, overlaps[index - 1]))
            if index < len(overlaps):
                weight = torch.minimum(weight, _ramp(place.flip(0), overlaps[index]))
            raw.append(weight)
        total = torch.zeros(self.length * scale, dtype=torch.float64)
        parts = [slice(start * scale, (start + self.tile) * scale) for start in self.starts]
        for weight, part in zip(raw, parts, strict=True):
            total[part] += weight
        return [(weight / total[part]).float() for weight, part in zip(raw, parts, strict=True)]


def _ramp(place: Tensor, overlap: int) -> Tensor:
    """0 in the first quarter of an overlap, 1 from its last quarter on, linear in between."""
    if overlap == 0:
        return torch.ones_like(place)
    return ((place / overlap - 0.25) * 2).clamp(0, 1)


@dataclass(frozen=True)
class Grid:
    """The tiles of a picture."""

    rows: Axis
    columns: Axis

    @classmethod
    def cover(cls, height: int, width: int, tile: int, overlap: int, multiple: int = 1) -> Grid:
        """As ``Axis.cover`` along both axes."""
        return cls(Axis.cover(height, tile, overlap, multiple), Axis.cover(width, tile, overlap, multiple))

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def row(self, index: int) -> list[Window]:
        """The windows of one row of tiles, from left to right."""
        top = self.rows.starts[index]
        return [Window(top, left, self.rows.tile, self.columns.tile) for left in self.columns.starts]

    def with_cores(self, multiple: int = 1) -> Iterator[tuple[Window, tuple[slice, slice]]]:
        """Every window, and the part of it that is its own, in its pixels; the own parts cover the picture once."""
        for index, (top, bottom) in enumerate(self.rows.cores(multiple)):
            for window, (left, right) in zip(self.row(index), self.columns.cores(multiple), strict=True):
                yield (
                    window,
                    (slice(top - window.top, bottom - window.top), slice(left - window.left, right - window.left)),
                )


Restore = Callable[[Sequence[Window]], Tensor]
"""Windows -> (n, C, height * scale, width * scale), what becomes of each."""


def bands(restore: Restore, grid: Grid, scale: int = 1, batch: int = 1) -> Iterator[Tensor]:
    """Blended rows of the output from top to bottom, as soon as they are finished.

    Holds one row of tiles of the output and what ``restore`` holds for ``batch`` tiles, whatever the picture's height.

    Args:
        restore: makes the output of some windows.
        grid: of the input.
        scale: output pixels per input pixel along a side.
        batch: windows of one call at most.

    Yields:
        (C, rows, width * scale), on the device and of the type of what ``restore`` returns; valid until the next one is
        asked for.
    """
    down, across = grid.rows.weights(scale), grid.columns.weights(scale)
    tops = [top * scale for top in (*grid.rows.starts, grid.rows.length)]
    buffer: Tensor | None = None
    for index, (top, following) in enumerate(pairwise(tops)):
        windows = grid.row(index)
        for first in range(0, len(windows), batch):
            some = windows[first : first + batch]
            for offset, (window, tile) in enumerate(zip(some, restore(some), strict=True)):
                if buffer is None:
                    buffer = tile.new_zeros((tile.shape[0], tile.shape[1], grid.columns.length * scale))
                weight = down[index].to(tile)[:, None] * across[first + offset].to(tile)
                buffer[..., window.left * scale : (window.left + window.width) * scale] += tile * weight
        assert buffer is not None
        done = following - top
        yield buffer[:, :done]
        # What the next row of tiles adds to.
        started = buffer[:, done:].clone()
        buffer[:, : started.shape[1]] = started
        buffer[:, started.shape[1] :] = 0


def tiled(
    function: Callable[[Tensor], Tensor],
    tile: int,
    overlap: int,
    scale: int = 1,
    multiple: int = 1,
    batch: int = 1,
) -> Callable[[Tensor], Tensor]:
    """The same function, called on tiles.

    Args:
        function: (n, C, h, w) -> (n, D, h * scale, w * scale), whatever h and w.
        tile: upper limit of a tile's sides; 0: the whole.
        overlap: of neighbours.
        scale: what the function enlarges by.
        multiple: of the tiles' sides and corners; that of the input's sides too.
        batch: tiles per call.

    Returns:
        a function of (1, C, H, W).
    """

    def on_tiles(picture: Tensor) -> Tensor:
        height, width = picture.shape[-2:]
        grid = Grid.cover(height, width, tile, overlap, multiple)
        rows = bands(lambda windows: function(torch.cat([w.of(picture) for w in windows])), grid, scale, batch)
        return torch.cat([band.clone() for band in rows], dim=1)[None]

    return on_tiles
