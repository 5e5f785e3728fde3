"""Training that is killed, stopped or spread over processes ends where one undisturbed process ends.

Whole runs of the steering stage (estimator, UNet and critic in training, averaged weights, warm-up) on a tiny backbone,
in real processes. They are forked from a server that has imported everything, because importing costs more than a run.
"""

import json
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_training import assert_same, files_of

from idas_sr.config import load_config
from idas_sr.training.checkpoint import load_latest
from idas_sr.training.errors import Stopped
from idas_sr.training.run import CONFIGS, train_stage

pytestmark = pytest.mark.slow

STEPS = 44
SETTINGS = (
    "train.init=null",
    "backbone.name=tiny",
    "estimator={width: 16, deep_width: 16, blocks: 1, severity_width: 8, control: true}",
    "data.crop=32",
    "data.workers=0",
    "train.batch_size=4",
    "train.precision=fp32",
    f"train.steps={STEPS}",
    "train.warmup=20",
    "train.ema=0.9",
    "train.log_every=1",
    "train.grid_every=0",
    "train.save_every=3",
    "loss.feature=0",
)
MONITORS = ("t_hat", "t_hat_std")  # in timesteps, hundreds; and a standard deviation, which is no mean over processes
PATIENCE = 120  # seconds until a process that does not do what it should is given up


def train_stage_here(settings: Sequence[str], rank: int, world: int, port: int, stage: str) -> None:
    """What one process does; several find one another as torchrun would have told them."""
    # A job of its own, for signals that reach all of it.
    os.setpgid(0, 0)
    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if world > 1:
        about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in about.items()} | {"MASTER_ADDR": "127.0.0.1"})
    path = CONFIGS / "train" / "compact" / f"{stage}.yaml"
    try:
        train_stage(load_config(CONFIGS / "base.yaml", path, overrides=list(settings)))
    except Stopped:
        # As scripts/train.py does.
        os._exit(128 + signal.SIGTERM)


def start(settings: Sequence[str], world: int = 1, stage: str = "4-steering") -> list[BaseProcess]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["idas_sr.training.run", "pytest", "skimage.data"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=train_stage_here, args=(settings, rank, world, port, stage)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes: Sequence[BaseProcess], status: int = 0) -> None:
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


def kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        assert process.is_alive() and process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL


def log_of(run: Path) -> list[dict[str, float]]:
    if not (run / "log.jsonl").is_file():
        return []
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    # The last line may be on its way.
    return [json.loads(line) for line in lines if line.endswith("\n")]


def steps_taken(run: Path) -> int:
    log = log_of(run)
    return int(log[-1]["step"]) if log else 0


def kill_in_first_step(settings: Sequence[str], run: Path) -> None:
    processes = start(settings)
    wait((run / "config.yaml").is_file, processes)
    time.sleep(0.03)
    kill(processes)
    assert not (run / "checkpoints").exists() and not log_of(run), "this was not the first step"


def kill_in_write(settings: Sequence[str], run: Path, beyond: int) -> bool:
    """Kill when a checkpoint is half-written, after step ``beyond``; whether the kill came in time."""
    processes = start(settings)
    wait(lambda: steps_taken(run) >= beyond and any(run.glob("checkpoints/*.partial")), processes)
    kill(processes)
    return any(run.glob("checkpoints/*.partial"))


def kill_after(settings: Sequence[str], run: Path, step: int, seconds: float, world: int = 1) -> None:
    processes = start(settings, world)
    wait(lambda: steps_taken(run) >= step, processes)
    time.sleep(seconds)
    kill(processes)


def same_run(whole: Path, parts: Path) -> None:
    """Both runs left the same to the bit: result, checkpoint and log."""
    assert files_of(parts / "model") == files_of(whole / "model")
    states = [load_latest(run / "checkpoints") for run in (whole, parts)]
    assert states[0] is not None and states[0]["step"] == STEPS and "critic" in states[0]["weights"]
    assert_same(*states, "checkpoint")
    logs = [log_of(run) for run in (whole, parts)]
    for line in (line for log in logs for line in log):
        del line["seconds"]
    assert logs[0] == logs[1] and [line["step"] for line in logs[0]] == list(range(1, STEPS + 1))


def test_ten_kills_change_nothing(photographs: Path, tmp_path: Path) -> None:
    settings = [*SETTINGS, f"data.root={photographs}"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(start([*settings, f"train.run_dir={whole}"]))
    settings.append(f"train.run_dir={parts}")

    kill_in_first_step(settings, parts)
    kills, in_write = 1, 0
    moments = random.Random(3)
    for step in (4, 8, 11, 16, 21, 25, 28):
        kill_after(settings, parts, step, moments.uniform(0, 0.2))
        kills += 1
    for _ in range(20):
        in_write += kill_in_write(settings, parts, beyond=30 + in_write)
        kills += 1
        if in_write == 2:
            break
    assert kills >= 10 and in_write == 2
    assert not (parts / "model").exists()
    finish(start(settings))
    assert not list(parts.rglob("*.partial"))
    same_run(whole, parts)


def test_sigterm_saves_and_goes(photographs: Path, tmp_path: Path) -> None:
    settings = [*SETTINGS, f"data.root={photographs}", "train.save_every=1000"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(start([*settings, f"train.run_dir={whole}"]))
    settings.append(f"train.run_dir={parts}")
    # With readers, which the signal reaches too.
    processes = start([*settings, "data.workers=2"])
    wait(lambda: steps_taken(parts) >= 20, processes)
    os.killpg(processes[0].pid or 0, signal.SIGTERM)
    finish(processes, status=128 + signal.SIGTERM)
    state = load_latest(parts / "checkpoints")
    assert state is not None and state["step"] == steps_taken(parts) >= 20
    assert not (parts / "model").exists()
    finish(start(settings))
    same_run(whole, parts)


def close(left: Path, right: Path, tolerance: float) -> None:
    """The weights in two results."""
    names = sorted(path.relative_to(left) for path in left.rglob("*.safetensors"))
    assert names and names == sorted(path.relative_to(right) for path in right.rglob("*.safetensors"))
    for name in names:
        a, b = load_file(left / name), load_file(right / name)
        assert a.keys() == b.keys()
        for key, value in a.items():
            torch.testing.assert_close(value, b[key], rtol=0, atol=tolerance, msg=lambda m, key=key: f"{key}: {m}")


def test_two_processes_killed_go_on_within_1e6(photographs: Path, tmp_path: Path) -> None:
    settings = [*SETTINGS, f"data.root={photographs}", "train.steps=20"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(start([*settings, f"train.run_dir={whole}"], world=2))
    settings.append(f"train.run_dir={parts}")
    kill_after(settings, parts, 4, 0.1, world=2)
    kill_after(settings, parts, 11, 0.05, world=2)
    finish(start(settings, world=2))
    close(whole / "model", parts / "model", tolerance=1e-6)


def test_two_processes_of_4_follow_one_of_8(photographs: Path, tmp_path: Path) -> None:
    # A factor that puts the targets of an untrained autoencoder into MINE's range, so that there is something to rank.
    own = ("train.steps=20", "train.batch_size=8", "loss.ranking=1", "method.args.factor=60")
    settings = [*SETTINGS, f"data.root={photographs}", *own]
    runs = [tmp_path / "one", tmp_path / "two"]
    finish(start([*settings, f"train.run_dir={runs[0]}"]))
    finish(start([*settings, f"train.run_dir={runs[1]}"], world=2))
    logs = [log_of(run) for run in runs]
    assert [len(log) for log in logs] == [20, 20]
    for one, two in zip(*logs, strict=True):
        assert {"critic", "gan", "ranking", "pixel", "generator_grad", "critic_grad"} <= one.keys() == two.keys()
        for name in one.keys() - {"seconds", *MONITORS}:
            # The losses to 1e-4; norms of gradients are larger numbers.
            tolerance = {"rel": 1e-3, "abs": 1e-4} if name.endswith("_grad") else {"abs": 1e-4}
            assert two[name] == pytest.approx(one[name], **tolerance), (one["step"], name)
    assert logs[0][0]["ranking"] > 0.01, "there was nothing to rank"
    assert abs(logs[0][0]["critic"] - logs[0][-1]["critic"]) > 1e-3, "the critic learnt nothing to compare"


OF_METHODS = {
    "invsr": "estimator={widths: [16, 16], layers: 1, head_width: 8, groups: 4}",
    "osediff": "estimator={}",
    "rcod": "estimator={width: 8}",
    "s3diff": "estimator={scores: null, unet_rank: 2, encoder_rank: 2, scores_args: {width: 4, hidden: 8}}",
    "../../hdclip": "method.args={width: 4, embedding: 8}",
    "../../degradation-scores": "method.args={width: 4, hidden: 8}",
}
LOCAL = ("seconds", "timestep", "other_picture")
"""Of the log: means over what one process holds that are not those of the whole."""


@pytest.mark.long
@pytest.mark.parametrize("method", OF_METHODS)
def test_one_loop_trains_every_method(method: str, photographs: Path, tmp_path: Path) -> None:
    own = (OF_METHODS[method], f"data.root={photographs}", "train.steps=20", "train.save_every=10")
    settings = [*(text for text in SETTINGS if not text.startswith(("estimator=", "train.steps="))), *own]
    runs = {name: tmp_path / name for name in ("whole", "parts", "two")}
    stage = f"methods/{method}"
    finish(start([*settings, f"train.run_dir={runs['whole']}"], stage=stage))
    finish(start([*settings, f"train.run_dir={runs['two']}"], world=2, stage=stage))

    # Stopped in the middle by a signal, and gone on.
    stopped = [*settings, f"train.run_dir={runs['parts']}"]
    processes = start(stopped, stage=stage)
    wait(lambda: steps_taken(runs["parts"]) >= 7, processes)
    processes[0].terminate()
    finish(processes, status=128 + signal.SIGTERM)
    finish(start(stopped, stage=stage))
    assert files_of(runs["parts"] / "model") == files_of(runs["whole"] / "model")
    states = [load_latest(runs[name] / "checkpoints") for name in ("whole", "parts")]
    assert_same(*states, "checkpoint")

    logs = [log_of(runs[name]) for name in ("whole", "two")]
    assert [len(log) for log in logs] == [20, 20]
    for one, two in zip(*logs, strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - set(LOCAL):
            tolerance = {"rel": 1e-3, "abs": 1e-4} if name.endswith("_grad") else {"abs": 2e-4}
            assert two[name] == pytest.approx(one[name], **tolerance), (one["step"], name)
