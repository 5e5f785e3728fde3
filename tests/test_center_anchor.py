"""Centring a trained MINE: on photographs of the training split its mean error goes, and nothing else changes."""

from pathlib import Path

import pytest
import skimage.data
import torch
from conftest import tiny_pipeline, write_photos
from contract import load_script

from idas_sr.build import build_method
from idas_sr.config import Component
from idas_sr.data.degradation import Degradation
from idas_sr.data.sources import list_photographs
from idas_sr.evaluation.heldout import pairs_of
from idas_sr.networks.store import load_parts, save_parts

center_anchor = load_script("center_anchor")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    picture = skimage.data.astronaut()
    cuts = {f"photo_{i}.png": picture[i * 40 : i * 40 + 128, 60 : 60 + 160] for i in range(8)}
    return write_photos(tmp_path / "photographs", cuts)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    pipe = tiny_pipeline()
    pipe.estimator.set_range(0.01, 20.0)
    # A random encoder hardly tells clean from degraded: larger latents, so that levels lie within the schedule's.
    pipe.restorer.backbone.latents_std *= 0.05
    save_parts(tmp_path / "run" / "model", pipe.restorer.backbone, pipe.estimator)
    return tmp_path / "run"


def test_the_mean_error_goes_and_only_two_numbers_change(run: Path, photographs: Path, tmp_path: Path) -> None:
    output = tmp_path / "centred"
    assert center_anchor.main([str(run), str(output), "--photographs", str(photographs), "--count", "5"]) == 0
    backbone, mine = load_parts(output / "model")
    paths = list_photographs(photographs, "train")
    pairs = pairs_of(paths[:: max(len(paths) // 5, 1)][:5], Degradation("compact"))
    before, after = (
        center_anchor.errors(build_method(backbone, estimator, Component("idas")), pairs)
        for estimator in (load_parts(run / "model")[1], mine)
    )
    assert abs(before[0]) > 0.1 and abs(after[0]) < 0.02 and abs(after[1]) < 0.02
    old, new = load_parts(run / "model")[1].state_dict(), mine.state_dict()
    assert [key for key, value in old.items() if not torch.equal(value, new[key])] == ["severity.out.bias"]


def test_mistakes_are_one_sentence(run: Path, photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, output, sentence in ((run / "no", run / "new", "no"), (run, run, "exists already")):
        assert center_anchor.main([str(folder), str(output), "--photographs", str(photographs)]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("center_anchor: ") and sentence in said
    assert not (run / "new").exists()
