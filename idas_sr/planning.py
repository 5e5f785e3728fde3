"""How large a tile this machine can afford: free memory, plans, and what an allocation that failed looks like."""

from __future__ import annotations

import ctypes
import math
import os
import resource
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

OVERLAP = 32
"""Input pixels that neighbouring tiles share: what the networks see around a pixel, and a blend in the middle of it."""
SAMPLE_SIDE = 64
"""Input pixels: side of the windows that a picture's statistics are measured on, where tiles are no smaller."""
SAMPLES = 32
"""Windows in a sample: together half a picture of 512 x 512."""
FEWEST_SAMPLES = 4
SMALLEST = 32
"""Input pixels: side of the smallest tile that is tried."""
SIDES = (512, 384, 256, 192, 128, 96, 64, 48, 32)
"""Tiles that the automatic plan chooses from, in input pixels."""
MEMORY_WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    # oneDNN says of an allocation that failed only that it could not make what it needed it for.
    "could not create a memory object",
    "could not create a primitive",
    "could not execute a primitive",
)
"""What libraries say where memory ran out."""
KEPT = 2**30
"""Bytes of freed memory that a process keeps for itself, where an eighth of what is free is not less."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of glibc's settings (malloc.h)."""
SHARE = 0.5
"""Of the free memory, what a plan may take: an estimate is not a promise, and others work on the machine too."""


@dataclass(frozen=True)
class Plan:
    """How a picture is cut.

    Attributes:
        tile: upper limit of a tile's sides in input pixels; 0: the whole picture at once.
        overlap: of neighbouring tiles, in input pixels.
        batch: tiles per call of the networks.
        samples: windows of SAMPLE_SIDE on which the statistics of the picture are measured, all in one call;
            0: every tile has its own, which costs agreement with the whole picture.
    """

    tile: int = 0
    overlap: int = 0
    batch: int = 1
    samples: int = SAMPLES

    @classmethod
    def of_tile(cls, tile: int, multiple: int = 1, batch: int = 1, samples: int = SAMPLES) -> Plan:
        """The plan for tiles of at most ``tile`` input pixels: sides and overlap are multiples of ``multiple``."""
        tile = max(tile // multiple, 1) * multiple
        # Half a tile at most: beyond that, three tiles would meet everywhere.
        overlap = min(OVERLAP, tile // 2) // multiple * multiple
        return cls(tile, overlap, batch, samples)

    def smaller(self, height: int, width: int, multiple: int = 1) -> Plan | None:
        """The next plan to try for a picture when this one does not fit; None: there is none."""
        if self.batch > 1:
            return replace(self, batch=self.batch // 2)
        side = min(self.tile or max(height, width), max(height, width))
        least = max(SMALLEST, 2 * multiple)
        fitting = [s for s in SIDES if least <= s <= side // 2] or ([least] if side > least else [])
        if not fitting:
            return None
        samples = int(2 * fitting[0] ** 2 / SAMPLE_SIDE**2)
        return self.of_tile(fitting[0], multiple, samples=max(min(samples, self.samples), FEWEST_SAMPLES))

    def is_whole(self, height: int, width: int) -> bool:
        """Whether a picture of that size is one piece."""
        return self.tile == 0 or max(height, width) <= self.tile

    def describe(self, height: int, width: int, scale: int) -> str:
        """The plan for a picture, in words for people."""
        size = f"{width}x{height} -> {width * scale}x{height * scale}"
        if self.is_whole(height, width):
            return f"{size}: whole"
        return (
            f"{size}: tiles of up to {self.tile * scale} output pixels, {self.overlap * scale} of overlap, "
            f"{self.batch} at a time"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on a device: of the machine, the control group and the process's own limit.

    Of a machine's memory, where a launcher says that several processes work on it together (LOCAL_WORLD_SIZE), the
    share of one.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = psutil.virtual_memory().available
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free = min(free, limit - psutil.Process().memory_info().vms)
    return max(min(free, _free_in_group()), 0) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _free_in_group() -> int:
    """Of the control group (containers), version 2 or 1."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            root = Path("/sys/fs/cgroup")
            return int((root / limit).read_text()) - int((root / used).read_text())
        except (OSError, ValueError):
            continue
    return 2**63 - 1


def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees for its next tensor, up to KEPT bytes; whether that is possible here.

    What the C library has asked of the kernel in a piece of its own, as it does from 32 MiB on, it gives back when it
    is freed, and the kernel clears every page of the next piece again, which a large picture on the CPU notices. It
    concerns the whole process, so programs call it (`infer`, `demo`, `benchmark.py`), never the library on its own.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        # Only glibc has it: on other systems everything stays as it is.
        return False
    kept = min(KEPT, free_memory(torch.device("cpu")) // 8)
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, kept))


def choose_plan(height: int, width: int, multiple: int, pixel_bytes: float, free: int) -> Plan:
    """The largest plan that fits.

    Args:
        height, width: of the picture, in input pixels.
        multiple: of a tile's sides.
        pixel_bytes: that the networks hold per input pixel in work.
        free: bytes.
    """
    pixels = SHARE * free / pixel_bytes
    # A larger whole gains nothing: attention among all of its cells costs more than the overlap of tiles.
    if height * width <= min(pixels, SIDES[0] ** 2):
        return Plan()
    side = next((s for s in SIDES if s * s <= pixels and s <= SIDES[2]), SIDES[-1])
    samples = max(min(int(pixels / SAMPLE_SIDE**2), SAMPLES), FEWEST_SAMPLES)
    plan = Plan.of_tile(side, multiple, samples=samples)
    tiles = math.ceil(width / max(plan.tile - plan.overlap, 1))
    # A batch keeps many cores or a large GPU busy; a row of tiles is the most that is blended at once.
    return replace(plan, batch=max(1, min(4, tiles, int(pixels / plan.tile**2))))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device and in whichever library."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(words in str(error).lower() for words in MEMORY_WORDS)
