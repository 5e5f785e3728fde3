"""How much of a restoration is invented, and where. The measures are ours.

A restoration x_r is compared with x_0, the same picture at realism 0, into which no fresh noise enters, and with
restorations that differ from it by their seed only. Everything else is equal: size, colours, consistency.

Invented is a claim about the dial, not about the truth: what the network adds to every picture at realism 0 already, by
having learnt what sharp pictures look like, is in x_0 and is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from idas_sr.consistency import Projector, check_larger, consistent
from idas_sr.dial import CALIBRATED
from idas_sr.imagefiles.heatmaps import heat_path, save_heatmap, sheet
from idas_sr.images import Picture
from idas_sr.pipeline import REALISM, SEED, IDaSSROutput, IDaSSRPipeline
from idas_sr.resample import resize
from idas_sr.types import Memory

SEEDS = 8
"""Restorations, the written one among them, whose spread is measured."""
MAP_SIDE = 2048
"""Longest side of the maps; larger pictures are averaged to it."""
MAP_TILE = 512
"""Output pixels: largest tile where a picture is compared by tiles, of which all restorations are held at a time."""
STRIP = 256
"""Rows that are compared at a time."""


@dataclass(frozen=True)
class Invention:
    """What a restoration owes to realism and to its seed.

    Attributes:
        change: (H', W') mean over the channels of |x_r - x_0|, of 1.
        spread: (H', W') standard deviation over the seeds, root mean square over the channels, of 1.
        share: in [0, 1]: E(x_r - x_0) / (E(x_0) + E(x_r - x_0)) with E the energy of the detail, which is what a
            reduction to the input's size does not see (`idas_sr.consistency`). 0 where nothing has detail.
        picture: (3, H', W') in [0, 1], x_r.
        seeds: of the restorations; the first is that of x_r.
        size: (H, W) of the restoration; (H', W') is the same, or averaged to ``MAP_SIDE``.
    """

    change: Tensor
    spread: Tensor
    share: float
    picture: Tensor
    seeds: tuple[int, ...]
    size: tuple[int, int]


def measure(
    pipeline: IDaSSRPipeline,
    picture: Tensor,
    realism: float | str | Picture | None = None,
    seed: int = SEED,
    size: tuple[int, int] | None = None,
    color_fix: str = "none",
    is_consistent: bool = False,
    tile: int | str = "auto",
    memory: Memory | None = None,
    seeds: Sequence[int] | None = None,
    dial: str = CALIBRATED,
) -> Invention:
    """Compare the restoration of a picture with itself at realism 0 and with other seeds.

    A picture that is restored whole is encoded and anchored once for all of it; one that is restored by tiles twice,
    for realism 0 and for the other, because the statistics that tiles share belong to a realism.

    Args:
        pipeline: with a dial.
        picture: (3, h, w) in [0, 1].
        realism, color_fix, tile, dial: as in a call of the pipeline; ``is_consistent`` as its ``consistent``.
        seed: of x_r.
        size: (H, W) of the restorations, larger than the picture; default four times its size.
        memory: of this picture, so that what is in it is not computed again.
        seeds: all of them, instead of ``SEEDS`` from ``seed`` on; the first is that of x_r.

    Raises:
        ValueError: a method without a dial, or an argument out of its range.
        MemoryError: not even the smallest tiles fit.
    """
    check_dial(pipeline)
    height, width = picture.shape[-2:]
    scale = pipeline.restorer.scale
    size = size or (height * scale, width * scale)
    check_larger(size, height, width)
    seeds = tuple(seeds or range(seed, seed + SEEDS))
    if not pipeline.plan(height, width, tile).is_whole(height, width):
        return pipeline.compare_rows(
            picture,
            lambda parts: _tallied(parts, picture.shape, size, seeds),
            [0.0, REALISM if realism is None else realism],
            [seeds[:1], seeds],
            size,
            color_fix,
            MAP_TILE if tile == "auto" else min(int(tile), MAP_TILE),
            dial,
            is_consistent,
        )
    memory = memory or Memory()

    def restored(level: float | str | Picture | None, own: int) -> Tensor:
        result = pipeline(
            picture, level, seed=own, color_fix=color_fix, output_type="pt", memory=memory, tile=tile, dial=dial
        )
        assert isinstance(result, IDaSSROutput) and isinstance(result.images[0], Tensor)
        image = resize(result.images[0][None], size)[0].clamp(0, 1)
        return consistent(image, picture) if is_consistent else image

    images = [restored(0.0, seed), *(restored(realism, own) for own in seeds)]
    strips = (list(parts) for parts in zip(*(image.split(STRIP, dim=1) for image in images), strict=True))
    return _tallied(strips, picture.shape, size, seeds)


def save_map(invention: Invention, target: Path, recipe: str, realism: float | str | Picture | None = None) -> float:
    """Write the maps beside the output ``target``, with its recipe; returns the share.

    Raises:
        OSError: the file cannot be written.
    """
    count = len(invention.seeds)
    maps = [
        ("changed by realism: |x_r - x_0|", invention.change),
        (f"differs with the seed: spread over {count} seeds", invention.spread),
    ]
    at = f"realism {realism:g}" if isinstance(realism, float | int) else "its realism"
    words = f"invented at {at}: {in_words(invention.share)} of the energy of the detail"
    note = {"invented": round(invention.share, 6), "seeds": list(invention.seeds), "size": list(invention.size[::-1])}
    save_heatmap(sheet(invention.picture, maps, words), heat_path(target), recipe, note)
    return note["invented"]  # type: ignore[return-value]


def in_words(share: float) -> str:
    """A share for people, such as 1.7 %."""
    return f"{100 * share:.1f} %"


def check_dial(pipeline: IDaSSRPipeline) -> None:
    """Refuse a pipeline that cannot be compared with itself at realism 0.

    Raises:
        ValueError: its method has no dial.
    """
    if not pipeline.restorer.steering.dial:
        name = pipeline.config["method"]
        raise ValueError(f"A map compares with realism 0, and the method {name} has no dial; leave out --map.")


def _tallied(
    parts: Iterator[list[Tensor]], shape: Sequence[int], size: tuple[int, int], seeds: tuple[int, ...]
) -> Invention:
    """From rows of x_0 and of one restoration per seed, in this order, to what they say together."""
    factor = math.ceil(max(size) / MAP_SIDE)
    averages = _Averages(size, factor)
    # Reduced to nothing: what is left is the detail, of x_0 and of the difference at once.
    detail = Projector(torch.zeros(6, *shape[-2:]), size, clip=False)
    own = added = 0.0
    for plain, first, *others in parts:
        difference = first - plain
        # From the first restoration, so that equal ones have no spread at all.
        apart = torch.stack([torch.zeros_like(first), *(other - first for other in others)])
        spread = apart.std(0, correction=1 if others else 0).square().mean(0).sqrt()
        averages.add(torch.cat([difference.abs().mean(0)[None], spread[None], first]))
        for rows in detail(torch.cat([plain, difference])):
            energies = rows.double().square().sum((1, 2))
            own, added = own + float(energies[:3].sum()), added + float(energies[3:].sum())
    change, spread, *picture = averages.done()
    # Of a flat picture rounding errors are all the detail there is.
    nothing = 1e-9 * size[0] * size[1]
    share = added / (own + added) if own + added > nothing else 0.0
    return Invention(change, spread, share, torch.stack(picture), seeds, size)


class _Averages:
    """Means over squares of ``factor`` pixels, of rows that come from top to bottom."""

    def __init__(self, size: tuple[int, int], factor: int) -> None:
        self.factor, self.top = factor, 0
        height, width = (math.ceil(side / factor) for side in size)
        self.sums, self.counts = torch.zeros(5, height, width), torch.zeros(height, width)

    def add(self, rows: Tensor) -> None:
        count, width = rows.shape[-2:]
        if self.factor == 1:
            self.sums[:, self.top : self.top + count], self.counts[self.top : self.top + count] = rows, 1
        else:
            down = torch.arange(self.top, self.top + count) // self.factor
            across = torch.arange(width) // self.factor
            narrow = torch.zeros(len(rows), count, self.sums.shape[-1]).index_add_(2, across, rows)
            self.sums.index_add_(1, down, narrow)
            columns = torch.zeros(self.sums.shape[-1]).index_add_(0, across, torch.ones(width))
            self.counts.index_add_(0, down, columns.expand(count, -1))
        self.top += count

    def done(self) -> Tensor:
        """(5, H', W')."""
        return self.sums / self.counts
