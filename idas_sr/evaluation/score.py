"""A folder of restored pictures to one row of metrics per picture and their means."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idas_sr.data.benchmarks import pictures_in, pixels_digest, set_digest
from idas_sr.evaluation.columns import FID_LEAST, Chosen, Measure, choose_columns, fid
from idas_sr.evaluation.files import file_sha256, versions
from idas_sr.imagefiles.reading import read_rgb

PROTOCOL = "realisr-v1"
"""Saved 8-bit files, pairs by stem; psnr_y, ssim_y on BT.601 luma, no border, SSIM on rounded luma; NIQE on grey."""

SIDES = ("restored", "reference", "lq")


@dataclass(frozen=True)
class Pair:
    """One restored picture, what it should have become, and what it was made from, where these are known."""

    restored: Path
    reference: Path | None
    lq: Path | None = None


@dataclass(frozen=True)
class PictureScore:
    """Metric -> value of one picture (None where it is too small), and digests of the pictures that were read."""

    values: dict[str, float | None]
    digests: dict[str, str]


@dataclass(frozen=True)
class Scores:
    """What was measured.

    Attributes:
        images: stem -> metric -> value; None where a picture is too small for a metric.
        whole: metric -> value of metrics of the whole folder (FID).
        digests: stem -> side (restored, reference, lq) -> SHA-256 of the pixels.
        weights: file name -> SHA-256, of everything that was read to measure.
        notes: one sentence each on columns that are missing or must be read with care.
        mean: metric -> mean over the pictures that have a value; None where none has.
    """

    images: dict[str, dict[str, float | None]]
    whole: dict[str, float] = field(default_factory=dict)
    digests: dict[str, dict[str, str]] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def mean(self) -> dict[str, float | None]:
        columns = next(iter(self.images.values()))
        return {name: _mean([row[name] for row in self.images.values()]) for name in columns} | self.whole

    @property
    def data(self) -> dict[str, str]:
        """Side -> digest of the whole folder."""
        sides = [side for side in SIDES if any(side in digests for digests in self.digests.values())]
        return {side: set_digest({stem: digests[side] for stem, digests in self.digests.items()}) for side in sides}

    def as_json(self, settings: dict[str, Any], command: list[str]) -> dict[str, Any]:
        """JSON values: protocol, mean, images, settings, versions, hashes of weights and data, and command."""
        return {
            "protocol": PROTOCOL,
            "mean": self.mean,
            "images": self.images,
            "notes": self.notes,
            "settings": {"precision": "fp32, no autocast, TF32 off", **settings},
            "versions": versions(),
            "weights": self.weights,
            "data": self.data,
            "command": command,
        }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def available_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def pair_by_stem(restored: Path, reference: Path | None = None, lq: Path | None = None) -> dict[str, Pair]:
    """Stem -> pair of the files in the folders; without ``reference`` and ``lq`` every restored picture stands alone.

    Raises:
        ValueError: a folder without pictures, or a picture in one folder that another one lacks.
    """
    ours = pictures_in(restored)
    partners: list[dict[str, Path]] = []
    for folder in (reference, lq):
        theirs = pictures_in(folder) if folder is not None else {}
        partners.append(theirs)
        if folder is None:
            continue
        for here, there, other in ((ours, theirs, folder), (theirs, ours, restored)):
            if missing := [stem for stem in here if stem not in there]:
                raise ValueError(
                    f"{len(missing)} of {len(here)} pictures have no partner of the same stem in {other}, "
                    f"first: {here[missing[0]]}. Both folders must hold the same pictures."
                )
    return {stem: Pair(path, partners[0].get(stem), partners[1].get(stem)) for stem, path in ours.items()}


def _as_tensor(pixels: np.ndarray) -> Tensor:
    """(1, 3, H, W) float64 in [0, 1]: exact multiples of 1 / 255."""
    return torch.tensor(pixels).movedim(-1, 0)[None].double() / 255


def score_pair(pair: Pair, measures: Mapping[str, Measure]) -> PictureScore:
    """Every one of ``measures`` of one pair.

    Raises:
        ValueError: an unreadable picture, or a reference of another size.
    """
    pixels = {side: read_rgb(path) for side in SIDES if (path := getattr(pair, side)) is not None}
    if pair.reference is not None and pixels["reference"].shape != pixels["restored"].shape:
        sizes = [f"{pixels[side].shape[1]}x{pixels[side].shape[0]}" for side in ("restored", "reference")]
        raise ValueError(
            f"{pair.restored} is {sizes[0]}, its reference {pair.reference} is {sizes[1]}; sizes must be equal."
        )
    tensors = {side: _as_tensor(values) for side, values in pixels.items()}
    values = {
        name: measure(tensors["restored"], tensors.get("reference"), tensors.get("lq")).item()
        for name, measure in measures.items()
    }
    return PictureScore(
        {name: value if math.isfinite(value) else None for name, value in values.items()},
        {side: pixels_digest(values) for side, values in pixels.items()},
    )


def score_pairs(
    pairs: Mapping[str, Pair],
    measures: Mapping[str, Measure],
    jobs: int = 1,
    on_picture: Callable[[str], None] = lambda stem: None,
) -> dict[str, PictureScore]:
    """`score_pair` of each, ``jobs`` at a time, each in a thread of its own, whose own threads are one.

    Raises:
        ValueError: what `score_pair` refuses.
    """
    rows: dict[str, PictureScore] = {}
    threads = torch.get_num_threads()
    # Several pictures at a time use the cores already; more threads than cores get in each other's way.
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(max(1, jobs)) as pool:
            results = pool.map(lambda pair: score_pair(pair, measures), pairs.values())
            try:
                for stem, row in zip(pairs, results, strict=True):
                    rows[stem] = row
                    on_picture(stem)
            except ValueError:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)
    return rows


def hashes_of(chosen: Chosen) -> dict[str, str]:
    """File name -> SHA-256 of the weights that the columns read."""
    files = {path for paths in chosen.weights.values() for path in paths}
    return {path.name: file_sha256(path) for path in sorted(files, key=lambda path: path.name)}


def collect(rows: Mapping[str, PictureScore], chosen: Chosen, whole: Mapping[str, float] | None = None) -> Scores:
    """Scores of a set, with the sentences that a reader of the means needs."""
    images = {stem: row.values for stem, row in sorted(rows.items())}
    notes = list(chosen.notes)
    for name in next(iter(images.values())):
        without = [stem for stem, row in images.items() if row[name] is None]
        if without:
            notes.append(f"{name}: {len(without)} picture(s) are too small and do not count, first: {without[0]}.")
    if whole and "fid" in whole and len(images) < FID_LEAST:
        notes.append(f"fid: {len(images)} pictures are fewer than {FID_LEAST}; the value is mostly bias.")
    digests = {stem: row.digests for stem, row in sorted(rows.items())}
    return Scores(images, dict(whole or {}), digests, hashes_of(chosen), notes)


def score_folder(
    restored: Path,
    reference: Path | None = None,
    squeezenet: Path | None = None,
    jobs: int = 1,
    on_picture: Callable[[str], None] = lambda stem: None,
    lq: Path | None = None,
    columns: Iterable[str] | None = None,
    device: str | torch.device = "cpu",
) -> Scores:
    """Score the pictures of a folder, ``jobs`` at a time.

    Args:
        reference: folder of what they should be; lq: folder of what they were made from. Same stems.
        squeezenet: file of SqueezeNet 1.0 weights for sqdist; without it that column is left out.
        on_picture: called with the stem of each picture that is done, in their order.
        columns: names from `columns.COLUMNS`; without them all that can be measured here.
        device: of the learned columns.

    Raises:
        ValueError: what `pair_by_stem`, `score_pair` and `columns.choose_columns` refuse.
    """
    pairs = pair_by_stem(restored, reference, lq)
    chosen = choose_columns(reference is not None, lq is not None, squeezenet, columns, device)
    rows = score_pairs(pairs, chosen.measures, jobs, on_picture)
    whole = {"fid": fid(restored, reference, device)} if chosen.is_fid and reference is not None else {}
    return collect(rows, chosen, whole)
