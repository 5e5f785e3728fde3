"""What ships with the package, what it can use beside that, and where to get it."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from packaging.requirements import Requirement

from idas_sr.networks import library
from idas_sr.networks.sd_turbo import REPOSITORY, REVISION

DISTRIBUTION = "idas-sr"
SOURCE = Path(__file__).resolve().parents[2]
DEVELOPMENT = ("dev", "docs")
"""Extras for people who change the package; nothing that it does waits for them."""


@dataclass(frozen=True)
class Shipped:
    """A model that travels with the package.

    Attributes:
        parameters: of all its files together, adapters included.
        size: bytes of its weights.
        licence: as its model card says.
    """

    name: str
    parameters: int
    size: int
    licence: str
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Weights:
    """Weights that somebody else publishes, which this package reads but does not bring.

    Attributes:
        size: in words.
        licence: in words; theirs, not this package's.
        command: gets them.
        here: where they are on this machine, or None.
    """

    name: str
    purpose: str
    size: str
    licence: str
    command: str
    here: Path | None


def shipped() -> list[Shipped]:
    """The models of the package, by name."""
    folders = sorted(path for path in library.MODELS.iterdir() if path.is_dir()) if library.MODELS.is_dir() else []
    return [_describe(folder) for folder in folders]


def _describe(folder: Path) -> Shipped:
    files = sorted(folder.rglob("*.safetensors"))
    adapters = tuple(path.parent.name for path in sorted(folder.glob("adapters/*/config.json")))
    index = folder / "model_index.json"
    merged = json.loads(index.read_text(encoding="utf-8")).get("method") if index.is_file() else None
    return Shipped(
        folder.name,
        sum(_parameters(path) for path in files),
        sum(path.stat().st_size for path in files),
        _licence(folder / "README.md"),
        (*((merged,) if merged else ()), *adapters),
    )


def _parameters(path: Path) -> int:
    """Numbers in a safetensors file, from its header alone: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sum(torch.Size(entry["shape"]).numel() for name, entry in header.items() if name != "__metadata__")


def _licence(card: Path) -> str:
    """The licence that a model card's front matter names."""
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("license:")), "not stated")


def published() -> list[Weights]:
    """What others publish and this package reads."""
    unet = try_to_load_from_cache(REPOSITORY, "unet/diffusion_pytorch_model.safetensors", revision=REVISION)
    trunk = Path(torch.hub.get_dir()) / "checkpoints" / "alexnet-owt-7be5be79.pth"
    return [
        Weights(
            "sd-turbo",
            "the large backbone (--model sd-turbo, --sd-path)",
            "3.5 GB",
            "Stability AI Community License: free for research and small businesses",
            f'hf download {REPOSITORY} --revision {REVISION} --exclude "*.bin" "*.fp16.*" "sd_turbo.safetensors"',
            Path(unet).parents[1] if isinstance(unet, str) else None,
        ),
        Weights(
            "alexnet",
            "the metric LPIPS in idas-sr evaluate",
            "233 MB",
            "BSD-3-Clause (torchvision)",
            f"curl -L --create-dirs -o {trunk} https://download.pytorch.org/models/{trunk.name}",
            trunk if trunk.is_file() else None,
        ),
    ]


def extras() -> dict[str, list[str]]:
    """Extra -> its packages that are missing here or too old; empty where it is all there."""
    found: dict[str, list[str]] = {}
    for line in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        for extra in metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []:
            marker = requirement.marker
            if extra in DEVELOPMENT or marker is None or marker.evaluate({"extra": ""}):
                continue
            if marker.evaluate({"extra": extra}):
                found.setdefault(extra, []).extend(() if _is_there(requirement) else (requirement.name,))
    return found


def _is_there(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def install_command(*names: str) -> str:
    """What installs extras: from the checkout where this is one, else from the package index."""
    wanted = f"[{','.join(names)}]"
    return f'pip install -e ".{wanted}"' if (SOURCE / "pyproject.toml").is_file() else f'pip install "idas-sr{wanted}"'
