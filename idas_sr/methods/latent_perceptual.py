"""Trains the network of the latent perceptual loss: it learns to say what was done to a picture, from its latent."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from idas_sr.data.corruptions import add_gaussian_noise, blur, compress_pillow
from idas_sr.data.kernels import bell_kernel
from idas_sr.losses import FeatureDistance
from idas_sr.methods.stages import NetworkTask
from idas_sr.methods.task import Batch, Losses, draw, to_signed
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.latent_perceptual import FOLDER, LatentPerceptual

KINDS = ("blur", "noise", "compression")


def corrupt(image: Tensor, kind: int, level: float, seed: int) -> Tensor:
    """Picture (1, 3, H, W) in [0, 1] degraded in one of KINDS; ``level`` 0 is nearly nothing, 1 is severe."""
    if KINDS[kind] == "blur":
        sigma = 0.3 + 3.7 * level
        return blur(image, bell_kernel(25, sigma, sigma, 0.0).astype("float32"))
    if KINDS[kind] == "noise":
        return add_gaussian_noise(image, 0.01 + 0.19 * level, is_gray=False, seed=seed)
    return compress_pillow(image, round(95 - 85 * level))


class LatentPerceptualTask(NetworkTask):
    """Tells the kind and the level of a degradation from the latent alone; optionally follows a distance on pixels.

    Args:
        backbone: encodes; not trained.
        weights: ``kind`` (cross-entropy over KINDS), ``level`` (squared error of 0 ... 1), ``teacher`` (squared error
            of log distances: the network's, of latents, to ``teacher``'s, of the pictures).
        widths: of the network.
        teacher: SqueezeNet's feature distance.
    """

    folder = FOLDER
    network: LatentPerceptual

    def __init__(
        self,
        backbone: LatentBackbone,
        weights: Mapping[str, float],
        widths: tuple[int, ...] = (48, 96, 128),
        teacher: FeatureDistance | None = None,
    ) -> None:
        super().__init__(backbone, weights)
        self.teacher = teacher
        self.network = LatentPerceptual(backbone.latent_channels, tuple(widths), len(KINDS))

    @torch.no_grad()
    def _corrupted(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (B, 3, H, W) in [0, 1], their kinds (B,) and levels (B,)."""
        kinds, levels = draw(batch, 0, 0, len(KINDS)).long(), draw(batch, 1)
        described = zip(batch["hq"], kinds.tolist(), levels.tolist(), batch["seed"].tolist(), strict=True)
        return torch.cat([corrupt(image[None], *how) for image, *how in described]), kinds, levels

    def losses(self, player: str, batch: Batch) -> Losses:
        corrupted, kinds, levels = self._corrupted(batch)
        with torch.no_grad():
            z = self.backbone.encode(to_signed(corrupted))
        logits, level = self.network.verdict(z)
        values = {"kind": F.cross_entropy(logits, kinds), "level": (level - levels).square().mean()}
        if self.teacher is not None:
            with torch.no_grad():
                z_hq = self.backbone.encode(to_signed(batch["hq"]))
                distance = self.teacher(to_signed(corrupted), to_signed(batch["hq"]))
            ratio = (self.network(z, z_hq) + 1e-6).log() - (distance + 1e-6).log()
            values["teacher"] = ratio.square().mean()
        return {name: self.weight(name) * value for name, value in values.items() if self.weight(name)}

    @torch.no_grad()
    def monitors(self, batch: Batch) -> dict[str, float]:
        corrupted, kinds, levels = self._corrupted(batch)
        logits, level = self.network.verdict(self.backbone.encode(to_signed(corrupted)))
        right = (logits.argmax(1) == kinds).float().mean()
        return {"kind_accuracy": float(right), "level_error": float((level - levels).abs().mean())}

    @torch.no_grad()
    def grid(self, batch: Batch) -> Tensor:
        return torch.cat([self._corrupted(batch)[0], batch["hq"]])
