"""Scoring of folders: equal to the independent yardstick, and clear about what it cannot score."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from idas_sr.evaluation.score import pair_by_stem, score_folder

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
REALSR = SHARED / "data" / "realsr"
SQUEEZENET = SHARED / "data" / "weights" / "squeezenet_v10.pth"
YARDSTICK = SHARED / "tools" / "score.py"

needs_realsr = pytest.mark.skipif(
    not (REALSR.is_dir() and SQUEEZENET.is_file() and YARDSTICK.is_file()),
    reason="the RealSR crops, the SqueezeNet weights or the yardstick are not in ../shared",
)


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)


def evaluate(*arguments: object) -> subprocess.CompletedProcess:
    return run("scripts/evaluate.py", "score", *arguments)


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
    done = run(YARDSTICK, restored, "--reference", reference, "--json", tmp_path / "theirs.json", "--jobs", 1)
    assert done.returncode == 0, done.stderr
    theirs = json.loads((tmp_path / "theirs.json").read_text())["images"]
    ours = score_folder(restored, reference, SQUEEZENET).images
    for stem in stems:
        assert ours[stem] == pytest.approx(theirs[stem], abs=1e-3)
        assert ours[stem]["ssim_y"] == pytest.approx(theirs[stem]["ssim_y"], abs=1e-5)
        assert ours[stem]["psnr_y"] == pytest.approx(theirs[stem]["psnr_y"], abs=1e-9)


@needs_realsr
@pytest.mark.slow
def test_published_row_of_osediff(tmp_path: Path) -> None:
    target = tmp_path / "out" / "scores.json"
    done = evaluate(REALSR / "osediff_outputs", "--reference", REALSR / "hq", "--json", target)
    assert done.returncode == 0, done.stderr
    mean = json.loads(target.read_text())["mean"]
    # Published for OSEDiff (Wu et al. 2024) on RealSR: 25.15, 0.7341, 5.648.
    assert mean["psnr_y"] == pytest.approx(25.1511, abs=5e-4)
    assert mean["ssim_y"] == pytest.approx(0.7341, abs=5e-4)
    assert mean["niqe"] == pytest.approx(5.648, abs=2e-3)


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
    done = run("scripts/trivial_baselines.py", "-i", source, "-o", target)
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
    done = run("scripts/trivial_baselines.py", "-i", tmp_path, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "no picture in" in done.stderr
    assert not (tmp_path / "out").exists()
