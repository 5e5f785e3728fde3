"""A personal adapter: what adapting a trained model to one camera adds to it, as one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from idas_sr.atomic import replacing
from idas_sr.networks.lora import GENERATOR, adapters_of, lora_settings, lora_tensors, merge_lora, put_lora

KIND = "idas-sr personal adapter 1"
"""First line of the file's metadata, with the version of its layout."""
SETTINGS = ("r", "lora_alpha", "target_modules")


def write_adapter_file(path: Path, networks: Mapping[str, nn.Module], method: str, base: str) -> int:
    """Write the generator's adapters on ``networks`` (by name of the adapter) in fp16; its size in bytes.

    The file appears whole or not at all.

    Args:
        path: of the file.
        method: name of the method that the model was.
        base: ``base_fingerprint`` of the model that the adapter was trained on.

    Raises:
        ValueError: none of the networks has an adapter, or a weight does not fit into fp16.
    """
    adapted = {name: network for name, network in networks.items() if GENERATOR in adapters_of(network)}
    if not adapted:
        raise ValueError("The training has no adapter; train with train.adapter and parts such as unet_lora.")
    tensors: dict[str, Tensor] = {}
    metadata = {"kind": KIND, "method": method, "base": base}
    for name, network in adapted.items():
        tensors |= {f"{name}.{key}": value.half() for key, value in lora_tensors(network, GENERATOR).items()}
        settings = lora_settings(network, GENERATOR)
        metadata[name] = json.dumps({key: settings[key] for key in SETTINGS})
    broken = [key for key, value in tensors.items() if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(f"{broken[0]} has values beyond the range of fp16; train again with a lower train.lr.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        save_file(tensors, partial, metadata)
    return path.stat().st_size


def merge_adapter_file(path: Path, networks: Mapping[str, nn.Module], method: str, base: str) -> None:
    """Add the adapters in a file to the weights of ``networks``; arguments as ``write_adapter_file``.

    Raises:
        ValueError: no such file, no personal adapter, or one of another method or model.
    """
    metadata, tensors = _read(path)
    if metadata["method"] != method:
        raise ValueError(f"The adapter {path} adapts the method {metadata['method']}, not {method}; add --method.")
    if metadata["base"] != base:
        raise ValueError(
            f"The adapter {path} was trained on another model, or another version of it; give that one as --model, or "
            "train the adapter again on this one."
        )
    for name, network in networks.items():
        if name not in metadata:
            continue
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        put_lora(network, GENERATOR, json.loads(metadata[name]), own, str(path))
        merge_lora(network, GENERATOR)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise ValueError(f"There is no adapter {path}; scripts/export_adapter.py writes one from a finished training.")
    refusal = f"{path} is no personal adapter; scripts/export_adapter.py writes one from a finished training."
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(refusal) from error
    if metadata.get("kind") != KIND or not {"method", "base"} <= metadata.keys():
        raise ValueError(refusal)
    return metadata, tensors
