"""The file formats that are read and written, and how an output is to be written."""

from __future__ import annotations

import re
from dataclasses import dataclass

READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "PPM")
"""Pillow's names of what is read (MPO comes with JPEG). Others stay closed; some of its readers start programs."""

_PORTABLE = {".ppm", ".pgm", ".pbm", ".pnm"}
_JPEG = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}
EXTENSIONS = frozenset({".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".avif"} | _JPEG | _PORTABLE)
"""Of the files that a folder is searched for, in lower case."""


@dataclass(frozen=True)
class Format:
    """A format that outputs are written in.

    Attributes:
        name: Pillow's.
        extension: of the file, with its dot.
        alpha: whether it holds transparency.
        grey: whether it holds a single channel; else grey is written as three equal ones.
        wide: whether it is written with 16 bits on request.
        quality: default of ``--quality``, None where it loses nothing.
        max_side: pixels that a side may have.
    """

    name: str
    extension: str
    alpha: bool
    grey: bool
    wide: bool
    quality: int | None
    max_side: int


FORMATS = {
    "png": Format("PNG", ".png", alpha=True, grey=True, wide=True, quality=None, max_side=2**31 - 1),
    "jpg": Format("JPEG", ".jpg", alpha=False, grey=True, wide=False, quality=95, max_side=65_500),
    "webp": Format("WEBP", ".webp", alpha=True, grey=False, wide=False, quality=95, max_side=16_383),
    "tiff": Format("TIFF", ".tiff", alpha=True, grey=True, wide=True, quality=None, max_side=2**31 - 1),
    "avif": Format("AVIF", ".avif", alpha=True, grey=False, wide=False, quality=90, max_side=65_535),
}
SAME = dict.fromkeys(_JPEG, "jpg") | {".webp": "webp", ".tif": "tiff", ".tiff": "tiff", ".avif": "avif"}
"""Format that ``same`` stands for, by the extension of the source; png for the rest."""


@dataclass(frozen=True)
class Encoding:
    """How outputs are written.

    Args:
        format: entry of FORMATS, or ``same``: the source's, png where that is not written.
        quality: 1 to 100, of formats that lose something; None: the format's default. With ``same`` it is passed over
            for formats that lose nothing. At 100 WebP is lossless.
        bits: 8 or 16 per channel.
        metadata: whether EXIF, XMP, text and resolution are carried over; a colour profile always is.
        suffix: put between the name and the extension.

    Raises:
        ValueError: what the format cannot do.
    """

    format: str = "png"
    quality: int | None = None
    bits: int = 8
    metadata: bool = True
    suffix: str = ""

    def __post_init__(self) -> None:
        if self.format != "same" and self.format not in FORMATS:
            raise ValueError(f"There is no format {self.format!r}; choose one of {', '.join(FORMATS)} or same.")
        known = FORMATS.get(self.format)
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality must lie between 1 and 100, not {self.quality}.")
        if self.quality is not None and known is not None and known.quality is None:
            raise ValueError(f"quality is for jpg, webp and avif; {self.format} loses nothing.")
        if self.bits not in (8, 16):
            raise ValueError(f"An output has 8 or 16 bits per channel, not {self.bits}.")
        if self.bits == 16 and (known is None or not known.wide):
            raise ValueError(f"16 bits per channel are written as png or tiff, not as {self.format}.")
        if re.search(r'[/\\\0<>:"|?*]', self.suffix):
            raise ValueError(f"The suffix {self.suffix!r} has characters that do not belong into a file name.")

    def format_of(self, extension: str) -> Format:
        """The format of the output for a source with this extension."""
        return FORMATS[SAME.get(extension.lower(), "png") if self.format == "same" else self.format]

    def name_of(self, name: str) -> str:
        """File name of the output for a source of this file name."""
        stem, dot, extension = name.rpartition(".")
        if not dot or not stem:
            stem, extension = name, ""
        return f"{stem}{self.suffix}{self.format_of(dot + extension).extension}"
