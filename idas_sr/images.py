"""Picture objects to tensors in [0, 1] and back, and PNGs of our own; other picture files are those of `imagefiles`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from idas_sr.atomic import replacing

Picture = Image.Image | np.ndarray | Tensor
"""One picture: PIL, (H, W, 3) array or (3, H, W) tensor; uint8, or float in [0, 1]."""


def pixels_of(image: Image.Image) -> np.ndarray:
    """(H, W, 3) of a PIL picture of any mode, turned as EXIF says: uint8, or float32 in [0, 1] where it has 16 bits.

    Transparency is dropped: what the colours under it are is left as the file says.

    Raises:
        ValueError: floating point pictures, whose range no file tells.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError(
            "its values are floating point numbers of unknown range; save it with 8 or 16 bits per channel"
        )
    if image.mode.startswith("I"):
        # Pillow's own conversion would clip 16-bit grey at 255.
        grey = np.asarray(image).astype(np.float32).clip(0, 65535) / 65535
        return np.repeat(grey[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _from_array(pixels: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(np.array(pixels)).movedim(-1, -3)
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()


def to_tensors(image: Picture | Sequence[Picture]) -> list[Tensor]:
    """One picture, a list of them or a batch -> list of (3, h, w) float in [0, 1] on the CPU.

    Args:
        image: PIL picture, (H, W, 3) or (B, H, W, 3) array, (3, H, W) or (B, 3, H, W) tensor, or a list of single ones.

    Raises:
        ValueError: not a picture, not three channels, values outside [0, 1] or an empty list.
    """
    if isinstance(image, list | tuple):
        if not image:
            raise ValueError("There is no picture to restore: the list is empty.")
        return [tensor for one in image for tensor in to_tensors(one)]
    if isinstance(image, Image.Image):
        return [_from_array(pixels_of(image))]
    if isinstance(image, np.ndarray) and image.ndim in (3, 4):
        tensor = _from_array(image)
    elif isinstance(image, Tensor) and image.ndim in (3, 4):
        tensor = image.detach().cpu().float() / (255 if image.dtype == torch.uint8 else 1)
    else:
        shape = f" of shape {tuple(image.shape)}" if isinstance(image, np.ndarray | Tensor) else ""
        raise ValueError(
            f"A picture is a PIL image, an (H, W, 3) array or a (3, H, W) tensor, not {type(image).__name__}{shape}."
        )
    if tensor.shape[-3] != 3 or 0 in tensor.shape:
        raise ValueError(
            f"A picture has three channels and at least one pixel; this one has shape {tuple(image.shape)}."
        )
    # A rounding error beyond the ends is fine; [-1, 1] or [0, 255] as float is a mistake that would look like bad work.
    if not bool(((tensor >= -1e-3) & (tensor <= 1 + 1e-3)).all()):
        raise ValueError("Pictures given as floating point numbers must lie in [0, 1].")
    return list(tensor.clamp(0, 1)) if tensor.ndim == 4 else [tensor.clamp(0, 1)]


def to_array(image: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) float32."""
    return image.detach().float().cpu().movedim(-3, -1).numpy()


def to_pil(image: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] -> 8-bit PIL picture, rounded to nearest."""
    return Image.fromarray((to_array(image).clip(0, 1) * 255).round().astype(np.uint8))


def write_png(image: Image.Image, path: str | Path, text: Mapping[str, str] | None = None) -> None:
    """Write a PNG so that ``path`` is either the old file or the complete new one, and nothing else is left behind.

    Args:
        text: entries of the file's text metadata.

    Raises:
        OSError: the folder cannot be written to.
    """
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, value)
    with replacing(Path(path)) as partial:
        image.save(partial, format="PNG", pnginfo=info)


def read_text(path: str | Path, key: str) -> str | None:
    """Entry ``key`` of a PNG's text metadata; None where there is no such file, picture or entry."""
    try:
        with Image.open(path) as image:
            value = getattr(image, "text", {}).get(key)
    except (OSError, SyntaxError, ValueError):
        return None
    return None if value is None else str(value)


def stamp(image: Image.Image, words: str) -> Image.Image:
    """A copy of a picture with ``words`` written across it, so that it cannot be taken for a result."""
    stamped = image.convert("RGB")
    draw = ImageDraw.Draw(stamped)
    size = 12.0
    unit = draw.textlength(words, font=ImageFont.load_default(size)) / size
    size = max(size, 0.9 * image.width / unit)
    font = ImageFont.load_default(size)
    place = (image.width / 2, image.height / 2)
    draw.text(
        place,
        words,
        font=font,
        anchor="mm",
        fill="white",
        stroke_width=max(1, round(size / 12)),
        stroke_fill="black",
    )
    return stamped
