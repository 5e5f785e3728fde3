"""Variational score distillation: the frozen prior against an adapter on it that follows the restored latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from idas_sr import losses as terms
from idas_sr.methods.task import Batch, draw
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.lora import FAKE_SCORE, use_lora
from idas_sr.noise import canvas_noise
from idas_sr.schedule import unsqueeze_like
from idas_sr.types import Condition

REACH = 250.0
"""Timesteps around t_r at which the two scores are compared (RCOD's degradation-aware sampling, k)."""
T_MIN, T_MAX = 20.0, 980.0
"""OSEDiff's range."""
RELEASED_MIN, RELEASED_FROM = 200.0, 749.0
"""Lower end of the range of RCOD's released code, and the timestep from which on it holds (methods.md 4.2)."""


def tied_timestep(timestep: Tensor, uniform: Tensor) -> Tensor:
    """t ~ U[max(20, t_r - 250), min(980, t_r + 250)] (B,): scores are compared where the restoration took place."""
    low, high = (timestep - REACH).clamp_min(T_MIN), (timestep + REACH).clamp_max(T_MAX)
    return low + (high - low) * uniform


def free_timestep(timestep: Tensor, uniform: Tensor) -> Tensor:
    """t ~ U[20, 980] (B,), wherever the restoration took place (OSEDiff)."""
    return T_MIN + (T_MAX - T_MIN) * uniform


def released_timestep(timestep: Tensor, uniform: Tensor) -> Tensor:
    """t ~ U[20, 980], from 200 on for restorations at 749 and above (RCOD's released code)."""
    low = torch.where(timestep >= RELEASED_FROM, RELEASED_MIN, T_MIN)
    return low + (T_MAX - low) * uniform


RANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tied": tied_timestep,
    "free": free_timestep,
    "released": released_timestep,
}


class Distillation:
    """Both halves of the regulariser.

    Args:
        sampling: entry of RANGES: at which timesteps the two scores are compared.
        guidance: scale of the prior's classifier-free guidance with the conditioner's negative prompt; 1: none.
            OSEDiff's is 7.5, for SD 2.1; SD-Turbo is distilled and takes none.

    Raises:
        ValueError: unknown sampling.
    """

    def __init__(self, sampling: str = "tied", guidance: float = 1.0) -> None:
        if sampling not in RANGES:
            raise ValueError(f"vsd.sampling must be one of {', '.join(RANGES)}, not {sampling!r}.")
        self.sampling, self.guidance = RANGES[sampling], guidance

    def _noised(self, backbone: LatentBackbone, z0: Tensor, batch: Batch, column: int) -> tuple[Tensor, Tensor, Tensor]:
        """VE state, its timestep (B,) and its noise, other ones than steering's and for each ``column`` others."""
        timestep = self.sampling(batch["timestep"], draw(batch, column))
        seeds = [seed + column for seed in batch["seed"].tolist()]
        noise = canvas_noise(seeds, (z0.shape[1], z0.shape[2], z0.shape[3])).to(z0)
        return z0 + unsqueeze_like(backbone.schedule.sigma(timestep), z0) * noise, timestep, noise

    def distill(self, prior: LatentBackbone, z0: Tensor, condition: Condition, batch: Batch) -> Tensor:
        """(B,) VSD of restored latents (OSEDiff, section 3 of methods.md); t_r (B,) is ``batch["timestep"]``.

        Raises:
            ValueError: there is guidance and no negative prompt.
        """
        with torch.no_grad():
            state, timestep, _ = self._noised(prior, z0.detach(), batch, 6)
            use_lora(prior.unet, None)
            real = prior.predict_z0(state, timestep, condition.positive)
            if self.guidance != 1:
                if condition.negative is None:
                    raise ValueError("vsd.guidance needs a negative prompt: set conditioner.args.negative.")
                negative = prior.predict_z0(state, timestep, condition.negative)
                # Linear in epsilon, so the same on clean latents.
                real = negative + self.guidance * (real - negative)
            use_lora(prior.unet, FAKE_SCORE)
            fake = prior.predict_z0(state, timestep, condition.positive)
        return terms.vsd(z0, real, fake)

    def follow(self, prior: LatentBackbone, tokens: Tensor, batch: Batch) -> Tensor:
        """Mean squared error of epsilon (B,) that keeps the fake score on the restored latents ``batch["z0"]``.

        The adapter stays on: the backward pass may compute the network again.

        DIFFERS: at the timesteps at which the scores are compared, where OSEDiff draws from all of them.
        """
        z0 = batch["z0"]
        state, timestep, noise = self._noised(prior, z0, batch, 7)
        use_lora(prior.unet, FAKE_SCORE)
        signal = unsqueeze_like(prior.schedule.coef(timestep)[0], z0)
        return terms.mean_of((prior.predict_eps(signal * state, timestep, tokens) - noise).square())
