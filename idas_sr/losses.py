"""Losses as functions of tensors; each returns one value per sample, (B,), so that realism can weigh it."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mean_of(values: Tensor) -> Tensor:
    """(B, ...) -> (B,)."""
    return values.flatten(1).mean(1)


def huber(prediction: Tensor, target: Tensor, delta: float = 0.2) -> Tensor:
    """(B,) Huber loss, quadratic within ``delta``."""
    return F.huber_loss(prediction, target, reduction="none", delta=delta)


def ranking(prediction: Tensor, target: Tensor, margin: float = 0.1) -> Tensor:
    """Mean over pairs of relu(min(margin, |target gap|) - sign(target gap) * predicted gap)  (methods.md 9.2)."""
    gap, predicted = target[:, None] - target[None], prediction[:, None] - prediction[None]
    return F.relu(gap.abs().clamp(max=margin) - gap.sign() * predicted).mean()


def power_likelihood(power: Tensor, deviation: Tensor) -> Tensor:
    """(B,) negative log-likelihood, up to constants, of a Gaussian deviation (B, C, h, w) with variance ``power``.

    ``power`` (B, 1, h', w') is compared with the mean square over the cells that each of its own covers. Best where it
    equals the expected square, so its mean is the expected square of the picture's rms.
    """
    cell = -(-deviation.shape[-2] // power.shape[-2])
    square = F.avg_pool2d(deviation.square().mean(1, keepdim=True), cell, ceil_mode=True)
    return mean_of(power.log() + square / power)


def calibration(error: Tensor) -> Tensor:
    """(B,) how far an anchor's error in units of its level is from mean 0 and power 1 (methods.md 9.6, L_cal).

    ``error`` (B, C, h, w) is (y - z_hq) / w. Second moments only; whiteness is left to the critic.
    """
    mean = error.mean((2, 3)).square().mean(1)
    return mean + (error.square().mean((1, 2, 3)) - 1).square()


def hinge_generator(logits: Tensor) -> Tensor:
    """(B,) what the generator pays for logits of its own pictures."""
    return mean_of(-logits)


def hinge_critic(real: Tensor, fake: Tensor) -> Tensor:
    """(B,) what the critic pays for logits of real and restored pictures."""
    return mean_of(0.5 * (F.relu(1 - real) + F.relu(1 + fake)))


class FeatureDistance(nn.Module):
    """Squared distance of channel-normalised SqueezeNet 1.0 features, summed over layers, averaged over positions.

    As a loss it averages where the network was trained with maximum pooling, adds a layer and wants a random offset per
    step: a strided, max-pooled network otherwise prints its own grid into what it trains. With ``pooling="max"`` and
    ``layers=(1, 3, 5, 7)`` it is the yardstick `sqdist`, to be measured with and never trained on.

    Args:
        weights: file with the state dict (``conv1.*``, ``fire.i.squeeze|e1|e3.*``; input BGR minus (104, 117, 123)).
        pooling: ``average`` or ``max``.
        layers: fire modules whose outputs count, beside the first convolution.

    Raises:
        FileNotFoundError: saying where the weights come from.
    """

    mean: Tensor

    def __init__(
        self, weights: str | Path | None, pooling: str = "average", layers: tuple[int, ...] = (0, 1, 3, 5, 7)
    ) -> None:
        super().__init__()
        if weights is None or not Path(weights).is_file():
            raise FileNotFoundError(
                f"SqueezeNet 1.0 weights were not found at {weights}; set feature_weights=FILE (docs/training.md says "
                "which file), or do without the feature distance (loss.feature=0)."
            )
        self.pool = {"average": F.avg_pool2d, "max": F.max_pool2d}[pooling]
        self.layers = layers
        for name, tensor in torch.load(weights, map_location="cpu", weights_only=True).items():
            self.register_buffer(name.replace(".", "_"), tensor.float(), persistent=False)
        self.register_buffer("mean", torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1), persistent=False)

    def _conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return F.relu(F.conv2d(x, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"), stride, padding))

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> features of the layers, each normalised over its channels."""
        x = self._conv(image.flip(1) * 127.5 + 127.5 - self.mean, "conv1", stride=2)
        out = [x]
        for i in range(8):
            if i in (0, 3, 7):
                x = self.pool(x, 3, 2, ceil_mode=True)
            x = self._conv(x, f"fire_{i}_squeeze")
            x = torch.cat([self._conv(x, f"fire_{i}_e1"), self._conv(x, f"fire_{i}_e3", padding=1)], dim=1)
            if i in self.layers:
                out.append(x)
        return [f / (f.float().square().sum(1, keepdim=True) + 1e-6).sqrt() for f in out]

    def forward(self, image: Tensor, target: Tensor, offset: tuple[int, int] = (0, 0)) -> Tensor:
        """(B,) distance of pictures (B, 3, H, W) in [-1, 1], both cut by ``offset`` (rows, columns) first."""
        top, left = offset
        pairs = zip(self.features(image[..., top:, left:]), self.features(target[..., top:, left:]), strict=True)
        return torch.stack([(a - b).float().square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)
