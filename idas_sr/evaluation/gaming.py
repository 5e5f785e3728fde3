"""How a metric without a reference is pleased: sharpening and grain at several strengths, and what they really do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from idas_sr.evaluation.plots import COLOURS, DPI, new_figure
from idas_sr.evaluation.trivial import UNSHARP_PERCENT, restore_trivially
from idas_sr.imagefiles.reading import read_rgb
from idas_sr.losses import FeatureDistance
from idas_sr.metrics import niqe, psnr_y

LABEL = 40
"""Pixels below a picture of the strip, for two lines of text."""


@dataclass(frozen=True)
class Recipe:
    """A restoration without a model: enlarged, sharpened by ``percent``, then ``grain`` 8-bit levels of film grain."""

    percent: int = 0
    grain: float = 0.0

    @property
    def name(self) -> str:
        """As it stands in plots and tables."""
        if not self.percent:
            return "bicubic"
        return f"unsharp {self.percent} %" + (f", grain {self.grain:g}" if self.grain else "")

    def apply(self, lq: Image.Image, seed: int) -> Image.Image:
        """The picture of four times the size."""
        made = restore_trivially(lq, seed, percent=self.percent, level=self.grain)
        return made["bicubic" if not self.percent else "grain" if self.grain else "unsharp"]


SHARPENED = tuple(Recipe(percent) for percent in (0, 50, 100, 200, 300))
GRAINY = tuple(Recipe(UNSHARP_PERCENT, grain) for grain in (0.0, 2.0, 4.0, 6.0, 9.0, 13.0, 18.0))
RECIPES = tuple(dict.fromkeys((*SHARPENED, *GRAINY)))


def _tensor(picture: Image.Image | np.ndarray) -> Tensor:
    """(1, 3, H, W) float64 in [0, 1]: exact multiples of 1 / 255."""
    return torch.tensor(np.asarray(picture)).movedim(-1, 0)[None].double() / 255


def _scores(image: Tensor, reference: Tensor, distance: FeatureDistance) -> dict[str, float]:
    with torch.inference_mode():
        sqdist = distance(image.float() * 2 - 1, reference.float() * 2 - 1)
    return {"psnr_y": float(psnr_y(image, reference)), "niqe": float(niqe(image)), "sqdist": float(sqdist)}


def measure(
    pairs: Sequence[tuple[Path, Path]],
    distance: FeatureDistance,
    jobs: int = 1,
    on_picture: Callable[[], object] = lambda: None,
) -> dict[str, dict[str, float]]:
    """Name of a recipe (or ``reference``) -> mean psnr_y, niqe and sqdist over pairs of (low-quality, reference) files.

    Raises:
        ValueError: an unreadable picture.
    """

    def one(job: tuple[int, tuple[Path, Path]]) -> dict[str, dict[str, float]]:
        seed, (lq_file, hq_file) = job
        lq, reference = Image.fromarray(read_rgb(lq_file)), _tensor(read_rgb(hq_file))
        found = {r.name: _scores(_tensor(r.apply(lq, seed)), reference, distance) for r in RECIPES}
        return {**found, "reference": {"niqe": float(niqe(reference))}}

    rows = []
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for row in pool.map(one, enumerate(pairs)):
            rows.append(row)
            on_picture()
    return {
        name: {metric: float(np.mean([row[name][metric] for row in rows])) for metric in rows[0][name]}
        for name in rows[0]
    }


def draw(means: Mapping[str, Mapping[str, float]], others: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """niqe against sqdist: recipes as lines, ``others`` (name -> metrics) as stars, the references' niqe dashed."""
    figure, (ax,) = new_figure(1, 1, 7.4, 5.0)
    for recipes, colour, name, place, side in (
        (SHARPENED, COLOURS[0], "bicubic, sharpened", (-8, -3), "right"),
        (GRAINY, COLOURS[1], f"unsharp {UNSHARP_PERCENT} %, with grain of so many 8-bit levels", (7, 3), "left"),
    ):
        points = [means[recipe.name] for recipe in recipes]
        x, y = [p["sqdist"] for p in points], [p["niqe"] for p in points]
        ax.plot(x, y, "o-", color=colour, markersize=5, linewidth=1.5, label=name)
        for recipe, *point in zip(recipes, x, y, strict=True):
            text = f"{recipe.grain:g}" if recipe.grain else f"{recipe.percent} %" if recipe.percent else "bicubic"
            # The point that both lines share has its label from the first.
            if recipe.grain or recipes is SHARPENED:
                where, align = (place, side) if recipe.percent else ((8, -3), "left")
                ax.annotate(text, point, where, textcoords="offset points", ha=align, fontsize=8, color=colour)
    for name, metrics in others.items():
        ax.plot(metrics["sqdist"], metrics["niqe"], "*", color=COLOURS[2], markersize=13)
        ax.annotate(name, (metrics["sqdist"], metrics["niqe"]), (9, -3), textcoords="offset points", fontsize=9)
    ax.axhline(means["reference"]["niqe"], color="#888888", linewidth=1, linestyle=(0, (4, 3)))
    ax.annotate(
        "the clean photographs themselves",
        (0.99, means["reference"]["niqe"]),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color="#666666",
    )
    ax.set_xlabel("sqdist to the reference (left: closer)", fontsize=10)
    ax.set_ylabel("niqe (down: better, it says)", fontsize=10)
    ax.margins(0.1)
    ax.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, facecolor="white")


def strip(lq_file: Path, recipes: Sequence[Recipe], path: Path, size: tuple[int, int] = (300, 260)) -> dict[str, float]:
    """Draw the middle of one picture by every recipe, with the niqe of the whole picture below; returns name -> niqe.

    Raises:
        ValueError: an unreadable picture.
    """
    lq = Image.fromarray(read_rgb(lq_file))
    width, height = size
    sheet = Image.new("RGB", (len(recipes) * (width + 6) - 6, height + LABEL), "white")
    pen, font, values = ImageDraw.Draw(sheet), ImageFont.load_default(15), {}
    for index, recipe in enumerate(recipes):
        made: Any = recipe.apply(lq, 0)
        values[recipe.name] = float(niqe(_tensor(made)))
        left, top = (made.width - width) // 2, (made.height - height) // 2
        sheet.paste(made.crop((left, top, left + width, top + height)), (index * (width + 6), 0))
        pen.text((index * (width + 6) + 2, height + 3), recipe.name, fill="black", font=font)
        pen.text((index * (width + 6) + 2, height + 20), f"niqe {values[recipe.name]:.2f}", fill="#555555", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=92)
    return values
