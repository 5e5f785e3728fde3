"""Picture files in and out: exact sizes, modes and metadata, or one sentence that says why not."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_files import CAT, COLOUR, GREY_PROFILE, LONG_NAME, ODD_FILES, P3, REFUSED, WIDE, camera_exif, jpeg, stored_for
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from idas_sr import cli
from idas_sr.imagefiles.formats import FORMATS, Encoding
from idas_sr.imagefiles.metadata import Metadata
from idas_sr.imagefiles.reading import PictureFile, read_picture
from idas_sr.imagefiles.sizes import TargetSize
from idas_sr.imagefiles.writing import read_recipe, save_picture
from idas_sr.images import read_text
from idas_sr.resample import resize


@pytest.fixture(scope="module")
def odd(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of odd files, restored by one command: folders, summary and what was printed."""
    root = tmp_path_factory.mktemp("odd")
    (root / "in").mkdir()
    for name, file in ODD_FILES.items():
        file.make(root / "in" / name)
    for name, (content, _) in REFUSED.items():
        (root / "in" / name).write_bytes(content)
    (root / "in" / "1x1.png").chmod(stat.S_IRUSR)
    arguments = ["-i", root / "in", "-o", root / "out", "--model", model, "--summary", root / "summary.json"]
    assert cli.main(["infer", *map(str, arguments)]) == 1
    return {"in": root / "in", "out": root / "out", "summary": root / "summary.json", "model": model}


@pytest.fixture(scope="module")
def outcomes(odd: dict[str, Path]) -> dict[str, dict]:
    return {Path(o["input"]).name: o for o in json.loads(odd["summary"].read_text())["outcomes"]}


@pytest.mark.parametrize("name", ODD_FILES, ids=[name[:20] for name in ODD_FILES])
def test_odd_files_keep_size_mode_and_metadata(odd: dict[str, Path], outcomes: dict[str, dict], name: str) -> None:
    wanted, outcome = ODD_FILES[name], outcomes[name]
    assert outcome["status"] == "restored", outcome["reason"]
    assert wanted.notice in " ".join(outcome["notices"]) and bool(wanted.notice) == bool(outcome["notices"])
    with Image.open(odd["out"] / f"{name.rpartition('.')[0]}.png") as image:
        assert (image.size, image.mode) == (wanted.size, wanted.mode)
        exif = image.getexif()
        assert (exif.get(0x010F) == "Camera") == ("camera" in wanted.keeps)
        if "camera" in wanted.keeps:
            taken = exif.get_ifd(0x8769)
            assert exif[0x0112] == 1 and exif.get_ifd(0x8825)[1] == "N"
            assert (taken[0x9003], taken[0xA002], taken[0xA003]) == ("2026:05:04 03:02:01", *wanted.size)
        profile = {"rgb profile": P3, "grey profile": GREY_PROFILE}.get(next(iter(wanted.keeps), ""))
        assert image.info.get("icc_profile") == profile
        if "dpi" in wanted.keeps:
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_nothing_else_is_written_and_inputs_stay(odd: dict[str, Path]) -> None:
    assert len(list(odd["out"].iterdir())) == len(ODD_FILES) >= 20
    assert stat.S_IMODE((odd["in"] / "1x1.png").stat().st_mode) == stat.S_IRUSR
    assert (odd["out"] / LONG_NAME).is_file()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused_in_one_sentence(outcomes: dict[str, dict], name: str) -> None:
    outcome = outcomes[name]
    assert outcome["status"] == "failed" and name in outcome["reason"]
    assert REFUSED[name][1] in outcome["reason"] and "\n" not in outcome["reason"]


def test_every_orientation_gives_the_same_picture(odd: dict[str, Path]) -> None:
    colours = [read_picture(odd["in"] / f"turned {n}.jpg").colour for n in range(1, 9)]
    # JPEG's blocks lie differently, so equal up to its loss.
    assert max((colour - colours[0]).abs().mean() for colour in colours) < 0.02
    for n in range(1, 9):
        stored_for(n).save(odd["in"].parent / "exact.png", exif=camera_exif(n))
        colour = read_picture(odd["in"].parent / "exact.png").colour
        assert torch.equal((colour * 255).round().byte().movedim(0, -1), torch.from_numpy(CAT))


def test_sixteen_bits_are_read_whole_and_turned(tmp_path: Path, odd: dict[str, Path]) -> None:
    for name in ("sixteen.png", "wide.tiff"):
        picture = read_picture(odd["in"] / name)
        assert picture.bits == 16
        assert torch.equal(
            (picture.colour * 65535).round().int().movedim(0, -1), torch.from_numpy(WIDE.astype(np.int32))
        )
    # A ramp of values that 8 bits cannot tell apart.
    ramp = np.arange(600, dtype=np.uint16).reshape(20, 10, 3) + 5000
    source = PictureFile(
        torch.from_numpy(ramp / np.float32(65535)).movedim(-1, 0),
        None,
        False,
        16,
        read_picture(odd["in"] / "turned 6.jpg").metadata,
    )
    for form in ("png", "tiff"):
        save_picture(source.colour, source, tmp_path / f"ramp.{form}", Encoding(form, bits=16))
        again = read_picture(tmp_path / f"ramp.{form}")
        assert again.bits == 16 and torch.equal(again.colour, source.colour)
        assert again.metadata.exif[0x9003] == "2026:05:04 03:02:01" and again.metadata.tags[0x0112] == 1


def test_transparency_is_enlarged_by_itself_and_hidden_colours_stay_out(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 4), (200, 100, 50, 255), np.uint8)
    pixels[:, 8:] = (0, 255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "half.png")
    picture = read_picture(tmp_path / "half.png")
    assert torch.equal(picture.colour, picture.colour[:, :1, :1].expand(3, 16, 16))
    save_picture(resize(picture.colour[None], (64, 64))[0], picture, tmp_path / "big.png", Encoding())
    big = np.asarray(Image.open(tmp_path / "big.png"))
    assert (big[:, :28, 3] == 255).all() and (big[:, 36:, 3] == 0).all()
    assert (abs(big[..., :3].astype(int) - (200, 100, 50)) <= 1).all()
    said = save_picture(picture.colour, picture, tmp_path / "flat.jpg", Encoding("jpg"))
    assert said == ["JPEG has no transparency, so the picture was laid over white"]
    assert np.asarray(Image.open(tmp_path / "flat.jpg"))[:, 12:].min() > 245


def test_lab_becomes_srgb(tmp_path: Path) -> None:
    lab = ImageCms.profileToProfile(
        COLOUR, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    lab.save(tmp_path / "lab.tif")
    picture = read_picture(tmp_path / "lab.tif")
    assert picture.notices == ("converted from LAB to sRGB",)
    assert abs(picture.colour.movedim(0, -1).numpy() * 255 - CAT).mean() < 2


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_keeps_what_it_can(tmp_path: Path, form: str) -> None:
    exif = camera_exif(6, 24, 36)
    packet = b'<x:xmpmeta tiff:Orientation="6"/>'
    (tmp_path / "in.jpg").write_bytes(jpeg(stored_for(6), exif=exif, icc_profile=P3, xmp=packet, dpi=(300, 300)))
    picture = read_picture(tmp_path / "in.jpg")
    restored = resize(picture.colour[None], (48, 72))[0].clamp(0, 1)
    path = tmp_path / f"out{FORMATS[form].extension}"
    assert save_picture(restored, picture, path, Encoding(form), '{"r": 0.5}') == []
    again = read_picture(path)
    assert (again.colour - restored).abs().mean() < 0.03 and read_recipe(path) == '{"r": 0.5}'
    assert again.metadata.icc == P3 and again.metadata.tags[0x010F] == "Camera" and again.metadata.gps == {1: "N"}
    assert again.metadata.exif == {0x9003: "2026:05:04 03:02:01", 0xA002: 72, 0xA003: 48}
    assert again.metadata.xmp is not None and b'Orientation="1"' in again.metadata.xmp
    with Image.open(path) as image:
        assert image.format == FORMATS[form].name and image.size == (72, 48)
        assert image.getexif().get(0x0112) in (None, 1)
    if form in ("png", "jpg", "tiff"):
        assert again.metadata.dpi == pytest.approx((300, 300), abs=0.01)
    save_picture(restored, picture, path, Encoding(form, metadata=False), "made so")
    bare = read_picture(path)
    assert not (bare.metadata.exif or bare.metadata.gps or bare.metadata.xmp) and bare.metadata.icc == P3
    assert read_recipe(path) == "made so"


@pytest.mark.parametrize("form", ["jpg", "webp", "avif"])
def test_quality_is_a_trade(tmp_path: Path, form: str) -> None:
    picture = PictureFile(torch.from_numpy(CAT / np.float32(255)).movedim(-1, 0), None, False, 8, Metadata())
    sizes = []
    for quality in (10, 60, 100):
        save_picture(picture.colour, picture, tmp_path / f"q{quality}.{form}", Encoding(form, quality))
        sizes.append((tmp_path / f"q{quality}.{form}").stat().st_size)
    assert sizes == sorted(set(sizes))


def test_sizes_are_parsed_and_kept() -> None:
    cases = {
        "144x96": (96, 144), "72x": (48, 72), "x48": (48, 72), "long:90": (60, 90), "short:90": (90, 135),
        "145x96": (96, 145), "1x1": (1, 1), "200x100": None,
    }  # fmt: skip
    for text, wanted in cases.items():
        if wanted is None:
            with pytest.raises(ValueError, match="stretched"):
                TargetSize.parse(text).resolve(24, 36)
        else:
            assert TargetSize.parse(text).resolve(24, 36) == wanted
    for text in ("", "x", "0x5", "12", "axb", "long:0", "wide:3", "99999x", "-3x4"):
        with pytest.raises(ValueError, match=r"side|size"):
            TargetSize.parse(text)
    with pytest.raises(ValueError, match="more than 65535"):
        TargetSize.parse("x60000").resolve(1, 500)


def test_options_of_the_command_line(odd: dict[str, Path], tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub" / "deep").mkdir(parents=True)
    COLOUR.save(tree / "a.jpg", exif=camera_exif(1))
    COLOUR.save(tree / "sub" / "deep" / "b.webp")

    def infer(out: str, *options: object) -> int:
        return cli.main(
            ["infer", "-i", str(tree), "-o", str(tmp_path / out), "--model", str(odd["model"]), *map(str, options)]
        )

    assert (
        infer("one", "--recursive", "--format", "same", "--suffix", "_x2", "--target-size", "71x", "--quality", 80) == 0
    )
    found = sorted(p.relative_to(tmp_path / "one").as_posix() for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert found == ["a_x2.jpg", "sub/deep/b_x2.webp"]
    assert [Image.open(tmp_path / "one" / name).size for name in found] == [(71, 47)] * 2
    assert infer("two", "--format", "tiff", "--bit-depth", 16, "-s", 1.5, "--no-metadata") == 0
    picture = read_picture(tmp_path / "two" / "a.tiff")
    assert picture.bits == 16 and picture.colour.shape == (3, 36, 54) and not picture.metadata.exif
    before = (tmp_path / "two" / "a.tiff").stat().st_mtime_ns
    assert infer("two", "--format", "tiff", "--bit-depth", 16, "-s", 1.5, "--no-metadata", "--resume") == 0
    assert (tmp_path / "two" / "a.tiff").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--quality", "80"], "png loses nothing"),
        (["--quality", "0", "--format", "jpg"], "between 1 and 100"),
        (["--bit-depth", "16", "--format", "webp"], "png or tiff"),
        (["--suffix", "a/b"], "file name"),
        (["--target-size", "big"], "1920x1080"),
        (["--target-size", "9x", "--upscale", "2"], "not allowed with"),
        (["--format", "bmp"], "invalid choice"),
    ],
)
def test_what_does_not_go_together_is_refused(
    odd: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    try:
        code = cli.main(["infer", "-i", str(odd["in"]), "-o", str(tmp_path / "out"), *options])
    except SystemExit as stop:
        code = int(stop.code or 0)
    err = capsys.readouterr().err
    assert code == 2 and words in err and len(err.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_text_of_a_png_is_kept_and_large_entries_of_a_jpeg_are_left_out(tmp_path: Path) -> None:
    exif = camera_exif(1)
    exif.get_ifd(0x8769)[0x927C] = bytes(70_000)
    text = PngInfo()
    text.add_itxt("Author", "Zoë")
    COLOUR.save(tmp_path / "in.png", exif=exif, pnginfo=text)
    picture = read_picture(tmp_path / "in.png")
    save_picture(picture.colour, picture, tmp_path / "out.png", Encoding(), "made so")
    assert read_text(tmp_path / "out.png", "Author") == "Zoë"
    assert read_picture(tmp_path / "out.png").metadata.exif[0x927C] == bytes(70_000)
    said = save_picture(picture.colour, picture, tmp_path / "out.jpg", Encoding("jpg"))
    assert len(said) == 1 and "no room" in said[0]
    assert read_picture(tmp_path / "out.jpg").metadata.exif[0x9003] == "2026:05:04 03:02:01"


def test_a_side_that_a_format_cannot_hold_is_refused_before_the_work(odd: dict[str, Path], tmp_path: Path) -> None:
    COLOUR.resize((5000, 1)).save(tmp_path / "long.png")
    summary = tmp_path / "summary.json"
    arguments = ["-i", tmp_path / "long.png", "-o", tmp_path / "out", "--model", odd["model"], "--format", "webp"]
    assert cli.main(["infer", *map(str, arguments), "--summary", str(summary)]) == 1
    (outcome,) = json.loads(summary.read_text())["outcomes"]
    assert "at most 16383 pixels" in outcome["reason"] and "long.png" in outcome["reason"]


def test_what_memory_cannot_hold_is_refused_before_the_work(tmp_path: Path, odd: dict[str, Path]) -> None:
    # A flat picture of a few kilobytes, whose restoration would take two hundred gigabytes.
    Image.new("1", (4000, 4000)).save(tmp_path / "flat.png")
    summary = tmp_path / "summary.json"
    arguments = ["-i", tmp_path / "flat.png", "-o", tmp_path / "out", "--model", odd["model"], "--upscale", 16]
    arguments += ["--format", "tiff"]  # PNG is written as it is made, and needs no such memory
    assert cli.main(["infer", *map(str, arguments), "--summary", str(summary)]) == 1
    (outcome,) = json.loads(summary.read_text())["outcomes"]
    assert "64000x64000 pixels, which take" in outcome["reason"] and "flat.png" in outcome["reason"]
    Image.new("1", (150_000, 1)).save(tmp_path / "line.png")
    with pytest.raises(ValueError, match=r"line\.png .*claims 150000x1 pixels"):
        read_picture(tmp_path / "line.png")
