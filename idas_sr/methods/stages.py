"""Stages that work with a backbone and hand it to the next one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from idas_sr.methods.task import Task
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.store import save_parts


class BackboneTask(Task):
    """Works with a backbone, which is its result.

    Args:
        backbone: trained, asked or only passed on.
        weights: of the losses.
    """

    def __init__(self, backbone: LatentBackbone, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.backbone, self.weights = backbone, weights

    def save(self, folder: Path) -> None:
        save_parts(folder, self.backbone)


class NetworkTask(BackboneTask):
    """Trains a network beside a backbone that stays as it is."""

    folder: ClassVar[str]
    """Of the network, in the result."""
    network: ModelMixin

    def trainable(self) -> dict[str, list[nn.Module]]:
        return {"generator": [self.network]}

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.network.save_pretrained(folder / self.folder)
