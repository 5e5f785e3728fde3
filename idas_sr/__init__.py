"""IDaS-SR: one-step diffusion super-resolution (x4) with a dial from faithful to realistic.

``IDaSSRPipeline`` restores images, ``load_config`` reads a configuration. Both are imported on first use, so that
``import idas_sr`` alone stays quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from idas_sr.torchvision_shim import ensure_torchvision

# Before anything below can import diffusers or torchmetrics, which import torchvision.
ensure_torchvision()

if TYPE_CHECKING:
    from idas_sr.config import load_config
    from idas_sr.pipeline import IDaSSRPipeline

__version__ = "0.1.0"

__all__ = ["IDaSSRPipeline", "__version__", "load_config"]

_HOMES = {
    "IDaSSRPipeline": "idas_sr.pipeline",
    "MINE": "idas_sr.networks.mine",
    "PromptTokens": "idas_sr.networks.prompt",
    "load_config": "idas_sr.config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
