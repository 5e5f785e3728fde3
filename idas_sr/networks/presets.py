"""The two backbones as architectures: built from configuration alone, with random weights."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.prompt import PromptTokens
from idas_sr.schedule import NoiseSchedule

# stabilityai/sd-turbo, scheduler/scheduler_config.json; `compact` is trained on the same schedule: one table for both.
SD_TURBO_SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}

# stabilityai/sd-turbo, unet/config.json and vae/config.json.
SD_TURBO_UNET: dict[str, Any] = {
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
SD_TURBO_VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}

# Ours. The autoencoder works at a quarter of the picture's side throughout, behind a pixel-unshuffle of 4: 8 latent
# channels, no normalisation layer, so a tile gives the same latent as the whole picture.
COMPACT_VAE: dict[str, Any] = {
    "in_channels": 48,
    "out_channels": 48,
    "encoder_block_out_channels": [64],
    "decoder_block_out_channels": [64],
    "num_encoder_blocks": [4],
    "num_decoder_blocks": [6],
    "latent_channels": 8,
}
# Attention is to the prompt tokens only, but for one block among the cells of the coarsest level, a sixteenth of the
# picture's side: diffusers does not honour `mid_block_only_cross_attention` in this kind of mid block.
COMPACT_UNET: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": [64, 64, 96],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
    "only_cross_attention": True,
    "mid_block_only_cross_attention": True,
}


def compact() -> LatentBackbone:
    """The small backbone, untrained: latents (B, 8, H/4, W/4)."""
    return LatentBackbone(
        AutoencoderTiny.from_config(COMPACT_VAE),
        UNet2DConditionModel.from_config(COMPACT_UNET),
        PromptTokens(width=COMPACT_UNET["cross_attention_dim"]),
        NoiseSchedule.from_config(SD_TURBO_SCHEDULER),
    )


def sd_turbo() -> LatentBackbone:
    """SD-Turbo's architecture (866 M + 84 M parameters) with random weights: latents (B, 4, H/8, W/8)."""
    return LatentBackbone(
        AutoencoderKL.from_config(SD_TURBO_VAE),
        UNet2DConditionModel.from_config(SD_TURBO_UNET),
        PromptTokens(names=("positive", "negative"), length=77, width=SD_TURBO_UNET["cross_attention_dim"]),
        NoiseSchedule.from_config(SD_TURBO_SCHEDULER),
    )


def tiny() -> LatentBackbone:
    """``compact`` at very small width, to try a configuration or the trainer; it restores nothing."""
    vae = {**COMPACT_VAE, "encoder_block_out_channels": [48], "decoder_block_out_channels": [48]}  # PCA needs 48
    vae |= {"num_encoder_blocks": [1], "num_decoder_blocks": [1]}
    unet = {**COMPACT_UNET, "block_out_channels": [16, 16, 16], "cross_attention_dim": 8, "norm_num_groups": 4}
    return LatentBackbone(
        AutoencoderTiny.from_config(vae),
        UNet2DConditionModel.from_config(unet),
        PromptTokens(width=8),
        NoiseSchedule.from_config(SD_TURBO_SCHEDULER),
    )


def tiny_sd_turbo() -> LatentBackbone:
    """SD-Turbo's architecture at very small width, for the same purpose: latents (B, 4, H/8, W/8)."""
    vae = {**SD_TURBO_VAE, "block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "layers_per_block": 1}
    unet = {**SD_TURBO_UNET, "block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "layers_per_block": 1}
    unet |= {"cross_attention_dim": 8, "attention_head_dim": 2}
    return LatentBackbone(
        AutoencoderKL.from_config(vae),
        UNet2DConditionModel.from_config(unet),
        PromptTokens(names=("positive", "negative"), length=4, width=8),
        NoiseSchedule.from_config(SD_TURBO_SCHEDULER),
    )
