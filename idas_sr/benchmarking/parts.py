"""Restoration cut into the parts that are timed one by one."""

from __future__ import annotations

import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from idas_sr.benchmarking.timing import Run
from idas_sr.imagefiles.png import LEVEL
from idas_sr.images import to_pil, to_tensors
from idas_sr.methods.base import Method


def parts_of(method: Method, lq: Tensor, realism: float = 0.5, seed: int = 42) -> dict[str, Run]:
    """Encode, MINE, steer, UNet and decode of (1, 3, h, w) in [0, 1], each given what the one before it made."""
    backbone, signed = method.backbone, lq.to(method.backbone.latents_mean.device) * 2 - 1
    schedule = backbone.schedule
    with torch.inference_mode():
        z_lq = method.encode(signed)
        anchor = method.anchor(signed, z_lq)
        steered = method.steering(anchor, z_lq, realism, [seed], schedule, (0, 0))
        tokens = method.conditioner(signed, backbone).positive
    told = (steered.state, steered.timestep, tokens, steered.sigma, anchor.control)
    return {
        "encode": lambda: method.encode(signed),
        "MINE": lambda: method.anchor(signed, z_lq),
        "steer": lambda: method.steering(anchor, z_lq, realism, [seed], schedule, (0, 0)),
        "UNet": lambda: backbone.predict_z0(*told),
        "decode": lambda: backbone.decode(z_lq),
    }


def io_of(lq: Tensor, hq: Tensor) -> dict[str, Run]:
    """Reading a PNG of ``lq`` and writing one of ``hq``, (1, 3, h, w) in [0, 1], without the disk."""
    buffer = io.BytesIO()
    to_pil(lq[0]).save(buffer, "PNG")
    encoded = buffer.getvalue()

    def read() -> Any:
        with Image.open(io.BytesIO(encoded)) as image:
            return to_tensors(image)

    return {"read PNG": read, "write PNG": lambda: to_pil(hq[0]).save(io.BytesIO(), "PNG", compress_level=LEVEL)}
