"""The values that cross boundaries, and the legend of their shapes.

Letters used in every docstring:

    B  batch          C  latent channels      s  upscaling factor (``scale``)
    H, W  pixels of the high-quality image    h, w  cells of the latent grid
    L, D  number and width of the prompt tokens

Images are (B, 3, H, W) in [-1, 1] inside the package and [0, 1] in data and files; latents are already scaled by the
backbone. A timestep is a float index into ``alphas_cumprod``: 0 is almost clean, T - 1 is almost noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Anchor:
    """Where a low-quality latent is set down on the diffusion trajectory.

    The anchored state is ``z_lq - deviation + sigma(timestep) * noise`` in VE coordinates.

    Attributes:
        timestep: (B,) float.
        noise: (B, C, h, w) inversion noise, or None where a method adds none.
        deviation: (B, C, h, w) estimate of z_lq - z_hq, or None.
        residual: (B,) estimate of rms(z_lq - z_hq - deviation), or None.
        power: (B, 1, h/4, w/4) map of the squared noise level, whose mean is that of ``timestep``, or None.
        spread: (B, C, h, w) standard deviation of the inversion noise, whose mean is ``noise``, or None.
        later: timesteps of further evaluations, descending and all below ``timestep``; none for a one-step method.
        control: residuals for the UNet's skip connections at its first two resolutions, finest first, or None.
    """

    timestep: Tensor
    noise: Tensor | None = None
    deviation: Tensor | None = None
    residual: Tensor | None = None
    control: tuple[Tensor, ...] | None = None
    power: Tensor | None = None
    spread: Tensor | None = None
    later: tuple[float, ...] = ()


@dataclass
class Memory:
    """What all restorations of one picture have in common, whatever their realism and seed.

    The first restoration fills it, later ones skip what is in it. It belongs to one ``lq``; given with another one, the
    result is wrong.

    Attributes:
        z_lq: (B, C, h, w) latent of the upsampled input.
        anchor: what the method declared.
        condition: what the conditioner said.
    """

    z_lq: Tensor | None = None
    anchor: Anchor | None = None
    condition: Condition | None = None


@dataclass(frozen=True)
class Steered:
    """What steering makes of an anchor for one value of realism.

    Attributes:
        timestep: (B,) position t_r the UNet is told.
        sigma: (B,) noise level of the VP conversion and the x0 formula; w(timestep) for every paired steering.
        keep: (B,) weight a_r of the anchor's noise.
        fresh: (B,) weight b_r of the fresh noise.
        state: (B, C, h, w) y_r in VE coordinates.
        realism: (B,) that was steered to; None where nothing can be steered.
    """

    timestep: Tensor
    sigma: Tensor
    keep: Tensor
    fresh: Tensor
    state: Tensor
    realism: Tensor | None = None


@dataclass(frozen=True)
class Condition:
    """Tokens the UNet is told: positive (B, L, D); negative and empty (B, L, D), or None, for guidance."""

    positive: Tensor
    negative: Tensor | None = None
    empty: Tensor | None = None

    def detach(self) -> Condition:
        """The same tokens without their gradient."""
        return self._each(Tensor.detach)

    def averaged(self) -> Condition:
        """The mean over the batch, as a batch of one: of tokens that are all equal, exactly these."""
        return self._each(lambda tokens: tokens[:1] + (tokens - tokens[:1]).mean(0, keepdim=True))

    def expand(self, count: int) -> Condition:
        """Of a batch of one: the same for ``count`` pictures."""
        return self._each(lambda tokens: tokens.expand(count, -1, -1))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        negative, empty = (None if tokens is None else change(tokens) for tokens in (self.negative, self.empty))
        return Condition(change(self.positive), negative, empty)


@dataclass(frozen=True)
class Restored:
    """Result of one restoration.

    Attributes:
        hq: (B, 3, H, W) in [-1, 1], not clamped; None if decoding was not asked for.
        z0: (B, C, h, w) restored latent.
        anchor: what the method declared.
        steered: what steering made of it (t_r, a_r, b_r and the state).
        z_lq: (B, C, h, w) latent of the upsampled input.
    """

    hq: Tensor | None
    z0: Tensor
    anchor: Anchor
    steered: Steered
    z_lq: Tensor
