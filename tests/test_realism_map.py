"""Realism by place: exact where the map is at a level, smooth between, and what it costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_pipeline
from PIL import Image
from skimage import data
from torch import Tensor

from idas_sr import cli
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.realism import MAX_LEVELS, RealismMap, fit_map, levels_of, per_picture

COFFEE = data.coffee()[40:93, 60:200]
"""53 rows, 140 columns: sides that need padding."""
HALVES = np.zeros((53, 140), np.uint8)
HALVES[:, 70:] = 255
MARGIN = 24
"""Input pixels: farther from the map's edge than the tiny decoder sees, the softened edge included."""


def restore(pipe: IDaSSRPipeline, realism: object, image: object = COFFEE, **options: object) -> Tensor:
    return pipe(image, realism=realism, output_type="pt", **options).images[0]  # type: ignore[arg-type,index]


@pytest.fixture(scope="module")
def whole(tiny: IDaSSRPipeline) -> dict[float, Tensor]:
    return {r: restore(tiny, r) for r in (0.0, 1.0)}


def test_a_constant_map_is_the_number(tiny: IDaSSRPipeline) -> None:
    expected = restore(tiny, 77 / 255)
    constant = np.full((53, 140), 77, np.uint8)
    for given in (
        constant,
        Image.fromarray(constant),
        torch.from_numpy(constant)[None],
        constant.astype(np.float32) / 255,
    ):
        assert torch.equal(restore(tiny, given), expected)
    assert not torch.equal(restore(tiny, 0.7), expected)


def test_regions_are_the_restorations_of_their_realism(tiny: IDaSSRPipeline, whole: dict[float, Tensor]) -> None:
    mixed = restore(tiny, HALVES)
    left, right = 4 * (70 - MARGIN), 4 * (70 + MARGIN)
    assert torch.equal(mixed[..., :left], whole[0.0][..., :left])
    assert torch.equal(mixed[..., right:], whole[1.0][..., right:])
    assert (whole[0.0] - whole[1.0])[..., :left].abs().mean() > 1e-3
    middle = slice(4 * 69, 4 * 71)
    assert not torch.equal(mixed[..., middle], whole[0.0][..., middle])
    assert not torch.equal(mixed[..., middle], whole[1.0][..., middle])


def test_tiles_keep_both(tiny: IDaSSRPipeline) -> None:
    whole = {r: restore(tiny, r, tile=256) for r in (0.0, 1.0)}
    mixed = restore(tiny, HALVES, tile=256)
    left, right = 4 * (70 - MARGIN), 4 * (70 + MARGIN)
    assert torch.allclose(mixed[..., :left], whole[0.0][..., :left], atol=1e-5)
    assert torch.allclose(mixed[..., right:], whole[1.0][..., right:], atol=1e-5)


def test_a_map_may_be_coarse_and_of_any_kind(tiny: IDaSSRPipeline, whole: dict[float, Tensor]) -> None:
    wide = Image.fromarray(HALVES.astype(np.uint16) * 257)
    colour = Image.fromarray(np.repeat(HALVES[..., None], 3, axis=2))
    expected = restore(tiny, HALVES)
    for given in (wide, colour, torch.from_numpy(HALVES / np.float32(255)), [HALVES], HALVES[None, None]):
        assert torch.equal(restore(tiny, given), expected), type(given)
    coarse = restore(tiny, Image.fromarray(HALVES).resize((14, 5), Image.Resampling.NEAREST))
    assert torch.equal(coarse[..., : 4 * 30], whole[0.0][..., : 4 * 30])


def test_every_picture_has_its_own(tiny: IDaSSRPipeline) -> None:
    pictures = [COFFEE, COFFEE[:, ::-1].copy(), COFFEE]
    given = [0.3, HALVES, HALVES[:, ::-1].copy()]
    together = tiny(pictures, realism=given, output_type="pt", return_trace=True)
    for picture, realism, restored in zip(pictures, given, together.images, strict=True):
        assert torch.allclose(restored, restore(tiny, realism, picture), atol=1e-5)
    mixed, low, high = (tiny(COFFEE, realism=r, return_trace=True).trace[0]["t_r"] for r in (HALVES, 0.0, 1.0))
    assert mixed == pytest.approx((low + high) / 2, rel=0.01)


@pytest.mark.parametrize(
    ("realism", "evaluations"),
    [(0.5, 1), (HALVES, 2), (np.tile(np.linspace(0, 1, 140, dtype=np.float32), (53, 1)), MAX_LEVELS)],
)
def test_a_map_costs_one_evaluation_per_level_and_one_decoding(realism: object, evaluations: int) -> None:
    pipe, calls = tiny_pipeline(), []
    for name in ("unet", "estimator"):
        getattr(pipe, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    pipe.vae.decoder.register_forward_hook(lambda *_: calls.append("decoder"))
    restore(pipe, realism)
    assert {name: calls.count(name) for name in set(calls)} == {"unet": evaluations, "estimator": 1, "decoder": 1}


def test_more_levels_come_closer_to_the_exact_restoration(tiny: IDaSSRPipeline) -> None:
    method = tiny.restorer
    lq = torch.from_numpy(COFFEE[:48, :64].copy()).movedim(-1, 0)[None].float() / 127.5 - 1
    exact = method.restore_image(lq, 0.625, [1]).z0
    values = torch.full((1, 1, 48, 64), 0.625)
    errors = []
    for levels in ((0.0, 1.0), (0.0, 0.5, 1.0), (0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.625, 1.0)):
        errors.append((method.restore_image(lq, RealismMap(values, levels), [1]).z0 - exact).abs().mean().item())
    assert errors[0] > errors[1] > errors[2] > errors[3] == 0


def test_levels_are_the_map_s_own_values_where_they_are_few() -> None:
    assert levels_of(torch.tensor([[0.0, 0.5], [1.0, 0.5]])) == (0.0, 0.5, 1.0)
    spread = levels_of(torch.linspace(0.25, 0.75, 100)[None])
    assert len(spread) == MAX_LEVELS and spread[0] == 0.25 and spread[-1] == 0.75
    assert len(levels_of(torch.tensor([[0.5, 0.5001], [1.0, 0.0]]))) == MAX_LEVELS


def test_shares_sum_to_one_and_touch_two_levels() -> None:
    grey = torch.rand((40, 60), generator=torch.Generator().manual_seed(0))
    fitted = fit_map(grey, 40, 60)
    shares = torch.cat(fitted.weights(20, 30), dim=1)
    assert torch.allclose(shares.sum(1), torch.ones(1, 20, 30), atol=1e-6) and (shares >= 0).all()
    assert ((shares > 1e-6).sum(1) <= 2).all()
    cells = torch.nn.functional.avg_pool2d(fitted.values, 2)
    assert torch.allclose(
        (shares * torch.tensor(fitted.levels).reshape(1, -1, 1, 1)).sum(1, keepdim=True), cells, atol=1e-6
    )


def test_padding_and_order_of_numbers_still_work() -> None:
    assert per_picture(0.5, 2) == [0.5, 0.5]
    assert per_picture(torch.tensor([0.0, 1.0]), 2) == [0.0, 1.0]
    assert per_picture(np.array([0.25]), 1) == [0.25]
    (kept,) = per_picture(HALVES, 1)
    assert isinstance(kept, Tensor) and kept.shape == (53, 140)


@pytest.mark.parametrize(
    ("realism", "words"),
    [
        (HALVES.T, "another shape"),
        (HALVES.astype(np.float32), "between 0 and 1"),
        (np.full((53, 140), np.nan, np.float32), "between 0 and 1"),
        (1.5, "between 0 and 1"),
        (float("nan"), "between 0 and 1"),
        ([HALVES, HALVES], "1 pictures but 2"),
        (np.zeros((0, 4), np.uint8), "at least one place"),
        ("mask.png", "number"),
    ],
)
def test_what_is_no_realism_is_refused(tiny: IDaSSRPipeline, realism: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        restore(tiny, realism)


def test_the_command_line_takes_a_map_or_a_folder_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "model")
    for folder in ("in", "maps"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        Image.fromarray(COFFEE).save(tmp_path / "in" / f"{name}.png")
    Image.fromarray(HALVES).save(tmp_path / "maps" / "a.png")
    expected = pipe(COFFEE, realism=HALVES).images[0]
    summary = tmp_path / "summary.json"

    def infer(maps: str, *options: str) -> dict[str, str]:
        given = ["-i", "in", "-o", "out", "--model", "model", "--realism-map", maps, "--summary", "summary.json"]
        arguments = [str(tmp_path / v) if v and not v.startswith("-") else v for v in given]
        code = cli.main(["infer", *arguments, *options])
        done = {Path(o["input"]).name: o["status"] for o in json.loads(summary.read_text())["outcomes"]}
        assert code == int("failed" in done.values())
        return done

    assert infer("maps/a.png") == {"a.png": "restored", "b.png": "restored"}
    for name in ("a", "b"):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / f"{name}.png")), np.asarray(expected))
    assert infer("maps/a.png", "--resume") == {"a.png": "skipped", "b.png": "skipped"}
    assert infer("maps") == {"a.png": "restored", "b.png": "failed"}
    assert "no realism map for b.png" in capsys.readouterr().err
    Image.fromarray(HALVES[:, ::-1].copy()).save(tmp_path / "maps" / "a.png")
    assert infer("maps/a.png", "--resume", "--batch-size", "2") == {"a.png": "restored", "b.png": "restored"}
    Image.fromarray(HALVES.T.copy()).save(tmp_path / "maps" / "b.png")
    assert infer("maps") == {"a.png": "restored", "b.png": "failed"}
    assert "another shape" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        infer("maps", "--realism", "0.5")
    assert "not allowed with" in capsys.readouterr().err
