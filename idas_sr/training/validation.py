"""Restorations of held-out photographs, always the same crops, measured and shown while training runs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from idas_sr.config import ConfigError
from idas_sr.data.photographs import Collate, Photographs
from idas_sr.losses import FeatureDistance, LearnedDistance
from idas_sr.methods.task import Task, to_signed
from idas_sr.metrics import niqe, psnr_y, ssim_y

Measure = Callable[[Tensor, Tensor], Tensor]
SHOWN = 8
"""Pictures in a grid."""


def _of_signed(distance: torch.nn.Module) -> Measure:
    return lambda image, hq: distance(to_signed(image), to_signed(hq))


class Validation:
    """Measures ``count`` fixed crops, each process its share.

    Args:
        photographs: of the held-out split.
        collate: makes their low-quality pictures.
        count: crops.
        best: ``measure@realism`` that decides which checkpoint is the best.
        feature_distance: adds ``sqdist``.
        lpips: adds ``lpips``.

    Raises:
        ConfigError: ``best`` is no measure.
    """

    def __init__(
        self,
        photographs: Photographs,
        collate: Collate,
        count: int,
        best: str,
        feature_distance: FeatureDistance | None = None,
        lpips: LearnedDistance | None = None,
    ) -> None:
        self.photographs, self.collate, self.count, self.best = photographs, collate, count, best
        self.measures: dict[str, Measure] = {
            "psnr_y": psnr_y,
            "ssim_y": ssim_y,
            "niqe": lambda image, _: niqe(image),
        }
        self.distances = {k: d for k, d in (("sqdist", feature_distance), ("lpips", lpips)) if d is not None}
        for name, distance in self.distances.items():
            self.measures[name] = _of_signed(distance)
        self.columns = min(SHOWN, count)
        if best.split("@")[0] not in self.measures:
            raise ConfigError(
                f"train.best must be MEASURE@REALISM with one of {', '.join(self.measures)}, not {best!r}."
            )

    @torch.no_grad()
    def measure(self, task: Task, accelerator: Accelerator) -> tuple[dict[str, float], Tensor | None]:
        """Means over all crops by ``measure@realism``, and this process's first pictures as rows of a grid.

        A measure that a crop is too small for (NIQE below 96x192 pixels) is left out.
        """
        totals: dict[str, Tensor] = {}
        rows: dict[str, list[Tensor]] = {}
        for distance in self.distances.values():
            distance.to(accelerator.device)
        rank, world = accelerator.process_index, accelerator.num_processes
        if self.count < world:
            raise ConfigError(f"train.validation_count {self.count} must be at least the number of processes, {world}.")
        for index in range(rank, self.count, world):
            batch = self.collate([self.photographs[index]])
            batch = self.collate.complete(
                {k: v if k in ("seed", "rngs") else v.to(accelerator.device) for k, v in batch.items()}
            )
            with accelerator.autocast():
                restored = task.validate(batch)
            for realism, image in restored.items():
                image = image.float().clamp(0, 1)
                rows.setdefault(realism, []).append(image)
                for name, function in self.measures.items():
                    value = function(image, batch["hq"]).double().sum()
                    key = f"{name}@{realism}"
                    totals[key] = totals.get(key, torch.zeros_like(value)) + value
            rows.setdefault("hq", []).append(batch["hq"])
        means = self._means(totals, accelerator)
        pictures = [torch.cat(images[: self.columns]) for images in rows.values()]
        return means, torch.cat(pictures) if len(pictures) > 1 else None

    def _means(self, totals: dict[str, Tensor], accelerator: Accelerator) -> dict[str, float]:
        if not totals:
            return {}
        # fp32: not every device has doubles.
        stacked = torch.stack([value.float().to(accelerator.device) for value in totals.values()])
        means = (accelerator.reduce(stacked, "sum") / self.count).tolist()
        return {name: mean for name, mean in zip(totals, means, strict=True) if math.isfinite(mean)}

    def score(self, scores: dict[str, float]) -> float | None:
        """The deciding measure, higher is better; None where it was not measured."""
        value = scores.get(self.best)
        if value is None:
            return None
        return value if self.best.startswith(("psnr_y", "ssim_y")) else -value
