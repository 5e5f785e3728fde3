"""Maps of what is invented: zero where nothing is, equal by tiles, beside their outputs, known to whoever resumes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import infer, write_photos
from PIL import Image
from skimage import data

from idas_sr import invention
from idas_sr.atomic import token_of
from idas_sr.batch import Job, RefusedError, check_maps
from idas_sr.data.benchmarks import pictures_in
from idas_sr.engines.manifest import sweep
from idas_sr.imagefiles.heatmaps import COLOURS, FULL, coloured, heat_path, is_heatmap, overlaid, read_note
from idas_sr.invention import SEEDS, measure
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.resample import resize

CAT = torch.from_numpy(data.chelsea()[60:92, 100:148].copy()).permute(2, 0, 1).float() / 255


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    pictures = {"cat.png": data.chelsea()[60:84, 100:132], "cup.jpg": data.coffee()[:24, :32]}
    return write_photos(tmp_path / "photos", pictures)


def test_equal_seeds_have_no_spread_and_realism_0_invents_nothing(tiny: IDaSSRPipeline) -> None:
    for tile, count in (("auto", SEEDS), (128, 2)):
        equal = measure(tiny, CAT, 0.7, seeds=[3] * count, tile=tile)
        assert float(equal.spread.max()) == 0 and float(equal.change.max()) > 0 and equal.share > 0
        none = measure(tiny, CAT, 0.0, seeds=[3, 4], tile=tile)
        assert float(none.spread.max()) == float(none.change.max()) == none.share == 0
        some = measure(tiny, CAT, 0.7, seeds=[3, 4], tile=tile)
        assert float(some.spread.mean()) > 0
        assert torch.equal(some.change, equal.change) and some.share == equal.share
    assert measure(tiny, CAT, 0.7, 3).seeds == tuple(range(3, 3 + SEEDS))


def test_the_maps_are_what_they_say(tiny: IDaSSRPipeline) -> None:
    found = measure(tiny, CAT, 0.8, 5, seeds=[5, 6, 9])
    plain, *others = (
        tiny(CAT, realism, seed=seed, output_type="pt").images[0]
        for realism, seed in ((0.0, 5), (0.8, 5), (0.8, 6), (0.8, 9))
    )
    assert torch.equal(found.change, (others[0] - plain).abs().mean(0)) and torch.equal(found.picture, others[0])
    expected = torch.stack(others).double().var(0, correction=1).mean(0).sqrt()
    assert float((found.spread - expected).abs().max()) < 1e-6
    # The share, by projecting with matrices that are there as a whole.
    down, across = (
        np.stack([resize(row[None, None, None], (1, side))[0, 0, 0].numpy() for row in torch.eye(4 * side)], 1)
        for side in CAT.shape[1:]
    )
    unseen = np.eye(4 * 32) - np.linalg.pinv(down) @ down, np.eye(4 * 48) - np.linalg.pinv(across) @ across

    def energy(image: torch.Tensor) -> float:
        pixels = image.double().numpy()
        seen_only = pixels - pixels @ unseen[1].T
        return float(np.square(pixels - (seen_only - unseen[0] @ seen_only)).sum())

    own, added = energy(plain), energy(others[0] - plain)
    assert found.share == pytest.approx(added / (own + added), rel=1e-4)


def test_the_share_rises_with_realism(tiny: IDaSSRPipeline) -> None:
    shares = [measure(tiny, CAT, realism, seeds=[1]).share for realism in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] > shares[1] > 0


@pytest.mark.parametrize(
    "options", [{}, {"color_fix": "adain"}, {"color_fix": "wavelet", "is_consistent": True}], ids=str
)
def test_tiles_give_the_same_maps(tiny: IDaSSRPipeline, options: dict) -> None:
    wide = torch.cat([CAT, CAT.flip(2)], dim=2)
    whole, tiled = (
        measure(tiny, wide, 0.9, seeds=[1, 2, 3], tile=tile, size=(100, 300), **options) for tile in (0, 192)
    )
    assert whole.change.shape == tiled.change.shape == (100, 300)
    for one, other in ((whole.change, tiled.change), (whole.spread, tiled.spread)):
        assert float((one - other).abs().mean()) < 0.15 * float(one.mean())
    assert tiled.share == pytest.approx(whole.share, rel=0.15)


def test_large_pictures_have_averaged_maps(tiny: IDaSSRPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = measure(tiny, CAT, 1.0, seeds=[1, 2])
    monkeypatch.setattr(invention, "MAP_SIDE", 70)
    monkeypatch.setattr(invention, "STRIP", 50)
    coarse = measure(tiny, CAT, 1.0, seeds=[1, 2])
    assert coarse.change.shape == (43, 64) and coarse.share == pytest.approx(fine.share) and coarse.size == fine.size
    assert float(coarse.spread[3, 5]) == pytest.approx(float(fine.spread[9:12, 15:18].mean()), rel=1e-4)
    assert float(coarse.change[-1, 5]) == pytest.approx(float(fine.change[126:, 15:18].mean()), rel=1e-4)


def test_the_scale_is_the_same_for_every_picture() -> None:
    steps = torch.tensor([[0.0, FULL / 2, FULL, 200.0]]) / 255
    assert coloured(steps)[0].tolist() == [list(COLOURS[0][1]), list(COLOURS[2][1]), *[list(COLOURS[-1][1])] * 2]
    brightness = coloured(torch.linspace(0, FULL / 255, 50)[None])[0].astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(brightness) > 0).all()
    picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    nothing, much = (np.asarray(overlaid(picture, torch.full((8, 8), value))).astype(int) for value in (0.0, 0.05))
    assert np.ptp(nothing, axis=2).max() == 0 and np.ptp(much, axis=2).min() > 50


def test_files_lie_beside_their_outputs_and_say_what_they_are(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, summary = tmp_path / "out", tmp_path / "summary.json"
    assert infer(model, photos, tmp_path / "plain", "--realism", 0.8) == 0
    capsys.readouterr()
    assert infer(model, photos, out, "--realism", 0.8, "--map", "--summary", summary) == 0
    printed = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["cat.map.png", "cat.png", "cup.map.png", "cup.png"]
    outcomes = {Path(one["input"]).stem: one for one in json.loads(summary.read_text())["outcomes"]}
    for name in ("cat", "cup"):
        assert (out / f"{name}.png").read_bytes() == (tmp_path / "plain" / f"{name}.png").read_bytes()
        note = read_note(out / f"{name}.map.png")
        assert note is not None and note["seeds"] == list(range(42, 42 + SEEDS)) and note["size"] == [128, 96]
        assert outcomes[name]["invented"] == note["invented"] > 0
        assert f": {100 * note['invented']:.1f} % of its detail is invented" in printed
        page = Image.open(out / f"{name}.map.png")
        assert page.width > 3 * 128 and page.height > 96
    # Three maps more are no pictures to restore or to score.
    assert sorted(pictures_in(out)) == ["cat", "cup"]
    assert infer(model, out, tmp_path / "again") == 0
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["cat.png", "cup.png"]


def test_resume_knows_maps(model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invention, "SEEDS", 2)
    out, summary = tmp_path / "out", tmp_path / "summary.json"

    def run(*options: object) -> dict[str, tuple[str, float | None]]:
        assert infer(model, photos, out, "--resume", "--summary", summary, *options) == 0
        outcomes = json.loads(summary.read_text())["outcomes"]
        return {Path(one["input"]).stem: (one["status"], one["invented"]) for one in outcomes}

    assert {status for status, _ in run().values()} == {"restored"}
    first = run("--map")
    assert {status for status, _ in first.values()} == {"restored"}
    assert run("--map") == {name: ("skipped", share) for name, (_, share) in first.items()}
    assert {status for status, _ in run().values()} == {"skipped"}
    (out / "cat.map.png").write_bytes((out / "cat.map.png").read_bytes()[:2000])
    assert {name: status for name, (status, _) in run("--map").items()} == {"cat": "restored", "cup": "skipped"}
    assert {status for status, _ in run("--map", "--realism", 1).values()} == {"restored"}


@pytest.mark.slow
def test_large_pictures_and_several_processes_have_maps(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = photos / "cat.png"
    assert infer(model, photo, tmp_path / "out", "--map", "--tile", 96, "--consistent") == 0
    assert capsys.readouterr().out.count("of its detail is invented") == 1
    assert infer(model, photo, tmp_path / "out", "--map", "--tile", 96, "--consistent", "--resume") == 0
    assert "1 skipped" in capsys.readouterr().out
    assert infer(model, photo, tmp_path / "two", "--map", "--processes", 2, "--device", "cpu") == 0
    assert capsys.readouterr().out.count("of its detail is invented") == 1
    for folder in ("out", "two"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["cat.map.png", "cat.png"]


def test_two_files_never_have_one_name(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(data.coffee()[:8, :8]).save(photos / "cat.map.jpg")
    assert infer(model, photos, tmp_path / "out", "--map") == 2
    said = capsys.readouterr().err
    assert "cat.map.png" in said and len(said.splitlines()) == 1 and not (tmp_path / "out").exists()
    assert infer(model, photos, tmp_path / "out") == 0
    assert not is_heatmap(tmp_path / "out" / "cat.map.png") and "cat.map" in pictures_in(tmp_path / "out")
    jobs = [Job(Path(f"a.{kind}"), Path(f"out/a.{kind}")) for kind in ("jpg", "png")]
    with pytest.raises(RefusedError, match=r"maps of a\.jpg and a\.png would both be"):
        check_maps(jobs)


def test_what_cannot_be_compared_is_refused(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer(model, photos, tmp_path / "out", "--map", "--method", "osediff") == 2
    assert "osediff has no dial" in capsys.readouterr().err
    assert infer(model, photos, tmp_path / "out", "--map", "-s", 1) == 1
    assert "larger than its input" in capsys.readouterr().err


def test_half_written_maps_are_swept(tmp_path: Path) -> None:
    job = Job(tmp_path / "a.jpg", tmp_path / "a.png")
    left = tmp_path / f".{token_of(heat_path(job.target))}.12.partial"
    left.touch()
    sweep([job])
    assert not left.exists()
