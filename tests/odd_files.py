"""Picture files of every kind that people have: made here, each with what its restoration must look like."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms
from skimage import data

CAT = np.ascontiguousarray(data.chelsea()[60:84, 100:136])
"""24 rows, 36 columns."""
COLOUR = Image.fromarray(CAT)
GREY = COLOUR.convert("L")
CIRCLE = Image.fromarray(np.where(np.hypot(*np.mgrid[-12:12, -18:18]) < 9, 255, 0).astype(np.uint8))
WIDE = CAT.astype(np.uint16) * 257
P3 = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

# A minimal grey profile: header, white point and a gamma of 2.2 (ICC.1:2010, table 21).
_TAGS = b"wtpt" + struct.pack(">II", 156, 20) + b"kTRC" + struct.pack(">II", 176, 14)
_BODY = b"XYZ \0\0\0\0" + struct.pack(">III", 63190, 65536, 54061) + b"curv\0\0\0\0" + struct.pack(">IH", 1, 563)
_HEAD = struct.pack(">I", 128 + 4 + len(_TAGS) + len(_BODY)) + b"lcms\x02\x40\0\0mntrGRAYXYZ " + bytes(12) + b"acsp"
GREY_PROFILE = _HEAD.ljust(68, b"\0") + struct.pack(">III", 63190, 65536, 54061) + bytes(48)
GREY_PROFILE += struct.pack(">I", 2) + _TAGS + _BODY


def camera_exif(orientation: int, width: int = 36, height: int = 24) -> Image.Exif:
    """What a camera writes: make, time, size, place, orientation."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", orientation
    exif.get_ifd(0x8769).update({0x9003: "2026:05:04 03:02:01", 0xA002: width, 0xA003: height})
    exif.get_ifd(0x8825)[1] = "N"
    return exif


def stored_for(orientation: int) -> Image.Image:
    """The cat as a camera that was held so stores it (Exif 2.32, figure 6)."""
    turned = {
        1: CAT, 2: CAT[:, ::-1], 3: CAT[::-1, ::-1], 4: CAT[::-1], 5: CAT.transpose(1, 0, 2),
        6: np.rot90(CAT, 1), 7: np.rot90(CAT, 2).transpose(1, 0, 2), 8: np.rot90(CAT, -1),
    }[orientation]  # fmt: skip
    return Image.fromarray(np.ascontiguousarray(turned))


def _saved(image: Image.Image, **options: object) -> Callable[[Path], None]:
    return lambda path: image.save(path, **options)


def _wide(pixels: np.ndarray) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(cv2.imencode(path.suffix, pixels[..., ::-1])[1].tobytes()) and None


def _with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(CIRCLE)
    return image


def _transparent_palette(path: Path) -> None:
    image = COLOUR.quantize(16)
    image.save(path, transparency=0)


def bomb() -> bytes:
    """A sound PNG header that claims 100000 x 100000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def jpeg(image: Image.Image = COLOUR, **options: object) -> bytes:
    """The bytes of a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@dataclass(frozen=True)
class Odd:
    """A file and what becomes of it.

    Attributes:
        make: writes the file.
        size: (width, height) of its restoration at x4.
        mode: of its restoration as PNG.
        keeps: of ``camera``, ``rgb profile``, ``grey profile``, ``text``, ``dpi``: what the restoration says again.
        notice: words of the note that is printed.
    """

    make: Callable[[Path], None]
    size: tuple[int, int] = (144, 96)
    mode: str = "RGB"
    keeps: frozenset[str] = frozenset()
    notice: str = ""


LONG_NAME = "x" * 251 + ".png"

ODD_FILES: dict[str, Odd] = {
    **{
        f"turned {n}.jpg": Odd(_saved(stored_for(n), exif=camera_exif(n), quality=95), keeps=frozenset({"camera"}))
        for n in range(1, 9)
    },
    "alpha.png": Odd(_saved(_with_alpha(COLOUR)), mode="RGBA"),
    "lossless.webp": Odd(_saved(_with_alpha(COLOUR), lossless=True), mode="RGBA"),
    "grey alpha.png": Odd(_saved(_with_alpha(GREY)), mode="LA"),
    "sixteen.png": Odd(_wide(WIDE)),
    "wide.tiff": Odd(_wide(WIDE)),
    "sixteen grey.png": Odd(_saved(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)), mode="L"),
    "grey.jpg": Odd(_saved(GREY, dpi=(300, 300)), mode="L", keeps=frozenset({"dpi"})),
    "grey profile.tif": Odd(_saved(GREY, icc_profile=GREY_PROFILE), mode="L", keeps=frozenset({"grey profile"})),
    "bilevel.tif": Odd(_saved(GREY.convert("1")), mode="L"),
    "cmyk.jpg": Odd(_saved(COLOUR.convert("CMYK"), quality=95), notice="converted from CMYK to sRGB"),
    "palette.png": Odd(_saved(COLOUR.quantize(64))),
    "clear palette.png": Odd(_transparent_palette, mode="RGBA"),
    "profile.png": Odd(_saved(COLOUR, icc_profile=P3), keeps=frozenset({"rgb profile"})),
    "broken profile.png": Odd(_saved(COLOUR, icc_profile=b"no profile"), notice="profile is damaged"),
    "animated.gif": Odd(
        _saved(COLOUR, save_all=True, append_images=[COLOUR.rotate(9)]), notice="of its 2 pictures only the first"
    ),
    "1x1.png": Odd(_saved(COLOUR.crop((0, 0, 1, 1))), (4, 4)),
    "1x500.png": Odd(_saved(COLOUR.resize((1, 500))), (4, 2000)),
    "Größe 图像 🐈.png": Odd(_saved(COLOUR)),
    LONG_NAME: Odd(_saved(COLOUR)),
    "two. dots..png": Odd(_saved(COLOUR)),
}

REFUSED: dict[str, tuple[bytes, str]] = {
    "bomb.png": (bomb(), "claims more than"),
    "empty.png": (b"", "is empty"),
    "letter.jpg": (b"Dear Sir or Madam,\n", "damaged or of a kind"),
    "cut.jpg": (jpeg()[: len(jpeg()) * 3 // 4], "cannot be read as a picture"),
    "header.tif": (b"II*\x00\xff\xff\xff\xff", ""),
    "program.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "damaged or of a kind"),
    "claims.gif": (b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b"," + bytes(9) + b"\x02\x01\0\0;", ""),
}
"""File name -> content, and words of the sentence that refuses it."""
