"""What networks ask of the whole picture while they see one tile: statistics measured once on a sample of it.

Group normalisation divides by the spread of everything it is given. A tile of sky and a tile of leaves are then two
different pictures to the network, and what it makes of them does not fit together. So the statistics are measured on a
sample of windows spread over the picture, all layers in step, and every tile is normalised by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class PictureStatistics(nn.Module):
    """Mean and spread of every channel over the picture, (B, N, h, w) -> (B, 2 N); a module, so that tiles share."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3))
        spread = (x.float().var((2, 3), unbiased=False) + 1e-6).sqrt().to(x.dtype)
        return torch.cat([mean, spread], dim=1)


class Shared(nn.Module):
    """Stands in for a module whose result depends on statistics of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.margin: float | None = None
        self.seen: list[tuple[Tensor, ...]] = []
        self.calls = 0

    def measure(self, margin: float) -> None:
        """From now on measure, leaving out the outer share ``margin`` of every window's sides."""
        self.margin, self.seen, self.calls = margin, [], 0

    def use(self) -> None:
        """From now on use what was measured."""
        self.margin, self.calls = None, 0

    def statistics(self, x: Tensor) -> tuple[Tensor, ...]:
        """Of ``x`` while measuring; later those of the same call of the round (guidance calls a network twice)."""
        if self.margin is not None:
            self.seen.append(self._of(self._inside(x, self.margin).float()))
            return self.seen[-1]
        if not self.seen:
            raise RuntimeError("Statistics are used that were not measured; survey the picture first.")
        self.calls += 1
        return self.seen[(self.calls - 1) % len(self.seen)]

    @staticmethod
    def _inside(x: Tensor, margin: float) -> Tensor:
        if x.ndim != 4:
            return x
        rows, columns = (round(side * margin) for side in x.shape[-2:])
        return x[..., rows : x.shape[-2] - rows, columns : x.shape[-1] - columns]

    def _of(self, x: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError


class SharedGroupNorm(Shared):
    """Group normalisation by statistics of all samples of a batch together, or by ones measured before."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def _of(self, x: Tensor) -> tuple[Tensor, ...]:
        groups, channels = self.norm.num_groups, self.norm.num_channels
        grouped = x.transpose(0, 1).reshape(groups, -1)
        var, mean = torch.var_mean(grouped, dim=1, unbiased=False)
        rescale = (var + self.norm.eps).rsqrt().repeat_interleave(channels // groups)
        shift = -mean.repeat_interleave(channels // groups) * rescale
        if self.norm.affine:
            weight, bias = self.norm.weight.float(), self.norm.bias.float()
            rescale, shift = rescale * weight, shift * weight + bias
        return rescale, shift

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.ndim - 2))
        rescale, shift = (s.reshape(shape) for s in self.statistics(x))
        return torch.addcmul(shift, x.float(), rescale).to(x.dtype)


class SharedPictureStatistics(Shared):
    """``PictureStatistics`` of all samples of a batch together, or those measured before."""

    def _of(self, x: Tensor) -> tuple[Tensor, ...]:
        return (PictureStatistics()(x.transpose(0, 1).reshape(1, x.shape[1], -1, 1)),)

    def forward(self, x: Tensor) -> Tensor:
        return self.statistics(x)[0].to(x.dtype).expand(len(x), -1)


class SharedStatistics:
    """The shared statistics of one picture.

    Args:
        network: whose group normalisations and ``PictureStatistics`` share.
        enabled: False: every tile by itself.
    """

    def __init__(self, network: nn.Module, enabled: bool = True) -> None:
        self.network = network
        self.own: dict[str, nn.Module] = {}
        self.shared: dict[str, Shared] = {}
        for name, module in network.named_modules() if enabled else ():
            if isinstance(module, nn.GroupNorm):
                self.own[name], self.shared[name] = module, SharedGroupNorm(module)
            elif isinstance(module, PictureStatistics):
                self.own[name], self.shared[name] = module, SharedPictureStatistics()

    @contextmanager
    def measured(self, margin: float) -> Iterator[None]:
        """Inside, the samples of a batch are normalised together and remembered, without ``margin`` of their sides."""
        for module in self.shared.values():
            module.measure(margin)
        with self._in_place():
            yield

    @contextmanager
    def used(self) -> Iterator[None]:
        """Inside, every batch is normalised by what was measured last."""
        for module in self.shared.values():
            module.use()
        with self._in_place():
            yield

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        try:
            for name, module in self.shared.items():
                self.network.set_submodule(name, module)
            # Compiled code would be made anew for every call that a shared statistic counts.
            with torch.compiler.set_stance("force_eager"):
                yield
        finally:
            for name, own in self.own.items():
                self.network.set_submodule(name, own)
