"""Which processes work on a folder together: those that a launcher started, or those that this one shall start."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

RANKS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)
"""Environment variables in which launchers tell a process its number, their number, and its number on this machine."""

DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Launch:
    """Processes that belong together.

    Attributes:
        rank: of this process.
        count: of processes.
        name: equal in all of them and different from any other launch's.
        is_started: whether the others exist; else this one starts them.
    """

    rank: int
    count: int
    name: str
    is_started: bool


def find_launch(processes: int | None = None) -> Launch:
    """What the launcher or ``processes`` says: torchrun and with it accelerate, MPI, or nobody.

    ``accelerate launch --cpu --num_processes N`` starts a single process where there is no MPI and tells it nothing of
    N; then N is read from that launcher's command line and this process starts the others.
    """
    for rank, world, local in RANKS:
        if int(os.environ.get(world, 1)) > 1 and rank in os.environ:
            number = int(os.environ.get(local, os.environ[rank]))
            show_device(number)
            return Launch(int(os.environ[rank]), int(os.environ[world]), _parent(), True)
    if processes is None:
        processes = _asked_of_accelerate(os.environ) or 1
    return Launch(0, processes, uuid.uuid4().hex, False)


def show_device(number: int) -> None:
    """Let this process see GPU ``number`` of those that it may see; to be called before torch looks for them."""
    if DEVICES in os.environ:
        visible = [name for name in os.environ[DEVICES].split(",") if name]
    else:
        visible = [str(i) for i in range(_gpus())]
    if visible:
        os.environ[DEVICES] = visible[number % len(visible)]


def _gpus() -> int:
    # Asks the driver through NVML, which does not fix what this process will see.
    import torch

    return torch.cuda._device_count_nvml() if hasattr(torch.cuda, "_device_count_nvml") else torch.cuda.device_count()


def _parent() -> str:
    """PROCESS@TIME of the launcher on this machine: its number alone may have been another's before."""
    parent = psutil.Process().parent()
    return "" if parent is None else f"{parent.pid}@{parent.create_time():.0f}"


def _asked_of_accelerate(environment: Mapping[str, str]) -> int | None:
    """N of the ``accelerate launch --cpu --num_processes N`` that started only this process."""
    # It sets a port exactly where N is above 1.
    if environment.get("ACCELERATE_USE_CPU", "").lower() != "true" or "MASTER_PORT" not in environment:
        return None
    parent = psutil.Process().parent()
    words = [] if parent is None else parent.cmdline()
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name.replace("-", "_") == "__num_processes" and (value or following).isdecimal():
            return int(value or following)
    return None
