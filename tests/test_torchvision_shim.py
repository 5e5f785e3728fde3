"""The shim lets torchvision, and what imports it, load in a fresh process."""

import subprocess
import sys

import pytest


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_torchvision_and_diffusers_import_after_the_package() -> None:
    done = run_python(
        "import idas_sr, torchvision\n"
        "from torchvision.models import squeezenet1_1\n"
        "from diffusers import AutoencoderKL\n"
        "print(AutoencoderKL.__name__)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "AutoencoderKL"


def test_shim_is_what_makes_the_difference() -> None:
    if run_python("import torchvision").returncode == 0:
        pytest.skip("torchvision imports by itself here, so the shim has nothing to do")
    assert run_python("import idas_sr, torchvision").returncode == 0


def test_package_import_stays_light() -> None:
    done = run_python(
        "import sys, idas_sr\n"
        "heavy = {'torchvision', 'diffusers', 'transformers', 'kornia', 'lpips', 'torchmetrics'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_unknown_attribute_is_named() -> None:
    import idas_sr

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = idas_sr.no_such_name
