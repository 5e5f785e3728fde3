"""How predictions under different prompts are combined."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from idas_sr.types import Condition


class Positive:
    """One prediction under the positive prompt: one UNet evaluation."""

    def __call__(self, predict: Callable[[Tensor], Tensor], condition: Condition) -> Tensor:
        """``predict`` maps tokens (B, L, D) to z0 (B, C, h, w)."""
        return predict(condition.positive)


GUIDERS = {"positive": Positive}
