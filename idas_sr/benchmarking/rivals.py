"""What restoration is timed against: common x4 networks, and a plain diffusers pipeline of the same parts."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from idas_sr.methods.base import Method
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.resample import upsample
from idas_sr.schedule import unsqueeze_like


def rrdbnet() -> nn.Module:
    """Real-ESRGAN's x4plus architecture (16.7 M parameters), random weights."""
    return _spandrel("ESRGAN", "ESRGAN")(scale=4, num_filters=64, num_blocks=23)


def srvgg() -> nn.Module:
    """SRVGGNetCompact as in realesr-general-x4v3 (1.2 M parameters), random weights."""
    return _spandrel("Compact", "Compact")(num_feat=64, num_conv=32, upscale=4, act_type="prelu")


def _spandrel(module: str, name: str) -> Callable[..., nn.Module]:
    try:
        return getattr(importlib.import_module(f"spandrel.architectures.{module}"), name)
    except ModuleNotFoundError as error:
        raise ValueError("Timing against other networks needs spandrel: pip install 'idas-sr[bench]'.") from error


NETWORKS = {"rrdbnet": rrdbnet, "srvgg": srvgg}


def forward(network: nn.Module, dtype: torch.dtype, device: torch.device) -> Callable[[Tensor], Tensor]:
    """``network`` channels-last in ``dtype`` as a function of pictures (B, 3, h, w) in [0, 1], fp32 in and out."""
    network = network.eval().requires_grad_(False).to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(lq: Tensor) -> Tensor:
        with torch.inference_mode():
            given = lq.to(device, dtype).to(memory_format=torch.channels_last)
            return network(given).float().clamp(0, 1).cpu()

    return run


class PlainPipeline:
    """The same restoration as diffusers' documentation would write it: fp32, stock modules and memory layout.

    Args:
        pipe: fp32, with AutoencoderKL; its networks are used and put back into torch's own memory layout.

    Raises:
        ValueError: the pipeline's autoencoder is another, or it is not fp32.
    """

    def __init__(self, pipe: IDaSSRPipeline) -> None:
        if not isinstance(pipe.vae, AutoencoderKL) or pipe.unet.dtype != torch.float32:
            raise ValueError("The plain pipeline is for sd-turbo's networks in fp32.")
        self.pipe, self.method = pipe, pipe.restorer
        for part in (pipe.vae, pipe.unet, pipe.estimator):
            part.to(memory_format=torch.contiguous_format)

    @torch.inference_mode()
    def __call__(self, lq: Tensor, realism: float, seed: int) -> tuple[Tensor, Tensor]:
        """(B, 3, h, w) in [0, 1] -> (B, 3, 4h, 4w) in [0, 1], and the latent it was decoded from."""
        method, vae, unet = self.method, self.pipe.vae, self.pipe.unet
        signed = lq.to(vae.device) * 2 - 1
        z_lq = vae.encode(upsample(signed, method.scale)).latent_dist.mode() * vae.config["scaling_factor"]
        anchor = method.anchor(signed, z_lq)
        steered = method.steering(anchor, z_lq, realism, [seed] * len(lq), method.backbone.schedule, (0, 0))
        tokens = method.conditioner(signed, method.backbone).positive
        sigma = unsqueeze_like(steered.sigma, z_lq)
        told = steered.state * (1 + sigma**2).rsqrt()
        z0 = steered.state - sigma * unet(told, steered.timestep, encoder_hidden_states=tokens).sample
        image = vae.decode(z0 / vae.config["scaling_factor"]).sample
        return (image / 2 + 0.5).clamp(0, 1).cpu(), z0


def same_weights(pipe: IDaSSRPipeline, name: str, dtype: torch.dtype) -> IDaSSRPipeline:
    """A pipeline with random weights in ``dtype`` that are those of ``pipe``, rounded; MINE as it is."""
    other = IDaSSRPipeline.from_random(name, dtype)
    for part in ("vae", "unet", "prompt"):
        getattr(other, part).load_state_dict(getattr(pipe, part).state_dict())
    other.register_modules(estimator=copy.deepcopy(pipe.estimator))
    return other.eval()


def agreement(method: Method, lq: Tensor, reference: tuple[Tensor, Tensor], realism: float, seed: int) -> tuple:
    """(PSNR in dB of the pixels, cosine of the latents) of ``method``'s restoration of ``lq`` to ``reference``."""
    device = method.backbone.latents_mean.device
    result = method.restore_image(lq.to(device) * 2 - 1, realism, [seed] * len(lq))
    assert result.hq is not None
    pixels, z0 = (result.hq / 2 + 0.5).clamp(0, 1).cpu(), result.z0
    error = float((pixels - reference[0]).square().mean().clamp_min(1e-12))
    cosine = torch.nn.functional.cosine_similarity(z0.float().flatten(), reference[1].float().flatten(), dim=0)
    return float(-10 * torch.tensor(error).log10()), float(cosine)
