"""What the training loop knows of anything it trains: players, their modules and their named losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]


class Task(nn.Module, ABC):
    """Something with players (generator, critic ...) whose losses are functions of the weights and the batch alone."""

    weights: Mapping[str, float]

    @abstractmethod
    def trainable(self) -> dict[str, list[nn.Module]]:
        """Player -> modules it trains, the generator first."""

    @abstractmethod
    def losses(self, player: str, batch: Batch) -> Losses:
        """Named, already weighted scalars; the loop adds them up. May leave detached tensors in ``batch``."""

    def forward(self, player: str, batch: Batch) -> tuple[Losses, Batch]:
        """The losses, and what computing them left in the batch for the next player's turn."""
        # Through forward, so that a DDP wrapper sees every loss (a method of `.module` would not average gradients).
        # DDP may hand over a copy of the batch, so what was left in it goes back as a result.
        own = dict(batch)
        losses = self.losses(player, own)
        return losses, {name: value for name, value in own.items() if name not in batch}

    @abstractmethod
    def grid(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1]: what a person looks at to see whether training works."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the result of this stage, from which the next one starts."""

    def start(self, batches: Iterable[Batch]) -> None:
        """Set initial weights, and what is measured beside them, from ``batches`` (the first ones of the run).

        Called at every start; a run that resumes then puts its checkpoint's weights over them.
        """

    def finish(self, batches: Iterable[Batch]) -> None:
        """Measure on ``batches`` what the result needs beside its weights."""

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Realism (``0`` where there is no dial) -> pictures (B, 3, H, W) in [0, 1], to be compared with ``hq``."""
        return {}

    def monitors(self, batch: Batch) -> dict[str, float]:
        """Further numbers for the log, computed under no_grad on a training batch."""
        return {}

    def weight(self, name: str) -> float:
        """Weight of a loss term; 0 where the configuration does not name it."""
        return float(self.weights.get(name, 0.0))

    def unfreeze(self) -> None:
        """Make exactly the players' parameters trainable (before the model is wrapped for several processes)."""
        self.requires_grad_(False)
        for modules in self.trainable().values():
            for module in modules:
                module.requires_grad_(True)

    def set_player(self, player: str) -> None:
        """Gradients to this player's parameters only."""
        for name, modules in self.trainable().items():
            for module in modules:
                module.requires_grad_(name == player)

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """Parameters that ``player`` trains."""
        return [p for module in self.trainable()[player] for p in module.parameters()]


def draw(batch: Batch, column: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """(B,) uniform numbers in [low, high) from the batch's own draws, so that a resumed run sees the same ones."""
    return low + (high - low) * batch["uniform"][:, column]


def shared_draw(batch: Batch, column: int) -> float:
    """A uniform number in [0, 1) that all samples of the step have in common, in every process."""
    return float(batch["shared"][column] if "shared" in batch else batch["uniform"][0, column])


def gathered(values: Tensor) -> Tensor:
    """(B,) of this process -> (N,) of all, in their order, so that a mean over pairs compares all samples of a step.

    Only this process's own values carry a gradient. DDP averages gradients over the processes; theirs is therefore
    multiplied by the number of processes, which gives the gradient of one process with the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values
    world, constant = dist.get_world_size(), values.detach().contiguous()
    parts = [torch.empty_like(constant) for _ in range(world)]
    dist.all_gather(parts, constant)
    parts[dist.get_rank()] = constant + world * (values - constant)
    return torch.cat(parts)


def to_signed(image: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1]."""
    return image * 2 - 1


def to_unit(image: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clamped."""
    return (image / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def channel_statistics(latents: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) of latents (B, C, h, w)."""
    flat = torch.cat([z.transpose(0, 1).flatten(1).double() for z in latents], dim=1)
    return flat.mean(1).float(), flat.std(1).float()
