"""IDaS-SR: MINE anchors, CHARIOT steers. Everything that distinguishes it from the other methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from idas_sr import losses as terms
from idas_sr.methods import positioning
from idas_sr.methods.restorer import RESTORATION, Restorer
from idas_sr.methods.task import Batch, Losses, draw, gathered, to_signed
from idas_sr.networks.mine import MINE, Estimate
from idas_sr.resample import upsample
from idas_sr.schedule import unsqueeze_like
from idas_sr.types import Anchor, Restored


class IDaSSR(Restorer):
    """One-step restoration from a predicted anchor.

    Args:
        estimator: MINE.
        train: as ``Restorer``'s, or ``severity``: MINE's severity head alone.
        target: positioning target: ``snr`` (P-A), ``perceptual`` (P-B, by ``feature_distance``), ``similarity`` (P-C).
        factor: c of P-A.
        zero_prob: share of training samples at realism 0; the others are uniform in [0, 1].
        at_realism_1: loss name -> factor of its weight at realism 1, linear in between.
        training: the other arguments of ``Restorer``. Further losses: positioning, ranking, severity_map (with P-A
            only), residual, deviation, calibration.

    Raises:
        ValueError: an unknown target, or what ``Restorer`` refuses.
        FileNotFoundError: there is no latent perceptual network.
    """

    estimator_class = MINE
    estimator: MINE

    def __init__(
        self,
        *parts: Any,
        estimator: MINE,
        train: tuple[str, ...] = ("estimator",),
        target: str = "snr",
        factor: float = 1.15,
        zero_prob: float = 1.0,
        at_realism_1: Mapping[str, float] | None = None,
        **training: Any,
    ) -> None:
        if {"estimator", "severity"} <= set(train):
            raise ValueError("train names estimator and severity, which is a piece of it; name one of the two.")
        super().__init__(*parts, estimator=estimator, train=train, **training)
        if target not in ("snr", "perceptual", "similarity"):
            raise ValueError(f"target must be snr, perceptual or similarity, not {target!r}.")
        self.target, self.factor = target, factor
        self.zero_prob, self.at_realism_1 = zero_prob, dict(at_realism_1 or {})

    # ---- the method ----

    def anchor(self, lq: Tensor, z_lq: Tensor, timestep: Tensor | None = None) -> Anchor:
        return self.declare(self.estimator(lq, z_lq), timestep)

    def severity_map(self, lq: Tensor, z_lq: Tensor) -> Tensor:
        return self.estimator.severity_map(lq, z_lq)

    def anchor_tile(self, lq: Tensor, z_lq: Tensor, severity: Tensor) -> Anchor:
        return self.declare(self.estimator(lq, z_lq, severity=severity))

    def declare(self, estimate: Estimate, timestep: Tensor | None = None) -> Anchor:
        """MINE's words as an anchor: the level becomes a timestep, by the schedule's inverse."""
        if timestep is None:
            timestep = self.backbone.schedule.timestep_of(estimate.log_sigma.exp())
        return Anchor(
            timestep,
            estimate.noise,
            estimate.deviation,
            estimate.residual,
            estimate.control,
            estimate.power,
            estimate.spread,
        )

    # ---- training ----

    def trainable_parts(self) -> dict[str, nn.Module]:
        return self.own_parts() | {"severity": self.estimator.severity}

    def realism(self, batch: Batch) -> Tensor:
        return torch.where(draw(batch, 0) < self.zero_prob, torch.zeros_like(draw(batch, 1)), draw(batch, 1))

    def generator_losses(self, batch: Batch) -> Losses:
        if self.restoration.has(*RESTORATION):
            return super().generator_losses(batch)
        lq = to_signed(batch["lq"])
        z_hq = self.encode_clean(to_signed(batch["hq"]))
        with torch.no_grad():
            z_lq = self.backbone.encode(upsample(lq, self.scale))
        return self._anchor_losses(self.anchor(lq, z_lq), z_lq, z_hq, batch)

    def own_losses(self, result: Restored, z_hq: Tensor, batch: Batch) -> Losses:
        return self._anchor_losses(result.anchor, result.z_lq.detach(), z_hq, batch)

    def emphasis(self, name: str, realism: Tensor) -> Tensor:
        return 1 + realism * (self.at_realism_1.get(name, 1.0) - 1)

    def _anchor_losses(self, anchor: Anchor, z_lq: Tensor, z_hq: Tensor, batch: Batch) -> Losses:
        target = self._clipped_target(z_lq, z_hq, batch).log()
        log_sigma = self.backbone.schedule.log_sigma(anchor.timestep).float()
        deviation = z_lq - z_hq
        left = deviation if anchor.deviation is None else deviation - anchor.deviation
        assert anchor.residual is not None and anchor.noise is not None and anchor.power is not None
        sigma = unsqueeze_like(log_sigma.detach().exp(), z_lq)
        values = {
            "positioning": terms.huber(log_sigma, target),
            # Pairs over all processes.
            "ranking": terms.ranking(gathered(log_sigma), gathered(target)),
            "severity_map": terms.power_likelihood(anchor.power, self.factor * deviation),
            "deviation": terms.mean_of(left.abs()),
            # As shares of the declared level, so that severe pictures do not dominate.
            "residual": ((anchor.residual - positioning.rms(left.detach())) * (-log_sigma.detach()).exp()).abs(),
            "calibration": terms.calibration(left / sigma + anchor.noise),
        }
        return {name: self.weight(name) * value.mean() for name, value in values.items() if self.weight(name)}

    @torch.no_grad()
    def position_target(self, z_lq: Tensor, z_hq: Tensor, batch: Batch) -> Tensor:
        """w* (B,) of training pairs, not yet clipped."""
        if self.target == "snr":
            return positioning.snr_matching(z_lq, z_hq, self.factor)
        if self.target == "similarity":
            quantiles = torch.tensor(self.estimator.config["similarity_quantiles"]).to(z_lq)
            return positioning.similarity_rank(z_lq, z_hq, quantiles, self.backbone.schedule)
        assert self.feature_distance is not None
        distance = self.feature_distance(upsample(to_signed(batch["lq"]), self.scale), to_signed(batch["hq"]))
        return positioning.perceptual(distance / (1 + len(self.feature_distance.layers)), self.backbone.schedule)

    def _clipped_target(self, z_lq: Tensor, z_hq: Tensor, batch: Batch) -> Tensor:
        low, high = self.estimator.config["sigma_min"], self.estimator.config["sigma_max"]
        return self.position_target(z_lq, z_hq, batch).clamp(low, high)

    @torch.no_grad()
    def start(self, batches: Iterable[Batch]) -> None:
        if "estimator" not in self.train_parts or any(self.weight(name) for name in RESTORATION):
            return
        pairs = [
            (
                self.backbone.encode(upsample(to_signed(batch["lq"]), self.scale)),
                self.encode_clean(to_signed(batch["hq"])),
                batch,
            )
            for batch in batches
        ]
        distances = torch.cat([1 - positioning.similarity(z_lq, z_hq) for z_lq, z_hq, _ in pairs])
        self.estimator.set_similarity_quantiles(distances.quantile(torch.linspace(0, 1, 101).to(distances)))
        levels = torch.cat([self.position_target(*pair) for pair in pairs])
        self.estimator.set_range(float(levels.quantile(0.01)), float(levels.quantile(0.99)))

    @torch.no_grad()
    def monitors(self, batch: Batch) -> dict[str, float]:
        lq, hq = to_signed(batch["lq"]), to_signed(batch["hq"])
        z_hq = self.encode_clean(hq)
        z_lq = self.backbone.encode(upsample(lq, self.scale))
        anchor = self.anchor(lq, z_lq)
        target = self._clipped_target(z_lq, z_hq, batch)
        sigma = self.backbone.schedule.sigma(anchor.timestep)
        center = z_lq if anchor.deviation is None else z_lq - anchor.deviation
        assert anchor.noise is not None
        state = center + unsqueeze_like(sigma, center) * anchor.noise
        return {
            "t_hat": float(anchor.timestep.mean()),
            "t_hat_std": float(anchor.timestep.std(correction=0)),
            "log_sigma_error": float((sigma.log() - target.log()).abs().mean()),
            "rms_deviation": float(positioning.rms(z_lq - z_hq).mean()),
            "rms_residual": float(positioning.rms(center - z_hq).mean()),
            "gap_0": float((positioning.rms(state - z_hq) / sigma).log().mean()),
        }
