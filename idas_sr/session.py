"""One picture, many restorations: what does not depend on the dial is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from idas_sr.images import Picture, to_tensors
from idas_sr.pipeline import SEED, IDaSSROutput, IDaSSRPipeline
from idas_sr.types import Memory


class Session:
    """Restorations of one picture, each as ``pipeline(image, ...)`` would give it.

    The picture is encoded, anchored and looked at by a conditioner for the first one only, so another realism or seed
    costs steering, the UNet and the decoder. Memory: the latent and the anchor stay on the device as long as the
    session lives.

    Args:
        pipeline: whose networks and steering must not change while the session lives.
        image: one picture, see ``Picture``.

    Raises:
        ValueError: no picture, or several.
    """

    def __init__(self, pipeline: IDaSSRPipeline, image: Picture) -> None:
        pictures = to_tensors(image)
        if len(pictures) != 1:
            raise ValueError(f"A session has one picture, not {len(pictures)}.")
        self.pipeline, self.picture = pipeline, pictures[0]
        self.memory = Memory()

    def __call__(self, realism: Any = 0.5, seed: int = SEED, **options: Any) -> IDaSSROutput:
        """Restore: one picture and its trace; ``options`` as of the pipeline."""
        return self.pipeline(self.picture, realism=realism, seed=seed, memory=self.memory, return_trace=True, **options)  # type: ignore[return-value]

    @torch.inference_mode()
    def positions(self, realism: Sequence[float]) -> list[float]:
        """The timestep that the UNet is told at each realism; empty before the first restoration.

        Nothing is restored for it: of the anchor one cell is steered, since the position is that of the whole picture.
        """
        anchor, z_lq = self.memory.anchor, self.memory.z_lq
        if anchor is None or z_lq is None:
            return []
        noise, deviation = (None if part is None else part[..., :1, :1] for part in (anchor.noise, anchor.deviation))
        cell = replace(anchor, noise=noise, deviation=deviation)
        method = self.pipeline.restorer
        told = []
        for position in realism:
            level = self.pipeline.calibration.raw_of(position)
            steered = method.steering(cell, z_lq[..., :1, :1], level, [0], method.backbone.schedule, (0, 0))
            told.append(float(steered.timestep))
        return told
