"""Metrics as functions of tensors; files and protocols are not known here."""

from __future__ import annotations

from torch import Tensor

LUMA_BT601 = (65.481, 128.553, 24.966)
"""Weights of R, G, B in [0, 1] for luma in 16 .. 235 (ITU-R BT.601)."""


def luma(image: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> luma (B, H, W), 16 to 235."""
    weights = image.new_tensor(LUMA_BT601).double()
    return (image.double() * weights[:, None, None]).sum(1) + 16


def psnr_y(image: Tensor, reference: Tensor) -> Tensor:
    """(B,) decibels between lumas, peak 255, no border cut: the convention of the one-step papers."""
    error = (luma(image) - luma(reference)).square().mean((1, 2)).clamp_min(1e-12)
    return 10 * (255**2 / error).log10()
