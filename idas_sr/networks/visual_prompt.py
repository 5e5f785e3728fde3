"""Prompt tokens from the picture itself (RCOD's visual prompt injection), in place of words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from idas_sr.networks.backbone import LatentBackbone
from idas_sr.types import Condition

CLIP_SIDE = 224


class SmallEncoder(nn.Module):
    """Features (B, 17, width) of a picture: a grid of 4 x 4, their mean first as CLIP has its class token (ours)."""

    SIDE, GRID = 64, 4

    def __init__(self, width: int) -> None:
        super().__init__()
        steps = ((3, width // 4), (width // 4, width // 2), (width // 2, width), (width, width))
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in steps)

    def forward(self, picture: Tensor) -> Tensor:
        """(B, 3, 64, 64) in [-1, 1] -> (B, 17, width)."""
        for layer in self.layers:
            picture = F.silu(layer(picture))
        grid = picture.flatten(2).transpose(1, 2)
        return torch.cat([grid.mean(1, keepdim=True), grid], dim=1)


class VisualPrompt(ModelMixin, ConfigMixin):
    """Conditioner: image features through one linear layer to tokens of the UNet's width (RCOD, methods.md 4.1, 4.2).

    Args:
        width: D of the tokens.
        clip: folder of a CLIP whose vision model (transformers) gives the features; frozen, and not saved with the
            rest. RCOD's is openai/clip-vit-large-patch14, shown the picture without CLIP's mean and deviation, and so
            is this one. None: a small encoder, trained with the linear layer (ours).
        encoder_width: channels of the small encoder.

    Raises:
        ValueError: there is no CLIP at ``clip``.
    """

    @register_to_config
    def __init__(self, width: int, clip: str | None = None, encoder_width: int = 64) -> None:
        super().__init__()
        # Outside the module tree: a frozen network of 300 M parameters is neither trained nor stored here.
        self._clip = None if clip is None else (_load_clip(clip),)
        self.encoder = SmallEncoder(encoder_width) if self._clip is None else None
        features = encoder_width if self._clip is None else self._clip[0].config.hidden_size
        self.project = nn.Linear(features, width)

    def forward(self, lq: Tensor, backbone: LatentBackbone) -> Condition:
        """(B, 3, h, w) in [-1, 1] -> tokens (B, 17, D), or as many as CLIP's vision model has."""
        if self.encoder is not None:
            return Condition(self.project(self.encoder(_resized(lq, SmallEncoder.SIDE).to(self.dtype))))
        assert self._clip is not None
        with torch.no_grad():
            clip = self._clip[0].to(lq.device)
            features = clip(pixel_values=_resized(lq, CLIP_SIDE)).last_hidden_state
        return Condition(self.project(features.to(self.dtype)))


def _resized(picture: Tensor, side: int) -> Tensor:
    return F.interpolate(picture, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def _load_clip(folder: str) -> Any:
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"There is no CLIP in {folder}; give the folder of one, or leave conditioner.args.clip out.")
    from transformers import CLIPVisionModel  # slow, and only this way needs it

    return CLIPVisionModel.from_pretrained(folder).eval().requires_grad_(False)
