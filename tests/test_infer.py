"""``idas-sr infer`` on real files and a tiny saved model: what it writes, skips, refuses and survives."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import infer, tiny_pipeline, write_photos
from PIL import Image
from skimage import data

from idas_sr import cli
from idas_sr.cli import folders
from idas_sr.imagefiles.reading import read_picture
from idas_sr.images import read_text

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    pictures = {"cat.png": data.chelsea()[60:92, 100:148], "coffee.jpg": data.coffee()[:37, :53]}
    folder = write_photos(tmp_path / "photos", pictures | {"face.webp": data.astronaut()[:32, :48]})
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_bytes(b"left by another program")
    return folder


def exit_code(*arguments: object) -> int:
    """Of a command line that the parser may refuse."""
    try:
        return cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names(folder)}


def test_a_folder_of_mixed_formats_becomes_stem_png_and_nothing_else(model: Path, photos: Path, tmp_path: Path) -> None:
    assert infer(model, photos, tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["cat.png", "coffee.png", "face.png"]
    sizes = {name: Image.open(tmp_path / "out" / name).size for name in names(tmp_path / "out")}
    assert sizes == {"cat.png": (192, 128), "coffee.png": (212, 148), "face.png": (192, 128)}


def test_the_file_is_what_the_pipeline_gives(model: Path, photos: Path, tmp_path: Path) -> None:
    assert infer(model, photos / "cat.png", tmp_path / "out", "--realism", 0.7, "--seed", 3) == 0
    (expected,) = tiny_pipeline()(Image.open(photos / "cat.png"), realism=0.7, seed=3).images
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "cat.png")), np.asarray(expected))


@pytest.mark.parametrize(
    ("size", "upscale", "expected"),
    [
        ((1, 1), 4, (4, 4)),
        ((53, 37), 4, (212, 148)),
        ((200, 5), 4, (800, 20)),
        ((53, 37), 2.5, (132, 92)),
        ((53, 37), 1, (53, 37)),
    ],
)
def test_sizes_are_exact(
    model: Path, tmp_path: Path, size: tuple[int, int], upscale: float, expected: tuple[int, int]
) -> None:
    Image.fromarray(np.resize(data.chelsea(), (size[1], size[0], 3))).save(tmp_path / "picture.png")
    assert infer(model, tmp_path / "picture.png", tmp_path / "out", "--upscale", upscale) == 0
    assert Image.open(tmp_path / "out" / "picture.png").size == expected


def test_exif_orientation_is_honoured(model: Path, tmp_path: Path) -> None:
    upright, exif = data.chelsea()[60:92, 100:148], Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(upright).save(tmp_path / "upright.png")
    Image.fromarray(np.ascontiguousarray(np.rot90(upright, 1))).save(tmp_path / "turned.png", exif=exif)
    for name in ("upright", "turned"):
        assert infer(model, tmp_path / f"{name}.png", tmp_path / "out") == 0
    first, second = (np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) for name in ("upright", "turned"))
    assert np.array_equal(first, second)
    assert Image.open(tmp_path / "out" / "turned.png").getexif().get(0x0112) in (None, 1)


def test_two_seeds_give_one_file_at_realism_0_and_two_at_1(model: Path, photos: Path, tmp_path: Path) -> None:
    for realism in (0, 1):
        for seed in (1, 2):
            assert infer(model, photos, tmp_path / f"r{realism}s{seed}", "--realism", realism, "--seed", seed) == 0
    assert hashes(tmp_path / "r0s1") == hashes(tmp_path / "r0s2")
    first, second = hashes(tmp_path / "r1s1"), hashes(tmp_path / "r1s2")
    assert all(first[name] != second[name] for name in first)
    pixels = [np.asarray(Image.open(tmp_path / f"r1s{seed}" / "cat.png")) for seed in (1, 2)]
    assert not np.array_equal(*pixels)


def test_batches_change_nothing(model: Path, photos: Path, tmp_path: Path) -> None:
    infer(model, photos, tmp_path / "one")
    infer(model, photos, tmp_path / "three", "--batch-size", 3)
    for name in names(tmp_path / "one"):
        first, second = (np.asarray(Image.open(tmp_path / folder / name)).astype(int) for folder in ("one", "three"))
        assert abs(first - second).max() <= 1


def test_resume_skips_only_what_is_unchanged(model: Path, photos: Path, tmp_path: Path) -> None:
    out, summary = tmp_path / "out", tmp_path / "summary.json"

    def statuses(*options: object) -> dict[str, str]:
        assert infer(model, photos, out, "--summary", summary, *options) == 0
        return {Path(o["input"]).name: o["status"] for o in json.loads(summary.read_text())["outcomes"]}

    assert set(statuses("--resume").values()) == {"restored"}
    assert set(statuses("--resume").values()) == {"skipped"}
    assert set(statuses().values()) == {"restored"}
    Image.fromarray(data.coffee()[1:38, :53]).save(photos / "coffee.jpg")
    (out / "face.png").write_bytes((out / "face.png").read_bytes()[:100])
    assert statuses("--resume") == {"cat.png": "skipped", "coffee.jpg": "restored", "face.webp": "restored"}
    for change in (
        ["--realism", 0.6],
        ["--seed", 7],
        ["-s", 3],
        ["--color-fix", "wavelet"],
        ["--kappa", 2],
        ["--precision", "bf16"],
    ):
        assert set(statuses("--resume", *change).values()) == {"restored"}, change
    assert set(statuses("--resume", "--realism", 0, "--seed", 1).values()) == {"restored"}
    assert set(statuses("--resume", "--realism", 0, "--seed", 2).values()) == {"skipped"}


def test_resume_notices_another_model(model: Path, photos: Path, tmp_path: Path) -> None:
    tiny_pipeline(seed=1).save_pretrained(tmp_path / "other")
    infer(model, photos, tmp_path / "out", "--resume")
    before = hashes(tmp_path / "out")
    assert infer(tmp_path / "other", photos, tmp_path / "out", "--resume") == 0
    assert not set(before.values()) & set(hashes(tmp_path / "out").values())


def test_the_recipe_names_no_path_of_this_machine(model: Path, photos: Path, tmp_path: Path) -> None:
    infer(model, photos, tmp_path / "out")
    recipe = read_text(tmp_path / "out" / "cat.png", "idas_sr")
    assert recipe is not None and str(tmp_path) not in recipe and str(model) not in recipe
    assert json.loads(recipe)["input"] == hashlib.sha256((photos / "cat.png").read_bytes()).hexdigest()


def test_recursive_keeps_the_tree(model: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "sub").mkdir()
    Image.fromarray(data.chelsea()[:16, :16]).save(photos / "sub" / "cat.png")
    infer(model, photos, tmp_path / "flat")
    assert "sub/cat.png" not in names(tmp_path / "flat")
    assert infer(model, photos, tmp_path / "tree", "--recursive") == 0
    assert names(tmp_path / "tree") == ["cat.png", "coffee.png", "face.png", "sub/cat.png"]


def test_bad_files_get_one_line_each_and_the_others_are_done(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "text.png").write_text("a letter")
    (photos / "empty.png").write_bytes(b"")
    (photos / "truncated.jpg").write_bytes((REPOSITORY / "examples" / "street.png").read_bytes()[:900])
    Image.fromarray(data.chelsea()).save(photos / "whole.jpg")
    (photos / "cut.jpg").write_bytes((photos / "whole.jpg").read_bytes()[:5000])
    (photos / "whole.jpg").unlink()
    summary = tmp_path / "summary.json"
    assert infer(model, photos, tmp_path / "out", "--batch-size", 3, "--summary", summary) == 1
    assert names(tmp_path / "out") == ["cat.png", "coffee.png", "face.png"]
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("failed: ")]
    for bad in ("text.png", "empty.png", "truncated.jpg", "cut.jpg"):
        assert sum(bad in line for line in lines) == 1
    assert len(lines) == 4 and "Traceback" not in printed.err
    assert "3 restored, 4 failed" in printed.out
    outcomes = json.loads(summary.read_text())["outcomes"]
    assert sorted(o["status"] for o in outcomes) == ["failed"] * 4 + ["restored"] * 3
    assert all(o["trace"]["t_r"] >= o["trace"]["t_hat"] for o in outcomes if o["status"] == "restored")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--realism", "2"], "between 0"),
        (["--realism", "nan"], "number"),
        (["--realism", "much"], "number"),
        (["--upscale", "0"], "above 0"),
        (["--batch-size", "0"], "whole number"),
        (["--color-fix", "magic"], "magic"),
        (["--model", "nothing"], "no model called 'nothing'"),
        (["--method", "nothing"], "no method called 'nothing'"),
        (["--steering", "n9"], "n9"),
        (["--kappa", "0.5"], "kappa"),
        (["--precision", "fp16"], "fp16 is for GPUs"),
        (["--real", "0.5"], "unrecognized"),
        (["--summary", "no/such/folder.json"], "does not exist"),
        (["--model", "sd-turbo"], "huggingface.co/stabilityai/sd-turbo"),
    ],
)
def test_bad_arguments_are_refused_in_one_line_before_any_work(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    given = [] if "--model" in options else ["--model", model]
    assert exit_code("infer", "-i", photos, "-o", tmp_path / "out", "--device", "cpu", *given, *options) == 2
    err = capsys.readouterr().err
    assert words in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_bad_inputs_and_outputs_are_refused_in_one_line(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "none").mkdir()
    twins = tmp_path / "twins"
    twins.mkdir()
    for name in ("a.png", "a.jpg"):
        Image.fromarray(data.chelsea()[:8, :8]).save(twins / name)
    before = hashes(tmp_path)
    cases = {
        "does not exist": (tmp_path / "missing", tmp_path / "out"),
        "no picture": (tmp_path / "none", tmp_path / "out"),
        "would both become": (twins, tmp_path / "out"),
        "is the input folder": (photos, tmp_path / "none" / ".." / "photos"),
        "is the input folder; choose": (photos / "cat.png", photos),
        "cannot be written to": (photos, tmp_path / "file" / "out"),
        "written to (File exists)": (photos, tmp_path / "file"),
    }
    for words, (source, output) in cases.items():
        assert infer(model, source, output) == 2
        err = capsys.readouterr().err
        assert words in err and len(err.splitlines()) == 1, err
    if Path("/proc").is_dir():
        # Exists, and nobody can write to it, not even root.
        assert infer(model, photos, Path("/proc")) == 2
        assert "/proc cannot be written to" in capsys.readouterr().err
    assert infer(model, photos, photos / "out", "--recursive") == 2
    assert hashes(tmp_path) == before


def test_names_of_other_projects_work(model: Path, photos: Path, tmp_path: Path) -> None:
    arguments = [
        "infer",
        "--in_path",
        photos / "cat.png",
        "--output_dir",
        tmp_path / "out",
        "--scale",
        2,
        "--align_method",
        "nofix",
    ]
    assert exit_code(*arguments, "--mixed_precision", "fp32", "--model", model) == 0
    assert Image.open(tmp_path / "out" / "cat.png").size == (96, 64)


def test_random_weights_are_stamped(photos: Path, tmp_path: Path) -> None:
    pictures = []
    for folder in ("one", "two"):
        options = ["-i", photos / "cat.png", "-o", tmp_path / folder, "--realism", 0, "--random-weights"]
        assert exit_code("infer", *options) == 0
        pictures.append(read_picture(tmp_path / folder / "cat.png").colour[None])
    assert (pictures[0] == pictures[1]).all()
    # White letters with a black rim, which random networks do not paint by themselves.
    middle = pictures[0][0, :, 48:80]
    assert (middle == 1).all(0).float().mean() > 0.05 and (middle == 0).all(0).float().mean() > 0.02


def test_an_interrupted_run_ends_in_one_line_and_resumes(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = folders.restore_files

    def stop_after_one(*args, **options):  # type: ignore[no-untyped-def]
        yield next(read(*args, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, "restore_files", stop_after_one)
    assert infer(model, photos, tmp_path / "out") == cli.INTERRUPTED
    assert "interrupted" in capsys.readouterr().err and names(tmp_path / "out") == ["cat.png"]
    monkeypatch.undo()
    assert infer(model, photos, tmp_path / "out", "--resume") == 0
    assert "2 restored, 1 skipped" in capsys.readouterr().out


def test_the_script_is_the_command(model: Path, photos: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        REPOSITORY / "scripts" / "infer.py",
        "-i",
        photos,
        "-o",
        tmp_path / "out",
        "--model",
        model,
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"3 restored; results in {tmp_path / 'out'}\n" and done.stderr == ""


def test_help_shows_groups_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("infer", "--help") == 0
    text = capsys.readouterr().out
    for words in ("files:", "result:", "model:", "machine:", "examples:", "--realism 0 "):
        assert words in text
    assert "--in_path" not in text


@pytest.mark.slow
def test_full_size_backbone_with_random_weights(tmp_path: Path) -> None:
    """866 M + 84 M parameters, 128 -> 512, bf16 on the CPU, in under 8 GB."""
    code = (
        "import resource, sys; from idas_sr.cli import main; code = main(sys.argv[1:]);"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )
    options = ["-i", REPOSITORY / "examples" / "small.png", "-o", tmp_path, "--model", "sd-turbo", "--random-weights"]
    command = [sys.executable, "-c", code, "infer", *options, "--device", "cpu"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "small.png").size == (512, 512)
    assert int(done.stdout.split("peak")[1]) < 8 * 2**20
