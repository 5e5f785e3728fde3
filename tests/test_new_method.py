"""A method that ``idas-sr new-method`` starts is part of the repository at once, and keeps the contract as it is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from idas_sr.build import METHODS
from idas_sr.cli import main
from idas_sr.scaffold.method import BUILD, class_name, new_method, with_method

ROOT = Path(__file__).parents[1]
METHOD = "idas_sr/methods/fixed.py"
STAGE = "configs/train/compact/methods/fixed.yaml"
NEEDED = tuple(f"tests/{name}.py" for name in ("conftest", "contract", "test_config", "test_layers", "test_parameters"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a method touches, with a method of every kind of name in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("idas_sr", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "models", "*.npz"))
    (folder / "idas_sr" / "models").symlink_to(ROOT / "idas_sr" / "models")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    (folder / "tests").mkdir()
    for name in (*NEEDED, "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for source in (ROOT / "idas_sr").rglob("*.npz"):
        (folder / source.relative_to(ROOT)).symlink_to(source)
    for name in ("fixed", "zz_top2", "a" * 30):
        assert main(["new-method", name, "--repository", str(folder)]) == 0
    return folder


def run(checkout: Path, *words: str) -> str:
    """A program of Python's in the checkout, with its package; its output."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_what_is_written_follows_the_rules_of_the_repository(checkout: Path) -> None:
    new = ["idas_sr/build.py", "idas_sr/methods", "tests"]
    run(checkout, "ruff", "check", *new)
    run(checkout, "ruff", "format", "--check", *new)
    build = (checkout / BUILD).read_text()
    assert '    "fixed": Fixed,\n    "zz_top2": ZzTop2,\n' in build
    assert build.index("methods.fixed") < build.index("methods.hd_clip") < build.index("methods.zz_top2")
    assert "fixed" not in METHODS, "the copy was to be changed, not this"


@pytest.mark.slow
def test_a_new_method_passes_the_contract_as_it_is(checkout: Path) -> None:
    always = ["pytest", "-q", "-p", "no:cacheprovider", "tests/test_method_fixed.py"]
    assert "5 passed" in run(checkout, *always)
    assert "2 passed" in run(checkout, *always, "-m", "slow")
    # And the tests of all methods and stages take it for one of theirs.
    assert "fixed" in run(
        checkout,
        "pytest",
        "-v",
        "tests/test_config.py",
        "tests/test_layers.py",
        "tests/test_parameters.py",
        "-k",
        "fixed or point_downwards or golden_row",
    )


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "before", "after", "test"),
    [
        (METHOD, "own if timestep is None else timestep)", "own + torch.rand(len(own)))", "test_restores"),
        (METHOD, "Anchor(own", "Anchor(own + hash(object()) % 97", "test_a_stopped_run_goes_on_to_the_bit"),
        (METHOD, "Anchor(own", "Anchor(own + len(lq)", "test_two_processes_follow_one"),
        (STAGE, "pixel: 0.5", "pixels: 0.5", "test_trains"),
        (STAGE, "name: fixed", "name: osediff", "test_it_has_a_row_in_the_study"),
    ],
    ids=["restores", "resumes", "spreads", "trains", "has a row"],
)
def test_the_contract_notices_a_method_that_breaks_it(
    checkout: Path, file: str, before: str, after: str, test: str
) -> None:
    path = checkout / file
    whole = path.read_text()
    assert whole.count(before) == 1
    path.write_text(whole.replace(before, after))
    try:
        with pytest.raises(AssertionError, match=f"FAILED .*{test}"):
            run(checkout, "pytest", "-q", "-p", "no:cacheprovider", f"tests/test_method_fixed.py::{test}", "-m", "")
    finally:
        path.write_text(whole)


def test_mistakes_write_nothing_and_are_one_sentence(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "tests" / "test_method_taken.py").write_text("")
    before = {path: path.stat().st_mtime_ns for path in checkout.rglob("*.py")}
    cases = {
        "MyMethod": "cannot be the name of a method",
        "my-method": "cannot be the name of a method",
        "2x": "cannot be the name of a method",
        "a" * 31: "cannot be the name of a method",
        "../evil": "cannot be the name of a method",
        "lambda": "cannot be the name of a method",
        "osediff": "There is a method called osediff already",
        "prior": "There is a method called prior already",
        "fixed": "is there already",
        "restorer": "is there already",
        "taken": "is there already",
        "config": "The class would be called Config",
    }
    for name, words in cases.items():
        assert main(["new-method", name, "--repository", str(checkout)]) == 2, name
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line, line
    assert main(["new-method", "mine", "--repository", str(tmp_path)]) == 2
    assert "is no checkout of this repository" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in checkout.rglob("*.py")} == before


def test_a_failure_half_way_leaves_nothing(checkout: Path) -> None:
    stages = checkout / "configs" / "train" / "compact" / "methods"
    stages.rename(stages.with_name("elsewhere"))
    stages.write_text("no folder")
    try:
        with pytest.raises(OSError):
            new_method("half", checkout)
    finally:
        stages.unlink()
        stages.with_name("elsewhere").rename(stages)
    assert not list(checkout.rglob("*half*")) and "half" not in (checkout / BUILD).read_text()


def test_lines_go_where_they_belong() -> None:
    source = (ROOT / BUILD).read_text()
    changed = with_method(source, "my_idea")
    added = set(changed.splitlines()) - set(source.splitlines())
    assert added == {"from idas_sr.methods.my_idea import MyIdea", '    "my_idea": MyIdea,'}
    assert class_name("my_idea") == "MyIdea" and class_name("s4") == "S4"
    with pytest.raises(ValueError, match="by hand"):
        with_method("METHODS = {}", "my_idea")
