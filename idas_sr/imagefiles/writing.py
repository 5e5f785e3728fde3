"""A restoration to a file: with what its source said, whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from idas_sr.atomic import replacing
from idas_sr.imagefiles.formats import Encoding, Format
from idas_sr.imagefiles.metadata import HISTORY, MAKER_NOTE, MAX_SEGMENT, XMP_ENTRY, XMP_TAG, Metadata, exif_for
from idas_sr.imagefiles.png import LEVEL, Entries, png_of_rows
from idas_sr.imagefiles.provenance import extended
from idas_sr.imagefiles.reading import PictureFile
from idas_sr.imagefiles.wide import encode_tiff
from idas_sr.resample import resize

RECIPE_KEY = "idas_sr"
"""Entry of an output that says how it was made: of a PNG's text, and of EXIF's ImageHistory in other formats. XMP says
it too, unless metadata is unwanted."""

ROWS = 256
"""Of an output that are converted at a time."""

LUMA = (0.299, 0.587, 0.114)
"""BT.601, as Pillow turns colour into grey."""


def compose(restored: Tensor, source: PictureFile, file_format: Format, bits: int = 8) -> np.ndarray:
    """A restored picture with the channels of its source, as a file holds them.

    Args:
        restored: (3, H, W) in [0, 1].
        source: what was restored. Greyscale gives luma; transparency is enlarged bicubically, without the network, and
            laid over white where the format has none.

    Returns:
        (H, W, C) uint8 or uint16; C is 1 or 3, and one more with transparency.
    """
    top, kind = (65535, np.uint16) if bits == 16 else (255, np.uint8)
    height, width = restored.shape[-2:]
    alpha = None if source.alpha is None else resize(source.alpha[None], (height, width))[0].clamp(0, 1)
    channels = (1 if source.grey else 3) + (alpha is not None and file_format.alpha)
    pixels = np.empty((height, width, channels), kind)
    for first in range(0, height, ROWS):
        # Band by band: copies in single precision of a large picture would be the most memory that it ever takes.
        rows = slice(first, first + ROWS)
        band = restored[:, rows].detach().float().cpu().clamp(0, 1)
        if source.grey:
            band = (band * torch.tensor(LUMA)[:, None, None]).sum(0, keepdim=True)
        if alpha is not None:
            part = alpha[:, rows]
            band = torch.cat([band, part]) if file_format.alpha else band * part + (1 - part)
        pixels[rows] = (band.movedim(0, -1).numpy() * top).round()
    return pixels


def save_picture(
    restored: Tensor, source: PictureFile, path: str | Path, encoding: Encoding, recipe: str | None = None
) -> list[str]:
    """Write a restoration so that ``path`` is either the old file or the complete new one, and nothing else is left.

    Args:
        restored: (3, H, W) in [0, 1].
        source: what was restored; its colour profile is kept, and its metadata unless ``encoding`` says otherwise.
        path: of the output; ``encoding.name_of`` names it.
        encoding: how it is written.
        recipe: ASCII text that says how the picture was made, see ``read_recipe`` and `idas_sr.recipe`.

    Returns:
        What the format could not keep, each a part of a sentence.

    Raises:
        ValueError: the picture is larger than the format allows.
        OSError: the file cannot be written.
    """
    path = Path(path)
    file_format = encoding.format_of(path.suffix)
    height, width = restored.shape[-2:]
    check_sides(height, width, file_format)
    pixels = compose(restored, source, file_format, encoding.bits)
    notices = []
    if source.alpha is not None and not file_format.alpha:
        notices.append(f"{file_format.name} has no transparency, so the picture was laid over white")
    metadata, said_first = _metadata_of(source, encoding, recipe)
    if metadata.icc is not None and source.grey and not file_format.grey:
        metadata = replace(metadata, icc=None)
        notices.append(f"{file_format.name} has no greyscale, so its grey colour profile was left out")
    content, said = _encode(pixels, metadata, file_format, encoding, recipe)
    with replacing(path) as partial:
        partial.write_bytes(content)
    return notices + said_first + said


def _metadata_of(source: PictureFile, encoding: Encoding, recipe: str | None) -> tuple[Metadata, list[str]]:
    """What goes into an output's file, and what had to give way, in words."""
    if not encoding.metadata:
        return Metadata(icc=source.metadata.icc), []
    if recipe is None:
        return source.metadata, []
    packet, is_whole = extended(source.metadata.xmp, recipe)
    said = [] if is_whole else ["its XMP data could not be added to and was left out"]
    return replace(source.metadata, xmp=packet), said


def can_save_rows(source: PictureFile, path: str | Path, encoding: Encoding) -> bool:
    """Whether ``save_rows`` can write this file: a PNG without transparency."""
    return encoding.format_of(Path(path).suffix).name == "PNG" and source.alpha is None


def save_rows(
    rows: Iterable[Tensor],
    size: tuple[int, int],
    source: PictureFile,
    path: str | Path,
    encoding: Encoding,
    recipe: str | None = None,
) -> None:
    """``save_picture`` of a picture that is never there as a whole.

    Args:
        rows: (3, n, W) in [0, 1] from top to bottom.
        size: (H, W) of all of them together.
        source, path, encoding, recipe: as of ``save_picture``; ``can_save_rows`` must have said yes.

    Raises:
        ValueError: other than H rows, or a side that PNG cannot hold.
        OSError: the file cannot be written.
    """
    path, (height, width) = Path(path), size
    file_format = encoding.format_of(path.suffix)
    check_sides(height, width, file_format)
    metadata, _ = _metadata_of(source, encoding, recipe)
    composed = (compose(band, source, file_format, encoding.bits) for band in rows)
    entries = _png_entries((width, height), metadata, recipe)
    with replacing(path) as partial, partial.open("wb") as file:
        file.writelines(png_of_rows(composed, height, width, entries))


def check_sides(height: int, width: int, file_format: Format) -> None:
    """Refuse what a format cannot hold.

    Raises:
        ValueError: a side is too long.
    """
    if max(height, width) > file_format.max_side:
        raise ValueError(
            f"{file_format.name} holds at most {file_format.max_side} pixels per side and the output has "
            f"{width}x{height}; choose another format, png for one."
        )


def read_recipe(path: str | Path) -> str | None:
    """How an output was made, as ``save_picture`` noted it; None where there is no such file, picture or note."""
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(RECIPE_KEY)
            value = text if text is not None else image.getexif().get(HISTORY)
    except Exception:
        # Pillow's readers raise errors of a dozen kinds for damaged files.
        return None
    return value if isinstance(value, str) else None


def _encode(
    pixels: np.ndarray, metadata: Metadata, file_format: Format, encoding: Encoding, recipe: str | None
) -> tuple[bytes, list[str]]:
    size = pixels.shape[1], pixels.shape[0]
    if file_format.name == "PNG":
        return _encode_png(pixels, metadata, recipe), []
    exif = exif_for(metadata, size, recipe)
    if file_format.name == "TIFF":
        return _encode_tiff(pixels, exif, metadata), []
    options: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": metadata.icc, "xmp": metadata.xmp}
    quality = file_format.quality if encoding.quality is None else encoding.quality
    options["quality"] = quality
    said: list[str] = []
    if file_format.name == "JPEG":
        # Colour at full resolution: it was just restored.
        options |= {"subsampling": 0, "dpi": metadata.dpi}
        said = _fit_segments(options, metadata, size, recipe)
    if file_format.name == "WEBP":
        options["lossless"] = quality == 100
    return _saved(pixels, file_format.name, options), said


def _saved(pixels: np.ndarray, name: str, options: dict[str, Any]) -> bytes:
    """The file that Pillow makes with those options that have a value."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.save(buffer, format=name, **{key: value for key, value in options.items() if value is not None})
    return buffer.getvalue()


def _encode_tiff(pixels: np.ndarray, exif: Image.Exif, metadata: Metadata) -> bytes:
    if metadata.xmp is not None:
        exif[XMP_TAG] = metadata.xmp
    if pixels.dtype == np.uint16:
        if pixels.shape[-1] == 2:
            # Hardly any program opens a TIFF of two 16-bit channels.
            pixels = pixels[..., [0, 0, 0, 1]]
        return encode_tiff(pixels, exif, metadata.icc, metadata.dpi)
    # Not compressed: libtiff, which would do it, does not take sub-directories from Pillow.
    return _saved(pixels, "TIFF", {"exif": exif.tobytes(), "icc_profile": metadata.icc, "dpi": metadata.dpi})


def _png_entries(size: tuple[int, int], metadata: Metadata, recipe: str | None) -> Entries:
    text = dict(metadata.text)
    if metadata.xmp is not None:
        text[XMP_ENTRY] = metadata.xmp.decode("utf-8", "replace")
    if recipe is not None:
        text[RECIPE_KEY] = recipe
    made = exif_for(metadata, size, None)
    exif = made.tobytes() if metadata.tags or metadata.exif or metadata.gps else None
    return Entries(text, metadata.icc, exif, metadata.dpi)


def _encode_png(pixels: np.ndarray, metadata: Metadata, recipe: str | None) -> bytes:
    height, width = pixels.shape[:2]
    entries = _png_entries((width, height), metadata, recipe)
    if pixels.dtype == np.uint16:
        return b"".join(png_of_rows([pixels], height, width, entries))
    info = PngInfo()
    for key, value in entries.text.items():
        info.add_itxt(key, value)
    options = {"exif": entries.exif, "icc_profile": entries.icc, "dpi": entries.dpi, "pnginfo": info}
    return _saved(pixels, "PNG", options | {"compress_level": LEVEL})


def _fit_segments(options: dict[str, Any], metadata: Metadata, size: tuple[int, int], recipe: str | None) -> list[str]:
    """Leave out what a JPEG's segments of 64 KiB cannot hold."""
    said = []
    if len(options["exif"]) > MAX_SEGMENT:
        smaller = replace(metadata, exif={k: v for k, v in metadata.exif.items() if k != MAKER_NOTE})
        options["exif"] = exif_for(smaller, size, recipe).tobytes()
        said.append("JPEG has no room for the camera's own EXIF entry, which was left out")
    if len(options["exif"]) > MAX_SEGMENT:
        options["exif"] = exif_for(Metadata(), size, recipe).tobytes()
        said.append("JPEG has no room for its EXIF data, which was left out")
    if len(options["xmp"] or b"") > MAX_SEGMENT:
        options["xmp"] = None if recipe is None else extended(None, recipe)[0]
        said.append("JPEG has no room for its XMP data, which was left out")
    return said
