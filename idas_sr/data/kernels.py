"""Blur kernels of the degradations, as numpy arrays that sum to one, drawn from a numpy Generator."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

KERNEL_KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
_SHORT_SINC_SIZE = 13  # below it a sinc is cut off no lower than pi/3, else pi/5 (Real-ESRGAN's data loader)
_OVERSAMPLING = 8  # sub-samples per pixel and axis for the edges of the disk and the line


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    if size < 1 or size % 2 == 0:
        raise ValueError(f"A blur kernel needs an odd size of at least 1, got {size}.")
    axis = np.arange(size, dtype=np.float64) - size // 2
    x, y = np.meshgrid(axis, axis)
    return x, y


def bell_kernel(
    size: int, sigma_x: float, sigma_y: float, angle: float, profile: str = "gaussian", beta: float = 1.0
) -> np.ndarray:
    """Elliptical kernel (size, size) summing to one, float64.

    With q = x^T S^-1 x and S the covariance with axes ``sigma_x``, ``sigma_y`` (pixels) turned by ``angle`` (radians),
    the profile is exp(-q/2) for "gaussian", exp(-q^beta / 2) for "generalized" and 1 / (1 + q^beta) for "plateau"
    (section 3.1 of Real-ESRGAN, arXiv 2107.10833).

    Raises:
        ValueError: even size or unknown profile.
    """
    x, y = _grid(size)
    cos, sin = math.cos(angle), math.sin(angle)
    # Coordinates along the ellipse's own axes make the quadratic form a plain sum of squares.
    q = ((cos * x + sin * y) / sigma_x) ** 2 + ((cos * y - sin * x) / sigma_y) ** 2
    if profile == "gaussian":
        kernel = np.exp(-0.5 * q)
    elif profile == "generalized":
        kernel = np.exp(-0.5 * q**beta)
    elif profile == "plateau":
        kernel = 1.0 / (1.0 + q**beta)
    else:
        raise ValueError(f"Unknown kernel profile {profile!r}; choose gaussian, generalized or plateau.")
    return kernel / kernel.sum()


def sinc_kernel(size: int, cutoff: float) -> np.ndarray:
    """Circular low-pass kernel (size, size) summing to one, ``cutoff`` in (0, pi] radians per pixel.

    k(r) = cutoff / (2 pi r) * J1(cutoff r), the ringing of sharpeners (Eq. 6 of Real-ESRGAN, arXiv 2107.10833).
    """
    x, y = _grid(size)
    r = np.hypot(x, y)
    centre = size // 2
    r[centre, centre] = 1.0
    kernel = cutoff * special.j1(cutoff * r) / (2 * math.pi * r)
    kernel[centre, centre] = cutoff**2 / (4 * math.pi)  # the limit r -> 0
    return kernel / kernel.sum()


def disk_kernel(radius: float) -> np.ndarray:
    """Defocus of a round aperture: an even disk of ``radius`` pixels with soft edges, summing to one."""
    size = 2 * math.ceil(radius) + 1
    steps = (np.arange(size * _OVERSAMPLING) + 0.5) / _OVERSAMPLING - size / 2
    inside = (steps[:, None] ** 2 + steps[None, :] ** 2 <= radius**2).astype(np.float64)
    kernel = inside.reshape(size, _OVERSAMPLING, size, _OVERSAMPLING).sum(axis=(1, 3))
    return kernel / kernel.sum()


def motion_kernel(length: float, angle: float) -> np.ndarray:
    """Straight camera shake: a line of ``length`` pixels at ``angle`` radians, summing to one."""
    size = 2 * math.ceil(length / 2) + 1
    num_points = max(2, math.ceil(length) * _OVERSAMPLING)
    along = np.linspace(-length / 2, length / 2, num_points)
    x, y = along * math.cos(angle) + size // 2, along * math.sin(angle) + size // 2
    column = np.clip(np.floor(x).astype(int), 0, size - 2)
    row = np.clip(np.floor(y).astype(int), 0, size - 2)
    right, down = x - column, y - row
    kernel = np.zeros((size, size))
    np.add.at(kernel, (row, column), (1 - down) * (1 - right))
    np.add.at(kernel, (row, column + 1), (1 - down) * right)
    np.add.at(kernel, (row + 1, column), down * (1 - right))
    np.add.at(kernel, (row + 1, column + 1), down * right)
    return kernel / kernel.sum()


def draw_size(rng: np.random.Generator, sizes: tuple[int, int]) -> int:
    """An odd size, each one from ``sizes[0]`` to ``sizes[1]`` (both odd, both included) equally likely."""
    return int(rng.integers(sizes[0] // 2, sizes[1] // 2 + 1)) * 2 + 1


def draw_sinc_kernel(
    rng: np.random.Generator, sizes: tuple[int, int], lowest_cutoff: float | None = None
) -> np.ndarray:
    """A sinc of random size and cutoff; without ``lowest_cutoff`` long ones may cut as low as pi/5, short ones pi/3."""
    size = draw_size(rng, sizes)
    if lowest_cutoff is None:
        lowest_cutoff = math.pi / 3 if size < _SHORT_SINC_SIZE else math.pi / 5
    return sinc_kernel(size, rng.uniform(lowest_cutoff, math.pi))


def draw_bell_kernel(
    rng: np.random.Generator,
    sizes: tuple[int, int],
    kind_probs: Sequence[float],
    sigma_range: tuple[float, float],
    beta_generalized: tuple[float, float],
    beta_plateau: tuple[float, float],
) -> np.ndarray:
    """One of KERNEL_KINDS with random size, widths (pixels), angle and shape exponent."""
    size = draw_size(rng, sizes)
    kind = KERNEL_KINDS[rng.choice(len(KERNEL_KINDS), p=kind_probs)]
    sigma_x = rng.uniform(*sigma_range)
    sigma_y, angle = sigma_x, 0.0
    if kind.endswith("aniso"):
        sigma_y, angle = rng.uniform(*sigma_range), rng.uniform(-math.pi, math.pi)
    if kind.startswith("generalized"):
        return bell_kernel(size, sigma_x, sigma_y, angle, "generalized", _draw_beta(rng, beta_generalized))
    if kind.startswith("plateau"):
        return bell_kernel(size, sigma_x, sigma_y, angle, "plateau", _draw_beta(rng, beta_plateau))
    return bell_kernel(size, sigma_x, sigma_y, angle)


def _draw_beta(rng: np.random.Generator, beta_range: tuple[float, float]) -> float:
    # Half of the draws on either side of 1, so that peaked and flat shapes come equally often (Real-ESRGAN's sampler).
    low, high = beta_range
    return rng.uniform(low, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, high)
