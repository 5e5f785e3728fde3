"""Checks of SD-Turbo's files that run no network: hashes, configurations, tensors."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from safetensors import SafetensorError, safe_open

from idas_sr.networks.sd_turbo import REPOSITORY, REVISION
from idas_sr.networks.sd_turbo_random import FULL, Architecture
from idas_sr.verification.report import Check, timed

CONFIG_FILES = {"unet": "config.json", "vae": "config.json", "scheduler": "scheduler_config.json"}
CLASSES = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "scheduler": EulerDiscreteScheduler}


def check_files(folder: Path) -> Check:
    """Every file with size and SHA-256; files of a Hub cache are compared with the hash that the Hub gave them."""
    rows: list[Sequence[object]] = [("file", "bytes", "SHA-256", "")]
    wrong = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and ".cache" not in p.relative_to(folder).parts):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        # A cache entry is a link to a blob; large files' blobs are named by their SHA-256, small ones' by a git hash.
        blob = path.resolve().name
        promised = blob if path.is_symlink() and re.fullmatch("[0-9a-f]{64}", blob) else None
        verdict = "" if promised is None else ("as the Hub says" if promised == digest else "DAMAGED")
        wrong += [path.name] if verdict == "DAMAGED" else []
        rows.append((path.relative_to(folder).as_posix(), path.stat().st_size, digest, verdict))
    empty = [part for part in ("unet", "vae") if not list((folder / part).glob("*.safetensors"))]
    wrong += [f"{part}/*.safetensors missing" for part in empty]
    name = folder.resolve().name
    revision = name if re.fullmatch("[0-9a-f]{40}", name) else "not recorded in this folder"
    pinned = "the pinned one" if revision == REVISION else f"pinned: {REVISION}"
    state = ", ".join(wrong) or f"{len(rows) - 1} files"
    return Check("Files", not wrong, f"{state}; revision {revision} ({pinned}) of {REPOSITORY}.", rows)


def check_configs(folder: Path, architecture: Architecture = FULL) -> Check:
    """The configuration files say what this package's preset says, key by key."""
    rows: list[Sequence[object]] = [("part", "key", "file", "preset")]
    for part, name in CONFIG_FILES.items():
        found = json.loads((folder / part / name).read_text(encoding="utf-8"))
        expected = getattr(architecture, part)
        signature = inspect.signature(CLASSES[part].__init__).parameters
        defaults = {k: p.default for k, p in signature.items() if p.default is not inspect.Parameter.empty}
        # Of the scheduler only the betas are used, so only what the preset names is compared.
        keys = expected if part == "scheduler" else defaults
        for key in keys:
            preset = expected.get(key, defaults.get(key))
            value = found.get(key, defaults.get(key))
            if _plain(value) != _plain(preset):
                rows.append((part, key, value, preset))
    count = len(rows) - 1
    return Check("Configurations", not count, f"{count} keys differ from the preset.", rows if count else [])


def _plain(value: Any) -> Any:
    """JSON's view of a value: tuples are lists, and diffusers writes "off" as null or false."""
    return list(value) if isinstance(value, tuple) else value or None


def check_tensors(folder: Path, architecture: Architecture = FULL) -> Check:
    """Names and shapes of the stored tensors fit the preset: loading would only warn, and leave the rest random."""
    rows: list[Sequence[object]] = [("part", "tensor", "file", "preset")]
    count = 0
    for part in ("unet", "vae"):
        with torch.device("meta"):
            model = CLASSES[part].from_config(getattr(architecture, part))
        expected = {name: list(value.shape) for name, value in model.state_dict().items()}
        stored = _stored_shapes(folder / part)
        count += len(stored)
        for name in sorted(expected.keys() | stored.keys()):
            if expected.get(name) != stored.get(name):
                rows.append((part, name, stored.get(name, "missing"), expected.get(name, "unknown")))
    wrong = len(rows) - 1
    summary = f"{count} tensors, {wrong} of them not as in the preset."
    return Check("Tensors", not wrong, summary, rows[:20] if wrong else [])


def _stored_shapes(folder: Path) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for path in sorted(p for p in folder.glob("*.safetensors") if ".fp16." not in p.name):
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no safetensors file ({error}); download it again.") from error
    return shapes


def verify_files(folder: Path, architecture: Architecture = FULL) -> list[Check]:
    """The checks that need no network."""
    steps: list[Callable[[], Check]] = [
        lambda: check_files(folder),
        lambda: check_configs(folder, architecture),
        lambda: check_tensors(folder, architecture),
    ]
    return [timed(step) for step in steps]
