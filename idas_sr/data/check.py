"""Pictures that would stop or spoil a training, found before it starts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from idas_sr.data.entries import Entry

KINDS = ("unreadable", "too small", "duplicate", "mismatched")


@dataclass(frozen=True)
class Finding:
    """What is wrong with one picture: its kind (of ``KINDS``), its name and why."""

    kind: str
    name: str
    reason: str


@dataclass(frozen=True)
class _Seen:
    name: str
    digest: str | None
    finding: Finding | None


def check_entries(
    entries: Sequence[Entry], crop: int, scale: int = 4, jobs: int = 1, on_each: Callable[[], object] | None = None
) -> list[Finding]:
    """Everything wrong with ``entries``, in their order.

    A picture is too small where a side is shorter than ``crop`` (training would enlarge it), a duplicate where an
    earlier one has the same pixels, whatever the file format, and a pair is mismatched where its high-quality picture
    is not ``scale`` times as large as its low-quality one.

    Args:
        entries: to read, each in full.
        crop: side of the training crops in pixels.
        scale: of paired sets.
        jobs: processes.
        on_each: called after each picture.
    """
    first: dict[str, str] = {}
    findings = []
    for seen in _look(entries, crop, scale, jobs):
        if on_each is not None:
            on_each()
        if seen.finding is not None:
            findings.append(seen.finding)
        if seen.digest is None:
            continue
        if seen.digest in first:
            findings.append(Finding("duplicate", seen.name, f"same pixels as {first[seen.digest]}"))
        first.setdefault(seen.digest, seen.name)
    return findings


def _look(entries: Sequence[Entry], crop: int, scale: int, jobs: int) -> Iterator[_Seen]:
    look = partial(_look_at, crop=crop, scale=scale)
    if jobs == 1:
        yield from map(look, entries)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(look, entries, chunksize=8)


def _look_at(entry: Entry, crop: int, scale: int) -> _Seen:
    name = str(entry.hq)
    try:
        hq = entry.hq.read()
        lq = None if entry.lq is None else entry.lq.read()
    except ValueError as error:
        return _Seen(name, None, Finding("unreadable", name, " ".join(str(error).split())))
    height, width = hq.shape[:2]
    digest = hashlib.sha256(np.array(hq.shape).tobytes() + np.ascontiguousarray(hq).tobytes()).hexdigest()
    finding = None
    if lq is not None and (height, width) != (lq.shape[0] * scale, lq.shape[1] * scale):
        about = f"{width}x{height} beside {lq.shape[1]}x{lq.shape[0]}, not {scale} times as large"
        finding = Finding("mismatched", name, about)
    elif min(height, width) < crop:
        finding = Finding("too small", name, f"{width}x{height} pixels, crops have {crop}")
    return _Seen(name, digest, finding)
