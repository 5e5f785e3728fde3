"""MINE, the manifold inversion noise estimator: where a latent lies, how it deviates, and the noise that anchors it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.shared import PictureStatistics
from idas_sr.schedule import unsqueeze_like

MIN_NOISE_POWER = 0.05
"""Floor of rms(u)^2 where the residual alone already fills the declared noise level (methods.md 9.3)."""
LOG_VARIANCE = (-30.0, 20.0)
"""Range of a Gaussian head's log-variance, as diffusers clamps it (InvSR)."""


@dataclass(frozen=True)
class Estimate:
    """What MINE says of a picture.

    Attributes:
        log_sigma: (B,) log of the noise level at which the latent lies.
        residual: (B,) sigma_e, estimate of rms(z_lq - z_hq - deviation).
        deviation: (B, C, h, w) estimate of z_lq - z_hq; None in parameterisation i1.
        noise: (B, C, h, w) inversion noise; its mean in parameterisation i3.
        control: residuals for the UNet's skip connections, or None; see ``LatentBackbone.control_channels``.
        power: (B, 1, h/4, w/4) squared noise level of each place; log_sigma is half the log of its mean, clipped.
        spread: (B, C, h, w) standard deviation of the noise in parameterisation i3, else None.
    """

    log_sigma: Tensor
    residual: Tensor
    deviation: Tensor | None
    noise: Tensor
    control: tuple[Tensor, ...] | None = None
    power: Tensor | None = None
    spread: Tensor | None = None


class ResidualBlock(nn.Module):
    """Two convolutions, the severity embedding added between. No normalisation: a tile sees what the picture sees."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.embed = nn.Linear(embedding, width)
        zero(self.conv2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, width, h, w), (B, embedding) -> (B, width, h, w)."""
        inner = F.silu(self.conv1(x) + unsqueeze_like_channels(self.embed(embedding)))
        return x + self.conv2(inner)


def zero(module: nn.Module) -> None:
    """Make a layer start as zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def unsqueeze_like_channels(vector: Tensor) -> Tensor:
    """(B, N) -> (B, N, 1, 1)."""
    return vector[:, :, None, None]


class ContextBlock(nn.Module):
    """A wide depthwise convolution and two pointwise ones, added to what comes in; starts as nothing (ConvNeXt's)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.widen = nn.Conv2d(width, 2 * width, 1)
        self.narrow = nn.Conv2d(2 * width, width, 1)
        zero(self.narrow)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> the same shape."""
        return x + self.narrow(F.silu(self.widen(self.look(x))))


class SeverityHead(nn.Module):
    """Says where and how much a latent deviates: a map of power, whose mean over the picture is the severity squared.

    Positioning asks for one number, the rms of the deviation over the whole picture, so the head says how large the
    deviation is likely to be at each place and averages: a crop seen in training and a picture of any size are then the
    same task. What is lost is mostly fine structure, whose energy follows that of the structure which is left; so the
    head sees the logarithm of the energy of learned filters beside ordinary features.

    Args:
        channels: of the input.
        width: of the filters.
        depth: blocks that look around at the map's resolution: what a place shows (foliage, letters, sky) says how much
            fine structure it had.
    """

    CELL = 4
    """Latent cells per cell of the map, along a side."""

    def __init__(self, channels: int, width: int, depth: int = 0) -> None:
        super().__init__()
        self.filters = nn.Conv2d(channels, width, 5, padding=2)
        self.down1 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(width, width * 2, 3, stride=2, padding=1)
        self.local = nn.Conv2d(width * 3, width * 2, 3, padding=1)
        self.statistics = PictureStatistics()
        self.whole = nn.Linear(width * 6, width * 2)
        self.context = nn.Sequential(*(ContextBlock(width * 2) for _ in range(depth)))
        self.mix = nn.Conv2d(width * 2, width * 2, 1)
        self.out = nn.Conv2d(width * 2, 2, 1)
        nn.init.zeros_(self.out.weight)
        # Starts at a noise level of 0.5 and a residual of three quarters of it.
        with torch.no_grad():
            self.out.bias[0].fill_(math.log(0.25))
            self.out.bias[1].fill_(1.1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, h, w) -> maps (B, 1, ceil(h/4), ceil(w/4)): power, positive; logit of the residual share."""
        filtered = self.filters(x)
        energy = F.avg_pool2d(filtered.float().square(), self.CELL, ceil_mode=True)
        x = F.silu(self.down2(F.silu(self.down1(F.silu(filtered)))))
        x = torch.cat([x, (energy + 1e-5).log().to(x.dtype)], dim=1)
        # Noise and blur are the whole picture's: what is learnt at one place helps to judge another.
        x = F.silu(self.local(x) + unsqueeze_like_channels(self.whole(self.statistics(x))))
        out = self.out(F.silu(self.mix(self.context(x)))).float()
        return out[:, :1].clamp(-12, 4).exp(), out[:, 1:]


class MINE(ModelMixin, ConfigMixin):
    """Positioning and inversion from the low-quality picture and its latent (methods.md 9.1 - 9.3; design ours).

    Convolutions only, so any size works and cost is linear in the area.

    Args:
        latent_channels: C of the backbone.
        stride: LQ pixels per latent cell along a side (1 for compact, 2 for SD-Turbo at x4).
        width, deep_width: channels of the trunk at the latent's resolution and at half of it.
        blocks: residual blocks before, in and after the half-resolution stage.
        severity_width: of the severity head.
        parameterisation: ``i2``: deviation and noise; ``i1``: noise alone carries the deviation too (InvSR's form);
            ``i3``: as i1, mean and spread of a Gaussian (InvSR's head; steering ``temperature`` draws from it).
        sigma_min, sigma_max: range of the noise level, the 1st and 99th percentile of w* on training pairs.
        similarity_quantiles: of 1 - M_L on training pairs, for positioning target P-C; not used by the network.
        control_channels: of the residuals for the UNet's skip connections, at the latent's resolution and at half of
            it; None: the UNet sees the picture through the steered state alone. On a small prior that state cannot
            carry fine structure through the noise that steering adds: the picture needs a second way (ours; the
            interface is ControlNet's).
        severity_depth: context blocks of the severity head.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        stride: int = 1,
        width: int = 64,
        deep_width: int = 80,
        blocks: int = 2,
        severity_width: int = 32,
        parameterisation: str = "i2",
        sigma_min: float = 0.223,
        sigma_max: float = 1.1606,
        similarity_quantiles: tuple[float, ...] | None = None,
        control_channels: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
        severity_depth: int = 0,
    ) -> None:
        super().__init__()
        if parameterisation not in ("i1", "i2", "i3"):
            raise ValueError(f"parameterisation must be 'i1', 'i2' or 'i3', not {parameterisation!r}.")
        inputs, embedding = 3 * stride**2 + latent_channels, width * 2
        self.severity = SeverityHead(inputs, severity_width, severity_depth)
        self.frequencies = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.embedding = TimestepEmbedding(width, embedding)
        self.enter = nn.Conv2d(inputs, width, 3, padding=1)
        self.before = nn.ModuleList(ResidualBlock(width, embedding) for _ in range(blocks))
        self.down = nn.Conv2d(width, deep_width, 3, stride=2, padding=1)
        self.deep = nn.ModuleList(ResidualBlock(deep_width, embedding) for _ in range(blocks))
        self.up = nn.Conv2d(deep_width, width, 3, padding=1)
        self.after = nn.ModuleList(ResidualBlock(width, embedding) for _ in range(blocks))
        is_gaussian = parameterisation == "i3"
        self.noise_head = nn.Conv2d(width, latent_channels * (2 if is_gaussian else 1), 3, padding=1)
        self.deviation_head = nn.Conv2d(width, latent_channels, 3, padding=1) if parameterisation == "i2" else None
        if self.deviation_head is not None:
            # Starts as "no deviation".
            zero(self.deviation_head)
        fine, coarse = control_channels or ((), ())
        self.control_heads = nn.ModuleList(
            [nn.Conv2d(width, n, 1) for n in fine] + [nn.Conv2d(deep_width, n, 1) for n in coarse]
        )
        for head in self.control_heads:
            # Starts as "the prior as it is".
            zero(head)

    @classmethod
    def for_backbone(cls, backbone: LatentBackbone, scale: int, control: bool = False, **args: Any) -> MINE:
        """One that fits ``backbone``; with ``control`` it also feeds the UNet's skip connections."""
        channels, stride = backbone.control_channels if control else None, backbone.downsample // scale
        return cls(latent_channels=backbone.latent_channels, stride=stride, control_channels=channels, **args)

    def deepen(self, depth: int) -> None:
        """Give the severity head ``depth`` context blocks, new ones last; it says what it said until they are trained.

        Raises:
            ValueError: it has more already.
        """
        context = self.severity.context
        if depth < len(context):
            raise ValueError(f"severity_depth is {len(context)} already and cannot become {depth}.")
        width = self.severity.mix.in_channels
        context.extend(ContextBlock(width) for _ in range(depth - len(context)))
        self._store(severity_depth=depth)

    def take_severity(self, other: MINE) -> None:
        """Take over another one's severity head, trained apart, of whatever size.

        Raises:
            ValueError: it reads other inputs.
        """
        if other.severity.filters.in_channels != self.severity.filters.in_channels:
            raise ValueError("The severity heads of these two estimators read different inputs.")
        self.severity = copy.deepcopy(other.severity)
        self._store(**{name: other.config[name] for name in ("severity_width", "severity_depth")})

    def set_range(self, sigma_min: float, sigma_max: float) -> None:
        """Store the range of noise levels in the configuration."""
        self._store(sigma_min=sigma_min, sigma_max=sigma_max)

    def set_similarity_quantiles(self, quantiles: Tensor) -> None:
        """Store the distribution (Q,) of 1 - M_L in the configuration."""
        self._store(similarity_quantiles=quantiles.tolist())

    def _store(self, **values: object) -> None:
        # diffusers drops a value it has noted as a default, even a changed one, when a copy is made with `from_config`.
        defaults = [name for name in self.config.get("_use_default_values", []) if name not in values]
        self.register_to_config(**values, _use_default_values=defaults)

    def set_precision(self, dtype: torch.dtype) -> None:
        """Trunk and heads in ``dtype``; what decides the position stays in fp32, because all the rest follows it."""
        for name, part in self.named_children():
            part.to(torch.float32 if name == "severity" else dtype)

    @property
    def log_range(self) -> tuple[float, float]:
        """(low, high) of log sigma."""
        return math.log(self.config["sigma_min"]), math.log(self.config["sigma_max"])

    def severity_map(self, lq: Tensor, z_lq: Tensor) -> Tensor:
        """(B, 2, h/4, w/4): what the picture's severity is the mean of, squared noise level and logit of the share."""
        return torch.cat(self.severity(self._inputs(lq, z_lq)), dim=1)

    def _inputs(self, lq: Tensor, z_lq: Tensor) -> Tensor:
        inputs = torch.cat([F.pixel_unshuffle(lq, self.config["stride"]), z_lq], dim=1)
        return inputs.to(self.severity.filters.weight.dtype)

    def forward(
        self, lq: Tensor, z_lq: Tensor, log_sigma: Tensor | None = None, severity: Tensor | None = None
    ) -> Estimate:
        """Estimate the anchor.

        Args:
            lq: (B, 3, h * stride, w * stride) in [-1, 1].
            z_lq: (B, C, h, w).
            log_sigma: (B,) true position, instead of the predicted one while training (teacher forcing of the trunk).
            severity: (B, 2) mean of ``severity_map`` over the picture that this is a tile of; None: of this.
        """
        low, high = self.log_range
        inputs = self._inputs(lq, z_lq)
        power: Tensor | None = None
        if severity is None:
            power, logits = self.severity(inputs)
            severity = torch.stack([power.mean((1, 2, 3)), logits.mean((1, 2, 3))], dim=1)
        mean, share = severity[:, 0], severity[:, 1].sigmoid()
        predicted = 0.5 * mean.log().clamp(2 * low, 2 * high)
        position = predicted if log_sigma is None else log_sigma
        # Detached: what the trunk does with a position must not move the position.
        features, deep = self._trunk(inputs, ((position.detach() - low) / (high - low)) * 1000)
        noise = self.noise_head(features).float()
        residual = share * predicted.detach().exp()
        control = self._control(features, deep)
        if self.deviation_head is None:
            spread = None
            if self.config["parameterisation"] == "i3":
                noise, log_variance = noise.chunk(2, dim=1)
                spread = (log_variance.clamp(*LOG_VARIANCE) / 2).exp()
            return Estimate(predicted, residual, None, noise, control, power, spread)
        left = (1 - share.detach() ** 2).clamp_min(MIN_NOISE_POWER)
        return Estimate(
            predicted,
            residual,
            self.deviation_head(features).float(),
            unit_rms(noise) * unsqueeze_like(left.sqrt(), noise),
            control,
            power,
        )

    def _control(self, features: Tensor, deep: Tensor) -> tuple[Tensor, ...] | None:
        if not self.control_heads:
            return None
        fine = len(self.config["control_channels"][0])
        return tuple(head(features if index < fine else deep).float() for index, head in enumerate(self.control_heads))

    def _trunk(self, inputs: Tensor, severity: Tensor) -> tuple[Tensor, Tensor]:
        inputs = inputs.to(self.enter.weight.dtype)
        embedding = F.silu(self.embedding(self.frequencies(severity).to(inputs.dtype)))
        x = self.enter(inputs)
        for block in self.before:
            x = block(x, embedding)
        y = self.down(x)
        for block in self.deep:
            y = block(y, embedding)
        x = x + self.up(F.interpolate(y, size=x.shape[-2:], mode="nearest"))
        for block in self.after:
            x = block(x, embedding)
        return F.silu(x), F.silu(y)


def unit_rms(noise: Tensor) -> Tensor:
    """(B, C, h, w) -> the same with rms 1 over the channels of every cell.

    Per cell and not per picture (ours): a tile, a crop seen in training and the whole picture then get the same noise.
    """
    return noise * (noise.square().mean(1, keepdim=True) + 1e-6).rsqrt()
