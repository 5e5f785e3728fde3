"""A degradation family kept away from training, to measure whether a model generalises beyond Real-ESRGAN's."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from idas_sr.data import corruptions
from idas_sr.data.kernels import disk_kernel, motion_kernel


@dataclass(frozen=True)
class HeldoutConfig:
    """Lens or shake blur, Lanczos or box reduction, correlated sensor noise, WebP; all ranges are ours."""

    scale: int = 4
    defocus_prob: float = 0.5  # else motion
    defocus_radius: tuple[float, float] = (0.7, 6.0)  # HQ pixels
    motion_length: tuple[float, float] = (2.0, 20.0)  # HQ pixels
    read_noise: tuple[float, float] = (0.0, 0.03)  # standard deviation at black
    shot_noise: tuple[float, float] = (0.0, 0.004)  # variance per unit of signal
    grain_sigma: tuple[float, float] = (0.3, 1.0)  # LQ pixels: demosaicing and in-camera denoising leave no white noise
    webp_quality: tuple[int, int] = (40, 95)
    resamplings: tuple[str, ...] = ("lanczos", "box")


def degrade_heldout(image: Tensor, config: HeldoutConfig, rng: np.random.Generator) -> Tensor:
    """(1, 3, H, W) in [0, 1] -> (1, 3, H/s, W/s), every draw from ``rng``; through Pillow, so computed on the CPU."""
    device = image.device
    # Draws of one kind take the same number of values whichever branch wins.
    is_defocus = rng.random() < config.defocus_prob
    radius, length = rng.uniform(*config.defocus_radius), rng.uniform(*config.motion_length)
    angle = rng.uniform(0, math.pi)
    resample = Image.Resampling[config.resamplings[rng.integers(len(config.resamplings))].upper()]
    read, shot = rng.uniform(*config.read_noise), rng.uniform(*config.shot_noise)
    grain = rng.uniform(*config.grain_sigma)
    quality = int(rng.integers(config.webp_quality[0], config.webp_quality[1] + 1))

    kernel = disk_kernel(radius) if is_defocus else motion_kernel(length, angle)
    picture = corruptions.to_pillow(corruptions.blur(image.cpu(), kernel))
    picture = picture.resize((picture.width // config.scale, picture.height // config.scale), resample)
    lq = corruptions.from_pillow(picture, torch.device("cpu"))
    lq = lq + (read**2 + shot * lq).sqrt() * corruptions.correlated_noise(lq.shape, grain, rng)
    return corruptions.compress_pillow(lq, quality, "WEBP").to(device)
