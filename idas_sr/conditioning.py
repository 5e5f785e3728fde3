"""What the UNet is told: conditioners turn a picture, or nothing, into prompt tokens."""

from __future__ import annotations

from torch import Tensor

from idas_sr.networks.backbone import LatentBackbone
from idas_sr.types import Condition


class Prompt:
    """The same cached prompt for every picture.

    Args:
        positive, negative: names of token sequences of the backbone; None: its first one, and no negative.
    """

    def __init__(self, positive: str | None = None, negative: str | None = None) -> None:
        self.positive, self.negative = positive, negative

    def __call__(self, lq: Tensor, backbone: LatentBackbone) -> Condition:
        """(B, 3, h, w) -> tokens (B, L, D)."""
        batch = len(lq)
        positive = self.positive or backbone.prompt.config["names"][0]
        negative = None if self.negative is None else backbone.embed(self.negative, batch)
        return Condition(backbone.embed(positive, batch), negative)


CONDITIONERS = {"prompt": Prompt}
