"""A folder restored by a Ray cluster: Ray Data hands out the parts of the manifest, workers restore them as always.

What travels through Ray are names of parts. Pictures are read and written by the worker that restores them, so input
and output folder must be reachable under the same path on every machine.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from idas_sr.engines.claims import Worker
from idas_sr.engines.manifest import Manifest
from idas_sr.engines.processes import Work, restore_part

ADDRESS = "RAY_ADDRESS"
"""Environment variable that names the cluster; without it a cluster of this machine alone is started."""


BLOCKS = 32
"""Blocks per worker: what Ray gives out at a time and gives again if its worker is lost."""


class PartRestorer:
    """One worker of the cluster: a pipeline, and its place in the manifest as long as its process lives."""

    def __init__(self, folder: str, work: Work, neighbours: int) -> None:
        # As launchers say it: plans for large pictures share the memory of a machine.
        os.environ["LOCAL_WORLD_SIZE"] = str(neighbours)
        self._work = work
        self._load = functools.cache(work.load)
        self._worker = Worker(Manifest(Path(folder)), "ray")
        self._worker.__enter__()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Restore the parts of a batch; one that a dead worker left is taken over, one that is done stays as it is."""
        for name in batch["part"]:
            part = self._worker.await_part(str(name))
            if part is not None:
                restore_part(part, self._work, self._load)
        return {"part": batch["part"]}


def restore_on_ray(
    manifest: Manifest,
    work: Work,
    workers: int | None = None,
    on_gpu: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Restore what is left of a manifest with an actor pool of Ray Data.

    Args:
        workers: default: one per GPU, on the CPU one per machine.
        on_gpu: whether each worker gets a GPU.
        on_progress: called with the number of finished pictures after each part.

    Raises:
        ValueError: ray is not installed, or the cluster has too little for one worker.
    """
    # Ray reads it while it is imported: no word leaves this machine.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError('--engine ray needs Ray; install it with pip install "idas-sr[cluster]".') from error
    was_running = ray.is_initialized()
    if not was_running:
        _start(ray, workers)
    try:
        machines = sum(node["Alive"] for node in ray.nodes())
        size, needs = _share(ray, workers or (0 if on_gpu else machines), on_gpu)
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        # Also what others have claimed: a worker that gets such a part waits whether it will be left.
        names = sorted(set(manifest.names("parts")) - set(manifest.names("done")))
        if not names:
            return
        blocks = min(len(names), BLOCKS * size)
        restored = ray.data.from_items([{"part": name} for name in names], override_num_blocks=blocks).map_batches(
            PartRestorer,
            fn_constructor_args=(str(manifest.folder), work, -(-size // machines)),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
            **needs,
        )
        for _ in restored.iter_batches(batch_size=1, prefetch_batches=0):
            on_progress(manifest.done_pictures())
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"Ray gave up ({reason}); --resume goes on from here.") from error
    finally:
        if not was_running:
            ray.shutdown()


def _start(ray: Any, workers: int | None) -> None:
    if os.environ.get(ADDRESS):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        # Without a dashboard: nothing listens but what the workers need.
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, num_cpus=workers)


def _share(ray: Any, workers: int, on_gpu: bool) -> tuple[int, dict[str, Any]]:
    """How many workers there are, and what each asks Ray for."""
    there = ray.cluster_resources()
    size = workers or int(there.get("GPU", 0))
    if size < 1:
        raise ValueError("The Ray cluster has no GPU; give --device cpu, or start Ray on machines with GPUs.")
    if on_gpu:
        return size, {"num_gpus": 1}
    return size, {"num_cpus": max(1, int(there.get("CPU", 1)) // size)}
