"""A backbone (and an estimator) as a folder of diffusers components: each stage writes one, the next reads it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ModelMixin, UNet2DConditionModel
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import nn

from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.guided_lora import DegradationGuide
from idas_sr.networks.lora import GENERATOR, adapters_of, load_lora, merge_lora, plain_state_dict, save_lora
from idas_sr.networks.mine import MINE
from idas_sr.networks.noise_predictor import NoisePredictor
from idas_sr.networks.presets import SD_TURBO_SCHEDULER
from idas_sr.networks.prompt import PromptTokens
from idas_sr.networks.similarity import SimilarityEstimator
from idas_sr.schedule import NoiseSchedule

STATISTICS = "latents.json"
INDEX = "model_index.json"
ESTIMATORS: dict[str, Any] = {
    "MINE": MINE,
    "NoisePredictor": NoisePredictor,
    "SimilarityEstimator": SimilarityEstimator,
    "DegradationGuide": DegradationGuide,
}
"""Networks of a method's own, by the name of the class in their config.json."""


def estimator_class(config: Mapping[str, Any]) -> Any:
    """Class of a saved estimator; MINE where its configuration does not say.

    Raises:
        ValueError: it is none that this version knows.
    """
    name = config.get("_class_name", "MINE")
    if name not in ESTIMATORS:
        raise ValueError(f"The model has an estimator called {name}; this version knows {', '.join(ESTIMATORS)}.")
    return ESTIMATORS[name]


def lora_networks(backbone: LatentBackbone, estimator: nn.Module | None = None) -> dict[str, nn.Module]:
    """Name of an adapter, which is that of its folder too -> the network it goes on."""
    networks: dict[str, nn.Module] = {"unet_lora": backbone.unet, "vae_encoder_lora": backbone.vae.encoder}
    return networks if estimator is None else {**networks, "estimator_lora": estimator}


def save_parts(
    folder: Path, backbone: LatentBackbone, estimator: nn.Module | None = None, conditioner: nn.Module | None = None
) -> None:
    """Write vae/, unet/, prompt/, estimator/ and conditioner/ if there are such networks, and the latents' statistics;
    adapters beside weights.

    ``unet_lora/``, ``vae_encoder_lora/`` and ``estimator_lora/`` are in peft's layout; unet/, vae/ and estimator/ hold
    the weights without them.
    """
    for name in ("vae", "unet", "prompt"):
        _save_without_adapters(getattr(backbone, name), folder / name)
    for name, network in lora_networks(backbone, estimator).items():
        if GENERATOR in adapters_of(network):
            save_lora(network, GENERATOR, folder / name)
    for name, part in (("estimator", estimator), ("conditioner", conditioner)):
        if isinstance(part, ModelMixin):
            _save_without_adapters(part, folder / name)
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


def load_parts(folder: Path, keep: Collection[str] = ()) -> tuple[LatentBackbone, Any]:
    """Read what ``save_parts`` wrote: the backbone, and the estimator (or None).

    Args:
        folder: ``model/`` of a run, or a saved pipeline whose statistics are in its model_index.json (its prior).
        keep: adapters (``unet_lora``, ``vae_encoder_lora``, ``estimator_lora``) to leave beside the weights, to be
            trained on; the others are merged into them.

    Raises:
        FileNotFoundError: the folder is not the result of a finished stage.
        ValueError: an adapter in it does not fit.
    """
    if not (folder / STATISTICS).is_file() and not (folder / INDEX).is_file():
        raise FileNotFoundError(
            f"{folder} holds no finished stage ({STATISTICS} is missing); train the stage before this one first."
        )
    vae_class = AutoencoderTiny if "Tiny" in (folder / "vae" / "config.json").read_text() else AutoencoderKL
    backbone = LatentBackbone(
        vae_class.from_pretrained(folder / "vae", torch_dtype=torch.float32),
        UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
        PromptTokens.from_pretrained(folder / "prompt", torch_dtype=torch.float32),
        NoiseSchedule.from_config(SD_TURBO_SCHEDULER),
        **_statistics(folder),
    )
    settings, estimator = folder / "estimator" / "config.json", None
    if settings.is_file():
        kind = estimator_class(json.loads(settings.read_text()))
        estimator = kind.from_pretrained(folder / "estimator", torch_dtype=torch.float32)
    attach_adapters(folder, lora_networks(backbone, estimator), keep)
    return backbone, estimator


def put_weights(folder: Path, parts: Mapping[str, nn.Module | None]) -> None:
    """Put what ``adapter.safetensors`` holds of an exported method over the weights of ``parts``, by name: of the UNet
    what it has, of the others everything.

    Raises:
        ValueError: it does not fit.
    """
    path = folder / "adapter.safetensors"
    tensors = load_file(path) if path.is_file() else {}
    for name, part in parts.items():
        if part is None:
            continue
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        missing, unexpected = part.load_state_dict(own, strict=False)
        if unexpected or (name != "unet" and missing):
            raise ValueError(f"{folder} does not fit this model: {', '.join([*unexpected, *missing][:3])}.")


def merge_method(folder: Path, backbone: LatentBackbone) -> Any:
    """Make a saved prior the trained method whose exported adapter is in ``folder``; its estimator, or None.

    Raises:
        ValueError: it does not fit, or this version does not know its estimator.
    """
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("estimator")
    estimator = None if saved is None else estimator_class(saved).from_config(saved)
    put_weights(folder, {"estimator": estimator, "unet": backbone.unet})
    attach_adapters(folder, lora_networks(backbone, estimator))
    return estimator


def load_own(folder: Path, part: nn.Module | None) -> None:
    """Read the weights of a conditioner that is a network, and was built already, from a stage's ``folder``.

    Raises:
        ValueError: they do not fit.
    """
    path = folder / "conditioner" / SAFETENSORS_WEIGHTS_NAME
    if part is None or not path.is_file():
        return
    try:
        part.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit: {str(error).splitlines()[-1].strip()}") from error


def _statistics(folder: Path) -> dict[str, list[float]]:
    path = folder / STATISTICS if (folder / STATISTICS).is_file() else folder / INDEX
    values = json.loads(path.read_text())
    return {name: values[name] for name in ("latents_mean", "latents_std")}
