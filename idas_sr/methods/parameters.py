"""What a task trains, as a table for people and for a golden test."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from idas_sr.methods.task import Task
from idas_sr.networks.lora import LoraPart


@dataclass(frozen=True)
class TrainedPart:
    """A module that a player trains.

    Attributes:
        player: generator, critic ...
        name: its path in the task, or the adapter's name and rank.
        parameters: how many numbers.
    """

    player: str
    name: str
    parameters: int


def trained_parts(task: Task) -> list[TrainedPart]:
    """Every module of every player, the generator's first."""
    paths = {id(module): path for path, module in task.named_modules()}
    return [
        TrainedPart(player, _name(module, paths), sum(p.numel() for p in module.parameters()))
        for player, modules in task.trainable().items()
        for module in modules
    ]


def _name(module: nn.Module, paths: dict[int, str]) -> str:
    return module.title if isinstance(module, LoraPart) else paths[id(module)]


def parameter_table(task: Task) -> str:
    """The parts as lines of text, then what is trained and what is frozen in all."""
    parts = trained_parts(task)
    trained = {id(p) for modules in task.trainable().values() for module in modules for p in module.parameters()}
    frozen = sum(p.numel() for p in task.parameters() if id(p) not in trained)
    rows = [(part.player, part.name, f"{part.parameters:,}") for part in parts]
    rows += [("", "trained in all", f"{sum(part.parameters for part in parts):,}"), ("", "frozen", f"{frozen:,}")]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows)
