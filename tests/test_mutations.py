"""Each of these one-line mistakes, made in a copy of the package, turns a named test red."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEST_FILES = ("conftest.py", "test_section9.py", "test_networks.py")

pytestmark = pytest.mark.mutation


@dataclass(frozen=True)
class Mutation:
    """``before`` becomes ``after`` in ``source``; ``test`` must notice."""

    source: str
    before: str
    after: str
    test: str


MUTATIONS = {
    "N1 swapped for N4": Mutation(
        "steering.py",
        '"n1": Churn,',
        '"n1": Linear,',
        "test_section9.py::test_T4_variance_n1_keeps_the_declared_level[s2-absolute]",
    ),
    "N1's weights are N4's": Mutation(
        "steering.py",
        "return sigma, (target**2 - sigma**2).clamp_min(0).sqrt(), target\n",
        "return target * (1 - realism), target * realism, target\n",
        "test_section9.py::test_T4_variance_n1_keeps_the_declared_level[s2-absolute]",
    ),
    "index 199 for 200": Mutation(
        "schedule.py",
        "timestep = timestep.double().clamp(0, len(self) - 1)",
        "timestep = (timestep.double() - 1).clamp(0, len(self) - 1)",
        "test_section9.py::test_T2_index_convention",
    ),
    "w not recomputed after rounding": Mutation(
        "steering.py",
        "signal, _, target = schedule.coef(position)",
        "signal, target = schedule.coef(position)[0], "
        "self.reschedule(sigma, self.end_point(sigma, schedule), r, schedule)",
        "test_section9.py::test_T6_reschedule[True-s2-relative]",
    ),
    "anchor not rounded with its position": Mutation(
        "steering.py",
        "            timestep = timestep.round()\n",
        "            pass\n",
        "test_section9.py::test_T3_realism_0_draws_nothing[True]",
    ),
    "VAE mode swapped for sample": Mutation(
        "networks/backbone.py",
        "latent_dist.mode()",
        "latent_dist.sample()",
        "test_networks.py::test_encode_is_the_scaled_mode",
    ),
    "fresh noise at realism 0": Mutation(
        "steering.py",
        "if bool((fresh != 0).any()):",
        "if fresh.add_(1e-3) is not None:",
        "test_section9.py::test_T3_realism_0_does_not_depend_on_the_seed",
    ),
    "x0 formula with the anchor's w": Mutation(
        "methods/base.py",
        "tokens, sigma, anchor.control",
        "tokens, self.backbone.schedule.sigma(anchor.timestep), anchor.control",
        "test_section9.py::test_T1_x0_uses_the_states_level_and_no_other",
    ),
}


def copy_package(folder: Path) -> Path:
    """A folder with the package's sources and the tests that are to run on them."""
    shutil.copytree(ROOT / "idas_sr", folder / "idas_sr", ignore=shutil.ignore_patterns("models", "__pycache__"))
    (folder / "tests").mkdir()
    for name in TEST_FILES:
        shutil.copy(ROOT / "tests" / name, folder / "tests")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run(folder: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run tests of a copy on that copy, whatever package is installed."""
    # -P and the path keep another copy of the package, or the working directory's, from being imported instead.
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    names = [f"tests/{test}" for test in tests]
    command = [sys.executable, "-P", "-c", code, "-q", "-rA", "--tb=no", "-p", "no:cacheprovider", *names]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_unmutated_copy_is_green(tmp_path: Path) -> None:
    tests = {mutation.test for mutation in MUTATIONS.values()}
    done = run(copy_package(tmp_path), *tests)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(tests)} passed" in done.stdout


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_turns_its_test_red(name: str, tmp_path: Path) -> None:
    mutation = MUTATIONS[name]
    source = copy_package(tmp_path) / "idas_sr" / mutation.source
    text = source.read_text(encoding="utf-8")
    assert mutation.before in text, f"{mutation.source} no longer holds what this mutation changes: {mutation.before!r}"
    source.write_text(text.replace(mutation.before, mutation.after), encoding="utf-8")
    done = run(tmp_path, mutation.test)
    # Exit code 1 and the name: the test ran and failed. An import that breaks, or a name that is gone, is another code.
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"FAILED tests/{mutation.test}" in done.stdout, done.stdout
