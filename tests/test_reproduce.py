"""An output made again from its recipe: bit by bit the same, or with words about what was not."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import infer, tiny_pipeline
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from skimage import data

from idas_sr import cli
from idas_sr.batch import Settings
from idas_sr.cli.arguments import add_infer_arguments
from idas_sr.cli.infer import prepare
from idas_sr.cli.reproduce import infer_arguments
from idas_sr.dial import Calibration
from idas_sr.imagefiles.provenance import extended
from idas_sr.imagefiles.reading import read_picture
from idas_sr.imagefiles.writing import read_recipe
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.planning import Plan
from idas_sr.recipe import SOURCE_TYPE, has_settings, parse
from idas_sr.reproduction import Recipe
from idas_sr.reproduction import reproduce as run

TABLE = [0.0, 0.2, 0.5, 1.0]
AUTO = {"timesteps": [100.0, 900.0], "realism": [0.1, 0.9]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose dial is calibrated."""
    pipe, folder = tiny_pipeline(), tmp_path_factory.mktemp("model")
    steering = {"name": "n1", "args": {"kappa": 2.0}}
    pipe.register_to_config(steering=steering, calibration={"steering": steering, "table": TABLE, "auto": AUTO})
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    cat = Image.fromarray(data.chelsea()[60:92, 100:148])
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    cat.save(folder / "cat.jpg", exif=exif)
    cat.convert("L").save(folder / "grey.png")
    cat.rotate(90).save(folder / "other.png")
    clear = cat.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(cat.size))
    clear.save(folder / "clear.png")
    Image.linear_gradient("L").resize(cat.size).save(folder / "where.png")
    Image.fromarray(data.coffee()[:80, :144]).save(folder / "wide.png")
    return folder


def reproduce(model: Path, output: Path, source: Path, *options: object) -> int:
    return cli.main(["reproduce", str(output), str(source), "--model", str(model), *map(str, options)])


SETTINGS: list[tuple[str, tuple[object, ...]]] = [
    ("cat.jpg", ()),
    ("cat.jpg", ("--realism", 0)),
    ("cat.jpg", ("--realism", 1, "--seed", 7)),
    ("cat.jpg", ("--realism", 0.3, "--dial", "raw")),
    ("cat.jpg", ("--realism", "auto", "--seed", 3)),
    ("cat.jpg", ("--format", "jpg", "--quality", 70)),
    ("cat.jpg", ("--format", "same", "--suffix", "_x4", "--no-metadata")),
    ("cat.jpg", ("--format", "webp")),
    ("cat.jpg", ("--format", "avif", "--realism", 0.9)),
    ("cat.jpg", ("--format", "tiff", "--bit-depth", 16)),
    ("cat.jpg", ("--bit-depth", 16, "-s", 2.5)),
    ("cat.jpg", ("--target-size", "long:100", "--color-fix", "wavelet")),
    ("grey.png", ("--realism", 0.8)),
    ("clear.png", ("--format", "webp", "--quality", 100)),
    ("cat.jpg", ("--steering", "n4", "--kappa", 1.5)),
    ("cat.jpg", ("--realism-map", "where.png")),
    ("cat.jpg", ("--precision", "bf16")),
    ("wide.png", ("--tile", 256)),
    ("wide.png", ("--tile", 256, "--target-size", "200x", "--format", "jpg")),
    ("cat.jpg", ("--guider", "positive")),
]


@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=[" ".join(map(str, (n, *o))) for n, o in SETTINGS])
def test_twenty_outputs_of_different_settings_come_out_the_same(
    model: Path, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, options: tuple
) -> None:
    words = [str(inputs / "where.png") if word == "where.png" else word for word in options]
    assert infer(model, inputs / name, tmp_path, *words) == 0
    (output,) = tmp_path.iterdir()
    before = output.read_bytes()
    capsys.readouterr()
    with_map = ["--realism-map", inputs / "where.png"] if "--realism-map" in words else []
    assert reproduce(model, output, inputs / name, *with_map) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("identical") and output.read_bytes() == before


def test_a_picture_of_a_batch_is_made_again_in_a_batch(model: Path, inputs: Path, tmp_path: Path) -> None:
    several = tmp_path / "several"
    several.mkdir()
    for index in range(3):
        Image.fromarray(data.chelsea()[60 + index : 92 + index, 100:148]).save(several / f"{index}.png")
    assert infer(model, several, tmp_path / "out", "--batch-size", 3) == 0
    for index in range(3):
        found = parse(read_recipe(tmp_path / "out" / f"{index}.png"))
        assert found is not None and found[1]["batch"] == [index, 3]
        assert reproduce(model, tmp_path / "out" / f"{index}.png", several / f"{index}.png") == 0


def test_tiles_and_threads_are_those_of_the_recipe(model: Path, inputs: Path, tmp_path: Path) -> None:
    assert Recipe({}, {"trace": {"tile": 64, "overlap": 32, "at_once": 2, "samples": 4}}).tile == Plan(64, 32, 2, 4)
    assert Recipe({"extra": {"tile": 256}}, {"trace": {"t_hat": 1.0}}).tile == 0
    assert Recipe({"extra": {"tile": 256}}, {}).tile == 256
    assert infer(model, inputs / "cat.jpg", tmp_path) == 0
    recipe, threads = Recipe.of_file(tmp_path / "cat.png"), torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        result = run(tmp_path / "cat.png", inputs / "cat.jpg", *prepared(recipe, model), recipe)
        assert result.comparison.is_identical and result.differences == ()
    finally:
        torch.set_num_threads(threads)


def prepared(recipe: Recipe, model: Path) -> tuple[Settings, Callable[[], IDaSSRPipeline]]:
    given = argparse.Namespace(model=str(model), sd_path=None, adapter=None, realism_map=None, device="cpu")
    given.conditioner = given.guider = None
    load, settings = prepare(infer_arguments(recipe, given), "cpu")
    return settings, load


def test_what_differs_is_named(model: Path, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert infer(model, inputs / "cat.jpg", tmp_path / "out") == 0
    output = tmp_path / "out" / "cat.png"

    def said(*arguments: object) -> str:
        capsys.readouterr()
        assert reproduce(*arguments) == 1  # type: ignore[arg-type]
        return capsys.readouterr().out

    other = tmp_path / "other"
    tiny_pipeline(seed=1).save_pretrained(other)
    assert "model: made with" in said(other, output, inputs / "cat.jpg")
    words = said(model, output, inputs / "grey.png")
    assert "input: made with" in words and "model" not in words
    with Image.open(output) as image:
        changed, text = np.array(image), image.text["idas_sr"]  # type: ignore[attr-defined]
    changed[5, 7, 1] ^= 1
    values = json.loads(text)
    values["version"], values["result"]["machine"]["torch"] = "0.0.1", "1.0"
    info = PngInfo()
    info.add_itxt("idas_sr", json.dumps(values))
    Image.fromarray(changed).save(output, pnginfo=info)
    words = said(model, output, inputs / "cat.jpg")
    assert "1 of 24576 pixels" in words and "by at most 1 levels" in words
    assert "version: made with 0.0.1, here" in words and "torch: made with 1.0, here" in words


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no recipe", "holds no recipe"),
        ("no output", "There is no file"),
        ("no input", "There is no file"),
        ("map missing", "give it with --realism-map"),
        ("map too many", "leave --realism-map out"),
    ],
)
def test_what_cannot_be_tried_is_refused_in_one_line(
    model: Path, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, words: str
) -> None:
    output, source, more = tmp_path / "cat.png", inputs / "cat.jpg", []
    shutil.copy(inputs / "grey.png", output)
    if case == "no output":
        output.unlink()
    if case == "no input":
        source = tmp_path / "nowhere.jpg"
    if case in ("no input", "map missing", "map too many"):
        given = ["--realism-map", inputs / "where.png"] if case == "map missing" else []
        assert infer(model, inputs / "cat.jpg", tmp_path, *given) == 0
        more = ["--realism-map", inputs / "where.png"] if case == "map too many" else []
    capsys.readouterr()
    assert reproduce(model, output, source, *more) == 2
    err = capsys.readouterr().err
    assert words in err and len(err.splitlines()) == 1


def test_the_recipe_stands_in_text_and_xmp_with_positions_and_source_type(
    model: Path, inputs: Path, tmp_path: Path
) -> None:
    for form, ending in (("png", "png"), ("jpg", "jpg"), ("tiff", "tiff"), ("webp", "webp"), ("avif", "avif")):
        assert infer(model, inputs / "cat.jpg", tmp_path, "--format", form, "--realism", 0.5, "--seed", 5) == 0
        found = parse(read_recipe(tmp_path / f"cat.{ending}"))
        assert found is not None
        settings, result = found
        assert settings["realism"] == 0.5 and settings["seed"] == 5 and len(settings["model"]) == 64
        assert result["source_type"] == SOURCE_TYPE and result["trace"]["t_r"] > result["trace"]["t_hat"]
        # Both units of the dial: half way between 0.2 and 0.5 of the table.
        assert result["trace"]["realism"] == pytest.approx(0.5) and result["trace"]["raw"] == pytest.approx(0.35)
        packet = read_picture(tmp_path / f"cat.{ending}").metadata.xmp
        assert packet is not None and packet.count(b"DigitalSourceType") == 1
        shown = {name: f'idas_sr:{name}="{value}"' for name, value in (*settings.items(), *result["trace"].items())}
        for name in ("model", "seed", "version", "t_hat", "t_r", "raw"):
            assert shown[name].encode() in packet, name
        assert f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"'.encode() in packet


def test_without_metadata_only_the_recipe_stands(model: Path, inputs: Path, tmp_path: Path) -> None:
    for form in ("png", "jpg"):
        assert infer(model, inputs / "cat.jpg", tmp_path, "--format", form, "--no-metadata") == 0
        bare = read_picture(tmp_path / f"cat.{form}").metadata
        assert bare.xmp is None and 0x010F not in bare.tags
        assert parse(read_recipe(tmp_path / f"cat.{form}")) is not None


def test_an_output_restored_again_says_it_once_and_keeps_what_others_said() -> None:
    source = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" dc:title="a &gt; b" Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/'
        b'digitalsourcetype/digitalCapture"/></rdf:RDF></x:xmpmeta>'
    )
    recipe = json.dumps({"model": "m", "version": "1", "note": '<">', "result": {"source_type": SOURCE_TYPE}})
    once, is_whole = extended(source, recipe)
    twice, _ = extended(once, recipe)
    assert is_whole and once == twice and b"a &gt; b" in once and once.count(b"DigitalSourceType") == 1
    assert b"digitalCapture" not in once and SOURCE_TYPE.encode() in once
    generated = source.replace(b"digitalCapture", b"trainedAlgorithmicMedia")
    kept, _ = extended(generated, recipe)
    assert kept.count(b"DigitalSourceType") == 1 and b"/trainedAlgorithmicMedia" in kept
    assert extended(b"no packet", recipe) == (extended(None, recipe)[0], False)


def test_a_recipe_has_a_hash_where_an_argument_is_a_folder(model: Path) -> None:
    parser = argparse.ArgumentParser()
    add_infer_arguments(parser)
    words = ["--model", str(model), "--conditioner", "hdclip", f"model={model}", "scale=2"]
    _, settings = prepare(parser.parse_args(words), "cpu")
    text = settings.recipe(b"")
    assert str(model) not in text and settings.extra["conditioner"]["args"] == {"model": settings.model, "scale": 2}
    names = ("model", "sd_path", "adapter", "realism_map", "conditioner", "guider")
    given = argparse.Namespace(device="cpu", **dict.fromkeys(names))
    with pytest.raises(ValueError, match="give both with --conditioner"):
        infer_arguments(Recipe(json.loads(text), {}), given)


def test_settings_are_compared_without_what_was_found() -> None:
    assert has_settings('{"a": 1, "result": {"x": 2}}', '{"a": 1}') and has_settings('{"a": 1}', '{"a": 1}')
    assert not has_settings('{"a": 2}', '{"a": 1}') and not has_settings("made so", '{"a": 1}')
    assert not has_settings(None, '{"a": 1}')


def test_a_calibrated_dial_keeps_its_ends_and_can_be_turned_back() -> None:
    dial = Calibration(tuple(TABLE), (100.0, 900.0), (0.1, 0.9))
    assert dial.raw_of(0) == 0 and dial.raw_of(1) == 1 and dial.raw_of(0.5) == pytest.approx(0.35)
    for position in (0.0, 0.1, 0.5, 0.77, 1.0):
        assert dial.position_of(dial.raw_of(position)) == pytest.approx(position)
    grey = torch.tensor([[0.0, 0.25, 0.5, 1.0]])
    assert dial.raw_map(grey)[0].tolist() == pytest.approx([dial.raw_of(v) for v in (0, 0.25, 0.5, 1)])
    assert dial.by_severity(torch.tensor([0.0, 500.0, 999.0])).tolist() == pytest.approx([0.1, 0.5, 0.9])
    with pytest.raises(ValueError, match="rises from 0 to 1"):
        Calibration((0.0, 0.6, 0.5, 1.0))
    with pytest.raises(ValueError, match="no table of severities"):
        Calibration().by_severity(torch.zeros(1))


def test_the_dial_is_the_raw_one_through_the_table_and_only_for_its_own_steering(model: Path) -> None:
    pipe, cat = IDaSSRPipeline.from_pretrained(model), data.chelsea()[60:92, 100:148]

    def made(**options: object) -> tuple[torch.Tensor, dict[str, float]]:
        result = pipe(cat, output_type="pt", return_trace=True, **options)
        return result.images[0], result.trace[0]

    for position, raw in ((0.0, 0.0), (0.5, 0.35), (1.0, 1.0)):
        (ours, told), (theirs, there) = made(realism=position), made(realism=raw, dial="raw")
        assert torch.equal(ours, theirs) and told == there
        assert told["realism"] == pytest.approx(position) and told["raw"] == pytest.approx(raw)
    chosen, told = made(realism="auto")
    # The table AUTO is this line between its ends, and what lies beyond them would hide which severity was read.
    assert 100 < told["t_hat"] < 900 and told["raw"] == pytest.approx(told["t_hat"] / 1000, abs=1e-5)
    both = pipe([cat, cat[::-1].copy(), cat], realism=["auto", 0.5, "auto"], output_type="pt").images
    assert torch.allclose(both[0], chosen, atol=2e-5) and torch.allclose(both[2], chosen, atol=2e-5)
    tiled = pipe(np.tile(cat, (2, 2, 1)), realism="auto", tile=128, return_trace=True).trace[0]
    assert 100 < tiled["t_hat"] < 900 and tiled["raw"] == pytest.approx(tiled["t_hat"] / 1000, abs=1e-5)
    assert tiled["tile"] == 32
    pipe.set_steering(kappa=1.5)
    assert torch.equal(made(realism=0.35)[0], made(realism=0.35, dial="raw")[0])
    with pytest.raises(ValueError, match="no table of severities"):
        pipe(cat, realism="auto")
    with pytest.raises(ValueError, match="dial is"):
        pipe(cat, dial="other")
