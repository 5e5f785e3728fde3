"""Make torchvision importable beside a CPU build of torch.

A torchvision built for CUDA links against libraries that a CPU build of torch does not bring, so its operators cannot
be loaded. Its Python part still registers kernels for two of them, ``nms`` and ``qnms``, which then nobody has
declared, and ``import torchvision`` fails; with it fail diffusers, transformers, peft, torchmetrics and lpips.
Declaring the two is all that the import needs. They stay without an implementation: nothing in this package detects
objects.
"""

import importlib.util
import sys
from pathlib import Path

import torch

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# A torch.library.Library takes its declarations back when it is collected, so it has to live as long as the process.
_declared: list[torch.library.Library] = []


def ensure_torchvision() -> None:
    """Declare the operators torchvision's import asks for, if its own library cannot.

    Does nothing where torchvision works, is absent or is already imported. Has to run before the first import of
    torchvision, diffusers, transformers, peft, torchmetrics or lpips in the process.
    """
    if "torchvision" in sys.modules or _declared:
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    library = next(Path(spec.origin).parent.glob("_C*"), None)
    if library is not None:
        try:
            torch.ops.load_library(library)
            return
        except OSError:
            # Built for another torch: fall through to the declarations.
            pass
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for operator in _OPERATORS:
        fragment.define(operator)
    _declared.append(fragment)
