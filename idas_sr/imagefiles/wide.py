"""Colour with 16 bits per channel, which Pillow has no mode for: read through OpenCV, written here."""

from __future__ import annotations

import io
import re
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

_WIDE = re.compile(r"(RGB|RGBA|LA);16[BLNS]?")


def wide_channels(image: Image.Image) -> int:
    """2, 3 or 4 (grey + alpha, RGB, RGB + alpha) of a file opened and not loaded, if Pillow would cut 16 bits to 8.

    0 if it would not, or where it is no kind that ``read_wide`` reads.
    """
    tile = getattr(image, "tile", None)
    if image.mode not in ("RGB", "RGBA", "LA") or not tile:
        return 0
    arguments = tile[0].args
    raw = arguments if isinstance(arguments, str) else next(iter(arguments or ()), "")
    match = _WIDE.fullmatch(raw) if isinstance(raw, str) else None
    return {"LA": 2, "RGB": 3, "RGBA": 4}[match.group(1)] if match else 0


def read_wide(content: bytes, channels: int) -> np.ndarray | None:
    """(H, W, 2 to 4) uint16 as stored, orientation not applied; None where OpenCV cannot read it so.

    Args:
        content: of the file.
        channels: as ``wide_channels`` says.
    """
    level = cv2.utils.logging.getLogLevel()
    # It would remark on every tag of a TIFF that it does not know.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        return None
    # A colour that is declared transparent makes four channels of an RGB file.
    orders = {(2, 4): [0, 3], (3, 3): [2, 1, 0], (3, 4): [2, 1, 0, 3], (4, 4): [2, 1, 0, 3]}
    order = orders.get((channels, pixels.shape[2]))
    return None if order is None else pixels[..., order]


def encode_tiff(
    pixels: np.ndarray, exif: Image.Exif, icc: bytes | None = None, dpi: tuple[float, float] | None = None
) -> bytes:
    """An uncompressed TIFF of (H, W, 1 to 4) uint16, one strip (TIFF 6.0).

    Args:
        exif: tags of the main directory and, as sub-directories, EXIF and GPS.
        icc: colour profile.
        dpi: pixels per inch.
    """
    height, width, channels = pixels.shape
    content = pixels.astype("<u2").tobytes()
    directory = ImageFileDirectory_v2()
    tags: dict[int, Any] = {key: value for key, value in exif.items() if key not in (0x8769, 0x8825)}
    for pointer in (0x8769, 0x8825):
        if part := dict(exif.get_ifd(pointer)):
            tags[pointer] = part
    tags |= {256: width, 257: height, 258: (16,) * channels, 259: 1, 262: 2 if channels > 2 else 1}
    tags |= {273: 0, 277: channels, 278: height, 279: len(content), 284: 1}
    if channels in (2, 4):
        tags[338] = 2
    if dpi is not None:
        tags |= {282: dpi[0], 283: dpi[1], 296: 2}
    if icc is not None:
        tags[34675] = icc
    for key, value in tags.items():
        directory[key] = value
    buffer = io.BytesIO()
    directory.save(buffer)
    # Pillow's directory counts the strip's offset from its own end.
    return buffer.getvalue() + content
