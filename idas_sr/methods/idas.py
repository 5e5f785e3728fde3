"""IDaS-SR: MINE anchors, CHARIOT steers. Everything that distinguishes it from the other methods."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from idas_sr import losses as terms
from idas_sr.methods import distillation, positioning
from idas_sr.methods.base import Method
from idas_sr.methods.restoration_losses import DECODED, LATENT, RestorationLosses
from idas_sr.methods.task import Batch, Losses, draw, gathered, to_signed, to_unit
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.latent_perceptual import load_latent_perceptual
from idas_sr.networks.lora import FAKE_SCORE, GENERATOR, LoraPart, add_lora, use_lora
from idas_sr.networks.mine import MINE, Estimate
from idas_sr.networks.store import lora_networks, save_parts
from idas_sr.resample import upsample
from idas_sr.schedule import unsqueeze_like
from idas_sr.types import Anchor, Restored

RESTORATION = LATENT + DECODED
"""Terms that need the UNet; a stage without them trains MINE alone, at a fraction of the cost."""


class IDaSSR(Method):
    """One-step restoration from a predicted anchor.

    Args:
        estimator: MINE.
        weights: of the losses: positioning, ranking, severity_map (with P-A only), residual, deviation, calibration;
            latent, latent_l1, latent_perceptual, gan_latent, vsd; pixel, pixel_l2, grid, lpips, feature, gan;
            reconstruction.
        train: names of the parts the generator trains: ``estimator``, ``unet_lora``, ``vae_encoder_lora``, ``conv_in``
            (of the UNet, in full), ``unet``, ``decoder``. The last is the autoencoder's: a decoder that has only seen
            latents of clean pictures prints the grid of its cells where a restored latent is not quite one. An encoder
            with an adapter encodes the low-quality picture only; targets, and with them every position, stay.
        unet_rank, vae_encoder_rank, fake_score_rank: of the adapters.
        target: positioning target: ``snr`` (P-A), ``perceptual`` (P-B), ``similarity`` (P-C).
        factor: c of P-A.
        zero_prob: share of training samples at realism 0; the others are uniform in [0, 1].
        at_realism_1: loss name -> factor of its weight at realism 1, linear in between.
        decode_crop: side, in latent cells, of the window that is decoded for the losses on pixels; None: all.
        latent_perceptual: run directory of configs/train/latent-perceptual.yaml, for the loss of that name.
        feature_distance: for the ``feature`` loss and for P-B, which takes its mean over layers in place of LPIPS.
        lpips: for the loss of that name.

    Raises:
        ValueError: parts that exclude one another, an unknown one, or a rank other than that of the stage before.
        FileNotFoundError: there is no latent perceptual network.
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
        unet_rank: int = 16,
        vae_encoder_rank: int = 8,
        fake_score_rank: int = 16,
        decode_crop: int | None = None,
        latent_perceptual: str | None = None,
        feature_distance: terms.FeatureDistance | None = None,
        lpips: terms.LearnedDistance | None = None,
    ) -> None:
        super().__init__(*parts)
        if target not in ("snr", "perceptual", "similarity"):
            raise ValueError(f"target must be snr, perceptual or similarity, not {target!r}.")
        self.estimator = estimator
        self.weights, self.train_parts, self.target = dict(weights or {}), tuple(train), target
        self.factor, self.zero_prob, self.at_realism_1 = factor, zero_prob, dict(at_realism_1 or {})
        self.feature_distance = feature_distance
        perceptual = None
        if self.weight("latent_perceptual"):
            perceptual = load_latent_perceptual(latent_perceptual or "", self.backbone.latent_channels)
        self.restoration = RestorationLosses(
            self.backbone, self.weights, decode_crop, feature_distance, lpips, perceptual
        )
        self.own_prior = self._own_prior()
        self._add_adapters({"unet_lora": unet_rank, "vae_encoder_lora": vae_encoder_rank}, fake_score_rank)

    def _own_prior(self) -> LatentBackbone | None:
        """A frozen copy of the UNet for critic and fake score, where its weights are trained and not an adapter."""
        if not (self.weight("gan_latent") or self.weight("vsd")) or not {"unet", "conv_in"} & set(self.train_parts):
            return None
        old = self.backbone
        statistics = (old.latents_mean.flatten().tolist(), old.latents_std.flatten().tolist())
        return LatentBackbone(old.vae, copy.deepcopy(old.unet), old.prompt, old.schedule, *statistics)

    def _add_adapters(self, ranks: Mapping[str, int], fake_score_rank: int) -> None:
        parts = set(self.train_parts)
        known = ("estimator", "unet_lora", "vae_encoder_lora", "conv_in", "unet", "decoder")
        unknown = sorted(parts - set(known))
        if unknown:
            raise ValueError(f"There is no part called {unknown[0]!r} to train; choose from {', '.join(known)}.")
        if "unet" in parts and parts & {"unet_lora", "conv_in"}:
            raise ValueError("train names unet and a part of it; train either the whole UNet or unet_lora and conv_in.")
        exclude = ("conv_in",) if "conv_in" in parts else ()
        # Outside the module tree: their layers are in the networks already.
        self._lora_parts: dict[str, LoraPart] = {}
        for name, network in lora_networks(self.backbone).items():
            if name in parts:
                add_lora(network, GENERATOR, ranks[name], exclude)
                self._lora_parts[name] = LoraPart(network, GENERATOR, name)
        if self.weight("vsd"):
            add_lora(self.prior.unet, FAKE_SCORE, fake_score_rank)
            self._lora_parts["fake_score"] = LoraPart(self.prior.unet, FAKE_SCORE, "fake_score")

    @property
    def prior(self) -> LatentBackbone:
        """The backbone as it was before training; what adapters add is switched off by who asks it."""
        return self.backbone if self.own_prior is None else self.own_prior

    # ---- the method ----

    def anchor(self, lq: Tensor, z_lq: Tensor) -> Anchor:
        return self.declare(self.estimator(lq, z_lq))

    def severity_map(self, lq: Tensor, z_lq: Tensor) -> Tensor:
        return self.estimator.severity_map(lq, z_lq)

    def anchor_tile(self, lq: Tensor, z_lq: Tensor, severity: Tensor) -> Anchor:
        return self.declare(self.estimator(lq, z_lq, severity=severity))

    def declare(self, estimate: Estimate) -> Anchor:
        """MINE's words as an anchor: the level becomes a timestep, by the schedule's inverse."""
        timestep = self.backbone.schedule.timestep_of(estimate.log_sigma.exp())
        return Anchor(timestep, estimate.noise, estimate.deviation, estimate.residual, estimate.control, estimate.power)

    def restore(self, *args: Any, **kwargs: Any) -> Restored:
        self._switch_on()
        return super().restore(*args, **kwargs)

    def _switch_on(self) -> None:
        if self._lora_parts:
            for network in lora_networks(self.backbone).values():
                use_lora(network, GENERATOR)

    # ---- training ----

    def trainable(self) -> dict[str, list[nn.Module]]:
        unet, vae = self.backbone.unet, self.backbone.vae
        parts = {"estimator": self.estimator, "unet": unet, "conv_in": unet.conv_in, "decoder": vae.decoder}
        parts |= self._lora_parts
        players: dict[str, list[nn.Module]] = {"generator": [parts[name] for name in self.train_parts]}
        if critics := self.restoration.critics():
            players["critic"] = critics
        if "fake_score" in self._lora_parts:
            players["fake_score"] = [self._lora_parts["fake_score"]]
        return players

    def realism(self, batch: Batch) -> Tensor:
        """(B,) realism of the training samples."""
        return torch.where(draw(batch, 0) < self.zero_prob, torch.zeros_like(draw(batch, 1)), draw(batch, 1))

    def losses(self, player: str, batch: Batch) -> Losses:
        if player == "generator":
            return self._generator_losses(batch)
        tokens = self.conditioner(to_signed(batch["lq"]), self.backbone).positive
        if player == "critic":
            return self.restoration.of_critics(self.prior, tokens, batch)
        return {"fake_score": distillation.follow(self.prior, tokens, batch).mean()}

    @torch.no_grad()
    def encode_clean(self, hq: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> latent target (B, C, h, w), by the encoder without its adapter."""
        if "vae_encoder_lora" not in self._lora_parts:
            return self.backbone.encode(hq)
        use_lora(self.backbone.vae.encoder, None)
        z_hq = self.backbone.encode(hq)
        use_lora(self.backbone.vae.encoder, GENERATOR)
        return z_hq

    def _generator_losses(self, batch: Batch) -> Losses:
        lq, hq = to_signed(batch["lq"]), to_signed(batch["hq"])
        z_hq, lq_up = self.encode_clean(hq), upsample(lq, self.scale)
        if not self.restoration.has(*RESTORATION):
            with torch.no_grad():
                z_lq = self.backbone.encode(lq_up)
            return self._anchor_losses(self.anchor(lq, z_lq), z_lq, z_hq, batch)
        realism, decode = self.realism(batch), self.restoration.has(*DECODED)
        is_whole = self.restoration.decode_crop is None
        result = self.restore(lq, realism, batch["seed"].tolist(), decode=decode and is_whole)
        tokens = self.conditioner(lq, self.backbone).positive.detach()
        values = self.restoration.on_latents(self.prior, result, z_hq, tokens, batch)
        if self.weight("vsd"):
            batch |= {"z0": result.z0.detach(), "timestep": result.steered.timestep.detach()}
            values["vsd"] = distillation.distill(self.prior, result.z0, tokens, batch)
        # Critic and prior have switched adapters; what is decoded, and the backward pass, need them as they were.
        self._switch_on()
        if decode:
            values |= self.restoration.on_pixels(self.backbone, result, hq, lq_up, batch)
        if self.weight("reconstruction"):
            # What a trained decoder must not forget: latents of clean pictures.
            values["reconstruction"] = terms.mean_of((self.backbone.decode(z_hq) - hq).abs())
        anchor_losses = self._anchor_losses(result.anchor, result.z_lq.detach(), z_hq, batch)
        return anchor_losses | self._weighted(values, realism)

    def _weighted(self, values: dict[str, Tensor], realism: Tensor) -> Losses:
        out = {}
        for name, value in values.items():
            if self.weight(name):
                factor = 1 + realism * (self.at_realism_1.get(name, 1.0) - 1)
                out[name] = self.weight(name) * (factor * value).mean()
        return out

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

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        restored = {}
        for realism in ("0", "0.5", "1"):
            result = self.restore(to_signed(batch["lq"]), float(realism), batch["seed"].tolist())
            assert result.hq is not None
            restored[realism] = to_unit(result.hq)
        return restored

    @torch.no_grad()
    def grid(self, batch: Batch) -> Tensor:
        enlarged = to_unit(upsample(to_signed(batch["lq"]), self.scale))
        return torch.cat([enlarged, *self.validate(batch).values(), batch["hq"]])

    def save(self, folder: Path) -> None:
        save_parts(folder, self.backbone, self.estimator)
