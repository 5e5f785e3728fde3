"""IDaS-SR in one file, to be read in an evening: one-step diffusion super-resolution (x4) with a dial.

    python nano_idas.py train PHOTOGRAPHS --out nano.safetensors        # a folder; a quarter of an hour on a CPU
    python nano_idas.py restore nano.safetensors LQ OUT --realism 0.5   # or the package's idas_sr/models/compact

A latent z under noise of level w is y = z + w x. How degraded a picture is can be said in the same language:

    1  encode   z_L = E(the picture, enlarged)
    2  anchor   MINE says at which level w z_L lies, how it deviates (d^), and which noise u puts it there:
                y_0 = z_L - d^ + w u
    3  steer    CHARIOT adds fresh noise x for realism r, and declares it: y_r = y_0 + sqrt(w_r^2 - w^2) x at t(w_r)
    4  denoise  z_0 = y_r - w_r eps(y_r / sqrt(1 + w_r^2), t(w_r)), one evaluation of the UNet
    5  decode   D(z_0)

Names in brackets, such as [S-2], are those of docs/equations.md. On the same weights the package idas_sr, of which this
file uses nothing, gives the same picture; it also has tiles for large ones, critics, resuming, and ways to measure.
"""

import argparse
import io
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

try:
    import torchvision  # noqa: F401  (diffusers imports it where it is installed)
except (ImportError, RuntimeError):  # one built for another torch misses two operators that nothing here calls
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.embeddings import TimestepEmbedding, Timesteps

SCALE = 4  # a pixel of the input is 4 x 4 pixels of the result, and one cell of the latent
CROP, BATCH = 96, 8  # of training, in pixels of the photographs

# ---- the schedule: timestep t <-> noise level w ----

ABAR = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)  # SD-Turbo's
LOG_W = 0.5 * ((1 - ABAR) / ABAR).log()  # w = sqrt(1 - abar) / sqrt(abar)


def level_of(t):
    """w(t) of fractional timesteps (B,): log w is linear between the integers."""
    t = t.double().clamp(0, 999)
    low = t.floor().long()
    return torch.lerp(LOG_W[low], LOG_W[(low + 1).clamp(max=999)], t - low).exp().float()


def timestep_of(w):
    """t(w), the inverse."""
    log_w = w.double().log().clamp(LOG_W[0], LOG_W[-1])
    high = torch.searchsorted(LOG_W, log_w).clamp(1, 999)
    return (high - 1 + (log_w - LOG_W[high - 1]) / (LOG_W[high] - LOG_W[high - 1])).float()


def fresh_noise(seeds, channels, height, width):
    """(B, C, h, w): the corner of endless canvases of 64 x 64 blocks, block (i, j) keyed by (seed, i, j).

    Looked up rather than drawn one after the other, so it is the same in every batch, crop and machine.
    """

    def block(seed, i, j):
        key = np.array([seed % 2**64, i << 32 | j], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).standard_normal((channels, 64, 64), dtype=np.float32)

    rows, columns = range(-(-height // 64)), range(-(-width // 64))
    canvases = [np.block([[block(seed, i, j) for j in columns] for i in rows]) for seed in seeds]
    return torch.from_numpy(np.stack(canvases)[:, :, :height, :width])


# ---- MINE: where a latent lies, how it deviates, and the noise that anchors it ----


def enlarge(lq):
    return F.interpolate(lq, scale_factor=SCALE, mode="bicubic").clamp(-1, 1)


def as_map(vector):
    """(B,) or (B, N) -> (B, N, 1, 1), to go with feature maps."""
    return vector.reshape(len(vector), -1, 1, 1)


def conv(inputs, outputs, size=3, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2)


def zero(layer):
    """A layer that starts by saying nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Context(nn.Module):
    """Looks around: what a place shows says how much fine structure it had."""

    def __init__(self, width):
        super().__init__()
        self.look = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.widen, self.narrow = conv(width, 2 * width, 1), zero(conv(2 * width, width, 1))

    def forward(self, x):
        return x + self.narrow(F.silu(self.widen(self.look(x))))


class Severity(nn.Module):
    """Positioning: a map of how much power the deviation is likely to have at each place; its mean is w^2."""

    def __init__(self, inputs, width, depth):
        super().__init__()
        self.filters = conv(inputs, width, 5)
        self.down1, self.down2 = conv(width, width, stride=2), conv(width, width * 2, stride=2)
        self.local, self.whole = conv(width * 3, width * 2), nn.Linear(width * 6, width * 2)
        self.context = nn.Sequential(*(Context(width * 2) for _ in range(depth)))
        self.mix, self.out = conv(width * 2, width * 2, 1), zero(conv(width * 2, 2, 1))
        self.out.bias.data = torch.tensor([math.log(0.25), 1.1])  # starts at w = 0.5, three quarters of it unexplained

    def forward(self, x):
        """-> power (B, 1, h/4, w/4), and sigma_e / w (B,), the share of the deviation that d^ will not explain."""
        x = self.filters(x)
        # What is lost is fine structure, whose energy follows that of the structure which is left: so look at energy.
        energy = (F.avg_pool2d(x.square(), 4, ceil_mode=True) + 1e-5).log()
        x = torch.cat([F.silu(self.down2(F.silu(self.down1(F.silu(x))))), energy], 1)
        # Noise and blur are the whole picture's: what is learnt at one place helps to judge another.
        spread = (x.var((2, 3), unbiased=False) + 1e-6).sqrt()
        x = F.silu(self.local(x) + as_map(self.whole(torch.cat([x.mean((2, 3)), spread], 1))))
        power, share = self.out(F.silu(self.mix(self.context(x)))).chunk(2, 1)
        return power.clamp(-12, 4).exp(), share.mean((1, 2, 3)).sigmoid()


class Residual(nn.Module):
    """Two convolutions with the severity between them. No normalisation: a crop sees what the whole picture sees."""

    def __init__(self, width, embedding):
        super().__init__()
        self.conv1, self.embed, self.conv2 = conv(width, width), nn.Linear(embedding, width), zero(conv(width, width))

    def forward(self, given):
        x, told = given
        return x + self.conv2(F.silu(self.conv1(x) + as_map(self.embed(told)))), told


def two_residuals(width, embedding):
    return nn.Sequential(Residual(width, embedding), Residual(width, embedding))


class MINE(nn.Module):
    """The manifold inversion noise estimator: looks at the picture and its latent."""

    def __init__(
        self, latent_channels, width, deep_width, severity_width, sigma_min, sigma_max, skips, severity_depth=0
    ):
        super().__init__()
        inputs, deep = 3 + latent_channels, deep_width
        self.log_range = math.log(sigma_min), math.log(sigma_max)
        self.severity = Severity(inputs, severity_width, severity_depth)
        self.frequencies = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.embedding = TimestepEmbedding(width, width * 2)
        self.enter, self.before = conv(inputs, width), two_residuals(width, width * 2)
        self.down, self.deep = conv(width, deep, stride=2), two_residuals(deep, width * 2)
        self.up, self.after = conv(deep, width), two_residuals(width, width * 2)
        self.noise_head, self.deviation_head = conv(width, latent_channels), zero(conv(width, latent_channels))
        # Fine structure does not survive the noise, so a small UNet is also given features of the picture, at its four
        # finest skip connections: two at the latent's resolution, two at half of it.
        sizes = zip((width, width, deep, deep), skips, strict=True)
        self.control_heads = nn.ModuleList(zero(conv(*size, 1)) for size in sizes)

    def forward(self, lq, z_lq):
        """(B, 3, h, w), (B, C, h, w) -> log w (B,), sigma_e / w (B,), power, d^ and u (B, C, h, w), features."""
        (low, high), x = self.log_range, torch.cat([lq, z_lq], 1)
        power, share = self.severity(x)
        log_w = 0.5 * power.mean((1, 2, 3)).log().clamp(2 * low, 2 * high)
        # Detached: the trunk is told the position, but what it makes of it must not move it.
        told = F.silu(self.embedding(self.frequencies((log_w.detach() - low) / (high - low) * 1000)))
        x, _ = self.before((self.enter(x), told))
        y, _ = self.deep((self.down(x), told))
        x, _ = self.after((x + self.up(F.interpolate(y, size=x.shape[-2:])), told))
        x, y = F.silu(x), F.silu(y)
        # [I-2] What d^ leaves of the deviation is noise already; u is the rest: rms(u)^2 = 1 - (sigma_e / w)^2.
        u = self.noise_head(x)
        u = u * (u.square().mean(1, keepdim=True) + 1e-6).rsqrt()
        u = u * as_map((1 - share.detach() ** 2).clamp_min(0.05).sqrt())
        features = [head(at) for head, at in zip(self.control_heads, (x, x, y, y), strict=True)]
        return log_w, share, power, self.deviation_head(x), u, features


# ---- the model ----

NANO = {  # sizes in the words of diffusers and the package; its compact model is the same with larger ones
    "vae": {f"{part}_block_out_channels": [48] for part in ("encoder", "decoder")}
    | {"num_encoder_blocks": [2], "num_decoder_blocks": [3]},
    "unet": {"block_out_channels": [32, 48, 64], "cross_attention_dim": 32},
    "mine": {"latent_channels": 8, "width": 48, "deep_width": 64, "severity_width": 24}
    | {"sigma_min": 0.05, "sigma_max": 1.2, "severity_depth": 0},
    "kappa": 1.3,  # how far the dial reaches, w_end / w
}
UNET = {  # what is the same in every size
    "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
} | {"layers_per_block": 1, "norm_num_groups": 16, "attention_head_dim": 4, "only_cross_attention": True}


class IDaS(nn.Module):
    """Autoencoder, UNet, its one prompt, and MINE. ``restore`` is the whole algorithm, in training and after it."""

    def __init__(self, config):
        super().__init__()
        self.config, (finest, finer, _) = config, config["unet"]["block_out_channels"]
        latent, pixels = config["mine"]["latent_channels"], 3 * SCALE**2
        self.mine = MINE(**config["mine"], skips=(finest, finest, finest, finer))
        self.vae = AutoencoderTiny(pixels, pixels, latent_channels=latent, **config["vae"])
        self.unet = UNet2DConditionModel(in_channels=latent, out_channels=latent, **UNET, **config["unet"])
        self.tokens = nn.Parameter(torch.randn(1, 4, config["unet"]["cross_attention_dim"]))
        self.register_buffer("mean", torch.zeros(1, latent, 1, 1))  # of the autoencoder's latents
        self.register_buffer("std", torch.ones(1, latent, 1, 1))

    def encode(self, image):
        """(B, 3, H, W) in [-1, 1] -> (B, C, H/4, W/4), each channel of mean 0 and standard deviation 1."""
        return (self.vae.encode(F.pixel_unshuffle(image, SCALE)).latents - self.mean) / self.std

    def decode(self, z):
        return F.pixel_shuffle(self.vae.decode(z * self.std + self.mean).sample, SCALE)

    def eps(self, state, w, t, features=()):
        """The noise that the UNet sees in z + w x, of unit variance. Its own states are (z + w x) / sqrt(1 + w^2)."""
        # diffusers wants one for each of the six skip connections and for the middle, as from a ControlNet.
        *skips, middle = *features, *[torch.zeros(())] * (7 - len(features))
        added = {"down_block_additional_residuals": skips, "mid_block_additional_residual": middle}
        return self.unet(state * (1 + w**2).rsqrt(), t, self.tokens.expand(len(state), -1, -1), **added).sample

    def restore(self, lq, realism, seeds):
        """Pictures (B, 3, h, w) in [-1, 1], realism (B,), seeds of the fresh noise -> z_0, and what MINE said."""
        # 1. Encode.
        z_lq = self.encode(enlarge(lq))
        # 2. Anchor. Detached: a loss on the restored picture would pull the position to whatever is easiest.
        said = log_w, _, _, deviation, u, features = self.mine(lq, z_lq)
        t = timestep_of(log_w.detach().exp())
        w = level_of(t)
        state = z_lq - deviation + as_map(w) * u
        # 3. Steer. [S-2] log w_r = (1 - r) log w + r log w_end, with w_end = min(kappa w, w(599)).
        w_end = torch.maximum(torch.minimum(self.config["kappa"] * w, level_of(torch.full_like(w, 599))), w)
        t_r = torch.maximum(timestep_of(w * (w_end / w) ** realism), t)
        t_r = torch.where(realism == 0, t, t_r)  # exactly: no rounding by exp and log
        w_r = level_of(t_r)
        # [N1] The forward process from w to w_r: nothing random at realism 0.
        state = state + as_map((w_r**2 - w**2).clamp_min(0).sqrt()) * fresh_noise(seeds, *state.shape[1:])
        # 4. Denoise, told the level that the state really has.
        w_r = as_map(w_r)
        return state - w_r * self.eps(state, w_r, t_r, features), z_lq, said


@torch.inference_mode()
def restore_pictures(model, lq, realism, seed):
    """(B, 3, h, w) in [-1, 1], of any size -> (B, 3, 4h, 4w) in [0, 1]."""
    height, width = lq.shape[-2:]
    lq = F.pad(lq, (0, -width % 4, 0, -height % 4), mode="reflect")  # the UNet halves the latent twice
    z0, *_ = model.restore(lq, torch.full((len(lq),), realism), [seed] * len(lq))
    return (model.decode(z0)[..., : height * SCALE, : width * SCALE] / 2 + 0.5).clamp(0, 1)


# ---- files ----


def write(path, save):
    """``save(partial file)``, which then gets its name: what bears the name is always whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial.{path.name}")
    try:
        save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_model(path):
    """What ``train`` has written, or a folder of the package's such as idas_sr/models/compact."""
    try:
        if Path(path).is_dir():
            config, tensors = read_package_model(Path(path))
        else:
            config, tensors = json.loads(safe_open(path, "pt").metadata()["nano_idas"]), load_file(path)
        model = IDaS(config)
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is no model: name a file that `train` has written, or the package's.") from error
    # The package's layout on a CPU. Sums are then made in the same order, and the last bit is the same too.
    return model.eval().to(memory_format=torch.channels_last)


def read_package_model(folder):
    """Configuration and weights of the prior, and of the adapter that makes it IDaS-SR."""
    names = ("model_index.json", "vae/config.json", "unet/config.json", "adapters/idas/config.json")
    index, vae, unet, adapter = (json.loads((folder / name).read_text(encoding="utf-8")) for name in names)
    saved = {"vae": vae, "unet": unet, "mine": adapter["estimator"]}
    config = {part: {name: saved[part][name] for name in NANO[part]} for part in saved}
    config["kappa"] = adapter["steering"]["args"]["kappa"]
    tensors = {name: torch.tensor(index[f"latents_{name}"]).reshape(1, -1, 1, 1) for name in ("mean", "std")}
    for part in ("vae", "unet", "prompt"):
        weights = load_file(folder / part / "diffusion_pytorch_model.safetensors")
        tensors |= {f"{part}.{name}": value for name, value in weights.items()}
    tensors |= load_file(folder / "adapters/idas/adapter.safetensors")
    tensors = {name.replace("estimator.", "mine."): value for name, value in tensors.items()}
    return config, tensors | {"tokens": tensors.pop("prompt.tokens")[:1]}  # the first of its prompts, "clean"


def find_pictures(path):
    """The file, or the pictures in the folder."""
    path, kinds = Path(path), {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in kinds) if path.is_dir() else [path]
    if not found or not found[0].exists():
        raise ValueError(f"There is no picture at {path}: name a picture file, or a folder with some.")
    return found


def read_picture(path, least):
    """(H, W, 3) uint8, of ``least`` pixels a side or more."""
    try:
        picture = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a picture: repair, remove or replace it.") from error
    if min(picture.shape[:2]) < least:
        raise ValueError(f"{path} has fewer than {least} pixels on a side: remove or replace it.")
    return picture


def to_tensor(pictures):
    """Pictures (H, W, 3) uint8 -> (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 255 * 2 - 1


# ---- training ----


def degrade(hq, rng):
    """(H, W, 3) -> (H/4, W/4, 3): blurred, made smaller, grainy and saved as JPEG, each by a random amount."""
    image = Image.fromarray(hq).filter(ImageFilter.GaussianBlur(rng.uniform(0, 2.5)))
    image = image.resize((image.width // SCALE, image.height // SCALE), Image.Resampling.BICUBIC)
    grainy = np.asarray(image) + rng.normal(0, rng.uniform(0, 20), (image.height, image.width, 3))
    file = io.BytesIO()
    Image.fromarray(grainy.round().clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=int(rng.integers(30, 96)))
    return np.asarray(Image.open(file))


def pairs(pictures, rng):
    """(hq, lq) of a random crop of each picture."""
    corners = [[rng.integers(side - CROP + 1) for side in picture.shape[:2]] for picture in pictures]
    hq = [p[top : top + CROP, left : left + CROP] for p, (top, left) in zip(pictures, corners, strict=True)]
    return to_tensor(hq), to_tensor([degrade(crop, rng) for crop in hq])


def batches(files, rng):
    """Endless (hq, lq). Decoding is slow, so 64 photographs are kept and each step replaces one of them."""
    kept = []
    while True:
        try:
            kept = [*kept[-63:], read_picture(files[rng.integers(len(files))], CROP)]
        except ValueError as error:
            tqdm.write(f"Left out: {error}")
            continue
        yield pairs([kept[rng.integers(len(kept))] for _ in range(BATCH)], rng)


@torch.no_grad()
def start_from_components(model, hq):
    """Make the autoencoder a projection of 4 x 4 patches on their principal components, which needs no training.

    A component's variance becomes the square root of what it is in photographs: noise then hides fine structure before
    brightness, though not all of it. A rotation shares the components out evenly among the channels.
    """
    patches = F.pixel_unshuffle(hq / 2 + 0.5, SCALE).transpose(0, 1).flatten(1)  # (48, N), as the networks see them
    center, count = patches.mean(1), model.mean.numel()
    variance, vectors = (part[..., -count:] for part in torch.linalg.eigh(patches.cov()))
    gain = 0.5 * (variance.rsqrt() / variance.sqrt().mean()).sqrt()
    turn = torch.linalg.qr(torch.randn(count, count))[0]
    down, up = turn * gain @ vectors.T, vectors / gain @ turn.T
    layers = [*model.vae.encoder.layers, *model.vae.decoder.layers]
    for block in (layer for layer in layers if hasattr(layer, "fuse")):
        zero(block.conv[-1])  # the blocks have nothing to add yet
    enter, compress, expand, leave = (zero(layer) for layer in layers if isinstance(layer, nn.Conv2d))
    nn.init.dirac_(enter.weight)
    compress.weight[:, :, 1, 1], compress.bias[:] = down, -down @ center
    expand.weight[:, :, 1, 1], expand.bias[:] = up, center
    nn.init.dirac_(leave.weight)
    z = model.encode(hq)
    # From now on a level of noise means the same in every channel.
    model.mean, model.std = z.mean((0, 2, 3), keepdim=True), z.std((0, 2, 3), keepdim=True)


def prior_loss(model, hq, lq, seeds):
    """The noise in noised latents of photographs, at any timestep (DDPM)."""
    z, t = model.encode(hq), torch.rand(len(hq)) * 999
    w, x = as_map(level_of(t)), fresh_noise(seeds, *z.shape[1:])
    return (model.eps(z + w * x, w, t) - x).square().mean()


def anchor_loss(model, hq, lq, seeds):
    """What MINE can learn without the UNet."""
    z_lq = model.encode(enlarge(lq))
    return of_anchor(model, model.encode(hq), z_lq, model.mine(lq, z_lq))


def restoration_loss(model, hq, lq, seeds):
    """Anchor, steering and denoising together, over the whole dial."""
    realism, z_hq = torch.where(torch.rand(len(hq)) < 0.4, 0.0, torch.rand(len(hq))), model.encode(hq)
    z0, z_lq, said = model.restore(lq, realism, seeds)
    return of_anchor(model, z_hq, z_lq, said) + (z0 - z_hq).square().mean() + 2 * (model.decode(z0) - hq).abs().mean()


def of_anchor(model, z_hq, z_lq, said):
    """How true is what MINE said of z_lq, where z_hq is the clean picture's latent?"""
    (log_w, share, power, deviation, u, _), d = said, z_lq - z_hq
    left, w = d - deviation, as_map(log_w.detach().exp())
    # [P-A] The true position is where the noise is as large as the deviation, and a little more to leave u some room.
    square = (1.15 * d).square().mean(1, keepdim=True)
    target = 0.5 * square.mean((1, 2, 3)).log().clamp(*(2 * log for log in model.mine.log_range))
    square = F.avg_pool2d(square, 4, ceil_mode=True)
    value = F.huber_loss(log_w, target, delta=0.2)  # [L_pos]
    value = value + 0.1 * (power.log() + square / power).mean() + left.abs().mean()  # [L_map], [L_dev]
    sigma_e = (left.detach() / w).square().mean((1, 2, 3)).sqrt()
    return value + 0.1 * (share - sigma_e).abs().mean() + 0.05 * calibration(left / w + u)  # [L_cal] of (y_0 - z_H) / w


def calibration(noise):
    """[L_cal] (mean per channel)^2 + (power - 1)^2 + squared correlation of neighbours: 0 for white noise."""
    value = noise.mean((2, 3)).square().mean() + (noise.square().mean((1, 2, 3)) - 1).square().mean()
    for scale in (1, 2, 4):
        x = F.avg_pool2d(noise, scale)
        for a, b in ((x[:, :, 1:], x[:, :, :-1]), (x[..., 1:], x[..., :-1])):
            value = value + ((a * b).mean((2, 3)) / (x.square().mean((2, 3)) + 1e-6)).square().mean() / 6
    return value


STAGES = {  # share of the steps, learning rate, loss, and what is trained
    "prior": (0.15, 1e-3, prior_loss, ("unet", "tokens")),
    "anchor": (0.35, 1e-3, anchor_loss, ("mine",)),
    "restoration": (0.5, 5e-4, restoration_loss, ("mine", "unet", "tokens")),
}


def run_stage(model, name, steps, stream, rng):
    """Train one stage; yields the loss of each step."""
    _, rate, loss_of, parts = STAGES[name]
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key.startswith(parts))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for step in range(steps):
        # Up within fifty steps, then half a cosine down to nothing.
        warm, cool = min(1, (step + 1) / 50), 0.5 + 0.5 * math.cos(math.pi * step / steps)
        optimizer.param_groups[0]["lr"] = rate * warm * cool
        loss = loss_of(model, *next(stream), rng.integers(2**63, size=BATCH).tolist())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        yield loss.item()


def train(photographs, out, steps, seed, config=NANO, watch=lambda stage, loss, model: None):
    """Train on a folder of photographs, in three stages; ``watch`` is called after every step."""
    out, rng = Path(out), np.random.default_rng(seed)
    if out.exists():
        raise ValueError(f"{out} exists already: name another file, or remove it.")
    if steps < 1:
        raise ValueError(f"--steps must be 1 or more, not {steps}.")
    # Every fifth photograph is left for measuring; chosen by name, so it stays so when others come.
    files = [path for path in find_pictures(photographs) if zlib.crc32(path.name.encode()) % 5]
    if not files:
        raise ValueError(f"There are too few pictures in {photographs}: training needs some dozens.")
    torch.manual_seed(seed)
    model, stream = IDaS(config), batches(files, rng)
    start_from_components(model, torch.cat([next(stream)[0] for _ in range(16)]))
    counts = {stage: max(1, round(share * steps)) for stage, (share, *_) in STAGES.items()}
    with tqdm(total=sum(counts.values()), unit="step") as bar:
        for stage, count in counts.items():
            for loss in run_stage(model, stage, count, stream, rng):
                bar.set_description_str(f"{stage}, loss {loss:.3f}")
                bar.update()
                watch(stage, loss, model)
    write(out, lambda partial: save_file(model.state_dict(), partial, {"nano_idas": json.dumps(config)}))


# ---- the two commands ----


def restore(model, lq, out, realism, seed):
    """Restore a picture, or a folder of them, into a folder."""
    if not 0 <= realism <= 1:
        raise ValueError(f"realism lies between 0 and 1, not at {realism}.")
    network, files, folder = load_model(model), find_pictures(lq), Path(out)
    targets = [folder / f"{path.stem}.png" for path in files]
    if len({*targets}) < len(files) or {p.resolve() for p in targets} & {p.resolve() for p in files}:
        raise ValueError(f"Results in {out} would overwrite one another or the pictures: name another folder.")
    for path, target in zip(tqdm(files, unit="picture"), targets, strict=True):
        picture = restore_pictures(network, to_tensor([read_picture(path, 4)]), realism, seed)
        write(target, Image.fromarray((picture[0].movedim(0, -1).numpy() * 255).round().astype(np.uint8)).save)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train", help="train on a folder of photographs")
    command.set_defaults(run=train)
    command.add_argument("photographs")
    command.add_argument("--out", default="nano.safetensors")
    command.add_argument("--steps", type=int, default=5000)
    command.add_argument("--seed", type=int, default=0)
    command = commands.add_parser("restore", help="restore a picture or a folder of them")
    command.set_defaults(run=restore)
    command.add_argument("model", help="what train has written, or the folder of a model of the package")
    command.add_argument("lq", help="picture or folder")
    command.add_argument("out", help="folder")
    command.add_argument("--realism", type=float, default=0.5, help="0 faithful, 1 generative (default 0.5)")
    command.add_argument("--seed", type=int, default=42)
    given = vars(parser.parse_args(arguments))
    try:
        given.pop("run")(**given)
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
