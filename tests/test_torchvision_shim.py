"""The shim lets torchvision, and what imports it, load in a fresh process."""

import subprocess
import sys

import pytest


def test_package_import_is_light_and_lets_torchvision_in() -> None:
    # Beside a CPU build of torch, a torchvision built for CUDA cannot be imported by itself. That diffusers, too, is
    # imported after the package every other test shows.
    code = (
        "import sys, idas_sr\n"
        "heavy = {'torchvision', 'diffusers', 'transformers', 'kornia', 'lpips', 'torchmetrics'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "from torchvision.models import squeezenet1_1\n"
        "print(squeezenet1_1.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["[]", "squeezenet1_1"], done.stdout + done.stderr


def test_unknown_attribute_is_named() -> None:
    import idas_sr

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = idas_sr.no_such_name
