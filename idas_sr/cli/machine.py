"""Which device and precision a command line's words stand for on this machine."""

from __future__ import annotations

import torch

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: str) -> str:
    """The device that ``name`` stands for here.

    Raises:
        ValueError: this machine has none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    if not there[name]():
        raise ValueError(
            f"This machine has no {name} device that torch can use; leave --device out or give --device cpu."
        )
    return name


def choose_precision(name: str, device: str, model: str) -> str:
    """The precision that ``name`` stands for here.

    Raises:
        ValueError: fp16 on the CPU.
    """
    if name == "auto":
        # The small model gains little from half precision and stays equal on every device without it.
        half = "fp16" if device == "cuda" else "bf16"
        return half if model == "sd-turbo" else "fp32"
    if name == "fp16" and device == "cpu":
        raise ValueError("fp16 is for GPUs; use --precision bf16 or fp32 on the CPU.")
    return name
