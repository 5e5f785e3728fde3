"""A training set made small enough to travel: fewer pixels per picture, WebP, as many as fit into a number of bytes."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from idas_sr.data.entries import Entry

SIDES = (1536, 1280, 1024, 896, 768, 640, 576, 512, 448, 384, 320, 256)
"""Shorter sides that are tried, longest first."""
SAMPLE = 40
"""Pictures by which a side is chosen before all are encoded."""


def pack(
    entries: Sequence[Entry],
    folder: Path,
    limit: int,
    quality: int = 90,
    on_each: Callable[[int], object] = lambda done: None,
) -> tuple[int, int]:
    """Write every picture to the new ``folder`` as WebP, all with the largest of ``SIDES`` at which they fit.

    A picture whose shorter side is longer is reduced to it, by Lanczos filtering; none is enlarged or cut. The folder
    appears when it is complete.

    Args:
        limit: bytes that all files may have together.
        quality: of WebP, 1 to 100.
        on_each: told how many are written; it counts anew where a side turns out too large.

    Returns:
        The side, and the bytes that were written.

    Raises:
        FileExistsError: the folder is not empty.
        ValueError: there is no such quality, a real low-quality counterpart is among them, a picture cannot be read,
            two have one name, or they do not fit at the smallest side.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"The quality of WebP is 1 to 100, not {quality}.")
    if any(entry.lq is not None for entry in entries):
        raise ValueError("A pair cannot be packed: its low-quality side would no longer fit. Leave that source out.")
    names = [f"{Path(entry.hq.name).stem}.webp" for entry in entries]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"Two pictures would be called {min(twice)}; rename one of them.")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder.")
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        for side in sides(entries, limit, quality):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            total = 0
            for done, (entry, name) in enumerate(zip(entries, names, strict=True), 1):
                content = encoded(entry, side, quality)
                total += len(content)
                if total > limit:
                    break
                (partial / name).write_bytes(content)
                on_each(done)
            else:
                partial.replace(folder)
                return side, total
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    raise ValueError(
        f"{len(entries)} pictures do not fit into {limit} bytes at a shorter side of {SIDES[-1]}; allow more, lower "
        "the quality, or take fewer (`take` of a source)."
    )


def sides(entries: Sequence[Entry], limit: int, quality: int) -> Iterator[int]:
    """Those of ``SIDES`` at which the pictures may fit, longest first, by a sample that errs by some percent."""
    sample = entries[:: max(len(entries) // SAMPLE, 1)]
    for side in SIDES:
        size = sum(len(encoded(entry, side, quality)) for entry in sample) * len(entries) / len(sample)
        if size <= 1.05 * limit:
            yield side


def encoded(entry: Entry, side: int, quality: int) -> bytes:
    """The picture as WebP, its shorter side ``side`` at most."""
    picture = Image.fromarray(entry.hq.read())
    factor = side / min(picture.size)
    if factor < 1:
        width, height = (max(side, round(factor * length)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()
