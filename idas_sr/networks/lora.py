"""Low-rank adapters (LoRA, Hu et al. 2021) by peft: put on, switched, saved, merged. Several may share one network."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

GENERATOR = "generator"
"""Adapter that restores; the one that a stage saves."""
FAKE_SCORE = "fake_score"
"""Adapter that knows the distribution of the restored latents (VSD)."""
UNTOUCHED = ("time_embedding", "time_emb_proj", "embedding", "embed")
"""The position means the same with and without an adapter, to the UNet (the first two) and to MINE."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
"""What peft's own files have before every name; diffusers takes it as ``prefix="base_model.model"``."""


def lora_layers(network: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """Path and layer of everything in ``network`` that carries adapters."""
    return ((path, module) for path, module in network.named_modules() if isinstance(module, LoraLayer))


def adapters_of(network: nn.Module) -> set[str]:
    """Names of the adapters on ``network``."""
    return {name for _, layer in lora_layers(network) for name in layer.lora_A}


def lora_targets(network: nn.Module, exclude: tuple[str, ...] = ()) -> list[str]:
    """Paths of the convolutions and linear layers that an adapter goes on: all but those of the timestep.

    Convolutions in groups stay as they are: low-rank factors of one are not what peft can merge.
    """
    wrapped = tuple(f"{path}." for path, _ in lora_layers(network))
    return [
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | LoraLayer)
        and getattr(module, "groups", 1) == 1
        and not path.startswith(wrapped)
        and not any(part in (*UNTOUCHED, *exclude) for part in path.split("."))
    ]


def add_lora(network: nn.Module, name: str, rank: int, exclude: tuple[str, ...] = ()) -> None:
    """Put a new adapter on ``network``, on, that changes nothing yet; its scale is 1.

    Raises:
        ValueError: one of that name with another rank is there, or the rank is not positive.
    """
    if rank < 1:
        raise ValueError(f"The rank of a LoRA must be at least 1, not {rank}.")
    if name in adapters_of(network):
        ranks = {layer.r[name] for _, layer in lora_layers(network) if name in layer.lora_A}
        if ranks != {rank}:
            raise ValueError(f"The stage before trained a LoRA of rank {min(ranks)}; go on with that, not with {rank}.")
        return
    _inject(network, LoraConfig(r=rank, lora_alpha=rank, target_modules=lora_targets(network, exclude)), name)


def _inject(network: nn.Module, config: LoraConfig, name: str) -> None:
    with warnings.catch_warnings():
        # That there is another adapter already, which is meant.
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        inject_adapter_in_model(config, network, adapter_name=name)
    use_lora(network, name)


def use_lora(network: nn.Module, name: str | None) -> None:
    """From now on ``network`` works with the adapter ``name`` alone; without any where it has none of that name."""
    for _, layer in lora_layers(network):
        # peft ties being on to being trained; who trains is the player's business.
        flags = [(parameter, parameter.requires_grad) for parameter in layer.parameters()]
        is_on = name is not None and name in layer.lora_A
        if is_on:
            layer.set_adapter(name)
        layer.enable_adapters(is_on)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


class LoraPart(nn.Module):
    """The adapter ``name`` of ``network`` as a module of its own, to be trained, counted and saved without the rest.

    Attributes:
        title: what it is called in a table, and its rank.
    """

    def __init__(self, network: nn.Module, name: str, title: str) -> None:
        super().__init__()
        self.title = title
        for path, layer in lora_layers(network):
            if name in layer.lora_A:
                self.title = f"{title}, rank {layer.r[name]}"
                self.add_module(f"{path.replace('.', '/')}/A", layer.lora_A[name])
                self.add_module(f"{path.replace('.', '/')}/B", layer.lora_B[name])


def lora_settings(network: nn.Module, name: str) -> dict[str, Any]:
    """peft's configuration of one adapter, as values that JSON has."""
    settings = network.peft_config[name].to_dict()  # type: ignore[union-attr]
    # Sets have another order in every process.
    return {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}


def lora_tensors(network: nn.Module, name: str) -> dict[str, Tensor]:
    """The tensors of one adapter, by peft's names in files."""
    tensors = get_peft_model_state_dict(network, adapter_name=name)
    return {f"{PREFIX}{key}": value.detach().contiguous() for key, value in tensors.items()}


def save_lora(network: nn.Module, name: str, folder: Path) -> None:
    """Write one adapter in peft's layout: its tensors as safetensors, its configuration as JSON.

    ``peft.PeftModel.from_pretrained(network, folder)`` reads it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(lora_tensors(network, name), folder / WEIGHTS)
    (folder / CONFIG).write_text(
        json.dumps(lora_settings(network, name), indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8"
    )


def load_lora(network: nn.Module, name: str, folder: Path) -> None:
    """Put an adapter that ``save_lora`` wrote on ``network``, on; also one of its older files, without peft's prefix.

    Raises:
        ValueError: it does not fit.
    """
    settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    put_lora(network, name, settings, load_file(folder / WEIGHTS), str(folder))


def put_lora(
    network: nn.Module, name: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str
) -> None:
    """Put an adapter with these ``lora_settings`` and tensors, which came from ``source``, on ``network``, on.

    Raises:
        ValueError: it does not fit.
    """
    refusal = f"The adapter in {source} does not fit this network."
    try:
        _inject(network, LoraConfig(**{key: settings[key] for key in ("r", "lora_alpha", "target_modules")}), name)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(refusal) from error
    tensors = {key.removeprefix(PREFIX): value for key, value in tensors.items()}
    own = get_peft_model_state_dict(network, adapter_name=name)
    if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in tensors.items()}:
        raise ValueError(refusal)
    set_peft_model_state_dict(network, tensors, adapter_name=name)


def merge_lora(network: nn.Module, name: str) -> None:
    """Add the adapter ``name`` to the weights it stands beside and take all adapters off."""
    for path, layer in list(lora_layers(network)):
        if name in layer.lora_A:
            layer.merge(adapter_names=[name])
        parent, _, leaf = path.rpartition(".")
        setattr(network.get_submodule(parent), leaf, layer.get_base_layer())
    if hasattr(network, "peft_config"):
        del network.peft_config


def plain_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """The state dict that ``network`` would have without adapters."""
    state: dict[str, Any] = network.state_dict()
    return {
        key.replace(".base_layer.", "."): value
        for key, value in state.items()
        if not any(part.startswith("lora_") for part in key.split("."))
    }
