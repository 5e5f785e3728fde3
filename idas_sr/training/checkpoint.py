"""Checkpoints: one safetensors file each, written atomically, verified on reading, the last few and the best kept.

accelerate's own ``save_state`` is not used: it writes a folder of several files in place, the frozen backbone with
them, and nothing tells a half-written one from a whole one.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from idas_sr.training.errors import TrainingError

NAME = re.compile(r"step_(\d{7})\.(safetensors|pt)")
logger = logging.getLogger(__name__)


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], keep: int, best: int | None = None) -> Path:
    """Write ``state`` under a temporary name, rename it, then drop all but the newest ``keep`` and the ``best``.

    Args:
        folder: of the checkpoints; made where it does not exist.
        step: optimizer steps taken.
        state: nested dictionaries, lists and tuples of tensors, numbers, strings and None.
        keep: how many to keep.
        best: step of one that is kept beside them.

    Raises:
        TrainingError: it cannot be written (no space left, no permission); those before it are intact.
    """
    path = folder / f"step_{step:07d}.safetensors"
    temporary = path.with_suffix(".partial")
    tensors: dict[str, Tensor] = {}
    layout = _split({"step": step, **state}, tensors, "")
    metadata = {"state": json.dumps(layout), "crc32": str(_checksum(tensors))}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata=metadata)
        with temporary.open("rb") as file:
            # Renaming alone may reach the disk before the content does.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise TrainingError(
            f"The checkpoint of step {step} could not be written to {folder} ({' '.join(str(error).split())}); those "
            "before it are intact: make room and run the same command again."
        ) from error
    for old in _all(folder)[:-keep]:
        if _step_of(old) != best:
            old.unlink(missing_ok=True)
    return path


def load_latest(folder: Path) -> dict[str, Any] | None:
    """The state of the newest whole checkpoint, on the CPU, or None where there is none.

    One that was cut off or altered is skipped with a warning. Files of the layout before safetensors (``.pt``) are
    read.

    Raises:
        TrainingError: there are checkpoints, but none can be read.
    """
    found = _all(folder)
    for path in reversed(found):
        try:
            return _read(path)
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, EOFError) as error:
            reason = " ".join(str(error).split())
            logger.warning("Checkpoint %s cannot be read and is skipped (%s).", path, reason)
    if found:
        raise TrainingError(f"No checkpoint in {folder} can be read; remove the folder to start this stage anew.")
    return None


def remove_partial(folder: Path) -> None:
    """Drop what an interrupted write left behind."""
    for path in folder.glob("step_*.partial"):
        logger.warning("%s was not finished when the last run ended; it is removed.", path)
        path.unlink(missing_ok=True)


def _all(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("step_*") if NAME.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name[5:12])


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".pt":
        return torch.load(path, map_location="cpu", weights_only=True)
    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    if _checksum(tensors) != int(metadata["crc32"]):
        raise ValueError("its content does not match its checksum")
    return _join(json.loads(metadata["state"]), tensors)


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    value = 0
    for name in sorted(tensors):
        content: Any = tensors[name].reshape(-1).view(torch.uint8).numpy()
        value = zlib.crc32(content, zlib.crc32(name.encode(), value))
    return value


def _split(value: Any, tensors: dict[str, Tensor], path: str) -> Any:
    """JSON of a nested state; tensors move to ``tensors`` and leave their key."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"dict": [[key, _split(entry, tensors, f"{path}/{key}")] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        entries = [_split(entry, tensors, f"{path}/{index}") for index, entry in enumerate(value)]
        return {type(value).__name__: entries}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"A checkpoint holds tensors, numbers, strings and None, not {type(value).__name__} at {path}.")


def _join(layout: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(layout, dict):
        return layout
    ((kind, content),) = layout.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _join(entry, tensors) for key, entry in content}
    entries = [_join(entry, tensors) for entry in content]
    return tuple(entries) if kind == "tuple" else entries
