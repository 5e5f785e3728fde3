"""Variational score distillation: the frozen prior against an adapter on it that follows the restored latents."""

from __future__ import annotations

import torch
from torch import Tensor

from idas_sr import losses as terms
from idas_sr.methods.task import Batch, draw
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.lora import FAKE_SCORE, use_lora
from idas_sr.noise import canvas_noise
from idas_sr.schedule import unsqueeze_like

REACH = 250.0
"""Timesteps around t_r at which the two scores are compared (RCOD's degradation-aware sampling, k)."""
T_MIN, T_MAX = 20.0, 980.0
"""OSEDiff's range."""


def tied_timestep(timestep: Tensor, uniform: Tensor) -> Tensor:
    """t ~ U[max(20, t_r - 250), min(980, t_r + 250)] (B,): scores are compared where the restoration took place."""
    low, high = (timestep - REACH).clamp_min(T_MIN), (timestep + REACH).clamp_max(T_MAX)
    return low + (high - low) * uniform


def _noised(backbone: LatentBackbone, z0: Tensor, batch: Batch, column: int) -> tuple[Tensor, Tensor, Tensor]:
    """VE state, its timestep (B,) and its noise, other ones than steering's and for each ``column`` of draws others."""
    timestep = tied_timestep(batch["timestep"], draw(batch, column))
    seeds = [seed + column for seed in batch["seed"].tolist()]
    noise = canvas_noise(seeds, (z0.shape[1], z0.shape[2], z0.shape[3])).to(z0)
    return z0 + unsqueeze_like(backbone.schedule.sigma(timestep), z0) * noise, timestep, noise


def distill(prior: LatentBackbone, z0: Tensor, tokens: Tensor, batch: Batch) -> Tensor:
    """(B,) VSD of restored latents (OSEDiff, section 3 of methods.md); t_r (B,) is ``batch["timestep"]``.

    DIFFERS: the prior is asked without guidance; SD-Turbo is distilled and OSEDiff's scale of 7.5 is for its teacher.
    """
    with torch.no_grad():
        state, timestep, _ = _noised(prior, z0.detach(), batch, 6)
        use_lora(prior.unet, None)
        real = prior.predict_z0(state, timestep, tokens)
        use_lora(prior.unet, FAKE_SCORE)
        fake = prior.predict_z0(state, timestep, tokens)
    return terms.vsd(z0, real, fake)


def follow(prior: LatentBackbone, tokens: Tensor, batch: Batch) -> Tensor:
    """Mean squared error of epsilon (B,) that keeps the fake score on the restored latents ``batch["z0"]``.

    The adapter stays on: the backward pass may compute the network again.
    """
    z0 = batch["z0"]
    state, timestep, noise = _noised(prior, z0, batch, 7)
    use_lora(prior.unet, FAKE_SCORE)
    signal = unsqueeze_like(prior.schedule.coef(timestep)[0], z0)
    return terms.mean_of((prior.predict_eps(signal * state, timestep, tokens) - noise).square())
