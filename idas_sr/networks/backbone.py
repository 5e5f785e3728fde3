"""The prior behind four verbs: encode, embed, predict_z0, decode. Stock diffusers classes, called only here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn

from idas_sr.networks import tiny_precision
from idas_sr.networks.prompt import PromptTokens
from idas_sr.schedule import NoiseSchedule, unsqueeze_like


class LatentBackbone(nn.Module):
    """A latent diffusion prior: autoencoder, epsilon-predicting UNet, cached prompt tokens and noise schedule.

    Args:
        vae: AutoencoderKL (sd-turbo), or AutoencoderTiny whose 3 k^2 channels are a pixel-unshuffled picture (compact).
        unet: predicts epsilon from the VP state.
        prompt: cached tokens.
        schedule: table of noise levels.
        latents_mean, latents_std: per channel, of the autoencoder's raw latents; None: from its scaling factor.
    """

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny,
        unet: UNet2DConditionModel,
        prompt: PromptTokens,
        schedule: NoiseSchedule,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        # The layout that oneDNN and cuDNN compute convolutions in; the UNet gets it from the pipeline, on the CPU.
        self.vae, self.unet, self.prompt, self.schedule = (
            vae.to(memory_format=torch.channels_last),
            unet,
            prompt,
            schedule,
        )
        if isinstance(vae, AutoencoderTiny):
            tiny_precision.prepare(vae)
        channels = vae.config["latent_channels"]
        mean = [0.0] * channels if latents_mean is None else list(latents_mean)
        std = [1 / vae.config["scaling_factor"]] * channels if latents_std is None else list(latents_std)
        for name, values in (("latents_mean", mean), ("latents_std", std)):
            statistics = torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
            self.register_buffer(name, statistics, persistent=False)
        self.unshuffle = round((vae.config["in_channels"] / 3) ** 0.5)
        blocks = (
            vae.config["block_out_channels"]
            if isinstance(vae, AutoencoderKL)
            else vae.config["encoder_block_out_channels"]
        )
        self.downsample = self.unshuffle * 2 ** (len(blocks) - 1)
        """Pixels per latent cell, along a side."""
        self.latent_channels = channels
        self.multiple = 2 ** (len(unet.config["block_out_channels"]) - 1)
        """The latent grid's sides must be multiples of this for the UNet's skip connections to meet."""

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        # `.half()` or `.to(torch.bfloat16)` must not round the statistics: bf16 would shift every latent by a fifth of
        # a percent.
        mean, std = self.latents_mean, self.latents_std
        super()._apply(fn, recurse)
        if isinstance(self.vae, AutoencoderTiny):
            tiny_precision.keep_ends(self.vae)
        if not mean.is_meta:
            device = self.latents_mean.device
            self.latents_mean, self.latents_std = mean.to(device), std.to(device)
        return self

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Replace the per-channel statistics (C,) of the raw latents."""
        self.latents_mean = mean.detach().reshape(1, -1, 1, 1).to(self.latents_mean)
        self.latents_std = std.detach().reshape(1, -1, 1, 1).to(self.latents_std)

    def encode_raw(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w) latent before scaling. The mode of the posterior, never a sample."""
        image = F.pixel_unshuffle(image, self.unshuffle).to(self.vae.dtype)
        encoded = self.vae.encode(image)
        return (encoded.latent_dist.mode() if isinstance(self.vae, AutoencoderKL) else encoded.latents).float()

    def decode_raw(self, raw: Tensor) -> Tensor:
        """(B, C, h, w) latent before scaling -> (B, 3, H, W), about [-1, 1], not clamped."""
        return F.pixel_shuffle(self.vae.decode(raw.to(self.vae.dtype)).sample.float(), self.unshuffle)

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w) scaled latent, fp32."""
        return (self.encode_raw(image) - self.latents_mean) / self.latents_std

    def decode(self, z0: Tensor) -> Tensor:
        """(B, C, h, w) scaled latent -> (B, 3, H, W), about [-1, 1], not clamped, fp32."""
        return self.decode_raw(z0 * self.latents_std + self.latents_mean)

    def embed(self, name: str, batch: int) -> Tensor:
        """(batch, L, D) cached tokens of the prompt called ``name``."""
        return self.prompt.lookup(name, batch)

    @property
    def control_channels(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Channels of the UNet's skip connections at the latent's resolution and at half of it, finest first."""
        widths, layers = self.unet.config["block_out_channels"], self.unet.config["layers_per_block"]
        # The input convolution and the first block's layers; then that block's down-sampler and the second block's.
        return (widths[0],) * (1 + layers), (widths[0],) + (widths[1],) * layers

    def _skip_residuals(self, control: tuple[Tensor, ...], dtype: torch.dtype) -> dict[str, object]:
        """``control`` as the arguments of diffusers' ControlNet interface, which wants one residual for every skip."""
        blocks, layers = len(self.unet.config["block_out_channels"]), self.unet.config["layers_per_block"]
        skips = 1 + blocks * layers + blocks - 1
        nothing = control[0].new_zeros((), dtype=dtype)
        residuals = (*(c.to(dtype) for c in control), *(nothing,) * (skips - len(control)))
        return {"down_block_additional_residuals": residuals, "mid_block_additional_residual": nothing}

    def predict_eps(
        self, z_t: Tensor, timestep: Tensor, tokens: Tensor, control: tuple[Tensor, ...] | None = None
    ) -> Tensor:
        """UNet's estimate (B, C, h, w), fp32, of the noise in the VP state ``z_t`` at ``timestep`` (B,) float."""
        dtype = self.unet.dtype
        extra = {} if control is None else self._skip_residuals(control, dtype)
        return self.unet(z_t.to(dtype), timestep, encoder_hidden_states=tokens.to(dtype), **extra).sample.float()

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of ``encoder_features``, finest first."""
        return tuple(self.unet.config["block_out_channels"])

    def encoder_features(self, z: Tensor, timestep: Tensor, tokens: Tensor) -> list[Tensor]:
        """What the UNet's encoder sees in a latent (B, C, h, w) at ``timestep`` (B,), one tensor per level.

        The levels are those of ``feature_channels``.
        """
        unet, dtype = self.unet, self.unet.dtype
        embedding = unet.time_embedding(unet.time_proj(timestep.expand(len(z))).to(dtype))
        x, tokens, out = unet.conv_in(z.to(dtype)), tokens.to(dtype), []
        for block in unet.down_blocks:
            attends = {"encoder_hidden_states": tokens} if getattr(block, "has_cross_attention", False) else {}
            x, skips = block(hidden_states=x, temb=embedding, **attends)
            # The last of the level's own resolution: the down-sampler's output belongs to the next.
            out.append(skips[-1 if block.downsamplers is None else -2])
        return out

    def predict_z0(
        self,
        state: Tensor,
        timestep: Tensor,
        tokens: Tensor,
        sigma: Tensor | None = None,
        control: tuple[Tensor, ...] | None = None,
    ) -> Tensor:
        """Clean latent of a VE state by one UNet evaluation: y - w eps(y / sqrt(1 + w^2), t) (methods.md 0.1, 9.5).

        Args:
            state: (B, C, h, w), fp32.
            timestep: (B,) position the UNet is told.
            tokens: (B, L, D).
            sigma: (B,) noise level of the state; default w(timestep). Only unpaired controls pass another.
            control: residuals for the skip connections, with the channels of ``control_channels``.
        """
        sigma = unsqueeze_like(self.schedule.sigma(timestep) if sigma is None else sigma, state)
        return state - sigma * self.predict_eps(state * (1 + sigma**2).rsqrt(), timestep, tokens, control)
