"""What every restoration method trains with: parts and adapters by name, losses, critics and a fake score."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from idas_sr import losses as terms
from idas_sr.methods.base import Method
from idas_sr.methods.distillation import Distillation
from idas_sr.methods.restoration_losses import DECODED, LATENT, RestorationLosses
from idas_sr.methods.task import Batch, Losses, to_signed, to_unit
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.latent_perceptual import load_latent_perceptual
from idas_sr.networks.lora import FAKE_SCORE, GENERATOR, LoraPart, add_lora, use_lora
from idas_sr.networks.store import lora_networks, save_parts
from idas_sr.resample import upsample
from idas_sr.types import Condition, Restored

RESTORATION = LATENT + DECODED
"""Terms that need the UNet; a stage without them trains the estimator alone, at a fraction of the cost."""
OF_BACKBONE = ("unet_lora", "vae_encoder_lora", "conv_in", "unet", "decoder")
"""Parts of the backbone that a method may train."""


class Restorer(Method):
    """A method whose generator trains named parts against distances, critics and a distilled prior.

    A subclass says where a latent is anchored, and may add losses of its own (``own_losses``), choose the position of
    training samples (``training_timestep``) or weigh a term by realism (``emphasis``).

    Args:
        estimator: network of the method's own beside the backbone, if it has one.
        weights: of the losses: latent, latent_l1, latent_perceptual, gan_latent, vsd; pixel, pixel_l2, grid, lines,
            lpips, feature, gan; reconstruction; and those of the subclass.
        train: names of the parts the generator trains: ``estimator``, ``conditioner`` (where they are networks),
            ``unet_lora``, ``vae_encoder_lora``, ``estimator_lora``, ``conv_in`` (of the UNet, in full), ``unet``,
            ``decoder``. The last is the autoencoder's: a decoder that has only seen latents of clean pictures prints
            the grid of its cells where a restored latent is not quite one. An encoder with an adapter encodes the
            low-quality picture only; targets, and with them every position, stay.
        unet_rank, vae_encoder_rank, estimator_rank, fake_score_rank: of the adapters.
        vsd: arguments of ``Distillation``.
        decode_crop: side, in latent cells, of the window that is decoded for the losses on pixels; None: all.
        latent_perceptual: run directory of configs/train/latent-perceptual.yaml, for the loss of that name.
        feature_distance: for the ``feature`` loss.
        lpips: for the loss of that name.

    Raises:
        ValueError: parts that exclude one another, an unknown one, or a rank other than that of the stage before.
        FileNotFoundError: there is no latent perceptual network.
    """

    def __init__(
        self,
        *parts: Any,
        estimator: nn.Module | None = None,
        weights: Mapping[str, float] | None = None,
        train: tuple[str, ...] = (),
        unet_rank: int = 16,
        vae_encoder_rank: int = 8,
        estimator_rank: int = 16,
        fake_score_rank: int = 16,
        vsd: Mapping[str, Any] | None = None,
        decode_crop: int | None = None,
        latent_perceptual: str | None = None,
        feature_distance: terms.FeatureDistance | None = None,
        lpips: terms.LearnedDistance | None = None,
    ) -> None:
        super().__init__(*parts)
        self.estimator = estimator
        self.weights, self.train_parts = dict(weights or {}), tuple(train)
        self.distillation = Distillation(**dict(vsd or {}))
        self.feature_distance = feature_distance
        perceptual = None
        if self.weight("latent_perceptual"):
            perceptual = load_latent_perceptual(latent_perceptual or "", self.backbone.latent_channels)
        self.restoration = RestorationLosses(
            self.backbone, self.weights, decode_crop, feature_distance, lpips, perceptual
        )
        self.own_prior = self._own_prior()
        ranks = {"unet_lora": unet_rank, "vae_encoder_lora": vae_encoder_rank, "estimator_lora": estimator_rank}
        self._add_adapters(ranks, fake_score_rank)

    def _own_prior(self) -> LatentBackbone | None:
        """A frozen copy of the UNet for critic and fake score, where its weights are trained and not an adapter."""
        if not (self.weight("gan_latent") or self.weight("vsd")) or not {"unet", "conv_in"} & set(self.train_parts):
            return None
        old = self.backbone
        prior = LatentBackbone(old.vae, copy.deepcopy(old.unet), old.prompt, old.schedule)
        prior.latents_mean, prior.latents_std = old.latents_mean, old.latents_std
        return prior

    def own_parts(self) -> dict[str, nn.Module]:
        """Name -> network that this method brings along and may train."""
        found = {"estimator": self.estimator, "conditioner": self.conditioner}
        return {name: part for name, part in found.items() if isinstance(part, nn.Module)}

    def trainable_parts(self) -> dict[str, nn.Module]:
        """Name -> network, or piece of one, that ``train`` may name beside the backbone's."""
        return self.own_parts()

    def _add_adapters(self, ranks: Mapping[str, int], fake_score_rank: int) -> None:
        parts = set(self.train_parts)
        networks = lora_networks(self.backbone, self.estimator)
        known = dict.fromkeys((*self.trainable_parts(), *OF_BACKBONE, *networks))
        unknown = sorted(parts - set(known))
        if unknown:
            raise ValueError(f"There is no part called {unknown[0]!r} to train; choose from {', '.join(known)}.")
        if "unet" in parts and parts & {"unet_lora", "conv_in"}:
            raise ValueError("train names unet and a part of it; train either the whole UNet or unet_lora and conv_in.")
        if {"estimator", "estimator_lora"} <= parts:
            raise ValueError("train names estimator and estimator_lora; train either the whole network or its adapter.")
        exclude = ("conv_in",) if "conv_in" in parts else ()
        # Outside the module tree: their layers are in the networks already.
        self._lora_parts: dict[str, LoraPart] = {}
        for name, network in networks.items():
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

    def restore(self, *args: Any, **kwargs: Any) -> Restored:
        self._switch_on()
        return super().restore(*args, **kwargs)

    def _switch_on(self) -> None:
        if self._lora_parts:
            for network in lora_networks(self.backbone, self.estimator).values():
                use_lora(network, GENERATOR)

    # ---- training ----

    def trainable(self) -> dict[str, list[nn.Module]]:
        unet, vae = self.backbone.unet, self.backbone.vae
        parts = {"unet": unet, "conv_in": unet.conv_in, "decoder": vae.decoder}
        parts |= self.trainable_parts() | self._lora_parts
        players: dict[str, list[nn.Module]] = {"generator": [parts[name] for name in self.train_parts]}
        if critics := self.restoration.critics():
            players["critic"] = critics
        if "fake_score" in self._lora_parts:
            players["fake_score"] = [self._lora_parts["fake_score"]]
        return players

    def realism(self, batch: Batch) -> Tensor:
        """(B,) realism of the training samples."""
        return torch.zeros_like(batch["uniform"][:, 0])

    def training_timestep(self, z_hq: Tensor, batch: Batch) -> Tensor | None:
        """(B,) positions of the training samples, or None: where ``anchor`` sets them down."""
        return None

    def losses(self, player: str, batch: Batch) -> Losses:
        if player == "generator":
            return self.generator_losses(batch)
        condition = self.told_to_prior(to_signed(batch["lq"]))
        if player == "critic":
            return self.restoration.of_critics(self.prior, condition.positive, batch)
        return {"fake_score": self.distillation.follow(self.prior, condition.positive.detach(), batch).mean()}

    def told_to_prior(self, lq: Tensor) -> Condition:
        """What critic, prior and fake score are told of a picture (B, 3, h, w)."""
        return self.conditioner(lq, self.backbone)

    @torch.no_grad()
    def encode_clean(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> latent (B, C, h, w), by the encoder without its adapter."""
        if "vae_encoder_lora" not in self._lora_parts:
            return self.backbone.encode(picture)
        use_lora(self.backbone.vae.encoder, None)
        z = self.backbone.encode(picture)
        use_lora(self.backbone.vae.encoder, GENERATOR)
        return z

    def generator_losses(self, batch: Batch) -> Losses:
        """Weighted losses of the generator's turn."""
        lq, hq = to_signed(batch["lq"]), to_signed(batch["hq"])
        z_hq, lq_up = self.encode_clean(hq), upsample(lq, self.scale)
        realism, decode = self.realism(batch), self.restoration.has(*DECODED)
        result = self.restore(
            lq,
            realism,
            batch["seed"].tolist(),
            decode=decode and self.restoration.decode_crop is None,
            timestep=self.training_timestep(z_hq, batch),
        )
        condition = self.told_to_prior(lq).detach()
        values = self.restoration.on_latents(self.prior, result, z_hq, condition.positive, batch)
        if self.weight("vsd"):
            batch |= {"z0": result.z0.detach(), "timestep": result.steered.timestep.detach()}
            values["vsd"] = self.distillation.distill(self.prior, result.z0, condition, batch)
        # Critic and prior have switched adapters; what is decoded, and the backward pass, need them as they were.
        self._switch_on()
        if decode:
            values |= self.restoration.on_pixels(self.backbone, result, hq, lq_up, batch)
        if self.weight("reconstruction"):
            # What a trained decoder must not forget: latents of clean pictures.
            values["reconstruction"] = terms.mean_of((self.backbone.decode(z_hq) - hq).abs())
        weighted = {
            name: self.weight(name) * (self.emphasis(name, realism) * value).mean()
            for name, value in values.items()
            if self.weight(name)
        }
        return self.own_losses(result, z_hq, batch) | weighted

    def emphasis(self, name: str, realism: Tensor) -> Tensor:
        """(B,) factor of the weight of a restoration loss, for training samples of this realism (B,)."""
        return torch.ones_like(realism)

    def own_losses(self, result: Restored, z_hq: Tensor, batch: Batch) -> Losses:
        """Already weighted losses that only this method has."""
        return {}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        restored = {}
        # A method without a dial is the same at every realism, and measured at the least.
        for realism in ("0", "0.5", "1") if self.steering.dial else ("0",):
            result = self.restore(to_signed(batch["lq"]), float(realism), batch["seed"].tolist())
            assert result.hq is not None
            restored[realism] = to_unit(result.hq)
        return restored

    @torch.no_grad()
    def grid(self, batch: Batch) -> Tensor:
        enlarged = to_unit(upsample(to_signed(batch["lq"]), self.scale))
        return torch.cat([enlarged, *self.validate(batch).values(), batch["hq"]])

    def save(self, folder: Path) -> None:
        save_parts(folder, self.backbone, **self.own_parts())
