"""Half precision for the small autoencoder: its blocks in half, what runs past them in fp32."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import Tensor, nn

MARK = "is_end_of_fp32_stream"
"""Attribute of the modules that have been prepared."""


def prepare(vae: AutoencoderTiny) -> None:
    """Let the autoencoder's residual stream stay in fp32 whatever precision its blocks have; twice is as once.

    Without normalisation layers every block's rounding stays in a stream of half precision, so blocks compute in bf16
    and add in fp32. In fp32 nothing changes but that activations overwrite their input.
    """
    for part in (vae.encoder, vae.decoder):
        for module in part.modules():
            if isinstance(module, nn.ReLU):
                # Its gradient needs only its output, so training may overwrite too.
                module.inplace = True
        for layer in part.layers:
            convolutions = layer.conv if isinstance(layer, AutoencoderTinyBlock) else layer
            if isinstance(convolutions, nn.Sequential | nn.Conv2d) and not hasattr(convolutions, MARK):
                setattr(convolutions, MARK, layer in (part.layers[0], part.layers[-1]))
                convolutions.register_forward_pre_hook(_cast_input)
                convolutions.register_forward_hook(_cast_output)
    keep_ends(vae)


def keep_ends(vae: AutoencoderTiny) -> None:
    """First and last convolutions, which make and read the stream, in fp32; to be repeated after ``vae.to(dtype)``."""
    for module in vae.modules():
        if getattr(module, MARK, False):
            module.float()


def _weight_dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _cast_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].to(_weight_dtype(module)), *inputs[1:])


def _cast_output(module: nn.Module, _: Any, output: Tensor) -> Tensor:
    # Under autocast weights are fp32 and the output is not: that is the trainer's choice, left alone.
    return output if _weight_dtype(module) == torch.float32 else output.float()
