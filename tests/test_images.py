"""Picture files: read as they are meant, written whole or not at all, refused in one sentence."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from idas_sr.imagefiles.reading import read_picture, read_rgb
from idas_sr.images import read_text, stamp, to_pil, to_tensors, write_png

CAT = data.chelsea()[:48, :64]


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def test_png_round_trip_is_exact(tmp_path: Path) -> None:
    write_png(Image.fromarray(CAT), tmp_path / "cat.png")
    tensor = read_picture(tmp_path / "cat.png").colour[None]
    assert tensor.shape == (1, 3, 48, 64) and tensor.dtype == torch.float32
    assert np.array_equal(np.asarray(to_pil(tensor[0])), CAT)
    assert np.array_equal(read_rgb(tmp_path / "cat.png"), CAT)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    # What a camera stores for each orientation so that the picture shows upright.
    stored = {
        1: CAT, 2: CAT[:, ::-1], 3: CAT[::-1, ::-1], 4: CAT[::-1], 5: CAT.transpose(1, 0, 2),
        6: np.rot90(CAT, 1), 7: np.rot90(CAT, 2).transpose(1, 0, 2), 8: np.rot90(CAT, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "turned.png"), CAT)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "PA", "CMYK", "YCbCr", "I;16", "I"])
def test_every_mode_becomes_three_channels(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(CAT).convert("L")
    if mode.startswith("I"):
        wide = np.asarray(grey).astype(np.uint16) * 257
        image = Image.fromarray(wide if mode == "I;16" else wide.astype(np.int32))
    else:
        image = Image.fromarray(CAT).convert(mode)
    # Pillow does not read again the uncompressed YCbCr TIFFs that it writes.
    image.save(tmp_path / "picture.tif", compression="tiff_deflate" if mode == "YCbCr" else None)
    tensor = read_picture(tmp_path / "picture.tif").colour[None]
    assert tensor.shape == (1, 3, 48, 64)
    if mode in ("L", "I;16", "I"):
        assert torch.equal((tensor[0, 0] * 255).round().byte(), torch.from_numpy(np.array(grey)))


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(4, 0)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    tensor = read_picture(tmp_path / "ramp.png").colour[None]
    assert torch.allclose(tensor[0, 0, 0], torch.from_numpy(ramp[0].astype(np.float32) / 65535), atol=1e-6)
    assert len(tensor[0, 0, 0].unique()) == 64


BAD = {
    "text.png": b"this is a letter, not a picture\n",
    "empty.png": b"",
    "truncated.jpg": encoded(Image.fromarray(data.chelsea()), format="JPEG")[:4000],
    "truncated.png": encoded(Image.fromarray(data.chelsea()), format="PNG")[:4000],
    "broken.tif": b"II*\x00\xff\xff\xff\xff",
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BAD[name])
    for read in (read_picture, read_rgb):
        with pytest.raises(ValueError, match=f"{name} cannot be read as a picture") as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)
    if not BAD[name]:
        assert "empty" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.png cannot be read"):
        read_rgb(tmp_path / "nothing.png")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "cat.png" / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        write_png(Image.fromarray(CAT), tmp_path / "cat.png")
    assert list(tmp_path.iterdir()) == [tmp_path / "cat.png"]


def test_text_metadata_round_trip(tmp_path: Path) -> None:
    write_png(Image.fromarray(CAT), tmp_path / "cat.png", {"idas_sr": '{"name": "Mülleimer"}'})
    assert read_text(tmp_path / "cat.png", "idas_sr") == '{"name": "Mülleimer"}'
    assert read_text(tmp_path / "cat.png", "other") is None
    assert read_text(tmp_path / "none.png", "idas_sr") is None
    (tmp_path / "bad.png").write_bytes(b"no")
    assert read_text(tmp_path / "bad.png", "idas_sr") is None


def test_every_way_to_give_a_picture_means_the_same() -> None:
    unit = torch.from_numpy(CAT.copy()).permute(2, 0, 1).float() / 255
    ways = [Image.fromarray(CAT), CAT, CAT.astype(np.float32) / 255, unit, unit[None], [CAT], CAT[None]]
    for way in ways:
        (tensor,) = to_tensors(way)
        assert torch.allclose(tensor, unit, atol=1e-6), type(way)
    assert len(to_tensors([CAT, unit.expand(2, -1, -1, -1)])) == 3


NO_PICTURES = {
    "empty list": [],
    "path": "cat.png",
    "two dimensions": torch.zeros(4, 4),
    "one channel": torch.zeros(1, 4, 4),
    "range": torch.full((3, 4, 4), 2.0),
    "nan": torch.full((3, 4, 4), torch.nan),
    "no pixels": np.zeros((0, 4, 3)),
}


@pytest.mark.parametrize("bad", NO_PICTURES.values(), ids=NO_PICTURES)
def test_what_is_no_picture_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match=r"[Pp]icture"):
        to_tensors(bad)  # type: ignore[arg-type]


def test_the_stamp_is_seen_and_keeps_the_size() -> None:
    image = Image.fromarray(data.chelsea())
    stamped = stamp(image, "RANDOM WEIGHTS")
    assert stamped.size == image.size
    changed = np.asarray(stamped) != np.asarray(image)
    assert 0.02 < changed.mean() < 0.5
    assert stamp(Image.fromarray(CAT[:1, :1]), "RANDOM WEIGHTS").size == (1, 1)
