"""Our blur kernels and noises against BasicSR 1.4.2's own, run only where that package is installed.

It wants an environment of its own: ``pip install --no-deps --no-build-isolation basicsr==1.4.2``, then
``pytest tests/oracle_basicsr.py -m oracle``.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from idas_sr.data import corruptions, kernels

pytestmark = pytest.mark.oracle

_package = importlib.util.find_spec("basicsr")
if _package is None:
    pytest.skip("basicsr 1.4.2 is not installed in this environment", allow_module_level=True)
_FOLDER = Path(_package.submodule_search_locations[0])


def _gray(image: torch.Tensor, num_output_channels: int = 1) -> torch.Tensor:
    assert num_output_channels == 1
    return (image * image.new_tensor([0.2989, 0.587, 0.114])[None, :, None, None]).sum(dim=1, keepdim=True)


def _load(path: str) -> types.ModuleType:
    # The package's own __init__ imports everything it has, torchvision included; the two files need none of that.
    spec = importlib.util.spec_from_file_location("basicsr_" + Path(path).stem, _FOLDER / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# torchvision dropped the module that this one name is imported from.
_shim = types.ModuleType("torchvision.transforms.functional_tensor")
_shim.rgb_to_grayscale = _gray  # type: ignore[attr-defined]
with pytest.MonkeyPatch.context() as _patch:
    _patch.setitem(sys.modules, _shim.__name__, _shim)
    oracle = _load("data/degradations.py")
image_oracle = _load("utils/img_process_util.py")

SIZES = range(3, 22, 2)
SHAPES = [(x, y, angle) for x in (0.2, 0.9, 3.0) for y in (0.4, 2.2, 4.0) for angle in (-2.5, 0.0, 0.6, 3.1)]


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max())


@pytest.mark.parametrize("is_round", [True, False])
def test_gaussian(is_round: bool) -> None:
    worst = max(
        difference(
            kernels.bell_kernel(size, x, x if is_round else y, angle),
            oracle.bivariate_Gaussian(size, x, y, angle, isotropic=is_round),
        )
        for size in SIZES
        for x, y, angle in SHAPES
    )
    assert worst < 1e-12


@pytest.mark.parametrize("is_round", [True, False])
@pytest.mark.parametrize("profile", ["generalized", "plateau"])
def test_shaped(profile: str, is_round: bool) -> None:
    theirs = oracle.bivariate_generalized_Gaussian if profile == "generalized" else oracle.bivariate_plateau
    worst = max(
        difference(
            kernels.bell_kernel(size, x, x if is_round else y, angle, profile, beta),
            theirs(size, x, y, angle, beta, isotropic=is_round),
        )
        for size in SIZES
        for x, y, angle in SHAPES
        for beta in (0.5, 1.0, 1.7, 4.0)
    )
    assert worst < 1e-12


def test_sinc() -> None:
    with np.errstate(invalid="ignore", divide="ignore"):
        worst = max(
            difference(kernels.sinc_kernel(size, cutoff), oracle.circular_lowpass_kernel(cutoff, size))
            for size in SIZES
            for cutoff in np.linspace(np.pi / 5, np.pi, 9)
        )
    assert worst < 1e-12


def test_blur_and_noise_levels() -> None:
    picture = data.astronaut()[:96, 150:246].copy()
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    kernel = kernels.bell_kernel(21, 3.0, 1.0, 0.4)
    theirs = image_oracle.filter2D(image, torch.from_numpy(kernel)[None].float())
    worst = float((corruptions.blur(image, kernel) - theirs).abs().max())
    assert worst < 1e-5
    # Noise comes from other generators there, so its size is compared: mid-tones only, where nothing is clipped.
    image = image * 0.4 + 0.3
    torch.manual_seed(0)
    for is_gray in (False, True):
        gray = torch.tensor([float(is_gray)])
        white = corruptions.add_gaussian_noise(image, 0.04, is_gray, 0) - image
        their_white = oracle.add_gaussian_noise_pt(image, 0.04 * 255, gray) - image
        assert float(white.std()) == pytest.approx(float(their_white.std()), rel=0.03)
        shot = corruptions.add_poisson_noise(image, 1.0, is_gray, 0) - image
        their_shot = oracle.add_poisson_noise_pt(image, 1.0, gray) - image
        assert float(shot.std()) == pytest.approx(float(their_shot.std()), rel=0.03)
