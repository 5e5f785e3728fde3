"""What a degradation is made of, on one image (1, 3, H, W) in [0, 1]: blur, resize, noise, compression."""

import io

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from idas_sr.data.kernels import bell_kernel

_GRAY_WEIGHTS = (0.2989, 0.587, 0.114)  # BT.601 luma as torchvision's rgb_to_grayscale rounds it


def _reflected_indices(length: int, pad: int, device: torch.device) -> Tensor:
    # F.pad refuses a reflection wider than the picture; crops shrunk to a few pixels need it: bounce on.
    period = max(2 * (length - 1), 1)
    index = torch.arange(-pad, length + pad, device=device).remainder(period)
    return torch.minimum(index, period - index).clamp(max=length - 1)


def blur(image: Tensor, kernel: np.ndarray) -> Tensor:
    """Correlate (1, 3, H, W) with an odd ``kernel`` (K, K), borders mirrored, size kept; any H, W >= 1."""
    if image.device.type == "cpu":
        # Large kernels go through a Fourier transform there; torch's grouped convolution sums term by term.
        channels_last = np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())
        blurred = cv2.filter2D(channels_last, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        return torch.from_numpy(blurred.reshape(channels_last.shape)).permute(2, 0, 1)[None].contiguous()
    return blur_by_torch(image, kernel)


def blur_by_torch(image: Tensor, kernel: np.ndarray) -> Tensor:
    """``blur`` on any device."""
    pad = kernel.shape[0] // 2
    height, width = image.shape[-2:]
    rows = _reflected_indices(height, pad, image.device)
    columns = _reflected_indices(width, pad, image.device)
    weight = torch.from_numpy(kernel).to(image)[None, None].expand(3, 1, -1, -1)
    return F.conv2d(image[..., rows, :][..., columns], weight, groups=3)


def resize(image: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """To ``size`` (H, W) by "area", "bilinear" or "bicubic", without antialiasing as Real-ESRGAN does (not clamped)."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    align_corners = None if mode == "area" else False
    return F.interpolate(image, size=size, mode=mode, align_corners=align_corners)


def bicubic_down(image: Tensor, scale: int) -> Tensor:
    """Antialiased bicubic reduction by ``scale``, clamped: what an undegraded small picture looks like."""
    size = (image.shape[-2] // scale, image.shape[-1] // scale)
    return F.interpolate(image, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


def add_gaussian_noise(image: Tensor, sigma: float, is_gray: bool, seed: int) -> Tensor:
    """White noise of standard deviation ``sigma`` (in [0, 1] units), one field for all channels if gray; clamped."""
    channels = 1 if is_gray else image.shape[1]
    # Drawn by numpy so that one seed gives one noise on every device.
    noise = np.random.default_rng(seed).standard_normal((1, channels, *image.shape[-2:]), dtype=np.float32)
    return (image + sigma * torch.from_numpy(noise).to(image.device)).clamp(0, 1)


def correlated_noise(shape: torch.Size, grain: float, rng: np.random.Generator) -> Tensor:
    """Noise of unit variance (1, C, H, W), smoothed by a Gaussian of ``grain`` pixels: what is left of a sensor's after
    demosaicing and in-camera denoising."""
    noise = torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))
    kernel = bell_kernel(5, grain, grain, 0.0)
    return blur(noise, kernel) / float(np.sqrt((kernel**2).sum()))


def add_poisson_noise(image: Tensor, strength: float, is_gray: bool, seed: int) -> Tensor:
    """Shot noise times ``strength``: counts are image x V, V the next power of two over the number of grey levels used.

    The definition of Real-ESRGAN's sampler; clamped to [0, 1].
    """
    source = image
    if is_gray:
        source = (image * image.new_tensor(_GRAY_WEIGHTS)[None, :, None, None]).sum(dim=1, keepdim=True)
    levels = to_uint8(source)
    num_levels = np.count_nonzero(np.bincount(levels.ravel(), minlength=256))
    counts = 2.0 ** np.ceil(np.log2(num_levels))
    clean = levels / 255.0
    noise = np.random.default_rng(seed).poisson(clean * counts) / counts - clean
    return (image + strength * torch.from_numpy(noise.astype(np.float32)).to(image.device)).clamp(0, 1)


def to_uint8(image: Tensor) -> np.ndarray:
    """(..., H, W) in [0, 1] on any device -> the same shape as uint8 numpy, rounded to nearest."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def to_pillow(image: Tensor) -> Image.Image:
    """(1, 3, H, W) in [0, 1] -> 8-bit RGB picture."""
    return Image.fromarray(np.ascontiguousarray(to_uint8(image)[0].transpose(1, 2, 0)))


def from_pillow(picture: Image.Image, device: torch.device) -> Tensor:
    """8-bit RGB picture -> (1, 3, H, W) float32 in [0, 1]."""
    array = np.array(picture.convert("RGB"))
    return torch.from_numpy(array).to(device).permute(2, 0, 1)[None].float() / 255


def compress_pillow(image: Tensor, quality: int, file_format: str = "JPEG") -> Tensor:
    """Encode and decode by Pillow's real codec ("JPEG" with 4:2:0 chroma, or "WEBP"), on the CPU; same device out."""
    buffer = io.BytesIO()
    to_pillow(image).save(buffer, format=file_format, quality=quality)
    buffer.seek(0)
    with Image.open(buffer) as picture:
        return from_pillow(picture, image.device)


def compress_kornia(image: Tensor, quality: int) -> Tensor:
    """JPEG on the image's own device by kornia's approximation, a little kinder than the real codec; clamped."""
    from kornia.enhance import jpeg_codec_differentiable  # a slow import that CPU users never need

    qualities = torch.tensor([float(quality)], device=image.device)
    return jpeg_codec_differentiable(image.clamp(0, 1), qualities).clamp(0, 1)
