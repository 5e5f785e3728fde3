"""Training on real photographs: the stages in a row, exact resume, and what a run leaves behind."""

import contextlib
import json
import multiprocessing
import os
import random
import resource
import runpy
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from accelerate import Accelerator
from contract import assert_same, files_of
from PIL import Image
from safetensors.torch import load_file

from idas_sr.build import build_photographs, build_task
from idas_sr.config import Config, ConfigError, load_config
from idas_sr.data.photographs import Photographs, StepSampler
from idas_sr.data.sources import is_validation, list_photographs
from idas_sr.methods.task import Batch, Task
from idas_sr.networks.store import load_parts
from idas_sr.training import run
from idas_sr.training.checkpoint import load_latest, save_checkpoint
from idas_sr.training.errors import Stopped, TrainingError
from idas_sr.training.loop import Trainer, train
from idas_sr.training.run import COMPACT_STAGES, CONFIGS, load_stage, main, stages_of, train_stage
from idas_sr.training.stream import Stream

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
TINY = (
    "train.precision=fp32",
    "train.batch_size=2",
    "data.crop=32",
    "data.workers=0",
    "train.warmup=1",
    "train.lr=1e-3",
)
STEPS = 3
CHAIN = ("train.log_every=2", f"train.steps={STEPS}", f"train.grid_every={STEPS}", "train.save_every=2")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    # Sums over several threads may end in another order, and the networks are too small to gain from them.
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for name in PHOTOGRAPHS:
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
    # The split is made by name, so one of these is held out.
    Image.fromarray(skimage.data.coffee()[:, ::-1]).save(folder / "held_out_2.png")
    assert len(list_photographs(folder, "train")) == 4 and len(list_photographs(folder, "validation")) == 1
    return folder


def stage_config(stage: str, photographs: Path, folder: Path, *overrides: str) -> Config:
    """The shipped configuration of a stage, at tiny cost, in ``folder``; its predecessor is looked for there too."""
    paths = [f"data.root={photographs}", f"train.run_dir={folder / stage}"]
    index = COMPACT_STAGES.index(stage)
    if index:
        paths.append(f"train.init={folder / COMPACT_STAGES[index - 1]}")
    # SqueezeNet's weights do not come with the package, and these crops are too small for lines.
    unneeded = ("loss.feature=0", "loss.lines=0")
    return load_config(
        CONFIGS / "base.yaml",
        CONFIGS / "train" / "compact" / f"{stage}.yaml",
        overrides=[*paths, *TINY, *unneeded, *overrides],
    )


@pytest.fixture(scope="module")
def chain(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages of the compact model, three steps each, with the real architecture."""
    folder = tmp_path_factory.mktemp("chain")
    for stage in COMPACT_STAGES:
        train_stage(stage_config(stage, photographs, folder, *CHAIN))
    return folder


def first_batch(config: Config, count: int = 2) -> Batch:
    stream, collate = build_photographs(config)
    return collate([stream[index] for index in range(count)])


def fresh_task(config: Config) -> Task:
    torch.manual_seed(0)
    task = build_task(config)
    task.unfreeze()
    return task


def copied(batch: Batch) -> Batch:
    return {name: value.clone() for name, value in batch.items()}


# ---- the chain ----


@pytest.mark.parametrize("stage", COMPACT_STAGES)
def test_stage_leaves_a_model_that_loads(chain: Path, stage: str) -> None:
    backbone, estimator = load_parts(chain / stage / "model")
    assert (estimator is not None) == (stage >= "2")
    assert backbone.latents_std.std() > 0, "statistics of the latents were not measured"
    image = torch.zeros(1, 3, 32, 32)
    assert backbone.decode(backbone.encode(image)).shape == image.shape


def changed_parts(before: Path, after: Path) -> set[str]:
    parts = set()
    for path in (after / "model").rglob("*.safetensors"):
        name = path.parent.name
        old = before / "model" / name / path.name
        values, new = load_file(old) if old.is_file() else {}, load_file(path)
        if any(key not in values or not torch.equal(value, values[key]) for key, value in new.items()):
            parts.add(name)
    return parts


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("1-prior", {"unet", "prompt"}),
        ("2-positioning", {"estimator"}),
        ("3-anchor", {"estimator"}),
        ("4-steering", {"estimator", "unet", "vae"}),
        ("5-severity", {"estimator"}),
        ("6-polish", {"vae"}),
    ],
)
def test_stage_changes_what_it_trains_and_keeps_the_rest(chain: Path, stage: str, parts: set[str]) -> None:
    before = COMPACT_STAGES[COMPACT_STAGES.index(stage) - 1]
    assert changed_parts(chain / before, chain / stage) == parts
    statistics = [json.loads((chain / name / "model" / "latents.json").read_text()) for name in (before, stage)]
    for name, values in statistics[0].items():
        assert values == pytest.approx(statistics[1][name])


def test_another_runs_severity_head_is_taken_over(chain: Path, photographs: Path, tmp_path: Path) -> None:
    steered, severe = (load_parts(chain / stage / "model")[1] for stage in ("4-steering", "5-severity"))
    other = [f"train.init={chain / '4-steering'}", f"estimator.severity_from={chain / '5-severity'}"]
    task = build_task(stage_config("6-polish", photographs, tmp_path, *other))
    for name, value in task.estimator.state_dict().items():
        theirs = severe if name.startswith("severity.") else steered
        assert torch.equal(value, theirs.state_dict()[name]), name
    mistakes = {
        f"estimator.severity_from={chain / '1-prior'}": "has no severity head",
        "estimator.severity_depth=-1": "is 0 already and cannot become -1",
    }
    for words, sentence in mistakes.items():
        with pytest.raises(ConfigError, match=sentence):
            build_task(stage_config("6-polish", photographs, tmp_path, other[0], words))


def test_positioning_measures_the_range_that_later_stages_keep(chain: Path) -> None:
    ranges = []
    for stage in COMPACT_STAGES[2:]:
        estimator = load_parts(chain / stage / "model")[1]
        assert estimator is not None
        ranges.append((estimator.config["sigma_min"], estimator.config["sigma_max"]))
        assert len(estimator.config["similarity_quantiles"]) == 101
    assert len(set(ranges)) == 1
    assert 0 < ranges[0][0] < ranges[0][1] and ranges[0] != (0.223, 1.1606)


@pytest.mark.parametrize("stage", COMPACT_STAGES)
def test_log_grid_and_configuration(chain: Path, photographs: Path, stage: str) -> None:
    lines = [json.loads(line) for line in (chain / stage / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2]
    assert all(np.isfinite(value) for line in lines for value in line.values())
    with Image.open(chain / stage / "grids" / f"step_{STEPS:07d}.png") as grid:
        assert grid.width == 2 * 32 and grid.height % 32 == 0 and np.asarray(grid).std() > 1
    assert load_config(chain / stage / "config.yaml") == stage_config(stage, photographs, chain, *CHAIN)
    assert [p.name for p in sorted((chain / stage / "checkpoints").iterdir())] == [
        "step_0000002.safetensors",
        "step_0000003.safetensors",
    ]


@pytest.mark.parametrize("stage", ["0-autoencoder", "4-steering"])
def test_finished_stage_is_not_trained_again(chain: Path, photographs: Path, stage: str, monkeypatch) -> None:
    before = files_of(chain / stage)

    def refuse(*_: object) -> None:
        raise AssertionError("a finished stage took a step")

    monkeypatch.setattr(Trainer, "step", refuse)
    train_stage(stage_config(stage, photographs, chain, *CHAIN))
    assert files_of(chain / stage) == before
    # Interrupted between the last checkpoint and the result: the result is written, still without a step.
    for path in (chain / stage / "model").rglob("*.*"):
        path.unlink()
    train_stage(stage_config(stage, photographs, chain, *CHAIN))
    assert files_of(chain / stage) == before


# ---- resume ----


@pytest.mark.parametrize("stage", ["0-autoencoder", "2-positioning", "4-steering"])
def test_resume_is_bit_exact(chain: Path, photographs: Path, tmp_path: Path, stage: str, monkeypatch) -> None:
    init = [f"train.init={chain / COMPACT_STAGES[COMPACT_STAGES.index(stage) - 1]}"] if stage[0] != "0" else []
    settings = (
        *init,
        "train.steps=6",
        "train.save_every=3",
        "train.log_every=2",
        "train.grid_every=0",
        "train.ema=0.9",
    )
    train_stage(stage_config(stage, photographs, tmp_path / "whole", *settings))

    real_step = Trainer.step

    def interrupted(self, step, batches):
        if step == 5:
            raise KeyboardInterrupt
        return real_step(self, step, batches)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "step", interrupted)
        train_stage(stage_config(stage, photographs, tmp_path / "parts", *settings))
    whole, parts = (tmp_path / name / stage for name in ("whole", "parts"))
    assert not (parts / "model").exists() and (parts / "checkpoints" / "step_0000003.safetensors").is_file()
    train_stage(stage_config(stage, photographs, tmp_path / "parts", *settings))

    assert files_of(parts / "model") == files_of(whole / "model")
    states = [load_latest(folder / "checkpoints") for folder in (whole, parts)]
    assert_same(*states, "checkpoint")
    assert states[0] is not None and states[0]["step"] == 6
    assert ("critic" in states[0]["weights"]) == (stage == "4-steering")
    # The interrupted run had logged step 4 already.
    logs = [[json.loads(line) for line in (f / "log.jsonl").read_text().splitlines()] for f in (whole, parts)]
    for line in (line for log in logs for line in log):
        del line["seconds"]
    assert logs[0] == logs[1] and [line["step"] for line in logs[0]] == [2, 4, 6]


def test_checkpoints_are_found_by_number_and_written_whole(tmp_path: Path, caplog) -> None:
    assert load_latest(tmp_path / "nowhere") is None
    for step in (5, 20, 100):
        save_checkpoint(tmp_path, step, {"value": torch.tensor(step)}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_0000020.safetensors", "step_0000100.safetensors"]
    # Younger, but of a smaller number; half-written; not ours.
    (tmp_path / "step_0000020.safetensors").touch()
    (tmp_path / "step_0000200.partial").write_bytes(b"half")
    (tmp_path / "step_best.safetensors").write_bytes(b"other")
    state = load_latest(tmp_path)
    assert state is not None and state["step"] == 100 and int(state["value"]) == 100
    assert not caplog.text


@pytest.mark.parametrize("damage", ["cut off", "altered", "empty"])
def test_damaged_checkpoint_is_skipped_with_a_message(tmp_path: Path, caplog, damage: str) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"value": torch.arange(1000) * step}, keep=2)
    path = tmp_path / "step_0000002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"cut off": content[:-500], "altered": content, "empty": b""}[damage])
    state = load_latest(tmp_path)
    assert state is not None and state["step"] == 1
    assert "step_0000002.safetensors cannot be read and is skipped" in caplog.text
    (tmp_path / "step_0000001.safetensors").write_bytes(b"")
    with pytest.raises(TrainingError, match="remove the folder to start this stage anew"):
        load_latest(tmp_path)


def test_best_checkpoint_is_kept_beside_the_newest(tmp_path: Path) -> None:
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, {}, keep=2, best=2)
    assert [int(p.stem[5:]) for p in sorted(tmp_path.iterdir())] == [2, 4, 5]


def test_checkpoint_gives_back_what_was_put_in(tmp_path: Path) -> None:
    state = {
        "scalar": torch.tensor(1.5),
        "half": torch.randn(3, 2).bfloat16(),
        "strided": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "nested": {0: [1, 2.5, None], "tuple": (True, "text", [])},
        "float": 0.1 + 0.2,
    }
    save_checkpoint(tmp_path, 3, state, keep=1)
    assert_same(load_latest(tmp_path), {"step": 3, **state}, "checkpoint")


def test_checkpoint_without_space_leaves_the_others(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"value": torch.ones(10)}, keep=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(TrainingError, match=r"checkpoint of step 2 could not be written .* intact") as caught:
            save_checkpoint(tmp_path, 2, {"value": torch.ones(100_000)}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["step_0000001.safetensors"]


def test_checkpoint_of_the_layout_before_safetensors_resumes(chain: Path, photographs: Path, tmp_path: Path) -> None:
    stage = "2-positioning"
    settings = (f"train.init={chain / '1-prior'}", "train.steps=4", "train.save_every=2", "train.grid_every=0")
    for folder in ("whole", "old"):
        train_stage(stage_config(stage, photographs, tmp_path / folder, *settings))
    checkpoints = tmp_path / "old" / stage / "checkpoints"
    (checkpoints / "step_0000004.safetensors").unlink()
    state = load_latest(checkpoints)
    assert state is not None and state["step"] == 2
    (checkpoints / "step_0000002.safetensors").unlink()
    for name in ("scaler", "skipped", "best"):
        del state[name]
    torch.save(state, checkpoints / "step_0000002.pt")
    train_stage(stage_config(stage, photographs, tmp_path / "old", *settings))
    assert files_of(tmp_path / "old" / stage / "model") == files_of(tmp_path / "whole" / stage / "model")


def test_checkpoint_of_another_configuration(chain: Path, photographs: Path, tmp_path: Path) -> None:
    settings = (f"train.init={chain / '1-prior'}", "train.steps=2", "train.save_every=2", "train.grid_every=0")
    config = stage_config("2-positioning", photographs, tmp_path, *settings)
    train_stage(config)
    before = files_of(tmp_path)
    for other in ("method.args.train=[unet]", "estimator.width=16"):
        with pytest.raises(TrainingError, match=r"step 2 does not belong to this configuration") as caught:
            train_stage(stage_config("2-positioning", photographs, tmp_path, *settings, other))
        assert "\n" not in str(caught.value)
        assert files_of(tmp_path) == before


# ---- one step ----


@pytest.mark.parametrize("player", ["generator", "critic"])
def test_only_the_active_player_moves(chain: Path, photographs: Path, player: str) -> None:
    config = stage_config("4-steering", photographs, chain)
    task, batch = fresh_task(config), first_batch(config)
    parameters = {name: [p.detach().clone() for p in task.parameters_of(name)] for name in task.trainable()}
    frozen = {name: p.detach().clone() for name, p in task.backbone.vae.encoder.named_parameters()}
    optimizers = {name: torch.optim.SGD(task.parameters_of(name), lr=0.1) for name in task.trainable()}
    task.set_player("generator")
    losses = task.losses("generator", batch)
    if player == "critic":
        task.set_player("critic")
        losses = task.losses("critic", batch)
    # Either of these is enough for what follows; each has to hold by itself.
    trainable = {id(p) for p in task.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in task.parameters_of(player)}
    assert [name for name, value in batch.items() if isinstance(value, torch.Tensor) and value.requires_grad] == []
    torch.stack(list(losses.values())).sum().backward()
    for optimizer in optimizers.values():
        optimizer.step()
    for name, before in parameters.items():
        moved = any(not torch.equal(a, b) for a, b in zip(before, task.parameters_of(name), strict=True))
        assert moved == (name == player), name
    assert all(torch.equal(value, frozen[name]) for name, value in task.backbone.vae.encoder.named_parameters())


@pytest.mark.parametrize("stage", COMPACT_STAGES)
def test_losses_depend_on_weights_and_batch_alone(chain: Path, photographs: Path, stage: str) -> None:
    # Without the critic, whose spectral norms move at every call.
    config = stage_config(stage, photographs, chain, *(["loss.gan=0"] if stage[0] == "4" else []))
    task, batch = fresh_task(config), first_batch(config)
    states = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].copy(), torch.get_rng_state()
    first = {name: float(loss.detach()) for name, loss in task.losses("generator", copied(batch)).items()}
    assert random.getstate() == states[0]
    assert (np.random.get_state(legacy=False)["state"]["key"] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    torch.manual_seed(99)
    assert first == {name: float(loss.detach()) for name, loss in task.losses("generator", copied(batch)).items()}
    assert all(np.isfinite(value) for value in first.values())


def test_non_finite_loss_stops_and_is_named(chain: Path, photographs: Path, tmp_path: Path) -> None:
    config = stage_config("2-positioning", photographs, chain, f"train.run_dir={tmp_path}", "train.steps=2")
    task = fresh_task(config)
    with torch.no_grad():
        task.estimator.deviation_head.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"deviation.* is not finite at step 1") as caught:
        train(config, task, *build_photographs(config), Accelerator())
    assert "\n" not in str(caught.value)
    assert "positioning" not in str(caught.value), "a finite loss is blamed"
    assert not (tmp_path / "model").exists() and load_latest(tmp_path / "checkpoints") is None


@pytest.mark.parametrize(("override", "says"), [("loss.pixle=1", "pixle"), ("loss.noise=0", "No loss has a weight")])
def test_losses_that_do_not_exist(chain: Path, photographs: Path, tmp_path: Path, override: str, says: str) -> None:
    config = stage_config("1-prior", photographs, chain, f"train.run_dir={tmp_path}", "train.steps=1", override)
    with pytest.raises(TrainingError, match=says):
        train_stage(config)


# ---- data ----


@pytest.mark.parametrize("start", [0, 5])
def test_two_processes_see_the_stream_of_one(photographs: Path, start: int) -> None:
    whole = list(StepSampler(start, start + 3, 4))
    ranks = [list(StepSampler(start, start + 3, 4, rank, 2)) for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole
    assert whole[0] == [4 * start + i for i in range(4)] and len(StepSampler(start, start + 3, 4)) == 3
    with pytest.raises(ValueError, match="batch_size 4"):
        StepSampler(0, 1, 4, 0, 3)


def in_a_job_of_its_own(config: Config) -> None:
    os.setpgid(0, 0)
    try:
        train_stage(config)
    except Stopped:
        sys.exit(128 + signal.SIGTERM)


def test_sigterm_to_a_whole_job_reaches_its_readers_and_leaves_a_checkpoint(photographs: Path, tmp_path: Path) -> None:
    settings = ["train.steps=100000", "train.log_every=1", "train.save_every=100000", "data.workers=2"]
    config = stage_config("0-autoencoder", photographs, tmp_path, *settings)
    folder = Path(config.train.run_dir)
    job = multiprocessing.get_context("fork").Process(target=in_a_job_of_its_own, args=(config,))
    job.start()
    assert job.pid is not None
    try:
        deadline = time.monotonic() + 60
        while not (folder / "log.jsonl").is_file() or not (folder / "log.jsonl").read_text().endswith("\n"):
            assert job.is_alive() and time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(job.pid, signal.SIGTERM)
        # The stream is unfinished here, so its readers have to be ended.
        job.join(30)
        assert job.exitcode == 128 + signal.SIGTERM
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    state = load_latest(folder / "checkpoints")
    assert state is not None and state["step"] == len((folder / "log.jsonl").read_text().splitlines())


def test_a_reader_is_ended_by_its_parent_and_by_no_one_else(photographs: Path, tmp_path: Path) -> None:
    config = stage_config("0-autoencoder", photographs, tmp_path, "train.steps=30", "data.workers=1")
    stream = Stream(config, *build_photographs(config), Accelerator()).steps(0)
    next(stream)
    (reader,) = multiprocessing.active_children()
    subprocess.run(["kill", str(reader.pid)], check=True)
    # More than a reader reads ahead.
    assert len(list(islice(stream, 20))) == 20 and reader.is_alive()
    reader.terminate()
    reader.join(10)
    assert reader.exitcode == 0


def test_sample_depends_on_seed_and_index_alone(photographs: Path) -> None:
    paths = list_photographs(photographs)
    first, again, other = (Photographs(paths, 32, seed, 0.5, 0.5) for seed in (1, 1, 2))
    _ = [first[index] for index in range(5)]
    assert torch.equal(first[7][0], again[7][0]) and not torch.equal(first[7][0], other[7][0])
    assert not torch.equal(first[7][0], first[8][0])


@pytest.mark.parametrize("side", [150, 192, 241, 333])
def test_crop_of_any_photograph(tmp_path: Path, side: int) -> None:
    # 192 / (192 / 241) is a hair above 241: a crop of 242 from a photograph of 241 once stopped a run after an hour.
    Image.fromarray(skimage.data.astronaut()[:side, :300]).save(tmp_path / "photograph.png")
    crops = Photographs([tmp_path / "photograph.png"], crop=192, rescale_min=0.5, rescale_prob=0.5)
    assert all(crops[index][0].shape == (3, 192, 192) for index in range(20))


def test_rescaling_up_makes_targets_softer(photographs: Path) -> None:
    paths = list_photographs(photographs)
    plain, soft = (Photographs(paths, 64, 1, low, 1.0, high) for low, high in ((1.0, 1.0), (2.0, 2.0)))

    def sharpness(stream: Photographs) -> float:
        return sum(float((crop[:, 1:] - crop[:, :-1]).abs().mean()) for crop in (stream[i][0] for i in range(16)))

    assert sharpness(soft) < 0.8 * sharpness(plain)


def test_splits_share_nothing_and_miss_nothing(photographs: Path) -> None:
    parts = [set(list_photographs(photographs, split)) for split in ("train", "validation")]
    assert not parts[0] & parts[1] and parts[0] | parts[1] == set(list_photographs(photographs))
    assert all(is_validation(path) for path in parts[1])


def test_unreadable_picture_is_named(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.jpg").write_bytes((photographs / "astronaut.png").read_bytes()[:2000])
    stream = Photographs(list_photographs(tmp_path), 32)
    with pytest.raises(ValueError, match=r"torn\.jpg cannot be read") as caught:
        stream[0]
    assert "\n" not in str(caught.value)


def test_no_photographs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"does not exist; set data\.root"):
        list_photographs(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"No photograph of split 'train'"):
        list_photographs(tmp_path, "train")
    with pytest.raises(ValueError, match="split must be"):
        list_photographs(tmp_path, "test")


# ---- the command ----


def run_command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    """scripts/train.py with these words, in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "scripts" / "train.py"), run_name="__main__")
    return caught.value.code


def test_command_without_photographs(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(monkeypatch) not in (0, None)
    (message,) = capsys.readouterr().err.strip().splitlines()
    assert "data.root" in message
    assert not list(tmp_path.iterdir()), "something was written before the mistake was seen"


def test_command_with_an_unreadable_picture_in_a_worker(tmp_path: Path, monkeypatch, capsys) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "torn_1.png").write_bytes(b"no picture")
    stage = str(CONFIGS / "train" / "compact" / "0-autoencoder.yaml")
    own = [f"data.root={folder}", "data.split=all", f"train.run_dir={tmp_path / 'run'}", "data.workers=1"]
    assert run_command(monkeypatch, stage, *TINY, *own) == 1
    (message,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "torn_1.png cannot be read" in message and message.startswith("idas-sr train: error: ")
    # After an error PyTorch waits five seconds for a reader that has not been told to end, in whatever test comes next.
    for reader in multiprocessing.active_children():
        reader.terminate()


def test_stage_before_is_missing(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"0-autoencoder.* holds no finished stage.* train the stage before"
    ) as caught:
        train_stage(stage_config("1-prior", photographs, tmp_path))
    assert "\n" not in str(caught.value)


def test_unknown_precision(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fp32, bf16, fp16"):
        train_stage(stage_config("0-autoencoder", photographs, tmp_path, "train.precision=half"))


def test_without_a_configuration_all_compact_stages_run_in_order(monkeypatch, photographs: Path) -> None:
    trained: list[Config] = []
    monkeypatch.setattr(run, "train_stage", trained.append)
    main([f"data.root={photographs}", "train.steps=2"])
    assert [Path(config.train.run_dir).name for config in trained] == list(COMPACT_STAGES)
    assert [config.train.init for config in trained][1:] == [config.train.run_dir for config in trained][:-1]
    assert all(config.train.steps == 2 and config.data.root == str(photographs) for config in trained)
    trained.clear()
    main([str(CONFIGS / "train" / "compact" / "1-prior.yaml"), f"data.root={photographs}"])
    assert [config.method.name for config in trained] == ["prior"]
    trained.clear()
    with pytest.raises(ConfigError, match=r"data\.root"):
        main([])
    assert not trained


def test_share_of_the_steps_is_taken_of_every_stage() -> None:
    stages = [CONFIGS / "train" / "compact" / f"{name}.yaml" for name in COMPACT_STAGES]
    whole = [load_stage(stage, [], ["data.root=x"]) for stage in stages]
    part = [load_stage(stage, [], ["data.root=x", "train.steps=12.5%"]) for stage in stages]
    assert [c.train.steps for c in part] == [round(c.train.steps / 8) for c in whole]
    assert len({c.train.steps for c in part}) > 3
    assert load_stage(stages[0], [], ["data.root=x", "train.steps=0.001%"]).train.steps == 1
    for word in ("train.steps=-5%", "train.steps=half%", "train.steps=0%"):
        with pytest.raises(ConfigError, match=r"is no share; write train\.steps=25%"):
            load_stage(stages[0], [], ["data.root=x", word])


def test_files_of_all_stages_exist() -> None:
    paper = CONFIGS / "data" / "paper.yaml"
    configurations, others, overrides = stages_of([str(paper), "train.steps=2"])
    assert all(path.is_file() for path in configurations) and overrides == ["train.steps=2"] and others == [paper]
    assert [path.stem for path in configurations] == list(COMPACT_STAGES)
