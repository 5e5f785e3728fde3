"""The two stages that make the compact backbone: its autoencoder and its denoising prior."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from idas_sr.methods.stages import BackboneTask
from idas_sr.methods.task import Batch, Losses, channel_statistics, draw, to_signed, to_unit
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.pca import start_from_pca
from idas_sr.noise import canvas_noise
from idas_sr.resample import upsample
from idas_sr.schedule import unsqueeze_like


class AutoencoderTask(BackboneTask):
    """Stage 0: reconstruct photographs (L1) from latents that carry a little noise, so that the decoder forgives some.

    Args:
        backbone: its ``vae`` is trained.
        weights: ``pixel`` (L1), ``scale`` (pulls the raw latents' second moment to ``raw_std``^2; the autoencoder's own
            soft clamp at 3 bends larger ones).
        latent_noise: standard deviation of the noise on the raw latents.
        raw_std: aimed-at standard deviation of the raw latents.
        exponent: spectrum of the start, see ``start_from_pca``.
    """

    def __init__(
        self,
        backbone: LatentBackbone,
        weights: Mapping[str, float],
        latent_noise: float = 0.01,
        raw_std: float = 0.5,
        exponent: float = 0.5,
    ) -> None:
        super().__init__(backbone, weights)
        self.latent_noise, self.raw_std, self.exponent = latent_noise, raw_std, exponent

    def trainable(self) -> dict[str, list[nn.Module]]:
        return {"generator": [self.backbone.vae]}

    def start(self, batches: Iterable[Batch]) -> None:
        images = to_signed(torch.cat([batch["hq"] for batch in batches]))
        start_from_pca(self.backbone.vae, images, self.backbone.unshuffle, self.raw_std, self.exponent)

    def losses(self, player: str, batch: Batch) -> Losses:
        image = to_signed(batch["hq"])
        raw = self.backbone.encode_raw(image)
        noise = canvas_noise(batch["seed"].tolist(), (raw.shape[1], raw.shape[2], raw.shape[3])).to(raw)
        decoded = self.backbone.decode_raw(raw + self.latent_noise * noise)
        spread = raw.square().mean((0, 2, 3)).clamp_min(1e-8).log() - 2 * torch.tensor(self.raw_std).log().to(raw)
        return {
            "pixel": self.weight("pixel") * (decoded - image).abs().mean(),
            "scale": self.weight("scale") * spread.square().mean(),
        }

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return {"0": to_unit(self.backbone.decode_raw(self.backbone.encode_raw(to_signed(batch["hq"]))))}

    @torch.no_grad()
    def monitors(self, batch: Batch) -> dict[str, float]:
        image = to_signed(batch["hq"])
        error = to_unit(self.backbone.decode_raw(self.backbone.encode_raw(image))) - batch["hq"]
        return {"psnr": float(-10 * error.square().mean((1, 2, 3)).clamp_min(1e-10).log10().mean())}

    @torch.no_grad()
    def grid(self, batch: Batch) -> Tensor:
        image = to_signed(batch["hq"])
        return torch.cat([to_unit(self.backbone.decode_raw(self.backbone.encode_raw(image))), batch["hq"]])

    @torch.no_grad()
    def finish(self, batches: Iterable[Batch]) -> None:
        self.backbone.set_statistics(
            *channel_statistics(self.backbone.encode_raw(to_signed(batch["hq"])) for batch in batches)
        )


class PriorTask(BackboneTask):
    """Stage 1: the small stand-in for a text-to-image prior: predict the noise in noised latents.

    It is told `clean` for latents of photographs, `degraded` for latents of upsampled low-quality ones and `none` for
    either, so that guidance between the prompts means something on this backbone too.

    Args:
        backbone: its ``unet`` and ``prompt`` are trained.
        weights: ``noise`` (squared error of epsilon).
        t_min, t_max: range of the uniformly drawn timesteps.
        degraded_prob, none_prob: shares of samples.
    """

    def __init__(
        self,
        backbone: LatentBackbone,
        weights: Mapping[str, float],
        t_min: float = 0.0,
        t_max: float = 999.0,
        degraded_prob: float = 0.2,
        none_prob: float = 0.1,
    ) -> None:
        super().__init__(backbone, weights)
        self.t_min, self.t_max = t_min, t_max
        self.degraded_prob, self.none_prob = degraded_prob, none_prob

    def trainable(self) -> dict[str, list[nn.Module]]:
        return {"generator": [self.backbone.unet, self.backbone.prompt]}

    def _noised(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        degraded = (draw(batch, 1) < self.degraded_prob).reshape(-1, 1, 1, 1)
        scale = batch["hq"].shape[-1] // batch["lq"].shape[-1]
        with torch.no_grad():
            z0 = self.backbone.encode(
                torch.where(degraded, upsample(to_signed(batch["lq"]), scale), to_signed(batch["hq"]))
            )
        timestep = draw(batch, 0, self.t_min, self.t_max)
        noise = canvas_noise(batch["seed"].tolist(), (z0.shape[1], z0.shape[2], z0.shape[3])).to(z0)
        signal, amplitude, _ = (unsqueeze_like(c, z0) for c in self.backbone.schedule.coef(timestep))
        count = len(z0)
        tokens = torch.where(
            degraded.reshape(-1, 1, 1), self.backbone.embed("degraded", count), self.backbone.embed("clean", count)
        )
        unnamed = (draw(batch, 2) < self.none_prob).reshape(-1, 1, 1)
        return (
            z0,
            signal * z0 + amplitude * noise,
            noise,
            timestep,
            torch.where(unnamed, self.backbone.embed("none", count), tokens),
        )

    def losses(self, player: str, batch: Batch) -> Losses:
        _, z_t, noise, timestep, tokens = self._noised(batch)
        return {
            "noise": self.weight("noise") * (self.backbone.predict_eps(z_t, timestep, tokens) - noise).square().mean()
        }

    @torch.no_grad()
    def grid(self, batch: Batch) -> Tensor:
        z0, z_t, _, timestep, tokens = self._noised(batch)
        signal, amplitude, _ = (unsqueeze_like(c, z0) for c in self.backbone.schedule.coef(timestep))
        estimate = (z_t - amplitude * self.backbone.predict_eps(z_t, timestep, tokens)) / signal
        return torch.cat([to_unit(self.backbone.decode(z)) for z in (z_t / signal, estimate, z0)])
