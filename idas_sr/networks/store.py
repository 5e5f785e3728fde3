"""A backbone (and an estimator) as a folder of diffusers components: each stage writes one, the next reads it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.mine import MINE
from idas_sr.networks.presets import SD_TURBO_SCHEDULER
from idas_sr.networks.prompt import PromptTokens
from idas_sr.schedule import NoiseSchedule

STATISTICS = "latents.json"


def save_parts(folder: Path, backbone: LatentBackbone, estimator: MINE | None = None) -> None:
    """Write vae/, unet/, prompt/, estimator/ if there is one, and the latents' statistics."""
    for name in ("vae", "unet", "prompt"):
        getattr(backbone, name).save_pretrained(folder / name)
    if estimator is not None:
        estimator.save_pretrained(folder / "estimator")
    statistics = {name: getattr(backbone, name).flatten().tolist() for name in ("latents_mean", "latents_std")}
    (folder / STATISTICS).write_text(json.dumps(statistics, indent=1))


def load_parts(folder: Path) -> tuple[LatentBackbone, MINE | None]:
    """Read what ``save_parts`` wrote: the backbone, and the estimator if the stage had one.

    Raises:
        FileNotFoundError: the folder is not the result of a finished stage.
    """
    if not (folder / STATISTICS).is_file():
        raise FileNotFoundError(
            f"{folder} holds no finished stage ({STATISTICS} is missing); train the stage before this one first."
        )
    vae_class = AutoencoderTiny if "Tiny" in (folder / "vae" / "config.json").read_text() else AutoencoderKL
    backbone = LatentBackbone(
        vae_class.from_pretrained(folder / "vae", torch_dtype=torch.float32),
        UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
        PromptTokens.from_pretrained(folder / "prompt", torch_dtype=torch.float32),
        NoiseSchedule.from_config(SD_TURBO_SCHEDULER),
        **json.loads((folder / STATISTICS).read_text()),
    )
    estimator = (
        MINE.from_pretrained(folder / "estimator", torch_dtype=torch.float32)
        if (folder / "estimator").is_dir()
        else None
    )
    return backbone, estimator
