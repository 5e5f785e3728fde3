"""Every command in the documentation is run by a test, or says in its first line what it needs.

A fenced block of bash or Python starts with ``# needs: WHAT`` where it cannot run everywhere, or with
``# run by: FILE`` where a test of its own runs it; where readers should not see it, the line before the block is
``<!-- needs: WHAT -->``. All others are run here, page by page and in their order, in a folder that has what pages
speak of.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import tiny_pipeline
from omegaconf import OmegaConf
from PIL import Image
from skimage import data

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "integrations").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "idas_sr/models/compact/README.md")),
    ]
)
FENCE = re.compile(r"(?:^<!-- ((?:needs|run by): [^\n]*?) -->\n)?^```(\w+)[^\n]*\n(.*?)^```", re.S | re.M)
MARK = re.compile(r"(?:# )?(needs|run by): (\S.*)")
PROGRAMS = {"python", "idas-sr", "grep", "pytest", "ruff", "mypy", "bash"}


@dataclass
class Block:
    """One fenced block: its language, what it says it needs or who runs it, and its text."""

    language: str
    needs: str | None
    run_by: str | None
    text: str


def blocks_of(page: str) -> list[Block]:
    blocks = []
    for unseen, language, text in FENCE.findall(page):
        mark = MARK.match(unseen or text)
        kind, words = mark.groups() if mark else ("", None)
        blocks.append(Block(language, words if kind == "needs" else None, words if kind == "run by" else None, text))
    return blocks


def commands_of(block: Block) -> list[list[str]]:
    """Words of every command of a bash block, continued lines joined."""
    lines = block.text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [command for command in words if command]


def complaint(block: Block) -> str | None:
    """Why a block could neither be run nor be skipped with a reason; None where nothing is wrong."""
    if block.language == "yaml":
        return None if OmegaConf.create(block.text) else "empty"
    if block.run_by and not (ROOT / block.run_by).is_file():
        return f"{block.run_by} does not exist"
    if block.language == "python":
        compile(block.text, "block", "exec")
        return None
    if block.language != "bash":
        return f"nobody runs {block.language}"
    for command in commands_of(block):
        plain = [word for word in command if "=" not in word.split("/")[0]]
        script = next((word for word in plain if word.startswith("scripts/")), None)
        if script and not (ROOT / script).is_file():
            return f"{script} does not exist"
        if not (block.needs or block.run_by) and command[0] not in PROGRAMS:
            return f"say what `{shlex.join(command)}` needs, in a first line `# needs: ...`"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_runs_or_says_what_it_needs(page: Path) -> None:
    complaints = [complaint(block) for block in blocks_of(page.read_text(encoding="utf-8"))]
    assert [words for words in complaints if words] == []


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("bash\npip install something", "needs"),
        ("bash\npython scripts/nothing.py", "does not exist"),
        ("bash\n# needs: GPUs\npython scripts/nothing.py", "does not exist"),
        ("bash\n# run by: tests/nothing.py\npython scripts/infer.py", "does not exist"),
        ("perl\nprint 1", "nobody"),
    ],
)
def test_a_command_without_a_mark_is_seen(block: str, words: str) -> None:
    (found,) = blocks_of(f"text\n```{block}\n```\n")
    assert words in (complaint(found) or "")
    for marked in ("```bash\n# needs: a GPU\nnvidia-smi\n```\n", "<!-- needs: a GPU -->\n```bash\nnvidia-smi\n```\n"):
        assert [complaint(block) for block in blocks_of(marked)] == [None]


def prepare(folder: Path) -> None:
    """What the pages speak of: pictures, pairs, and the repository's own folders as copies or links."""
    for name in (
        "scripts",
        "configs",
        "idas_sr",
        "tests",
        "integrations",
        "notebooks",
        "mkdocs.yml",
        "pyproject.toml",
        "nano_idas.py",
    ):
        (folder / name).symlink_to(ROOT / name)
    for name in ("docs", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("folder", "photos", "LQ", "HQ"):
        (folder / name).mkdir()
    for name in ("photo.jpg", "large.jpg"):
        Image.fromarray(data.coffee()[100:148, 100:164]).save(folder / name)
    Image.linear_gradient("L").resize((64, 48)).save(folder / "where.png")
    for name, picture in (("cat", data.chelsea()), ("coffee", data.coffee())):
        hq = Image.fromarray(picture[:256, :256])
        hq.save(folder / "HQ" / f"{name}.png")
        hq.resize((64, 64), Image.Resampling.BICUBIC).save(folder / "LQ" / f"{name}.png")
        Image.fromarray(picture[:40, :56]).save(folder / "folder" / f"{name}.jpg")
        Image.fromarray(picture[:40, :48]).save(folder / "photos" / f"{name}.jpg")
    tiny_pipeline().save_pretrained(folder / "my-model")


def runnable(page: Path) -> list[Block]:
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    return [b for b in blocks if b.language in ("bash", "python") and not (b.needs or b.run_by)]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p)], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_run(page: Path, tmp_path: Path) -> None:
    prepare(tmp_path)
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": programs, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hub")}
    for block in runnable(page):
        start = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*start, block.text], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
