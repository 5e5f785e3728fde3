"""How like its clean one the latent of a picture is, guessed from the picture (RCOD's metric estimation module)."""

from __future__ import annotations

from typing import Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.mine import SeverityHead


class SimilarityEstimator(ModelMixin, ConfigMixin):
    """M_L of a low-quality picture.

    DIFFERS: RCOD puts one linear layer on S3Diff's frozen degradation estimator; this is MINE's severity head on the
    picture, trained from scratch, whose share is read as the similarity.

    Args:
        width: of the head.
        similarity_min, similarity_max: range of M_L on training pairs.
    """

    @register_to_config
    def __init__(self, width: int = 32, similarity_min: float = 0.0, similarity_max: float = 1.0) -> None:
        super().__init__()
        self.head = SeverityHead(3, width)

    @classmethod
    def for_backbone(cls, backbone: LatentBackbone, scale: int, **args: Any) -> SimilarityEstimator:
        """It looks at the picture alone and fits every backbone."""
        return cls(**args)

    def map(self, lq: Tensor) -> Tensor:
        """(B, 3, H/s, W/s) in [-1, 1] -> (B, 1, h', w'), of whose mean M_L is the sigmoid."""
        return self.head(lq.to(self.dtype))[1]

    def forward(self, lq: Tensor) -> Tensor:
        """(B, 3, H/s, W/s) in [-1, 1] -> M_L (B,) in (0, 1)."""
        return self.map(lq).mean((1, 2, 3)).sigmoid()

    def set_range(self, low: float, high: float) -> None:
        """What was measured on training pairs."""
        self.register_to_config(similarity_min=low, similarity_max=high)
