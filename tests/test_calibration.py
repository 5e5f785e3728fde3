"""Calibrating a dial: tables that do what they say, and a script that stores them where the pipeline finds them."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_pipeline
from PIL import Image
from skimage import data

from idas_sr import cli
from idas_sr.dial import Calibration
from idas_sr.evaluation.calibration import (
    KINDS,
    MOVES,
    Curve,
    best_fixed,
    dial_table,
    even_grid,
    fine_grid,
    load_pairs,
    measure,
    severity_table,
)
from idas_sr.losses import FeatureDistance
from idas_sr.networks.library import MODELS
from idas_sr.pipeline import IDaSSRPipeline

SHARED = Path(__file__).parents[2] / "shared" / "data"
WEIGHTS, PHOTOGRAPHS = SHARED / "weights" / "squeezenet_v10.pth", SHARED / "train_open"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"SqueezeNet's weights are not at {WEIGHTS}")
needs_photographs = pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"no photographs at {PHOTOGRAPHS}")


def curve(
    realism: tuple[float, ...], way: np.ndarray, best: float = 0.0, timestep: float = 0.0, power: float = 1.0
) -> Curve:
    """A picture that is ``way`` far from where it began, and closest to its reference at realism ``best``."""
    values = tuple(float((r - best) ** 2) for r in realism)
    apart = np.abs(way[:, None] - way[None]) ** power
    return Curve(timestep, realism, tuple(map(tuple, apart.tolist())), values, values)


@pytest.mark.parametrize("power", [1.0, 0.6])
def test_equal_moves_of_the_table_are_equal_steps(power: float) -> None:
    # As fresh noise does: the way grows with the root of realism, and with realism beside it.
    def way(r: np.ndarray) -> np.ndarray:
        return 3 * np.sqrt(r) + 2 * r

    # Where distances do not add up (power below 1), several short moves are longer than a long one.
    grid = fine_grid(24)
    table = dial_table([curve(grid, way(np.array(grid)), power=power)])
    steps = np.diff(way(np.array([Calibration(table).raw_of(p) for p in even_grid(MOVES)]))) ** power
    assert steps.max() / steps.min() < 1.08
    raw = np.diff(way(np.array(even_grid(MOVES)))) ** power
    assert raw.max() / raw.min() > 1.9 and table[0] == 0 and table[-1] == 1


def test_severity_chooses_what_was_best_there() -> None:
    grid = even_grid(8)
    told = np.linspace(100, 300, 21)
    curves = [curve(grid, np.array(grid), float(np.interp(t, [120, 280], [0.75, 0.25])), float(t)) for t in told]
    timesteps, realism = severity_table(curves)
    assert timesteps == (120.0, 200.0, 280.0) and realism == (0.75, 0.5, 0.25)
    assert best_fixed(curves) == 0.5


@needs_weights
def test_a_curve_is_what_the_pipeline_gives() -> None:
    pipe, distance = tiny_pipeline(), FeatureDistance.yardstick(WEIGHTS)
    hq = torch.from_numpy(data.chelsea()[60:124, 100:180].copy()).permute(2, 0, 1)[None].float() / 255
    lq = hq[..., ::4, ::4]
    found = measure(pipe.restorer, (lq, hq), (0.0, 0.4, 1.0), distance, 7)
    made = pipe([lq[0]] * 3, realism=[0, 0.4, 1], seed=7, output_type="pt", return_trace=True)
    saved = (made.images * 255).round() / 255
    expected = distance(saved * 2 - 1, hq.expand(3, -1, -1, -1) * 2 - 1)
    assert found.sqdist == pytest.approx(expected.tolist(), rel=1e-3)
    steps = distance(made.images[:-1] * 2 - 1, made.images[1:] * 2 - 1).sqrt()
    assert found.steps == pytest.approx(steps.tolist(), rel=1e-3)
    assert found.timestep == pytest.approx(made.trace[0]["t_hat"], rel=1e-3) and len(found.psnr_y) == 3


@needs_photographs
def test_both_halves_of_the_photographs_get_every_kind() -> None:
    pairs = load_pairs(PHOTOGRAPHS, 2)
    assert all(lq.shape[-1] * 4 == hq.shape[-1] == 256 for lq, hq in pairs)
    places = range(16)
    kinds = [KINDS[place // 2 % len(KINDS)] for place in places]
    assert set(kinds[::2]) == set(kinds[1::2]) == set(KINDS)
    with pytest.raises(ValueError, match="held-out photographs"):
        load_pairs(PHOTOGRAPHS, 100_000)


def test_the_shipped_models_dial_is_calibrated_for_its_own_steering() -> None:
    if not (MODELS / "compact").is_dir():
        pytest.skip("the compact model has not been exported into this checkout")
    dial = IDaSSRPipeline.from_pretrained("compact").calibration
    card = (MODELS / "compact" / "README.md").read_text(encoding="utf-8")
    if not dial.timesteps:
        assert "calibrate_dial: end -->" in card
        pytest.skip("this version of the model has not been calibrated yet")
    shown = " | ".join(f"{dial.raw_of(position):.3f}" for position in even_grid(10))
    # What is fastest at first on the raw dial is slowed down: the table lies below the diagonal.
    assert f"| raw | {shown} |" in card and all(dial.raw_of(p) < p for p in even_grid(10)[1:-1])


def script():  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location(
        "calibrate_dial", Path(__file__).parents[1] / "scripts/calibrate_dial.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_stored_where_the_pipeline_finds_them(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path)
    marks = script().MARKS
    (tmp_path / "README.md").write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n")
    steering = {"name": "n1", "args": {}}
    config = {"steering": steering, "table": [0, 0.3, 1], "auto": {"timesteps": [100.0], "realism": [0.2]}}
    block = f"{marks[0]}\nnew\n{marks[1]}"
    assert script().store(str(tmp_path), "idas", config, block) == [
        tmp_path / "model_index.json",
        tmp_path / "README.md",
    ]
    assert (tmp_path / "README.md").read_text() == f"before\n{block}\nafter\n"
    pipe = IDaSSRPipeline.from_pretrained(tmp_path)
    assert pipe.calibration == Calibration((0, 0.3, 1), (100.0,), (0.2,))
    pipe.save_pretrained(tmp_path / "again")
    assert IDaSSRPipeline.from_pretrained(tmp_path / "again").calibration == pipe.calibration


@pytest.mark.slow
@needs_weights
@needs_photographs
def test_the_script_calibrates_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    words = [
        "calibrate_dial",
        str(tmp_path / "model"),
        "--squeezenet",
        str(WEIGHTS),
        "--json",
        str(tmp_path / "f.json"),
    ]
    monkeypatch.setattr(sys, "argv", [*words, "--photographs", str(PHOTOGRAPHS), "--count", "4", "--write"])
    assert script().main() == 0
    steps = json.loads((tmp_path / "f.json").read_text())["report"]["steps"]
    assert max(steps["calibrated"]) / min(steps["calibrated"]) < max(steps["raw"]) / min(steps["raw"])
    assert "| auto |" in capsys.readouterr().out
    assert len(IDaSSRPipeline.from_pretrained(tmp_path / "model").calibration.table) == 21
    monkeypatch.setattr(sys, "argv", words)
    assert script().main() == 2


def test_auto_is_refused_where_there_is_nothing_to_choose_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    Image.fromarray(data.chelsea()[:16, :16]).save(tmp_path / "cat.png")
    words = ["-i", tmp_path / "cat.png", "-o", tmp_path / "out", "--model", tmp_path / "model", "--realism", "auto"]
    assert cli.main(["infer", *map(str, words)]) == 2
    err = capsys.readouterr().err
    assert "no table of severities" in err and "calibrate_dial" in err and not (tmp_path / "out").exists()
