"""The one training loop: it knows players and named losses, and nothing of what is trained."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from idas_sr.build import choose
from idas_sr.config import Config, TrainConfig, save_config
from idas_sr.data.photographs import Collate, Photographs
from idas_sr.methods.task import Batch, Task
from idas_sr.training.checkpoint import load_latest, remove_partial, save_checkpoint
from idas_sr.training.errors import Stopped, TrainingError
from idas_sr.training.failure import describe, dump
from idas_sr.training.interruption import Interruption
from idas_sr.training.log import Log
from idas_sr.training.state import TrainingState
from idas_sr.training.stream import Stream, step_rng
from idas_sr.training.validation import Validation

logger = logging.getLogger(__name__)


def train(
    config: Config,
    task: Task,
    photographs: Photographs,
    collate: Collate,
    accelerator: Accelerator,
    validation: Validation | None = None,
) -> None:
    """Train ``task`` to ``config.train.steps`` and write its result to ``run_dir/model``; resumes from the last
    checkpoint, and takes no step where that one is the final one.

    Raises:
        TrainingError: a loss or gradient stopped being finite, the configuration weighs a loss that the task does not
            have, or a checkpoint cannot be written or belongs to another configuration.
        Stopped: SIGTERM came; the state is saved.
    """
    trainer = Trainer(config, task, Stream(config, photographs, collate, accelerator), accelerator, validation)
    start = trainer.resume()
    if accelerator.is_main_process:
        save_config(config, trainer.run / "config.yaml")
    trainer.run_steps(start)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        trainer.write_result()
    accelerator.wait_for_everyone()


class Trainer:
    """One run: the task, prepared for the processes at hand, and everything that changes from step to step."""

    def __init__(
        self, config: Config, task: Task, stream: Stream, accelerator: Accelerator, validation: Validation | None
    ) -> None:
        self.config, self.task, self.stream, self.accelerator = config, task, stream, accelerator
        self.validation = validation
        self.run = Path(config.train.run_dir)
        task.unfreeze()
        task.to(accelerator.device)
        optimizers, schedulers = _optimizers(config.train, task)
        self.generator = next(iter(task.trainable()))
        # Also before resuming: what it measures beside the weights (MINE's range) is in no checkpoint, and comes out
        # equal.
        task.start(stream.measurement())
        ema = EMAModel(task.parameters_of(self.generator), decay=config.train.ema)
        self.model, *prepared = accelerator.prepare(task, *optimizers.values())
        optimizers = dict(zip(optimizers, prepared, strict=True))
        self.state = TrainingState(task, ema, optimizers, schedulers, accelerator)

    def resume(self) -> int:
        """Put back the newest checkpoint; the steps taken before it.

        Raises:
            TrainingError: it belongs to another configuration, or processes found different ones.
        """
        folder = self.run / "checkpoints"
        state = load_latest(folder)
        start = 0 if state is None else int(state["step"])
        found = self.accelerator.gather(torch.tensor([start], device=self.accelerator.device))
        if int(found.min()) != int(found.max()):
            raise TrainingError(f"The processes found different checkpoints in {folder}; it must be one shared folder.")
        if state is not None:
            self.state.load_state_dict(state)
        self.state.ema.to(self.accelerator.device)
        if self.accelerator.is_main_process:
            remove_partial(folder)
        return start

    def run_steps(self, start: int) -> None:
        """All steps from ``start`` on, with log, grids, validation and checkpoints."""
        config, task = self.config.train, self.task
        log = Log(self.run, start, self.accelerator)
        with Interruption(self.accelerator) as interruption, log.progress(start, config.steps) as advance:
            for step, batches in enumerate(self.stream.steps(start), start=start + 1):
                values = self.step(step, batches)
                if step == start + 1:
                    _check_terms(self.config.loss, values)
                advance(values)
                is_last = step == config.steps
                if step % config.log_every == 0:
                    log.write(step, self.averaged({**values, **task.monitors(batches[0])}) | self.rates())
                if config.grid_every and (step % config.grid_every == 0 or is_last) and log.enabled:
                    with self.averaged_weights():
                        columns = len(batches[0]["hq"])
                        log.grid(f"step_{step:07d}", step, task.grid(batches[0]), columns)
                is_best = self.validate(step, is_last, log)
                stopping = interruption.requested()
                if step % config.save_every == 0 or is_last or is_best or stopping:
                    self.save(step)
                if stopping and not is_last:
                    raise Stopped(f"Stopped by SIGTERM after step {step}, saved; the same command goes on from there.")

    def step(self, step: int, batches: Sequence[Batch]) -> dict[str, float]:
        """One update of every player and of the averaged weights; the values of losses and gradient norms."""
        # Nothing should draw from a global generator; what does (dropout) resumes too.
        seed = int(step_rng(self.config.seed, step).integers(2**62))
        torch.manual_seed(seed + self.accelerator.process_index)
        values: dict[str, float] = {}
        for player in self.state.optimizers:
            values |= self._update(player, step, batches)
        self.state.ema.step(self.task.parameters_of(self.generator))
        return values

    def _update(self, player: str, step: int, batches: Sequence[Batch]) -> dict[str, float]:
        optimizer, scheduler = self.state.optimizers[player], self.state.schedulers[player]
        self.task.set_player(player)
        losses = [self._backward(player, batch, len(batches), is_last=batch is batches[-1]) for batch in batches]
        if not losses[0]:
            return {}
        norm = self.accelerator.clip_grad_norm_(self.task.parameters_of(player), self.config.train.max_grad_norm)
        if not self._finite(losses, norm):
            self._refuse(player, step, batches, losses)
        else:
            optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        means = {name: torch.stack([micro[name].float() for micro in losses]).mean() for name in losses[0]}
        return {name: float(value) for name, value in means.items()} | {f"{player}_grad": float(norm)}

    def _backward(self, player: str, batch: Batch, count: int, is_last: bool) -> dict[str, Tensor]:
        # Gradients are exchanged once per step, with the last micro-batch.
        with nullcontext() if is_last else self.accelerator.no_sync(self.model):
            losses, left = self.model(player, batch)
            batch.update(left)
            if losses:
                total = torch.stack([loss.float() for loss in losses.values()]).sum()
                self.accelerator.backward(total / count)
        return {name: loss.detach() for name, loss in losses.items()}

    def _finite(self, losses: Sequence[dict[str, Tensor]], norm: Tensor) -> bool:
        flags = [torch.isfinite(loss) for micro in losses for loss in micro.values()]
        # With fp16 the scaler sees to gradients that overflow: it leaves the update out and lowers its scale.
        if self.state.scaler is None:
            flags.append(torch.isfinite(norm))
        broken = (~torch.stack([flag.reshape(()) for flag in flags]).all()).float()
        return not bool(self.accelerator.reduce(broken, "sum"))

    def _refuse(self, player: str, step: int, batches: Sequence[Batch], losses: Sequence[dict[str, Tensor]]) -> None:
        optimizer, limit = self.state.optimizers[player], self.config.train.max_skipped
        optimizer.zero_grad()
        what = describe(self.task, player, batches, losses, self.accelerator)
        path = dump(self.run / "failure", step, player, what, batches, self.accelerator)
        self.state.skipped += 1
        if self.state.skipped > limit:
            past = f", after {limit} skipped updates" if limit else ""
            raise TrainingError(
                f"{what} is not finite at step {step}{past}; its batch is in {path}, the last checkpoint is intact: "
                "lower train.lr, or let some updates be skipped with train.max_skipped."
            )
        if self.state.scaler is not None:
            self.state.scaler.update()
        logger.warning("%s is not finite at step %d: update %d of %d skipped.", what, step, self.state.skipped, limit)

    def validate(self, step: int, is_last: bool, log: Log) -> bool:
        """Measure the averaged weights where it is time to; whether they are the best so far."""
        every = self.config.train.validate_every
        if self.validation is None or not every or not (step % every == 0 or is_last):
            return False
        with self.averaged_weights():
            scores, images = self.validation.measure(self.task, self.accelerator)
        if images is not None:
            log.grid(f"validation_{step:07d}", step, images, self.validation.columns)
        log.write(step, {f"validation/{name}": value for name, value in scores.items()})
        score = self.validation.score(scores)
        if score is None or score <= self.state.best.get("score", -math.inf):
            return False
        self.state.best = {"step": step, "score": score}
        return True

    def save(self, step: int) -> None:
        """Write a checkpoint, from the main process."""
        if self.accelerator.is_main_process:
            best = self.state.best.get("step")
            folder, keep = self.run / "checkpoints", self.config.train.keep
            save_checkpoint(folder, step, self.state.state_dict(), keep, None if best is None else int(best))

    def write_result(self) -> None:
        """Write ``model/`` with the averaged weights: beside its place first, so that it is whole or not there."""
        self.state.ema.copy_to(self.task.parameters_of(self.generator))
        self.task.finish(self.stream.measurement())
        target, new = self.run / "model", self.run / "model.partial"
        shutil.rmtree(new, ignore_errors=True)
        self.task.save(new)
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)

    def averaged(self, values: dict[str, float]) -> dict[str, float]:
        """Means over all processes."""
        if self.accelerator.num_processes == 1:
            return values
        numbers = torch.tensor(list(values.values()), dtype=torch.float32, device=self.accelerator.device)
        return dict(zip(values, self.accelerator.reduce(numbers, "mean").tolist(), strict=True))

    def rates(self) -> dict[str, float]:
        """The generator's learning rate."""
        return {"lr": float(self.state.schedulers[self.generator].get_last_lr()[0])}

    def averaged_weights(self) -> Applied:
        """Context in which the generator's parameters hold their EMA values."""
        return Applied(self.state.ema, self.task.parameters_of(self.generator))


def _optimizers(config: TrainConfig, task: Task) -> tuple[dict[str, Optimizer], dict[str, LambdaLR]]:
    optimizers: dict[str, Optimizer] = {}
    schedulers = {}
    for index, player in enumerate(task.trainable()):
        rate = config.critic_lr if index else config.lr
        optimizers[player] = AdamW(
            task.parameters_of(player), lr=rate, weight_decay=config.weight_decay, betas=(0.9, 0.99), fused=True
        )
        schedulers[player] = LambdaLR(optimizers[player], _schedule(config, "constant" if index else config.schedule))
    return optimizers, schedulers


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
    "linear": lambda share: 1 - share,
    "constant": lambda share: 1.0,
}
"""Share of the steps taken -> share of the learning rate above its final value."""


def _schedule(config: TrainConfig, name: str) -> Callable[[int], float]:
    decay = choose(SCHEDULES, "train.schedule", name)

    def factor(step: int) -> float:
        share = min(step / max(config.steps, 1), 1.0)
        return min((step + 1) / max(config.warmup, 1), 1.0) * (config.final_lr + (1 - config.final_lr) * decay(share))

    return factor


def _check_terms(weights: dict[str, float], values: dict[str, float]) -> None:
    unknown = [name for name, weight in weights.items() if weight and name not in values]
    if unknown or not any(weights.values()):
        what = f"loss.{unknown[0]} is set, but there is no such loss here" if unknown else "No loss has a weight"
        raise TrainingError(f"{what}; this stage computes: {', '.join(values) or 'nothing'}.")


class Applied:
    """Within the block the parameters hold their EMA values."""

    def __init__(self, ema: EMAModel, parameters: list[torch.nn.Parameter]) -> None:
        self.ema, self.parameters = ema, parameters

    def __enter__(self) -> Any:
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)

    def __exit__(self, *_: object) -> None:
        self.ema.restore(self.parameters)
