"""Losses as functions of tensors; each returns one value per sample, (B,), so that realism can weigh it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idas_sr.lines import line_logs
from idas_sr.schedule import unsqueeze_like

ROUNDING = 2 / 255
"""One step of 8 bits, for pictures in [-1, 1]."""


def mean_of(values: Tensor) -> Tensor:
    """(B, ...) -> (B,)."""
    return values.flatten(1).mean(1)


def huber(prediction: Tensor, target: Tensor, delta: float = 0.2) -> Tensor:
    """(B, ...) Huber loss, quadratic within ``delta``."""
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


def calibration(error: Tensor, scales: tuple[int, ...] = (1, 2, 4)) -> Tensor:
    """(B,) how far an anchor's error in units of its level is from white noise (methods.md 9.6, L_cal).

    ``error`` (B, C, h, w) is (y - z_hq) / w. Three parts, each 0 for white noise: (mean per channel)^2, (power - 1)^2,
    and the squared correlation of neighbours along rows and along columns, at ``scales`` (cells averaged; the idea is
    pix2pix-zero's, the normalisation ours).
    """
    mean = error.mean((2, 3)).square().mean(1)
    return mean + (error.square().mean((1, 2, 3)) - 1).square() + autocorrelation(error, scales)


def autocorrelation(values: Tensor, scales: tuple[int, ...] = (1, 2, 4)) -> Tensor:
    """(B,) mean squared correlation between neighbouring cells of (B, C, h, w), over channels, directions and scales.

    About 1 / (h w) for white noise and at most 1. Scales that leave no neighbours are left out.
    """
    out = []
    for scale in scales:
        pooled = F.avg_pool2d(values, scale) if min(values.shape[-2:]) >= scale else values[..., :0, :0]
        for dim in (2, 3):
            if pooled.shape[dim] > 1:
                a, b = pooled.narrow(dim, 1, pooled.shape[dim] - 1), pooled.narrow(dim, 0, pooled.shape[dim] - 1)
                power = pooled.square().mean((2, 3))
                out.append(((a * b).mean((2, 3)) / (power + 1e-6)).square().mean(1))
    return torch.stack(out).mean(0) if out else values.new_zeros(len(values))


def vsd(z0: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """(B,) variational score distillation: what the prior would make of a latent against what the fake score would.

    Args:
        z0: (B, C, h, w) restored latent; the only one that the gradient reaches.
        real, fake: estimates of the clean latent, from the same noised ``z0``, by the prior and by the network that
            follows the restored latents.

    The gradient is that of DMD and OSEDiff, (fake - real) / mean |z0 - real| per sample, over their number. The
    value is mean |fake - real|: theirs, half the squared gradient, is normalised and says nothing about the distance.
    """
    with torch.no_grad():
        gradient = (fake - real) / unsqueeze_like(mean_of((z0 - real).abs()).clamp_min(1e-6), z0)
        value = mean_of((fake - real).abs())
    return value + mean_of((z0 - z0.detach()) * gradient)


def at_once(term: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """(B,) values of ``term`` at x (B, ...), their gradient worked out now and not in the backward pass.

    A network with switchable adapters must not be switched before the backward pass has gone through it.
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        values = term(leaf)
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach() + ((x - x.detach()) * gradient).flatten(1).sum(1)


def grid(error: Tensor, period: int = 8, cells: int = 6) -> Tensor:
    """(B,) mean size of the part of ``error`` (B, C, H, W) that repeats itself every ``period`` pixels (ours).

    A decoder that shuffles channels into pixels can print a pattern of its own cells everywhere, and losses on features
    reward it: a pattern passes for texture. Averaged over ``cells`` x ``cells`` periods, or the whole error where that
    is smaller, what is texture cancels and what is the same at the same place of every cell stays.

    Raises:
        ValueError: a side is less than one period.
    """
    cells = min(cells, *(side // period for side in error.shape[-2:]))
    if cells == 0:
        raise ValueError(f"The grid loss needs {period} pixels a side or more, got {tuple(error.shape[-2:])}.")
    error = error[..., : error.shape[-2] // period * period, : error.shape[-1] // period * period]
    mean = F.avg_pool2d(F.pixel_unshuffle(error, period), cells, stride=max(cells // 2, 1))
    phases = mean.unflatten(1, (error.shape[1], period**2))
    return mean_of((phases - phases.mean(2, keepdim=True)).abs())


def lines(image: Tensor, target: Tensor, delta: float = 0.3) -> Tensor:
    """(B,) Huber loss between the log line strengths (`idas_sr.lines`) of two pictures (B, C, H, W), averaged (ours).

    What `grid` cannot see: a decoder whose cells differ in gain prints lines whose sign follows the picture, so that
    they cancel in any average over places; their power does not. Fainter than the rounding to 8 bits does not count:
    the gradient of a logarithm would be largest where there is nothing to see.

    Raises:
        ValueError: a side is below 64 pixels.
    """
    image_logs, target_logs = (line_logs(picture.float(), ROUNDING) for picture in (image, target))
    return mean_of(huber(image_logs, target_logs, delta))


def hinge_generator(logits: Tensor) -> Tensor:
    """(B,) what the generator pays for logits of its own pictures."""
    return mean_of(-logits)


def hinge_critic(real: Tensor, fake: Tensor) -> Tensor:
    """(B,) what the critic pays for logits of real and restored pictures."""
    return mean_of(0.5 * (F.relu(1 - real) + F.relu(1 + fake)))


class FeatureDistance(nn.Module):
    """Squared distance of channel-normalised SqueezeNet 1.0 features, summed over layers, averaged over positions.

    As a loss it averages where the network was trained with maximum pooling, adds a layer and wants a random offset per
    step: a strided, max-pooled network otherwise prints its own grid into what it trains. ``yardstick`` is another one,
    to be measured with and never trained on.

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

    @classmethod
    def yardstick(cls, weights: str | Path | None) -> FeatureDistance:
        """The distance that every table calls `sqdist`."""
        return cls(weights, pooling="max", layers=(1, 3, 5, 7)).eval()

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
        return self.between(self.features(image[..., top:, left:]), self.features(target[..., top:, left:]))

    @staticmethod
    def between(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """(B,) distance of two results of ``features``."""
        pairs = zip(first, second, strict=True)
        return torch.stack([(a - b).float().square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)


class LearnedDistance(nn.Module):
    """LPIPS (Zhang et al. 2018) by the lpips package, which ships its learned weights but not the trunk's.

    Args:
        trunk: ``vgg`` (what InvSR, OSEDiff and S3Diff train with), ``alex`` or ``squeeze``.
        untrained: a trunk with random weights, for shape, memory and speed work.

    Raises:
        FileNotFoundError: saying where the trunk's weights must lie.
    """

    TRUNKS = {  # noqa: RUF012
        "vgg": "vgg16-397923af.pth",
        "alex": "alexnet-owt-7be5be79.pth",
        "squeeze": "squeezenet1_1-b8a52dc0.pth",
    }

    def __init__(self, trunk: str = "vgg", untrained: bool = False) -> None:
        super().__init__()
        path = Path(torch.hub.get_dir()) / "checkpoints" / self.TRUNKS[trunk]
        if not untrained and not path.is_file():
            raise FileNotFoundError(
                f"The weights of LPIPS's trunk are not at {path}; get https://download.pytorch.org/models/{path.name} "
                "and put it there, or do without LPIPS (loss.lpips=0)."
            )
        import lpips  # slow, and only training with this term needs it

        self.network = lpips.LPIPS(net=trunk, pnet_rand=untrained, verbose=False).eval()

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """(B,) distance of pictures (B, 3, H, W) in [-1, 1]."""
        # Small differences of large features: half precision would leave two digits.
        with torch.autocast(image.device.type, enabled=False):
            return self.network(image.float(), target.float()).flatten()
