"""The pixel critic: a small patch network that sees the restoration beside its enlarged input."""

from __future__ import annotations

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
