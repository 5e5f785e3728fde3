"""A folder of restored pictures to one row of metrics per picture and their means."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idas_sr.images import EXTENSIONS, read_rgb
from idas_sr.losses import FeatureDistance
from idas_sr.metrics import niqe, psnr_y, ssim_y

PROTOCOL = "realisr-v1"
"""Saved 8-bit files, pairs by stem; psnr_y, ssim_y on BT.601 luma, no border, SSIM on rounded luma; NIQE on grey."""

VERSIONS_OF = ("idas-sr", "torch", "numpy", "pillow")


@dataclass(frozen=True)
class Pair:
    """One restored picture, and the picture that it should have become where that is known."""

    restored: Path
    reference: Path | None


@dataclass(frozen=True)
class Scores:
    """What was measured.

    Attributes:
        images: stem -> metric -> value; None where a picture is too small for a metric.
        mean: metric -> mean over the pictures that have a value; None where none has.
    """

    images: dict[str, dict[str, float | None]]

    @property
    def mean(self) -> dict[str, float | None]:
        columns = next(iter(self.images.values()))
        return {name: _mean([row[name] for row in self.images.values()]) for name in columns}

    def as_json(self, settings: dict[str, Any], command: list[str]) -> dict[str, Any]:
        """JSON values: protocol, mean, images, settings, versions and command."""
        return {
            "protocol": PROTOCOL,
            "mean": self.mean,
            "images": self.images,
            "settings": settings,
            "versions": _versions(),
            "command": command,
        }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def pictures_in(folder: Path) -> dict[str, Path]:
    """Stem -> file of the pictures in ``folder`` itself, sorted; folders below it are not entered.

    Raises:
        ValueError: no such folder, no picture in it, or two pictures of one stem.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give a folder of pictures.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in EXTENSIONS or path.name.startswith("."):
            continue
        if path.stem in found:
            raise ValueError(f"{found[path.stem]} and {path.name} have the same stem; keep one of the two.")
        found[path.stem] = path
    if not found:
        raise ValueError(f"There is no picture in {folder}; known are {', '.join(sorted(EXTENSIONS))}.")
    return found


def pair_by_stem(restored: Path, reference: Path | None = None) -> dict[str, Pair]:
    """Stem -> pair of the files in two folders; without ``reference`` every restored picture stands alone.

    Raises:
        ValueError: a folder without pictures, or a picture in one folder that the other one lacks.
    """
    ours = pictures_in(restored)
    if reference is None:
        return {stem: Pair(path, None) for stem, path in ours.items()}
    theirs = pictures_in(reference)
    for here, there, folder in ((ours, theirs, reference), (theirs, ours, restored)):
        if missing := [stem for stem in here if stem not in there]:
            raise ValueError(
                f"{len(missing)} of {len(here)} pictures have no partner of the same stem in {folder}, "
                f"first: {here[missing[0]]}. Both folders must hold the same pictures."
            )
    return {stem: Pair(path, theirs[stem]) for stem, path in ours.items()}


def _read(path: Path) -> Tensor:
    """(1, 3, H, W) float64 in [0, 1]: exact multiples of 1 / 255."""
    return torch.tensor(read_rgb(path)).movedim(-1, 0)[None].double() / 255


def score_pair(pair: Pair, distance: FeatureDistance | None = None) -> dict[str, float | None]:
    """Metric -> value of one pair: psnr_y, ssim_y and sqdist where there is a reference (and ``distance``), and niqe.

    Raises:
        ValueError: an unreadable picture, or a reference of another size.
    """
    image = _read(pair.restored)
    values: dict[str, Tensor] = {}
    if pair.reference is not None:
        reference = _read(pair.reference)
        if image.shape != reference.shape:
            sizes = [f"{picture.shape[-1]}x{picture.shape[-2]}" for picture in (image, reference)]
            raise ValueError(
                f"{pair.restored} is {sizes[0]}, its reference {pair.reference} is {sizes[1]}; sizes must be equal."
            )
        values |= {"psnr_y": psnr_y(image, reference), "ssim_y": ssim_y(image, reference)}
        if distance is not None:
            values["sqdist"] = _feature_distance(distance, image, reference)
    values["niqe"] = niqe(image)
    return {name: value.item() if math.isfinite(value.item()) else None for name, value in values.items()}


def _feature_distance(distance: FeatureDistance, image: Tensor, reference: Tensor) -> Tensor:
    """(1,) or NaN where the picture ends before the network does."""
    # The first convolution and three poolings leave nothing of fewer than 31 pixels.
    if min(image.shape[-2:]) < 31:
        return torch.full((1,), torch.nan)
    with torch.no_grad():
        return distance(image.float() * 2 - 1, reference.float() * 2 - 1)


def score_folder(
    restored: Path,
    reference: Path | None = None,
    squeezenet: Path | None = None,
    jobs: int = 1,
    on_picture: Callable[[str], None] = lambda stem: None,
) -> Scores:
    """Score the pictures of a folder, ``jobs`` at a time, each in a thread of its own.

    PyTorch's own threads would fight with these: with ``jobs`` > 1 let ``torch.set_num_threads`` be 1.

    Args:
        squeezenet: file of SqueezeNet 1.0 weights for sqdist; without it that column is left out.
        on_picture: called with the stem of each picture that is done, in their order.

    Raises:
        ValueError: what `pair_by_stem` and `score_pair` refuse, or a missing weights file.
    """
    pairs = pair_by_stem(restored, reference)
    if squeezenet is not None and not squeezenet.is_file():
        raise ValueError(f"{squeezenet} is no file; --squeezenet needs the state dict of SqueezeNet 1.0.")
    distance = None
    if squeezenet is not None and reference is not None:
        distance = FeatureDistance(squeezenet, pooling="max", layers=(1, 3, 5, 7)).eval()
    rows: dict[str, dict[str, float | None]] = {}
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        results = pool.map(lambda pair: score_pair(pair, distance), pairs.values())
        try:
            for stem, row in zip(pairs, results, strict=True):
                rows[stem] = row
                on_picture(stem)
        except ValueError:
            pool.shutdown(cancel_futures=True)
            raise
    return Scores(rows)
