"""A perceptual distance between latents: a small network of our own, trained to judge what is wrong with a picture."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from idas_sr.networks.checkpoints import load_trained

FOLDER = "latent_perceptual"
"""Of the network, in the result of the stage that trains it."""


class LatentPerceptual(ModelMixin, ConfigMixin):
    """Squared distance of channel-normalised features of two latents, weighed per channel, summed over levels.

    The form is LPIPS's (Zhang et al. 2018); network, training and input are ours: no weights of others in it.

    Args:
        latent_channels: C of the backbone.
        widths: channels of the features, one entry per level; each level halves the resolution.
        kinds: degradations that the judging head tells apart.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 8, widths: tuple[int, ...] = (48, 96, 128), kinds: int = 3) -> None:
        super().__init__()
        inputs = (latent_channels, *widths[:-1])
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.SiLU(), nn.Conv2d(b, b, 3, padding=1), nn.SiLU())
            for a, b in zip(inputs, widths, strict=True)
        )
        self.channel_weights = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in widths)
        self.judge = nn.Linear(sum(widths), kinds + 1)

    def _features(self, z: Tensor) -> list[Tensor]:
        out, x = [], z.to(self.dtype)
        for index, level in enumerate(self.levels):
            # Averaged: a strided network would print its grid into what is trained with it.
            x = level(F.avg_pool2d(x, 2, ceil_mode=True) if index else x)
            out.append(x.float())
        return out

    def forward(self, z: Tensor, target: Tensor) -> Tensor:
        """(B,) distance of latents (B, C, h, w)."""
        total = z.new_zeros(len(z), dtype=torch.float32)
        for a, b, weight in zip(self._features(z), self._features(target), self.channel_weights, strict=True):
            difference = (_unit(a) - _unit(b)).square() * F.softplus(weight.float()).reshape(1, -1, 1, 1)
            total = total + difference.sum(1).mean((1, 2))
        return total

    def verdict(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> logits (B, kinds) of what degraded the picture, and how much (B,), 0 to 1."""
        pooled = torch.cat([f.mean((2, 3)) for f in self._features(z)], dim=1)
        out = self.judge(pooled.to(self.dtype)).float()
        return out[:, :-1], out[:, -1]


def _unit(features: Tensor) -> Tensor:
    return features * (features.square().sum(1, keepdim=True) + 1e-6).rsqrt()


def load_latent_perceptual(run: str | Path, latent_channels: int) -> LatentPerceptual:
    """The network that the run ``run`` of configs/train/latent-perceptual.yaml trained, frozen.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it was trained on latents of another backbone, or its weights are not those of its configuration.
    """
    hint = (
        "configs/train/latent-perceptual.yaml and give its run directory as method.args.latent_perceptual, or do "
        "without (loss.latent_perceptual=0)"
    )
    network: LatentPerceptual = load_trained(LatentPerceptual, run, FOLDER, "latent perceptual network", hint)
    if network.config["latent_channels"] != latent_channels:
        raise ValueError(f"The latent perceptual network in {run} was trained on another backbone's latents.")
    return network
