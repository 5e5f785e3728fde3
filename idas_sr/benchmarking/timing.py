"""Clocks: several things in turn, so that a machine whose speed drifts is as unfair to one as to the other."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from idas_sr.benchmarking.machine import synchronize

Run = Callable[[], Any]


def in_turn(runs: Mapping[str, Run], rounds: int, warm_up: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every run, ``rounds`` each, one after the other in every round; ``warm_up`` rounds are not counted.

    Raises:
        ValueError: no round to count.
    """
    if rounds < 1:
        raise ValueError(f"At least one round must be counted, not {rounds}.")
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(warm_up + rounds):
        for name, run in runs.items():
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            if index >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def fastest(runs: Mapping[str, Run], device: torch.device, rounds: int = 5) -> str:
    """Name of the run with the smallest time, after one round of warming up."""
    seconds = in_turn(runs, rounds, 1, device)
    return min(seconds, key=lambda name: min(seconds[name]))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of ``values`` that at least ``share`` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def summary(seconds: Sequence[float], flops: int | None = None, peak: float | None = None) -> dict[str, float]:
    """Median and 95th percentile in milliseconds; with ``flops`` and ``peak`` also speed and share of the peak."""
    median = statistics.median(seconds)
    out = {"median_ms": 1e3 * median, "p95_ms": 1e3 * percentile(seconds, 0.95), "runs": len(seconds)}
    if flops is not None:
        out |= {"gflop": flops / 1e9, "gflops": flops / median / 1e9}
        if peak is not None:
            out["share_of_peak"] = flops / median / peak
    return out


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median over the rounds of one time over the other in the same round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def count_flops(run: Run) -> int:
    """Floating-point operations of the convolutions, matrix products and attention in one run; two per multiply-add."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()
