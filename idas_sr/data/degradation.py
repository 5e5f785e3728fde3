"""The Real-ESRGAN two-order degradation: HQ crops to LQ, every draw of a sample from that sample's own generator."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from idas_sr.data import corruptions
from idas_sr.data.heldout import HeldoutConfig, degrade_heldout
from idas_sr.data.kernels import KERNEL_KINDS, draw_bell_kernel, draw_sinc_kernel
from idas_sr.data.measured import MeasuredConfig, degrade_measured

RESIZE_MODES = ("area", "bilinear", "bicubic")
JPEG_CODECS = ("auto", "pillow", "kornia")


@dataclass(frozen=True)
class OrderConfig:
    """One order: blur, resize, noise, JPEG. Ranges are (low, high), both included; probabilities in [0, 1]."""

    blur_prob: float = 1.0
    kernel_sizes: tuple[int, int] = (3, 21)  # odd, pixels
    kind_probs: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)  # of kernels.KERNEL_KINDS, sums to one
    sinc_prob: float = 0.1
    blur_sigma: tuple[float, float] = (0.2, 3.0)  # pixels
    beta_generalized: tuple[float, float] = (0.5, 4.0)
    beta_plateau: tuple[float, float] = (1.0, 2.0)
    resize_probs: tuple[float, float, float] = (0.2, 0.7, 0.1)  # up, down, keep
    resize_range: tuple[float, float] = (0.15, 1.5)  # of the HQ size (first order) or the LQ size (second)
    gaussian_prob: float = 0.5  # else Poisson
    gaussian_sigma: tuple[float, float] = (1.0, 30.0)  # 8-bit levels
    poisson_strength: tuple[float, float] = (0.05, 3.0)
    gray_prob: float = 0.4
    noise_scale: float = 1.0  # multiplies either noise; 0 switches it off without moving any other draw
    jpeg_quality: tuple[int, int] = (30, 95)

    def __post_init__(self) -> None:
        for name in ("blur_prob", "sinc_prob", "gaussian_prob", "gray_prob"):
            _check_prob(name, getattr(self, name))
        for name in ("kind_probs", "resize_probs"):
            if abs(sum(getattr(self, name)) - 1) > 1e-6:
                raise ValueError(f"{name} must sum to one, got {getattr(self, name)}.")
        if len(self.kind_probs) != len(KERNEL_KINDS):
            raise ValueError(f"kind_probs needs one value for each of {KERNEL_KINDS}, got {self.kind_probs}.")
        kernel_ranges = ("kernel_sizes", "blur_sigma", "beta_generalized", "beta_plateau")
        for name in (*kernel_ranges, "resize_range", "gaussian_sigma", "poisson_strength", "jpeg_quality"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be (low, high) with low <= high, got {getattr(self, name)}.")
        _check_sizes(self.kernel_sizes)
        if self.noise_scale < 0:
            raise ValueError(f"noise_scale must not be negative, got {self.noise_scale}.")


@dataclass(frozen=True)
class DegradationConfig:
    """Both orders, the final low-pass and the share of samples that are only made smaller."""

    scale: int = 4
    first: OrderConfig = field(default_factory=OrderConfig)
    second: OrderConfig = field(default_factory=OrderConfig)
    second_prob: float = 0.5  # of blur, resize and noise of the second order; its JPEG always happens
    final_sinc_prob: float = 0.8
    final_sinc_sizes: tuple[int, int] = (3, 15)  # odd, LQ pixels
    none_prob: float = 0.0  # antialiased bicubic reduction and nothing else

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ValueError(f"scale must be at least 1, got {self.scale}.")
        for name in ("second_prob", "final_sinc_prob", "none_prob"):
            _check_prob(name, getattr(self, name))
        _check_sizes(self.final_sinc_sizes)


@dataclass(frozen=True)
class MixtureConfig:
    """Each sample takes one of ``parts``, chosen with its share; shares sum to one."""

    parts: tuple[tuple[float, DegradationConfig], ...]

    def __post_init__(self) -> None:
        if abs(sum(share for share, _ in self.parts) - 1) > 1e-6:
            raise ValueError(f"The shares of a mixture must sum to one, got {[share for share, _ in self.parts]}.")

    @property
    def scale(self) -> int:
        """Of every part."""
        return self.parts[0][1].scale

    def choose(self, rng: np.random.Generator) -> DegradationConfig:
        """The part of one sample."""
        index = int(np.searchsorted(np.cumsum([share for share, _ in self.parts]), rng.random(), side="right"))
        return self.parts[min(index, len(self.parts) - 1)][1]


def _check_prob(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability and must lie in [0, 1], got {value}.")


def _check_sizes(sizes: tuple[int, int]) -> None:
    if sizes[0] % 2 == 0 or sizes[1] % 2 == 0 or not 1 <= sizes[0] <= sizes[1]:
        raise ValueError(f"Kernel sizes must be two odd numbers, smallest first, got {sizes}.")


# DIFFERS: InvSR's data loader lists its sizes by range(3, 21, 2) and range(3, 15, 2), so 21 and 15 of its configuration
# never occur there; here both ends are included.
_INVSR = DegradationConfig(  # configs/sd-turbo-sr-ldis.yaml of InvSR; OrderConfig's defaults are its first order
    second=OrderConfig(
        blur_prob=0.8,
        kernel_sizes=(3, 15),
        blur_sigma=(0.2, 1.5),
        resize_probs=(0.3, 0.4, 0.3),
        resize_range=(0.3, 1.2),
        gaussian_sigma=(1.0, 25.0),
        poisson_strength=(0.05, 2.5),
    )
)
# Ours: cameras blur more than one mild stage teaches. Kernels of 3 or 5 pixels would cut a wide blur to a small box,
# so sizes start at Real-ESRGAN's own 7; and some pictures are only small.
_WIDE = replace(_INVSR, first=replace(_INVSR.first, blur_sigma=(0.2, 4.0), kernel_sizes=(7, 21)), none_prob=0.05)

# Ours: an ordinary camera on a good day: lens and sensor blur, hardly any noise, mild compression, no second order.
_CAMERA = DegradationConfig(
    first=replace(
        _WIDE.first,
        kind_probs=(0.55, 0.3, 0.05, 0.02, 0.06, 0.02),
        sinc_prob=0.02,
        kernel_sizes=(11, 27),
        blur_sigma=(0.3, 5.0),
        resize_probs=(0.0, 0.4, 0.6),
        resize_range=(0.5, 1.0),
        noise_scale=0.12,
        jpeg_quality=(85, 100),
    ),
    second=replace(_INVSR.second, jpeg_quality=(75, 100)),
    second_prob=0.0,
    final_sinc_prob=0.1,
    none_prob=0.1,
)

# configs/degradation_testing_realesrgan.yaml of InvSR: how its ImageNet-Test was made. Kernel sizes are those that its
# data loader really draws from (range(3, 13, 2) and range(3, 7, 2)): a test set wants the very distribution.
# DIFFERS: JPEG qualities are whole numbers here and real ones there, and the codec is the real one.
_IMAGENET_TEST = DegradationConfig(
    first=OrderConfig(
        kernel_sizes=(3, 11),
        kind_probs=(0.6, 0.4, 0.0, 0.0, 0.0, 0.0),
        blur_sigma=(0.2, 0.8),
        beta_generalized=(1.0, 1.5),
        beta_plateau=(1.0, 1.2),
        resize_range=(0.5, 1.5),
        gaussian_sigma=(1.0, 15.0),
        poisson_strength=(0.05, 0.3),
        jpeg_quality=(70, 95),
    ),
    second=OrderConfig(jpeg_quality=(80, 100)),
    second_prob=0.0,
    final_sinc_prob=0.2,
    final_sinc_sizes=(3, 5),
)

# configs/sr.yaml of S3Diff; its data loader draws every kernel's size from 7 to 21.
# DIFFERS: one sample in a hundred has the target itself as input there; here it is only made smaller.
_S3DIFF = DegradationConfig(
    first=OrderConfig(
        kernel_sizes=(7, 21),
        blur_sigma=(0.2, 1.5),
        beta_generalized=(0.5, 2.0),
        beta_plateau=(1.0, 1.5),
        resize_range=(0.3, 1.5),
        gaussian_sigma=(1.0, 15.0),
        poisson_strength=(0.05, 2.0),
        jpeg_quality=(60, 95),
    ),
    second=OrderConfig(
        blur_prob=0.5,
        kernel_sizes=(7, 21),
        blur_sigma=(0.2, 1.0),
        beta_generalized=(0.5, 2.0),
        beta_plateau=(1.0, 1.5),
        resize_probs=(0.3, 0.4, 0.3),
        resize_range=(0.6, 1.2),
        gaussian_sigma=(1.0, 12.0),
        poisson_strength=(0.05, 1.0),
        jpeg_quality=(60, 100),
    ),
    second_prob=1.0,
    final_sinc_sizes=(7, 21),
    none_prob=0.01,
)

AnyConfig = DegradationConfig | MixtureConfig | HeldoutConfig | MeasuredConfig

DEGRADATIONS: dict[str, AnyConfig] = {
    "realesrgan": _INVSR,
    "realesrgan-wide": _WIDE,
    "camera": _CAMERA,
    # What the compact model is trained on: a wide spread of severity, more of it a camera's than the web's.
    "compact": MixtureConfig(((0.4, _WIDE), (0.6, _CAMERA))),
    "imagenet-test": _IMAGENET_TEST,
    "s3diff": _S3DIFF,
    "bicubic": DegradationConfig(none_prob=1.0),
    "heldout": HeldoutConfig(),  # another family on purpose: never train on it
    "measured": MeasuredConfig(),  # one camera: its values come from scripts/estimate_degradation.py
}


@dataclass(frozen=True, eq=False)
class StageRecipe:
    """Blur, resize and noise of one order, drawn for one sample."""

    kernel: np.ndarray | None
    resize_factor: float
    resize_mode: str
    is_gaussian: bool
    noise_level: float  # standard deviation in [0, 1] units, or strength of the shot noise
    is_gray: bool
    noise_seed: int


@dataclass(frozen=True, eq=False)
class Recipe:
    """Everything random about one sample except the noise fields, which its seeds name."""

    first: StageRecipe
    first_quality: int
    second: StageRecipe | None
    final_mode: str
    final_kernel: np.ndarray | None
    is_jpeg_last: bool
    final_quality: int


def _draw_stage(order: OrderConfig, rng: np.random.Generator) -> StageRecipe:
    if rng.random() < order.sinc_prob:
        kernel = draw_sinc_kernel(rng, order.kernel_sizes)
    else:
        kernel = draw_bell_kernel(
            rng, order.kernel_sizes, order.kind_probs, order.blur_sigma, order.beta_generalized, order.beta_plateau
        )
    is_blurred = rng.random() < order.blur_prob
    direction = rng.choice(3, p=order.resize_probs)
    low, high = order.resize_range
    factor = (rng.uniform(min(1.0, high), high), rng.uniform(low, max(low, min(1.0, high))), 1.0)[direction]
    is_gaussian = bool(rng.random() < order.gaussian_prob)
    level = rng.uniform(*order.gaussian_sigma) / 255 if is_gaussian else rng.uniform(*order.poisson_strength)
    return StageRecipe(
        kernel=kernel if is_blurred else None,
        resize_factor=float(factor),
        resize_mode=RESIZE_MODES[rng.integers(len(RESIZE_MODES))],
        is_gaussian=is_gaussian,
        noise_level=level * order.noise_scale,
        is_gray=bool(rng.random() < order.gray_prob),
        noise_seed=int(rng.integers(2**63)),
    )


def draw_recipe(config: DegradationConfig, rng: np.random.Generator) -> Recipe | None:
    """All random parameters of one sample from ``rng``; None means that it is only made smaller.

    Parameters are drawn before any picture is touched, so the same recipe follows from the same generator on every
    device and for every crop size.
    """
    if rng.random() < config.none_prob:
        return None
    first = _draw_stage(config.first, rng)
    first_quality = int(rng.integers(config.first.jpeg_quality[0], config.first.jpeg_quality[1] + 1))
    second = _draw_stage(config.second, rng)
    has_second = rng.random() < config.second_prob
    sinc = draw_sinc_kernel(rng, config.final_sinc_sizes, lowest_cutoff=np.pi / 3)  # Real-ESRGAN's final low-pass
    return Recipe(
        first=first,
        first_quality=first_quality,
        second=second if has_second else None,
        final_mode=RESIZE_MODES[rng.integers(len(RESIZE_MODES))],
        final_kernel=sinc if rng.random() < config.final_sinc_prob else None,
        is_jpeg_last=bool(rng.random() < 0.5),
        final_quality=int(rng.integers(config.second.jpeg_quality[0], config.second.jpeg_quality[1] + 1)),
    )


class Degradation:
    """Makes LQ pictures from HQ crops."""

    def __init__(self, config: AnyConfig | str = "realesrgan", jpeg: str = "auto") -> None:
        """Args:
            config: a preset's name (DEGRADATIONS) or a configuration of one's own.
            jpeg: "pillow" (the real codec, on the CPU), "kornia" (an approximation on the image's own device) or
                "auto": pillow for CPU tensors, kornia for all others. Test sets want "pillow".

        Raises:
            ValueError: unknown preset or codec.
        """
        if isinstance(config, str):
            if config not in DEGRADATIONS:
                raise ValueError(f"Unknown degradation {config!r}; choose one of {', '.join(DEGRADATIONS)}.")
            config = DEGRADATIONS[config]
        if jpeg not in JPEG_CODECS:
            raise ValueError(f"Unknown JPEG codec {jpeg!r}; choose one of {', '.join(JPEG_CODECS)}.")
        self.config = config
        self.jpeg = jpeg

    @torch.no_grad()
    def __call__(self, hq: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
        """Degrade a batch; sample i depends on ``hq[i]`` and ``rngs[i]`` only, and no global generator is touched.

        Args:
            hq: (B, 3, H, W) in [0, 1], H and W multiples of the scale s.
            rngs: one generator per sample; each is advanced.

        Returns:
            lq (B, 3, H/s, W/s) float32 in [0, 1] on the device of ``hq``, rounded to 8-bit levels k / 255.

        Raises:
            ValueError: wrong shape, dtype, range or number of generators.
        """
        self._check(hq, rngs)
        samples = [self._degrade(image[None].float(), rng) for image, rng in zip(hq, rngs, strict=True)]
        return (torch.cat(samples).clamp(0, 1) * 255).round() / 255

    def _check(self, hq: Tensor, rngs: Sequence[np.random.Generator]) -> None:
        scale = self.config.scale
        if hq.ndim != 4 or hq.shape[1] != 3 or not hq.is_floating_point() or 0 in hq.shape:
            raise ValueError(f"hq must be a float tensor (B, 3, H, W), got {hq.dtype} {tuple(hq.shape)}.")
        if hq.shape[2] % scale or hq.shape[3] % scale:
            raise ValueError(f"Height and width of hq must be multiples of {scale}, got {tuple(hq.shape[2:])}.")
        if len(rngs) != hq.shape[0]:
            raise ValueError(f"One generator per sample is needed: {hq.shape[0]} samples, {len(rngs)} generators.")
        low, high = hq.aminmax()
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise ValueError(f"hq must lie in [0, 1], got [{low.item():.3g}, {high.item():.3g}]; rescale it first.")

    def _degrade(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        if isinstance(self.config, HeldoutConfig):
            return degrade_heldout(image, self.config, rng)
        if isinstance(self.config, MeasuredConfig):
            return degrade_measured(image, self.config, rng)
        config = self.config.choose(rng) if isinstance(self.config, MixtureConfig) else self.config
        recipe = draw_recipe(config, rng)
        if recipe is None:
            return corruptions.bicubic_down(image, config.scale)
        return self._apply(image, recipe)

    def _apply(self, image: Tensor, recipe: Recipe) -> Tensor:
        hq_size = (image.shape[-2], image.shape[-1])
        lq_size = (hq_size[0] // self.config.scale, hq_size[1] // self.config.scale)
        image = self._compress(_apply_stage(image, recipe.first, hq_size), recipe.first_quality)
        if recipe.second is not None:
            image = _apply_stage(image, recipe.second, lq_size)
        if not recipe.is_jpeg_last:
            image = self._compress(image, recipe.final_quality)
        # Resize and sinc stay together: sinc, JPEG, resize in this order would draw twisted lines (Real-ESRGAN).
        image = corruptions.resize(image, lq_size, recipe.final_mode)
        if recipe.final_kernel is not None:
            image = corruptions.blur(image, recipe.final_kernel)
        return self._compress(image, recipe.final_quality) if recipe.is_jpeg_last else image

    def _compress(self, image: Tensor, quality: int) -> Tensor:
        if self.jpeg == "kornia" or (self.jpeg == "auto" and image.device.type != "cpu"):
            return corruptions.compress_kornia(image, quality)
        return corruptions.compress_pillow(image, quality)


def _apply_stage(image: Tensor, stage: StageRecipe, base_size: tuple[int, int]) -> Tensor:
    if stage.kernel is not None:
        image = corruptions.blur(image, stage.kernel)
    size = (max(1, int(base_size[0] * stage.resize_factor)), max(1, int(base_size[1] * stage.resize_factor)))
    image = corruptions.resize(image, size, stage.resize_mode)
    if stage.noise_level == 0:
        return image
    add_noise = corruptions.add_gaussian_noise if stage.is_gaussian else corruptions.add_poisson_noise
    return add_noise(image, stage.noise_level, stage.is_gray, stage.noise_seed)
