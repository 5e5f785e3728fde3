"""One training picture: where its bytes are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from idas_sr.imagefiles.reading import read_rgb


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
        return read_rgb(str(self), self.content())

    def __str__(self) -> str:
        return str(self.path) if self.size is None else f"{self.name} in {self.path}"


@dataclass(frozen=True)
class Entry:
    """One training picture, with its real low-quality counterpart where the set is a paired one."""

    hq: PictureFile
    lq: PictureFile | None = None
