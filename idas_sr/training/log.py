"""What a person sees of a run: one JSON line per interval, a progress bar with the time left, grids, trackers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from idas_sr.atomic import write_text

logger = logging.getLogger(__name__)


class Log:
    """``log.jsonl`` of a run, and its trackers.

    Lines beyond step ``start`` are dropped: an interrupted run wrote them after its last checkpoint and comes by again.
    """

    def __init__(self, run: Path, start: int, accelerator: Accelerator) -> None:
        self.run, self.path, self.accelerator = run, run / "log.jsonl", accelerator
        self.began, self.enabled = time.monotonic(), accelerator.is_main_process
        if self.enabled and self.path.is_file():
            lines = self.path.read_text().splitlines(keepends=True)
            write_text(self.path, "".join(line for line in lines if _step_of(line) <= start))

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line; in the main process only."""
        if not self.enabled:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rounded = {name: round(value, 6) for name, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "seconds": round(time.monotonic() - self.began, 1)} | rounded) + "\n")
        self.accelerator.log(values, step=step)

    def grid(self, name: str, step: int, images: Tensor, columns: int) -> None:
        """(N, 3, H, W) in [0, 1] as ``grids/NAME.png`` of ``columns`` pictures a row; in the main process only."""
        if not self.enabled:
            return
        path = self.run / "grids" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas = arrange(images, columns)
        Image.fromarray(canvas).save(path)
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                kwargs = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"grid": canvas[None]}, step=step, **kwargs)

    def progress(self, start: int, stop: int) -> Any:
        """Context manager of the bar; what it gives is called with every step's values."""
        return _Bar(start, stop, self.run.name, disable=not self.enabled)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        # Cut off when the run ended.
        return float("inf")


def arrange(images: Tensor, columns: int) -> np.ndarray:
    """(N, 3, H, W) in [0, 1] -> (rows * H, columns * W, 3) uint8, row by row, white where none is left."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    canvas = np.full((rows * height, columns * width, channels), 255, dtype=np.uint8)
    pixels = (images.detach().float().cpu().permute(0, 2, 3, 1).numpy() * 255).round().clip(0, 255).astype(np.uint8)
    for index, image in enumerate(pixels):
        top, left = index // columns * height, index % columns * width
        canvas[top : top + height, left : left + width] = image
    return canvas


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
