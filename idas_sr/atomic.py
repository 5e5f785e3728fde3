"""Files that are, at every moment, either the old one or the complete new one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def token_of(path: Path) -> str:
    """Stands for the name of ``path`` in that of its half-written file, ``.TOKEN.PROCESS.partial``."""
    # A name with something added could be longer than file systems allow.
    return hashlib.sha256(path.name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what takes the place of ``path`` when the block ends; after an error nothing is left of it.

    Raises:
        OSError: ``path`` cannot be replaced.
    """
    partial = path.with_name(f".{token_of(path)}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8.

    Raises:
        OSError: its folder is not there or cannot be written to.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
