"""Which models there are, where they lie, and what they hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from huggingface_hub import snapshot_download

from idas_sr.networks.sd_turbo import find_sd_turbo

MODELS = Path(__file__).parents[1] / "models"
"""Models that travel with the package, one folder each."""
BASE_PARTS = ("vae", "unet", "prompt", "estimator", "conditioner", "unet_lora", "vae_encoder_lora", "estimator_lora")
"""Folders of a model whose weights every restoration uses."""


def find_model(name: str, revision: str | None = None, sd_path: str | None = None) -> Path:
    """Folder of a model of this package, of a saved pipeline, or of a Hub repository (downloaded where it can be).

    Raises:
        ValueError: there is none, or SD-Turbo's weights, which it stands on, are not there.
    """
    shipped = sorted(path.name for path in MODELS.iterdir() if path.is_dir()) if MODELS.is_dir() else []
    if name in shipped:
        return MODELS / name
    if Path(name).is_dir():
        return Path(name)
    if name == "sd-turbo":
        raise ValueError(
            f"SD-Turbo's weights are in {find_sd_turbo(sd_path)}, but no adapter trained on them comes with this "
            "package; train one with configs/train/sd-turbo and give its folder as --model, or use --random-weights."
        )
    known = f"use {', '.join(shipped) or 'a model'}, a folder that save_pretrained wrote, or a Hub id OWNER/NAME"
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise ValueError(f"There is no model called {name!r}; {known}.")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:
        # The Hub client has a dozen kinds of errors for "not there" and "not reachable"; all mean the same here.
        raise ValueError(f"The model {name!r} is neither a folder here nor to be had from the Hub; {known}.") from error


def choose_adapter(folder: Path, method: str) -> Path | None:
    """The folder of the adapter called ``method``; None where the saved pipeline is that method already."""
    adapters = sorted(path.parent.name for path in folder.glob("adapters/*/config.json"))
    if method in adapters:
        return folder / "adapters" / method
    index = folder / "model_index.json"
    if not index.is_file() and not adapters:
        raise ValueError(f"{folder} holds no saved pipeline: it has neither model_index.json nor adapters/.")
    merged = json.loads(index.read_text(encoding="utf-8")).get("method") if index.is_file() else None
    if merged == method:
        return None
    there = ", ".join([*adapters, *([merged] if merged else [])])
    raise ValueError(f"The model in {folder} has no method called {method!r}; it has {there or 'none'}.")


def base_fingerprint(folder: Path, method: str) -> str:
    """SHA-256 over the weights that ``method`` works with in a saved model or a stage's ``model/``: what an adapter
    trained on it depends on. Adapters of other methods beside it do not count.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        name = path.relative_to(folder).as_posix()
        part = name.split("/")[0]
        if part in BASE_PARTS or name.startswith(f"adapters/{method}/"):
            digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def fingerprint(folder: Path, adapter: Path | None = None) -> str:
    """SHA-256 over a saved model's files, by name and content, and a personal adapter: another hash, other pictures.

    Raises:
        ValueError: there is no such adapter.
    """
    if adapter is not None and not adapter.is_file():
        raise ValueError(f"There is no adapter {adapter}; scripts/export_adapter.py writes one.")
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    if adapter is not None:
        digest.update(b"adapter\0" + hashlib.sha256(adapter.read_bytes()).digest())
    return digest.hexdigest()
