"""What is too large to be meant, or for this machine: refused before the memory is asked for."""

from __future__ import annotations

import torch

from idas_sr.planning import free_memory

MAX_SIDE = 100_000
"""Pixels of an input's longer side. A damaged header claims millions, and some formats fill up what is not there."""

DECODING = 28
"""Bytes per pixel while a file is read: Pillow's pixels, their copy, and single precision with transparency."""

RESTORING = 60
"""Bytes per output pixel while a restoration is put together: five copies in single precision."""


class UnfitError(ValueError):
    """A sound picture that cannot be restored as asked; the message is a part of a sentence."""


def check_input(height: int, width: int) -> None:
    """Refuse to decode a picture of this size.

    Raises:
        UnfitError: a side is absurd, or this machine has not the memory.
    """
    if max(height, width) > MAX_SIDE:
        raise UnfitError(f"it claims {width}x{height} pixels, and a side may have {MAX_SIDE}")
    _check_memory(height, width, DECODING, "it has")


def check_output(height: int, width: int) -> None:
    """Refuse to make an output of this size.

    Raises:
        UnfitError: this machine has not the memory.
    """
    _check_memory(height, width, RESTORING, "its output would have")


def _check_memory(height: int, width: int, pixel_bytes: int, words: str) -> None:
    needed, free = height * width * pixel_bytes, free_memory(torch.device("cpu"))
    if needed > free:
        raise UnfitError(
            f"{words} {width}x{height} pixels, which take {needed / 2**30:.1f} GiB of memory "
            f"where {free / 2**30:.1f} are free"
        )
