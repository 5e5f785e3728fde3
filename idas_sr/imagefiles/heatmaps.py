"""Heat maps as pictures that explain themselves, and as an overlay; files that say what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from scipy.ndimage import gaussian_filter
from torch import Tensor

from idas_sr.atomic import replacing
from idas_sr.imagefiles.writing import LUMA, RECIPE_KEY, read_recipe

ENDING = ".map.png"
NOTE_KEY = "idas_sr_map"
"""Text entry of a heat map's file with its numbers; no other picture has it."""

FULL = 16
"""Steps of 8 bits (1/255) that have the last colour; what is more has it too."""
TICKS = (0, 4, 8, 12, 16)
"""Of the legend. A step or two, which nobody sees, stays close to black."""
COLOURS = (
    (0.0, (0, 0, 0)),
    (0.25, (62, 26, 120)),
    (0.5, (190, 48, 94)),
    (0.75, (248, 140, 42)),
    (1.0, (255, 250, 190)),
)
"""Black to pale yellow, every one brighter than the last, so that they also tell apart without colour vision."""

CLEAR, AROUND = 1.5, 2.0
"""Of an overlay: steps below which it is clear, and pixels of the Gaussian that it is smoothed by."""

LEAST_PANEL, MARGIN = 280, 12
"""Pixels: shorter sides of panels are enlarged to this; around and between panels."""
TITLE, SMALL = 17, 14
"""Sizes of letters."""


def heat_path(target: Path) -> Path:
    """Where the map of an output lies: STEM.map.png beside it."""
    return target.with_name(target.stem + ENDING)


def coloured(values: Tensor) -> np.ndarray:
    """(H, W) from 0, of 1 -> (H, W, 3) uint8 by the fixed scale, the same for every picture."""
    place = _place(values)
    stops = [stop for stop, _ in COLOURS]
    channels = [np.interp(place, stops, [colour[i] for _, colour in COLOURS]) for i in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def overlaid(picture: Tensor, values: Tensor) -> Image.Image:
    """The heat over the picture without its own colours: grey is where there is next to none.

    Args:
        picture: (3, H, W) in [0, 1].
        values: (H, W) from 0, of 1; shown as means over a few pixels, so that one sees where they lie.
    """
    grey = 255 * np.tensordot(np.array(LUMA), picture.numpy(), 1)[..., None]
    smooth = torch.from_numpy(gaussian_filter(values.numpy(), AROUND))
    share = np.clip(2 * (_place(smooth) - CLEAR / FULL), 0, 1)[..., None]
    return Image.fromarray((grey * (1 - share) + coloured(smooth) * share).round().clip(0, 255).astype(np.uint8))


def sheet(picture: Tensor, maps: Sequence[tuple[str, Tensor]], words: str) -> Image.Image:
    """The picture and its maps side by side, each with its title, above a legend and a line of words.

    Args:
        picture: (3, H, W) in [0, 1].
        maps: title and values (H, W) from 0, of 1.
        words: below the legend.
    """
    panels = [("restored", (picture.clamp(0, 1).movedim(0, -1).numpy() * 255).round().astype(np.uint8))]
    panels += [(title, coloured(values)) for title, values in maps]
    height, width = picture.shape[-2:]
    times = max(1, -(-LEAST_PANEL // width))
    height, width = height * times, width * times
    top = MARGIN + TITLE + 10
    size = len(panels) * (width + MARGIN) + MARGIN, top + height + 2 * MARGIN + 66
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for index, (title, pixels) in enumerate(panels):
        left = MARGIN + index * (width + MARGIN)
        draw.text((left, MARGIN), title, fill="black", font=_font(draw, title, width, TITLE))
        panel = Image.fromarray(pixels)
        page.paste(panel.resize((width, height), Image.Resampling.NEAREST) if times > 1 else panel, (left, top))
    _legend(page, draw, top + height + MARGIN, words)
    return page


def save_heatmap(page: Image.Image, path: Path, recipe: str, note: Mapping[str, Any]) -> None:
    """Write a sheet whole or not at all, with the recipe of the picture that it is about, and its numbers.

    Raises:
        OSError: the file cannot be written.
    """
    info = PngInfo()
    info.add_itxt(RECIPE_KEY, recipe)
    info.add_itxt(NOTE_KEY, json.dumps(note))
    with replacing(path) as partial:
        page.save(partial, "PNG", pnginfo=info)


def read_note(path: Path, recipe: str | None = None) -> dict[str, Any] | None:
    """The numbers in a heat map's file; None where there is no such file, or it was made by another ``recipe``."""
    if not path.is_file() or (recipe is not None and read_recipe(path) != recipe):
        return None
    try:
        with Image.open(path, formats=["PNG"]) as image:
            note = json.loads(image.text[NOTE_KEY])  # type: ignore[attr-defined]
    except Exception:
        # No such entry, or one of the dozen kinds of errors that Pillow raises for damaged files.
        return None
    return note if isinstance(note, dict) else None


def is_heatmap(path: Path) -> bool:
    """Whether a file is a heat map and not a picture that has its name."""
    return path.name.endswith(ENDING) and read_note(path) is not None


def _place(values: Tensor) -> np.ndarray:
    """Places of the scale, 0 to 1."""
    return np.clip(values.numpy().astype(np.float64) * 255 / FULL, 0, 1)


def _legend(page: Image.Image, draw: ImageDraw.ImageDraw, top: int, words: str) -> None:
    width = min(page.width - 2 * MARGIN, 420)
    ramp = np.linspace(0, FULL / 255, width)
    page.paste(Image.fromarray(coloured(torch.from_numpy(np.tile(ramp, (14, 1))))), (MARGIN, top))
    for tick in TICKS:
        place = tick / FULL
        text = f"{tick}" if tick < FULL else f"{tick} and more"
        anchor = "lt" if tick == 0 else "rt" if tick == FULL else "mt"
        font = ImageFont.load_default(SMALL)
        draw.text((MARGIN + place * (width - 1), top + 18), text, fill="black", font=font, anchor=anchor)
    room = page.width - 3 * MARGIN - width
    beside = "steps of the 255 between black and white"
    if room > 280:
        draw.text((2 * MARGIN + width, top), beside, fill="black", font=ImageFont.load_default(SMALL))
    draw.text((MARGIN, top + 42), words, fill="black", font=_font(draw, words, page.width - 2 * MARGIN, TITLE))


def _font(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> Any:
    """Letters no larger than fit the width."""
    needed = draw.textlength(text, font=ImageFont.load_default(size))
    return ImageFont.load_default(min(size, size * width / max(needed, 1)))
