"""How blurred and how noisy a picture is: the network that guides S3Diff."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from idas_sr.networks.checkpoints import load_trained

FOLDER = "degradation_scores"
"""Of the network, in the result of the stage that trains it."""

Activation = Callable[[Tensor], Tensor]

GAIN = 12.0
"""Of fine detail: one grey level becomes a tenth."""


def fine_detail(image: Tensor) -> Tensor:
    """What a picture (B, 3, h, w) in [-1, 1] differs by from the mean of 3 x 3 pixels, enlarged, within (-1, 1).

    Noise and the traces of compression are a few grey levels high; a network without normalisation would hardly begin
    to see them.
    """
    smooth = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    return (GAIN * (image - smooth)).tanh()


class Residual(nn.Module):
    """Two convolutions that start as nothing: without normalisation a deep network has to start as a shallow one.

    Args:
        channels: of input and output.
        between: activation between the convolutions.
        before: activation before them; None: none.
    """

    def __init__(self, channels: int, between: Activation = F.relu, before: Activation | None = None) -> None:
        super().__init__()
        self.between, self.before = between, before
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w), twice."""
        return x + self.second(self.between(self.first(x if self.before is None else self.before(x))))


class DegradationScores(ModelMixin, ConfigMixin):
    """Two independent branches of residual convolutions without normalisation, pooled: blur and noise, 0 to 1.

    The layout of MM-RealSR's estimator as S3Diff uses it (methods.md 2.1): four stages of two blocks, twice the width
    and half the resolution in the last. DIFFERS: that one was trained by metric learning, this one on synthetic levels;
    it also sees fine detail enlarged (``fine_detail``), and every block starts as nothing.

    Args:
        width: channels of the first three stages; S3Diff has 64.
        hidden: of the two-layer head; S3Diff has 512.
    """

    @register_to_config
    def __init__(self, width: int = 64, hidden: int = 512) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_Branch(width, hidden) for _ in range(2))

    def forward(self, lq: Tensor) -> Tensor:
        """(B, 3, h, w) in [0, 1], not enlarged -> (B, 2) in [0, 1]: blur and noise, higher is worse."""
        seen = torch.cat([lq, fine_detail(2 * lq)], dim=1).to(self.dtype)
        return torch.cat([branch(seen) for branch in self.branches], dim=1).float().sigmoid()


class _Branch(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        stages = [nn.Sequential(Residual(n), Residual(n)) for n in (width, width, width, 2 * width)]
        self.enter = nn.Conv2d(6, width, 3, padding=1)
        self.fine = nn.Sequential(*stages[:3])
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.coarse = stages[3]
        self.head = nn.Sequential(nn.Linear(2 * width, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.coarse(self.down(self.fine(self.enter(x))))
        return self.head(x.mean((2, 3)))


def load_degradation_scores(run: str | Path) -> DegradationScores:
    """The network that the run ``run`` of configs/train/degradation-scores.yaml trained, frozen.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: its weights are not those of its configuration.
    """
    hint = (
        "configs/train/degradation-scores.yaml and give its run directory as estimator.scores (null: random weights, "
        "to try things)"
    )
    network: DegradationScores = load_trained(DegradationScores, run, FOLDER, "degradation estimator", hint)
    return network
