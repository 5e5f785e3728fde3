"""SIGTERM, as preemptible machines send it: finish the step, save, go."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import torch
from accelerate import Accelerator


class Interruption:
    """Within the block SIGTERM only leaves a note; ``requested`` tells all processes of it after the same step."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.noted = accelerator, False

    def __enter__(self) -> Interruption:
        # Python allows handlers in the main thread alone; elsewhere SIGTERM keeps its meaning.
        self.is_installed = threading.current_thread() is threading.main_thread()
        if self.is_installed:
            self.previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.noted = True

    def requested(self) -> bool:
        """Whether any process was asked to stop; to be called by all of them after each step."""
        if self.accelerator.num_processes == 1:
            return self.noted
        noted = torch.tensor(float(self.noted), device=self.accelerator.device)
        return bool(self.accelerator.reduce(noted, "sum"))

    def __exit__(self, *_: object) -> None:
        if self.is_installed:
            signal.signal(signal.SIGTERM, self.previous)
