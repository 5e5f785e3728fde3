"""The algorithm, in one place: ``Method.restore``, the same for training and inference."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from idas_sr.methods.task import Task
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.noise import Origin
from idas_sr.realism import RealismMap, over_levels
from idas_sr.resample import upsample
from idas_sr.schedule import unsqueeze_like
from idas_sr.steering import Steering
from idas_sr.types import Anchor, Condition, Memory, Restored, Steered

Conditioner = Callable[[Tensor, LatentBackbone], Condition]
Guider = Callable[[Callable[[Tensor], Tensor], Condition], Tensor]


class Method(Task):
    """A one-step restoration method: where it anchors, and what it trains; the rest is given to it."""

    scale = 4
    estimator_class: ClassVar[type[nn.Module] | None] = None
    """Network of its own that this method works with beside the backbone."""
    choices: ClassVar[tuple[str, ...]] = ()
    """Constructor arguments that may differ from one restoration to the next, such as a number of steps."""
    kept: ClassVar[tuple[str, ...]] = ()
    """Further ones that decide a restoration: they are stored with what was trained."""
    slots: ClassVar[dict[str, tuple[str, dict[str, Any]]]] = {}
    """Slot (steering, conditioner, guider) -> name and arguments of what this method is usually built with there."""

    def __init__(self, backbone: LatentBackbone, conditioner: Conditioner, steering: Steering, guider: Guider) -> None:
        super().__init__()
        self.backbone, self.conditioner, self.steering, self.guider = backbone, conditioner, steering, guider

    @property
    def multiple(self) -> int:
        """Sides of the low-quality picture must be multiples of this many pixels."""
        return max(self.backbone.multiple * self.backbone.downsample // self.scale, 1)

    @abstractmethod
    def anchor(self, lq: Tensor, z_lq: Tensor, timestep: Tensor | None = None) -> Anchor:
        """Where the latent z_lq (B, C, h, w) of the picture lq (B, 3, H/s, W/s) is set down.

        Args:
            lq, z_lq: the picture and its latent.
            timestep: (B,) position to declare instead of the method's own.
        """

    def severity_map(self, lq: Tensor, z_lq: Tensor) -> Tensor:
        """(B, K, h', w') numbers whose mean over a picture decides its position; arguments as ``anchor``.

        One position per picture, however many tiles: a step of the timestep between tiles is a visible one.
        """
        return self.backbone.schedule.log_sigma(self.anchor(lq, z_lq).timestep).reshape(-1, 1, 1, 1)

    def anchor_tile(self, lq: Tensor, z_lq: Tensor, severity: Tensor) -> Anchor:
        """``anchor`` of a part of a picture whose mean ``severity_map`` is ``severity`` (B, K)."""
        sigma = severity[:, 0].exp()
        return replace(self.anchor(lq, z_lq), timestep=self.backbone.schedule.timestep_of(sigma))

    def encode(self, lq: Tensor) -> Tensor:
        """(B, 3, H/s, W/s) in [-1, 1] -> latent (B, C, h, w) of the enlarged picture."""
        return self.backbone.encode(upsample(lq, self.scale))

    def restore(
        self,
        lq: Tensor,
        realism: float | Tensor | RealismMap | Callable[[Anchor], Tensor] = 0.0,
        seeds: Sequence[int] | None = None,
        condition: Condition | None = None,
        origin: Origin = (0, 0),
        decode: bool = True,
        memory: Memory | None = None,
        severity: Tensor | None = None,
        timestep: Tensor | None = None,
        guider: Guider | None = None,
    ) -> Restored:
        """One network evaluation (more where the anchor names later timesteps) from a low-quality picture to a
        high-quality one.

        Args:
            lq: (B, 3, H/s, W/s) in [-1, 1], sides multiples of ``multiple``.
            realism: 0 stays on the anchor, 1 is the most generative setting; one number, (B,), a map, which costs
                one evaluation per level, or what gives (B,) for an anchor.
            seeds: of the fresh noise, one per sample; default 0, 1, 2 ...
            condition: instead of the conditioner's.
            origin: (row, column) of this window on the noise canvas, or one per sample.
            decode: False leaves ``hq`` None, for losses on latents.
            memory: of the same ``lq``: steps 1 and 2, and the conditioner, run once, however often it is restored.
            severity: (B, K) mean of ``severity_map`` over the picture that this is a tile of; None: this is all of it.
            timestep: (B,) position to anchor at, instead of the method's own; only without ``severity``.
            guider: instead of the method's, such as none while training.
        """
        memory = Memory() if memory is None else memory
        # 1. The picture as a latent.
        if memory.z_lq is None:
            memory.z_lq = self.encode(lq)
        # 2. Anchor: declare where the latent lies, how it deviates and which noise puts it there.
        if memory.anchor is None:
            z_lq = memory.z_lq
            if severity is None:
                memory.anchor = self.anchor(lq, z_lq, timestep)
            else:
                memory.anchor = self.anchor_tile(lq, z_lq, severity)
        z_lq, anchor = memory.z_lq, memory.anchor
        if callable(realism):
            realism = realism(anchor)
        seeds = range(len(lq)) if seeds is None else seeds
        if condition is None:
            condition = memory.condition = memory.condition or self.conditioner(lq, self.backbone)

        def denoise(level: float | Tensor) -> tuple[Tensor, Steered]:
            # 3. Steer: move position and state together.
            steered = self.steering(anchor, z_lq, level, seeds, self.backbone.schedule, origin)
            # 4. Denoise, told where the state is.
            return self._denoise(steered, condition, anchor, guider or self.guider), steered

        z0, steered = over_levels(denoise, realism, *z_lq.shape[-2:])
        # 5. Back to pixels.
        return Restored(self.backbone.decode(z0) if decode else None, z0, anchor, steered, z_lq)

    def _denoise(self, steered: Steered, condition: Condition, anchor: Anchor, guider: Guider) -> Tensor:
        def predict(state: Tensor, timestep: Tensor, sigma: Tensor) -> Tensor:
            return guider(
                lambda tokens: self.backbone.predict_z0(state, timestep, tokens, sigma, anchor.control), condition
            )

        state, sigma = steered.state, steered.sigma
        z0 = predict(state, steered.timestep, sigma)
        for position in anchor.later:
            # Euler's step of the probability-flow ODE to the next position: the noise that is left keeps its direction.
            timestep = torch.full_like(steered.timestep, position)
            level = self.backbone.schedule.sigma(timestep)
            state, sigma = z0 + unsqueeze_like(level / sigma, z0) * (state - z0), level
            z0 = predict(state, timestep, sigma)
        return z0

    def restore_image(
        self,
        lq: Tensor,
        realism: float | Tensor | RealismMap | Callable[[Anchor], Tensor] = 0.0,
        seeds: Sequence[int] | None = None,
        memory: Memory | None = None,
    ) -> Restored:
        """``restore`` without gradients, for people who want a picture."""
        with torch.inference_mode():
            return self.restore(lq, realism, seeds, memory=memory)
