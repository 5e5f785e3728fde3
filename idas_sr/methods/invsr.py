"""InvSR (arXiv 2412.09013): predicted noise inverts a picture at a preset timestep; one to five Euler steps follow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from idas_sr.methods.restorer import Restorer
from idas_sr.methods.task import Batch, draw
from idas_sr.networks.noise_predictor import NoisePredictor
from idas_sr.types import Anchor

STARTS = (250, 200, 150, 100)
"""Start timesteps of the training, as the paper counts them: from 1."""
STEPS = {1: (200,), 2: (200, 100), 3: (200, 100, 50), 4: (200, 150, 100, 50), 5: (250, 200, 150, 100, 50)}
"""Published timesteps for every number of steps, counted from 1 too: 200 is index 199 of the schedule."""


class InvSR(Restorer):
    """Anchor at a preset timestep, with the noise that ``NoisePredictor`` believes in there.

    Steering ``temperature`` with tau 1 draws from its Gaussian. The losses are the paper's ``latent`` (1.0),
    ``latent_perceptual`` (2.0) and ``gan_latent`` (0.1). DIFFERS: latents are modes of the posterior and no samples;
    the critic counts from the first step on; the Gaussian constraints that the released code leaves off are not here.

    Args:
        estimator: the noise predictor.
        train: as ``Restorer``'s; the paper trains the estimator alone.
        steps: UNet evaluations, 1 to 5, at the published timesteps.
        timesteps: other ones, counted from 1 as the paper does, descending; None: the published.
        starts: of the training.
        training: the other arguments of ``Restorer``.

    Raises:
        ValueError: a number of steps without a published list, or timesteps that do not descend within 1 to 1000.
    """

    estimator_class = NoisePredictor
    estimator: NoisePredictor
    choices = ("steps", "timesteps")
    slots = {"steering": ("temperature", {"tau": 1.0})}  # noqa: RUF012

    def __init__(
        self,
        *parts: Any,
        estimator: NoisePredictor,
        train: tuple[str, ...] = ("estimator",),
        steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        starts: Sequence[int] = STARTS,
        **training: Any,
    ) -> None:
        super().__init__(*parts, estimator=estimator, train=train, **training)
        self.positions = [float(t - 1) for t in _chosen(steps, timesteps)]
        self.starts = torch.tensor(starts) - 1.0

    def anchor(self, lq: Tensor, z_lq: Tensor, timestep: Tensor | None = None) -> Anchor:
        later: tuple[float, ...] = ()
        if timestep is None:
            timestep = torch.full((len(z_lq),), self.positions[0], device=z_lq.device)
            later = tuple(self.positions[1:])
        estimate = self.estimator(lq, timestep)
        return Anchor(timestep, estimate.noise, spread=estimate.spread, later=later)

    def severity_map(self, lq: Tensor, z_lq: Tensor) -> Tensor:
        # Every picture lies at the preset position.
        return torch.zeros(len(lq), 1, 1, 1, device=lq.device)

    def anchor_tile(self, lq: Tensor, z_lq: Tensor, severity: Tensor) -> Anchor:
        return self.anchor(lq, z_lq)

    def training_timestep(self, z_hq: Tensor, batch: Batch) -> Tensor:
        index = (draw(batch, 0) * len(self.starts)).long().clamp_max(len(self.starts) - 1)
        return self.starts.to(z_hq.device)[index]

    @torch.no_grad()
    def monitors(self, batch: Batch) -> dict[str, float]:
        anchor = self.anchor(batch["lq"] * 2 - 1, batch["lq"].new_zeros(len(batch["lq"])))
        assert anchor.noise is not None and anchor.spread is not None
        return {"noise_power": float(anchor.noise.square().mean()), "spread": float(anchor.spread.mean())}


def _chosen(steps: int | None, timesteps: Sequence[int] | None) -> Sequence[int]:
    if timesteps is None:
        if (1 if steps is None else steps) not in STEPS:
            raise ValueError(f"InvSR takes {min(STEPS)} to {max(STEPS)} steps, not {steps}.")
        return STEPS[1 if steps is None else steps]
    descends = all(a > b for a, b in pairwise(timesteps))
    if not timesteps or not descends or timesteps[0] > 1000 or timesteps[-1] < 1:
        raise ValueError(f"timesteps must descend within 1 to 1000, not {', '.join(map(str, timesteps))}.")
    if steps is not None and steps != len(timesteps):
        raise ValueError(f"{steps} steps need as many timesteps, not {len(timesteps)}.")
    return timesteps
