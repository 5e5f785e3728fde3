"""Every script can be loaded, and the one that measures the anchor measures a real photograph."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import skimage.data
import torch
from PIL import Image

from idas_sr.evaluation.heldout import held_out_pairs
from idas_sr.pipeline import IDaSSRPipeline

SCRIPTS = sorted((Path(__file__).parents[1] / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_loads(script: Path) -> None:
    assert callable(runpy.run_path(str(script), run_name="loaded")["main"])


def test_train_says_how_to_use_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script = next(path for path in SCRIPTS if path.stem == "train")
    monkeypatch.setattr("sys.argv", ["train.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(script), run_name="__main__")
    assert stopped.value.code in (0, None)
    assert "The same command again resumes" in capsys.readouterr().out


def loaded(name: str) -> dict[str, Any]:
    return runpy.run_path(str(SCRIPTS[[path.stem for path in SCRIPTS].index(name)]), run_name="loaded")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    # The split is made by name: this one is held out.
    Image.fromarray(skimage.data.coffee()[:, ::-1]).save(folder / "held_out_2.png")
    return folder


def test_measure_anchor(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "anchor.json"
    arguments = ["--photographs", str(photographs), "--json", str(output)]
    monkeypatch.setattr("sys.argv", ["measure_anchor.py", *arguments])
    assert loaded("measure_anchor")["main"]() == 0
    assert '"t_hat_iqr"' in output.read_text()


def test_a_zoomed_pair_is_a_softer_centre_of_the_same_size(photographs: Path) -> None:
    ((lq, hq),) = held_out_pairs(photographs, 1, "bicubic")
    ((soft_lq, soft_hq),) = held_out_pairs(photographs, 1, "bicubic", zoom=2.0)
    assert soft_hq.shape == hq.shape and soft_lq.shape == lq.shape
    height, width = hq.shape[-2:]
    centre = hq[..., height // 4 : height // 4 + height // 2, width // 4 : width // 4 + width // 2]
    # Enlarged by two and then averaged by two, the centre is itself again, but for what interpolation rounds off.
    again = torch.nn.functional.avg_pool2d(soft_hq, 2)
    assert (
        float((again - centre).abs().mean()) < 0.01 < float((again - hq[..., : height // 2, : width // 2]).abs().mean())
    )
    assert float((soft_hq[..., 1:] - soft_hq[..., :-1]).abs().mean()) < float((hq[..., 1:] - hq[..., :-1]).abs().mean())


def test_round_trip_is_the_autoencoders_own(tiny: IDaSSRPipeline) -> None:
    round_trip, backbone = loaded("measure_autoencoder")["round_trip"], tiny.restorer.backbone
    hq = torch.from_numpy(skimage.data.coffee()[:64, :96].copy()).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        expected = (backbone.decode(backbone.encode(hq * 2 - 1)) / 2 + 0.5).clamp(0, 1)
    assert float((round_trip(tiny, hq) - expected).abs().max()) <= 0.5 / 255 + 1e-6
    assert round_trip(tiny, hq[..., :61, :93]).shape == (1, 3, 61, 93)
