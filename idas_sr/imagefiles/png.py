"""PNG files written row by row, 8 or 16 bits per channel (W3C PNG, third edition)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels -> colour type."""
LEVEL = 3
"""Of zlib, 0 to 9, whose default is 6: pictures are written while others are restored, on the same cores."""
BYTES = 2**20
"""Of pixels, filtered and compressed at a time."""


@dataclass(frozen=True)
class Entries:
    """What a PNG holds besides pixels.

    Attributes:
        text: iTXt entries.
        icc: colour profile.
        exif: as Pillow gives it, with or without its JPEG header.
        dpi: pixels per inch.
    """

    text: dict[str, str] = field(default_factory=dict)
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None

    def chunks(self) -> Iterator[bytes]:
        """In the order in which they stand before the pixels."""
        if self.icc is not None:
            yield _chunk(b"iCCP", b"ICC\0\0" + zlib.compress(self.icc))
        if self.dpi is not None:
            yield _chunk(b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in self.dpi), 1))
        if self.exif is not None:
            yield _chunk(b"eXIf", self.exif.removeprefix(b"Exif\0\0"))
        for key, value in self.text.items():
            yield _chunk(b"iTXt", key.encode("latin-1", "replace") + b"\0\0\0\0\0" + value.encode())


def png_of_rows(rows: Iterable[np.ndarray], height: int, width: int, entries: Entries) -> Iterator[bytes]:
    """The parts of a PNG one after the other, none of them much larger than BYTES.

    Args:
        rows: (n, width, 1 to 4) uint8 or uint16 from top to bottom, ``height`` of them together.
        entries: besides the pixels.

    Raises:
        ValueError: there are more or fewer rows.
    """
    packer, above, done, started = zlib.compressobj(LEVEL), np.zeros((1, 0), np.uint8), 0, False
    for part in rows:
        size = part.itemsize
        if not started:
            started, above = True, np.zeros((1, width * part.shape[2] * size), np.uint8)
            yield SIGNATURE
            yield _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * size, COLOR[part.shape[2]], 0, 0, 0))
            yield from entries.chunks()
        count = max(BYTES // above.size, 1)
        for top in range(0, len(part), count):
            some = np.ascontiguousarray(part[top : top + count].astype(">u2" if size == 2 else np.uint8))
            raw = some.view(np.uint8).reshape(len(some), -1)
            if packed := packer.compress(_filtered(raw, above, part.shape[2] * size).tobytes()):
                yield _chunk(b"IDAT", packed)
            above = raw[-1:]
        done += len(part)
    if done != height:
        raise ValueError(f"A picture of {height} rows was announced, and {done} came.")
    yield _chunk(b"IDAT", packer.flush())
    yield _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _filtered(raw: np.ndarray, above: np.ndarray, stride: int) -> np.ndarray:
    """(n, 1 + bytes): every row with the filter whose differences are smallest, as PNG's own advice has it."""
    up = np.concatenate([above, raw[:-1]])
    left = np.pad(raw, ((0, 0), (stride, 0)))[:, :-stride]
    corner = np.pad(up, ((0, 0), (stride, 0)))[:, :-stride]
    kinds = {1: raw - left, 2: raw - up, 4: raw - _paeth(left, up, corner)}
    costs = np.stack(
        [np.abs(values.view(np.int8).astype(np.int16)).sum(1, dtype=np.int64) for values in kinds.values()]
    )
    best = costs.argmin(0)
    out = np.empty((len(raw), 1 + raw.shape[1]), np.uint8)
    for index, (kind, values) in enumerate(kinds.items()):
        out[best == index, 0] = kind
        out[best == index, 1:] = values[best == index]
    return out


def _paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The neighbour that is nearest to left + up - corner; ties in that order."""
    a, b, c = (values.astype(np.int16) for values in (left, up, corner))
    to_left, to_up, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where((to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner))
