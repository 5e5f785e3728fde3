"""A backbone (and an estimator) as a folder of diffusers components: each stage writes one, the next reads it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ModelMixin, UNet2DConditionModel
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import nn

from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.lora import GENERATOR, adapters_of, load_lora, merge_lora, plain_state_dict, save_lora
from idas_sr.networks.mine import MINE
from idas_sr.networks.presets import SD_TURBO_SCHEDULER
from idas_sr.networks.prompt import PromptTokens
from idas_sr.schedule import NoiseSchedule

STATISTICS = "latents.json"


def lora_networks(backbone: LatentBackbone) -> dict[str, nn.Module]:
    """Name of an adapter, which is that of its folder too -> the network it goes on."""
    return {"unet_lora": backbone.unet, "vae_encoder_lora": backbone.vae.encoder}


def save_parts(folder: Path, backbone: LatentBackbone, estimator: MINE | None = None) -> None:
    """Write vae/, unet/, prompt/, estimator/ if there is one, and the latents' statistics; adapters beside weights.

    ``unet_lora/`` and ``vae_encoder_lora/`` are in peft's layout; unet/ and vae/ hold the weights without them.
    """
    for name in ("vae", "unet", "prompt"):
        _save_without_adapters(getattr(backbone, name), folder / name)
    for name, network in lora_networks(backbone).items():
        if GENERATOR in adapters_of(network):
            save_lora(network, GENERATOR, folder / name)
    if estimator is not None:
        estimator.save_pretrained(folder / "estimator")
    statistics = {name: getattr(backbone, name).flatten().tolist() for name in ("latents_mean", "latents_std")}
    (folder / STATISTICS).write_text(json.dumps(statistics, indent=1))


def _save_without_adapters(part: ModelMixin, folder: Path) -> None:
    if not adapters_of(part):
        part.save_pretrained(folder)
        return
    part.save_config(folder)
    tensors = {key: value.detach().contiguous() for key, value in plain_state_dict(part).items()}
    save_file(tensors, folder / SAFETENSORS_WEIGHTS_NAME)


def attach_adapters(folder: Path, networks: Mapping[str, nn.Module], keep: Collection[str] = ()) -> None:
    """Put the adapters in ``folder`` on ``networks`` (by name of the adapter) and merge all but those of ``keep``.

    Raises:
        ValueError: one does not fit.
    """
    for name, network in networks.items():
        if (folder / name).is_dir():
            load_lora(network, GENERATOR, folder / name)
            if name not in keep:
                merge_lora(network, GENERATOR)


def load_parts(folder: Path, keep: Collection[str] = ()) -> tuple[LatentBackbone, MINE | None]:
    """Read what ``save_parts`` wrote: the backbone, and the estimator if the stage had one.

    Args:
        folder: ``model/`` of a run.
        keep: adapters (``unet_lora``, ``vae_encoder_lora``) to leave beside the weights, to be trained on; the others
            are merged into them.

    Raises:
        FileNotFoundError: the folder is not the result of a finished stage.
        ValueError: an adapter in it does not fit.
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
    attach_adapters(folder, lora_networks(backbone), keep)
    estimator = (
        MINE.from_pretrained(folder / "estimator", torch_dtype=torch.float32)
        if (folder / "estimator").is_dir()
        else None
    )
    return backbone, estimator
