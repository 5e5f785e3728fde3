"""Everything that a checkpoint holds, gathered and put back."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch.optim.lr_scheduler import LambdaLR

from idas_sr.methods.task import Task
from idas_sr.training.errors import TrainingError


class TrainingState:
    """Weights of all players, EMA, optimizers, schedules, the scaler of fp16, and two counters.

    Nothing of a random generator: every draw follows from the seed, the step and the sample's global index.

    Attributes:
        skipped: updates left out so far because a loss or gradient was not finite.
        best: step and score of the best validation so far; empty before the first.
    """

    def __init__(
        self,
        task: Task,
        ema: EMAModel,
        optimizers: dict[str, Any],
        schedulers: dict[str, LambdaLR],
        accelerator: Accelerator,
    ) -> None:
        self.task, self.ema, self.optimizers, self.schedulers = task, ema, optimizers, schedulers
        self.scaler = accelerator.scaler
        self.skipped = 0
        self.best: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """Nested dictionaries and lists of tensors and numbers."""
        return {
            "weights": {player: [m.state_dict() for m in modules] for player, modules in self.task.trainable().items()},
            "ema": self.ema.state_dict(),
            "optimizers": {player: optimizer.state_dict() for player, optimizer in self.optimizers.items()},
            "schedulers": {player: scheduler.state_dict() for player, scheduler in self.schedulers.items()},
            "scaler": {} if self.scaler is None else self.scaler.state_dict(),
            "skipped": self.skipped,
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what ``state_dict`` returned; the last three entries may be missing (they came later).

        Raises:
            TrainingError: it belongs to another configuration.
        """
        try:
            self._load(state)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"The checkpoint of step {state.get('step')} does not belong to this configuration ({reason}); name "
                "another train.run_dir, or remove that one to start anew."
            ) from error

    def _load(self, state: dict[str, Any]) -> None:
        players = self.task.trainable()
        if players.keys() != state["weights"].keys():
            raise ValueError(f"it trains {', '.join(state['weights'])}, this configuration {', '.join(players)}")
        for player, modules in players.items():
            for module, weights in zip(modules, state["weights"][player], strict=True):
                module.load_state_dict(weights)
            self.optimizers[player].load_state_dict(state["optimizers"][player])
            _restore_layout(self.optimizers[player])
            self.schedulers[player].load_state_dict(state["schedulers"][player])
        self.ema.load_state_dict(state["ema"])
        if self.scaler is not None and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self.skipped, self.best = state.get("skipped", 0), state.get("best", {})


def _restore_layout(optimizer: Any) -> None:
    # Files know no strides, and the fused step walks through parameter and moments in memory order: the moments of a
    # channels-last parameter have to be channels-last too.
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
