"""InvSR's noise predictor: a Gaussian over the inversion noise, from the low-quality picture and the timestep."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import AttnDownBlock2D, DownBlock2D, UNetMidBlock2D
from torch import Tensor, nn

from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.mine import LOG_VARIANCE

TILES_AT_ONCE = 8
MIN_TIME_WIDTH = 128


@dataclass(frozen=True)
class NoiseEstimate:
    """Mean and standard deviation (B, C, h, w) of the inversion noise."""

    noise: Tensor
    spread: Tensor


class NoisePredictor(ModelMixin, ConfigMixin):
    """Time-aware encoder of InvSR (methods.md 1.2), built from diffusers' public blocks.

    The defaults are the paper's, for SD-Turbo at x4: two stages of residual blocks with self-attention, a stride of 2
    between them, a middle block, and a head for mean and log-variance; 33.8 M parameters.

    Where a latent cell is one pixel of the low-quality picture (compact), that stride would be one too many. There, and
    this is ours, the result is brought back to the picture's resolution and joined by what the first stage saw.

    Attention is over the whole input, so larger pictures are worked on in tiles of the size trained on, half
    overlapping, and blended with Gaussian weights (1.4; DIFFERS: InvSR so blends restored pictures, here only what is
    predicted is).

    Args:
        latent_channels: C of the backbone.
        stride: LQ pixels per latent cell along a side, 1 or 2.
        widths: channels of the two stages.
        layers: residual blocks of a stage.
        attention: whether a stage attends to itself.
        head_width: channels of an attention head.
        groups: of the group normalisation.
        tile: side, in LQ pixels, of a tile.
        log_variance: what the head says before training; the paper's is 0, a noise as strong as the schedule's, which
            takes a short training most of its steps to unlearn.

    Raises:
        ValueError: a stride other than 1 and 2, or a tile that is not a positive multiple of 4.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        stride: int = 2,
        widths: tuple[int, int] = (256, 512),
        layers: int = 3,
        attention: tuple[bool, bool] = (True, True),
        head_width: int = 64,
        groups: int = 32,
        tile: int = 128,
        log_variance: float = 0.0,
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"The noise predictor is for 1 or 2 low-quality pixels per latent cell, not {stride}.")
        if tile < 4 or tile % 4:
            raise ValueError(f"The tile of the noise predictor must be a positive multiple of 4, not {tile}.")
        first, second = widths
        embedding, time_width = second, max(MIN_TIME_WIDTH, first)
        self.frequencies = Timesteps(time_width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.embedding = TimestepEmbedding(time_width, embedding)
        self.enter = nn.Conv2d(3, first, 3, padding=1)
        shared: dict[str, Any] = {
            "temb_channels": embedding,
            "num_layers": layers,
            "resnet_eps": 1e-6,
            "resnet_groups": groups,
        }
        # Padding 0 is diffusers' name for InvSR's asymmetric padding.
        self.stage1 = _stage(attention[0], first, first, head_width, downsample_padding=0, **shared)
        self.stage2 = _stage(attention[1], first, second, head_width, **shared)
        self.middle = UNetMidBlock2D(
            second, embedding, resnet_eps=1e-6, resnet_groups=groups, attention_head_dim=head_width
        )
        self.up: nn.Module | None = None
        self.join: nn.Module | None = None
        if stride == 1:
            self.up = nn.Conv2d(second, first, 3, padding=1)
            self.join = ResnetBlock2D(
                in_channels=2 * first, out_channels=first, temb_channels=embedding, groups=groups, eps=1e-6
            )
        last = second if self.join is None else first
        self.norm = nn.GroupNorm(groups, last, eps=1e-6)
        self.head = nn.Conv2d(last, 2 * latent_channels, 3, padding=1)
        with torch.no_grad():
            assert self.head.bias is not None
            self.head.bias[latent_channels:] += log_variance

    @classmethod
    def for_backbone(cls, backbone: LatentBackbone, scale: int, **args: Any) -> NoisePredictor:
        """One that fits ``backbone``."""
        return cls(latent_channels=backbone.latent_channels, stride=backbone.downsample // scale, **args)

    def forward(self, lq: Tensor, timestep: Tensor) -> NoiseEstimate:
        """(B, 3, H/s, W/s) in [-1, 1], sides multiples of 2, and the timestep (B,) that the UNet is told."""
        tile = self.config["tile"]
        whole = max(lq.shape[-2:]) <= tile
        values = self._encode(lq, timestep) if whole else self._tiled(lq, timestep, tile)
        noise, log_variance = values.chunk(2, dim=1)
        return NoiseEstimate(noise, (log_variance.clamp(*LOG_VARIANCE) / 2).exp())

    def _encode(self, lq: Tensor, timestep: Tensor) -> Tensor:
        """Mean and log-variance (B, 2C, h, w)."""
        embedding = self.embedding(self.frequencies(timestep).to(self.dtype))
        x, seen = self.stage1(self.enter(lq.to(self.dtype)), embedding)
        x, _ = self.stage2(x, embedding)
        x = self.middle(x, embedding)
        if self.up is not None and self.join is not None:
            # The last one before the stride.
            x = torch.cat([self.up(F.interpolate(x, scale_factor=2.0, mode="nearest")), seen[-2]], dim=1)
            x = self.join(x, embedding)
        return self.head(F.silu(self.norm(x))).float()

    def _tiled(self, lq: Tensor, timestep: Tensor, tile: int) -> Tensor:
        stride = self.config["stride"]
        rows, columns = (_starts(side, tile) for side in lq.shape[-2:])
        height, width = min(tile, lq.shape[-2]), min(tile, lq.shape[-1])
        weight = (_bell(height // stride)[:, None] * _bell(width // stride)).to(lq.device)
        cells = (lq.shape[-2] // stride, lq.shape[-1] // stride)
        total = torch.zeros(len(lq), 2 * self.config["latent_channels"], *cells, device=lq.device)
        weights = torch.zeros(cells, device=lq.device)
        places = list(product(rows, columns))
        for begin in range(0, len(places), TILES_AT_ONCE):
            some = places[begin : begin + TILES_AT_ONCE]
            tiles = torch.cat([lq[..., y : y + height, x : x + width] for y, x in some])
            values = self._encode(tiles, timestep.repeat(len(some))).chunk(len(some))
            for (y, x), value in zip(some, values, strict=True):
                window = (
                    slice(y // stride, (y + height) // stride),
                    slice(x // stride, (x + width) // stride),
                )
                total[(..., *window)] += weight * value
                weights[window] += weight
        return total / weights


def _stage(attention: bool, inputs: int, outputs: int, head_width: int, **others: Any) -> nn.Module:
    """Residual blocks, with or without attention; a stride follows where ``downsample_padding`` is given."""
    is_last = "downsample_padding" not in others
    if attention:
        extra = {"downsample_type": "none"} if is_last else {}
        return AttnDownBlock2D(inputs, outputs, attention_head_dim=head_width, **others, **extra)
    return DownBlock2D(inputs, outputs, add_downsample=not is_last, **others)


def _starts(side: int, tile: int) -> list[int]:
    """First pixels of half-overlapping tiles, the last one touching the end."""
    if side <= tile:
        return [0]
    return [*range(0, side - tile, tile // 2), side - tile]


def _bell(size: int) -> Tensor:
    """Gaussian weights (size,) of OpenCV's default width, symmetric."""
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    return torch.exp(-((torch.arange(size) - (size - 1) / 2) ** 2) / (2 * max(sigma, 0.5) ** 2))
