"""What the figures were measured on, and how far they are from what it can do."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

import torch

from idas_sr.recipe import processor


def environment(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads, versions: what a figure means nothing without."""
    names = {"cpu": processor(), "cores": torch.multiprocessing.cpu_count(), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        names["gpu"] = torch.cuda.get_device_name(device)
    return {**names, "torch": torch.__version__, "python": platform.python_version(), "system": platform.platform()}


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read after it means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured_peak(device: torch.device, dtype: torch.dtype, side: int = 2048, seconds: float = 1.0) -> float:
    """Operations per second of the best product of two square matrices in ``seconds``, in this process and precision.

    Args:
        device, dtype: of the matrices.
        side: of them.
        seconds: to try; once at least.
    """
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best, until = 0.0, time.perf_counter() + seconds
    with torch.inference_mode():
        a @ b
        while not best or time.perf_counter() < until:
            synchronize(device)
            start = time.perf_counter()
            a @ b
            synchronize(device)
            best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def peak_resident_bytes() -> int | None:
    """The most memory this process has had since it started; None where the kernel does not say."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.is_file() else []
    # Not getrusage: it counts what the parent had before this program was started.
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
