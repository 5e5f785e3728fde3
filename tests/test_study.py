"""The study of realism control: its checks judge rightly, its gap is that of the sweep, its page has every mark."""

import importlib.util
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_pipeline, write_pair
from PIL import Image
from skimage import data

from idas_sr.evaluation.files import between_marks
from idas_sr.evaluation.gap import measure_gaps, summarise_gaps
from idas_sr.evaluation.study_plots import families
from idas_sr.evaluation.study_tables import checked, curve, dial_checks, gap_checks, gaps, number, steerings
from idas_sr.evaluation.sweep import Plan, Variant, study_file
from idas_sr.imagefiles.reading import read_picture

ROOT = Path(__file__).parents[1]
SQUEEZENET = ROOT.parent / "shared" / "data" / "weights" / "squeezenet_v10.pth"
REALISM = [0.0, 0.5, 1.0]


def summary(**changed: list[float]) -> dict:
    """Of a dial that does all that is asked, but for what is changed."""
    curves = {
        "psnr_y": [26.0, 25.4, 24.8],
        "ssim_y": [0.76, 0.75, 0.74],
        "sqdist": [2.0, 2.02, 2.04],
        "niqe": [6.5, 6.2, 5.9],
        "high_band": [-0.5, -0.3, -0.1],
        "gap_mean": [0.0, 0.0, 0.0],
        "t_r": [100, 150, 200],
        "b_r": [0, 0.1, 0.2],
    } | {name: values for name, values in changed.items() if name != "lines"}
    lines = changed.get("lines", [1.05] * 3)
    variant = {
        "curves": curves,
        "lines": [[1.0, 1.0, line, 1.0] for line in lines],
        "dial": {"spearman_mean": -1.0, "line_furthest_from_1": max(lines)},
        "diversity": {"rms": [0.0, 1.0, 2.0], "high_share": [None, 0.5, 0.25]},
    }
    return {"images": 2, "realism": REALISM, "variants": {"n1": variant}}


def missed(found: dict) -> list[str]:
    return [check.what for check in dial_checks(found) if not check.held]


def test_a_dial_that_does_all_that_is_asked_misses_nothing() -> None:
    assert missed(summary()) == [] and len(dial_checks(summary())) == 14


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"psnr_y": [26.0, 26.1, 24.8]}, "mean psnr_y falls"),
        ({"psnr_y": [26.0, 25.6, 25.2]}, "span of psnr_y"),
        ({"psnr_y": [25.7, 25.4, 24.6]}, "psnr_y at 0"),
        ({"sqdist": [2.0, 2.02, 2.06]}, "sqdist at 1, less that at 0"),
        ({"niqe": [6.3, 6.2, 5.9]}, "niqe from 0 to 1"),
        ({"niqe": [6.5, 6.7, 5.9]}, "largest rise of niqe in a step"),
        ({"high_band": [-0.3, -0.31, -0.1]}, "energy of 0.25 to 0.5 cycle rises"),
        ({"high_band": [-0.5, -0.1, 0.2]}, "energy of 0.25 to 0.5 cycle, log ratio"),
        ({"lines": [1.0, 1.2, 1.0]}, "spectral lines against their neighbours, worst"),
        ({"lines": [1.0, 0.8, 1.0]}, "spectral lines against their neighbours, worst"),
    ],
)
def test_each_thing_asked_can_be_missed_alone(changed: dict, what: str) -> None:
    assert missed(summary(**changed)) == [what]


def test_a_check_says_where_and_how_far() -> None:
    got = {check.what: check.got for check in dial_checks(summary(lines=[1.0, 1.2, 1.0], psnr_y=[26.0, 26.1, 24.8]))}
    assert got["spectral lines against their neighbours, worst"] == "1.20 at 0.375 cycle, r = 0.5"
    assert got["mean psnr_y falls"] == "1 of 2, weakest +0.100"


def test_a_missing_measure_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match="too small"):
        dial_checks(summary(sqdist=[2.0, None, 2.1]))  # type: ignore[list-item]


def gap_summary(own: list[float], label: float = -0.4) -> dict:
    steered = {"n1": own, "label-only": [0.0, -0.2, label], "noise-only": [0.0, 0.2, 0.4]}
    return {
        "images": 2,
        "realism": REALISM,
        "steerings": {name: {"mean": values, "abs": [abs(v) for v in values]} for name, values in steered.items()},
    }


def test_gap_checks() -> None:
    def held(found: dict) -> list[bool]:
        return [check.held for check in gap_checks(found)]

    assert held(gap_summary([0.02, -0.01, 0.0])) == [True] * 5
    assert held(gap_summary([0.13, -0.01, 0.0])) == [False, True, False, True, True]
    assert held(gap_summary([0.0, 0.0, -0.06])) == [True, False, False, True, True]
    assert held(gap_summary([0.0, 0.0, 0.0], label=-0.13))[3:] == [False, True]


def test_tables_are_whole() -> None:
    tables = [
        checked({"raw": summary(), "calibrated": summary(niqe=[6.3, 6.2, 5.9])}, gap_summary([0.0, 0.0, 0.0])),
        curve(summary()),
        steerings(summary(), {"n1": "n1"}, -1),
        gaps({"pairs": gap_summary([0.0, 0.0, 0.0])}),
    ]
    for table in tables:
        rows = [line.count("|") for line in table.splitlines()]
        assert len(rows) > 3 and set(rows) == {rows[0]}
    assert "| niqe from 0 to 1 | falls by 0.5 | 6.50 to 5.90 (held) | 6.30 to 5.90 (missed) |" in tables[0]
    assert "| n1 | yes | 24.80 | 0.7400 | 2.040 | 5.90 | -0.10 | 0.000 | 2.00 | 0.25 | -1.00 | 1.05 |" in tables[
        2
    ].replace("+", "")
    assert number(-0.0001, 2, True) == "+0.00" and number(None) == ""


def test_families_leave_out_the_dials_own_rows() -> None:
    rows = {"bicubic": {}, "idas, realism 0.5": {}, "idas, realism 0.5, HD-CLIP, CFG": {}, "rcod, group fid": {}}
    assert {name: [s for s, _ in found] for name, found in families(rows).items()} == {
        "idas": ["realism 0.5, HD-CLIP, CFG"],
        "rcod": ["group fid"],
    }


def test_the_gap_is_that_of_the_sweep(tiny, tmp_path: Path) -> None:
    # 51 x 53 is a multiple of nothing, so the padding takes part.
    pair = write_pair(tmp_path, "cat", data.chelsea()[:204, 100:312])
    variants = [Variant(name, name) for name in ("n1", "n2", "n3", "label-only")]
    record = study_file(tiny.restorer, variants, Plan("tiny", tuple(REALISM), (0,)), pair, tmp_path / "out")
    lq, hq = (read_picture(file).colour[None] for file in pair)
    steered = {variant.label: variant.build() for variant in variants}
    rows = measure_gaps(tiny.restorer, steered, REALISM, [lambda: (lq, hq)] * 2)
    for label, found in rows[0].items():
        assert found == pytest.approx([row["gap"] for row in record["variants"][label]["rows"]], abs=1e-6)
    # Every picture has noise of its own, which realism 0 has none of.
    assert rows[1]["n1"][0] == rows[0]["n1"][0] and rows[1]["n1"][-1] != rows[0]["n1"][-1]
    found = summarise_gaps([{"n1": [0.1, -0.2]}, {"n1": [-0.3, None]}], [0, 1])
    assert found["steerings"]["n1"] == {"mean": pytest.approx([-0.1, -0.2]), "abs": pytest.approx([0.2, 0.2])}


def test_between_marks() -> None:
    marks = ("<!-- a -->", "<!-- b -->")
    once = between_marks("1\n<!-- a -->\nold\n<!-- b -->\n2\n", marks, "new\n")
    assert once == "1\n<!-- a -->\n\nnew\n\n<!-- b -->\n2\n" == between_marks(once, marks, "new")
    for text in ("nothing", "<!-- a -->", "<!-- b --> <!-- a -->", "<!-- a --><!-- b --><!-- b -->"):
        with pytest.raises(ValueError, match="needs the marks"):
            between_marks(text, marks, "new")


def test_the_page_has_every_mark() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "study.py"), run_name="loaded")
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    for name in script["BLOCKS"]:
        between_marks(page, script["marks"](name), "")
    assert page.count(": begin -->") == len(script["BLOCKS"])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib, of the extra plot, is missing")
@pytest.mark.skipif(not SQUEEZENET.is_file(), reason=f"SqueezeNet's weights are not in {SQUEEZENET}")
def test_command(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    write_pair(tmp_path, "cat", data.chelsea()[:192, 100:292])
    write_pair(tmp_path, "cup", data.coffee()[:192, 100:292])
    (tmp_path / "photographs").mkdir()
    # The split is made by name: this one is held out.
    Image.fromarray(data.coffee()[:256, :256]).save(tmp_path / "photographs" / "held_out_2.png")
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs" / "study.md").read_text(encoding="utf-8"), encoding="utf-8")
    words = ["-i", "lq", "-r", "hq", "-o", "out", "--model", "model", "--photographs", "photographs"]
    words += ["--squeezenet", str(SQUEEZENET), "--pictures", "1", "--jobs", "2", "--page", "page.md"]
    command = [sys.executable, str(ROOT / "scripts" / "study.py"), *words]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "study.json").read_text())
    assert found["raw dial"]["images"] == 2 and found["variants"]["images"] == 1
    assert {"n1", "n2", "n3", "n4", "label-only", "noise-only", "n1 s1", "n1 s3", "n1 s4"} == set(
        found["variants"]["variants"]
    )
    assert found["gaps"]["held-out photographs"]["images"] == 1 and "bicubic" in found["methods"]
    text = page.read_text(encoding="utf-8")
    assert text.count("| n1 | yes |") == 2 and "(held)" in text and "| unsharp |" in text
    for name in ("tradeoff", "steerings", "gap"):
        assert f"](images/study_{name}.png)" in text
        assert np.asarray(Image.open(tmp_path / "images" / f"study_{name}.png").convert("L")).std() > 5
