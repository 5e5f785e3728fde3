"""The critics: one on pixels and one on latents, both shown the low-quality picture beside the candidate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PixelCritic(nn.Module):
    """Patch logits of a picture given the upsampled low-quality one; spectral normalisation keeps the game calm.

    Args:
        width: channels of the first layer.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        # Unshuffled by two: full-resolution convolutions would cost more than the generator.
        layers: list[nn.Module] = [nn.Conv2d(24, width, 3, padding=1), nn.LeakyReLU(0.2)]
        for a, b, stride in ((width, width * 2, 2), (width * 2, width * 2, 1), (width * 2, width * 3, 2)):
            layers += [spectral_norm(nn.Conv2d(a, b, 3 if stride == 1 else 4, stride, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width * 3, 1, 3, padding=1))

    def forward(self, image: Tensor, lq_up: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], twice -> logits (B, 1, H/8, W/8)."""
        return self.layers(F.pixel_unshuffle(torch.cat([image, lq_up], dim=1), 2)).float()


class LatentCritic(nn.Module):
    """Patch logits of a latent at every level of a frozen UNet's encoder: multi-in, multi-out.

    Each head sees the features of its level and, resized to it, an embedding of the candidate latent beside that of the
    input picture. InvSR's critic lets the latent in at each level and judges at four; taking features from a trained
    network is the idea of projected GANs (Sauer et al. 2021); the combination is ours.

    Args:
        latent_channels: C of the backbone.
        feature_channels: of the levels, finest first; see ``LatentBackbone.encoder_features``.
        width, entry: channels of the heads and of the embedding.
    """

    def __init__(self, latent_channels: int, feature_channels: Sequence[int], width: int = 64, entry: int = 32) -> None:
        super().__init__()
        self.entry = nn.Conv2d(2 * latent_channels, entry, 3, padding=1)
        # Group normalisation and not spectral: what the critic says then depends on weights and input alone.
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels + entry, width, 1),
                nn.GroupNorm(8, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(8, width),
                nn.SiLU(),
                nn.Conv2d(width, 1, 3, padding=1),
            )
            for channels in feature_channels
        )

    def forward(self, z: Tensor, z_lq: Tensor, features: Sequence[Tensor]) -> Tensor:
        """(B, C, h, w) twice, features of the first -> logits (B, levels, N), the coarser ones repeated."""
        entry = self.entry(torch.cat([z, z_lq], dim=1))
        size = features[0].shape[-2:]
        logits = []
        for head, feature in zip(self.heads, features, strict=True):
            inside = F.adaptive_avg_pool2d(entry, (feature.shape[-2], feature.shape[-1]))
            logit = head(torch.cat([feature.to(entry.dtype), inside], dim=1)).float()
            # Every level counts the same.
            logits.append(F.interpolate(logit, size=size, mode="nearest").flatten(1))
        return torch.stack(logits, dim=1)
