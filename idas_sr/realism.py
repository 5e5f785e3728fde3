"""Realism where it matters: one number, one per picture, or a map that says how much where (methods.md 9.4).

A UNet is told one timestep per picture, so realism cannot move from place to place inside one evaluation: the noise
could, the timestep that must be its pair could not. A map is therefore met by several complete restorations, each at
one level of realism with its own timestep, its own share of the same fresh noise and its own evaluation. Between their
latents every cell interpolates, and one decoding follows. Where the map is at a level, the latent is exactly that
restoration's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from idas_sr.dial import AUTO
from idas_sr.images import Picture, pixels_of
from idas_sr.types import Steered

Realism = float | str | Sequence[float | str | Picture] | Picture
"""What callers may give: a number, a map, ``auto``, or a list with one of them per picture."""

MAX_LEVELS = 5
"""Evaluations that a map costs at most. Between 0 and 1 the levels are then a quarter apart."""

SHAPE_TOLERANCE = 0.02
"""Relative difference of the aspect ratios of a map and its picture that rounding explains."""

_SMOOTHING = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


@dataclass(frozen=True)
class RealismMap:
    """Realism by place, for ``Method.restore``.

    Attributes:
        values: (B, 1, h, w) in [0, 1] on the grid of the low-quality picture.
        levels: realisms that are evaluated, rising, from the least to the largest of the whole map.
    """

    values: Tensor
    levels: tuple[float, ...]

    def weights(self, height: int, width: int) -> list[Tensor]:
        """Per level (B, 1, height, width): its share in every latent cell; one at its own value, and summing to one.

        Args:
            height, width: of the latent grid, which divide the sides of ``values`` or are multiples of them.
        """
        cells = F.adaptive_avg_pool2d(self.values, (height, width))
        if len(self.levels) == 1:
            return [torch.ones_like(cells)]
        shares = []
        for index, level in enumerate(self.levels):
            share = torch.ones_like(cells)
            if index > 0:
                before = self.levels[index - 1]
                share = torch.minimum(share, (cells - before) / (level - before))
            if index + 1 < len(self.levels):
                after = self.levels[index + 1]
                share = torch.minimum(share, (after - cells) / (after - level))
            shares.append(share.clamp_min(0))
        return shares


def over_levels(
    denoise: Callable[[float | Tensor], tuple[Tensor, Steered]],
    realism: float | Tensor | RealismMap,
    height: int,
    width: int,
) -> tuple[Tensor, Steered]:
    """Restore once per level and let every cell interpolate between its neighbours: a latent, and what was steered.

    Args:
        denoise: realism -> restored latent (B, C, height, width) and the steered state that it was made from.
        realism: the map; or one number or (B,), which is one call.
        height, width: of the latent grid.

    Returns:
        The latent, and a ``Steered`` whose numbers are means over the map.
    """
    if not isinstance(realism, RealismMap):
        return denoise(realism)
    if len(realism.levels) == 1:
        return denoise(realism.levels[0])
    z0: Tensor | None = None
    sums: list[Tensor] = []
    for level, share in zip(realism.levels, realism.weights(height, width), strict=True):
        restored, steered = denoise(level)
        share = share.to(restored)
        mean = share.mean((1, 2, 3))
        numbers = (steered.timestep, steered.sigma, steered.keep, steered.fresh)
        terms = [*(mean * number for number in numbers), share * steered.state]
        if steered.realism is not None:
            terms.append(mean * steered.realism)
        z0 = share * restored if z0 is None else z0 + share * restored
        sums = [a + b for a, b in zip(sums, terms, strict=True)] if sums else terms
    assert z0 is not None
    return z0, Steered(*sums)


def per_picture(realism: Realism, count: int) -> list[float | Tensor | str]:
    """One number, ``auto``, or one map (h, w) in [0, 1], for each of ``count`` pictures; a constant map is a number.

    Args:
        realism: a number in [0, 1]; ``auto``; a map as grey PIL picture, (h, w) or (1, h, w) array or tensor, uint8 or
            float in [0, 1], for all pictures; or a list, (B,) or (B, 1, h, w) with one of them per picture.

    Raises:
        ValueError: none of these, another number of entries than pictures, or values outside [0, 1].
    """
    if isinstance(realism, Tensor | np.ndarray):
        single = realism.ndim in (0, 2) or (realism.ndim == 3 and realism.shape[0] == 1)
        given = [realism] * count if single else list(realism)
    elif isinstance(realism, list | tuple):
        given = list(realism)
    else:
        given = [realism] * count  # type: ignore[list-item]
    if len(given) != count:
        raise ValueError(f"There are {count} pictures but {len(given)} values of realism.")
    return [_one(value) for value in given]


def _one(value: object) -> float | Tensor | str:
    if isinstance(value, str):
        if value != AUTO:
            raise ValueError(f"realism is a number between 0 and 1, a grey map or {AUTO!r}, not {value!r}.")
        return value
    if isinstance(value, Image.Image):
        value = pixels_of(value if value.mode.startswith("I") else value.convert("L"))[..., 0]
    if isinstance(value, Tensor | np.ndarray) and value.ndim in (2, 3):
        grey = torch.as_tensor(np.array(value) if isinstance(value, np.ndarray) else value).detach().cpu()
        grey = grey.float() / 255 if grey.dtype == torch.uint8 else grey.float()
        if (grey.ndim == 3 and grey.shape[0] != 1) or 0 in grey.shape:
            raise ValueError(f"A realism map is (h, w) or (1, h, w) with at least one place, not {tuple(value.shape)}.")
        grey = grey.reshape(grey.shape[-2:])
        if not bool(((grey >= 0) & (grey <= 1)).all()):
            raise ValueError("A realism map must lie between 0 and 1.")
        return _constant_as_number(grey)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ValueError(f"realism is a number between 0 and 1 or a grey map, not {type(value).__name__}.") from error
    if not 0 <= number <= 1:
        raise ValueError(f"realism must lie between 0 and 1, not {number}.")
    return number


def _constant_as_number(grey: Tensor) -> float | Tensor:
    low, high = grey.min().item(), grey.max().item()
    return low if low == high else grey


def levels_of(grey: Tensor, most: int = MAX_LEVELS) -> tuple[float, ...]:
    """The values of a map where they are few (in steps of 8 bits), else ``most`` evenly spaced ones over its range."""
    found = torch.unique(grey)
    if len(found) <= most and bool((found.diff() * 255 >= 1).all()):
        return tuple(found.tolist())
    # In single precision, so that a cell at a level is found to be exactly there.
    return tuple(torch.linspace(found[0].item(), found[-1].item(), most).tolist())


def fit_map(grey: Tensor, height: int, width: int) -> RealismMap:
    """A map (h, w) on the grid of a picture of ``height`` x ``width``, its edges softened over two pixels.

    Raises:
        ValueError: the map has another shape than the picture.
    """
    rows, columns = grey.shape
    stretch = (columns / width) / (rows / height)
    # A map may be small; half a pixel of rounding at either side is then much.
    allowed = math.log(1 + SHAPE_TOLERANCE) + 0.5 / rows + 0.5 / columns
    if abs(math.log(stretch)) > allowed:
        raise ValueError(
            f"The realism map has {columns}x{rows} pixels and the picture {width}x{height}, which is another shape; "
            "make the map from the picture itself."
        )
    levels = levels_of(grey)
    values = F.interpolate(grey[None, None], size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    kernel = torch.tensor(_SMOOTHING)
    values = F.pad(values, (2, 2, 2, 2), mode="replicate")
    values = F.conv2d(F.conv2d(values, kernel.reshape(1, 1, 5, 1)), kernel.reshape(1, 1, 1, 5))
    # Weights of a resampling sum to one up to a rounding error, which must not leave the levels.
    return RealismMap(values.clamp(levels[0], levels[-1]), levels)
