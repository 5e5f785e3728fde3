"""Consistency: what comes out, reduced, is what went in; by rows as at once, and with a note where it cannot be."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import infer
from PIL import Image
from skimage import data
from torch import Tensor

from idas_sr import cli
from idas_sr.consistency import PROMISED, Projector, consistent
from idas_sr.imagefiles.reading import read_picture
from idas_sr.metrics import lr_psnr_y
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.resample import resize, upsample

CAT = torch.from_numpy(data.chelsea()[60:121, 100:157].copy()).permute(2, 0, 1).float() / 255


def noisy(picture: Tensor, size: tuple[int, int], amount: float = 0.03) -> Tensor:
    """Something that does not agree with the picture."""
    enlarged = resize(picture[None], size)[0]
    return (enlarged + amount * torch.randn(enlarged.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def reduced(image: Tensor, picture: Tensor) -> Tensor:
    return resize(image[None], (picture.shape[-2], picture.shape[-1]))[0]


@pytest.mark.parametrize("size", [(244, 228), (64, 59), (90, 228), (153, 500)])
def test_the_projection_reduces_to_its_target_and_moves_as_little_as_it_can(size: tuple[int, int]) -> None:
    image, target = noisy(CAT, size), CAT
    projected = Projector(target, size, clip=False).whole(image)
    assert float((reduced(projected, target) - target).abs().max()) < 1e-5
    # Nearest: what was added is orthogonal to everything that a reduction does not see.
    unseen = Projector(torch.zeros_like(target), size, clip=False).whole(noisy(CAT, size, 0.5) - 0.5)
    added = (projected - image).double()
    assert float(reduced(unseen, target).abs().max()) < 1e-5 and float(unseen.std()) > 0.05
    assert abs(float((added * unseen).sum())) < 1e-5 * float(added.norm() * unseen.norm())


@pytest.mark.parametrize("scale", [1.5, 4])
def test_rows_make_no_difference(scale: float) -> None:
    tall = torch.cat([CAT, CAT.flip(1), CAT], dim=1)
    size = round(tall.shape[1] * scale), round(tall.shape[2] * scale)
    image, at_once = noisy(tall, size), Projector(tall, size)
    whole, parts = at_once.whole(image), Projector(tall, size)
    given = torch.cat(list(parts.over(image.split(7, dim=1))), dim=1)
    assert torch.equal(whole, given) and parts.decibels() == at_once.decibels() > 60
    # And they are those of the matrix, not of its pieces.
    exact = Projector(tall, size, clip=False)
    pieces = exact.whole(image)
    down, across = exact.down.toarray().astype(float), exact.across.toarray().astype(float)
    error = tall.double() - torch.from_numpy(down @ image.double().numpy() @ across.T)
    exactly = image + torch.from_numpy(np.linalg.pinv(down) @ error.numpy() @ np.linalg.pinv(across).T)
    assert float((pieces - exactly).abs().max()) < 1e-5


def test_values_stay_in_range_and_what_cannot_be_reached_is_said() -> None:
    dark = (CAT * 1.6 - 0.4).clamp(0, 1)
    near = Projector(dark, (244, 228))
    image = near.whole(noisy(dark, (244, 228)))
    assert float(image.min()) == 0 and float(image.max()) <= 1
    off = (reduced(image, dark) - dark).abs() * 255
    assert near.decibels() > 65 > PROMISED and float((off < 0.5).float().mean()) > 0.99
    lines = torch.zeros(3, 40, 40)
    lines[:, ::2] = 1
    far = Projector(lines, (160, 160))
    far.whole(noisy(lines, (160, 160)))
    assert far.decibels() < 30


def test_a_size_that_holds_no_more_is_refused(tiny: IDaSSRPipeline) -> None:
    for size in ((61, 57), (50, 400), (244, 57)):
        with pytest.raises(ValueError, match="larger than its input"):
            consistent(torch.zeros(3, *size), CAT)
    for upscale in (0.5, 1.0):
        with pytest.raises(ValueError, match="larger than its input"):
            tiny(CAT, upscale=upscale, consistent=True)


@pytest.mark.parametrize(
    "options",
    [{}, {"realism": 1.0, "upscale": 2.5}, {"color_fix": "wavelet"}, {"tile": 160}],
    ids=str,
)
def test_every_setting_agrees_with_the_input(tiny: IDaSSRPipeline, options: dict) -> None:
    result = tiny(CAT, output_type="pt", consistent=True, return_trace=True, **options)
    image = (result.images[0] * 255).round() / 255
    assert float(lr_psnr_y(image[None], CAT[None])) > 55 and result.trace[0]["lr_psnr"] > 55
    plain = tiny(CAT, output_type="pt", **options).images[0]
    assert float(lr_psnr_y(plain[None], CAT[None])) < 40


@pytest.mark.parametrize(
    "options",
    [("--tile", 160, "--bit-depth", 16), ("--target-size", "x150"), ("--format", "tiff", "--realism", 1)],
    ids=str,
)
def test_files_agree_with_their_inputs(model: Path, tmp_path: Path, options: tuple) -> None:
    Image.fromarray(data.chelsea()[60:121, 100:157]).save(tmp_path / "cat.png")
    summary = tmp_path / "summary.json"
    assert infer(model, tmp_path / "cat.png", tmp_path / "out", "--consistent", "--summary", summary, *options) == 0
    (path,) = (tmp_path / "out").iterdir()
    assert float(lr_psnr_y(read_picture(path).colour[None], CAT[None])) > 55
    outcome = json.loads(summary.read_text())["outcomes"][0]
    assert outcome["trace"]["lr_psnr"] > 55 and outcome["notices"] == []


def test_resume_knows_and_notes_say_so(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = np.zeros((24, 24, 3), np.uint8)
    lines[::2] = 255
    Image.fromarray(lines).save(tmp_path / "lines.png")
    assert infer(model, tmp_path / "lines.png", tmp_path / "out") == 0
    for expected in ("1 restored", "1 skipped"):
        capsys.readouterr()
        assert infer(model, tmp_path / "lines.png", tmp_path / "out", "--consistent", "--resume") == 0
        said = capsys.readouterr()
        assert expected in said.out
        assert ("no picture between black and white" in said.err) == (expected == "1 restored")
    assert infer(model, tmp_path / "lines.png", tmp_path / "out", "--consistent", "-s", 1) == 1
    assert "larger than its input" in capsys.readouterr().err


def test_grey_and_transparent_pictures_agree_too(model: Path, tmp_path: Path) -> None:
    cat = data.chelsea()[60:92, 100:148]
    Image.fromarray(cat).convert("L").save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([cat, np.full(cat.shape[:2], 200, np.uint8)])).save(tmp_path / "clear.png")
    for name in ("grey", "clear"):
        assert infer(model, tmp_path / f"{name}.png", tmp_path / "out", "--consistent", "--realism", 1) == 0
        given, made = (read_picture(tmp_path / folder / f"{name}.png") for folder in ("", "out"))
        assert made.grey == (name == "grey") and (made.alpha is not None) == (name == "clear")
        assert float(lr_psnr_y(made.colour[None], given.colour[None])) > 55


def test_upsample_is_not_consistent_by_itself() -> None:
    enlarged = upsample(CAT[None] * 2 - 1, 4)[0] / 2 + 0.5
    assert (
        float(lr_psnr_y(enlarged[None], CAT[None])) < 50 < float(lr_psnr_y(consistent(enlarged, CAT)[None], CAT[None]))
    )


def test_a_consistent_output_is_made_again(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(data.chelsea()[60:84, 100:132]).save(tmp_path / "cat.png")
    assert infer(model, tmp_path / "cat.png", tmp_path / "out", "--consistent") == 0
    words = ["reproduce", tmp_path / "out" / "cat.png", tmp_path / "cat.png", "--model", model]
    assert cli.main([str(word) for word in words]) == 0
    assert "identical" in capsys.readouterr().out
