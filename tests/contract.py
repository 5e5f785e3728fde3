"""What every method has to pass, for one method at a time: it restores, trains, resumes to the bit, gives with two
processes what it gives with one, and has a row in the study of all methods.

Tests of all methods call these functions with each, the test of a new one (``idas-sr new-method``) with its own. A
training runs in processes of its own where it is killed or spread; they are forked from a server that has imported
everything, because importing costs more than a run.
"""

import importlib.util
import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from idas_sr.build import build_task, has_dial
from idas_sr.config import Config, load_config
from idas_sr.evaluation.results import read_result
from idas_sr.methods.parameters import trained_parts
from idas_sr.networks import presets
from idas_sr.networks.store import load_parts, save_parts
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.training.checkpoint import load_latest
from idas_sr.training.errors import Stopped
from idas_sr.training.run import CONFIGS, train_stage

ROOT = Path(__file__).parents[1]
BASE = CONFIGS / "base.yaml"
PATIENCE = 120  # seconds until a process that does not do what it should is given up
STEPS = 20
LOCAL = ("seconds", "timestep", "other_picture")
"""Of the log: means over what one process holds that are not those of the whole."""


def load_script(name: str) -> ModuleType:
    """A program of scripts/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small(stage: Path, photographs: Path, run_dir: Path, own: Sequence[str] = (), steps: int = STEPS) -> list[str]:
    """What makes a shipped stage run on its own, in a second: small parts from scratch, small crops, no workers.

    Args:
        own: further overrides, such as those that make a network of the method's own small.
    """
    return [
        f"data.root={photographs}",
        f"train.run_dir={run_dir}",
        "train.init=null",
        f"backbone.name={'tiny-sd-turbo' if stage.parent.name == 'sd-turbo' else 'tiny'}",
        *own,
        "data.crop=64",
        "data.workers=0",
        "train.batch_size=2",
        "train.precision=fp32",
        f"train.steps={steps}",
        "train.log_every=1",
        "train.grid_every=0",
        # Their weights do not come with the package.
        "loss.feature=0",
    ]


def spread_settings(stage: Path, photographs: Path, run_dir: Path, own: Sequence[str] = ()) -> list[str]:
    """`small`, with a batch that two processes can share, averaged weights and checkpoints on the way."""
    further = ("data.crop=32", "train.batch_size=4", "train.warmup=20", "train.ema=0.9", "train.save_every=10")
    return [*small(stage, photographs, run_dir, own), *further]


# ---- processes ----


def train_here(stage: Path, settings: Sequence[str], rank: int, world: int, port: int) -> None:
    """What one process does; several find one another as torchrun would have told them."""
    # A job of its own, for signals that reach all of it.
    os.setpgid(0, 0)
    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if world > 1:
        about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in about.items()} | {"MASTER_ADDR": "127.0.0.1"})
    try:
        train_stage(load_config(BASE, stage, overrides=list(settings)))
    except Stopped:
        # As scripts/train.py does.
        os._exit(128 + signal.SIGTERM)


def start(stage: Path, settings: Sequence[str], world: int = 1) -> list[BaseProcess]:
    """Processes that train together."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["idas_sr.training.run", "pytest", "skimage.data"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=train_here, args=(stage, settings, rank, world, port)) for rank in range(world)]
    for process in processes:
        process.start()
    return processes


def finish(processes: Sequence[BaseProcess], status: int = 0) -> None:
    """Wait for all of them, which end with this status."""
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == status


def wait(condition: Callable[[], bool], processes: Sequence[BaseProcess]) -> None:
    """Poll until ``condition``, as often as possible."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        assert all(process.is_alive() for process in processes), "the process ended before it was killed"
        time.sleep(0.0005)


def log_of(run: Path) -> list[dict[str, float]]:
    """The lines of a run's log that are complete."""
    if not (run / "log.jsonl").is_file():
        return []
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    # The last line may be on its way.
    return [json.loads(line) for line in lines if line.endswith("\n")]


def steps_taken(run: Path) -> int:
    """Of a run that may be going on."""
    log = log_of(run)
    return int(log[-1]["step"]) if log else 0


def files_of(folder: Path) -> dict[str, bytes]:
    """Name -> content of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same(left: Any, right: Any, where: str) -> None:
    """Two states, equal to the bit."""
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{where}.{index}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    else:
        assert left == right, where


# ---- the contract ----


def trained(config: Config) -> list[tuple[str, str, int]]:
    """(player, part, parameters) of everything that a stage trains at its full size, without its weights."""
    with torch.device("meta"):
        task = build_task(config)
    return [(part.player, part.name, part.parameters) for part in trained_parts(task)]


def full_size(stage: Path, *overrides: str) -> Config:
    """A shipped stage as it is, with random weights and without the losses whose networks are not there."""
    trial = ["data.root=x", "train.init=null", "train.run_dir=x", "backbone.random_weights=true", "loss.feature=0"]
    # Neither is trained; building their networks takes longer than the rest.
    return load_config(BASE, stage, overrides=[*trial, "loss.lpips=0", *overrides])


def restores(name: str) -> None:
    """Untrained on the tiny backbone: four times as large, the same for one seed, at realism 0 for every seed."""
    pipe = IDaSSRPipeline.from_random("tiny", method=name)
    picture = torch.rand(3, 20, 12, generator=torch.Generator().manual_seed(0))
    first, again = (pipe(picture, seed=1, output_type="pt").images for _ in range(2))
    assert first.shape == (1, 3, 80, 48) and bool(first.isfinite().all())
    assert torch.equal(first, again), "the same input and seed gave two pictures"
    assert not torch.equal(first, pipe(picture.flip(-1), seed=1, output_type="pt").images), (
        "the picture is not looked at"
    )
    if has_dial(name):
        ends = [pipe(picture, realism=0.0, seed=seed, output_type="pt").images for seed in (1, 2)]
        assert torch.equal(*ends), "realism 0 draws random numbers"


def trains(
    stage: Path, photographs: Path, run_dir: Path, own: Sequence[str] = (), steps: int = STEPS
) -> tuple[Config, list[dict[str, float]]]:
    """A stage takes its steps, computes the losses that its configuration weighs and moves something."""
    torch.set_num_threads(1)
    config = load_config(BASE, stage, overrides=small(stage, photographs, run_dir, own, steps))
    train_stage(config)
    lines = log_of(run_dir)
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    for name, weight in config.loss.items():
        assert (name in lines[0]) == bool(weight), name
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert all(line["generator_grad"] > 0 for line in lines), "no gradient reaches what is trained"
    backbone, _ = load_parts(run_dir / "model")
    assert backbone.latent_channels in (4, 8)
    return config, lines


def resumes(stage: Path, photographs: Path, folder: Path, own: Sequence[str] = ()) -> None:
    """Stopped in the middle by a signal and gone on, a run leaves the same bits as one that was never stopped."""
    whole, parts = (folder / name for name in ("whole", "parts"))
    if not (whole / "model").is_dir():
        finish(start(stage, spread_settings(stage, photographs, whole, own)))
    stopped = spread_settings(stage, photographs, parts, own)
    processes = start(stage, stopped)
    wait(lambda: steps_taken(parts) >= 7, processes)
    processes[0].terminate()
    finish(processes, status=128 + signal.SIGTERM)
    finish(start(stage, stopped))
    assert files_of(parts / "model") == files_of(whole / "model")
    states = [load_latest(run / "checkpoints") for run in (whole, parts)]
    assert_same(*states, "checkpoint")


def spreads(stage: Path, photographs: Path, folder: Path, own: Sequence[str] = ()) -> None:
    """Two processes with half the batch each (gloo) follow the one that has all of it."""
    whole, two = (folder / name for name in ("whole", "two"))
    if not (whole / "model").is_dir():
        finish(start(stage, spread_settings(stage, photographs, whole, own)))
    finish(start(stage, spread_settings(stage, photographs, two, own), world=2))
    logs = [log_of(run) for run in (whole, two)]
    assert [len(log) for log in logs] == [STEPS, STEPS]
    for one, other in zip(*logs, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - set(LOCAL):
            # Norms of gradients are larger numbers than losses.
            tolerance = {"rel": 1e-3, "abs": 1e-4} if name.endswith("_grad") else {"abs": 2e-4}
            assert other[name] == pytest.approx(one[name], **tolerance), (one["step"], name)


def has_a_row(
    name: str, stage: Path, photographs: Path, folder: Path, own: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Trained, exported and measured beside others: all rows, from a file that fits the schema of results."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    prior, model, run = presets.tiny(), folder / "model", folder / "run"
    IDaSSRPipeline.from_backbone(prior, None, method=None).save_pretrained(model)
    save_parts(folder / "prior" / "model", prior)
    further = (f"train.init={folder / 'prior'}", "data.crop=32", "train.ema=0")
    settings = [*small(stage, photographs, run, own, steps=2), *further]
    train_stage(load_config(BASE, stage, overrides=settings))
    trained = yaml.safe_load(stage.read_text())["method"]["args"].get("train", [])
    exporter = load_script("export_adapter")
    words = ["--model", str(model), "--threads", "1"]
    if set(trained) & set(exporter.MERGED):
        # What changes the backbone itself is no adapter; the stage is measured as it is.
        words += ["--also", f"{name}={run}"]
    else:
        exporter.export(run, model)
    return study(folder, name, words)


def study(folder: Path, name: str, words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The rows of a study of one small pair of pictures, ``name`` among them."""
    generator = np.random.default_rng(0)
    hq = Image.fromarray(generator.integers(0, 255, (64, 96, 3), dtype=np.uint8)).resize((96, 64))
    for side, picture in (("lq", hq.resize((24, 16), Image.Resampling.BICUBIC)), ("hq", hq)):
        (folder / side).mkdir(exist_ok=True)
        picture.save(folder / side / "a.png")
    places = ["-i", str(folder / "lq"), "-r", str(folder / "hq"), "-o", str(folder / "study")]
    assert load_script("study_methods").main([*places, *words]) == 0
    rows = read_result(folder / "study" / "methods.json")["rows"]
    assert {"bicubic", "unsharp", "grain"} < rows.keys()
    own = {key: row for key, row in rows.items() if key == name or key.startswith(f"{name},")}
    assert own, f"{name} has no row among {', '.join(rows)}"
    for row in own.values():
        assert np.isfinite(row["mean"]["psnr_y"]) and row["unet_evaluations"] >= 1 and row["milliseconds"] > 0
    return rows
