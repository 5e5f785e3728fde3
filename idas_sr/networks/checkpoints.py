"""Weights from a file, whole or not at all: every tensor used, none missing, equal shapes, and no code of it run."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
WRAPPERS = ("state_dict", "params_ema", "params", "model_state_dict", "model")
"""Keys under which trainers put a whole state dict."""
SHOWN = 3
"""Names in a message."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Name -> tensor of a safetensors file, or of a file of torch.save that holds tensors, numbers and containers only.

    Nested mappings are flattened, their keys joined by dots. Nothing in the file is executed.

    Raises:
        ValueError: it cannot be read, or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} cannot be read as safetensors: {' '.join(str(error).split())}.") from error
    if path.suffix not in PICKLED:
        raise ValueError(f"{path} is no checkpoint: it should end in .safetensors, {', '.join(PICKLED)}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds Python objects beside tensors (or is damaged), and reading those would run code of "
            "the file: save its state dict alone, best as safetensors."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}.") from error
    tensors = flatten(content)
    if not tensors:
        raise ValueError(f"{path} holds no tensors.")
    return tensors


def flatten(content: Any, prefix: str = "") -> dict[str, Tensor]:
    """Tensors of nested mappings and lists, under dotted names; anything else is left out."""
    if isinstance(content, Tensor):
        return {prefix.removesuffix("."): content}
    entries: Any = ()
    if isinstance(content, Mapping):
        entries = content.items()
    elif isinstance(content, list | tuple):
        entries = enumerate(content)
    found: dict[str, Tensor] = {}
    for key, value in entries:
        found |= flatten(value, f"{prefix}{key}.")
    return found


@dataclass(frozen=True)
class Fit:
    """How tensors of a file and those of a network go together.

    Attributes:
        matching: names that are in both with the same shape.
        missing: of the network, not in the file.
        unexpected: of the file, not in the network.
        reshaped: name -> shape in the file, shape in the network.
    """

    matching: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def is_whole(self) -> bool:
        """Whether the file is exactly this network's."""
        return not (self.missing or self.unexpected or self.reshaped)

    def describe(self) -> str:
        """What does not fit, in one clause."""
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} tensors are missing ({_some(self.missing)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} have no place in it ({_some(self.unexpected)})")
        if self.reshaped:
            name, (theirs, ours) = next(iter(self.reshaped.items()))
            sizes = f"{name} is {_size(theirs)} in the file and {_size(ours)} here"
            parts.append(f"{len(self.reshaped)} have another shape ({sizes})")
        return ", ".join(parts) or "everything fits"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape) or "a scalar"


def compare(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Fit:
    """A network's state dict against the tensors of a file."""
    shared = [name for name in own if name in tensors]
    shapes = {name: (tuple(tensors[name].shape), tuple(own[name].shape)) for name in shared}
    return Fit(
        tuple(name for name in shared if shapes[name][0] == shapes[name][1]),
        tuple(name for name in own if name not in tensors),
        tuple(name for name in tensors if name not in own),
        {name: pair for name, pair in shapes.items() if pair[0] != pair[1]},
    )


def load_strict(network: nn.Module, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Put ``tensors`` into ``network``, in its precision; it stays untouched where one does not fit.

    Raises:
        ValueError: naming what does not fit.
    """
    fit = compare(network.state_dict(), tensors)
    if not fit.is_whole:
        raise ValueError(f"The weights in {where} are not those of this {type(network).__name__}: {fit.describe()}.")
    network.load_state_dict(dict(tensors))


def load_component(kind: Any, folder: Path) -> Any:
    """A network that ``save_pretrained`` of diffusers wrote, fp32, frozen; ``kind`` is its class.

    diffusers' own loader fills what is missing with random numbers.

    Raises:
        ValueError: the weights are not there or not those of the configuration.
    """
    # What is built after it should start as if nothing had been read.
    with torch.random.fork_rng(devices=[]):
        network = kind.from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    path = folder / SAFETENSORS_WEIGHTS_NAME
    load_strict(network, read_tensors(path), path)
    return network.float().eval().requires_grad_(False)


def load_trained(kind: Any, run: str | Path, folder: str, what: str, hint: str) -> Any:
    """The network of class ``kind`` in ``folder`` of the result of a training run, as by ``load_component``.

    Args:
        what: name of such a network.
        hint: the configuration to train one with, and what to do with its run directory.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: its weights are not those of its configuration.
    """
    place = Path(run) / "model" / folder
    if not (place / "config.json").is_file():
        raise FileNotFoundError(f"There is no {what} in {run}; train one with {hint}.")
    return load_component(kind, place)


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        parts: first component of the names -> number of tensors and of parameters.
        dtypes: name -> number of tensors.
        broken: names of tensors with values that are not finite.
    """

    parts: dict[str, tuple[int, int]]
    dtypes: dict[str, int]
    broken: tuple[str, ...]


def contents_of(tensors: Mapping[str, Tensor]) -> Contents:
    """Counts over a state dict."""
    parts: dict[str, tuple[int, int]] = {}
    for name, tensor in tensors.items():
        first = name.split(".")[0]
        count, numbers = parts.get(first, (0, 0))
        parts[first] = count + 1, numbers + tensor.numel()
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    broken = tuple(n for n, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all()))
    return Contents(parts, dict(dtypes), broken)


def candidates(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Every way in which the file may hold one network: as it is, or below a prefix that wraps it.

    Returns:
        Prefix (empty: as it is) -> tensors with it taken off.
    """
    found = {"": dict(tensors)}
    prefixes = {f"{name.split('.')[0]}." for name in tensors if "." in name}
    prefixes |= {f"{outer}.{inner}" for outer in WRAPPERS for inner in _below(tensors, f"{outer}.")}
    for prefix in sorted(prefixes):
        inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if inside:
            found[prefix] = inside
    return found


def _below(tensors: Mapping[str, Tensor], prefix: str) -> set[str]:
    inner = (name.removeprefix(prefix) for name in tensors if name.startswith(prefix))
    return {f"{name.split('.')[0]}." for name in inner if "." in name}
