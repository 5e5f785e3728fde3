"""The one training loop: it knows players and named losses, and nothing of what is trained."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from idas_sr.config import Config, TrainConfig, save_config
from idas_sr.data.photographs import Collate, Photographs, StepSampler
from idas_sr.methods.task import Batch, Task
from idas_sr.training.checkpoint import load_latest, save_checkpoint


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""


def train(config: Config, task: Task, photographs: Photographs, collate: Collate, accelerator: Accelerator) -> None:
    """Train ``task`` to ``config.train.steps`` and write its result to ``run_dir/model``; resumes from the last
    checkpoint, and takes no step where that one is the final one.

    Raises:
        TrainingError: a loss stopped being finite, or the configuration weighs one that the task does not have.
    """
    run = Path(config.train.run_dir)
    task.unfreeze()
    task.to(accelerator.device)
    optimizers, schedulers = _optimizers(config.train, task)
    generator = next(iter(task.trainable()))
    # Also before resuming: what it measures beside the weights (MINE's range) is in no checkpoint, and comes out equal.
    task.start(_batches(config, photographs, collate, accelerator, 0, stop=16))
    ema = EMAModel(task.parameters_of(generator), decay=config.train.ema)
    model, *prepared = accelerator.prepare(task, *optimizers.values())
    optimizers = dict(zip(optimizers, prepared, strict=True))
    start = _resume(run, task, ema, optimizers, schedulers)
    ema.to(accelerator.device)
    if accelerator.is_main_process:
        save_config(config, run / "config.yaml")

    log = Log(run, start, enabled=accelerator.is_main_process)
    with log.progress(start, config.train.steps) as advance:
        for step, batch in enumerate(_batches(config, photographs, collate, accelerator, start), start=start + 1):
            values = _step(config.train, model, task, batch, optimizers, schedulers, accelerator, step)
            if step == start + 1:
                _check_terms(config.loss, values)
            ema.step(task.parameters_of(generator))
            advance(values)
            if step % config.train.log_every == 0:
                log.write(step, {**values, **task.monitors(batch), "lr": float(schedulers[generator].get_last_lr()[0])})
            if not accelerator.is_main_process:
                continue
            if config.train.grid_every and (step % config.train.grid_every == 0 or step == config.train.steps):
                with Applied(ema, task.parameters_of(generator)):
                    save_grid(run / "grids" / f"step_{step:07d}.png", task.grid(batch), columns=config.train.batch_size)
            if step % config.train.save_every == 0 or step == config.train.steps:
                save_checkpoint(run / "checkpoints", step, _state(task, ema, optimizers, schedulers), config.train.keep)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        ema.copy_to(task.parameters_of(generator))
        task.finish(_batches(config, photographs, collate, accelerator, 0, stop=16))
        task.save(run / "model")


def _optimizers(config: TrainConfig, task: Task) -> tuple[dict[str, Optimizer], dict[str, LambdaLR]]:
    optimizers: dict[str, Optimizer] = {}
    schedulers = {}
    for index, player in enumerate(task.trainable()):
        rate = config.critic_lr if index else config.lr
        optimizers[player] = AdamW(
            task.parameters_of(player), lr=rate, weight_decay=config.weight_decay, betas=(0.9, 0.99), fused=True
        )
        schedulers[player] = LambdaLR(optimizers[player], _constant(config) if index else _cosine(config))
    return optimizers, schedulers


def _constant(config: TrainConfig) -> Callable[[int], float]:
    return lambda step: min((step + 1) / max(config.warmup, 1), 1.0)


def _cosine(config: TrainConfig) -> Callable[[int], float]:
    def factor(step: int) -> float:
        share = min(step / max(config.steps, 1), 1.0)
        return min((step + 1) / max(config.warmup, 1), 1.0) * (
            config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * share)) / 2
        )

    return factor


def _step(
    config: TrainConfig,
    model: torch.nn.Module,
    task: Task,
    batch: Batch,
    optimizers: dict[str, Any],
    schedulers: dict[str, LambdaLR],
    accelerator: Accelerator,
    step: int,
) -> dict[str, float]:
    values: dict[str, float] = {}
    for player, optimizer in optimizers.items():
        task.set_player(player)
        losses = model(player, batch)
        if not losses:
            continue
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        if not bool(torch.isfinite(total)):
            broken = ", ".join(name for name, loss in losses.items() if not bool(torch.isfinite(loss)))
            raise TrainingError(
                f"Loss {broken} is not finite at step {step}; the last checkpoint is intact, "
                "lower train.lr and run again."
            )
        accelerator.backward(total)
        norm = accelerator.clip_grad_norm_(task.parameters_of(player), config.max_grad_norm)
        optimizer.step()
        schedulers[player].step()
        optimizer.zero_grad()
        values |= {name: float(loss.detach()) for name, loss in losses.items()} | {f"{player}_grad": float(norm)}
    return values


def _check_terms(weights: dict[str, float], values: dict[str, float]) -> None:
    unknown = [name for name, weight in weights.items() if weight and name not in values]
    if unknown or not any(weights.values()):
        what = f"loss.{unknown[0]} is set, but there is no such loss here" if unknown else "No loss has a weight"
        raise TrainingError(f"{what}; this stage computes: {', '.join(values) or 'nothing'}.")


def _batches(
    config: Config,
    photographs: Photographs,
    collate: Collate,
    accelerator: Accelerator,
    start: int,
    stop: int | None = None,
) -> Iterator[Batch]:
    # Measurements (with ``stop``) are the same in every process: each sees the whole batches.
    rank, world = (0, 1) if stop else (accelerator.process_index, accelerator.num_processes)
    sampler = StepSampler(start, stop or config.train.steps, config.train.batch_size, rank, world)
    loader = DataLoader(
        photographs,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=config.data.workers,
        prefetch_factor=4 if config.data.workers else None,
    )
    for batch in loader:
        yield {name: value.to(accelerator.device) if name != "seed" else value for name, value in batch.items()}


def _state(task: Task, ema: EMAModel, optimizers: dict[str, Any], schedulers: dict[str, LambdaLR]) -> dict[str, Any]:
    return {
        "weights": {player: [m.state_dict() for m in modules] for player, modules in task.trainable().items()},
        "ema": ema.state_dict(),
        "optimizers": {player: optimizer.state_dict() for player, optimizer in optimizers.items()},
        "schedulers": {player: scheduler.state_dict() for player, scheduler in schedulers.items()},
    }


def _resume(run: Path, task: Task, ema: EMAModel, optimizers: dict[str, Any], schedulers: dict[str, LambdaLR]) -> int:
    state = load_latest(run / "checkpoints")
    if state is None:
        return 0
    for player, modules in task.trainable().items():
        for module, weights in zip(modules, state["weights"][player], strict=True):
            module.load_state_dict(weights)
        optimizers[player].load_state_dict(state["optimizers"][player])
        schedulers[player].load_state_dict(state["schedulers"][player])
    ema.load_state_dict(state["ema"])
    return int(state["step"])


class Applied:
    """Within the block the parameters hold their EMA values."""

    def __init__(self, ema: EMAModel, parameters: list[torch.nn.Parameter]) -> None:
        self.ema, self.parameters = ema, parameters

    def __enter__(self) -> None:
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)

    def __exit__(self, *_: object) -> None:
        self.ema.restore(self.parameters)


def save_grid(path: Path, images: Tensor, columns: int) -> None:
    """Write (N, 3, H, W) in [0, 1] as one PNG of ``columns`` pictures a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, _, height, width = images.shape
    rows = -(-count // columns)
    canvas = torch.ones(3, rows * height, columns * width)
    for index, image in enumerate(images.detach().float().cpu()):
        top, left = index // columns * height, index % columns * width
        canvas[:, top : top + height, left : left + width] = image
    Image.fromarray((canvas.permute(1, 2, 0).numpy() * 255).round().clip(0, 255).astype(np.uint8)).save(path)


class Log:
    """One JSON line per interval in ``log.jsonl``, and a progress bar with the time left.

    Lines beyond step ``start`` are dropped: an interrupted run wrote them after its last checkpoint and comes by again.
    """

    def __init__(self, run: Path, start: int, enabled: bool) -> None:
        self.path, self.enabled, self.began = run / "log.jsonl", enabled, time.monotonic()
        if enabled and self.path.is_file():
            lines = self.path.read_text().splitlines(keepends=True)
            self.path.write_text("".join(line for line in lines if json.loads(line)["step"] <= start))

    def write(self, step: int, values: dict[str, float]) -> None:
        if self.enabled:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            line = {"step": step, "seconds": round(time.monotonic() - self.began, 1)} | {
                k: round(v, 6) for k, v in values.items()
            }
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def progress(self, start: int, stop: int) -> Any:
        return _Bar(start, stop, self.path.parent.name, disable=not self.enabled)


class _Bar:
    def __init__(self, start: int, stop: int, title: str, disable: bool) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, TextColumn("{task.fields[note]}"), disable=disable)
        self.task = self.bar.add_task(title, total=stop, completed=start, note="")

    def __enter__(self) -> Callable[[dict[str, float]], None]:
        self.bar.start()
        return self._advance

    def _advance(self, values: dict[str, float]) -> None:
        self.bar.update(self.task, advance=1, note=" ".join(f"{k} {v:.4f}" for k, v in list(values.items())[:4]))

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
