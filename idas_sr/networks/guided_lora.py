"""Low-rank adapters whose core depends on the picture: the degradation-guided LoRA of S3Diff (methods.md 2.2).

For a layer of block l the adapter adds (alpha / r) B C_l(d) A x, where C_l(d) (r, r) is predicted from the picture's
degradation d and the block's identity. It stands beside the network: hooks of torch add its result to a layer's output,
so the network's own weights and state dict stay as they are and nothing of it or of peft is patched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.degradation_scores import DegradationScores, load_degradation_scores
from idas_sr.networks.lora import lora_targets

FREQUENCIES = 64
BLOCK_WIDTH = 64
FUSE_SCALE = 1e-5
"""Of the initial weights of the layer that predicts C."""

Layer = dict[str, Any]
"""A layer that carries an adapter: path, block, inputs, outputs, and kernel, stride, padding of a convolution."""


def block_of(path: str, downs: int, layers: int) -> int:
    """Number of the block that the layer at ``path`` belongs to: down 0 ..., mid, up 0 ..., then one for the rest.

    An encoder without such blocks (AutoencoderTiny) counts its ``layers`` instead.
    """
    if found := re.match(r"layers\.(\d+)", path):
        return int(found[1])
    if found := re.match(r"down_blocks\.(\d+)", path):
        return int(found[1])
    if path.startswith("mid_block"):
        return downs
    if found := re.match(r"up_blocks\.(\d+)", path):
        return downs + 1 + int(found[1])
    return layers - 1


def describe_layers(network: nn.Module, exclude: tuple[str, ...] = ()) -> tuple[list[Layer], int]:
    """The layers of ``network`` that get an adapter (all convolutions and linear layers but the timestep's), and how
    many blocks it has.

    Args:
        network: a UNet, or the encoder of an autoencoder.
        exclude: parts of paths that get none.
    """
    downs, ups = (len(getattr(network, name, ())) for name in ("down_blocks", "up_blocks"))
    blocks = downs + 1 + ups + 1 if downs else len(network.layers)  # type: ignore[arg-type]
    found = []
    for path in lora_targets(network, exclude):
        layer: Any = network.get_submodule(path)
        entry: Layer = {"path": path, "block": block_of(path, downs, blocks)}
        if isinstance(layer, nn.Conv2d):
            entry |= {"inputs": layer.in_channels, "outputs": layer.out_channels, "kernel": list(layer.kernel_size)}
            entry |= {"stride": list(layer.stride), "padding": list(layer.padding)}
        else:
            entry |= {"inputs": layer.in_features, "outputs": layer.out_features}
        found.append(entry)
    return found, blocks


class GuidedLora(nn.Module):
    """The adapters of one network, and what predicts their cores.

    Args:
        layers, blocks: of ``describe_layers``.
        rank: r.
        alpha: over r, the scale of what is added; peft's default 8 is S3Diff's.
    """

    frequencies: Tensor

    def __init__(self, layers: Sequence[Layer], blocks: int, rank: int, alpha: float) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"The rank of a LoRA must be at least 1, not {rank}.")
        self.layers, self.rank, self.factor = list(layers), rank, alpha / rank
        self.lora_a, self.lora_b = nn.ModuleDict(), nn.ModuleDict()
        for layer in layers:
            name = layer["path"].replace(".", "/")
            self.lora_a[name], self.lora_b[name] = _pair(layer, rank)
        self.degradation = nn.Sequential(nn.Linear(4 * FREQUENCIES, 256), nn.ReLU())
        self.blocks = nn.Embedding(blocks, BLOCK_WIDTH)
        self.block = nn.Sequential(nn.Linear(BLOCK_WIDTH, BLOCK_WIDTH), nn.ReLU())
        self.fuse = nn.Linear(256 + BLOCK_WIDTH, rank**2)
        # DIFFERS: S3Diff starts from C about 0; with B = 0 that leaves hardly a gradient. Here C starts as the
        # identity, so the first steps are those of plain LoRA.
        nn.init.normal_(self.fuse.weight, std=FUSE_SCALE)
        nn.init.zeros_(self.fuse.bias)
        self.cores: Tensor | None = None
        """(B, blocks, r, r), or None: the identity. Set by ``guide``."""
        self.is_on = True
        self._handles: list[RemovableHandle] = []

    def attach(self, network: nn.Module) -> None:
        """Put the adapters on ``network``, whose layers must be those described; once."""
        self.detach()
        for layer in self.layers:
            target = network.get_submodule(layer["path"])
            self._handles.append(target.register_forward_hook(self._hook(layer)))

    def detach(self) -> None:
        """Take the adapters off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def guide(self, waves: Tensor | None) -> None:
        """From now on work with the cores of these pictures: ``waves`` (B, 256) of ``waves_of``; None: the identity."""
        if waves is None:
            self.cores = None
            return
        done = self.degradation(waves)
        place = self.block(self.blocks.weight)
        count = len(place)
        both = [done[:, None].expand(-1, count, -1), place[None].expand(len(done), -1, -1)]
        predicted = self.fuse(torch.cat(both, dim=-1))
        identity = torch.eye(self.rank, device=predicted.device, dtype=predicted.dtype)
        self.cores = identity + predicted.unflatten(-1, (self.rank, self.rank))

    def _hook(self, layer: Layer) -> Any:
        name, block = layer["path"].replace(".", "/"), layer["block"]
        down, up = self.lora_a[name], self.lora_b[name]

        def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not self.is_on:
                return None
            inner = down(inputs[0].to(down.weight.dtype))  # type: ignore[arg-type]
            if self.cores is not None:
                core = self.cores[:, block].to(inner.dtype)
                # Channels first for convolutions, last for linear layers; one picture's core may serve many tiles.
                is_map = "kernel" in layer
                rows = inner.flatten(2) if is_map else inner.flatten(1, -2).transpose(1, 2)
                moved = core @ rows
                inner = moved.reshape(inner.shape) if is_map else moved.transpose(1, 2).reshape(inner.shape)
            return output + (self.factor * up(inner)).to(output.dtype)

        return add


def _pair(layer: Layer, rank: int) -> tuple[nn.Module, nn.Module]:
    down: nn.Conv2d | nn.Linear
    up: nn.Conv2d | nn.Linear
    if "kernel" in layer:
        kernel, stride, padding = (tuple(layer[name]) for name in ("kernel", "stride", "padding"))
        down = nn.Conv2d(layer["inputs"], rank, kernel, stride, padding, bias=False)
        up = nn.Conv2d(rank, layer["outputs"], 1, bias=False)
    else:
        down, up = nn.Linear(layer["inputs"], rank, bias=False), nn.Linear(rank, layer["outputs"], bias=False)
    nn.init.normal_(down.weight, std=1 / rank)
    nn.init.zeros_(up.weight)
    return down, up


class DegradationGuide(ModelMixin, ConfigMixin):
    """All that S3Diff adds to a prior: degradation estimator and guided adapters on UNet and VAE encoder.

    Args:
        unet_layers, unet_blocks, encoder_layers, encoder_blocks: of ``describe_layers``.
        unet_rank, encoder_rank: S3Diff has 32 and 16.
        alpha: of both.
        scores: arguments of ``DegradationScores``.
    """

    waves: Tensor

    @register_to_config
    def __init__(
        self,
        unet_layers: list[Layer],
        unet_blocks: int,
        encoder_layers: list[Layer],
        encoder_blocks: int,
        unet_rank: int = 32,
        encoder_rank: int = 16,
        alpha: float = 8.0,
        scores: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.degradation_scores = DegradationScores(**(scores or {}))
        self.register_buffer("waves", torch.randn(FREQUENCIES))
        self.unet = GuidedLora(unet_layers, unet_blocks, unet_rank, alpha)
        self.encoder = GuidedLora(encoder_layers, encoder_blocks, encoder_rank, alpha)

    @classmethod
    def for_backbone(
        cls,
        backbone: LatentBackbone,
        scale: int,
        scores: str | None = None,
        scores_args: dict[str, Any] | None = None,
        exclude: tuple[str, ...] = ("conv_in",),
        **args: Any,
    ) -> DegradationGuide:
        """Untrained adapters for a backbone.

        Args:
            backbone: that they go on.
            scale: not used; every estimator of a method is told.
            scores: run directory of configs/train/degradation-scores.yaml; None: random weights, to try things.
            scores_args: of ``DegradationScores`` where there is no run.
            exclude: layers of the UNet that are trained in full and get no adapter.
            args: ranks and alpha.

        Raises:
            FileNotFoundError: there is no degradation estimator in ``scores``.
        """
        trained = None if scores is None else load_degradation_scores(scores)
        config = scores_args or {} if trained is None else {k: trained.config[k] for k in ("width", "hidden")}
        unet_layers, unet_blocks = describe_layers(backbone.unet, tuple(exclude))
        encoder_layers, encoder_blocks = describe_layers(backbone.vae.encoder)
        guide = cls(unet_layers, unet_blocks, encoder_layers, encoder_blocks, scores=dict(config), **args)
        if trained is not None:
            guide.degradation_scores.load_state_dict(trained.state_dict())
        return guide

    def attach(self, backbone: LatentBackbone) -> None:
        """Put the adapters on the networks of ``backbone``."""
        self.unet.attach(backbone.unet)
        self.encoder.attach(backbone.vae.encoder)

    def trained_parts(self) -> list[nn.Module]:
        """Everything but the degradation estimator, which S3Diff keeps as it is."""
        return [self.unet, self.encoder]

    @torch.no_grad()
    def score(self, lq: Tensor) -> Tensor:
        """(B, 3, h, w) in [-1, 1] -> how blurred and how noisy, (B, 2) in [0, 1]."""
        return self.degradation_scores((lq / 2 + 0.5).clamp(0, 1))

    def guide(self, lq: Tensor | None, scores: Tensor | None = None) -> None:
        """Set the cores for pictures (B, 3, h, w) in [-1, 1], or for ``scores`` (B, 2); None: the identity."""
        if lq is None:
            self.unet.guide(None)
            self.encoder.guide(None)
            return
        scores = self.score(lq) if scores is None else scores
        # phi(d) = sin and cos of 2 pi d W for each score, methods.md 2.2, step 1.
        angle = 2 * math.pi * scores[:, :, None] * self.waves.float()
        waves = torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(1)
        waves = waves.to(self.unet.fuse.weight.dtype)
        self.unet.guide(waves)
        self.encoder.guide(waves)

    def switch(self, is_on: bool) -> None:
        """Adapters on or off."""
        self.unet.is_on = self.encoder.is_on = is_on
