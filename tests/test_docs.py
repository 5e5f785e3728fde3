"""Everything the documentation names exists: functions, files, configurations, keys of a configuration, links."""

import importlib
import re
from pathlib import Path

import pytest
import skimage.data
import torch

from idas_sr import build
from idas_sr.config import load_config

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))])
PAGES = [page for page in PAGES if page.is_file()]

FOLDERS = ("idas_sr", "configs", "scripts", "tests", "docs", "examples")
FILE = re.compile(rf"(?<![\w./])(?:{'|'.join(FOLDERS)})/[\w./-]*\w/?")
OBJECT = re.compile(r"(?<![\w./])idas_sr(?:\.\w+)+")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def code_in(text: str) -> str:
    """Fenced blocks and everything between backticks."""
    blocks = re.findall(r"```.*?```", text, re.S)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))])


def missing_files(text: str) -> list[str]:
    # Capitals stand for something to fill in.
    names = {name for name in FILE.findall(code_in(text)) if not re.search(r"[/_][A-Z]+(\.|$)", name)}
    return sorted(name for name in names if not (ROOT / name).exists())


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute (of an attribute ...) of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def missing_objects(text: str) -> list[str]:
    names = {name for name in OBJECT.findall(code_in(text)) if not name.endswith((".py", ".egg"))}
    return sorted(name for name in names if not exists(name))


def anchors_of(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path, text: str) -> list[str]:
    broken = []
    for link in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.S)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    assert missing_files(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_objects_exist(page: Path) -> None:
    assert missing_objects(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_training_commands_are_valid(page: Path) -> None:
    commands = re.findall(
        r"scripts/train\.py( configs/\S+)?((?: [\w.]+=\S+)+)", code_in(page.read_text(encoding="utf-8"))
    )
    for stage, overrides in commands:
        layers = [ROOT / "configs" / "base.yaml", *([ROOT / stage.strip()] if stage else [])]
        load_config(*layers, overrides=["train.run_dir=runs/x", *overrides.split()])


def test_training_page_has_commands() -> None:
    assert len(re.findall(r"scripts/train\.py", (ROOT / "docs" / "training.md").read_text(encoding="utf-8"))) >= 4


def test_example_method_trains(monkeypatch) -> None:
    text = (ROOT / "docs" / "adding_a_method.md").read_text(encoding="utf-8")
    source = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "class FixedTimestep" in block)
    names = {"Path": Path, "torch": torch, "nn": torch.nn, "Tensor": torch.Tensor}
    for module, name in (
        ("methods.base", "Method"),
        ("methods.task", "Batch Losses to_signed to_unit"),
        ("networks.store", "save_parts"),
        ("noise", "canvas_noise"),
        ("types", "Anchor"),
    ):
        names |= {n: getattr(importlib.import_module(f"idas_sr.{module}"), n) for n in name.split()}
    exec(compile(source, "docs/adding_a_method.md", "exec"), names)
    monkeypatch.setitem(build.METHODS, "fixed", names["FixedTimestep"])
    overrides = ["data.root=x", "train.run_dir=y", "method.name=fixed", "method.args.timestep=250", "loss.latent=1"]
    task = build.build_task(load_config(ROOT / "configs" / "base.yaml", overrides=overrides))
    task.unfreeze()
    batch = {
        "hq": torch.from_numpy(skimage.data.astronaut()[:64, :64].copy()).permute(2, 0, 1)[None].float() / 255,
        "seed": torch.tensor([3]),
        "uniform": torch.full((1, 8), 0.5),
    }
    batch["lq"] = torch.nn.functional.interpolate(batch["hq"], scale_factor=0.25, mode="area")
    losses, _ = task("generator", batch)
    losses["latent"].backward()
    assert losses["latent"].isfinite() and any(p.grad is not None for p in task.parameters_of("generator"))
    assert task.grid(batch).shape == (2, 3, 64, 64)


def test_mistakes_are_seen() -> None:
    text = "`idas_sr.schedule.NoiseSchedule.coeff` `idas_sr.nowhere` `idas_sr.schedule` `idas_sr/nowhere.py` `tests/`"
    text += " `tests/test_method_NAME.py`"
    assert missing_objects(text) == ["idas_sr.nowhere", "idas_sr.schedule.NoiseSchedule.coeff"]
    assert missing_files(text) == ["idas_sr/nowhere.py"]
    page = ROOT / "docs" / "training.md"
    assert broken_links(page, "[a](nowhere.md) [b](#resume) [c](#nowhere) [d](https://example.org)") == [
        "nowhere.md",
        "#nowhere",
    ]
