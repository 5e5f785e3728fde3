"""What a training configuration costs: parameters, activation memory, samples per second."""

from __future__ import annotations

import random
import tempfile
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from idas_sr.build import build_photographs, build_task
from idas_sr.config import Config
from idas_sr.data.degradation import Degradation
from idas_sr.data.photographs import Collate, Photographs, Sample, sample_rng
from idas_sr.methods.task import Batch, Task
from idas_sr.training.loop import Trainer
from idas_sr.training.run import build_accelerator, peak_memory, prepare_networks
from idas_sr.training.stream import Stream


@dataclass(frozen=True)
class Cost:
    """Of one configuration on this machine.

    Attributes:
        trained, frozen: parameters.
        activation_bytes: kept per sample for the generator's backward pass; with gradient checkpointing, what is
            computed again comes on top, one block at a time.
        seconds: of one optimizer step, the fastest one, losses and all players included.
        batch_size: samples of a step.
        peak_bytes: most memory held, see ``idas_sr.training.run.peak_memory``.
    """

    trained: int
    frozen: int
    activation_bytes: int
    seconds: float
    batch_size: int
    peak_bytes: int

    @property
    def samples_per_second(self) -> float:
        return self.batch_size / self.seconds


class Noise(Photographs):
    """Crops of noise where no photographs are at hand: speed and memory do not depend on what they show."""

    def __init__(self, crop: int, seed: int) -> None:
        super().__init__([], crop, seed)

    def __getitem__(self, index: int) -> Sample:
        rng = sample_rng(self.seed, index)
        return Sample(torch.from_numpy(rng.random((3, self.crop, self.crop), dtype=np.float32)), rng)


def measure_cost(config: Config, steps: int, is_noise: bool) -> Cost:
    """Take ``steps`` optimizer steps of a configuration, after one that is not timed; nothing is kept.

    Args:
        config: a stage; of its lengths only ``train.warmup`` and ``train.batch_size`` matter.
        steps: at least 1.
        is_noise: train on noise instead of ``data.root``.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, train=replace(config.train, run_dir=folder, steps=steps + 1))
        accelerator = build_accelerator(config)
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        torch.manual_seed(config.seed)
        random.seed(config.seed)
        photographs, collate = _noise(config) if is_noise else build_photographs(config)
        task = build_task(config)
        prepare_networks(task, config)
        trainer = Trainer(config, task, Stream(config, photographs, collate, accelerator), accelerator, None)
        seconds = []
        activation_bytes, began = 0, time.perf_counter()
        for step, batches in enumerate(trainer.stream.steps(0), start=1):
            # Each step with the wait for its data, as in training.
            trainer.step(step, batches)
            if step == 1:
                activation_bytes = _activation_bytes(task, trainer, batches[0])
            else:
                seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
    trained = {id(p): p.numel() for player in task.trainable() for p in task.parameters_of(player)}
    frozen = sum(p.numel() for p in task.parameters() if id(p) not in trained)
    peak = peak_memory(accelerator.device)
    batch_size = config.train.batch_size
    return Cost(sum(trained.values()), frozen, activation_bytes, min(seconds), batch_size, peak)


def _noise(config: Config) -> tuple[Photographs, Collate]:
    name = config.data.degradation
    degradation = None if name == "none" else Degradation(name)
    return Noise(config.data.crop, config.seed), Collate(degradation, config.data.degrade_on == "device")


def _activation_bytes(task: Task, trainer: Trainer, batch: Batch) -> int:
    """Bytes per sample of all tensors that the generator's forward pass leaves for the backward pass."""
    parameters = {p.untyped_storage().data_ptr() for p in task.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    task.set_player(trainer.generator)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        # Held until the count is done: freed memory would be counted twice under another address.
        losses, _ = trainer.model(trainer.generator, dict(batch))
    del losses
    return sum(kept.values()) // len(batch["hq"])
