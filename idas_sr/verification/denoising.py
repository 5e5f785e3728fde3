"""Checks of SD-Turbo that run its networks: schedule, autoencoder, denoiser, one restoration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from idas_sr.metrics import psnr_y
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.mine import MINE
from idas_sr.noise import canvas_noise
from idas_sr.pipeline import IDaSSROutput, IDaSSRPipeline
from idas_sr.resample import upsample
from idas_sr.schedule import NoiseSchedule
from idas_sr.verification.report import Check, timed

TABLE_SIGMA = {0: 0.0292, 99: 0.3417, 199: 0.5693, 249: 0.6932, 499: 1.6129, 749: 4.0817, 999: 14.6146}
"""w(t) of SD-Turbo's scaled-linear betas (methods.md, table 0.3)."""
EPSILON_TIMESTEPS = tuple(range(99, 1000, 100))
TRAINED = (249, 499, 749, 999)
"""Timesteps of SD-Turbo's distillation; all others work by interpolation, if they do."""
NEIGHBOUR = 50

# Bands. Reasoned, not measured: the first run with the weights may narrow them.
MIN_ROUND_TRIP = 22.0
"""dB. The 8x autoencoder of Stable Diffusion keeps 23 to 30 dB of photographs; untrained it is near 10."""
LATENT_SPREAD = (0.4, 1.6)
"""Standard deviation of a photograph's scaled latent: the scaling factor was chosen to make it about 1."""
MAX_DIP = 2.0
"""dB by which a trained timestep may stand above the mean of its two neighbours."""
MIN_GAIN = 3.0
"""dB that one step must gain over the noisy latent, decoded as it is, where much signal is left (249 and 499)."""
MAX_LOSS = 8.0
"""dB below bicubic for one step from plain noise at t = 199 without any adapter (InvSR's trained one: about 3)."""


def check_schedule(schedule: NoiseSchedule) -> Check:
    """The model's own betas give table 0.3."""
    rows: list[Sequence[object]] = [("t", "w of the file", "w of the table")]
    worst = 0.0
    for timestep, sigma in TABLE_SIGMA.items():
        value = float(schedule.sigma(torch.tensor([float(timestep)])))
        worst = max(worst, abs(value - sigma))
        rows.append((timestep, f"{value:.4f}", f"{sigma:.4f}"))
    summary = f"Largest difference of w from the table {worst:.1e} (band: below 1e-4)."
    return Check("Noise schedule", worst < 1e-4, summary, rows)


def check_autoencoder(backbone: LatentBackbone, image: Tensor) -> Check:
    """A photograph (1, 3, H, W) in [-1, 1] through encoder and decoder."""
    z0 = backbone.encode(image)
    quality, spread = _psnr(backbone.decode(z0), image), float(z0.std())
    low, high = LATENT_SPREAD
    summary = (
        f"Round trip {quality:.2f} dB PSNR-Y (band: at least {MIN_ROUND_TRIP:g}), "
        f"latent's standard deviation {spread:.3f} (band: {low} to {high})."
    )
    return Check("Autoencoder", quality >= MIN_ROUND_TRIP and low <= spread <= high, summary, needs_training=True)


def epsilon_errors(backbone: LatentBackbone, z0: Tensor, timesteps: Sequence[int] = EPSILON_TIMESTEPS) -> list[float]:
    """mean |eps-hat - eps|^2 of the noised latent z0 (1, C, h, w) at each timestep, always with the same noise."""
    noise = _noise_like(z0)
    errors = []
    for value in timesteps:
        timestep = torch.full((1,), float(value), device=z0.device)
        signal, amount, _ = (c.reshape(-1, 1, 1, 1) for c in backbone.schedule.coef(timestep))
        estimate = backbone.predict_eps(signal * z0 + amount * noise, timestep, _tokens(backbone))
        errors.append(float((estimate - noise).square().mean()))
    return errors


def epsilon_limits(rms: float, schedule: NoiseSchedule, timesteps: Sequence[int] = EPSILON_TIMESTEPS) -> list[float]:
    """Band of ``epsilon_errors``: min(1, 4 rms^2 / w^2), ``rms`` that of the clean latent.

    1 is the error of the predictor that always says zero. And the error is |z0-hat - z0|^2 / w^2 (methods.md 0.1): even
    an estimate that is another natural picture altogether has |z0-hat - z0|^2 = 2 rms^2, and twice that is allowed.
    Untrained networks are above 1 everywhere.
    """
    sigma = schedule.sigma(torch.tensor([float(t) for t in timesteps]))
    return (4 * rms**2 / sigma**2).clamp(max=1.0).tolist()


def judge_epsilon(errors: Sequence[float], limits: Sequence[float]) -> tuple[bool, str]:
    """Whether every error is below its limit, and none is more than a quarter above the one at the timestep before."""
    inside = sum(error < limit for error, limit in zip(errors, limits, strict=True))
    falling = all(after <= 1.25 * before for before, after in pairwise(errors))
    summary = (
        f"{inside} of {len(errors)} errors are below min(1, 4 rms(z0)^2 / w^2), and they "
        f"{'fall' if falling else 'do not fall'} with t (band: all below, falling within 25 %)."
    )
    return inside == len(errors) and falling, summary


def check_epsilon(backbone: LatentBackbone, image: Tensor) -> Check:
    """Is the UNet an epsilon predictor on this schedule, with this index convention and scaling factor?"""
    z0 = backbone.encode(image)
    errors = epsilon_errors(backbone, z0)
    limits = epsilon_limits(float(z0.square().mean().sqrt()), backbone.schedule)
    passed, summary = judge_epsilon(errors, limits)
    table = zip(EPSILON_TIMESTEPS, [f"{e:.4f}" for e in errors], [f"{x:.4f}" for x in limits], strict=True)
    return Check("Epsilon error", passed, summary, [("t", "mean squared error", "limit"), *table], needs_training=True)


def check_x0(backbone: LatentBackbone, image: Tensor) -> Check:
    """One-step estimates off the four trained timesteps against those on them, in decibels of the decoded picture."""
    z0 = backbone.encode(image)
    noise = _noise_like(z0)
    rows: list[Sequence[object]] = [("t", "before", "at t", "after", "undenoised", "above its neighbours")]
    dips, gains = [], []

    def decoded(value: float, denoise: bool = True) -> float:
        timestep = torch.full((1,), value, device=z0.device)
        state = z0 + backbone.schedule.sigma(timestep).reshape(-1, 1, 1, 1) * noise
        latent = backbone.predict_z0(state, timestep, _tokens(backbone)) if denoise else state
        return _psnr(backbone.decode(latent), image)

    for trained in TRAINED:
        around = [decoded(t) for t in (trained - NEIGHBOUR, trained + NEIGHBOUR) if t < len(backbone.schedule)]
        here, raw = decoded(trained), decoded(trained, denoise=False)
        dips.append(here - sum(around) / len(around))
        gains += [here - raw] if trained in TRAINED[:2] else []
        after = f"{around[1]:.2f}" if len(around) > 1 else ""
        rows.append((trained, f"{around[0]:.2f}", f"{here:.2f}", after, f"{raw:.2f}", f"{dips[-1]:+.2f}"))
    summary = (
        f"Trained timesteps stand at most {max(dips):+.2f} dB above the mean of t ± {NEIGHBOUR} "
        f"(band: at most {MAX_DIP:g}); one step at 249 and 499 gains at least {min(gains):.2f} dB "
        f"over the noisy latent (band: at least {MIN_GAIN:g})."
    )
    return Check("x0 off the trained timesteps", max(dips) <= MAX_DIP and min(gains) >= MIN_GAIN, summary, rows, True)


def restore_once(backbone: LatentBackbone, image: Tensor) -> tuple[Check, Image.Image]:
    """A quarter-size copy of the photograph through the whole pipeline, from plain noise at t = 199 (InvSR's start).

    An untrained MINE at a level of almost nothing, churned up to w(199), is the latent plus fresh white noise: an
    anchor that needs no training and uses every line of the pipeline.
    """
    level, start = 0.03, 199.0
    estimator = MINE(
        latent_channels=backbone.latent_channels,
        stride=backbone.downsample // 4,
        width=16,
        deep_width=16,
        blocks=1,
        severity_width=8,
        sigma_min=level * 0.999,
        sigma_max=level * 1.001,
    ).to(image.device)
    kappa = float(backbone.schedule.sigma(torch.tensor([start]))) / level
    pipe = IDaSSRPipeline.from_backbone(backbone, estimator, "idas", {"name": "n1", "args": {"kappa": kappa}}).eval()
    lq = interpolate(image, scale_factor=0.25, mode="bicubic", antialias=True, align_corners=False)
    lq = (lq / 2 + 0.5).clamp(0, 1)
    result = pipe(lq, realism=1.0, output_type="pt", return_trace=True)
    assert isinstance(result, IDaSSROutput) and isinstance(result.images, Tensor) and result.trace is not None
    quality, position = _psnr(result.images * 2 - 1, image.cpu()), result.trace[0]["t_r"]
    bicubic = _psnr(upsample(lq * 2 - 1, 4), image)
    summary = (
        f"{lq.shape[-1]} -> {result.images.shape[-1]} from t = {position:.1f}: {quality:.2f} dB, "
        f"bicubic {bicubic:.2f} dB (band: t within 1 of 199, at most {MAX_LOSS:g} dB below bicubic)."
    )
    passed = abs(position - start) <= 1 and quality >= bicubic - MAX_LOSS
    pixels = (result.images[0].permute(1, 2, 0) * 255).round().byte().numpy()
    return Check("One restoration", passed, summary, needs_training=True), Image.fromarray(pixels)


@torch.inference_mode()
def verify_networks(backbone: LatentBackbone, image: Tensor) -> tuple[list[Check], Image.Image]:
    """The checks that run the networks on a photograph (1, 3, H, W) in [-1, 1]; also returns the restored picture."""
    pictures = []

    def restoration() -> Check:
        check, picture = restore_once(backbone, image)
        pictures.append(picture)
        return check

    steps: list[Callable[[], Check]] = [
        lambda: check_schedule(backbone.schedule),
        lambda: check_autoencoder(backbone, image),
        lambda: check_epsilon(backbone, image),
        lambda: check_x0(backbone, image),
        restoration,
    ]
    return [timed(step) for step in steps], pictures[0]


def _tokens(backbone: LatentBackbone) -> Tensor:
    return backbone.embed(backbone.prompt.config["names"][0], 1)


def _noise_like(z0: Tensor) -> Tensor:
    _, channels, height, width = z0.shape
    return canvas_noise([0], (channels, height, width)).to(z0)


def _psnr(image: Tensor, reference: Tensor) -> float:
    """PSNR-Y in dB of (1, 3, H, W) pictures in [-1, 1]; the first is clamped."""
    return float(psnr_y((image / 2 + 0.5).clamp(0, 1), reference / 2 + 0.5))
