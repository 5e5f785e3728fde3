"""The realism study: it measures what the pipeline makes, goes on where it stopped, and means what it says."""

import importlib.util
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_pair
from PIL import Image
from skimage import data

from idas_sr.evaluation import plots, report, spectrum
from idas_sr.evaluation.score import score_folder
from idas_sr.evaluation.sweep import (
    PictureStudy,
    Plan,
    Variant,
    anchor_picture,
    picture_name,
    restore_anchored,
    study_file,
    variants_of,
)
from idas_sr.evaluation.sweep_summary import CSV_HEAD, csv_rows, summarise
from idas_sr.imagefiles.reading import read_picture
from idas_sr.metrics import luma

ROOT = Path(__file__).parents[1]
PLAN = Plan("tiny", (0.0, 0.5, 1.0), (3, 4))
N1 = Variant("n1", "n1", {"kappa": 1.5})
LABEL_ONLY = Variant("label-only", "label-only", {"kappa": 1.5})

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib, of the extra plot, is not installed"
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    # 51 x 53 is a multiple of nothing, so the padding takes part.
    return write_pair(tmp_path_factory.mktemp("pair"), "cat", data.chelsea()[:204, 100:312])


@pytest.fixture(scope="module")
def done(tiny, pair, tmp_path_factory):
    """One study of one picture, and where it lies."""
    output = tmp_path_factory.mktemp("study")
    return study_file(tiny.restorer, [N1, LABEL_ONLY], PLAN, pair, output, pictures=True), output


def test_restoration_is_the_pipelines(tiny, pair) -> None:
    lq = read_picture(pair[0]).colour[None]
    start = anchor_picture(tiny.restorer, lq)
    for realism, seed in ((0.0, 1), (0.5, 1), (1.0, 2)):
        ours, _ = restore_anchored(tiny.restorer, tiny.restorer.steering, start, realism, seed)
        theirs = tiny(Image.open(pair[0]), realism=realism, seed=seed).images[0]
        assert np.array_equal((ours[0] * 255).round().byte().permute(1, 2, 0).numpy(), np.asarray(theirs))


def test_rows_are_what_scoring_the_files_gives(done, pair) -> None:
    record, output = done
    for realism in PLAN.realism:
        folder = output / f"check_{realism}"
        folder.mkdir()
        shutil.copy(output / "pictures" / "cat" / picture_name(realism), folder / "cat.png")
        scored = score_folder(folder, pair[1].parent).images["cat"]
        row = next(r for r in record["variants"]["n1"]["rows"] if r["realism"] == realism and r["seed"] == 3)
        assert {name: row[name] for name in ("psnr_y", "ssim_y", "niqe")} == pytest.approx(
            {name: scored[name] for name in ("psnr_y", "ssim_y", "niqe")}, abs=1e-9
        )


def test_seeds_matter_only_where_noise_enters(done) -> None:
    record, _ = done
    rms = [at["rms"] for at in record["variants"]["n1"]["diversity"]]
    assert rms[0] == 0 and 0 < rms[1] < rms[2]
    assert record["variants"]["n1"]["diversity"][0]["high_share"] is None
    assert 0 < record["variants"]["n1"]["diversity"][2]["high_share"] < 1
    assert [at["rms"] for at in record["variants"]["label-only"]["diversity"]] == [0, 0, 0]
    rows = {(row["realism"], row["seed"]): row["psnr_y"] for row in record["variants"]["n1"]["rows"]}
    assert len(rows) == 6 and rows[0.0, 3] == rows[0.0, 4] and rows[1.0, 3] != rows[1.0, 4]


def test_gap_of_label_only_is_what_the_label_moves(done, schedule) -> None:
    """Its state stays, so g falls by exactly log(w_r / w_0)."""
    rows = [row for row in done[0]["variants"]["label-only"]["rows"] if row["seed"] == 3]
    levels = schedule.log_sigma(torch.tensor([row["t_r"] for row in rows])).tolist()
    for row, level in zip(rows, levels, strict=True):
        assert row["gap"] - rows[0]["gap"] == pytest.approx(levels[0] - level, abs=1e-5)
    assert rows[-1]["gap"] < rows[0]["gap"] - 0.1


def test_reference_must_be_four_times_the_input(tiny, pair) -> None:
    lq, hq = (read_picture(file).colour[None] for file in pair)
    with pytest.raises(ValueError, match="The reference is 208x204, but 4 times the input of 53x51 is needed"):
        PictureStudy(tiny.restorer, lq, hq[..., :208])


def test_study_goes_on_where_it_stopped(tiny, pair, tmp_path) -> None:
    def run(variants, plan=PLAN, pictures=False):
        return study_file(tiny.restorer, variants, plan, pair, tmp_path, pictures)

    run([N1])
    kept = tmp_path / "images" / "cat.json"
    record = json.loads(kept.read_text())
    record["variants"]["n1"]["rows"][0]["psnr_y"] = 99.0  # only a reader gives this back
    kept.write_text(json.dumps(record))
    both = run([N1, LABEL_ONLY])
    assert both["variants"]["n1"]["rows"][0]["psnr_y"] == 99.0 and len(both["variants"]) == 2
    assert list(run([LABEL_ONLY])["variants"]) == ["label-only"]
    # Pictures asked for later need another run, and so do other arguments, other seeds and a half-written file.
    assert run([N1], pictures=True)["variants"]["n1"]["rows"][0]["psnr_y"] < 99
    assert sorted(p.name for p in (tmp_path / "pictures" / "cat").iterdir()) == [
        "input.png",
        *(picture_name(r) for r in PLAN.realism),
        "reference.png",
    ]
    other = run([Variant("n1", "n1", {"kappa": 1.2})])["variants"]["n1"]
    assert other["rows"][-1]["b_r"] < both["variants"]["n1"]["rows"][-1]["b_r"]
    run([N1])
    assert {row["seed"] for row in run([N1], Plan("tiny", (0.0,), (7,)))["variants"]["n1"]["rows"]} == {7}
    kept.write_text(kept.read_text()[:100])
    assert run([N1])["variants"]["n1"]["rows"][0]["psnr_y"] < 99


def test_variants() -> None:
    own = {"name": "n1", "args": {"kappa": 1.14, "reschedule": "s4"}}
    assert variants_of(own, ["n1"], []) == [Variant("n1", "n1", {"kappa": 1.14, "reschedule": "s4"})]
    everything = variants_of(own, ["all"], ["all"])
    assert {v.label for v in everything} >= {"n1 s2", "n4 s2", "label-only s4", "noise-only s4"}
    assert all(v.args["kappa"] == 1.14 and v.args["reschedule"] == v.label.split()[1] for v in everything)
    assert {type(v.build()).__name__ for v in everything} >= {"Churn", "Spherical", "SphericalOnU", "NoiseOnly"}
    assert len(everything) == len({v.steering for v in everything}) * 4
    with pytest.raises(ValueError, match="no steering called 'n7'"):
        variants_of(own, ["n7"], [])


@pytest.mark.parametrize(
    ("realism", "seeds", "words"),
    [
        ((0.5, 0.0), (1,), "ascend"),
        ((0.0, 1.5), (1,), "between 0 and 1"),
        ((0.0,), (1, 1), "differ"),
        ((), (1,), "ascend"),
    ],
)
def test_plan_refuses(realism, seeds, words) -> None:
    with pytest.raises(ValueError, match=words):
        Plan("m", realism, seeds)


# ---- spectra ----


def astronaut() -> torch.Tensor:
    return luma(torch.tensor(data.astronaut()).movedim(-1, 0)[None].double() / 255)[0]


def white(seed: int = 0, size: int = 512) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((size, size)))


def test_white_noise_has_equal_power_in_every_ring() -> None:
    power = spectrum.radial_power(white())
    assert power.shape == (spectrum.RINGS,) and power[2:].sub(1).abs().max() < 0.1
    # Of the square of frequencies, the disc of radius 1/4 is pi / 16.
    assert spectrum.share_above(white()) == pytest.approx(1 - math.pi / 16, abs=0.01)
    assert math.isnan(spectrum.share_above(torch.zeros(64, 64)))


def test_a_sine_lies_in_its_ring() -> None:
    x = torch.arange(256, dtype=torch.float64)
    power = spectrum.radial_power(torch.sin(2 * math.pi * 0.3 * x).expand(256, 256))
    assert spectrum.ring_centres()[int(power.argmax())] == pytest.approx(0.3, abs=1 / 128)


def test_high_band_is_log_of_the_power_ratio() -> None:
    reference = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.5 + 0.2
    mean = reference.mean((2, 3), keepdim=True)
    doubled = mean + 2 * (reference - mean)
    assert spectrum.high_band(spectrum.log_ratio(doubled, reference)) == pytest.approx(math.log(4), abs=1e-3)
    assert spectrum.high_band(spectrum.log_ratio(reference, reference)) == 0


def test_high_band_starts_at_a_quarter_cycle() -> None:
    ratio = torch.zeros(spectrum.RINGS, dtype=torch.float64)
    for frequency, counts in ((0.2422, False), (0.2578, True), (0.4922, True)):
        (ring,) = [i for i, centre in enumerate(spectrum.ring_centres()) if abs(centre - frequency) < 1e-3]
        one = ratio.index_fill(0, torch.tensor([ring]), 16.0)
        assert spectrum.high_band(one) == (1 if counts else 0)


def test_lines_show_a_printed_grid_and_nothing_else() -> None:
    plane = astronaut()
    clean = spectrum.line_ratios(plane)
    assert (clean - 1).abs().max() < 0.15
    printed = plane.clone()
    printed[:, ::4] += 2
    printed[::4] += 2
    ratios = spectrum.line_ratios(printed)
    assert ratios[[0, 2]].tolist() == pytest.approx(clean[[0, 2]].tolist(), abs=0.02)
    assert ratios[1] > 1.2 * clean[1] and ratios[3] > 1.5 * clean[3]
    blocks = plane.clone()
    blocks[:, ::8] += 8
    assert (spectrum.line_ratios(blocks) > 1.2 * clean)[1:].all()
    assert (spectrum.line_ratios(white(size=1024)) - 1).abs().max() < 0.1
    assert (
        spectrum.line_ratios(plane[:60]).isnan().all() and spectrum.line_ratios(torch.ones(64, 64)).tolist() == [1] * 4
    )


# ---- means ----


def fake_record(stem: str, psnr: list[float], gaps: list[float]) -> dict:
    rows = [
        {
            "realism": r,
            "seed": s,
            "psnr_y": p + s,
            "niqe": 6 - r,
            "gap": g,
            "lines": [1, 4, None, 1],
            "spectrum": [r] * 32,
        }
        for r, p, g in zip(PLAN.realism, psnr, gaps, strict=True)
        for s in (0, 1)
    ]
    diversity = [{"realism": r, "rms": 2 * r, "high_share": r or None} for r in PLAN.realism]
    return {
        "stem": stem,
        "t_hat": 100.0,
        "reference": {"niqe": 5.0, "lines": [1, 1, 1, 1]},
        "variants": {"n1": {"rows": rows, "diversity": diversity}},
    }


def test_summary_by_hand() -> None:
    records = [fake_record("a", [27, 26, 25], [-0.1, 0, 0.1]), fake_record("b", [25, 26, 24], [0.1, 0, 0.3])]
    found = summarise(records, PLAN.realism)
    n1 = found["variants"]["n1"]
    assert n1["curves"]["psnr_y"] == [26.5, 26.5, 25.0] and n1["curves"]["niqe"] == [6, 5.5, 5]
    assert n1["curves"]["gap_mean"] == pytest.approx([0, 0, 0.2]) and n1["curves"]["gap_abs"] == pytest.approx(
        [0.1, 0, 0.2]
    )
    assert n1["spearman"] == pytest.approx([-1, -0.5]) and n1["lines"][0] == pytest.approx([1, 4, None, 1])
    assert n1["diversity"] == {"rms": [0, 1, 2], "high_share": [None, 0.5, 1]}
    assert "sqdist" not in n1["curves"] and found["reference"]["niqe"] == 5
    expected = {"spearman_mean": -0.75, "psnr_y_span": 1.5, "psnr_y_largest_rise": 0, "niqe_fall": 1}
    assert {name: n1["dial"][name] for name in expected} == pytest.approx(expected)
    assert n1["dial"]["line_furthest_from_1"] == pytest.approx(4)
    table = list(csv_rows(records))
    assert len(table) == 12 and all(len(row) == len(CSV_HEAD) for row in table) and table[0][:3] == ["n1", "a", 0.0]


# ---- the page and the plots ----


def summary_of(record: dict) -> dict:
    settings = {"model": "tiny", "fingerprint": "0" * 64, "seeds": list(PLAN.seeds)}
    return summarise([record], PLAN.realism) | {"settings": settings, "versions": {"torch": "x"}, "command": ["sweep"]}


def test_page_needs_no_other_file(tiny, pair, tmp_path) -> None:
    record = study_file(tiny.restorer, [N1], PLAN, pair, tmp_path, pictures=True)
    page = report.write(summary_of(record), [], ["cat"], tmp_path).read_text(encoding="utf-8")
    sources = [part.split("'")[0] for part in page.split("src='")[1:]]
    assert len(sources) == 2 + 3 + 5  # viewer: input, reference, three steps; strip: five cuts
    assert all(source.startswith("data:image/") for source in sources)
    assert "http" not in page and "href" not in page
    assert page.count("class=step") == 3 and page.count(" hidden>") == 2
    assert "n1" in report.table(summary_of(record))


def test_busiest_part_is_found() -> None:
    plane = np.full((300, 400, 3), 128, np.uint8)
    plane[200:260, 50:110] = np.random.default_rng(0).integers(0, 255, (60, 60, 3))
    left, top, right, bottom = report.busiest(Image.fromarray(plane), 80)
    assert (right - left, bottom - top) == (80, 80)
    assert left <= 52 and right >= 108 and top <= 202 and bottom >= 258
    assert report.busiest(Image.fromarray(plane[:50, :40]), 80) == (0, 0, 40, 50)


@needs_matplotlib
def test_plots_are_drawn(done, tmp_path) -> None:
    record, _ = done
    plots.check()
    drawn = plots.draw_all(summary_of(record), [record], tmp_path)
    assert {plot.path.name for plot in drawn} == {
        f"{name}.png" for name in ("curves", "tradeoff", "pictures", "diversity", "gap", "spectrum", "grid")
    }
    for plot in drawn:
        assert np.asarray(Image.open(plot.path).convert("L")).std() > 5


@pytest.mark.slow
@needs_matplotlib
def test_command(tmp_path) -> None:
    write_pair(tmp_path, "cat", data.chelsea()[:192, 100:292])
    write_pair(tmp_path, "cup", data.coffee()[:192, 100:292])
    command = ["-i", tmp_path / "lq", "-r", tmp_path / "hq", "-o", tmp_path / "out", "--realism", 0, 1, "--seeds", 1, 2]
    done = subprocess.run(
        [
            sys.executable,
            "scripts/sweep_realism.py",
            *map(str, command),
            "--steering",
            "n1",
            "label-only",
            "--pictures",
            "1",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert summary["images"] == 2 and set(summary["variants"]) == {"n1", "label-only"}
    # The shipped model: more realism, less fidelity; and only a label moves less than both.
    assert summary["variants"]["n1"]["dial"]["psnr_y_span"] > 0
    assert len((tmp_path / "out" / "sweep.csv").read_text().splitlines()) == 1 + 2 * 2 * 2 * 2
    assert (tmp_path / "out" / "report.html").is_file() and (tmp_path / "out" / "pictures" / "cat").is_dir()
