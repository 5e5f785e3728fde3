"""nano_idas.py: the same pictures as the package on the same weights, and a training that goes through."""

import ast
import importlib.util
import itertools
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest
import skimage.data
import torch
from PIL import Image

from idas_sr import losses, metrics
from idas_sr.data.sources import list_photographs
from idas_sr.pipeline import IDaSSRPipeline

FILE = Path(__file__).parents[1] / "nano_idas.py"
MEASURE = FILE.parent / "scripts" / "measure_nano.py"
COMPACT = FILE.parent / "idas_sr" / "models" / "compact"
# Sides that are no multiples of four: padding counts too. More than 64 cells wide: two blocks of noise.
PHOTOGRAPH = skimage.data.coffee()[100:110, 100:170]
SETTINGS = list(itertools.product((0.0, 0.5, 1.0), (42, 7)))
# Equal to the last bit on one machine; the bound leaves room for a processor that sums in another order.
TOLERANCE = 1e-5


def load_nano(source: str) -> ModuleType:
    spec = importlib.util.spec_from_loader("nano_idas", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec(compile(source, str(FILE), "exec"), vars(module))
    return module


def restored(nano: ModuleType, realism: float, seed: int) -> torch.Tensor:
    picture = nano.to_tensor([PHOTOGRAPH])
    return nano.restore_pictures(nano.load_model(COMPACT), picture, realism, seed)[0]


@pytest.fixture(scope="module")
def nano() -> ModuleType:
    return load_nano(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def expected() -> dict[tuple[float, int], torch.Tensor]:
    pipe = IDaSSRPipeline.from_pretrained("compact")
    return {
        (realism, seed): pipe(PHOTOGRAPH, realism=realism, seed=seed, output_type="pt", dial="raw").images[0]
        for realism, seed in SETTINGS
    }


@pytest.mark.parametrize(("realism", "seed"), SETTINGS)
def test_the_same_picture_as_the_package(nano: ModuleType, expected: dict, realism: float, seed: int) -> None:
    ours, theirs = restored(nano, realism, seed), expected[realism, seed]
    assert ours.shape == theirs.shape == (3, 40, 280)
    assert float((ours - theirs).abs().max()) <= TOLERANCE


def test_the_dial_and_the_seed_count(expected: dict) -> None:
    # Otherwise the test above would compare one picture with itself.
    assert torch.equal(expected[0.0, 42], expected[0.0, 7])
    for a, b in itertools.combinations([(0.0, 42), (0.5, 42), (0.5, 7), (1.0, 42), (1.0, 7)], 2):
        assert float((expected[a] - expected[b]).abs().max()) > 100 * TOLERANCE


FORMULAS = {
    "schedule: betas": ("0.00085**0.5, 0.012**0.5", "0.00085**0.5, 0.0121**0.5"),
    "schedule: log w linear": ("t - low).exp().float()", "0.5 * (t - low)).exp().float()"),
    "schedule: inverse": ("return (high - 1 + ", "return (high + "),
    "noise: the block's key": ("i << 32 | j", "j << 32 | i"),
    "positioning: the mean of the map": ("power.mean((1, 2, 3)).log()", "power.log().mean((1, 2, 3))"),
    "positioning: the trunk is told": ("(high - low) * 1000", "(high - low) * 999"),
    "inversion: power of u": ("(1 - share.detach() ** 2)", "(1 - share.detach())"),
    "anchor: minus the deviation": ("z_lq - deviation +", "z_lq + deviation +"),
    "anchor: w u": ("as_map(w) * u", "u"),
    "S-2": ("w * (w_end / w) ** realism", "w + (w_end - w) * realism"),
    "end point": ('self.config["kappa"] * w', "1.3 * w"),
    "N1": ("(w_r**2 - w**2).clamp_min(0).sqrt()", "(w_r - w)"),
    "VE to VP": ("state * (1 + w**2).rsqrt()", "state"),
    "z_0 = y - w eps": ("return state - w_r *", "return state - 0.99 * w_r *"),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_wrong_formula_is_noticed(name: str, expected: dict) -> None:
    source, (right, wrong) = FILE.read_text(encoding="utf-8"), FORMULAS[name]
    assert source.count(right) == 1, f"{right!r} stands {source.count(right)} times in {FILE.name}"
    broken = load_nano(source.replace(right, wrong))
    assert float((restored(broken, 0.5, 42) - expected[0.5, 42]).abs().max()) > TOLERANCE


def test_it_needs_nothing_of_the_package() -> None:
    imports = list(ast.walk(ast.parse(FILE.read_text(encoding="utf-8"))))
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in imports if isinstance(node, ast.ImportFrom)}
    outside = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert outside == {"torch", "torchvision", "diffusers", "PIL", "numpy", "safetensors", "tqdm"}


# ---- training ----


@pytest.fixture
def small(nano: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The smallest networks, on small crops."""
    monkeypatch.setattr(nano, "CROP", 32)
    monkeypatch.setattr(nano, "BATCH", 2)
    return {
        "vae": {**nano.NANO["vae"], "num_encoder_blocks": [1], "num_decoder_blocks": [1]},
        "unet": {"block_out_channels": [16, 16, 16], "cross_attention_dim": 8},
        "mine": {**nano.NANO["mine"], "width": 16, "deep_width": 16, "severity_width": 8},
        "kappa": 1.3,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photographs to train on, one that is held out by its name, and a file that is none."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name, stem in (("astronaut", "astronaut"), ("coffee", "coffee"), ("chelsea", "b")):
        Image.fromarray(getattr(skimage.data, name)()[:160, :160]).save(folder / f"{stem}.png")
    return folder


def test_training_goes_through_and_its_model_restores(
    nano: ModuleType, small: dict, folder: Path, tmp_path: Path
) -> None:
    (folder / "damaged.jpg").write_bytes(b"no picture")
    out = tmp_path / "new" / "nano.safetensors"
    rows = runpy.run_path(str(MEASURE))["curve"](nano, folder, out, steps=10, seed=0, config=small)
    assert rows == [json.loads(line) for line in out.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [
        *(("prior", step) for step in (1, 2)),
        *(("anchor", step) for step in (3, 4, 5, 6)),
        *(("restoration", step) for step in (7, 8, 9, 10, 11)),
    ]
    assert sorted(p.name for p in out.parent.iterdir()) == ["nano.jsonl", "nano.safetensors"]
    figures = {"bicubic", "realism 0", "realism 0.5", "realism 1"}
    assert rows[-1].keys() == {"stage", "step", "cpu_minutes", "loss"} | figures
    assert rows[-1]["bicubic"] > rows[-1]["realism 0"] > 5 and not rows[0].keys() & figures

    lq = tmp_path / "lq.png"
    Image.fromarray(PHOTOGRAPH).save(lq)
    nano.main(["restore", str(out), str(lq), str(tmp_path / "out"), "--realism", "0.3"])
    with Image.open(tmp_path / "out" / "lq.png") as picture:
        assert picture.size == (4 * PHOTOGRAPH.shape[1], 4 * PHOTOGRAPH.shape[0])


def test_what_is_held_out_is_what_the_package_holds_out(
    nano: ModuleType, small: dict, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, read_picture = set(), nano.read_picture
    monkeypatch.setattr(nano, "read_picture", lambda path, least: [read.add(path), read_picture(path, least)][1])
    nano.train(folder, tmp_path / "nano.safetensors", steps=1, seed=0, config=small)
    assert read == set(list_photographs(folder, "train")) and list_photographs(folder, "validation")


def crops(nano: ModuleType, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    files = list_photographs(folder, "train")
    return nano.pairs([nano.read_picture(path, 32) for path in files * 8], nano.np.random.default_rng(0))


def test_the_autoencoder_starts_as_a_good_one(nano: ModuleType, small: dict, folder: Path) -> None:
    model, (hq, _) = nano.IDaS(small).requires_grad_(False), crops(nano, folder)
    nano.start_from_components(model, hq)
    z = model.encode(hq)
    assert float(z.mean((0, 2, 3)).abs().max()) < 1e-3 and float((z.std((0, 2, 3)) - 1).abs().max()) < 1e-3
    assert float(metrics.psnr_y(model.decode(z) / 2 + 0.5, hq / 2 + 0.5).mean()) > 30


def test_training_learns(nano: ModuleType, small: dict, folder: Path) -> None:
    torch.manual_seed(0)
    model, pair = nano.IDaS(small), crops(nano, folder)
    nano.start_from_components(model, pair[0])
    pair = [part[: nano.BATCH] for part in pair]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for stage, (_, _, loss_of, _) in nano.STAGES.items():
        values = []
        for steps in (0, 20):
            for _ in nano.run_stage(model, stage, steps, itertools.repeat(pair), nano.np.random.default_rng(0)):
                pass
            torch.manual_seed(1)  # the same timesteps and realism before and after
            with torch.no_grad():
                values.append(float(loss_of(model, *pair, [1, 2])))
        assert values[1] < 0.99 * values[0], stage
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"mine", "unet", "tokens"}


def test_the_calibration_loss_is_the_packages(nano: ModuleType) -> None:
    x = torch.randn(3, 8, 24, 24, generator=torch.Generator().manual_seed(0)).cumsum(3)
    assert nano.calibration(x) == pytest.approx(float(losses.calibration(x).mean()), rel=1e-5)


# ---- mistakes ----


def test_mistakes_get_one_sentence(nano: ModuleType, folder: Path, tmp_path: Path) -> None:
    photo, old = folder / "coffee.png", tmp_path / "old.safetensors"
    old.write_bytes(b"something dear")
    (tmp_path / "empty").mkdir()
    Image.fromarray(PHOTOGRAPH[:3]).save(tmp_path / "thin.png")
    (tmp_path / "damaged.png").write_bytes(photo.read_bytes()[:1000])
    Image.fromarray(PHOTOGRAPH).save(folder / "coffee.jpg")
    model, out = str(COMPACT), str(tmp_path / "out")
    for arguments, words in (
        (["restore", str(old), str(photo), out], "is no model"),
        (["restore", str(tmp_path / "empty"), str(photo), out], "is no model"),
        (["restore", model, str(tmp_path / "nowhere"), out], "no picture"),
        (["restore", model, str(tmp_path / "empty"), out], "no picture"),
        (["restore", model, str(tmp_path / "damaged.png"), out], "cannot be read"),
        (["restore", model, str(tmp_path / "thin.png"), out], "fewer than 4 pixels"),
        (["restore", model, str(photo), out, "--realism", "1.5"], "between 0 and 1"),
        (["restore", model, str(photo), str(folder)], "overwrite"),
        (["restore", model, str(folder), out], "overwrite one another"),
        (["train", str(folder), "--out", str(old)], "exists already"),
        (["train", str(folder), "--steps", "0"], "1 or more"),
        (["train", str(tmp_path / "empty")], "no picture"),
        (["train", str(folder / "b.png"), "--out", str(tmp_path / "new")], "too few"),
    ):
        with pytest.raises(SystemExit) as error:
            nano.main(arguments)
        assert words in str(error.value.code) and "\n" not in str(error.value.code), arguments
    assert old.read_bytes() == b"something dear"


def test_an_interrupted_write_leaves_what_was_there(nano: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "result.png"
    path.write_bytes(b"old")

    def fail(partial: Path) -> None:
        partial.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        nano.write(path, fail)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
