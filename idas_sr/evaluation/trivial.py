"""Three restorations without a model, which stand in every table of results: bicubic, + unsharp mask, + grain."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter

from idas_sr.imagefiles.reading import read_rgb
from idas_sr.images import read_text, write_png

TRIVIAL = {"bicubic": "bicubic", "unsharp": "bicubic + unsharp mask", "grain": "bicubic + unsharp mask + grain"}
"""Folder -> name in tables."""

RECIPE_KEY = "idas_sr_trivial"
UNSHARP_RADIUS, UNSHARP_PERCENT = 2.0, 100
GRAIN_LEVEL, GRAIN_SIZE = 6.0, 0.6


def film_grain(height: int, width: int, level: float, size: float, seed: int) -> np.ndarray:
    """(height, width, 1) grey noise of standard deviation ``level``, blurred by a Gaussian of ``size`` pixels."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    # Periodic, so that grain at the edges is as strong as in the middle.
    grain = gaussian_filter(noise, size, mode="wrap")
    return level * (grain / grain.std())[..., None]


def restore_trivially(
    lq: Image.Image,
    seed: int,
    scale: float = 4.0,
    radius: float = UNSHARP_RADIUS,
    percent: int = UNSHARP_PERCENT,
    level: float = GRAIN_LEVEL,
    size: float = GRAIN_SIZE,
) -> dict[str, Image.Image]:
    """The three pictures of one input.

    Args:
        seed: of the grain.
        scale: output size over input size.
        radius, percent: of the unsharp mask, pixels and strength.
        level, size: of the grain, 8-bit levels and pixels. White noise would raise NIQE; grain as wide as a
            photograph's details lowers it.
    """
    target = (max(1, round(lq.width * scale)), max(1, round(lq.height * scale)))
    bicubic = lq.resize(target, Image.Resampling.BICUBIC)
    unsharp = bicubic.filter(ImageFilter.UnsharpMask(radius, percent, 0))
    if min(target) > 1:
        noise = film_grain(unsharp.height, unsharp.width, level, size, seed)
        grain = Image.fromarray((np.asarray(unsharp) + noise).round().clip(0, 255).astype(np.uint8))
    else:
        grain = unsharp
    return {"bicubic": bicubic, "unsharp": unsharp, "grain": grain}


def write_trivial(pictures: Mapping[str, Path], seeds: Mapping[str, int], output: Path, scale: float = 4.0) -> int:
    """Write ``output``/bicubic, /unsharp and /grain; those that are there already stay.

    Args:
        pictures: stem -> low-quality picture.
        seeds: stem -> seed of the grain.

    Returns:
        How many inputs were worked on.

    Raises:
        ValueError: an unreadable picture.
        OSError: the folder cannot be written to.
    """
    done = 0
    for stem, path in pictures.items():
        recipe = f"{hashlib.sha256(path.read_bytes()).hexdigest()} x{scale:g} grain {seeds[stem]}"
        targets = {name: output / name / f"{stem}.png" for name in TRIVIAL}
        if all(read_text(target, RECIPE_KEY) == recipe for target in targets.values()):
            continue
        for name, picture in restore_trivially(Image.fromarray(read_rgb(path)), seeds[stem], scale).items():
            targets[name].parent.mkdir(parents=True, exist_ok=True)
            write_png(picture, targets[name], {RECIPE_KEY: recipe})
        done += 1
    return done
