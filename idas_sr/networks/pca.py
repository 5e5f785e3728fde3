"""A start for the compact autoencoder: exactly a linear projection of 4x4 patches, with a spectrum we choose."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor, nn


@torch.no_grad()
def start_from_pca(vae: AutoencoderTiny, images: Tensor, unshuffle: int, raw_std: float, exponent: float) -> None:
    """Set an AutoencoderTiny without down-sampling to the principal components of its input (ours, no paper).

    The variance of component i becomes proportional to lambda_i^exponent: at 1 it is a plain projection, in which
    brightness outweighs everything, so that noise of a given level hardly hides the picture; at 0 every component
    weighs the same and the first bit of noise drowns a pixel's brightness as easily as its texture. A rotation then
    spreads all components evenly over the channels, so that each has the same standard deviation, ``raw_std``.
    Random initialisation took minutes to learn what this starts with.

    Args:
        vae: one encoder and one decoder level, at least as wide as the unshuffled picture; activation keeps positives.
        images: (B, 3, H, W) in [-1, 1] whose patches are analysed.
        unshuffle: side of a patch.
        raw_std: standard deviation of each latent channel.
        exponent: between 0 and 1.
    """
    patches = F.pixel_unshuffle(images / 2 + 0.5, unshuffle).transpose(0, 1).flatten(1).double()  # (48, N)
    mean = patches.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(patches))
    channels = vae.config["latent_channels"]
    values, vectors = values.flip(0)[:channels], vectors.flip(1)[:, :channels]  # (C,), (48, C)
    spread = values**exponent
    gain = (spread / spread.mean() / values).sqrt() * raw_std
    rotation = _hadamard(channels)
    down = rotation @ torch.diag(gain) @ vectors.T  # (C, 48)
    up = vectors @ torch.diag(1 / gain) @ rotation.T  # (48, C)

    encoder = [m for m in vae.encoder.layers if isinstance(m, nn.Conv2d)]
    decoder = [m for m in vae.decoder.layers if isinstance(m, nn.Conv2d)]
    _set(encoder[0], torch.eye(len(mean)))
    _set(encoder[-1], down, -down @ mean)
    _set(decoder[0], up, mean)
    _set(decoder[-1], torch.eye(len(mean)))
    for part in (vae.encoder.layers, vae.decoder.layers):
        for module in part:
            if hasattr(module, "fuse"):
                last = [m for m in module.conv if isinstance(m, nn.Conv2d)][-1]
                for parameter in last.parameters():
                    nn.init.zeros_(parameter)


def _set(conv: nn.Conv2d, matrix: Tensor, bias: Tensor | None = None) -> None:
    """Write a matrix into the centre tap of a 3x3 convolution; other taps and inputs of those rows become 0."""
    rows, columns = matrix.shape
    # Rows beyond the matrix keep their random weights: spare channels that can learn.
    conv.weight[:rows] = 0
    conv.weight[:rows, :columns, 1, 1] = matrix.to(conv.weight)
    if conv.bias is not None:
        conv.bias[:rows] = 0 if bias is None else bias.to(conv.bias)


def _hadamard(size: int) -> Tensor:
    """(size, size) orthogonal matrix with entries of equal magnitude; ``size`` must be a power of two."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    if len(matrix) != size:
        raise ValueError(f"the number of latent channels must be a power of two, not {size}.")
    return matrix / math.sqrt(size)
