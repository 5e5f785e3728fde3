"""What is checked the day SD-Turbo's weights are at hand: files, configurations, schedule, autoencoder, denoiser, a picture."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import interpolate

from idas_sr.metrics import psnr_y
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.mine import MINE
from idas_sr.networks.sd_turbo import REPOSITORY, REVISION
from idas_sr.networks.sd_turbo_random import FULL, Architecture
from idas_sr.noise import canvas_noise
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.resample import upsample
from idas_sr.schedule import NoiseSchedule

TABLE_SIGMA = {0: 0.0292, 99: 0.3417, 199: 0.5693, 249: 0.6932, 499: 1.6129, 749: 4.0817, 999: 14.6146}
"""w(t) of SD-Turbo's scaled-linear betas (methods.md, table 0.3)."""
EPSILON_TIMESTEPS = tuple(range(99, 1000, 100))
TRAINED = (249, 499, 749, 999)
"""Timesteps of SD-Turbo's distillation; all others work by interpolation, if they do."""
NEIGHBOUR = 50
CONFIG_FILES = {"unet": "config.json", "vae": "config.json", "scheduler": "scheduler_config.json"}
CLASSES = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "scheduler": EulerDiscreteScheduler}

# Bands. Reasoned, not measured: the first run with the weights may narrow them.
MIN_ROUND_TRIP = 22.0
"""dB. The 8x autoencoder of Stable Diffusion keeps 23 to 30 dB of photographs; untrained it is near 10."""
LATENT_SPREAD = (0.4, 1.6)
"""Standard deviation of a photograph's scaled latent: the scaling factor was chosen to make it about 1."""
MAX_DIP = 2.0
"""dB by which a trained timestep may stand above the mean of its two neighbours."""
MIN_GAIN = 3.0
"""dB that one step must gain over the noisy latent, decoded as it is, where most of the signal is left (249 and 499)."""
MAX_LOSS = 8.0
"""dB below bicubic for one step from plain noise at t = 199 without any adapter (InvSR's trained one is at about -3)."""


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes:
        name: what was looked at.
        passed: the answer.
        summary: the answer in one sentence, with its figures and the band.
        rows: table of the report, header first.
        needs_training: only trained weights can pass it: random ones must fail, or the band measures nothing.
        seconds: it took.
    """

    name: str
    passed: bool
    summary: str
    rows: list[Sequence[object]] = field(default_factory=list)
    needs_training: bool = False
    seconds: float = 0.0


# ---- files ----


def check_files(folder: Path) -> Check:
    """Every file with size and SHA-256; files of a Hub cache are compared with the hash that the Hub gave them."""
    rows: list[Sequence[object]] = [("file", "bytes", "SHA-256", "")]
    wrong = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and ".cache" not in p.relative_to(folder).parts):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        # A cache entry is a link to a blob; large files' blobs are named by their SHA-256, small ones' by a git hash.
        promised = path.resolve().name if path.is_symlink() and re.fullmatch("[0-9a-f]{64}", path.resolve().name) else None
        verdict = "" if promised is None else ("as the Hub says" if promised == digest else "DAMAGED")
        wrong += [path.name] if verdict == "DAMAGED" else []
        rows.append((path.relative_to(folder).as_posix(), path.stat().st_size, digest, verdict))
    wrong += [f"{part}/*.safetensors missing" for part in ("unet", "vae") if not list((folder / part).glob("*.safetensors"))]
    revision = folder.resolve().name if re.fullmatch("[0-9a-f]{40}", folder.resolve().name) else "not recorded in this folder"
    pinned = "the pinned one" if revision == REVISION else f"pinned: {REVISION}"
    state = ", ".join(wrong) or f"{len(rows) - 1} files"
    return Check("Files", not wrong, f"{state}; revision {revision} ({pinned}) of {REPOSITORY}.", rows)


def check_configs(folder: Path, architecture: Architecture = FULL) -> Check:
    """The configuration files say what this package's preset says, key by key."""
    rows: list[Sequence[object]] = [("part", "key", "file", "preset")]
    for part, name in CONFIG_FILES.items():
        found = json.loads((folder / part / name).read_text(encoding="utf-8"))
        expected = getattr(architecture, part)
        signature = inspect.signature(CLASSES[part].__init__).parameters
        defaults = {k: p.default for k, p in signature.items() if p.default is not inspect.Parameter.empty}
        # Of the scheduler only the betas are used, so only what the preset names is compared.
        keys = expected if part == "scheduler" else defaults
        for key in keys:
            preset = expected.get(key, defaults.get(key))
            value = found.get(key, defaults.get(key))
            if _plain(value) != _plain(preset):
                rows.append((part, key, value, preset))
    count = len(rows) - 1
    return Check("Configurations", not count, f"{count} keys differ from the preset.", rows if count else [])


def _plain(value: Any) -> Any:
    """JSON's view of a value: tuples are lists, and diffusers writes "off" as null or false."""
    return list(value) if isinstance(value, tuple) else value or None


def check_tensors(folder: Path, architecture: Architecture = FULL) -> Check:
    """Names and shapes of the stored tensors fit the preset: loading would only warn, and leave the rest random."""
    rows: list[Sequence[object]] = [("part", "tensor", "file", "preset")]
    count = 0
    for part in ("unet", "vae"):
        with torch.device("meta"):
            model = CLASSES[part].from_config(getattr(architecture, part))
        expected = {name: list(value.shape) for name, value in model.state_dict().items()}
        stored = _stored_shapes(folder / part)
        count += len(stored)
        for name in sorted(expected.keys() | stored.keys()):
            if expected.get(name) != stored.get(name):
                rows.append((part, name, stored.get(name, "missing"), expected.get(name, "unknown")))
    wrong = len(rows) - 1
    return Check("Tensors", not wrong, f"{count} tensors, {wrong} of them not as in the preset.", rows[:20] if wrong else [])


def _stored_shapes(folder: Path) -> dict[str, list[int]]:
    shapes = {}
    for path in sorted(p for p in folder.glob("*.safetensors") if ".fp16." not in p.name):
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no safetensors file ({error}); download it again.") from error
    return shapes


def check_schedule(schedule: NoiseSchedule) -> Check:
    """The model's own betas give table 0.3."""
    rows: list[Sequence[object]] = [("t", "w of the file", "w of the table")]
    worst = 0.0
    for timestep, sigma in TABLE_SIGMA.items():
        value = float(schedule.sigma(torch.tensor([float(timestep)])))
        worst = max(worst, abs(value - sigma))
        rows.append((timestep, f"{value:.4f}", f"{sigma:.4f}"))
    return Check("Noise schedule", worst < 1e-4, f"Largest difference of w from the table {worst:.1e} (band: below 1e-4).", rows)


# ---- networks ----


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

    1 is the error of the predictor that always says zero. And the error is |z0-hat - z0|^2 / w^2 (methods.md 0.1): even an
    estimate that is another natural picture altogether has |z0-hat - z0|^2 = 2 rms^2, and twice that is allowed. Untrained
    networks are above 1 everywhere.
    """
    sigma = schedule.sigma(torch.tensor([float(t) for t in timesteps]))
    return (4 * rms**2 / sigma**2).clamp(max=1.0).tolist()


def judge_epsilon(errors: Sequence[float], limits: Sequence[float]) -> tuple[bool, str]:
    """Whether every error is below its limit, and none is more than a quarter above the one at the timestep before."""
    inside = sum(error < limit for error, limit in zip(errors, limits, strict=True))
    falling = all(after <= 1.25 * before for before, after in zip(errors, errors[1:], strict=False))
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
        return _psnr(backbone.decode(backbone.predict_z0(state, timestep, _tokens(backbone)) if denoise else state), image)

    for trained in TRAINED:
        around = [decoded(t) for t in (trained - NEIGHBOUR, trained + NEIGHBOUR) if t < len(backbone.schedule)]
        here, raw = decoded(trained), decoded(trained, denoise=False)
        dips.append(here - sum(around) / len(around))
        gains += [here - raw] if trained in TRAINED[:2] else []
        after = f"{around[1]:.2f}" if len(around) > 1 else ""
        rows.append((trained, f"{around[0]:.2f}", f"{here:.2f}", after, f"{raw:.2f}", f"{dips[-1]:+.2f}"))
    summary = (
        f"Trained timesteps stand at most {max(dips):+.2f} dB above the mean of t ± {NEIGHBOUR} (band: at most {MAX_DIP:g}); "
        f"one step at 249 and 499 gains at least {min(gains):.2f} dB over the noisy latent (band: at least {MIN_GAIN:g})."
    )
    return Check("x0 off the trained timesteps", max(dips) <= MAX_DIP and min(gains) >= MIN_GAIN, summary, rows, True)


def restore_once(backbone: LatentBackbone, image: Tensor) -> tuple[Check, Image.Image]:
    """A quarter-size copy of the photograph through the whole pipeline, from plain noise at t = 199 (InvSR's start).

    An untrained MINE at a level of almost nothing, churned up to w(199), is the latent plus fresh white noise: an anchor
    that needs no training and uses every line of the pipeline.
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
    lq = (interpolate(image, scale_factor=0.25, mode="bicubic", antialias=True, align_corners=False) / 2 + 0.5).clamp(0, 1)
    result = pipe(lq, realism=1.0, output_type="pt", return_trace=True)
    assert isinstance(result.images, Tensor) and result.trace is not None
    quality, position = _psnr(result.images * 2 - 1, image.cpu()), result.trace[0]["t_r"]
    bicubic = _psnr(upsample(lq * 2 - 1, 4), image)
    summary = (
        f"{lq.shape[-1]} -> {result.images.shape[-1]} from t = {position:.1f}: {quality:.2f} dB, bicubic {bicubic:.2f} dB "
        f"(band: t within 1 of 199, at most {MAX_LOSS:g} dB below bicubic)."
    )
    passed = abs(position - start) <= 1 and quality >= bicubic - MAX_LOSS
    pixels = (result.images[0].permute(1, 2, 0) * 255).round().byte().numpy()
    return Check("One restoration", passed, summary, needs_training=True), Image.fromarray(pixels)


# ---- all of it ----


def verify_files(folder: Path, architecture: Architecture = FULL) -> list[Check]:
    """The checks that need no network."""
    steps: list[Callable[[], Check]] = [
        lambda: check_files(folder),
        lambda: check_configs(folder, architecture),
        lambda: check_tensors(folder, architecture),
    ]
    return [_timed(step) for step in steps]


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
    return [_timed(step) for step in steps], pictures[0]


def succeeded(checks: Sequence[Check], random_weights: bool = False) -> bool:
    """Whether all checks passed; with random weights: whether the others passed and each band rejected them."""
    return all(check.passed != (random_weights and check.needs_training) for check in checks)


def to_markdown(checks: Sequence[Check], facts: dict[str, object], random_weights: bool = False) -> str:
    """The report."""
    kind = " (RANDOM WEIGHTS: the bands must reject them)" if random_weights else ""
    lines = [f"# SD-Turbo verification{kind}", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += [f"**{'As it should be' if succeeded(checks, random_weights) else 'NOT as it should be'}.**", ""]
    for check in checks:
        lines += [f"## {check.name}: {'pass' if check.passed else 'FAIL'}", "", f"{check.summary} ({check.seconds:.1f} s)", ""]
        if check.rows:
            header, *rows = (" | ".join(str(cell) for cell in row) for row in check.rows)
            lines += [f"| {header} |", "|" + " --- |" * len(check.rows[0]), *(f"| {row} |" for row in rows), ""]
    return "\n".join(lines)


def _timed(step: Callable[[], Check]) -> Check:
    began = time.perf_counter()
    check = step()
    return replace(check, seconds=time.perf_counter() - began)


def _tokens(backbone: LatentBackbone) -> Tensor:
    return backbone.embed(backbone.prompt.config["names"][0], 1)


def _noise_like(z0: Tensor) -> Tensor:
    _, channels, height, width = z0.shape
    return canvas_noise([0], (channels, height, width)).to(z0)


def _psnr(image: Tensor, reference: Tensor) -> float:
    """PSNR-Y in dB of (1, 3, H, W) pictures in [-1, 1]; the first is clamped."""
    return float(psnr_y((image / 2 + 0.5).clamp(0, 1), reference / 2 + 0.5))
