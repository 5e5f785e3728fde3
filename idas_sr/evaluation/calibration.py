"""How a dial is calibrated: what its moves change, and what realism a severity asks for, on held-out photographs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator, RegularGridInterpolator
from torch import Tensor

from idas_sr.data.degradation import Degradation
from idas_sr.data.sources import list_photographs
from idas_sr.evaluation.heldout import held_out_pair
from idas_sr.losses import FeatureDistance
from idas_sr.methods.base import Method
from idas_sr.metrics import psnr_y
from idas_sr.resample import pad_to_multiple
from idas_sr.types import Memory

CELLS = 20
"""Of a dial's table."""
MOVES = 8
"""Of the dial, that are made equal."""
ROUNDS = 200
"""Of making them equal: places move by half of what is missing."""
SIDE = 256
"""Pixels of the middle of a photograph that is restored; its surroundings went through the degradation too."""
KINDS = (("heldout", 1.0), ("camera", 1.0), ("heldout", 2.0), ("camera", 2.0))
"""Degradation and zoom, in turn: a degradation that training never saw and a camera's, targets sharp and soft."""
SEVERITIES = (0.1, 0.5, 0.9)
"""Quantiles of the declared timesteps at which realism is chosen."""
CHOICES = 9
"""Values of realism that are tried at each of them, from 0 to 1."""

Pair = tuple[Tensor, Tensor]
"""(lq, hq), (1, 3, h, w) and (1, 3, 4 h, 4 w) in [0, 1]."""


@dataclass(frozen=True)
class Curve:
    """One picture along the dial, with one seed.

    Attributes:
        timestep: that the method declared.
        realism: raw, ascending.
        apart: feature distance (root of sqdist) between every two of the restorations, not rounded to 8 bits; or empty.
        sqdist, psnr_y: of each, rounded to 8 bits, to the reference.
    """

    timestep: float
    realism: tuple[float, ...]
    apart: tuple[tuple[float, ...], ...]
    sqdist: tuple[float, ...]
    psnr_y: tuple[float, ...]

    @property
    def steps(self) -> tuple[float, ...]:
        """Feature distance between neighbours; one fewer than restorations."""
        return tuple(self.apart[i][i + 1] for i in range(len(self.apart) - 1))

    def at(self, realism: float) -> tuple[float, float]:
        """(sqdist, psnr_y), linear between what was measured."""
        return tuple(float(np.interp(realism, self.realism, values)) for values in (self.sqdist, self.psnr_y))  # type: ignore[return-value]


def load_pairs(folder: Path, count: int) -> list[Pair]:
    """The middle of held-out photographs, spread over all there are, degraded by each of ``KINDS`` in turn.

    Raises:
        ValueError: fewer photographs than that.
    """
    paths = list_photographs(folder, "validation")
    if len(paths) < count or count < 2:
        raise ValueError(f"{folder} has {len(paths)} held-out photographs, and {count} of them are asked for.")
    degradations = {name: Degradation(name) for name, _ in KINDS}
    pairs = []
    for place, index in enumerate(np.linspace(0, len(paths) - 1, count).round().astype(int).tolist()):
        # Both halves of the pairs, even and odd, get every kind.
        name, zoom = KINDS[place // 2 % len(KINDS)]
        lq, hq = held_out_pair(paths[index], index, degradations[name], zoom)
        scale = hq.shape[-1] // lq.shape[-1]
        pairs.append((middle(lq, SIDE // scale), middle(hq, SIDE)))
    return pairs


def middle(picture: Tensor, side: int) -> Tensor:
    """(1, 3, H, W) -> its middle, (1, 3, side, side) where it is as large; on the grid of the low-quality picture."""
    top, left = (max(0, size - side) // 2 for size in picture.shape[-2:])
    return picture[..., top : top + side, left : left + side]


@torch.inference_mode()
def measure(
    method: Method, pair: Pair, realism: Sequence[float], distance: FeatureDistance, seed: int, steps: bool = True
) -> Curve:
    """Restore a pair's input at every realism, anchored once.

    Args:
        method: on its device, in inference mode.
        pair: input and reference.
        realism: raw, ascending.
        distance: for the steps and sqdist, on the CPU.
        seed: of the fresh noise, the same along the curve.
        steps: whether the distances between restorations are measured too.
    """
    lq, hq = pair
    device = next(method.parameters()).device
    padded, memory = pad_to_multiple(lq.to(device) * 2 - 1, method.multiple), Memory()
    reference = distance.features(hq * 2 - 1)
    features: list[list[Tensor]] = []
    sqdist, psnr = [], []
    for level in realism:
        made = method.restore_image(padded, level, [seed], memory).hq
        assert made is not None
        picture = (made[..., : hq.shape[-2], : hq.shape[-1]].float().cpu() / 2 + 0.5).clamp(0, 1)
        saved = (picture * 255).round() / 255
        if steps:
            features.append(distance.features(picture * 2 - 1))
        sqdist.append(float(distance.between(distance.features(saved * 2 - 1), reference)))
        psnr.append(float(psnr_y(saved, hq)))
    assert memory.anchor is not None
    apart = np.zeros((len(features), len(features)))
    for i, j in itertools.combinations(range(len(features)), 2):
        apart[i, j] = apart[j, i] = float(distance.between(features[i], features[j]).sqrt())
    told = float(memory.anchor.timestep)
    return Curve(told, tuple(realism), tuple(map(tuple, apart.tolist())), tuple(sqdist), tuple(psnr))


def measure_all(
    method: Method,
    pairs: Sequence[Pair],
    realism: Callable[[int], Sequence[float]],
    distance: FeatureDistance,
    jobs: int = 1,
    on_picture: Callable[[], object] = lambda: None,
    steps: bool = True,
) -> list[Curve]:
    """``measure`` of each pair, ``jobs`` at a time, at the ``realism`` of its place, which is its seed too."""

    def one(place: int) -> Curve:
        curve = measure(method, pairs[place], realism(place), distance, place, steps)
        on_picture()
        return curve

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        return list(pool.map(one, range(len(pairs))))


def even_grid(moves: int) -> tuple[float, ...]:
    """0, 1/moves ... 1."""
    return tuple(index / moves for index in range(moves + 1))


def fine_grid(moves: int = 12) -> tuple[float, ...]:
    """Raw realism from 0 to 1, close together near 0, where fresh noise grows fastest."""
    return tuple(position**2 for position in even_grid(moves))


def dial_table(curves: Sequence[Curve], cells: int = CELLS) -> tuple[float, ...]:
    """Raw realism at even positions of the dial, of which ``MOVES`` equal moves change the pictures equally on average.

    A way made of many short moves is longer than one long move, and how much longer changes along the dial; so moves of
    that size are made equal, not a length that is summed up.

    Args:
        curves: of pictures at the same realism, from 0 to 1.
        cells: of the table.
    """
    # In the root of realism, with which the amplitude of fresh noise grows.
    roots = np.sqrt(curves[0].realism)
    apart = RegularGridInterpolator((roots, roots), np.mean([curve.apart for curve in curves], axis=0))
    even = np.linspace(0, 1, MOVES + 1)
    places = even.copy()
    for _ in range(ROUNDS):
        way = np.concatenate([[0.0], np.cumsum(apart(np.stack([places[:-1], places[1:]], axis=1)))])
        places = (places + np.interp(even * way[-1], way, places)) / 2
    table = (PchipInterpolator(even, places)(np.linspace(0, 1, cells + 1)) ** 2).round(6)
    table[0], table[-1] = 0.0, 1.0
    return tuple(table.tolist())


def severity_table(curves: Sequence[Curve]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Timesteps, and the raw realism at each, that make mean sqdist to the references smallest; all are tried.

    sqdist and not PSNR: in PSNR every picture is best at 0, and there is nothing to choose.
    """
    told = np.array([curve.timestep for curve in curves])
    knots = np.unique(np.quantile(told, SEVERITIES).round(1))
    weights = np.stack([np.interp(told, knots, row) for row in np.eye(len(knots))], axis=1)
    grid, best = even_grid(CHOICES - 1), (np.inf, (0.0,) * len(knots))
    for choice in itertools.product(grid, repeat=len(knots)):
        cost = float(np.mean([c.at(r)[0] for c, r in zip(curves, weights @ np.array(choice), strict=True)]))
        best = min(best, (cost, choice))
    return tuple(knots.tolist()), best[1]


def best_fixed(curves: Sequence[Curve]) -> float:
    """The one raw realism with the smallest mean sqdist."""
    return min(even_grid(CHOICES - 1), key=lambda r: float(np.mean([curve.at(r)[0] for curve in curves])))
