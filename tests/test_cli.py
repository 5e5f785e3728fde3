"""The command line around restoring: what it lists, what it says about a machine, and that offline means offline."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from idas_sr import cli
from idas_sr.cli import catalogue, doctor
from idas_sr.networks.library import MODELS

ROOT = Path(__file__).parents[1]


def exit_code(*words: str) -> int:
    """Of a command line that the parser may end."""
    try:
        return cli.main(words)
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(command, "--help") == 0
    text = capsys.readouterr().out
    assert f"examples:\n  idas-sr {command}" in text and "--offline" in text


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^    {command}\s", text, re.M) for command in cli.COMMANDS) and "examples:" in text
    assert {path.stem for path in (ROOT / "idas_sr" / "cli").glob("*.py")} >= {
        c.replace("-", "_") for c in cli.COMMANDS
    }


def test_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("restore") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "invalid choice: 'restore'" in line and "infer" in line


def test_models_are_described_from_their_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("models", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    (compact,) = values["models"]
    files = list((MODELS / "compact").rglob("*.safetensors"))
    assert compact["size"] == sum(path.stat().st_size for path in files)
    assert compact["parameters"] == sum(tensor.numel() for path in files for tensor in load_file(path).values())
    assert compact["licence"] == "apache-2.0"
    assert "idas" in compact["methods"] and "idas" in [method["name"] for method in values["methods"]]
    assert all(one["licence"] and one["size"] for one in values["weights of others"])
    assert exit_code("models") == 0
    size = f"{compact['parameters'] / 1e6:.1f} M parameters, {compact['size'] / 2**20:.1f} MiB"
    assert f"compact    {size}; licence apache-2.0; methods: idas" in capsys.readouterr().out


def test_doctor_says_it_in_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert any(line.startswith("ok  compact    restores") for line in lines)
    assert all("  ->  " in line for line in lines if line.startswith("--") and "GPU" not in line)


def test_doctor_notices_a_broken_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr("idas_sr.networks.library.MODELS", tmp_path)
    assert exit_code("doctor") == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("NO")]
    assert "compact    does not restore (There is no model called" in line


def test_doctor_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "extras", lambda: {"iqa": ["pyiqa"], "plot": []})
    finding = doctor._extras()
    assert (finding.state, finding.detail) == ("--", "plot there; without iqa")
    assert finding.command is not None and finding.command.startswith("pip install") and "[iqa]" in finding.command


UNKNOWN = ("infer", "-i", str(ROOT / "examples"), "--model", "nobody/nothing", "--offline")


def test_offline_is_told_to_the_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HF_HUB_OFFLINE", "WANDB_MODE", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "unset")
    assert exit_code(*UNKNOWN, "-o", str(tmp_path / "out")) == 2
    assert (os.environ["HF_HUB_OFFLINE"], os.environ["WANDB_MODE"]) == ("1", "offline")
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    (line,) = capsys.readouterr().err.splitlines()
    assert "nobody/nothing" in line and "neither a folder here nor to be had from the Hub" in line


@pytest.mark.slow
def test_offline_reaches_the_hub_client_wherever_it_stands(tmp_path: Path) -> None:
    """In a process of its own: the libraries read the variable once, when they are imported."""
    code = "import sys; from idas_sr.cli import main; c = main(sys.argv[1:]); import huggingface_hub.constants as k;"
    code += "print(c, k.HF_HUB_OFFLINE)"
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code, *UNKNOWN, "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert done.stdout.split() == ["2", "True"]
    (line,) = done.stderr.splitlines()
    assert "nobody/nothing" in line and "neither a folder here nor to be had from the Hub" in line
