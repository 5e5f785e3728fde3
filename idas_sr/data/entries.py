"""One training picture: where its bytes are."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from idas_sr.images import pixels_of, read_rgb


@dataclass(frozen=True)
class PictureFile:
    """The bytes of one picture: a file, or ``size`` bytes of a tar from ``offset`` on."""

    path: Path
    name: str
    offset: int = 0
    size: int | None = None

    def content(self) -> bytes:
        """The encoded picture.

        Raises:
            ValueError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return file.read() if self.size is None else file.read(self.size)
        except OSError as error:
            raise ValueError(f"{self} cannot be read ({error.strerror}); bring it back or leave it out.") from error

    def read(self) -> np.ndarray:
        """(H, W, 3) uint8.

        Raises:
            ValueError: it cannot be read as a picture.
        """
        if self.size is None:
            return read_rgb(self.path)
        try:
            with Image.open(io.BytesIO(self.content())) as image:
                pixels = pixels_of(image)
        except Exception as error:
            # Pillow's readers raise errors of a dozen kinds for damaged files.
            raise ValueError(f"{self} cannot be read as a picture ({error}); write the shards anew.") from error
        return pixels if pixels.dtype == np.uint8 else (pixels * 255).round().astype(np.uint8)

    def __str__(self) -> str:
        return str(self.path) if self.size is None else f"{self.name} in {self.path}"


@dataclass(frozen=True)
class Entry:
    """One training picture, with its real low-quality counterpart where the set is a paired one."""

    hq: PictureFile
    lq: PictureFile | None = None
