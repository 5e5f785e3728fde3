"""CHARIOT: from an anchor and one scalar to a position and a state that belong together (methods.md 9.4).

Everything happens in VE coordinates, where the steered state is ``y_r = c + a_r * noise + b_r * fresh`` with
``c = z_lq - deviation``. What is known of the paper is its idea, rescheduling and noise interpolation by one scalar;
the formulas are ours.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from idas_sr.noise import Origin, canvas_noise
from idas_sr.schedule import NoiseSchedule, unsqueeze_like
from idas_sr.types import Anchor, Steered


class EndPoint:
    """w_end, the noise level at realism 1.

    Args:
        kind: ``relative``: kappa times the anchor's level, so that the share of fresh noise is the same for every
            severity; ``absolute``: that of timestep ``t_end`` for every image.
        kappa: factor of the relative end point, at least 1.
        t_cap: timestep the relative end point never passes.
        t_end: timestep of the absolute end point.

    Raises:
        ValueError: unknown kind or kappa below 1.
    """

    def __init__(self, kind: str = "relative", kappa: float = 2.4, t_cap: float = 599.0, t_end: float = 499.0) -> None:
        if kind not in ("relative", "absolute"):
            raise ValueError(f"end point must be 'relative' or 'absolute', not {kind!r}.")
        if kappa < 1:
            raise ValueError(f"kappa must be at least 1, not {kappa}: realism cannot take noise away from the anchor.")
        self.kind, self.kappa, self.t_cap, self.t_end = kind, kappa, t_cap, t_end

    def __call__(self, sigma: Tensor, schedule: NoiseSchedule) -> Tensor:
        """(B,) level of the anchor -> (B,) level of the end point, never below the anchor's."""
        if self.kind == "absolute":
            end = schedule.sigma(torch.full_like(sigma, self.t_end))
        else:
            end = torch.minimum(self.kappa * sigma, schedule.sigma(torch.full_like(sigma, self.t_cap)))
        return torch.maximum(end, sigma)


def reschedule_s1(sigma: Tensor, end: Tensor, realism: Tensor, schedule: NoiseSchedule) -> Tensor:
    """S-1: t linear in r."""
    first, last = schedule.timestep_of(sigma), schedule.timestep_of(end)
    # As a ratio of levels: where the end is no higher than the anchor nothing may wobble by a rounding error.
    return sigma * (schedule.sigma(first + realism * (last - first)) / schedule.sigma(first))


def reschedule_s2(sigma: Tensor, end: Tensor, realism: Tensor, schedule: NoiseSchedule) -> Tensor:
    """S-2: log w_r linear in r, equal ratios of SNR for equal moves of the dial."""
    # As a power of the ratio, for the reason of S-1.
    return sigma * (end / sigma) ** realism


def reschedule_s3(sigma: Tensor, end: Tensor, realism: Tensor, schedule: NoiseSchedule) -> Tensor:
    """S-3: w_r^2 = w^2 + r (w_end^2 - w^2), the power of fresh noise linear in r: fast at the start."""
    return (sigma**2 + realism * (end**2 - sigma**2)).sqrt()


def reschedule_s4(sigma: Tensor, end: Tensor, realism: Tensor, schedule: NoiseSchedule) -> Tensor:
    """S-4: w_r^2 = w^2 + r^2 (w_end^2 - w^2), the amplitude of fresh noise linear in r."""
    return (sigma**2 + realism**2 * (end**2 - sigma**2)).sqrt()


RESCHEDULES = {"s1": reschedule_s1, "s2": reschedule_s2, "s3": reschedule_s3, "s4": reschedule_s4}
"""Name -> (B,) levels of anchor and end, realism in [0, 1] and the schedule to the (B,) level w_r between them."""
NEEDED = {
    "noise": "inversion noise and this anchor has none; use a method that estimates it",
    "spread": "the spread of the inversion noise; use a method with a Gaussian head",
    "deviation": "the deviation beside the inversion noise; use a method that estimates it, or steering n2",
}
"""Part of an anchor -> what is said where it is missing."""


class Steering(ABC):
    """One scalar to a position and a state.

    Args:
        reschedule: one of RESCHEDULES.
        round_timestep: snap t_r to an integer (the noise level follows the rounded one); off by default.
        end_point: arguments of ``EndPoint``.
    """

    paired: ClassVar[bool]
    """Whether the state's noise level is the one that the declared timestep promises, for every realism."""
    dial: bool = True
    """Whether realism changes anything."""
    needs: ClassVar[tuple[str, ...]] = ("noise",)
    """Parts of the anchor, of NEEDED, that it works with."""

    def __init__(self, reschedule: str = "s2", round_timestep: bool = False, **end_point: object) -> None:
        if reschedule not in RESCHEDULES:
            raise ValueError(f"reschedule must be one of {', '.join(RESCHEDULES)}, not {reschedule!r}.")
        self.reschedule, self.round_timestep = RESCHEDULES[reschedule], round_timestep
        self.end_point = EndPoint(**end_point)  # type: ignore[arg-type]

    def __call__(
        self,
        anchor: Anchor,
        z_lq: Tensor,
        realism: float | Tensor,
        seeds: Sequence[int],
        schedule: NoiseSchedule,
        origin: Origin = (0, 0),
    ) -> Steered:
        """Steer an anchor.

        Args:
            anchor: what the method declared; untouched.
            z_lq: (B, C, h, w).
            realism: in [0, 1], one number or (B,).
            seeds: one per sample, of the fresh noise; not read where realism is 0.
            schedule: of the backbone.
            origin: (row, column) of this window on the noise canvas, or one per sample, for tiles.

        Raises:
            ValueError: realism outside [0, 1], or an anchor without what this steering needs.
        """
        for part in self.needs:
            if getattr(anchor, part) is None:
                raise ValueError(f"{type(self).__name__} needs {NEEDED[part]}.")
        r = torch.as_tensor(realism, dtype=torch.float32, device=z_lq.device).expand(len(z_lq))
        if not bool(((r >= 0) & (r <= 1)).all()):
            raise ValueError(f"realism must lie between 0 and 1, not {realism}.")
        # Detached: restoration losses must not move the position, which would collapse to whatever is easiest (DM-SR).
        timestep = anchor.timestep.detach()
        if self.round_timestep:
            # Before the anchor's noise is weighed: rounded later, realism 0 would need fresh noise to reach its level.
            timestep = timestep.round()
        sigma = schedule.sigma(timestep)
        position = self._position(timestep, sigma, r, schedule)
        signal, _, target = schedule.coef(position)
        keep, fresh, level = self._weights(sigma, target, r)
        state = self._centre(anchor, z_lq, signal, keep / sigma)
        if anchor.noise is not None:
            state = state + unsqueeze_like(keep, state) * anchor.noise
        if bool((fresh != 0).any()):
            # Not even drawn at realism 0, where the result must not depend on a seed.
            _, channels, height, width = state.shape
            drawn = canvas_noise(seeds, (channels, height, width), origin).to(state)
            state = state + unsqueeze_like(fresh, state) * self._shaped(drawn, anchor)
        return Steered(self._declared(timestep, position), level, keep, fresh, state, r if self.dial else None)

    def _position(self, timestep: Tensor, sigma: Tensor, realism: Tensor, schedule: NoiseSchedule) -> Tensor:
        target = schedule.timestep_of(self.reschedule(sigma, self.end_point(sigma, schedule), realism, schedule))
        # Exactly the anchor's at 0: no round trip through exp and log.
        position = torch.where(realism == 0, timestep, torch.maximum(target, timestep))
        return position.round() if self.round_timestep else position

    def _centre(self, anchor: Anchor, z_lq: Tensor, signal: Tensor, share: Tensor) -> Tensor:
        """(B, C, h, w) that noise is added to; ``signal`` (B,) is the schedule's at t_r, ``share`` (B,) is a_r / w."""
        return z_lq if anchor.deviation is None else z_lq - anchor.deviation

    def _shaped(self, drawn: Tensor, anchor: Anchor) -> Tensor:
        """White noise (B, C, h, w) as this steering adds it."""
        return drawn

    def _declared(self, timestep: Tensor, position: Tensor) -> Tensor:
        """(B,) timestep told to the UNet."""
        return position

    @abstractmethod
    def _weights(self, sigma: Tensor, target: Tensor, realism: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From the anchor's level, that of t_r, and r: (a_r, b_r, level of the x0 formula), each (B,)."""


class Churn(Steering):
    """N1: the exact forward kernel from w to w_r: the anchor stays whole and independent noise is added.

    Pairing is inherited from the anchor: if its error has level w, the state's has w_r, whatever the deviation's share.
    """

    paired = True

    def _weights(self, sigma: Tensor, target: Tensor, realism: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return sigma, (target**2 - sigma**2).clamp_min(0).sqrt(), target


class SphericalOnU(Steering):
    """N3: c + w_r (cos(theta) u + sin(theta) fresh), theta = r pi / 2: at realism 1 no noise of the anchor is left.

    The deviation stays compensated. The level is the declared one where u has unit power and the deviation is known
    exactly; with an error e and the u of I-2 it is w_r^2 + e^2 (1 - cos(theta)^2 w_r^2 / w^2), so it is not paired.
    """

    paired = False
    needs: ClassVar[tuple[str, ...]] = ("noise", "deviation")

    def _weights(self, sigma: Tensor, target: Tensor, realism: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        angle = realism * (math.pi / 2)
        return target * angle.cos().clamp_min(0), target * angle.sin(), target


class Spherical(SphericalOnU):
    """N2: z_lq + w_r (cos(theta) eta + sin(theta) fresh), eta = u - deviation / w, the whole noise of the anchor.

    eta carries minus the deviation, so with eta the compensation fades, and at realism 1 all of the deviation is back:
    w_r^2 + rms(deviation)^2 where w_r^2 is declared.
    """

    needs = ("noise",)

    def _centre(self, anchor: Anchor, z_lq: Tensor, signal: Tensor, share: Tensor) -> Tensor:
        return z_lq if anchor.deviation is None else z_lq - unsqueeze_like(share, z_lq) * anchor.deviation


class Linear(Steering):
    """N4: the naive w_r ((1 - r) noise + r fresh), kept as an ablation: its energy dips in the middle."""

    paired = False

    def _weights(self, sigma: Tensor, target: Tensor, realism: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return target * (1 - realism), target * realism, target


class LabelOnly(Steering):
    """Control: only the timestep that the UNet is told moves; state and x0 formula stay at the anchor."""

    paired = False

    def _weights(self, sigma: Tensor, target: Tensor, realism: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return sigma, torch.zeros_like(sigma), sigma


class NoiseOnly(Steering):
    """Control: only the state moves, as in N1; the UNet and the x0 formula are told the anchor's position."""

    paired = False

    def _declared(self, timestep: Tensor, position: Tensor) -> Tensor:
        return timestep

    def _weights(self, sigma: Tensor, target: Tensor, realism: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return sigma, (target**2 - sigma**2).clamp_min(0).sqrt(), sigma


class Temperature(NoiseOnly):
    """N5: the position stays and the noise is drawn from the anchor's Gaussian, w (mean + tau spread x).

    DIFFERS: methods.md counts N5 as unpaired, which it is where tau moves; InvSR's predictor learns the pair at tau 1.

    Args:
        tau: temperature, 1 in InvSR; None: it is the realism, from the mean at 0 to a sample at 1.
    """

    needs = ("noise", "spread")

    def __init__(self, tau: float | None = None) -> None:
        super().__init__()
        if tau is not None and not 0 <= tau <= 1:
            raise ValueError(f"tau must lie between 0 and 1, not {tau}.")
        self.tau, self.dial = tau, tau is None

    def _weights(self, sigma: Tensor, target: Tensor, realism: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return sigma, sigma * (realism if self.tau is None else self.tau), sigma

    def _shaped(self, drawn: Tensor, anchor: Anchor) -> Tensor:
        assert anchor.spread is not None
        return anchor.spread * drawn


FORMULAS: dict[str, float | None] = {"declared": None, "rcod-o": 200.0, "rcod-s": 249.0}
"""Variants of the x0 formula -> timestep of its constant level, or None."""


class AsIs(Steering):
    """The latent itself is declared to be the VP state at the anchor's timestep; no noise is added (OSEDiff, S3Diff).

    Args:
        formula: timestep whose level the x0 formula uses. ``declared``: the one that the UNet is told (RCOD's
            equation); ``rcod-o``, ``rcod-s``: 200 and 249 whatever it is told, as in RCOD's released code for its two
            hosts.

    Raises:
        ValueError: unknown formula.
    """

    paired = False
    dial = False
    needs = ()

    def __init__(self, formula: str = "declared") -> None:
        super().__init__()
        if formula not in FORMULAS:
            raise ValueError(f"formula must be one of {', '.join(FORMULAS)}, not {formula!r}.")
        self.constant = FORMULAS[formula]

    def _position(self, timestep: Tensor, sigma: Tensor, realism: Tensor, schedule: NoiseSchedule) -> Tensor:
        return timestep if self.constant is None else torch.full_like(timestep, self.constant)

    def _declared(self, timestep: Tensor, position: Tensor) -> Tensor:
        return timestep

    def _centre(self, anchor: Anchor, z_lq: Tensor, signal: Tensor, share: Tensor) -> Tensor:
        # In VE coordinates: the backbone multiplies by the signal again on the way into the UNet.
        return z_lq / unsqueeze_like(signal, z_lq)

    def _weights(self, sigma: Tensor, target: Tensor, realism: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros_like(sigma), torch.zeros_like(sigma), target


STEERINGS: dict[str, type[Steering]] = {
    "n1": Churn,
    "n2": Spherical,
    "n3": SphericalOnU,
    "n4": Linear,
    "label-only": LabelOnly,
    "noise-only": NoiseOnly,
    "temperature": Temperature,
    "as-is": AsIs,
}
