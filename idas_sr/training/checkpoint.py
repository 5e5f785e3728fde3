"""Checkpoints: written atomically, found by number, the last few kept."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

NAME = re.compile(r"step_(\d{7})\.pt")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write ``state`` under a temporary name, rename it, then drop all but the newest ``keep``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:07d}.pt"
    temporary = path.with_suffix(".partial")
    torch.save({"step": step, **state}, temporary)
    os.replace(temporary, path)
    for old in _all(folder)[:-keep]:
        old.unlink()
    return path


def load_latest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint's state on the CPU, or None where there is none."""
    found = _all(folder)
    return torch.load(found[-1], map_location="cpu", weights_only=True) if found else None


def _all(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step_*.pt") if NAME.fullmatch(p.name)) if folder.is_dir() else []
