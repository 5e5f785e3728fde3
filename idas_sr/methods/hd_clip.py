"""Trains HD-CLIP on synthetic degradations of known level; the host, if it is asked at all, stays as it is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idas_sr import losses as terms
from idas_sr.data.ordered import KINDS, degrade_batch
from idas_sr.methods.stages import NetworkTask
from idas_sr.methods.task import Batch, Losses, draw, gathered, shared_draw, to_signed
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.hd_clip import FOLDER, HDCLIP, LEVELS, SHARPNESS, Described
from idas_sr.noise import canvas_noise
from idas_sr.resample import upsample
from idas_sr.schedule import unsqueeze_like

TEMPERATURE = 0.1


class HDClipTask(NetworkTask):
    """Two differently degraded views of each small picture; all losses are ours, the paper's are not public.

    Args:
        backbone: a prior, frozen; asked by the loss ``noise`` alone.
        weights: ``contrast`` (cross-entropy over the trained levels), ``margin`` (an embedding is nearer to its level
            than to the levels beside it), ``level`` (squared error of the level that is read off), ``ranking`` (order
            of levels over pairs), ``semantic`` (InfoNCE between the views), ``orthogonal`` (squared cosine of semantic
            and degradation embeddings), ``noise`` (the prior's own loss under the projected tokens).
        width, embedding, levels: of ``HDCLIP``.
        clip: folder or Hub id of a CLIP of transformers, in place of the small encoder.
        absent: share of samples at level 0, for each kind.
        margin: of the loss ``margin``, in cosines.
        window: side in pixels of the clean picture's window that the loss ``noise`` encodes.
    """

    folder = FOLDER
    network: HDCLIP

    def __init__(
        self,
        backbone: LatentBackbone,
        weights: Mapping[str, float],
        width: int = 16,
        embedding: int = 64,
        levels: tuple[float, ...] = LEVELS,
        clip: str | None = None,
        absent: float = 0.3,
        margin: float = 0.02,
        window: int = 64,
    ) -> None:
        super().__init__(backbone, weights)
        self.absent, self.margin, self.window = absent, margin, window
        _, length, token_width = backbone.prompt.tokens.shape
        common = {"embedding": embedding, "kinds": len(KINDS), "levels": tuple(levels), "tokens": (length, token_width)}
        self.network = HDCLIP(width, **common) if clip is None else HDCLIP.on_clip(clip, **common)

    def trainable(self) -> dict[str, list[nn.Module]]:
        return {"generator": self.network.trained_parts()}

    def _drawn_levels(self, batch: Batch, first: int) -> tuple[Tensor, Tensor]:
        """(B, K) indices of trained levels, from K columns of draws, and the levels."""
        known = self.network.scale.levels
        draws = batch["uniform"][:, first : first + len(KINDS)]
        index = ((draws - self.absent) / (1 - self.absent) * len(known)).floor().clamp(0, len(known) - 1).long()
        return index, known[index]

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Degraded pictures (2B, 3, h, w) in [0, 1], the second views after the first, and their indices (2B, K)."""
        pictures, indices = [], []
        for view in range(2):
            index, levels = self._drawn_levels(batch, 3 * view)
            seeds = [seed + view for seed in batch["seed"].tolist()]
            pictures.append(degrade_batch(batch["lq"], levels, seeds))
            indices.append(index)
        return torch.cat(pictures), torch.cat(indices)

    def losses(self, player: str, batch: Batch) -> Losses:
        pictures, index = self.views(batch)
        described = self.network(to_signed(pictures))
        values = {
            **self._ordinal(described, index),
            "semantic": info_nce(*(gathered(view) for view in described.semantic.chunk(2))),
            "orthogonal": (described.degradation * described.semantic[:, None]).sum(2).square().mean(),
        }
        if self.weight("noise"):
            values["noise"] = self._noise(described, pictures[: len(batch["hq"])], batch)
        return {name: self.weight(name) * value for name, value in values.items() if self.weight(name)}

    def _ordinal(self, described: Described, index: Tensor) -> dict[str, Tensor]:
        fit = torch.einsum("bke,lke->bkl", described.degradation, self.network.scale.trained())
        levels = self.network.scale.levels[index]
        own = fit.gather(2, index[..., None])[..., 0]
        beside = [fit.gather(2, (index + step).clamp(0, fit.shape[2] - 1)[..., None])[..., 0] for step in (-1, 1)]
        # At an end one of the neighbours is the level itself, which asks for nothing.
        closer = [F.relu(self.margin - (own - other)) * (own != other) for other in beside]
        pairs = [terms.ranking(gathered(described.levels[:, k]), gathered(levels[:, k])) for k in range(len(KINDS))]
        return {
            "contrast": F.cross_entropy((SHARPNESS * fit).flatten(0, 1), index.flatten()),
            "margin": sum(closer, torch.zeros_like(own)).mean(),
            "level": (described.levels - levels).square().mean(),
            "ranking": torch.stack(pairs).mean(),
        }

    def _noise(self, described: Described, degraded: Tensor, batch: Batch) -> Tensor:
        """The prior's denoising error: of clean latents told what is shown, of degraded ones told what was done."""
        count, scale = len(batch["hq"]), batch["hq"].shape[-1] // batch["lq"].shape[-1]
        is_degraded = draw(batch, 6) < 0.5
        side = min(self.window, *batch["hq"].shape[-2:]) // scale
        top, left = (int(shared_draw(batch, i) * (n - side + 1)) for i, n in enumerate(batch["lq"].shape[-2:]))
        crop = lambda x, s: x[..., top * s : (top + side) * s, left * s : (left + side) * s]  # noqa: E731
        with torch.no_grad():
            low = upsample(to_signed(crop(degraded, 1)), scale)
            picture = torch.where(is_degraded.reshape(-1, 1, 1, 1), low, to_signed(crop(batch["hq"], scale)))
            z0 = self.backbone.encode(picture)
        first = Described(described.semantic[:count], described.degradation[:count], described.levels[:count])
        positive, negative = self.network.offsets(first)
        names = self.backbone.prompt.config["names"]
        own = (self.backbone.embed(names[0], count) + positive, self.backbone.embed(names[1], count) + negative)
        timestep = draw(batch, 7, 0.0, 999.0)
        noise = canvas_noise(batch["seed"].tolist(), (z0.shape[1], z0.shape[2], z0.shape[3])).to(z0)
        signal, amplitude, _ = (unsqueeze_like(c, z0) for c in self.backbone.schedule.coef(timestep))
        tokens = torch.where(is_degraded.reshape(-1, 1, 1), own[1], own[0])
        predicted = self.backbone.predict_eps(signal * z0 + amplitude * noise, timestep, tokens)
        return (predicted - noise).square().mean()

    @torch.no_grad()
    def monitors(self, batch: Batch) -> dict[str, float]:
        pictures, index = self.views(batch)
        described = self.network(to_signed(pictures))
        error = (described.levels - self.network.scale.levels[index]).abs().mean(0)
        first, second = described.semantic.chunk(2)
        return {f"{kind}_error": float(error[k]) for k, kind in enumerate(KINDS)} | {
            "same_picture": float((first * second).sum(1).mean()),
            "other_picture": float((first * second.roll(1, 0)).sum(1).mean()),
        }

    @torch.no_grad()
    def grid(self, batch: Batch) -> Tensor:
        return self.views(batch)[0]


def info_nce(first: Tensor, second: Tensor) -> Tensor:
    """Symmetric InfoNCE of unit vectors (B, E): each belongs to the one of its own row, at temperature 0.1."""
    logits, own = first @ second.T / TEMPERATURE, torch.arange(len(first), device=first.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
