"""IDaS-SR: MINE anchors, CHARIOT steers. Everything that distinguishes it from the other methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from idas_sr import losses as terms
from idas_sr.methods import positioning
from idas_sr.methods.base import Method
from idas_sr.methods.task import Batch, Losses, draw, to_signed, to_unit
from idas_sr.networks.critic import PixelCritic
from idas_sr.networks.mine import MINE, Estimate
from idas_sr.networks.store import save_parts
from idas_sr.resample import upsample
from idas_sr.schedule import unsqueeze_like
from idas_sr.types import Anchor, Restored

RESTORATION = ("latent", "pixel", "feature", "gan")
"""Terms that need the UNet; a stage without them trains MINE alone, at a fraction of the cost."""


class IDaSSR(Method):
    """One-step restoration from a predicted anchor.

    Args:
        estimator: MINE.
        weights: of the losses: positioning, ranking, severity_map (with P-A only), residual, deviation, calibration;
            latent, pixel, feature, gan.
        train: names of the parts the generator trains: ``estimator``, ``unet``.
        target: positioning target: ``snr`` (P-A), ``perceptual`` (P-B), ``similarity`` (P-C).
        factor: c of P-A.
        zero_prob: share of training samples at realism 0; the others are uniform in [0, 1].
        at_realism_1: loss name -> factor of its weight at realism 1, linear in between.
        feature_distance: for the ``feature`` loss and for P-B, which takes its mean over layers in place of LPIPS.
    """

    def __init__(
        self,
        *parts: Any,
        estimator: MINE,
        weights: Mapping[str, float] | None = None,
        train: tuple[str, ...] = ("estimator",),
        target: str = "snr",
        factor: float = 1.15,
        zero_prob: float = 1.0,
        at_realism_1: Mapping[str, float] | None = None,
        feature_distance: terms.FeatureDistance | None = None,
    ) -> None:
        super().__init__(*parts)
        if target not in ("snr", "perceptual", "similarity"):
            raise ValueError(f"target must be snr, perceptual or similarity, not {target!r}.")
        self.estimator = estimator
        self.weights, self.train_parts, self.target = dict(weights or {}), tuple(train), target
        self.factor, self.zero_prob, self.at_realism_1 = factor, zero_prob, dict(at_realism_1 or {})
        self.feature_distance = feature_distance
        self.critic = PixelCritic() if self.weight("gan") else None

    # ---- the method ----

    def anchor(self, lq: Tensor, z_lq: Tensor) -> Anchor:
        return self.declare(self.estimator(lq, z_lq))

    def declare(self, estimate: Estimate) -> Anchor:
        """MINE's words as an anchor: the level becomes a timestep, by the schedule's inverse."""
        timestep = self.backbone.schedule.timestep_of(estimate.log_sigma.exp())
        return Anchor(timestep, estimate.noise, estimate.deviation, estimate.residual, estimate.control, estimate.power)

    # ---- training ----

    def trainable(self) -> dict[str, list[nn.Module]]:
        parts = {
            "estimator": self.estimator,
            "unet": self.backbone.unet,
        }
        players: dict[str, list[nn.Module]] = {"generator": [parts[name] for name in self.train_parts]}
        if self.critic is not None:
            players["critic"] = [self.critic]
        return players

    def realism(self, batch: Batch) -> Tensor:
        """(B,) realism of the training samples."""
        return torch.where(draw(batch, 0) < self.zero_prob, torch.zeros_like(draw(batch, 1)), draw(batch, 1))

    def losses(self, player: str, batch: Batch) -> Losses:
        return self._critic_losses(batch) if player == "critic" else self._generator_losses(batch)

    def _generator_losses(self, batch: Batch) -> Losses:
        lq, hq = to_signed(batch["lq"]), to_signed(batch["hq"])
        with torch.no_grad():
            z_hq = self.backbone.encode(hq)
        if not any(self.weight(name) for name in RESTORATION):
            with torch.no_grad():
                z_lq = self.backbone.encode(upsample(lq, self.scale))
            return self._anchor_losses(self.anchor(lq, z_lq), z_lq, z_hq, batch)
        realism = self.realism(batch)
        decode = any(self.weight(name) for name in ("pixel", "feature", "gan"))
        result = self.restore(lq, realism, batch["seed"].tolist(), decode=decode)
        values = {"latent": terms.mean_of((result.z0 - z_hq).square())}
        if result.hq is not None:
            values |= self._pixel_losses(result, hq, lq, batch)
        return self._anchor_losses(result.anchor, result.z_lq, z_hq, batch) | self._weighted(values, realism)

    def _weighted(self, values: dict[str, Tensor], realism: Tensor) -> Losses:
        out = {}
        for name, value in values.items():
            if self.weight(name):
                factor = 1 + realism * (self.at_realism_1.get(name, 1.0) - 1)
                out[name] = self.weight(name) * (factor * value).mean()
        return out

    def _pixel_losses(self, result: Restored, hq: Tensor, lq: Tensor, batch: Batch) -> dict[str, Tensor]:
        assert result.hq is not None
        values = {"pixel": terms.mean_of((result.hq - hq).abs())}
        if self.weight("feature") and self.feature_distance is not None:
            # One offset for the whole batch, another one each step: up to a cell of the coarsest features.
            offset = (int(batch["uniform"][0, 2] * 16), int(batch["uniform"][0, 3] * 16))
            values["feature"] = self.feature_distance(result.hq, hq, offset)
        if self.critic is not None:
            lq_up = upsample(lq, self.scale)
            values["gan"] = terms.hinge_generator(self.critic(result.hq, lq_up))
            # For the critic's turn on this batch.
            batch["fake"], batch["lq_up"] = result.hq.detach(), lq_up
        return values

    def _critic_losses(self, batch: Batch) -> Losses:
        assert self.critic is not None
        real = self.critic(to_signed(batch["hq"]), batch["lq_up"])
        return {"critic": terms.hinge_critic(real, self.critic(batch["fake"], batch["lq_up"])).mean()}

    def _anchor_losses(self, anchor: Anchor, z_lq: Tensor, z_hq: Tensor, batch: Batch) -> Losses:
        target = self._clipped_target(z_lq, z_hq, batch).log()
        log_sigma = self.backbone.schedule.log_sigma(anchor.timestep).float()
        deviation = z_lq - z_hq
        left = deviation if anchor.deviation is None else deviation - anchor.deviation
        assert anchor.residual is not None and anchor.noise is not None and anchor.power is not None
        sigma = unsqueeze_like(log_sigma.detach().exp(), z_lq)
        values = {
            "positioning": terms.huber(log_sigma, target),
            "ranking": terms.ranking(log_sigma, target),
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
                self.backbone.encode(to_signed(batch["hq"])),
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
        z_hq = self.backbone.encode(hq)
        z_lq = self.backbone.encode(upsample(lq, self.scale))
        anchor = self.anchor(lq, z_lq)
        target = self._clipped_target(z_lq, z_hq, batch)
        sigma = self.backbone.schedule.sigma(anchor.timestep)
        center = z_lq if anchor.deviation is None else z_lq - anchor.deviation
        assert anchor.noise is not None
        state = center + unsqueeze_like(sigma, center) * anchor.noise
        return {
            "t_hat": float(anchor.timestep.mean()),
            "t_hat_std": float(anchor.timestep.std()),
            "log_sigma_error": float((sigma.log() - target.log()).abs().mean()),
            "rms_deviation": float(positioning.rms(z_lq - z_hq).mean()),
            "rms_residual": float(positioning.rms(center - z_hq).mean()),
            "gap_0": float((positioning.rms(state - z_hq) / sigma).log().mean()),
        }

    @torch.no_grad()
    def grid(self, batch: Batch) -> Tensor:
        lq, hq = to_signed(batch["lq"]), to_signed(batch["hq"])
        rows = [upsample(lq, self.scale)]
        for realism in (0.0, 0.5, 1.0):
            result = self.restore(lq, realism, batch["seed"].tolist())
            assert result.hq is not None
            rows.append(result.hq)
        return torch.cat([to_unit(row) for row in (*rows, hq)])

    def save(self, folder: Path) -> None:
        save_parts(folder, self.backbone, self.estimator)
