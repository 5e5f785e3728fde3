"""Losses of a restored picture: distances to the clean one, on latents and on decoded pixels, and two critics."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from idas_sr import losses as terms
from idas_sr.methods.task import Batch, Losses, shared_draw, to_signed
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.critic import LatentCritic, PixelCritic
from idas_sr.networks.latent_perceptual import LatentPerceptual
from idas_sr.networks.lora import use_lora
from idas_sr.types import Restored

DECODED = ("pixel", "pixel_l2", "grid", "lines", "lpips", "feature", "gan")
"""Terms that look at the decoded picture."""
LATENT = ("latent", "latent_l1", "latent_perceptual", "gan_latent", "vsd")
"""Terms that look at the restored latent."""
SHIFT = 8
"""Pixels: a cell of the pixel critic."""


class RestorationLosses(nn.Module):
    """Computes the terms that have a weight, and holds what they need and nothing else.

    Args:
        backbone: its sizes only; it is given again with every call and is no part of this module.
        weights: term -> weight.
        decode_crop: side, in latent cells, of the random window that is decoded for the terms on pixels; None: all.
        feature_distance, lpips, latent_perceptual: networks of the terms ``feature``, ``lpips``, ``latent_perceptual``.

    Raises:
        ValueError: a term has a weight and its network is missing.
    """

    def __init__(
        self,
        backbone: LatentBackbone,
        weights: Mapping[str, float],
        decode_crop: int | None = None,
        feature_distance: terms.FeatureDistance | None = None,
        lpips: terms.LearnedDistance | None = None,
        latent_perceptual: LatentPerceptual | None = None,
    ) -> None:
        super().__init__()
        self.weights, self.decode_crop, self.downsample = weights, decode_crop, backbone.downsample
        self.feature_distance, self.lpips, self.latent_perceptual = feature_distance, lpips, latent_perceptual
        for name in ("feature_distance", "lpips", "latent_perceptual"):
            if self.has(name.removesuffix("_distance")) and getattr(self, name) is None:
                raise ValueError(f"loss.{name.removesuffix('_distance')} has a weight, but {name} was not given.")
        self.critic = PixelCritic() if self.has("gan") else None
        self.latent_critic = (
            LatentCritic(backbone.latent_channels, backbone.feature_channels) if self.has("gan_latent") else None
        )

    def has(self, *names: str) -> bool:
        """Whether any of these terms has a weight."""
        return any(self.weights.get(name) for name in names)

    def critics(self) -> list[nn.Module]:
        """The critics that were built."""
        return [critic for critic in (self.critic, self.latent_critic) if critic is not None]

    # ---- the generator's turn ----

    def on_latents(self, prior: LatentBackbone, result: Restored, z_hq: Tensor, tokens: Tensor, batch: Batch) -> Losses:
        """Term -> values (B,), not weighted. Leaves what the latent critic needs in ``batch``."""
        error, values = result.z0 - z_hq, {}
        if self.has("latent"):
            values["latent"] = terms.mean_of(error.square())
        if self.has("latent_l1"):
            values["latent_l1"] = terms.mean_of(error.abs())
        if self.latent_perceptual is not None:
            values["latent_perceptual"] = self.latent_perceptual(result.z0, z_hq)
        if self.latent_critic is not None:
            timestep, z_lq = result.steered.timestep.detach(), result.z_lq.detach()
            values["gan_latent"] = terms.at_once(
                lambda z: terms.hinge_generator(self._judge(prior, z, z_lq, timestep, tokens)), result.z0
            )
            batch |= {"z0": result.z0.detach(), "z_lq": z_lq, "z_hq": z_hq, "timestep": timestep}
        return values

    def on_pixels(self, backbone: LatentBackbone, result: Restored, hq: Tensor, lq_up: Tensor, batch: Batch) -> Losses:
        """Term -> values (B,), not weighted. Leaves what the pixel critic needs in ``batch``."""
        picture = backbone.decode(self.window(result.z0, batch)) if result.hq is None else result.hq
        hq, values = self.window(hq, batch, self.downsample), {}
        if self.has("pixel"):
            values["pixel"] = terms.mean_of((picture - hq).abs())
        if self.has("pixel_l2"):
            values["pixel_l2"] = terms.mean_of((picture - hq).square())
        if self.has("grid"):
            values["grid"] = terms.grid(picture - hq)
        if self.has("lines"):
            values["lines"] = terms.lines(picture, hq)
        if self.lpips is not None:
            values["lpips"] = self.lpips(picture, hq)
        if self.has("feature") and self.feature_distance is not None:
            # One offset for the whole batch, another one each step: up to a cell of the coarsest features.
            offset = (int(shared_draw(batch, 2) * 16), int(shared_draw(batch, 3) * 16))
            values["feature"] = self.feature_distance(picture, hq, offset)
        if self.critic is not None:
            lq_up = self.window(lq_up, batch, self.downsample)
            values["gan"] = terms.hinge_generator(self.critic(_shifted(picture, batch), _shifted(lq_up, batch)))
            # For the critic's turn on this batch.
            batch["fake"], batch["lq_up"] = picture.detach(), lq_up
        return values

    def window(self, values: Tensor, batch: Batch, cell: int = 1) -> Tensor:
        """The window of latents (``cell`` 1) or pictures that is decoded in this step, the same for all samples."""
        side = self.decode_crop
        height, width = values.shape[-2] // cell, values.shape[-1] // cell
        if side is None or side >= min(height, width):
            return values
        top, left = (int(shared_draw(batch, 6 + i) * (n - side + 1)) * cell for i, n in enumerate((height, width)))
        return values[..., top : top + side * cell, left : left + side * cell]

    # ---- the critics' turn ----

    def of_critics(self, prior: LatentBackbone, tokens: Tensor | None, batch: Batch) -> Losses:
        """Hinge losses of the critics on what the generator's turn left in ``batch``.

        ``judged`` (B,) in it, 0 or 1, leaves samples out of the pixel critic's.
        """
        values: Losses = {}
        if self.critic is not None:
            lq_up = _shifted(batch["lq_up"], batch)
            hq = self.window(to_signed(batch["hq"]), batch, self.downsample)
            real = self.critic(_shifted(hq, batch), lq_up)
            fake = self.critic(_shifted(batch["fake"], batch), lq_up)
            cost = terms.hinge_critic(real, fake)
            # Not divided by their number: the mean over processes is then that of one with the whole batch.
            values["critic"] = (batch["judged"] * cost if "judged" in batch else cost).mean()
        if self.latent_critic is not None and tokens is not None:
            place = (batch["z_lq"], batch["timestep"], tokens)
            real, fake = (self._judge(prior, batch[name], *place) for name in ("z_hq", "z0"))
            values["critic_latent"] = terms.hinge_critic(real, fake).mean()
        return values

    def _judge(self, prior: LatentBackbone, z: Tensor, z_lq: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        assert self.latent_critic is not None
        # The prior's own features, whatever is trained on it.
        use_lora(prior.unet, None)
        with torch.set_grad_enabled(z.requires_grad):
            features = prior.encoder_features(z, timestep, tokens)
        return self.latent_critic(z, z_lq, features)


def _shifted(image: Tensor, batch: Batch) -> Tensor:
    """A window 8 pixels smaller, at a random place: shifted by up to one of the critic's cells, for the whole batch.

    A strided critic that always sees the decoder's cells at the same place teaches it to print their grid.
    """
    top, left = (int(shared_draw(batch, column) * SHIFT) for column in (4, 5))
    return image[..., top : image.shape[-2] - SHIFT + top, left : image.shape[-1] - SHIFT + left]
