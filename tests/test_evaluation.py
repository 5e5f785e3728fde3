"""Scoring of folders: equal to the independent yardstick, and clear about what it cannot score."""

import csv
import hashlib
import io
import json
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from skimage import data

import idas_sr
from idas_sr.data.benchmarks import folder_digest
from idas_sr.evaluation.columns import Chosen, MissingMetricError, choose_columns
from idas_sr.evaluation.expect import compare
from idas_sr.evaluation.score import PROTOCOL, PictureScore, collect, pair_by_stem, score_folder

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
REALSR = SHARED / "data" / "realsr"
SQUEEZENET = SHARED / "data" / "weights" / "squeezenet_v10.pth"
YARDSTICK = SHARED / "tools" / "score.py"

needs_realsr = pytest.mark.skipif(
    not (REALSR.is_dir() and SQUEEZENET.is_file() and YARDSTICK.is_file()),
    reason="the RealSR crops, the SqueezeNet weights or the yardstick are not in ../shared",
)


GOLDEN_OSEDIFF = {"psnr_y": 25.794, "niqe": 5.677}


def script(name: str | Path, *arguments: object) -> subprocess.CompletedProcess:
    """A script, in this process: starting Python and PyTorch anew takes longer than the work."""
    words = [str(name), *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", words)
        code = runpy.run_path(str(ROOT / name), run_name="loaded")["main"]()
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def evaluate(*arguments: object) -> subprocess.CompletedProcess:
    return script("scripts/evaluate.py", "score", *arguments)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two restored pictures and their references, 192 x 192."""
    restored, reference = tmp_path / "restored", tmp_path / "reference"
    restored.mkdir()
    reference.mkdir()
    for name in ("coffee", "chelsea"):
        picture = Image.fromarray(getattr(data, name)()[:192, :192])
        picture.save(reference / f"{name}.png")
        picture.resize((48, 48), Image.Resampling.BICUBIC).resize((192, 192)).save(restored / f"{name}.png")
    return restored, reference


def copied(source: Path, target: Path, stems: list[str]) -> Path:
    target.mkdir()
    for stem in stems:
        (target / f"{stem}.png").write_bytes((source / f"{stem}.png").read_bytes())
    return target


@needs_realsr
def test_equals_the_yardstick_on_three_pictures(tmp_path: Path) -> None:
    # The second one has flat areas, where NIQE hangs on the order of summation.
    stems = ["Canon_001_LR4", "Nikon_020_LR4", "Canon_026_LR4"]
    restored = copied(REALSR / "osediff_outputs", tmp_path / "a", stems)
    reference = copied(REALSR / "hq", tmp_path / "b", stems)
    done = script(YARDSTICK, restored, "--reference", reference, "--json", tmp_path / "theirs.json", "--jobs", 1)
    assert done.returncode == 0, done.stderr
    theirs = json.loads((tmp_path / "theirs.json").read_text())["images"]
    ours = score_folder(restored, reference, SQUEEZENET).images
    for stem in stems:
        shared = {name: ours[stem][name] for name in theirs[stem]}
        assert shared == pytest.approx(theirs[stem], abs=1e-3)
        assert ours[stem]["ssim_y"] == pytest.approx(theirs[stem]["ssim_y"], abs=1e-5)
        assert ours[stem]["psnr_y"] == pytest.approx(theirs[stem]["psnr_y"], abs=1e-9)


@needs_realsr
@pytest.mark.long
@pytest.mark.slow
def test_published_row_of_osediff(tmp_path: Path) -> None:
    """The anchor: OSEDiff's own pictures, its own figures (Wu et al. 2024: 25.1511, 0.7341, 5.6476)."""
    target = tmp_path / "out" / "scores.json"
    expected = tmp_path / "expected.json"
    published = {"psnr_y": 25.1511, "ssim_y": 0.7341, "niqe": 5.648}
    expected.write_text(json.dumps({"protocol": "realisr-v1", "mean": published}))
    command = (REALSR / "osediff_outputs", "--reference", REALSR / "hq", "--json", target, "--expect", expected)
    done = evaluate(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    mean = json.loads(target.read_text())["mean"]
    assert mean["psnr_y"] == pytest.approx(25.1511, abs=5e-4)
    assert mean["ssim_y"] == pytest.approx(0.7341, abs=5e-4)
    assert mean["niqe"] == pytest.approx(5.648, abs=2e-3)


@needs_realsr
def test_one_published_picture_of_osediff_has_not_moved(tmp_path: Path) -> None:
    # A part of the anchor for every day: measured when the whole of it agreed with the paper.
    stems = ["Canon_001_LR4"]
    restored = copied(REALSR / "osediff_outputs", tmp_path / "a", stems)
    reference = copied(REALSR / "hq", tmp_path / "b", stems)
    values = score_folder(restored, reference).images["Canon_001_LR4"]
    assert {k: round(values[k], 3) for k in ("psnr_y", "niqe")} == GOLDEN_OSEDIFF


def test_script_prints_and_writes_the_same_means(folders: tuple[Path, Path], tmp_path: Path) -> None:
    restored, reference = folders
    target = tmp_path / "new" / "scores.json"
    done = evaluate(restored, "--reference", reference, "--json", target, "--jobs", 2)
    assert done.returncode == 0, done.stderr
    written = json.loads(target.read_text())
    assert written["protocol"] == "realisr-v1"
    assert list(written["images"]) == ["chelsea", "coffee"]
    for name, value in written["mean"].items():
        assert value == pytest.approx(np.mean([row[name] for row in written["images"].values()]))
    assert f"{written['mean']['psnr_y']:.4f}" in done.stdout
    assert "sqdist is left out" in done.stdout
    assert "sqdist" not in written["mean"]
    assert written["images"] == score_folder(restored, reference, jobs=1).images


def test_json_says_how_it_was_made(folders: tuple[Path, Path], tmp_path: Path) -> None:
    restored, reference = folders
    small = tmp_path / "lq"
    small.mkdir()
    for path in restored.iterdir():
        Image.open(path).resize((48, 48)).save(small / path.name)
    command = (
        restored,
        "--reference",
        reference,
        "--lq",
        small,
        "--json",
        tmp_path / "s.json",
        "--csv",
        tmp_path / "s.csv",
    )
    done = evaluate(*command)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "s.json").read_text())
    assert list(written["mean"]) == ["psnr_y", "ssim_y", "psnr_y_border4", "ssim_y_border4", "lr_psnr", "niqe"]
    niqe_file = Path(idas_sr.__file__).parent / "evaluation" / "niqe_pris_params.npz"
    assert written["weights"] == {niqe_file.name: hashlib.sha256(niqe_file.read_bytes()).hexdigest()}
    assert written["data"]["reference"] == folder_digest(reference)
    assert written["data"]["lq"] == folder_digest(small) != written["data"]["restored"]
    assert written["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert written["settings"]["reference"] == str(reference)
    assert "scripts/evaluate.py" in written["command"][0]
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert [row["stem"] for row in rows] == ["chelsea", "coffee", "mean"]
    assert float(rows[2]["lr_psnr"]) == pytest.approx(written["mean"]["lr_psnr"])
    left = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert sorted(left) == ["s.csv", "s.json"]


def test_expected_values_are_a_gate(folders: tuple[Path, Path], tmp_path: Path) -> None:
    restored, reference = folders
    own = tmp_path / "own.json"
    assert evaluate(restored, "--reference", reference, "--json", own).returncode == 0
    done = evaluate(restored, "--reference", reference, "--expect", own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 of 5 expected values are reproduced" in done.stdout
    values = json.loads(own.read_text())
    values["mean"]["psnr_y"] += 0.001
    own.write_text(json.dumps(values))
    done = evaluate(restored, "--reference", reference, "--expect", own)
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if "OUTSIDE" in line)
    assert line.split()[0] == "psnr_y" and "-0.00100" in line and "0.0005" in line
    own.write_text(json.dumps({"protocol": "other", "mean": values["mean"]}))
    done = evaluate(restored, "--reference", reference, "--expect", own)
    assert done.returncode == 2 and "not comparable" in done.stderr


def test_expected_values_that_we_lack_are_outside() -> None:
    ours = {"protocol": PROTOCOL, "mean": {"psnr_y": 20.0, "ssim_y": None}}
    theirs = {"mean": {"psnr_y": 20.0004, "ssim_y": None, "lpips": 0.3}}
    assert [(d.metric, d.is_within) for d in compare(ours, theirs)] == [
        ("psnr_y", True),
        ("ssim_y", True),
        ("lpips", False),
    ]
    loose = compare(ours, theirs | {"mean": {"psnr_y": 20.05}, "tolerance": {"psnr_y": 0.1}})
    assert [d.is_within for d in loose] == [True]


def test_a_column_that_is_not_there_is_one_sentence(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    restored, reference = folders
    done = evaluate(restored, "--reference", reference, "--columns", "psnr_y", "lpips")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and done.stderr.strip().splitlines()[-1].startswith(
        "idas-sr evaluate: error: lpips cannot be"
    )
    assert "alexnet-owt-7be5be79.pth" in done.stderr and str(tmp_path / "torch" / "hub" / "checkpoints") in done.stderr
    # Not asked for, it is left out, and said so.
    chosen = choose_columns(has_reference=True, has_input=False)
    assert "lpips" not in chosen.measures
    assert sum("alexnet-owt" in note for note in chosen.notes) == 1
    with pytest.raises(ValueError, match="no column 'lpsi'"):
        choose_columns(True, True, names=["lpsi"])
    with pytest.raises(MissingMetricError, match="no reference was given"):
        choose_columns(False, True, names=["psnr_y"])


def test_lpips_is_that_of_its_own_package(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The backbone's file is missing here: random weights in its place lead through the same lines.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    file.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.alexnet().state_dict(), file)
    scores = score_folder(*folders, columns=["lpips", "psnr_y"])
    assert scores.weights == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    network = lpips.LPIPS(net="alex", verbose=False)
    for stem, row in scores.images.items():
        a, b = (torch.tensor(np.asarray(Image.open(folder / f"{stem}.png"))).movedim(-1, 0)[None] for folder in folders)
        assert row["lpips"] == pytest.approx(network(a / 127.5 - 1, b / 127.5 - 1).item(), abs=1e-5)
        assert row["lpips"] > 0.001


def test_fid_of_few_pictures_is_flagged() -> None:
    scores = collect({"a": PictureScore({"niqe": 5.0}, {})}, Chosen({}, True, [], {}), {"fid": 12.0})
    assert scores.mean == {"niqe": 5.0, "fid": 12.0}
    assert any("1 pictures are fewer than 1000" in note for note in scores.notes)


def test_without_reference_only_niqe(folders: tuple[Path, Path]) -> None:
    scores = score_folder(folders[0])
    assert list(scores.mean) == ["niqe"]


def test_jpegs_are_paired_with_pngs(folders: tuple[Path, Path]) -> None:
    restored, reference = folders
    for path in sorted(restored.glob("*.png")):
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    pairs = pair_by_stem(restored, reference)
    assert [(pair.restored.name, pair.reference.name) for pair in pairs.values() if pair.reference] == [
        ("chelsea.jpg", "chelsea.png"),
        ("coffee.jpg", "coffee.png"),
    ]


@pytest.mark.parametrize("side", [0, 1])
def test_unpaired_file_is_named(folders: tuple[Path, Path], side: int) -> None:
    (folders[side] / "coffee.png").unlink()
    done = evaluate(folders[0], "--reference", folders[1])
    assert done.returncode == 2
    assert str(folders[1 - side] / "coffee.png") in done.stderr
    assert "Traceback" not in done.stderr


def test_other_size_is_named(folders: tuple[Path, Path]) -> None:
    Image.open(folders[0] / "coffee.png").resize((190, 192)).save(folders[0] / "coffee.png")
    with pytest.raises(ValueError, match=r"coffee\.png is 190x192.*192x192"):
        score_folder(*folders)


def test_one_pixel_has_psnr_and_no_more(tmp_path: Path) -> None:
    for folder, value in (("a", 100), ("b", 110)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (1, 1), (value,) * 3).save(tmp_path / folder / "dot.png")
    done = evaluate(tmp_path / "a", "--reference", tmp_path / "b", "--json", tmp_path / "s.json")
    assert done.returncode == 0, done.stderr
    mean = json.loads((tmp_path / "s.json").read_text())["mean"]
    assert mean["psnr_y"] == pytest.approx(20 * np.log10(255 / (219 / 255 * 10)))
    assert mean["ssim_y"] is None and mean["niqe"] is None
    assert "too small" in done.stdout


def test_refusals_are_sentences(folders: tuple[Path, Path], tmp_path: Path) -> None:
    restored, reference = folders
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="no picture in"):
        score_folder(empty, reference)
    with pytest.raises(ValueError, match="is not a folder"):
        score_folder(tmp_path / "absent", reference)
    with pytest.raises(ValueError, match=r"weights\.pth is no file"):
        score_folder(restored, reference, tmp_path / "weights.pth")
    (restored / "coffee.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="same stem"):
        score_folder(restored, reference)
    (restored / "coffee.png").unlink()
    with pytest.raises(ValueError, match="the file is empty"):
        score_folder(restored, reference)


def test_trivial_baselines_writes_three_folders(tmp_path: Path) -> None:
    source, target = tmp_path / "lq", tmp_path / "out"
    source.mkdir()
    Image.fromarray(data.coffee()[:60, :50]).save(source / "cup.jpg")
    done = script("scripts/trivial_baselines.py", "-i", source, "-o", target)
    assert done.returncode == 0, done.stderr
    pictures = {name: Image.open(target / name / "cup.png") for name in ("bicubic", "unsharp", "grain")}
    assert {picture.size for picture in pictures.values()} == {(200, 240)}
    bicubic, unsharp, grain = (np.asarray(picture, dtype=float) for picture in pictures.values())
    assert unsharp.std() > bicubic.std()
    added = (grain - unsharp).mean(2)
    assert 2 < added.std() < 8
    # As film's grain: neighbours are alike.
    assert np.corrcoef(added[:, 1:].ravel(), added[:, :-1].ravel())[0, 1] > 0.3


def test_trivial_baselines_without_pictures(tmp_path: Path) -> None:
    done = script("scripts/trivial_baselines.py", "-i", tmp_path, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "no picture in" in done.stderr
    assert not (tmp_path / "out").exists()
