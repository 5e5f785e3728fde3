"""Trains S3Diff's degradation estimator on synthetic levels of blur and noise."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from idas_sr import losses as terms
from idas_sr.data.ordered import degrade_batch
from idas_sr.methods.stages import NetworkTask
from idas_sr.methods.task import Batch, Losses, gathered
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.degradation_scores import FOLDER, DegradationScores

SCORES = ("blur", "noise")


class DegradationScoresTask(NetworkTask):
    """Blur and noise of known level; compression as a nuisance that must not move either score (ours).

    Args:
        backbone: passed on to the next stage; not asked.
        weights: ``score`` (squared error of the levels), ``ranking`` (order over pairs of samples).
        width, hidden: of ``DegradationScores``.
        absent: share of samples without blur, without noise, and without compression.
    """

    folder = FOLDER
    network: DegradationScores

    def __init__(
        self,
        backbone: LatentBackbone,
        weights: Mapping[str, float],
        width: int = 64,
        hidden: int = 512,
        absent: float = 0.2,
    ) -> None:
        super().__init__(backbone, weights)
        self.absent = absent
        self.network = DegradationScores(width, hidden)

    def degraded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, h, w) in [0, 1], and the levels (B, 2) of blur and noise."""
        levels = ((batch["uniform"][:, :3] - self.absent) / (1 - self.absent)).clamp_min(0)
        return degrade_batch(batch["lq"], levels, batch["seed"].tolist()), levels[:, :2]

    def losses(self, player: str, batch: Batch) -> Losses:
        pictures, levels = self.degraded(batch)
        scores = self.network(pictures)
        pairs = [terms.ranking(gathered(scores[:, i]), gathered(levels[:, i])) for i in range(len(SCORES))]
        return {
            "score": self.weight("score") * (scores - levels).square().mean(),
            "ranking": self.weight("ranking") * torch.stack(pairs).mean(),
        }

    @torch.no_grad()
    def monitors(self, batch: Batch) -> dict[str, float]:
        pictures, levels = self.degraded(batch)
        error = (self.network(pictures) - levels).abs().mean(0)
        return {f"{name}_error": float(error[i]) for i, name in enumerate(SCORES)}

    @torch.no_grad()
    def grid(self, batch: Batch) -> Tensor:
        return self.degraded(batch)[0]
