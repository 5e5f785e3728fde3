"""Folders of clean photographs as an endless, seekable stream of training samples."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from idas_sr.images import EXTENSIONS, read_rgb

Batch = dict[str, Tensor]

VALIDATION_SHARE = 5
"""Every fifth photograph, chosen by its name, is held out: it stays held out when others are added."""


def is_validation(path: Path) -> bool:
    """Whether a photograph belongs to the held-out split."""
    return zlib.crc32(path.name.encode()) % VALIDATION_SHARE == 0


def list_photographs(root: str | Path, split: str = "all") -> list[Path]:
    """Sorted picture files under ``root``.

    Raises:
        FileNotFoundError: no such folder, or no picture of that split in it.
        ValueError: unknown split.
    """
    if split not in ("train", "validation", "all"):
        raise ValueError(f"split must be train, validation or all, not {split!r}.")
    if not Path(root).is_dir():
        raise FileNotFoundError(f"The folder of photographs {root} does not exist; set data.root=FOLDER.")
    found = sorted(p for p in Path(root).rglob("*") if p.suffix.lower() in EXTENSIONS)
    chosen = [p for p in found if split == "all" or is_validation(p) == (split == "validation")]
    if not chosen:
        raise FileNotFoundError(
            f"No photograph of split {split!r} in {root} ({len(found)} pictures there); set data.root=FOLDER."
        )
    return chosen


def sample_rng(seed: int, index: int) -> np.random.Generator:
    """The generator of one training sample: nothing but the seed and its global index decides what is drawn."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))


class Photographs(Dataset):
    """Sample ``index`` -> random crop of a random photograph, always the same one for the same (seed, index).

    Args:
        paths: photographs.
        crop: side of the crop in pixels; smaller photographs are enlarged to it.
        seed: of the stream.
        rescale_min, rescale_prob: with that probability a photograph is first shrunk by a factor drawn from
            [rescale_min, 1], which makes targets sharper than the camera left them.
    """

    def __init__(
        self, paths: Sequence[Path], crop: int, seed: int = 0, rescale_min: float = 1.0, rescale_prob: float = 0.0
    ) -> None:
        self.paths, self.crop, self.seed = list(paths), crop, seed
        self.rescale_min, self.rescale_prob = rescale_min, rescale_prob
        self._decoded: dict[Path, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def _read(self, path: Path) -> np.ndarray:
        # Decoding costs more than a training step of the small model; a thousand web photographs fit in 2 GB.
        if path not in self._decoded:
            if len(self._decoded) > 2000:
                self._decoded.clear()
            self._decoded[path] = read_rgb(path)
        return self._decoded[path]

    def __getitem__(self, index: int) -> tuple[Tensor, np.random.Generator]:
        """(3, crop, crop) in [0, 1], and the sample's generator for all further draws."""
        rng = sample_rng(self.seed, index)
        image = self._read(self.paths[int(rng.integers(len(self.paths)))])
        factor = float(rng.uniform(self.rescale_min, 1)) if rng.random() < self.rescale_prob else 1.0
        factor = max(factor, self.crop / min(image.shape[:2]))
        # The quotient of a quotient can come out a hair above the photograph's own side.
        window = min(int(np.ceil(self.crop / factor)), *image.shape[:2])
        top, left = (int(rng.integers(side - window + 1)) for side in image.shape[:2])
        patch = image[top : top + window, left : left + window]
        if window != self.crop:
            patch = cv2.resize(
                patch, (self.crop, self.crop), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
            )
        if rng.random() < 0.5:
            patch = patch[:, ::-1]
        return torch.from_numpy(patch.transpose(2, 0, 1).copy()).float() / 255, rng


class Collate:
    """Samples -> batch: hq, lq (B, 3, ., .) in [0, 1], seed (B,) of fresh noise, uniform (B, 8) of further draws."""

    def __init__(self, degradation: Callable[[Tensor, Sequence[np.random.Generator]], Tensor] | None) -> None:
        self.degradation = degradation

    def __call__(self, samples: Sequence[tuple[Tensor, np.random.Generator]]) -> Batch:
        hq, rngs = torch.stack([image for image, _ in samples]), [rng for _, rng in samples]
        batch = {
            "hq": hq,
            "seed": torch.tensor([int(rng.integers(2**62)) for rng in rngs]),
            "uniform": torch.from_numpy(np.stack([rng.random(8, dtype=np.float32) for rng in rngs])),
        }
        if self.degradation is not None:
            batch["lq"] = self.degradation(hq, rngs)
        return batch


class StepSampler(Sampler[list[int]]):
    """Global sample indices of this process for steps ``start`` .. ``stop``: the data's position is the step."""

    def __init__(self, start: int, stop: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        if batch_size % world:
            raise ValueError(f"batch_size {batch_size} must be a multiple of the number of processes, {world}.")
        self.start, self.stop, self.batch_size = start, stop, batch_size
        self.local, self.rank = batch_size // world, rank

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            first = step * self.batch_size + self.rank * self.local
            yield list(range(first, first + self.local))

    def __len__(self) -> int:
        return self.stop - self.start
