"""The web app behind its page: what it writes, refuses, forgets and says."""

import argparse
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from idas_sr import cli
from idas_sr.batch import Job, Outcome
from idas_sr.cli import demo
from idas_sr.demo import words
from idas_sr.demo.studio import STRIP, Dial, Studio, realism_map

# A whole folder of the server stands before each upload's name.
SECRET = "uploads-of-everybody"


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    path = tmp_path / SECRET / "cat.png"
    path.parent.mkdir()
    Image.fromarray(data.chelsea()[60:97, 100:153]).save(path)
    return path


@pytest.fixture
def studio(model: Path, tmp_path: Path) -> Studio:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    pipeline, settings = demo.load(parser.parse_args(["--model", str(model), "--device", "cpu"]))
    (tmp_path / "shown").mkdir()
    return Studio(pipeline, settings, tmp_path / "shown", max_pixels=10_000)


def test_the_download_is_the_file_that_infer_writes(studio: Studio, model: Path, upload: Path, tmp_path: Path) -> None:
    studio.restore(upload, Dial(0.2, 1))
    shown = studio.restore(upload, Dial(0.7, 3, 2.5))
    assert not shown.is_first and Image.open(shown.before).size == Image.open(shown.after).size == (132, 92)
    words_ = ["-i", upload, "-o", tmp_path / "out", "--model", model, "--realism", 0.7, "--seed", 3, "-s", 2.5]
    assert cli.main(["infer", *map(str, words_), "--device", "cpu"]) == 0
    assert shown.after.name == "cat.png" and shown.after.read_bytes() == (tmp_path / "out" / "cat.png").read_bytes()


def test_a_painted_region_has_its_own_realism(studio: Studio, upload: Path) -> None:
    mask = np.zeros((74, 106), bool)
    mask[:, :53] = True
    where = realism_map(Dial(1.0, painted=0.25, mask=mask), 37, 53)
    assert where[:, :26].unique().tolist() == [0.25] and where[:, 27:].unique().tolist() == [1.0]
    plain = np.asarray(Image.open(studio.restore(upload, Dial(1.0)).after), float)
    painted = np.asarray(Image.open(studio.restore(upload, Dial(1.0, painted=0.0, mask=mask)).after), float)
    change = np.abs(plain - painted).mean(axis=(0, 2))
    # The decoder sees a little beyond the edge.
    assert change[:80].mean() > 5 * change[-40:].mean()
    unpainted = studio.restore(upload, Dial(1.0, mask=np.zeros((4, 4), bool)))
    assert np.array_equal(np.asarray(Image.open(unpainted.after), float), plain)


def test_the_overlay_shows_what_is_invented(studio: Studio, upload: Path) -> None:
    plain = studio.restore(upload, Dial(0.8, 3, 2.5))
    assert plain.overlay is None and plain.invented is None and "invented" not in words.describe(plain, 0.8)
    change, spread = (studio.restore(upload, Dial(0.8, 3, 2.5, overlay=name)) for name in ("change", "spread"))
    files = [np.asarray(Image.open(shown.overlay)).astype(int) for shown in (change, spread) if shown.overlay]
    assert len(files) == 2 and files[0].shape == files[1].shape == (92, 132, 3) and (files[0] != files[1]).any()
    assert change.after.read_bytes() == plain.after.read_bytes()
    assert change.invented == spread.invented and change.invented
    assert f"<b>{100 * change.invented:.1f} %</b> of the energy" in words.describe(change, 0.8)
    none = studio.restore(upload, Dial(0.0, 3, 2.5, overlay="change"))
    # Grey all over: its own colours would be taken for heat.
    assert none.invented == 0 and none.overlay and np.ptp(np.asarray(Image.open(none.overlay)), axis=2).max() == 0
    with pytest.raises(ValueError, match="larger than its input"):
        studio.restore(upload, Dial(0.8, upscale=1.0, overlay="change"))


def test_the_strip_goes_along_the_dial(studio: Studio, upload: Path) -> None:
    strip = list(studio.strip(upload, Dial()))
    assert [realism for realism, _ in strip] == list(STRIP)
    expected = Image.open(studio.restore(upload, Dial(1.0)).after)
    assert np.array_equal(np.asarray(strip[-1][1]), np.asarray(expected))


def test_what_is_too_large_or_gone_is_refused_in_a_sentence(studio: Studio, upload: Path) -> None:
    Image.fromarray(data.astronaut()).save(upload.with_name("large.png"))
    with pytest.raises(ValueError, match=r"512x512 pixels and this page takes 0\.01 million") as caught:
        studio.restore(upload.with_name("large.png"), Dial())
    assert SECRET not in str(caught.value)
    with pytest.raises(ValueError, match="upload it again") as caught:
        studio.restore(upload.with_name("gone.png"), Dial())
    assert SECRET not in str(caught.value)


def test_a_batch_survives_its_bad_files_and_keeps_equal_names_apart(studio: Studio, upload: Path) -> None:
    again = upload.parent / "more" / "cat.jpg"
    again.parent.mkdir()
    Image.fromarray(data.coffee()[:20, :30]).save(again)
    bad = upload.with_name("torn.png")
    bad.write_bytes(upload.read_bytes()[:200])
    outcomes = list(studio.batch([upload, bad, again], Dial(0.0)))
    assert [outcome.status for outcome in outcomes] == ["restored", "failed", "restored"]
    with zipfile.ZipFile(studio.zip_of(outcomes)) as archive:
        assert archive.namelist() == ["cat.png", "cat (2).png"]
        with archive.open("cat (2).png") as file:
            assert Image.open(file).size == (120, 80)
    page = words.report(outcomes, 3)
    assert "3 of 3" in page and "torn.png cannot be read" in page
    assert SECRET not in page and str(studio.folder) not in page


def test_old_files_are_deleted(studio: Studio, upload: Path) -> None:
    first = studio.restore(upload, Dial(0.0))
    studio.keep_seconds = -1
    second = studio.restore(upload, Dial(0.3))
    assert not first.after.exists() and second.after.is_file() and second.before.is_file()


def test_few_pictures_are_kept_in_memory(studio: Studio, upload: Path) -> None:
    for column in range(5):
        path = upload.with_name(f"{column}.png")
        Image.fromarray(data.chelsea()[60:92, 32 * column : 32 * column + 32]).save(path)
        assert studio.restore(path, Dial(0.0)).is_first
    assert not studio.restore(upload.with_name("4.png"), Dial(1.0)).is_first
    assert studio.restore(upload.with_name("0.png"), Dial(1.0)).is_first


def test_the_panel_says_where_the_picture_lies(studio: Studio, upload: Path) -> None:
    shown = studio.restore(upload, Dial(1.0))
    text = words.describe(shown, 1.0)
    assert f"timestep <b>{shown.trace['t_hat']:.0f}</b>" in text and "53x37 pixels, encoded, anchored" in text
    assert text.count("<svg") == 2 and shown.positions[-1] == pytest.approx(shown.trace["t_r"])
    assert [words.severity(t) for t in (0, 100, 200, 900)] == [
        "close to clean",
        "some way from clean",
        "far from clean",
        "very far from clean",
    ]


def test_names_cannot_become_markup() -> None:
    job = Job(Path("/srv/<b>x.png"), Path("/srv/out.png"))
    assert "&lt;b&gt;x.png" in words.report([Outcome(job, "failed", "/srv/<b>x.png is torn")], 1)
    assert "/srv" not in words.report([Outcome(job, "failed", "/srv/<b>x.png is torn")], 1)
