"""What a picture file says about its picture: EXIF, XMP, colour profile, resolution, text."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image, ImageCms

ORIENTATION = 0x0112
HISTORY = 0x9213
"""EXIF tag ImageHistory: where files that have no text entries keep how they were made."""

MAKER_NOTE = 0x927C
WIDTH, HEIGHT = 0xA002, 0xA003
XMP_ENTRY, XMP_TAG = "XML:com.adobe.xmp", 0x02BC
"""Where XMP stands in a PNG and in a TIFF."""
MAX_SEGMENT = 65_000
"""Bytes of EXIF or XMP that a JPEG segment holds, less the room for its header."""

# Tags of the main directory that describe the picture and its making. The others say how the old file stored its
# pixels, or point to a thumbnail of the old ones.
_DESCRIBING = frozenset(
    {0x010E, 0x010F, 0x0110, 0x0112, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298, *range(0x9C9B, 0x9CA0)}
)
# Of the EXIF directory: pointers into the old file, and the mark of a Related-image directory that is not carried.
_POINTERS = frozenset({0xA005, 0xA004})


@dataclass(frozen=True)
class Metadata:
    """What is carried from a picture file to its restoration.

    Attributes:
        tags: of EXIF's main directory, by number; only those that describe the picture, not how it was stored.
        exif: of the EXIF directory (exposure, lens, time ...).
        gps: of the GPS directory.
        icc: colour profile that fits the pixels as they are handed on; None: sRGB is meant.
        xmp: XMP packet, its orientation set to 1.
        dpi: pixels per inch, (horizontal, vertical).
        text: text entries of a PNG.
    """

    tags: Mapping[int, Any] = field(default_factory=dict)
    exif: Mapping[int, Any] = field(default_factory=dict)
    gps: Mapping[int, Any] = field(default_factory=dict)
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: Mapping[str, str] = field(default_factory=dict)


def collect(image: Image.Image, icc: bytes | None) -> tuple[Metadata, list[str]]:
    """Everything worth keeping of an opened file, and what had to be left out, in words.

    Args:
        image: opened by Pillow, not converted.
        icc: the profile to keep, as ``fitting_profile`` says.
    """
    notices: list[str] = []
    tags: dict[int, Any] = {}
    exif: dict[int, Any] = {}
    gps: dict[int, Any] = {}
    try:
        found = image.getexif()
        tags = {key: value for key, value in found.items() if key in _DESCRIBING}
        exif = {key: value for key, value in found.get_ifd(ExifTags.IFD.Exif).items() if key not in _POINTERS}
        gps = dict(found.get_ifd(ExifTags.IFD.GPSInfo))
    except Exception:
        # Pillow raises errors of many kinds for EXIF that a program has damaged; the pixels may be sound.
        notices.append("its EXIF data is damaged and was left out")
    kept, kept_exif, kept_gps = _sound(tags), _sound(exif, ExifTags.IFD.Exif), _sound(gps, ExifTags.IFD.GPSInfo)
    if len(kept) + len(kept_exif) + len(kept_gps) < len(tags) + len(exif) + len(gps):
        notices.append("EXIF tags that cannot be written again were left out")
    found_dpi, text = _dpi(image.info), _text(image)
    return Metadata(kept, kept_exif, kept_gps, icc, _xmp(image.info), found_dpi, text), notices


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1 to 8 of an opened file; 1 where it has none or a damaged one."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def fitting_profile(image: Image.Image) -> tuple[ImageCms.ImageCmsProfile | None, list[str]]:
    """The file's colour profile if it can be read and is for its kind of pixels, else None and the reason in words."""
    raw = image.info.get("icc_profile")
    if not raw:
        return None, []
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(raw))
        space = str(profile.profile.xcolor_space).strip()
    except Exception:
        return None, ["its colour profile is damaged and was left out"]
    kind = {"L": "GRAY", "LA": "GRAY", "La": "GRAY", "1": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}.get(image.mode, "RGB")
    if image.mode.startswith("I"):
        kind = "GRAY"
    if space != kind:
        return None, [f"its colour profile is for {space} and not for {kind} pixels, and was left out"]
    return profile, []


def exif_for(metadata: Metadata, size: tuple[int, int], history: str | None) -> Image.Exif:
    """EXIF of a restoration: as in the source, upright, with the new size.

    Args:
        metadata: of the source.
        size: (width, height) of the restoration.
        history: entry of the tag HISTORY, ASCII.
    """
    made = Image.Exif()
    for key, value in metadata.tags.items():
        made[key] = 1 if key == ORIENTATION else value
    if history is not None:
        made[HISTORY] = history
    exif = dict(metadata.exif)
    exif |= {key: value for key, value in zip((WIDTH, HEIGHT), size, strict=True) if key in exif}
    if exif:
        made.get_ifd(ExifTags.IFD.Exif).update(exif)
    if metadata.gps:
        made.get_ifd(ExifTags.IFD.GPSInfo).update(metadata.gps)
    return made


def _sound(tags: dict[int, Any], directory: int | None = None) -> dict[int, Any]:
    """Those tags that Pillow can write again, each by itself."""
    kept = {}
    for key, value in tags.items():
        made = Image.Exif()
        part = made if directory is None else made.get_ifd(directory)
        part[key] = value
        try:
            made.tobytes()
        except Exception:
            # struct, type, value and attribute errors, by the kind of damage.
            continue
        kept[key] = value
    return kept


def _xmp(info: Mapping[Any, Any]) -> bytes | None:
    value = info.get("xmp") or info.get(XMP_ENTRY)
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes) or not value:
        return None
    value = re.sub(rb'tiff:Orientation="\d+"', b'tiff:Orientation="1"', value)
    return re.sub(rb"<tiff:Orientation>\d+<", b"<tiff:Orientation>1<", value)


def _dpi(info: Mapping[Any, Any]) -> tuple[float, float] | None:
    try:
        horizontal, vertical = (float(value) for value in info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    # 1 is what files without a unit say.
    return (horizontal, vertical) if 2 <= horizontal <= 65535 and 2 <= vertical <= 65535 else None


def _text(image: Image.Image) -> dict[str, str]:
    entries = getattr(image, "text", None) or {}
    # Raw profiles are EXIF in another coat, with the old orientation.
    kept = {key: value for key, value in entries.items() if key != XMP_ENTRY and not key.startswith("Raw profile")}
    return {str(key): str(value) for key, value in kept.items()}
