"""HD-CLIP: a picture as what it shows (semantic embedding) and what was done to it (ordinal degradation embeddings).

The idea is that of arXiv 2512.10340; its losses, levels and networks are not public, so all formulas here are ours
(the candidate definitions of methods.md 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from idas_sr.networks.checkpoints import load_component
from idas_sr.networks.degradation_scores import Residual, fine_detail
from idas_sr.networks.library import MODELS

FOLDER = "hdclip"
"""Of a saved HD-CLIP, in the result of the stage that trains it and in a model that ships."""
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The levels that are trained; all others are interpolated."""
SHARPNESS = 60.0
"""Inverse temperature of the comparison between an embedding and the levels' own."""
READING = 33
"""Levels that are tried when one is read off."""


@dataclass(frozen=True)
class Described:
    """What HD-CLIP says of pictures.

    Attributes:
        semantic: (B, E) of unit length.
        degradation: (B, K, E) of unit length, one row per kind of degradation.
        levels: (B, K) in [0, 1], read off ``degradation``.
    """

    semantic: Tensor
    degradation: Tensor
    levels: Tensor


class SmallEncoder(nn.Module):
    """Convolutions without normalisation, and means and deviations of every level: any size, noise stays visible.

    Beside the picture it sees fine detail enlarged (``fine_detail``).

    Args:
        width: channels of the first level; the others have two, three and four times as many.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = [width * factor for factor in (1, 2, 3, 4)]
        self.enter = nn.Conv2d(6, width, 3, padding=1)
        # None at full resolution, where they would cost as much as all others together.
        self.blocks = nn.ModuleList(
            nn.ModuleList(Residual(n, F.silu, F.silu) for _ in range(2 if level else 0))
            for level, n in enumerate(widths)
        )
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.features = 2 * sum(widths)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, h, w) in [-1, 1], 8 pixels or more a side -> (B, ``features``)."""
        x, pooled = self.enter(torch.cat([image, fine_detail(image)], dim=1)), []
        for index, blocks in enumerate(self.blocks):
            if index:
                x = self.downs[index - 1](F.silu(x))
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x)
            active = F.silu(x)
            spread = active.var((2, 3), correction=0)
            pooled += [active.mean((2, 3)), (spread + 1e-4).sqrt()]
        return torch.cat(pooled, dim=1)


class ClipEncoder(nn.Module):
    """A CLIP vision model of transformers, frozen, under its own preprocessing.

    Args:
        settings: of ``CLIPVisionConfig``.
    """

    MEAN = (0.48145466, 0.4578275, 0.40821073)
    STD = (0.26862954, 0.26130258, 0.27577711)

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**settings)).requires_grad_(False)
        self.features: int = self.vision.config.projection_dim

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, h, w) in [-1, 1] -> (B, ``features``). The whole picture is resized to CLIP's square (aspect lost)."""
        side = self.vision.config.image_size
        resized = F.interpolate(image.float(), (side, side), mode="bicubic", antialias=True, align_corners=False)
        mean, std = (resized.new_tensor(v).reshape(1, 3, 1, 1) for v in (self.MEAN, self.STD))
        with torch.no_grad():
            return self.vision(((resized / 2 + 0.5).clamp(0, 1) - mean) / std).image_embeds


class OrdinalScale(nn.Module):
    """For each kind an arc of unit vectors e(l) = normalize(a + g(l) v), a and v orthogonal, g rising with the level.

    g is the running sum of positive steps at the trained levels and linear between them, so a level that was never
    seen lies on the arc between its neighbours (methods.md 5, "ordinal embedding"; ours).

    Args:
        kinds: K.
        embedding: E.
        levels: that are trained, rising from 0 to 1.
    """

    levels: Tensor

    def __init__(self, kinds: int, embedding: int, levels: tuple[float, ...] = LEVELS) -> None:
        super().__init__()
        if list(levels) != sorted(set(levels)) or levels[0] != 0 or levels[-1] != 1:
            raise ValueError(f"levels must rise from 0 to 1, not {levels}.")
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.origin = nn.Parameter(torch.randn(kinds, embedding))
        self.direction = nn.Parameter(torch.randn(kinds, embedding))
        # softplus(0.2) is 0.8: with four steps e(1) starts 73 degrees from e(0).
        self.steps = nn.Parameter(torch.full((kinds, len(levels) - 1), 0.2))

    def forward(self, levels: Tensor) -> Tensor:
        """(..., K) in [0, 1] -> unit vectors (..., K, E)."""
        a = F.normalize(self.origin, dim=1)
        v = F.normalize(self.direction - (self.direction * a).sum(1, keepdim=True) * a, dim=1)
        heights = F.pad(F.softplus(self.steps).cumsum(1), (1, 0))
        index = (torch.searchsorted(self.levels, levels.contiguous(), right=True) - 1).clamp(0, len(self.levels) - 2)
        low, high = self.levels[index], self.levels[index + 1]
        share = (levels - low) / (high - low)
        kind = torch.arange(len(a), device=a.device).expand(index.shape)
        g = heights[kind, index] * (1 - share) + heights[kind, index + 1] * share
        return F.normalize(a + g[..., None] * v, dim=-1)

    def trained(self) -> Tensor:
        """(N, K, E): the embeddings of the trained levels."""
        return self(self.levels[:, None].expand(-1, len(self.origin)))

    def read(self, embedding: Tensor) -> Tensor:
        """(B, K, E) -> (B, K) levels: the mean of all levels, weighed by how well each one's embedding fits."""
        tried = torch.linspace(0, 1, READING, device=embedding.device)
        fit = torch.einsum("bke,lke->blk", embedding, self(tried[:, None].expand(-1, len(self.origin))))
        return ((SHARPNESS * fit).softmax(1) * tried[None, :, None]).sum(1)


class HDCLIP(ModelMixin, ConfigMixin):
    """Encoder, two heads, the scale of levels, and projections to prompt tokens for a host's cross-attention.

    Args:
        width: of the small encoder.
        clip: settings of a CLIP vision model, which then takes the small encoder's place, frozen.
        embedding: E.
        kinds: K, of ``idas_sr.data.ordered.KINDS``.
        levels: that are trained.
        tokens: number and width of the prompt tokens of the prior it was trained on.
    """

    @register_to_config
    def __init__(
        self,
        width: int = 16,
        clip: dict[str, Any] | None = None,
        embedding: int = 64,
        kinds: int = 3,
        levels: tuple[float, ...] = LEVELS,
        tokens: tuple[int, int] = (4, 64),
    ) -> None:
        super().__init__()
        self.encoder = SmallEncoder(width) if clip is None else ClipEncoder(clip)
        features = self.encoder.features
        self.semantic = nn.Sequential(
            nn.Linear(features, 2 * embedding), nn.SiLU(), nn.Linear(2 * embedding, embedding)
        )
        self.degradation = nn.Sequential(
            nn.Linear(features, 2 * embedding), nn.SiLU(), nn.Linear(2 * embedding, kinds * embedding)
        )
        self.scale = OrdinalScale(kinds, embedding, tuple(levels))
        # Start as the host's own prompts, whatever the picture.
        self.semantic_tokens = nn.Linear(embedding, tokens[0] * tokens[1])
        self.degradation_tokens = nn.Linear(kinds * embedding, tokens[0] * tokens[1])
        for projection in (self.semantic_tokens, self.degradation_tokens):
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)

    @classmethod
    def on_clip(cls, path: str, **settings: Any) -> HDCLIP:
        """On the weights of a CLIP vision model at ``path`` (folder or Hub id); its config goes into this one's."""
        vision = CLIPVisionModelWithProjection.from_pretrained(path)
        model = cls(clip=vision.config.to_diff_dict(), **settings)
        model.encoder.vision.load_state_dict(vision.state_dict())
        return model

    def trained_parts(self) -> list[nn.Module]:
        """What training changes: everything but a CLIP."""
        encoder = [] if isinstance(self.encoder, ClipEncoder) else [self.encoder]
        return [*encoder, self.semantic, self.degradation, self.scale, self.semantic_tokens, self.degradation_tokens]

    def forward(self, lq: Tensor) -> Described:
        """(B, 3, h, w) in [-1, 1], not enlarged."""
        features = self.encoder(lq.to(self.dtype)).float()
        semantic = F.normalize(self.semantic(features.to(self.dtype)).float(), dim=1)
        rows = self.degradation(features.to(self.dtype)).float().reshape(len(lq), self.config["kinds"], -1)
        degradation = F.normalize(rows, dim=2)
        return Described(semantic, degradation, self.scale.read(degradation))

    def offsets(self, described: Described) -> tuple[Tensor, Tensor]:
        """What is added to a host's positive and negative prompt, (B, L, D) each."""
        shape = (-1, *self.config["tokens"])
        dtype = self.semantic_tokens.weight.dtype
        positive = self.semantic_tokens(described.semantic.to(dtype)).float()
        negative = self.degradation_tokens(described.degradation.flatten(1).to(dtype)).float()
        return positive.reshape(shape), negative.reshape(shape)


def load_hd_clip(name: str | Path) -> HDCLIP:
    """The HD-CLIP of a model of this package, of a run of configs/train/hdclip.yaml, or in a folder; frozen.

    Raises:
        ValueError: there is none, or its weights are not those of its configuration.
    """
    places = (MODELS / name / FOLDER, Path(name) / "model" / FOLDER, Path(name) / FOLDER, Path(name))
    for folder in places:
        if (folder / "config.json").is_file():
            network: HDCLIP = load_component(HDCLIP, folder)
            return network
    raise ValueError(
        f"There is no HD-CLIP in {name}; train one with configs/train/hdclip.yaml and name its run directory."
    )
