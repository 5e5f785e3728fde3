"""Adapting a trained model to one camera: the training, the file that comes out, what is refused, and the estimate."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from conftest import tiny_pipeline
from PIL import Image

from idas_sr import IDaSSRPipeline, cli
from idas_sr.build import build_degradation
from idas_sr.config import ConfigError, DataConfig, load_config
from idas_sr.data.corruptions import to_pillow
from idas_sr.data.degradation import Degradation
from idas_sr.data.estimate import estimate, jpeg_quality
from idas_sr.data.measured import MeasuredConfig, degrade_measured
from idas_sr.data.photographs import sample_rng
from idas_sr.metrics import psnr_y
from idas_sr.networks.store import load_parts
from idas_sr.training.run import CONFIGS

ROOT = Path(__file__).parents[1]
PERSONAL = CONFIGS / "train" / "personal.yaml"


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="loaded")


def crops(count: int, side: int) -> list[np.ndarray]:
    """Different parts of real photographs, (side, side, 3) uint8."""
    sources = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    found = []
    for index in range(count):
        image = sources[index % 3]
        top, left = (37 * index) % (image.shape[0] - side), (61 * index) % (image.shape[1] - side)
        found.append(image[top : top + side, left : left + side])
    return found


def write_pairs(folder: Path, count: int) -> Path:
    for kind in ("hq", "lq"):
        (folder / kind).mkdir(parents=True)
    for index, pixels in enumerate(crops(count, 96)):
        picture = Image.fromarray(pixels)
        picture.save(folder / "hq" / f"{index:02d}.png")
        picture.resize((24, 24), Image.Resampling.BOX).save(folder / "lq" / f"{index:02d}.png")
    return folder


def words_of(model: Path, pairs: Path, run: Path) -> list[str]:
    """What ``train`` is told, but for a training that takes a second."""
    settings = {
        "data.root": pairs,
        "train.run_dir": run,
        "train.init": model,
        "train.steps": 3,
        "train.batch_size": 2,
        "train.lr": 1e-2,
        "train.warmup": 1,
        "train.precision": "fp32",
        "train.ema": 0.5,
        "data.crop": 64,
        "method.args.unet_rank": 2,
        "method.args.estimator_rank": 2,
    }
    return ["train", str(PERSONAL), *(f"{key}={value}" for key, value in settings.items())]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a model, the run that adapted it, and the adapter."""
    folder = tmp_path_factory.mktemp("personal")
    torch.set_num_threads(1)
    tiny_pipeline().save_pretrained(folder / "model")
    pairs = write_pairs(folder / "pairs", 10)
    assert cli.main(words_of(folder / "model", pairs, folder / "run")) == 0
    said = script("export_adapter")["export_file"](folder / "run", folder / "camera.safetensors")
    assert "camera.safetensors" in said
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(skimage.data.coffee()[:32, :48]).save(path)
    return path


def restored(pipe: IDaSSRPipeline) -> torch.Tensor:
    lq = torch.from_numpy(skimage.data.coffee()[:32, :48].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    hq = pipe.restorer.restore_image(lq, 0.0, [0]).hq
    assert hq is not None
    return hq


def test_weights_under_the_adapter_stay(adapted: Path) -> None:
    before = IDaSSRPipeline.from_pretrained(adapted / "model")
    backbone, estimator = load_parts(adapted / "run" / "model", keep=("unet_lora", "estimator_lora"))
    for name, network in (("unet", backbone.unet), ("estimator", estimator), ("vae", backbone.vae)):
        old = getattr(before, name).state_dict()
        new = {key.replace(".base_layer.", "."): value for key, value in network.state_dict().items()}
        assert old.keys() <= new.keys()
        assert all(torch.equal(value, new[key]) for key, value in old.items()), name


def test_adapter_gives_what_was_trained(adapted: Path) -> None:
    file = adapted / "camera.safetensors"
    assert file.stat().st_size < 200_000 and not list(adapted.glob("*.partial"))
    as_shipped = restored(IDaSSRPipeline.from_pretrained(adapted / "model"))
    with_adapter = restored(IDaSSRPipeline.from_pretrained(adapted / "model", adapter=file))
    trained = restored(IDaSSRPipeline.from_pretrained(adapted / "run" / "model"))
    change = float((trained - as_shipped).abs().mean())
    # fp16 rounds what the training changed by a thousandth or so.
    assert float((with_adapter - trained).abs().mean()) < 0.02 * change
    assert change > 0.01


@pytest.mark.parametrize("part", ["unet", "estimator"])
def test_both_networks_are_adapted(adapted: Path, part: str) -> None:
    before, after = (IDaSSRPipeline.from_pretrained(adapted / name) for name in ("model", "run/model"))
    old, new = (getattr(pipe, part).state_dict() for pipe in (before, after))
    changed = [key for key, value in old.items() if not torch.equal(value, new[key])]
    assert len(changed) > 5
    # Where a position goes in, it means the same as before.
    assert not [key for key in changed if "embed" in key or "time_emb" in key]


def test_infer_loads_the_adapter_and_resume_knows_it(adapted: Path, picture: Path, tmp_path: Path, capsys) -> None:
    words = ["infer", "-i", str(picture), "-o", str(tmp_path / "out"), "--model", str(adapted / "model"), "--resume"]
    pixels = []
    for more in ([], ["--adapter", str(adapted / "camera.safetensors")]):
        assert cli.main([*words, *more]) == 0
        pixels.append(np.asarray(Image.open(tmp_path / "out" / "photo.png")).astype(int))
    assert np.abs(pixels[0] - pixels[1]).mean() > 0.1


def test_reproduce_needs_the_adapter_too(adapted: Path, picture: Path, tmp_path: Path) -> None:
    model, adapter = ["--model", str(adapted / "model")], ["--adapter", str(adapted / "camera.safetensors")]
    assert cli.main(["infer", "-i", str(picture), "-o", str(tmp_path / "out"), *model, *adapter]) == 0
    again = ["reproduce", str(tmp_path / "out" / "photo.png"), str(picture), *model]
    assert cli.main([*again, *adapter]) == 0
    assert cli.main(again) == 1


@pytest.mark.slow
def test_the_shipped_model_gains_on_a_camera(tmp_path: Path) -> None:
    """40 steps on parts of two photographs bring it closer to a third one that the same camera took."""
    camera = Degradation(MeasuredConfig(blur_sigma=(3.0, 3.0), noise=(0.02, 0.02), grain=(0.7, 0.7)))
    for index in range(10):
        image = (skimage.data.astronaut(), skimage.data.chelsea())[index % 2]
        hq = image[17 * index : 17 * index + 128, 30 * index // 2 : 30 * index // 2 + 128]
        write_pair(tmp_path / "pairs", f"{index}", hq, camera)
    words = [f"data.root={tmp_path / 'pairs'}", f"train.run_dir={tmp_path / 'run'}", "train.steps=40"]
    assert cli.main(["train", str(PERSONAL), *words, "train.precision=fp32", "train.ema=0.9"]) == 0
    script("export_adapter")["export_file"](tmp_path / "run", tmp_path / "camera.safetensors")
    assert (tmp_path / "camera.safetensors").stat().st_size <= 3_000_000
    hq = torch.from_numpy(skimage.data.coffee()[64:320, 128:384].copy()).permute(2, 0, 1)[None].float() / 255
    lq = camera(hq, [sample_rng(1, 0)])
    scores = []
    for adapter in (None, tmp_path / "camera.safetensors"):
        pipe = IDaSSRPipeline.from_pretrained("compact", adapter=adapter)
        scores.append(float(psnr_y(pipe(lq, realism=0.0, output_type="pt").images, hq)))
    assert scores[1] > scores[0] + 0.1, scores


def write_pair(folder: Path, name: str, hq: np.ndarray, camera: Degradation) -> None:
    clean = torch.from_numpy(hq.transpose(2, 0, 1).copy())[None].float() / 255
    lq = camera(clean, [sample_rng(0, int(name))])
    for kind, image in (("hq", clean), ("lq", lq)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        to_pillow(image).save(folder / kind / f"{name}.png")


def alter(model: Path) -> None:
    pipe = tiny_pipeline(seed=1)
    pipe.save_pretrained(model)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nothing.safetensors", "There is no adapter"),
        (lambda folder: folder / "model" / "unet" / "diffusion_pytorch_model.safetensors", "is no personal adapter"),
        (lambda folder: folder / "run" / "config.yaml", "is no personal adapter"),
    ],
)
def test_what_is_no_adapter_is_refused(
    adapted: Path, picture: Path, tmp_path: Path, capsys, make: Callable[[Path], Path], words: str
) -> None:
    model = ["--model", str(adapted / "model"), "--adapter", str(make(adapted))]
    assert cli.main(["infer", "-i", str(picture), "-o", str(tmp_path / "out"), *model]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and "\n" not in said and not (tmp_path / "out").exists()


def test_adapter_of_another_model_is_refused(adapted: Path, tmp_path: Path) -> None:
    alter(tmp_path / "model")
    with pytest.raises(ValueError, match="trained on another model"):
        IDaSSRPipeline.from_pretrained(tmp_path / "model", adapter=adapted / "camera.safetensors")


def test_export_refuses_where_the_model_changed(adapted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "model").symlink_to(adapted / "run" / "model")
    alter(tmp_path / "model")
    text = (adapted / "run" / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(adapted / "model"), str(tmp_path / "model")))
    with pytest.raises(ValueError, match="has another unet"):
        script("export_adapter")["export_file"](run, tmp_path / "camera.safetensors")
    assert not (tmp_path / "camera.safetensors").exists()


def shrink(folder: Path) -> None:
    path = folder / "lq" / "04.png"
    Image.open(path).resize((20, 24)).save(path)


def damage(folder: Path) -> None:
    (folder / "hq" / "04.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("count", "spoil", "words"),
    [
        (3, lambda folder: None, "holds 3 pairs where at least 10 are needed"),
        (10, lambda folder: (folder / "lq" / "04.png").unlink(), "04.png has no counterpart"),
        (10, lambda folder: (folder / "lq" / "99.png").write_bytes(b""), "99.png has no counterpart"),
        (10, shrink, "96x96 beside 20x24, not 4 times as large"),
        (10, damage, "04.png: unreadable"),
        (0, lambda folder: None, "pictures"),
    ],
    ids=["three pairs", "no lq", "no hq", "sizes", "unreadable", "empty"],
)
def test_pairs_that_spoil_a_training_are_refused(
    tmp_path: Path, capsys, count: int, spoil: Callable[[Path], object], words: str
) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    pairs = write_pairs(tmp_path / "pairs", count)
    spoil(pairs)
    assert cli.main(words_of(tmp_path / "model", pairs, tmp_path / "run")) == 1
    said = capsys.readouterr().err.strip()
    assert words in said and "\n" not in said and not (tmp_path / "run" / "model").exists()


def test_adapter_needs_a_model(tmp_path: Path, capsys) -> None:
    words = [*words_of(tmp_path, write_pairs(tmp_path / "pairs", 10), tmp_path / "run"), "train.init=null"]
    assert cli.main(words) == 1
    assert "set train.init=compact" in capsys.readouterr().err


def test_shipped_dial_is_trained() -> None:
    model = ROOT / "idas_sr" / "models" / "compact" / "adapters" / "idas" / "config.json"
    steering = load_config(CONFIGS / "base.yaml", PERSONAL, overrides=["data.root=x"]).steering
    assert {"name": steering.name, "args": steering.args} == json.loads(model.read_text())["steering"]


# ---- the estimate ----


def test_jpeg_quality_is_read_from_the_file(tmp_path: Path) -> None:
    picture = Image.fromarray(skimage.data.coffee()[:64, :64])
    for quality in (20, 50, 75, 92):
        picture.save(tmp_path / "a.jpg", quality=quality)
        assert abs((jpeg_quality(tmp_path / "a.jpg") or 0) - quality) <= 1
    picture.save(tmp_path / "a.png")
    assert jpeg_quality(tmp_path / "a.png") is None


@pytest.mark.parametrize(("blur", "noise"), [(1.4, 0.0125), (3.0, 0.03)])
def test_estimate_finds_blur_and_noise(blur: float, noise: float) -> None:
    true = MeasuredConfig(blur_sigma=(blur, blur), noise=(noise, noise), grain=(0.6, 0.6))
    photographs = crops(6, 256)
    pictures = []
    for index, pixels in enumerate(photographs[:3]):
        hq = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].float() / 255
        lq = degrade_measured(hq, true, sample_rng(7, index))
        pictures.append((lq[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    found = estimate(pictures, photographs[3:], None)
    # The other photographs show something else: half a pixel off is what so few allow.
    assert abs(found.blur_sigma[0] - blur) <= 0.6
    assert 0.6 * noise <= found.noise[0] <= 1.6 * noise


def test_estimated_file_is_read_by_the_training(tmp_path: Path) -> None:
    tools = script("estimate_degradation")
    found = MeasuredConfig(blur_sigma=(1.2, 1.6), noise=(0.01, 0.02), jpeg_quality=(80, 80))
    (tmp_path / "camera.yaml").write_text(tools["as_yaml"](found, tmp_path, 9))
    config = load_config(CONFIGS / "base.yaml", PERSONAL, tmp_path / "camera.yaml", overrides=["data.root=x"])
    assert build_degradation(config.data).config == found
    assert config.data.sources["pictures"].lq is None and config.data.sources["pictures"].at_least == 10


def test_a_value_that_a_degradation_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="rain"):
        build_degradation(DataConfig("x", degradation="measured", degradation_args={"rain": [1, 2]}))
    with pytest.raises(ConfigError, match="low <= high"):
        build_degradation(DataConfig("x", degradation="measured", degradation_args={"noise": [2, 1]}))
