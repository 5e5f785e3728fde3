"""SIGTERM, as preemptible machines send it: finish the step, save, go."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


# Schedulers send SIGTERM to every process of a job. A reader that dies of it takes the step with it, before the state
# is saved; one that ignores it cannot be ended by its own parent, which then waits for it for ever.
_SENDER_IS_KNOWN = hasattr(signal, "sigwaitinfo")


@contextmanager
def held_back() -> Iterator[None]:
    """A process forked within the block is not reached by SIGTERM before it calls ``heed_parent``."""
    if not _SENDER_IS_KNOWN:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_parent(worker: int = 0) -> None:
    """From now on SIGTERM ends this process, a reader, only where its parent sends it.

    On systems that do not say who sent a signal (macOS, Windows) nothing changes.
    """
    parent = multiprocessing.parent_process()
    if _SENDER_IS_KNOWN and parent is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(parent.pid,), name="heed-parent", daemon=True).start()


def _end_with(parent: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
