"""How large an output is to be."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_TARGET = 65_535
"""Pixels of the longest side that may be asked for."""

STRETCH = 0.01
"""Relative difference of the aspect ratios up to which WxH may stretch a picture: rounding, and a few lost rows."""


@dataclass(frozen=True)
class TargetSize:
    """An output size that is given in pixels, see ``parse``.

    Attributes:
        width, height: in pixels, one of them None where it follows from the picture's shape.
        long, short: of the longer or the shorter side.
    """

    width: int | None = None
    height: int | None = None
    long: int | None = None
    short: int | None = None

    @classmethod
    def parse(cls, text: str) -> TargetSize:
        """From ``1920x1080`` (exactly), ``1920x`` or ``x1080`` (the other side follows), ``long:N`` or ``short:N``.

        Raises:
            ValueError: anything else, or a side of 0 or above MAX_TARGET.
        """
        if match := re.fullmatch(r"(\d{0,9})[xX×](\d{0,9})", text):
            width, height = (int(part) if part else None for part in match.groups())
            size = cls(width, height)
        elif match := re.fullmatch(r"(long|short):(\d{1,9})", text):
            size = cls(**{match.group(1): int(match.group(2))})
        else:
            size = cls()
        given = [side for side in (size.width, size.height, size.long, size.short) if side is not None]
        if not given:
            raise ValueError(f"A size is given as 1920x1080, 1920x, x1080, long:1920 or short:1080, not as {text!r}.")
        if not all(1 <= side <= MAX_TARGET for side in given):
            raise ValueError(f"A side has 1 to {MAX_TARGET} pixels, which {text!r} does not keep.")
        return size

    def resolve(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the output of a picture of this size.

        Raises:
            ValueError: the picture would have to be stretched, or a side would become too long.
        """
        if self.width is not None and self.height is not None:
            stretch = (self.width / width) / (self.height / height)
            # Half a pixel of rounding on either side is no stretching, however small the output.
            rounding = 0.5 / self.width + 0.5 / self.height
            if not 1 / (1 + STRETCH + rounding) <= stretch <= 1 + STRETCH + rounding:
                raise ValueError(
                    f"{width}x{height} has another shape than {self.width}x{self.height} and would be stretched; "
                    f"give one side only, {self.width}x or x{self.height}."
                )
            return self.height, self.width
        if self.width is not None:
            factor = self.width / width
        elif self.height is not None:
            factor = self.height / height
        elif self.long is not None:
            factor = self.long / max(height, width)
        else:
            assert self.short is not None
            factor = self.short / min(height, width)
        size = max(1, round(height * factor)), max(1, round(width * factor))
        if max(size) > MAX_TARGET:
            raise ValueError(f"The output would have a side of {max(size)} pixels, more than {MAX_TARGET}.")
        return size
