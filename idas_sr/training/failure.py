"""A loss or gradient that is not finite: which term it was, and the batch that did it, for the person who looks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from idas_sr.methods.task import Batch, Task


def broken_losses(losses: dict[str, Tensor]) -> list[str]:
    """Names of the losses that are not finite."""
    return [name for name, loss in losses.items() if not bool(torch.isfinite(loss))]


def broken_gradients(task: Task, player: str, batches: Sequence[Batch]) -> list[str]:
    """Names of the losses, all finite themselves, whose gradient is not; computed once more, each for itself."""
    parameters = [p for p in task.parameters_of(player) if p.requires_grad]
    found: dict[str, None] = {}
    for batch in batches:
        losses, _ = task(player, batch)
        for name, loss in losses.items():
            if not loss.requires_grad:
                continue
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            if not all(bool(torch.isfinite(g).all()) for g in gradients if g is not None):
                found[name] = None
    return list(found)


def describe(
    task: Task, player: str, batches: Sequence[Batch], losses: Sequence[dict[str, Tensor]], accelerator: Accelerator
) -> str:
    """What is not finite, over all processes: ``Loss pixel`` or ``The gradient of loss pixel`` (called in all)."""
    names = gather_object([name for micro in losses for name in broken_losses(micro)])
    if names:
        return f"Loss {', '.join(dict.fromkeys(names))}"
    names = gather_object(broken_gradients(task, player, batches))
    # Each one finite, their sum over terms or processes not.
    return f"The gradient of loss {', '.join(dict.fromkeys(names)) or 'terms together'}"


def dump(folder: Path, step: int, player: str, what: str, batches: Sequence[Batch], accelerator: Accelerator) -> Path:
    """Write this process's part of the batch of ``step`` to ``folder`` as safetensors, if there is space."""
    path = folder / f"step_{step:07d}_process_{accelerator.process_index}.safetensors"
    tensors = {
        f"{index}/{name}": value.detach().cpu().contiguous().clone()
        for index, batch in enumerate(batches)
        for name, value in batch.items()
        if isinstance(value, Tensor)
    }
    metadata = {"about": json.dumps({"step": step, "player": player, "what": what})}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata=metadata)
    except (OSError, SafetensorError):
        path.unlink(missing_ok=True)
    return path
