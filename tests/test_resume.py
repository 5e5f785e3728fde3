"""Training that is killed, stopped or spread over processes ends where one undisturbed process ends.

Whole runs of the steering stage (estimator, UNet and critic in training, averaged weights, warm-up) on a tiny backbone,
in real processes (tests/contract.py).
"""

import os
import random
import signal
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import contract
import pytest
import torch
from contract import PATIENCE, assert_same, files_of, finish, log_of, start, steps_taken, wait
from safetensors.torch import load_file

from idas_sr.training.checkpoint import load_latest
from idas_sr.training.run import CONFIGS

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
STAGE = CONFIGS / "train" / "compact" / "4-steering.yaml"
MONITORS = ("t_hat", "t_hat_std")  # in timesteps, hundreds; and a standard deviation, which is no mean over processes


def kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        assert process.is_alive() and process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL


def kill_in_first_step(settings: Sequence[str], run: Path) -> None:
    processes = start(STAGE, settings)
    wait((run / "config.yaml").is_file, processes)
    time.sleep(0.03)
    kill(processes)
    assert not (run / "checkpoints").exists() and not log_of(run), "this was not the first step"


def kill_in_write(settings: Sequence[str], run: Path, beyond: int) -> bool:
    """Kill when a checkpoint is half-written, after step ``beyond``; whether the kill came in time."""
    processes = start(STAGE, settings)
    wait(lambda: steps_taken(run) >= beyond and any(run.glob("checkpoints/*.partial")), processes)
    kill(processes)
    return any(run.glob("checkpoints/*.partial"))


def kill_after(settings: Sequence[str], run: Path, step: int, seconds: float, world: int = 1) -> None:
    processes = start(STAGE, settings, world)
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
    finish(start(STAGE, [*settings, f"train.run_dir={whole}"]))
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
    finish(start(STAGE, settings))
    assert not list(parts.rglob("*.partial"))
    same_run(whole, parts)


def test_sigterm_saves_and_goes(photographs: Path, tmp_path: Path) -> None:
    settings = [*SETTINGS, f"data.root={photographs}", "train.save_every=1000"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(start(STAGE, [*settings, f"train.run_dir={whole}"]))
    settings.append(f"train.run_dir={parts}")
    # With readers, which the signal reaches too.
    processes = start(STAGE, [*settings, "data.workers=2"])
    wait(lambda: steps_taken(parts) >= 20, processes)
    os.killpg(processes[0].pid or 0, signal.SIGTERM)
    finish(processes, status=128 + signal.SIGTERM)
    state = load_latest(parts / "checkpoints")
    assert state is not None and state["step"] == steps_taken(parts) >= 20
    assert not (parts / "model").exists()
    finish(start(STAGE, settings))
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
    finish(start(STAGE, [*settings, f"train.run_dir={whole}"], world=2))
    settings.append(f"train.run_dir={parts}")
    kill_after(settings, parts, 4, 0.1, world=2)
    kill_after(settings, parts, 11, 0.05, world=2)
    finish(start(STAGE, settings, world=2))
    close(whole / "model", parts / "model", tolerance=1e-6)


def test_two_processes_of_4_follow_one_of_8(photographs: Path, tmp_path: Path) -> None:
    # A factor that puts the targets of an untrained autoencoder into MINE's range, so that there is something to rank.
    own = ("train.steps=20", "train.batch_size=8", "loss.ranking=1", "method.args.factor=60")
    settings = [*SETTINGS, f"data.root={photographs}", *own]
    runs = [tmp_path / "one", tmp_path / "two"]
    finish(start(STAGE, [*settings, f"train.run_dir={runs[0]}"]))
    finish(start(STAGE, [*settings, f"train.run_dir={runs[1]}"], world=2))
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
    "invsr": ["estimator={widths: [16, 16], layers: 1, head_width: 8, groups: 4}"],
    "osediff": [],
    "rcod": ["estimator={width: 8}"],
    "s3diff": ["estimator={scores: null, unet_rank: 2, encoder_rank: 2, scores_args: {width: 4, hidden: 8}}"],
    "../../hdclip": ["method.args={width: 4, embedding: 8}"],
    "../../degradation-scores": ["method.args={width: 4, hidden: 8}"],
}


@pytest.mark.long
@pytest.mark.parametrize("method", OF_METHODS)
def test_one_loop_trains_every_method(method: str, photographs: Path, tmp_path: Path) -> None:
    stage = (STAGE.parent / "methods" / f"{method}.yaml").resolve()
    contract.resumes(stage, photographs, tmp_path, OF_METHODS[method])
    contract.spreads(stage, photographs, tmp_path, OF_METHODS[method])
