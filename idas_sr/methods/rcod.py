"""RCOD (arXiv 2509.10122): a host whose declared position is that of one of a few groups, by likeness of latents."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from idas_sr import losses as terms
from idas_sr.conditioning import Prompt
from idas_sr.methods import positioning
from idas_sr.methods.osediff import OSEDiff
from idas_sr.methods.restorer import Restorer
from idas_sr.methods.task import Batch, Losses, to_signed
from idas_sr.networks.similarity import SimilarityEstimator
from idas_sr.resample import upsample
from idas_sr.types import Anchor, Condition, Restored

STRIDE = 250
"""k, timesteps from one group to the next."""
NAMES = ("fid", "neu", "real")
"""Of the first three groups: fidelity, neutral, realism."""
THRESHOLDS = (0.7, 0.5, 0.3)
"""Similarities at which the released code passes to the next group."""


class Grouped(Restorer, ABC):
    """Latent domain grouping, to be put before a host in a class's bases.

    Group i of n is declared at timestep 250 i, counted from 1 as the paper does: 250, 500, 750 for three. In training
    the similarity of the latents decides (methods.md 4.1); afterwards a person does, or the estimator. The loss
    ``similarity`` trains the estimator; the gradient of the others does not reach it.

    Args:
        estimator: of the similarity.
        group: ``fid``, ``neu`` or ``real``; ``auto``: the estimator's.
        groups: n, 1 to 4. The paper finds 3 better than 4.
        grouping: ``paper``: equal parts of the range of similarities on training pairs; ``released``: fixed
            thresholds .7, .5, .3.
        host: the arguments of the host.

    Raises:
        ValueError: a group that is not there, or an unknown grouping.
    """

    estimator_class = SimilarityEstimator
    estimator: SimilarityEstimator
    choices = ("group",)
    kept: ClassVar[tuple[str, ...]] = ("groups", "grouping")
    slots = {"steering": ("as-is", {}), "conditioner": ("visual", {})}  # noqa: RUF012

    def __init__(
        self,
        *parts: Any,
        estimator: SimilarityEstimator,
        group: str = "auto",
        groups: int = 3,
        grouping: str = "paper",
        **host: Any,
    ) -> None:
        super().__init__(*parts, estimator=estimator, **host)
        if not 1 <= groups <= len(THRESHOLDS) + 1:
            raise ValueError(f"There can be 1 to {len(THRESHOLDS) + 1} groups, not {groups}.")
        there = ("auto", *NAMES[:groups])
        if group not in there:
            raise ValueError(f"There is no group called {group!r}; choose from {', '.join(there)}.")
        if grouping not in ("paper", "released"):
            raise ValueError(f"grouping must be paper or released, not {grouping!r}.")
        self.group, self.groups, self.grouping = group, groups, grouping

    def timestep_of(self, similarity: Tensor) -> Tensor:
        """M_L (B,) -> index of the group's timestep: k (n - floor(n (M - M_min) / (M_max - M_min))) - 1."""
        if self.grouping == "released":
            edges = torch.tensor(THRESHOLDS[: self.groups - 1], device=similarity.device)
            number = 1 + (similarity[:, None] < edges).sum(1)
        else:
            low, high = self.estimator.config["similarity_min"], self.estimator.config["similarity_max"]
            share = (similarity - low) / max(high - low, 1e-6)
            number = (self.groups - (self.groups * share).floor()).clamp(1, self.groups)
        return STRIDE * number.float() - 1

    def anchor(self, lq: Tensor, z_lq: Tensor, timestep: Tensor | None = None) -> Anchor:
        if timestep is None and self.group == "auto":
            timestep = self.timestep_of(self.estimator(lq))
        elif timestep is None:
            number = NAMES.index(self.group) + 1
            timestep = torch.full((len(z_lq),), STRIDE * number - 1.0, device=z_lq.device)
        return super().anchor(lq, z_lq, timestep)  # type: ignore[safe-super]

    def severity_map(self, lq: Tensor, z_lq: Tensor) -> Tensor:
        # One group per picture, however many tiles.
        return self.estimator.map(lq)

    def anchor_tile(self, lq: Tensor, z_lq: Tensor, severity: Tensor) -> Anchor:
        return self.anchor(lq, z_lq, self.timestep_of(severity[:, 0].sigmoid()) if self.group == "auto" else None)

    # ---- training ----

    @torch.no_grad()
    def similarity(self, batch: Batch, z_hq: Tensor) -> Tensor:
        """M_L (B,) of training pairs, by the encoder without its adapter, so that it stays what it is."""
        return positioning.similarity(self.encode_clean(upsample(to_signed(batch["lq"]), self.scale)), z_hq)

    def training_timestep(self, z_hq: Tensor, batch: Batch) -> Tensor:
        batch["similarity"] = self.similarity(batch, z_hq)
        return self.timestep_of(batch["similarity"])

    def told_to_prior(self, lq: Tensor) -> Condition:
        # DIFFERS: the prior never saw visual tokens, so it is told the fixed prompt; the paper does not say.
        return Prompt(self.backbone)(lq, self.backbone)

    def own_losses(self, result: Restored, z_hq: Tensor, batch: Batch) -> Losses:
        if not self.weight("similarity"):
            return {}
        error = self.estimator(to_signed(batch["lq"])) - batch["similarity"]
        return {"similarity": self.weight("similarity") * terms.mean_of(error[:, None].square()).mean()}

    @torch.no_grad()
    def start(self, batches: Iterable[Batch]) -> None:
        """Measure the range of the similarity."""
        found = torch.cat([self.similarity(batch, self.encode_clean(to_signed(batch["hq"]))) for batch in batches])
        self.estimator.set_range(float(found.min()), float(found.max()))

    @torch.no_grad()
    def monitors(self, batch: Batch) -> dict[str, float]:
        similarity = self.similarity(batch, self.encode_clean(to_signed(batch["hq"])))
        guess = self.estimator(to_signed(batch["lq"]))
        return {
            "timestep": float(self.timestep_of(similarity).mean()),
            "similarity_error": float((guess - similarity).abs().mean()),
        }


class RCOD(Grouped, OSEDiff):
    """On OSEDiff, with visual prompts and, by ``vsd.sampling: tied``, degradation-aware sampling of the regulariser."""

    kept = Grouped.kept
