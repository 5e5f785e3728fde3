"""Photographs as an endless, seekable stream of training samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from idas_sr.data.entries import Entry, PictureFile

Batch = dict[str, Tensor]
Degrade = Callable[[Tensor, Sequence[np.random.Generator]], Tensor]


def sample_rng(seed: int, index: int) -> np.random.Generator:
    """The generator of one training sample: nothing but the seed and its global index decides what is drawn."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))


class Sample(NamedTuple):
    """One training sample.

    Attributes:
        hq: (3, crop, crop) in [0, 1].
        rng: its generator, for all further draws.
        lq: (3, crop / s, crop / s) in [0, 1] of a paired set; None where it is still to be made.
    """

    hq: Tensor
    rng: np.random.Generator
    lq: Tensor | None = None


class Photographs(Dataset):
    """Sample ``index`` -> random crop of a random photograph, always the same one for the same (seed, index).

    Args:
        entries: photographs, or their files.
        crop: side of the crop in pixels; smaller photographs are enlarged to it.
        seed: of the stream.
        rescale_min, rescale_max, rescale_prob: with that probability a photograph is first resized by a factor drawn
            from [rescale_min, rescale_max]: below 1 targets are sharper than the camera left them, above 1 softer, as
            frames of a camera are at full resolution. Not so in paired sets.
        cache_bytes: decoded photographs kept in memory by each process; decoding costs more than a step of the small
            model.
        scale: of paired sets.
    """

    def __init__(
        self,
        entries: Sequence[Entry | Path],
        crop: int,
        seed: int = 0,
        rescale_min: float = 1.0,
        rescale_prob: float = 0.0,
        rescale_max: float = 1.0,
        cache_bytes: float = 4e9,
        scale: int = 4,
    ) -> None:
        self.entries = [e if isinstance(e, Entry) else Entry(PictureFile(e, e.name)) for e in entries]
        self.crop, self.seed, self.scale = crop, seed, scale
        self.rescale_min, self.rescale_max, self.rescale_prob = rescale_min, rescale_max, rescale_prob
        self.cache_bytes = cache_bytes
        self._decoded: dict[PictureFile, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def _read(self, file: PictureFile) -> np.ndarray:
        if file in self._decoded:
            return self._decoded[file]
        image = file.read()
        # A full cache stays as it is: with random access, any part of a set is as good as another.
        if image.nbytes <= self.cache_bytes:
            self.cache_bytes -= image.nbytes
            self._decoded[file] = image
        return image

    def __getitem__(self, index: int) -> Sample:
        """Sample ``index`` of the endless stream.

        Raises:
            ValueError: a picture cannot be read, or does not fit its counterpart.
        """
        rng = sample_rng(self.seed, index)
        entry = self.entries[int(rng.integers(len(self.entries)))]
        if entry.lq is not None:
            return self._pair(entry, entry.lq, rng)
        image = self._read(entry.hq)
        factor = float(rng.uniform(self.rescale_min, self.rescale_max)) if rng.random() < self.rescale_prob else 1.0
        factor = max(factor, self.crop / min(image.shape[:2]))
        # The quotient of a quotient can come out a hair above the photograph's own side.
        window = min(int(np.ceil(self.crop / factor)), *image.shape[:2])
        top, left = (int(rng.integers(side - window + 1)) for side in image.shape[:2])
        patch = image[top : top + window, left : left + window]
        if window != self.crop:
            patch = cv2.resize(
                patch, (self.crop, self.crop), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
            )
        return Sample(_to_tensor(patch, rng.random() < 0.5), rng)

    def _pair(self, entry: Entry, lq_file: PictureFile, rng: np.random.Generator) -> Sample:
        hq, lq = self._read(entry.hq), self._read(lq_file)
        if hq.shape != (lq.shape[0] * self.scale, lq.shape[1] * self.scale, 3):
            raise ValueError(
                f"{entry.hq} has {hq.shape[1]}x{hq.shape[0]} pixels and {lq_file} {lq.shape[1]}x{lq.shape[0]}; the "
                f"first must be {self.scale} times the second."
            )
        side = self.crop // self.scale
        if min(lq.shape[:2]) < side or self.crop % self.scale:
            raise ValueError(
                f"{lq_file} ({lq.shape[1]}x{lq.shape[0]}) is too small for crops of {self.crop} HQ pixels, which must "
                f"be a multiple of {self.scale}; lower data.crop or leave the pair out."
            )
        top, left = (int(rng.integers(length - side + 1)) for length in lq.shape[:2])
        is_flipped = rng.random() < 0.5
        y, x, s = top * self.scale, left * self.scale, self.crop
        return Sample(
            _to_tensor(hq[y : y + s, x : x + s], is_flipped),
            rng,
            _to_tensor(lq[top : top + side, left : left + side], is_flipped),
        )


def _to_tensor(patch: np.ndarray, is_flipped: bool) -> Tensor:
    patch = patch[:, ::-1] if is_flipped else patch
    return torch.from_numpy(patch.transpose(2, 0, 1).copy()).float() / 255


class Collate:
    """Samples -> batch: hq, lq (B, 3, ., .) in [0, 1], seed (B,) of fresh noise, uniform (B, 8) of further draws.

    Args:
        degradation: makes lq from hq; None: there is no lq but in paired sets.
        deferred: leave that to ``complete``, which computes it on the device where the batch is by then.
    """

    def __init__(self, degradation: Degrade | None, deferred: bool = False) -> None:
        self.degradation, self.deferred = degradation, deferred

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        samples = [Sample(*sample) for sample in samples]
        rngs = [sample.rng for sample in samples]
        batch: dict[str, Any] = {
            "hq": torch.stack([sample.hq for sample in samples]),
            "seed": torch.tensor([int(rng.integers(2**62)) for rng in rngs]),
            "uniform": torch.from_numpy(np.stack([rng.random(8, dtype=np.float32) for rng in rngs])),
        }
        paired = [sample.lq is not None for sample in samples]
        if any(paired):
            if self.degradation is None and not all(paired):
                raise ValueError("Only a part of the pictures is paired, and data.degradation is none; name one.")
            known = next(sample.lq for sample in samples if sample.lq is not None)
            batch["lq"] = torch.stack([torch.zeros_like(known) if s.lq is None else s.lq for s in samples])
        if self.degradation is not None and not all(paired):
            batch["rngs"] = [None if is_paired else rng for is_paired, rng in zip(paired, rngs, strict=True)]
        return batch if self.deferred else self.complete(batch)

    def complete(self, batch: Batch) -> Batch:
        """Make the low-quality pictures that are still missing; the others stay."""
        rngs: Any = batch.pop("rngs", None)
        if rngs is None:
            return batch
        assert self.degradation is not None
        missing = [index for index, rng in enumerate(rngs) if rng is not None]
        made = self.degradation(batch["hq"][missing], [rngs[index] for index in missing])
        if len(missing) == len(rngs):
            return {**batch, "lq": made}
        lq = batch["lq"].clone()
        lq[missing] = made
        return {**batch, "lq": lq}


class StepSampler(Sampler[list[int]]):
    """Global sample indices of this process for steps ``start`` .. ``stop``: the data's position is the step.

    Each step gives ``parts`` lists, the micro-batches of gradient accumulation.
    """

    def __init__(self, start: int, stop: int, batch_size: int, rank: int = 0, world: int = 1, parts: int = 1) -> None:
        if batch_size % (world * parts):
            raise ValueError(
                f"batch_size {batch_size} must be a multiple of the number of processes, {world}"
                + (f", times train.accumulate, {parts}." if parts > 1 else ".")
            )
        self.start, self.stop, self.batch_size, self.parts = start, stop, batch_size, parts
        self.local, self.rank = batch_size // world, rank

    def __iter__(self) -> Iterator[list[int]]:
        count = self.local // self.parts
        for step in range(self.start, self.stop):
            first = step * self.batch_size + self.rank * self.local
            for part in range(self.parts):
                yield list(range(first + part * count, first + (part + 1) * count))

    def __len__(self) -> int:
        return (self.stop - self.start) * self.parts
