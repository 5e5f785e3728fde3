"""A folder restored by the processes of one machine, which share a manifest and nothing else."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch

from idas_sr.batch import Settings, restore_files
from idas_sr.engines.claims import POLL, Part, Worker
from idas_sr.engines.launch import show_device
from idas_sr.engines.manifest import Manifest
from idas_sr.pipeline import IDaSSRPipeline


@dataclass(frozen=True)
class Work:
    """What every worker of a run has to know; can be pickled if ``load`` can.

    Attributes:
        load: gives the pipeline on its device.
        batch_size, resume: as in ``restore_files``.
    """

    load: Callable[[], IDaSSRPipeline]
    settings: Settings
    batch_size: int | None = None
    resume: bool = False


def restore_part(part: Part, work: Work, load: Callable[[], IDaSSRPipeline]) -> None:
    """Restore what is left of a part; ``load`` gives the same pipeline for every part."""
    resume = work.resume or part.was_begun
    try:
        for outcome in restore_files(part.jobs, load, work.settings, work.batch_size, resume):
            part.note(outcome)
    except BaseException:
        # This process may live on, and nobody takes from the living.
        part.give_back()
        raise
    part.finish()


def work_along(
    manifest: Manifest,
    work: Work,
    name: str,
    rank: int,
    count: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Work as one of ``count`` until everything is done, by this process or another.

    Args:
        on_progress: called with the number of pictures that all have finished, after each part.
    """
    load = functools.cache(work.load)
    with Worker(manifest, name, rank, count) as worker:
        for part in worker.parts():
            restore_part(part, work, load)
            on_progress(manifest.done_pictures())


def _run_worker(folder: Path, work: Work, rank: int, count: int) -> None:
    # Ctrl-C reaches the whole group; the process that started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Pillow's remarks on damaged files come beside the error that becomes an outcome.
    warnings.simplefilter("ignore")
    os.environ["LOCAL_WORLD_SIZE"] = str(count)
    show_device(rank)
    if "OMP_NUM_THREADS" not in os.environ:
        # Processes that each use every core would get in each other's way.
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // count))
    manifest = Manifest(folder)
    try:
        work_along(manifest, work, f"process {rank}", rank, count)
    except (ValueError, OSError, RuntimeError) as error:
        manifest.note_error(error)
        sys.exit(1)


def _exit(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


def start_workers(
    manifest: Manifest, work: Work, count: int, on_progress: Callable[[int], None] = lambda done: None
) -> None:
    """Start ``count`` processes and wait for them; one that dies leaves its claims to the others.

    Args:
        on_progress: called with the number of finished pictures, now and then.
    """
    # A fresh interpreter each: CUDA and thread pools do not survive a fork.
    context = multiprocessing.get_context("spawn")
    if threading.current_thread() is threading.main_thread():
        # Whoever ends this process wants its workers to end, too.
        signal.signal(signal.SIGTERM, _exit)
    processes = [context.Process(target=_run_worker, args=(manifest.folder, work, i, count)) for i in range(count)]
    try:
        for process in processes:
            process.start()
        while any(process.is_alive() for process in processes):
            on_progress(manifest.done_pictures())
            time.sleep(POLL)
        on_progress(manifest.done_pictures())
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            if process.pid is not None:
                process.join()
