"""Weights of others: read without running their code, taken whole or refused, and described by scripts/convert.py."""

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from idas_sr.networks.checkpoints import candidates, compare, contents_of, load_component, load_strict, read_tensors
from idas_sr.networks.hd_clip import HDCLIP
from idas_sr.networks.library import MODELS

SCRIPT = Path(__file__).parents[1] / "scripts" / "convert.py"
SQUEEZENET = Path(__file__).parents[2] / "shared" / "data" / "weights" / "squeezenet_v10.pth"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


class Trap:
    """What a file with code in it would do: unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self.path),)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "nested.pth"])
def test_reads_both_formats_and_nested_ones(tmp_path: Path, name: str) -> None:
    state, path = network().state_dict(), tmp_path / name
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "step": 3} if name.startswith("nested") else state, path)
    found = read_tensors(path)
    prefix = "state_dict." if name.startswith("nested") else ""
    assert found.keys() == {prefix + key for key in state}
    assert all(torch.equal(found[prefix + key], value) for key, value in state.items())


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2), "trap": Trap(tmp_path / "sprung")}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="reading those would run code"):
        read_tensors(tmp_path / "weights.pt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cut.safetensors", b"\x10\x00", "cannot be read as safetensors"),
        ("cut.pt", b"PK\x03\x04nothing", "cannot be read|damaged"),
        ("weights.txt", b"1 2 3", "is no checkpoint"),
        ("nowhere.pt", None, "There is no file"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as said:
        read_tensors(tmp_path / name)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("0.bias"), r"1 tensors are missing \(0\.bias\)"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 have no place in it \(extra\)"),
        (lambda s: s.update({"1.bias": torch.zeros(5)}), r"1\.bias is 5 in the file and 2 here"),
    ],
)
def test_loads_whole_or_not_at_all(change, words: str) -> None:  # type: ignore[no-untyped-def]
    target = network()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()}
    load_strict(target, state, "FILE")
    assert all(torch.equal(value, before[key] + 1) for key, value in target.state_dict().items())
    load_strict(target, before, "FILE")
    change(state)
    with pytest.raises(ValueError, match=words):
        load_strict(target, state, "FILE")
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_a_component_with_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    HDCLIP(width=4, embedding=8).save_pretrained(tmp_path)
    assert load_component(HDCLIP, tmp_path).config["embedding"] == 8
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["scale.origin"]
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"not those of this HDCLIP: 1 tensors are missing \(scale\.origin\)"):
        load_component(HDCLIP, tmp_path)


def test_counts_and_prefixes() -> None:
    state = {f"state_dict.net.{k}": v for k, v in network().state_dict().items()} | {"step": torch.tensor(float("nan"))}
    contents = contents_of(state)
    assert contents.parts == {"state_dict": (4, 26), "step": (1, 1)}
    assert contents.dtypes == {"float32": 5} and contents.broken == ("step",)
    assert compare(network().state_dict(), candidates(state)["state_dict.net."]).is_whole


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["convert.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_inspect_knows_the_shipped_prior(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = MODELS / "compact" / "unet" / "diffusion_pytorch_model.safetensors"
    if not path.is_file():
        pytest.skip("the compact model is not in this checkout")
    assert run(["inspect", str(path)], monkeypatch) == 0
    said = capsys.readouterr().out
    assert "Closest: compact/unet: 246 tensors fit." in said and "It can be loaded" in said
    assert run(["inspect", str(path), "--against", "sd-turbo/unet"], monkeypatch) == 1
    said = capsys.readouterr().out
    assert "It cannot be loaded" in said and "missing: " in said


def test_inspect_says_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    assert run(["inspect", str(tmp_path / "a.safetensors"), "--against", "vgg"], monkeypatch) == 2
    assert "no network called 'vgg'; choose one of compact/vae" in capsys.readouterr().err
    assert run(["inspect", str(tmp_path / "b.pt")], monkeypatch) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert run(["inspect", str(tmp_path / "a.safetensors")], monkeypatch) == 0
    assert "no tensor in common" in capsys.readouterr().out


def test_inspect_reads_a_file_of_others(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if not SQUEEZENET.is_file():
        pytest.skip("SqueezeNet's weights are not beside this checkout")
    assert run(["inspect", str(SQUEEZENET)], monkeypatch) == 0
    said = capsys.readouterr().out
    assert "parameters" in said and ("no tensor in common" in said or "It cannot be loaded" in said)
