"""The noise schedule: the one place where a timestep becomes signal, noise and sigma."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class NoiseSchedule(nn.Module):
    """Signal and noise amplitudes at fractional timesteps, in fp32 whatever the network runs in.

    ``sigma`` is the VE noise level sqrt((1 - abar) / abar); between integer timesteps log(sigma) is linear, so a
    predicted timestep has a gradient and ``timestep_of`` is its exact inverse.
    """

    log_sigmas: Tensor

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        alphas_cumprod = torch.cumprod(1 - betas.double(), dim=0)  # (T,)
        log_sigmas = 0.5 * ((1 - alphas_cumprod) / alphas_cumprod).log()
        # Kept in double: the table is the only source of the numbers, and T doubles cost nothing.
        self.register_buffer("log_sigmas", log_sigmas, persistent=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Build from a diffusers scheduler config, e.g. SD-Turbo's own ``scheduler_config.json``.

        Raises:
            ValueError: for a beta schedule or prediction type this package has no formulas for.
        """
        kind = config.get("beta_schedule", "linear")
        start, end, steps = config["beta_start"], config["beta_end"], config["num_train_timesteps"]
        if config.get("prediction_type", "epsilon") != "epsilon":
            raise ValueError(
                f"prediction_type {config['prediction_type']!r} is not supported; the prior must predict epsilon."
            )
        if kind == "scaled_linear":
            return cls(torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2)
        if kind == "linear":
            return cls(torch.linspace(start, end, steps, dtype=torch.float64))
        raise ValueError(f"beta_schedule {kind!r} is not supported; use 'scaled_linear' or 'linear'.")

    def __len__(self) -> int:
        return len(self.log_sigmas)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        # `.half()` on a whole pipeline must not round the table; moving it to a device must work.
        device = fn(torch.empty(0, device=self.log_sigmas.device)).device
        self.log_sigmas = self.log_sigmas.to(device if device.type != "mps" else "cpu")
        return self

    def log_sigma(self, timestep: Tensor) -> Tensor:
        """log(sigma) at ``timestep`` (B,), clamped to [0, T - 1]."""
        table = self.log_sigmas.to(timestep.device)
        timestep = timestep.double().clamp(0, len(self) - 1)
        # A position that is not a number gives a level that is not one, and no index into the table.
        low = timestep.detach().nan_to_num().floor().long()
        high = (low + 1).clamp(max=len(self) - 1)
        return torch.lerp(table[low], table[high], timestep - low)

    def sigma(self, timestep: Tensor) -> Tensor:
        """w(t), the VE noise level (B,) in fp32."""
        return self.log_sigma(timestep).exp().float()

    def coef(self, timestep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(signal, noise, sigma), each (B,) fp32: sqrt(abar), sqrt(1 - abar) and their ratio noise / signal."""
        sigma = self.log_sigma(timestep).exp()
        signal = (1 + sigma**2).rsqrt()
        return signal.float(), (sigma * signal).float(), sigma.float()

    def timestep_of(self, sigma: Tensor) -> Tensor:
        """Inverse of ``sigma``: fractional timestep (B,) fp32 of noise level ``sigma`` (B,), clamped to the table."""
        table = self.log_sigmas.to(sigma.device)
        log_sigma = sigma.double().log().clamp(float(table[0]), float(table[-1]))
        high = torch.searchsorted(table, log_sigma.detach()).clamp(1, len(self) - 1)
        low = high - 1
        return (low + (log_sigma - table[low]) / (table[high] - table[low])).float()


def unsqueeze_like(vector: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1) so that it broadcasts over ``like``."""
    return vector.reshape(-1, *[1] * (like.ndim - 1))
