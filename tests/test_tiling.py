"""Tiles: exact where the function is local, one position and one noise per picture, no seam, and plans that fit."""

import logging
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import infer, tiny_pipeline
from PIL import Image
from skimage import data
from torch import Tensor, nn

from idas_sr import finishing
from idas_sr.color import COLOR_FIXES
from idas_sr.imagefiles.formats import Encoding
from idas_sr.imagefiles.reading import read_picture
from idas_sr.imagefiles.writing import save_rows
from idas_sr.methods.tiles import Tiles
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.shared import PictureStatistics, SharedStatistics
from idas_sr.networks.visual_prompt import VisualPrompt
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.planning import Plan, choose_plan, is_out_of_memory
from idas_sr.resample import resize, upsample
from idas_sr.tiling import Axis, Grid, Window, tiled
from idas_sr.types import Condition

COFFEE = data.coffee()[:96, 100:228]
SMALL = COFFEE[:64]


def picture_of(height: int, width: int) -> Tensor:
    return torch.from_numpy(np.resize(data.chelsea(), (height, width, 3))).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (64, 2000), (513, 511), (100, 100)])
@pytest.mark.parametrize(("tile", "overlap", "batch"), [(128, 32, 1), (64, 24, 4), (4096, 64, 1)])
@pytest.mark.parametrize("scale", [1, 4])
def test_identity_through_the_tiler_is_exact(
    size: tuple[int, int], tile: int, overlap: int, batch: int, scale: int
) -> None:
    picture, seen = picture_of(*size), []

    def identity(tiles: Tensor) -> Tensor:
        seen.append(tiles.shape)
        return F.interpolate(tiles, scale_factor=scale, mode="nearest")

    out = tiled(identity, tile, overlap, scale, batch=batch)(picture)
    assert out.shape == (1, 3, size[0] * scale, size[1] * scale)
    assert float((out - identity(picture)).abs().max()) <= 1e-6
    assert all(max(shape[-2:]) <= tile and len(shape) == 4 and shape[0] <= batch for shape in seen[:-1])
    assert tile > max(size) or len(seen) > 2


@pytest.mark.parametrize(("length", "tile", "overlap"), [(2000, 128, 32), (513, 128, 32), (97, 96, 48), (300, 96, 48)])
def test_windows_are_symmetric_and_sum_to_one(length: int, tile: int, overlap: int) -> None:
    axis = Axis.cover(length, tile, overlap)
    assert axis.tile <= tile and axis.starts[0] == 0 and axis.starts[-1] + axis.tile == length
    assert min(axis.overlaps()) >= overlap
    weights, total = axis.weights(2), torch.zeros(2 * length)
    for start, weight in zip(axis.starts, weights, strict=True):
        total[2 * start : 2 * (start + axis.tile)] += weight
    assert float((total - 1).abs().max()) <= 1e-6
    # Read from the other end, the axis has the same weights, but for overlaps that differ by rounding.
    if len(set(axis.overlaps())) == 1:
        for weight, mirrored in zip(weights, reversed(weights), strict=True):
            assert torch.allclose(weight, mirrored.flip(0), atol=1e-6)
    assert all(float(weight[: overlap // 4].max()) == 0 for weight in weights[1:])


@pytest.mark.parametrize("size", [(4, 4), (96, 128), (516, 64)])
def test_own_parts_cover_the_picture_once(size: tuple[int, int]) -> None:
    count = torch.zeros(size)
    for window, own in Grid.cover(*size, 48, 16, 4).with_cores(4):
        count[window.top + own[0].start : window.top + own[0].stop][
            :, window.left + own[1].start : window.left + own[1].stop
        ] += 1
        assert window.height <= 48 and window.top % 4 == own[0].start % 4 == 0
    assert torch.equal(count, torch.ones(size))


def test_impossible_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match="below the tile"):
        Axis.cover(100, 20, 20)
    with pytest.raises(ValueError, match="multiples of 4"):
        Axis.cover(100, 22, 8, 4)


# ---- statistics ----


def test_shared_statistics_make_a_tile_part_of_its_picture() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.SiLU(), nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8))
    nn.init.normal_(network[1].weight)
    # Contrast only where the last quarter is not.
    picture = picture_of(64, 96) * torch.linspace(1, 0.1, 96)
    quarters = torch.cat([picture[..., y : y + 32, x : x + 48] for y in (0, 32) for x in (0, 48)])
    shared = SharedStatistics(network)
    with torch.no_grad():
        whole = network(picture)
        with shared.measured(0.0):
            together = network(quarters)
        with shared.used():
            alone = network(quarters[3:])
        assert isinstance(network[1], nn.GroupNorm)
        by_itself = network(quarters[3:])
    assert torch.allclose(together[3:], whole[..., 32:, 48:], atol=1e-5)
    assert torch.allclose(alone, whole[..., 32:, 48:], atol=1e-5)
    assert not torch.allclose(by_itself, alone, atol=0.05)


def test_every_call_of_a_round_has_its_own_statistics() -> None:
    network = nn.Sequential(PictureStatistics())
    shared, (first, second) = SharedStatistics(network), torch.randn(2, 1, 4, 8, 8).unbind(0)
    with shared.measured(0.0):
        measured = network(first), network(3 * second)
    for _ in range(2):
        with shared.used():
            assert torch.equal(network(second), measured[0])
            assert torch.equal(network(second), measured[1])
    with pytest.raises(RuntimeError, match="not measured"), SharedStatistics(network).used():
        network(first)


# ---- pictures ----


def restored(pipe: IDaSSRPipeline, **options: object) -> Tensor:
    images = pipe(SMALL, output_type="pt", **options).images  # type: ignore[arg-type]
    assert isinstance(images, Tensor)
    return images


def test_tiles_give_what_the_whole_picture_gives(tiny: IDaSSRPipeline) -> None:
    whole, parts = (restored(tiny, realism=0.7, tile=tile) for tile in (0, 256))
    error = (whole - parts).square().mean().sqrt()
    assert 0 < float(error) < 0.25 * float((restored(tiny, realism=0.7, tile=0, seed=1) - whole).square().mean().sqrt())


def test_T7_the_dial_is_continuous_through_tiles(tiny: IDaSSRPipeline) -> None:  # noqa: N802
    """Same seed: the picture moves with realism by no more than Hoelder 1/2 allows, for tiles as for the whole."""
    out = [restored(tiny, realism=r, tile=256) for r in (0.5, 0.51, 0.7)]
    small, large = (float((other - out[0]).square().mean()) for other in out[1:])
    assert 0 < small < 0.02 * large * (0.2 / 0.01) / 2


def test_T10_tiles_see_the_noise_of_their_place_on_the_canvas(tiny: IDaSSRPipeline) -> None:  # noqa: N802
    method, plan = tiny.restorer, Plan.of_tile(48, 4)
    picture = torch.from_numpy(COFFEE.copy()).permute(2, 0, 1)
    with torch.inference_mode():
        tiles = {r: Tiles(method, picture, r, 5, plan, torch.device("cpu")) for r in (0.0, 1.0)}
        windows = tiles[0.0].grid.row(1)
        with tiles[1.0].statistics.used():
            fresh = [tiles[1.0]._restore(windows).steered.state - tiles[0.0]._restore(windows).steered.state]
    expected = [
        Tensor(tiles[1.0].sample.steered.fresh[:1])
        * torch.from_numpy(canvas(5, (8, 48, 48), (window.top, window.left)))
        for window in windows
    ]
    assert torch.allclose(fresh[0], torch.stack(expected), atol=1e-5)


def canvas(seed: int, shape: tuple[int, int, int], origin: tuple[int, int]) -> np.ndarray:
    """Crop of the noise canvas, from its definition."""
    top, left = origin
    out = np.empty((shape[0], 128, 128), dtype=np.float32)
    for row in range(2):
        for column in range(2):
            key = np.array([seed, (row << 32) + column], dtype=np.uint64)
            part = np.random.Generator(np.random.Philox(key=key)).standard_normal((shape[0], 64, 64), dtype=np.float32)
            out[:, row * 64 : row * 64 + 64, column * 64 : column * 64 + 64] = part
    return out[:, top : top + shape[1], left : left + shape[2]]


def tiles_of(pipe: IDaSSRPipeline, plan: Plan) -> Tiles:
    picture = torch.from_numpy(COFFEE.copy()).permute(2, 0, 1)
    return Tiles(pipe.restorer, picture, 0.7, 5, plan, torch.device("cpu"))


def test_tiles_share_statistics_with_their_picture(tiny: IDaSSRPipeline) -> None:
    plan = Plan.of_tile(64, 4)
    with torch.inference_mode():
        whole = tiny(COFFEE, realism=0.7, seed=5, tile=0, output_type="pt").images[0]
        errors = []
        for samples in (plan.samples, 0):
            rows = [part.clone() for part in tiles_of(tiny, replace(plan, samples=samples)).bands()]
            errors.append(float(((torch.cat(rows, dim=1) / 2 + 0.5).clamp(0, 1) - whole).square().mean()))
    assert errors[0] < 0.75 * errors[1]


def test_every_tile_is_anchored_at_the_pictures_position() -> None:
    pipe = tiny_pipeline()
    # Untrained, it says the same of every picture.
    nn.init.normal_(pipe.estimator.severity.out.weight, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tiles = tiles_of(pipe, Plan.of_tile(48, 4))
        lq = tiles.cut(tiles.grid.row(0))
        told = [tiles._restore([window]).anchor.timestep for window in tiles.grid.row(0)]
        by_itself = tiles.method.anchor(lq, tiles.method.encode(lq)).timestep
    assert torch.equal(torch.cat(told), tiles.sample.anchor.timestep[:1].expand(len(told)))
    whole = pipe(COFFEE, tile=0, return_trace=True).trace
    assert len(set(by_itself.tolist())) == len(told) > 1
    assert whole is not None and float(told[0]) == pytest.approx(whole[0]["t_hat"], rel=0.05)


class Says(nn.Module):
    """The same of every picture."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, lq: Tensor, backbone: LatentBackbone) -> Condition:
        return Condition(self.tokens.expand(len(lq), -1, -1))


def test_every_tile_is_told_what_the_whole_picture_is() -> None:
    pipe, looking, plan = tiny_pipeline(), VisualPrompt(8, encoder_width=16).eval(), Plan.of_tile(48, 4)
    method = pipe.restorer

    def rows(conditioner: nn.Module) -> Tensor:
        method.conditioner = conditioner
        return torch.cat([band.clone() for band in tiles_of(pipe, plan).bands()], dim=1)

    with torch.inference_mode():
        restored = rows(looking)
        tiles = tiles_of(pipe, plan)
        places = (tiles.grid.row(0), [Window(0, 0, tiles.height, tiles.width)])
        parts, whole = (looking(tiles.cut(windows), method.backbone).positive for windows in places)
        told = tiles.condition.positive
        assert torch.equal(restored, rows(Says(told))) and not torch.equal(restored, rows(Says(parts[:1])))
    assert told.shape == (1, 17, 8) and (told - whole).norm() < (parts - whole).flatten(1).norm(dim=1).max()


def test_one_position_per_picture(tiny: IDaSSRPipeline) -> None:
    whole, parts = (tiny(SMALL, tile=tile, return_trace=True).trace for tile in (0, 256))
    assert whole is not None and parts is not None and len(parts) == 1
    assert parts[0]["t_hat"] == pytest.approx(whole[0]["t_hat"], rel=0.05)


def test_a_realism_map_goes_through_tiles(tiny: IDaSSRPipeline) -> None:
    grey = np.zeros((64, 128), dtype=np.float32)
    grey[:, 64:] = 1
    faithful, detailed, mixed = (restored(tiny, realism=r, tile=256) for r in (0, 1, grey))
    # Statistics are measured per level, so each side is nearer to its own restoration.
    for side, own, other in ((slice(0, 240), faithful, detailed), (slice(272, 512), detailed, faithful)):
        nearer, farther = ((mixed - one)[..., side].abs().mean() for one in (own, other))
        assert nearer < 0.3 * farther


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (37, 53), (3, 200)])
def test_any_size_by_small_tiles(tiny: IDaSSRPipeline, size: tuple[int, int]) -> None:
    (out,) = tiny(np.resize(COFFEE, (*size, 3)), tile=128).images
    assert out.size == (size[1] * 4, size[0] * 4)


def test_a_plan_changes_no_state(tiny: IDaSSRPipeline) -> None:
    before = restored(tiny, tile=0)
    restored(tiny, tile=256)
    assert torch.equal(restored(tiny, tile=0), before)


@pytest.mark.parametrize("tile", [-1, "large", 3.5])
def test_senseless_tiles_are_refused(tiny: IDaSSRPipeline, tile: object) -> None:
    with pytest.raises(ValueError, match="tile must be 'auto'"):
        tiny(COFFEE, tile=tile)


# ---- plans ----


def test_plans_follow_free_memory() -> None:
    plenty, little = (choose_plan(300, 400, 4, 4608, free) for free in (8e9, 2e8))
    assert plenty == Plan() and 32 <= little.tile <= 192 and little.samples < 32
    assert choose_plan(4000, 4000, 4, 4608, 64e9).tile == 256
    assert choose_plan(4000, 4000, 16, 50000, 1e6).tile == 32


def test_smaller_plans_end() -> None:
    plan, seen = Plan(), []
    while (smaller := plan.smaller(2000, 1000, 4)) is not None:
        assert smaller.batch * smaller.tile**2 < (plan.batch * plan.tile**2 or 2000**2)
        plan = smaller
        seen.append(plan.tile)
    assert seen == [512, 256, 128, 64, 32]
    assert Plan(256, 32, 4).smaller(900, 900, 4) == Plan(256, 32, 2)


FREED = """
import resource
from idas_sr.planning import keep_freed_memory

def faults_of_large_pieces():
    # Page faults of four pieces of 64 MiB one after the other, the first not counted.
    for turn in range(4):
        if turn == 1:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        b"x" * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults_of_large_pieces(), keep_freed_memory(), faults_of_large_pieces())
"""
"""For a process of its own: one that has restored pictures before keeps its memory already."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_memory_is_used_again() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, env=environment, check=True)
    before, kept, after = done.stdout.split()
    assert int(before) > 10_000 and kept == "True" and int(after) < 1_000


def test_errors_of_memory_are_told_from_others() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


class Narrow(nn.Module):
    """A real decoder on a device that holds no more than a certain number of cells at once."""

    def __init__(self, inner: nn.Module, cells: int) -> None:
        super().__init__()
        self.inner, self.cells = inner, cells

    def forward(self, z: Tensor) -> Tensor:
        if z[:, 0].numel() > self.cells:
            torch.empty(2**55)
        return self.inner(z)


def test_out_of_memory_ends_in_a_smaller_plan_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    pipe = tiny_pipeline()
    whole = restored(pipe, tile=0)
    pipe.vae.decoder = Narrow(pipe.vae.decoder, 64 * 96)
    with caplog.at_level(logging.INFO):
        parts = restored(pipe, tile=0)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"] * 2
    assert "128x64 -> 512x256: whole: out of memory, trying a smaller plan" in caplog.text
    assert "tiles of up to 128 output pixels" in caplog.records[-1].getMessage()
    assert 0 < float((whole - parts).abs().mean()) < 0.01
    pipe.vae.decoder.cells = 1
    with pytest.raises(MemoryError, match="no smaller plan"):
        restored(pipe, tile=0)


def test_windows_cut() -> None:
    assert torch.equal(
        Window(1, 2, 3, 4).of(torch.arange(100).reshape(1, 10, 10))[0, 0], torch.tensor([12, 13, 14, 15])
    )


# ---- rows ----


@pytest.mark.parametrize("color_fix", COLOR_FIXES)
@pytest.mark.parametrize("size", [(148, 212), (93, 133), (200, 301), (1, 2), (592, 848)])
def test_rows_are_finished_as_the_whole_picture_is(
    monkeypatch: pytest.MonkeyPatch, color_fix: str, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(finishing, "PIXELS", 4000)
    lq, generator = picture_of(37, 53), torch.Generator().manual_seed(0)
    hq = torch.rand(1, 3, 148, 212, generator=generator) * 2 - 1
    expected = resize((COLOR_FIXES[color_fix](hq, upsample(lq * 2 - 1, 4)) / 2 + 0.5).clamp(0, 1), size).clamp(0, 1)
    rows = [part.clone() for part in finishing.finish(hq[0].split(50, dim=1), lq[0], 4, color_fix, size)]
    assert len(rows) > 5 or size == (1, 2)
    assert float((torch.cat(rows, dim=1) - expected[0]).abs().max()) < 3e-5


@pytest.mark.parametrize(("mode", "bits"), [("RGB", 8), ("RGB", 16), ("L", 8)])
def test_a_file_written_row_by_row_is_the_picture(model: Path, tmp_path: Path, mode: str, bits: int) -> None:
    image = Image.fromarray(SMALL).convert(mode)
    image.save(tmp_path / "picture.png", dpi=(300, 300))
    options = ("--tile", 256, "--bit-depth", bits, "-s", 3, "--realism", 0.7, "--color-fix", "wavelet")
    assert infer(model, tmp_path / "picture.png", tmp_path / "out", *options) == 0
    written = read_picture(tmp_path / "out" / "picture.png")
    assert written.bits == bits and written.grey == (mode == "L")
    assert written.metadata.dpi == pytest.approx((300, 300), abs=0.1)
    source = read_picture(tmp_path / "picture.png")
    (expected,) = tiny_pipeline()(
        source.colour, tile=256, upscale=3, realism=0.7, color_fix="wavelet", output_type="pt"
    ).images
    if mode == "L":
        expected = (expected * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0).expand(3, -1, -1)
    limit = 1.01 / (65535 if bits == 16 else 255)
    assert float((written.colour - expected).abs().max()) <= limit
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["picture.png"]


def test_the_plan_is_printed_and_small_pictures_are_whole(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(SMALL).save(tmp_path / "picture.png")
    for tile, words in (("256", "128x64 -> 512x256: tiles of up to 256 output pixels"), ("auto", "")):
        assert infer(model, tmp_path / "picture.png", tmp_path / tile, "--tile", tile) == 0
        error = capsys.readouterr().err
        assert words in error and ("tiles of" in error) == bool(words)
    (whole,) = tiny_pipeline()(SMALL, tile=0).images
    assert np.array_equal(np.asarray(Image.open(tmp_path / "auto" / "picture.png")), np.asarray(whole))
    for bad in ("-3", "big"):
        with pytest.raises(SystemExit):
            infer(model, tmp_path / "picture.png", tmp_path / "bad", f"--tile={bad}")


def test_rows_that_do_not_add_up_leave_no_file(tmp_path: Path) -> None:
    Image.fromarray(COFFEE).save(tmp_path / "picture.png")
    source, target = read_picture(tmp_path / "picture.png"), tmp_path / "out.png"
    with pytest.raises(ValueError, match="384 rows was announced, and 96 came"):
        save_rows([source.colour], (384, 128), source, target, Encoding())
    assert not target.exists() and len(list(tmp_path.iterdir())) == 1


LIMITED = """
import resource, sys
import idas_sr
from idas_sr import cli
import idas_sr.cli.infer
import psutil
resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + int(sys.argv[1]) * 2**20,) * 2)
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_process_that_runs_out_of_memory_makes_a_smaller_plan(tmp_path: Path) -> None:
    """A limit on the process: the whole picture does not fit, and tiles do."""
    source = tmp_path / "picture.png"
    Image.fromarray(data.coffee()[:320, :320]).save(source)

    def run(limit: int, tile: str, name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LIMITED, str(limit), "infer", "-i", str(source), "-o", str(tmp_path / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        return subprocess.run([*command, "--tile", tile], capture_output=True, text=True, env=environment)

    plenty, little = run(16384, "0", "plenty"), run(500, "0", "little")
    assert plenty.returncode == 0 and "out of memory" not in plenty.stderr
    assert little.returncode == 0, little.stderr
    assert "320x320 -> 1280x1280: whole: out of memory, trying a smaller plan" in little.stderr
    assert "Traceback" not in little.stderr
    first, second = (
        np.asarray(Image.open(tmp_path / name / "picture.png")).astype(float) for name in ("plenty", "little")
    )
    assert 10 * np.log10(255**2 / ((first - second) ** 2).mean()) > 45
