"""What is written: JSON and CSV, each complete or not there."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from idas_sr import atomic

VERSIONS_OF = (
    "idas-sr",
    "torch",
    "torchvision",
    "diffusers",
    "numpy",
    "scipy",
    "pillow",
    "lpips",
    "torchmetrics",
    "pyiqa",
)


def write_text(path: Path, text: str) -> None:
    """As ``atomic.write_text``; folders are made.

    Raises:
        OSError: the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, text)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON, see `write_text`."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, see `write_text`; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    write_text(path, text.getvalue())


def between_marks(text: str, marks: tuple[str, str], content: str) -> str:
    """``text`` with ``content``, blank lines around it, in place of what stands between two marks, which stay.

    Raises:
        ValueError: the marks are not there, once each and in this order.
    """
    head, first, rest = text.partition(marks[0])
    _, last, tail = rest.partition(marks[1])
    if not first or not last or any(text.count(mark) != 1 for mark in marks):
        raise ValueError(f"A page needs the marks {marks[0]} and {marks[1]}, once each, for what goes between them.")
    return f"{head}{first}\n\n{content.strip()}\n\n{last}{tail}"


@lru_cache(maxsize=64)
def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Package -> version, of everything that can move a measured value."""
    found = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
