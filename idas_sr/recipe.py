"""How an output was made, as text that travels in it: the settings, known before, and what was found on the way.

The text is JSON. Everything but its entry ``result`` is the settings (``Settings.recipe`` of `idas_sr.batch`), equal
for outputs that are to be equal; ``result`` holds the trace, the machine and the batch, so that it can be made again.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

RESULT = "result"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC Digital Source Type of every output, "Edited using Generative AI": detail comes from a trained generative
model, also at realism 0; the vocabulary's ``algorithmicallyEnhanced`` (sharpening, noise reduction) says too little."""


def complete(settings: str, trace: Mapping[str, float], device: torch.device, batch: tuple[int, int] = (0, 1)) -> str:
    """The text for an output's file.

    Args:
        settings: JSON text.
        trace: of the restoration.
        device: that it was made on.
        batch: place of the picture in its batch, and how many there were: rounding may depend on it.
    """
    result = {
        "trace": {name: round(value, 6) for name, value in trace.items()},
        "machine": machine(device),
        "batch": list(batch),
        "source_type": SOURCE_TYPE,
    }
    return json.dumps(json.loads(settings) | {RESULT: result}, sort_keys=True)


def parse(text: str | None) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Settings and result of a recipe; None where the text is none."""
    try:
        values = json.loads(text or "")
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    result = values.pop(RESULT, None)
    return values, result if isinstance(result, dict) else {}


def has_settings(text: str | None, settings: str) -> bool:
    """Whether a recipe found in a file has these settings (JSON text)."""
    found = parse(text)
    return found is not None and found[0] == json.loads(settings)


def machine(device: torch.device) -> dict[str, Any]:
    """What may change the last bits of a result: processor, instructions, threads, GPU, torch. No name of the host."""
    values: dict[str, Any] = {
        "device": device.type,
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        values["gpu"] = torch.cuda.get_device_name(device)
    return values


def processor() -> str:
    """The processor's model name as the kernel gives it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
