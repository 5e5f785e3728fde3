"""Folders shared by processes: claims, takeover, joining, reports; whole runs with a killed process are slow tests."""

import importlib.util
import json
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_photos
from PIL import Image
from skimage import data

from idas_sr import cli
from idas_sr.atomic import token_of
from idas_sr.batch import Job, Outcome, RefusedError, Settings, _groups, _Ready, restore_files
from idas_sr.data.entries import Entry
from idas_sr.data.entries import PictureFile as TarredPicture
from idas_sr.data.shards import write_shards
from idas_sr.engines.claims import Part, Worker
from idas_sr.engines.launch import DEVICES, find_launch, show_device
from idas_sr.engines.manifest import FOLDER, Header, Manifest, is_same_launch, open_manifest
from idas_sr.engines.report import Report
from idas_sr.engines.shards import plan_shards
from idas_sr.imagefiles.reading import read_picture
from idas_sr.overlap import ahead
from idas_sr.pipeline import IDaSSRPipeline

MEASURE = Path(__file__).parents[1] / "scripts" / "measure_folder.py"
HEADER = Header({"realism": 0.5}, "in", "first")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    pictures = {f"{number}.png": data.chelsea()[20 * number :][:16, 40:56] for number in range(5)}
    return write_photos(tmp_path / "photos", pictures | {"other.png": data.coffee()[:24, :16]})


def jobs_in(folder: Path, output: Path) -> list[Job]:
    return [Job(path, output / path.name) for path in sorted(folder.iterdir())]


def settings() -> Settings:
    return Settings("tiny", 0.5, 42, 4.0, "none", "fp32", "idas", "0")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def in_a_process_that_is_killed(work: Callable[[], Any]) -> None:
    """Run ``work`` in a child of this process and end it as the system's memory killer would."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


# ---- ahead ----


def test_ahead_keeps_the_order_and_the_budget() -> None:
    handed: list[int] = []
    gate = threading.Event()

    def work(item: int) -> int:
        gate.wait(10)
        return item * item

    with ThreadPoolExecutor(2) as pool:
        results = ahead(work, _noting([3, 1, 9, 1, 1], handed), pool, lambda x: x, budget=4)
        threading.Timer(0.2, gate.set).start()
        got = [next(results)]
        # 3 and 1 fit together; the 9, which fits with nothing, is looked at and not handed over.
        assert handed == [3, 1, 9]
        assert got + list(results) == [9, 1, 81, 1, 1]


def _noting(items: list[int], handed: list[int]) -> Any:
    for item in items:
        handed.append(item)
        yield item


def test_ahead_raises_at_the_place_of_the_item() -> None:
    with ThreadPoolExecutor(2) as pool:
        results = ahead(lambda x: 1 // x, [1, 0, 1], pool, lambda x: 1, budget=10)
        assert next(results) == 1
        with pytest.raises(ZeroDivisionError):
            next(results)


# ---- restoring ----


def test_batches_of_equal_size_do_not_depend_on_speed_and_change_nothing(
    tiny: IDaSSRPipeline, photos: Path, tmp_path: Path
) -> None:
    ready = [_Ready(job, read_picture(job.source), "", 0.5) for job in jobs_in(photos, tmp_path)]
    groups = [[one.job.source.stem for one in group] for group in _groups(ready, 2)]  # type: ignore[union-attr]
    assert groups == [["0", "1"], ["2", "3"], ["4"], ["other"]]
    for folder, size in (("one", 1), ("all", None)):
        outcomes = list(restore_files(jobs_in(photos, tmp_path / folder), lambda: tiny, settings(), size))
        assert [o.status for o in outcomes] == ["restored"] * 6
    for path in (tmp_path / "one").iterdir():
        assert abs(pixels(path) - pixels(tmp_path / "all" / path.name)).max() <= 1


def test_shards_give_the_files_of_their_pictures(tiny: IDaSSRPipeline, photos: Path, tmp_path: Path) -> None:
    entries = [Entry(TarredPicture(path, path.name)) for path in sorted(photos.iterdir())]
    list(write_shards(entries, tmp_path / "shards", shard_bytes=5000))
    jobs = plan_shards(tmp_path / "shards", tmp_path / "out")
    assert len(jobs) == 6 and len({job.source for job in jobs}) > 1
    assert Job.from_json(json.loads(json.dumps(jobs[0].as_json()))) == jobs[0]
    outcomes = list(restore_files(jobs, lambda: tiny, settings(), 1))
    list(restore_files(jobs_in(photos, tmp_path / "plain"), lambda: tiny, settings(), 1))
    assert {o.status for o in outcomes} == {"restored"}
    for job in jobs:
        plain = tmp_path / "plain" / str(job.member).split("_")[1]
        assert np.array_equal(pixels(job.target), pixels(plain))


def test_a_damaged_shard_is_refused(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(RefusedError, match="cannot be read as a tar"):
        plan_shards(tmp_path, tmp_path / "out")


# ---- the manifest ----


def opened(photos: Path, tmp_path: Path, header: Header = HEADER) -> Manifest:
    return open_manifest(tmp_path / "out", header, lambda: jobs_in(photos, tmp_path / "out"), 1)


def finish(part: Part) -> None:
    for job in part.jobs:
        part.note(Outcome(job, "restored"))
    part.finish()


def test_two_workers_share_the_parts(photos: Path, tmp_path: Path) -> None:
    manifest = opened(photos, tmp_path)
    with Worker(manifest, "a") as a, Worker(manifest, "b", 1, 2) as b:
        first = a.claim("000000")
        assert first is not None and b.claim("000000") is None
        taken = []
        for part in b.parts():
            taken.append(part.name)
            finish(part)
            if len(taken) == 5:
                finish(first)
    assert sorted(taken) == [f"{i:06d}" for i in range(1, 6)]
    assert manifest.is_done() and manifest.done_pictures() == 6
    assert [Path(line["input"]).name for line in manifest.outcomes()] == sorted(p.name for p in photos.iterdir())


def test_what_a_killed_worker_claimed_is_taken_over_and_its_leftovers_go(photos: Path, tmp_path: Path) -> None:
    jobs = jobs_in(photos, tmp_path / "out")
    # Twelve parts per worker would be one picture each; here two pictures share a part.
    manifest = open_manifest(tmp_path / "out", HEADER, lambda: jobs * 5, 1)
    assert manifest.header["part"] == 2

    def work() -> None:
        with Worker(manifest, "doomed") as worker:
            part = worker.claim("000000")
            assert part is not None
            part.note(Outcome(part.jobs[0], "restored"))
            with (manifest.folder / "journal" / "000000").open("a") as journal:
                journal.write('{"index": 1, "cut of')
            part.jobs[1].target.with_name(".0000.1.partial").touch()

    in_a_process_that_is_killed(work)
    assert manifest.release_dead() == 1 and manifest.release_dead() == 0
    with Worker(manifest, "heir") as heir:
        part = heir.claim("000000")
        assert part is not None and part.was_begun and part.jobs == jobs[1:2]
        finish(part)
    lines = [json.loads(line) for line in (manifest.folder / "done" / "000000").read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 1]
    assert (tmp_path / "out" / ".0000.1.partial").exists()  # of nobody known


def test_half_written_files_of_the_dead_go(photos: Path, tmp_path: Path) -> None:
    manifest = opened(photos, tmp_path)
    target = jobs_in(photos, tmp_path / "out")[0].target
    leftover = target.with_name(f".{token_of(target)}.1.partial")

    def work() -> None:
        with Worker(manifest, "doomed") as worker:
            worker.claim("000000")
            leftover.touch()
            (manifest.folder / "journal" / ".0123.1.partial").touch()

    in_a_process_that_is_killed(work)
    manifest.leave()
    opened(photos, tmp_path, Header(HEADER.settings, HEADER.source, "second"))
    assert not leftover.exists()


def test_the_living_keep_their_claims(photos: Path, tmp_path: Path) -> None:
    manifest = opened(photos, tmp_path)
    with Worker(manifest, "a") as worker:
        assert worker.claim("000003") is not None
        assert manifest.release_dead() == 0 and manifest.has_living_workers()


def test_who_may_join(photos: Path, tmp_path: Path) -> None:
    manifest = opened(photos, tmp_path)
    (manifest.folder / "mark").touch()
    with Worker(manifest, "a") as worker:
        # Another launch, while somebody works.
        assert opened(photos, tmp_path, Header(HEADER.settings, "in", "second")).header == manifest.header
        with pytest.raises(RefusedError, match="other settings"):
            opened(photos, tmp_path, Header({"realism": 1}, "in", "second"))
        for part in worker.parts():
            finish(part)
        manifest.finish()
    # The same launch comes late; another begins anew.
    assert opened(photos, tmp_path).is_finished
    again = opened(photos, tmp_path, Header(HEADER.settings, "in", "third"))
    assert not again.is_finished and len(again.names("todo")) == 6


def test_launches_are_told_apart() -> None:
    assert is_same_launch("7@100", "7@101") and not is_same_launch("7@100", "7@900")
    assert not is_same_launch("7@100", "8@100") and not is_same_launch("abc", "abd")


def test_processes_of_a_launcher_see_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), (DEVICES, "2,4,6")):
        monkeypatch.setenv(name, value)
    launch = find_launch(3)
    assert (launch.rank, launch.count, launch.is_started) == (5, 8, True) and os.environ[DEVICES] == "4"
    assert find_launch().name == launch.name
    show_device(7)
    assert os.environ[DEVICES] == "4"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert (find_launch(3).count, find_launch().count) == (3, 1)


# ---- the command line ----


def test_a_rank_does_everything_alone_and_a_late_one_nothing(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    (photos / "bad.png").write_text("no picture")
    words = ["infer", "-i", str(photos), "-o", str(tmp_path / "out"), "--model", str(model), "--device", "cpu"]
    assert cli.main([*words, "--summary", str(tmp_path / "summary.json")]) == 1
    printed = capsys.readouterr()
    assert "6 restored, 1 failed" in printed.out and "process 0" in printed.out
    assert printed.err.count("bad.png") == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["totals"] == {"restored": 6, "failed": 1} and len(summary["outcomes"]) == 7
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    monkeypatch.setenv("RANK", "1")
    assert cli.main(words) == 0
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    assert [path.name for path in (tmp_path / "out" / FOLDER).iterdir() if path.name != "lock"] == ["run.json"]


def test_a_summary_is_whole_even_after_an_error(tmp_path: Path) -> None:
    job = Job(Path("a.png"), Path("b.png"))
    with pytest.raises(RuntimeError), Report(tmp_path / "s.json", {"realism": 1}) as report:
        report.add(Outcome(job, "restored").summary())
        report.add(Outcome(job, "failed", "why").summary())
        raise RuntimeError
    values = json.loads((tmp_path / "s.json").read_text())
    assert values["totals"] == {"restored": 1, "failed": 1} and len(values["outcomes"]) == 2
    assert report.failures == ["why"] and [path.name for path in tmp_path.iterdir()] == ["s.json"]


# ---- whole runs ----

PICTURES = int(os.environ.get("IDAS_SR_TEST_PICTURES", "200"))
"""Of the slow tests; 2000 with IDAS_SR_TEST_PICTURES=2000."""


def measured(model: Path, tmp_path: Path, *options: str) -> dict[str, Any]:
    script = runpy.run_path(str(MEASURE), run_name="loaded")
    target = tmp_path / "measured.json"
    words = ["--pictures", str(PICTURES), "--model", str(model), "--json", str(target), "--kill", *options]
    code = script["main"]([*words, "--folder", str(tmp_path / "work")])
    values: dict[str, Any] = json.loads(target.read_text())
    assert code == 0, values
    return values


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["accelerate.commands.launch", "--cpu", "--num_processes", "2"],
        ["torch.distributed.run", "--nproc_per_node", "2"],
    ],
    ids=["accelerate", "torchrun"],
)
def test_launchers_share_a_folder_and_a_restart_finishes_it(model: Path, tmp_path: Path, words: list[str]) -> None:
    """One of two processes is killed; the launcher ends or goes on, and the same command leaves nothing out."""
    script = runpy.run_path(str(MEASURE), run_name="loaded")
    source, output, summary = tmp_path / "in", tmp_path / "out", tmp_path / "summary.json"
    script["make_pictures"](source, 60, 24)
    restore = script["command"](source, output, str(model), ["--device", "cpu", "--resume", "--summary", summary])
    launched = [sys.executable, "-m", *words, *restore[1:]]
    first = script["watch"](launched, output, 60, 0.3)
    assert first.killed is not None
    if words[0].startswith("torch"):
        # It ends the others, too.
        assert first.code != 0
    first_files = {path.name: path.stat().st_ino for path in output.glob("*.png")}
    second = script["watch"](launched, output, 60, None)
    assert second.code == 0 and first.written_twice == second.written_twice == [], second.output
    values = json.loads(summary.read_text())
    assert len(values["outcomes"]) == len({line["input"] for line in values["outcomes"]}) == 60
    files = {path.name: path.stat().st_ino for path in output.glob("*.png")}
    assert len(files) == 60 and first_files.items() <= files.items()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        "local",
        pytest.param(
            "ray",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("ray") is None, reason="ray is not installed (extra cluster)"
            ),
        ),
    ],
)
def test_a_killed_worker_costs_nothing(
    model: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, one killed: every picture once, as one process alone restores it, in memory that does not grow."""
    # Ray's workers give way to everything else on a machine unless told otherwise.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    values = measured(model, tmp_path, "--engine", engine)
    assert values["killed"] and values["totals"].get("failed", 0) == 0
    assert sum(values["totals"].values()) == PICTURES
    # What was complete but not yet noted when its process was killed is found, not made again.
    assert values["totals"]["restored"] >= 0.9 * PICTURES
    assert values["growth_mib"] < 100
    assert not (tmp_path / "work" / "shared" / FOLDER).exists()
    assert not list((tmp_path / "work" / "shared").glob(".*"))
