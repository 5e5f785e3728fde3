"""The colour fixes against what they promise, on a photograph."""

import pytest
import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor

from idas_sr.color import COLOR_FIXES, adain, low_frequencies, wavelet


def photograph() -> Tensor:
    return torch.from_numpy(data.chelsea()[:128, :160].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def other() -> Tensor:
    return torch.from_numpy(data.coffee()[100:228, 100:260].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize("name", COLOR_FIXES)
def test_own_colours_change_nothing(name: str) -> None:
    image = photograph()
    assert torch.allclose(COLOR_FIXES[name](image, image), image, atol=1e-5)


def test_adain_gives_the_mean_and_spread_of_the_reference() -> None:
    fixed = adain(photograph(), other())
    assert torch.allclose(fixed.mean((2, 3)), other().mean((2, 3)), atol=1e-5)
    assert torch.allclose(fixed.std((2, 3)), other().std((2, 3)), atol=1e-5)


def test_adain_of_a_flat_picture_is_finite() -> None:
    fixed = adain(torch.full((1, 3, 8, 8), 0.3), photograph()[..., :8, :8])
    assert torch.allclose(fixed.mean((2, 3)), photograph()[..., :8, :8].mean((2, 3)), atol=1e-4)


def test_wavelet_takes_low_frequencies_from_the_reference_and_keeps_its_own_details() -> None:
    image, reference = photograph(), other()
    fixed = wavelet(image, reference)
    assert torch.allclose(fixed - low_frequencies(reference), image - low_frequencies(image), atol=1e-5)
    # A colour cast, which has low frequencies only, disappears entirely.
    cast = image + torch.tensor([0.2, -0.1, 0.05]).reshape(1, 3, 1, 1)
    assert torch.allclose(wavelet(cast, image), image, atol=1e-5)


def test_five_levels_of_the_binomial_kernel() -> None:
    impulse = torch.zeros(1, 1, 129, 129)
    impulse[..., 64, 64] = 1
    # Written out: taps 1/4, 1/2, 1/4 at distances 1, 2, 4, 8, 16, convolved with one another.
    line = torch.ones(1, 1, 1)
    for level in range(5):
        taps = torch.zeros(2 * 2**level + 1)
        taps[0], taps[2**level], taps[-1] = 0.25, 0.5, 0.25
        line = F.conv1d(F.pad(line, (len(taps) - 1,) * 2), taps[None, None])
    expected = line[0, 0][:, None] * line[0, 0]
    assert torch.allclose(low_frequencies(impulse)[0, 0, 33:96, 33:96], expected, atol=1e-7)
    assert low_frequencies(impulse).sum().item() == pytest.approx(1, abs=1e-5)


def test_pictures_smaller_than_the_kernel() -> None:
    tiny = photograph()[..., :1, :3]
    assert wavelet(tiny, tiny + 0.1).shape == tiny.shape


@pytest.mark.parametrize("fix", [wavelet, adain])
def test_another_size_is_refused(fix) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="shape"):
        fix(photograph(), photograph()[..., 1:, :])


@pytest.mark.parametrize("fix", [wavelet, adain])
def test_pictures_of_a_batch_do_not_mix(fix) -> None:  # type: ignore[no-untyped-def]
    together = fix(torch.cat([photograph(), other()]), torch.cat([other(), photograph()]))
    assert torch.allclose(together[:1], fix(photograph(), other()), atol=1e-6)
