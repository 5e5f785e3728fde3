"""The training stream on the training device: which samples a process sees follows from the step alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from idas_sr.config import Config
from idas_sr.data.photographs import Collate, Photographs, StepSampler
from idas_sr.methods.task import Batch
from idas_sr.training.interruption import heed_parent, held_back

SHARED = 8
"""Draws that all samples of a step have in common, in all processes and micro-batches."""


def step_rng(seed: int, step: int) -> np.random.Generator:
    """The generator of one step's common draws; the streams of samples have smaller second keys."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, 2**63 + step], dtype=np.uint64)))


class Stream:
    """Batches of ``photographs`` for the steps of one run.

    Raises:
        ValueError: the batch cannot be divided among processes and micro-batches.
    """

    def __init__(self, config: Config, photographs: Photographs, collate: Collate, accelerator: Accelerator) -> None:
        self.config, self.photographs, self.collate = config, photographs, collate
        self.device = accelerator.device
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self._sampler(0)

    def steps(self, start: int) -> Iterator[list[Batch]]:
        """This process's micro-batches of each step from ``start`` (steps already taken) to the last."""
        train = self.config.train
        micro: list[Batch] = []
        step = start
        for batch in self._load(self._sampler(start)):
            shared = step_rng(self.config.seed, step).random(SHARED, dtype=np.float32)
            micro.append({**batch, "shared": torch.from_numpy(shared).to(self.device)})
            if len(micro) == train.accumulate:
                yield micro
                micro, step = [], step + 1

    def measurement(self, count: int = 16) -> Iterator[Batch]:
        """The first ``count`` batches, whole and the same in every process."""
        return self._load(StepSampler(0, count, self.config.train.batch_size))

    def _sampler(self, start: int) -> StepSampler:
        train = self.config.train
        return StepSampler(start, train.steps, train.batch_size, self.rank, self.world, train.accumulate)

    def _load(self, sampler: StepSampler) -> Iterator[Batch]:
        workers = self.config.data.workers
        loader = DataLoader(
            self.photographs,
            batch_sampler=sampler,
            collate_fn=self.collate,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=heed_parent,
            # Otherwise the loader would take its workers' seed from the global generator.
            generator=torch.Generator(),
        )
        with held_back():
            batches = iter(loader)
        for batch in batches:
            moved = {
                name: value if name in ("seed", "rngs") else value.to(self.device) for name, value in batch.items()
            }
            yield self.collate.complete(moved)
