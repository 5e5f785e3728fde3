"""Benchmarks: sets that are checked and made again, and a run from configuration to table."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accelerate import PartialState
from conftest import tiny_pipeline
from PIL import Image
from skimage import data

from idas_sr.batch import Settings
from idas_sr.config import ConfigError
from idas_sr.data.benchmarks import (
    arrange_realsr_v3,
    centre_crop,
    choose_photographs,
    folder_digest,
    pixels_digest,
    set_digest,
    synthesise_all,
)
from idas_sr.data.degradation import DEGRADATIONS, DegradationConfig, draw_recipe
from idas_sr.evaluation.benchmark import BenchmarkConfig, check_set, judge, load_benchmark
from idas_sr.evaluation.prepare import build_set, inspect_set
from idas_sr.evaluation.published import published_rows
from idas_sr.evaluation.results import read_result
from idas_sr.evaluation.run import report_json, report_table, run_benchmark, write_report
from idas_sr.evaluation.trivial import restore_trivially
from idas_sr.imagefiles.reading import read_rgb
from idas_sr.pipeline import IDaSSRPipeline

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "benchmark"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def script(name: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, f"scripts/{name}.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty crops of four CC0 and public-domain photographs, as JPEG and PNG, names as ImageNet's."""
    folder = tmp_path_factory.mktemp("photographs")
    corners = [(y, x) for y in (0, 60, 120) for x in (0, 90)][:5]
    for index, name in enumerate(("astronaut", "chelsea", "coffee", "rocket")):
        for number, (y, x) in enumerate(corners):
            crop = Image.fromarray(getattr(data, name)()[y : y + 150 + 10 * number, x : x + 200])
            stem = f"ILSVRC2012_val_{5 * index + number:08d}"
            if number % 2:
                crop.save(folder / f"{stem}.JPEG", quality=92)
            else:
                crop.save(folder / f"{stem}.png")
    return folder


def make_set(root: Path, count: int = 3, size: int = 24, low: str = "lq", high: str = "hq") -> Path:
    for index in range(count):
        hq = Image.fromarray(data.coffee()[:300, 40 * index : 40 * index + 300]).resize((4 * size, 4 * size))
        for name, picture in ((high, hq), (low, hq.resize((size, size), Image.Resampling.BICUBIC))):
            (root / name).mkdir(parents=True, exist_ok=True)
            picture.save(root / name / f"p{index}.png")
    return root


def config_for(root: Path, **changes: object) -> BenchmarkConfig:
    config = load_benchmark(CONFIGS / "drealsr.yaml", [f"data.root={root}"])
    sizes = {"count": 3, "lq_size": [], "hq_size": []}
    # Networks this small gain nothing from a second thread, and other tests may be using the cores.
    return replace(config, data=replace(config.data, **sizes), **{"threads": 1, **changes})


# ---- configurations ----


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_loads_and_says_where_it_comes_from(name: str) -> None:
    config = load_benchmark(CONFIGS / f"{name}.yaml", needs_root=False)
    assert config.name == name
    assert config.data.count > 0 and len(config.data.source) > 20
    if config.published is not None:
        assert published_rows(config.published)
    if config.data.lq_size and config.data.hq_size:
        assert [round(side * config.scale) for side in config.data.lq_size] == config.data.hq_size


def test_all_benchmarks_are_there() -> None:
    wanted = {"realsr", "drealsr", "div2k-val", "realsr-v3", "imagenet-test", "imagenet-test-rebuilt"}
    assert wanted | {"realset80", "realphoto60", "reallr200"} == set(NAMES)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "data.root"),
        (["data.root=x", "realism=2"], "between 0 and 1"),
        (["data.root=x", "realism=[0,0]"], "different numbers"),
        (["data.root=x", "realism=much"], "must be a number"),
        (["data.root=x", "colour=1"], "colour"),
        (["data.root"], "no key=value"),
        (["data.root=x", "data.count=many"], "count"),
    ],
)
def test_a_bad_value_is_named(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_benchmark(CONFIGS / "realsr.yaml", overrides)


# ---- checking ----


def test_folders_go_by_several_names(tmp_path: Path) -> None:
    checked = check_set(config_for(make_set(tmp_path, low="test_LR", high="test_HR")))
    assert list(checked.lq) == list(checked.hq) == ["p0", "p1", "p2"]


def test_what_is_wrong_with_a_set_is_named(tmp_path: Path) -> None:
    config = config_for(make_set(tmp_path))
    check_set(config)
    with pytest.raises(ValueError, match=r"holds 3 pictures, .* has 93.*limit=N"):
        check_set(replace(config, data=replace(config.data, count=93)))
    with pytest.raises(ValueError, match=r"p0.png is 24x24, .* has 128x128"):
        check_set(replace(config, data=replace(config.data, lq_size=[128, 128])))
    with pytest.raises(ValueError, match="StableSR-TestSets"):
        check_set(config_for(tmp_path / "elsewhere"))
    Image.open(tmp_path / "hq" / "p1.png").resize((90, 96)).save(tmp_path / "hq" / "p1.png")
    with pytest.raises(ValueError, match=r"p1.png is 90x96, not 4 times"):
        check_set(config)
    (tmp_path / "hq" / "p1.png").unlink()
    with pytest.raises(ValueError, match=r"p1.png has no partner"):
        check_set(config)


def test_hashes_decide_what_may_stand_beside_published_rows(tmp_path: Path) -> None:
    config = config_for(make_set(tmp_path))
    hashes, verdict = inspect_set(config)
    assert hashes == {"lq": folder_digest(tmp_path / "lq"), "hq": folder_digest(tmp_path / "hq")}
    assert verdict.may_compare and "not verified" in verdict.reason
    known = replace(config, data=replace(config.data, hashes=hashes))
    assert judge(known, hashes).may_compare and "by hash" in judge(known, hashes).reason
    other = judge(known, hashes | {"lq": "0"})
    assert not other.may_compare and other.is_different and "The lq pictures" in other.reason
    assert not judge(replace(known, limit=2), hashes).may_compare
    assert not judge(replace(known, published=None), hashes).may_compare
    strict = replace(config, data=replace(config.data, needs_hash=True))
    assert not judge(strict, hashes).may_compare and "data.hash_file" in judge(strict, hashes).reason
    file = tmp_path / "hashes.json"
    file.write_text(json.dumps(hashes))
    accepted = replace(strict, data=replace(strict.data, hash_file=str(file)))
    assert judge(accepted, hashes).may_compare
    file.write_text("no json")
    with pytest.raises(ValueError, match="write-hashes"):
        judge(accepted, hashes)


def test_the_digest_is_of_pixels_not_of_files(tmp_path: Path) -> None:
    make_set(tmp_path, count=2)
    before = folder_digest(tmp_path / "lq")
    picture = Image.open(tmp_path / "lq" / "p0.png")
    picture.save(tmp_path / "lq" / "p0.png", compress_level=0)
    assert folder_digest(tmp_path / "lq") == before
    picture.putpixel((0, 0), (1, 2, 3))
    picture.save(tmp_path / "lq" / "p0.png")
    assert folder_digest(tmp_path / "lq") != before
    flat = np.zeros((2, 8, 3), np.uint8)
    assert pixels_digest(flat) != pixels_digest(flat.reshape(8, 2, 3))


def test_the_script_checks_and_says_where_to_get_a_set(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    spec = importlib.util.spec_from_file_location("prepare_data", ROOT / "scripts" / "prepare_data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(["benchmark", "realset80"]) == 0
    said = capsys.readouterr().out
    assert "80 pictures" in said and "InvSR" in said
    assert module.main(["benchmark", "drealsr", "--root", str(tmp_path)]) == 2
    assert "has no folder lq or test_LR" in capsys.readouterr().err
    make_set(tmp_path, size=128)
    hashes = tmp_path / "hashes.json"
    count = ["--count", "3"]
    assert module.main(["benchmark", "drealsr", "--root", str(tmp_path), *count, "--write-hashes", str(hashes)]) == 0
    assert folder_digest(tmp_path / "lq") in capsys.readouterr().out
    assert module.main(["benchmark", "drealsr", "--root", str(tmp_path), *count, "--hashes", str(hashes)]) == 0
    Image.new("RGB", (128, 128)).save(tmp_path / "lq" / "p0.png")
    assert module.main(["benchmark", "drealsr", "--root", str(tmp_path), *count, "--hashes", str(hashes)]) == 1
    assert "The lq pictures are not those of" in capsys.readouterr().out


# ---- making ----


def test_rebuilding_is_bit_reproducible(photographs: Path, tmp_path: Path) -> None:
    chosen = choose_photographs(photographs, 20)
    first = synthesise_all(chosen, tmp_path / "a", size=128)
    again = synthesise_all(list(reversed(chosen)), tmp_path / "b", size=128)
    assert first == again == {"lq": folder_digest(tmp_path / "a/lq"), "hq": folder_digest(tmp_path / "a/gt")}
    for path in sorted((tmp_path / "a" / "lq").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / "lq" / path.name).read_bytes()
    assert synthesise_all(chosen, tmp_path / "d", size=128, seed=1)["lq"] != first["lq"]
    sizes = {Image.open(path).size for path in (tmp_path / "a" / "lq").iterdir()}
    assert sizes == {(32, 32)} and len(list((tmp_path / "a" / "lq").iterdir())) == 20


@pytest.mark.slow
def test_two_processes_rebuild_what_one_does(photographs: Path, tmp_path: Path) -> None:
    chosen = choose_photographs(photographs, 20)
    assert synthesise_all(chosen, tmp_path / "a", size=128) == synthesise_all(chosen, tmp_path / "c", size=128, jobs=2)
    for path in sorted((tmp_path / "a" / "lq").iterdir()):
        assert path.read_bytes() == (tmp_path / "c" / "lq" / path.name).read_bytes()


def test_the_preset_draws_what_the_authors_configuration_says() -> None:
    # configs/degradation_testing_realesrgan.yaml of InvSR, and the kernel sizes that its data loader takes from it.
    config = DEGRADATIONS["imagenet-test"]
    assert isinstance(config, DegradationConfig)
    recipes = [draw_recipe(config, np.random.default_rng(i)) for i in range(1000)]
    drawn = [recipe for recipe in recipes if recipe is not None]
    assert len(drawn) == 1000 and all(recipe.second is None for recipe in drawn)
    sizes = {len(recipe.first.kernel) for recipe in drawn if recipe.first.kernel is not None}
    assert sizes == {3, 5, 7, 9, 11}
    final = [len(recipe.final_kernel) for recipe in drawn if recipe.final_kernel is not None]
    assert set(final) == {3, 5} and len(final) == pytest.approx(200, abs=45)
    assert {min(r.first_quality for r in drawn), max(r.first_quality for r in drawn)} == {70, 95}
    assert {min(r.final_quality for r in drawn), max(r.final_quality for r in drawn)} == {80, 100}
    factors = [recipe.first.resize_factor for recipe in drawn]
    assert 0.5 <= min(factors) < 0.52 and 1.48 < max(factors) <= 1.5
    white = [recipe.first.noise_level * 255 for recipe in drawn if recipe.first.is_gaussian]
    shot = [recipe.first.noise_level for recipe in drawn if not recipe.first.is_gaussian]
    assert min(white) >= 1 and max(white) <= 15 and min(shot) >= 0.05 and max(shot) <= 0.3


def test_photographs_are_chosen_as_the_authors_do(photographs: Path) -> None:
    # random.seed(10000); random.shuffle(files); random.sample(files, k): Python's global generator, as in their script.
    import random

    state = random.getstate()
    try:
        files = sorted(photographs.iterdir())
        random.seed(10000)
        random.shuffle(files)
        wanted = random.sample(files, k=7)
    finally:
        random.setstate(state)
    assert choose_photographs(photographs, 7) == wanted
    assert random.getstate() == state
    with pytest.raises(ValueError, match="holds 20 photographs, 3000 are needed"):
        choose_photographs(photographs, 3000)
    with pytest.raises(ValueError, match="--source"):
        choose_photographs(photographs / "absent", 3)


def test_the_middle_is_cut_out() -> None:
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = 200
    crop = centre_crop(pixels, 50)
    assert crop.shape == (50, 50, 3) and (crop == 200).all()
    assert np.array_equal(centre_crop(pixels, 100), pixels[:, 100:200])
    assert centre_crop(pixels[:20], 50).shape == (50, 50, 3)


def test_a_rebuilt_set_is_not_the_released_one(photographs: Path, tmp_path: Path) -> None:
    config = load_benchmark(CONFIGS / "imagenet-test-rebuilt.yaml", [f"data.root={tmp_path}"])
    small = replace(config, data=replace(config.data, lq_size=[32, 32], hq_size=[128, 128]))
    assert "4 pairs made" in build_set(small, photographs, count=4)
    _, verdict = inspect_set(small, count=4)
    assert not verdict.may_compare
    mark = json.loads((tmp_path / "benchmark.json").read_text())
    assert mark["seed"] == 10000 and mark["hashes"]["lq"] == folder_digest(tmp_path / "lq")
    released = load_benchmark(CONFIGS / "imagenet-test.yaml", [f"data.root={tmp_path}", "limit=2"])
    with pytest.raises(ValueError, match="cannot stand for 'imagenet-test'"):
        check_set(released)
    with pytest.raises(ValueError, match="pictures of another set"):
        synthesise_all(choose_photographs(photographs, 2), tmp_path, size=128)
    with pytest.raises(ValueError, match="cannot be made here"):
        build_set(released, photographs)


def test_realsr_v3_gets_equal_stems(tmp_path: Path) -> None:
    for camera in ("Canon", "Nikon"):
        folder = tmp_path / "v3" / camera / "Test" / "4"
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 20), 80).save(folder / f"{camera}_001_HR.png")
        Image.new("RGB", (10, 5), 80).save(folder / f"{camera}_001_LR4.png")
    assert arrange_realsr_v3(tmp_path / "v3", tmp_path / "out") == 2
    config = load_benchmark(CONFIGS / "realsr-v3.yaml", [f"data.root={tmp_path / 'out'}", "limit=5"])
    assert list(check_set(config).lq) == ["Canon_001", "Nikon_001"]
    (tmp_path / "v3/Nikon/Test/4/Nikon_001_LR4.png").unlink()
    with pytest.raises(ValueError, match=r"no partner Nikon_001_LR4.png"):
        arrange_realsr_v3(tmp_path / "v3", tmp_path / "out")


# ---- running ----


SETTINGS = Settings("tiny", 0.5, 42, 4.0, "none", "fp32", "idas", "0", {})


def run(config: BenchmarkConfig, load=tiny_pipeline):
    return run_benchmark(config, PartialState(cpu=True), load, SETTINGS)


def test_a_run_restores_scores_and_goes_on(tmp_path: Path, tiny: IDaSSRPipeline) -> None:
    config = config_for(make_set(tmp_path / "set", size=32), realism=[0, 1], output=str(tmp_path / "out"))
    report = run(config, lambda: tiny)
    assert report is not None and report.restored == 6
    assert list(report.rows) == [
        "compact, realism 0",
        "compact, realism 1",
        "bicubic",
        "bicubic + unsharp mask",
        "bicubic + unsharp mask + grain",
    ]
    assert all(set(scores.images) == {"p0", "p1", "p2"} for scores in report.rows.values())
    table = report_table(config, report)
    assert "OSEDiff" in table and "realism 0" in table and "not verified" in report.notes[0]
    path = write_report(config, report, {"seed": 42}, ["evaluate.py"])
    written = read_result(path)
    assert written["rows"]["bicubic"]["mean"] == report.rows["bicubic"].mean
    assert written["rows"]["bicubic"]["data"]["lq"] == folder_digest(tmp_path / "set" / "lq")
    assert (tmp_path / "out" / "report.csv").read_text().count("\n") == 1 + 5 * 4
    # One restored picture is lost: only that one is made again, and nothing is loaded where none is.
    (tmp_path / "out" / "realism-1" / "p1.png").unlink()
    second = run(config, lambda: tiny)
    assert second is not None and second.restored == 1
    assert {n: s.mean for n, s in second.rows.items()} == {n: s.mean for n, s in report.rows.items()}
    third = run(config, lambda: pytest.fail("the pipeline was loaded for nothing"))
    assert third is not None and third.restored == 0
    assert report_json(config, third, {}, [])["rows"] == written["rows"]


def test_a_set_without_references_has_no_psnr(tmp_path: Path, tiny: IDaSSRPipeline) -> None:
    make_set(tmp_path, size=48)
    config = replace(config_for(tmp_path, output=str(tmp_path / "out"), trivial=False), has_reference=False)
    report = run(config, lambda: tiny)
    assert report is not None
    assert list(report.rows["compact, realism 0.5"].mean) == ["lr_psnr", "niqe"]


def test_a_picture_that_fails_ends_the_run_in_one_sentence(tmp_path: Path, tiny: IDaSSRPipeline) -> None:
    config = config_for(make_set(tmp_path), output=str(tmp_path / "out"))
    content = (tmp_path / "lq" / "p1.png").read_bytes()
    (tmp_path / "lq" / "p1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"p1\.png"):
        run(config, lambda: tiny)
    assert not (tmp_path / "out" / "report.json").exists()


def test_the_seeds_of_the_grain_are_places_in_the_whole_set(tmp_path: Path, tiny: IDaSSRPipeline) -> None:
    # As in scripts/trivial_baselines.py, however many processes share the work.
    config = config_for(make_set(tmp_path), output=str(tmp_path / "out"))
    run(config, lambda: tiny)
    for index in range(3):
        lq = Image.open(tmp_path / "lq" / f"p{index}.png")
        for name, picture in restore_trivially(lq, index).items():
            assert np.array_equal(read_rgb(tmp_path / "out" / name / f"p{index}.png"), np.asarray(picture))


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_a_kill_and_a_gate(tmp_path: Path) -> None:
    """The command itself, with the compact model: killed, gone on with, by two processes, and as a gate."""
    root = make_set(tmp_path / "set", count=8, size=48)
    arguments = ["run", CONFIGS / "drealsr.yaml", f"data.root={root}", "data.count=8", "data.lq_size=[48,48]"]
    arguments += ["data.hq_size=[192,192]", f"output={tmp_path / 'out'}", "threads=1"]
    folder = tmp_path / "out" / "realism-0.5"
    process = subprocess.Popen([sys.executable, "scripts/evaluate.py", *map(str, arguments)], cwd=ROOT)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(folder.glob("*.png")) if folder.is_dir() else []) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*.png")}
    assert 3 <= len(kept) < 8
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "scripts/evaluate.py"]
    done = subprocess.run([*launcher, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{8 - len(kept)} restored now" in done.stdout and "| OSEDiff" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    report = tmp_path / "out" / "report.json"
    own = tmp_path / "own.json"
    own.write_text(report.read_text())
    assert json.loads(own.read_text())["settings"]["processes"] == 2
    assert script("evaluate", *arguments, "--expect", own).returncode == 0
    values = json.loads(own.read_text())
    values["rows"]["bicubic"]["mean"]["niqe"] += 0.1
    own.write_text(json.dumps(values))
    done = script("evaluate", *arguments, "--expect", own)
    assert done.returncode == 1 and "OUTSIDE" in done.stdout


def test_set_digest_does_not_hang_on_order() -> None:
    assert set_digest({"a": "1", "b": "2"}) == set_digest({"b": "2", "a": "1"}) != set_digest({"a": "2", "b": "1"})
