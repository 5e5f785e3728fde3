"""OSEDiff (arXiv 2406.08177): the latent itself, declared to lie at the noisiest timestep, and adapters that cope."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from idas_sr.methods.restorer import Restorer
from idas_sr.types import Anchor


class OSEDiff(Restorer):
    """No noise, one position for every picture; steering ``as-is`` makes the latent the state.

    Trained are adapters of rank 4 on UNet and VAE encoder, and the UNet's first convolution; the losses are the paper's
    ``pixel_l2`` (1), ``lpips`` (2) and ``vsd`` (1) with ``fake_score`` (1). DIFFERS: one adapter on the UNet where the
    released code has three, switched together; the fixed prompt where it has tags of the picture.

    Args:
        timestep: of every picture.
        training: the arguments of ``Restorer``.
    """

    kept: ClassVar[tuple[str, ...]] = ("timestep",)
    slots = {"steering": ("as-is", {})}  # noqa: RUF012

    def __init__(
        self,
        *parts: Any,
        timestep: float = 999.0,
        unet_rank: int = 4,
        vae_encoder_rank: int = 4,
        fake_score_rank: int = 4,
        **training: Any,
    ) -> None:
        training |= {"unet_rank": unet_rank, "vae_encoder_rank": vae_encoder_rank, "fake_score_rank": fake_score_rank}
        super().__init__(*parts, **training)
        self.timestep = timestep

    def anchor(self, lq: Tensor, z_lq: Tensor, timestep: Tensor | None = None) -> Anchor:
        return Anchor(torch.full((len(z_lq),), self.timestep, device=z_lq.device) if timestep is None else timestep)

    def severity_map(self, lq: Tensor, z_lq: Tensor) -> Tensor:
        # Every picture lies at the same position.
        return torch.zeros(len(lq), 1, 1, 1, device=lq.device)

    def anchor_tile(self, lq: Tensor, z_lq: Tensor, severity: Tensor) -> Anchor:
        return self.anchor(lq, z_lq)
