"""On a CUDA device: the same pictures as on the CPU, training in bf16, and the full-size backbone.

The bodies are functions of a device, so that they can be tried anywhere:
``python -c "import test_gpu; test_gpu.train_in_bf16(Path('out'))"`` from this folder.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from idas_sr.config import load_config
from idas_sr.networks.library import MODELS
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.training.run import train_stage

ROOT = Path(__file__).parents[1]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; there is none here"),
]


def agreement(
    pipe: IDaSSRPipeline, image: Image.Image, realism: float, devices: tuple[torch.device, torch.device]
) -> float:
    """PSNR in dB between the results of one pipeline on two devices, before rounding to 8 bits."""
    first, second = (
        pipe.to(device)(image, realism=realism, seed=7, output_type="pt").images.double() for device in devices
    )
    assert torch.isfinite(first).all() and torch.isfinite(second).all()
    return float(-10 * (first - second).square().mean().clamp_min(1e-15).log10())


def train_in_bf16(folder: Path, steps: int = 20, crop: int = 64) -> list[dict[str, float]]:
    """Log of a few steps of MINE and UNet on an untrained compact backbone, on whatever device accelerate finds."""
    photographs = folder / "photographs"
    photographs.mkdir(parents=True)
    for index, pixels in enumerate((data.astronaut(), data.coffee(), data.chelsea())):
        Image.fromarray(np.ascontiguousarray(pixels[:256, :256])).save(photographs / f"{index}.png")
    settings = {
        "method.name": "idas",
        "method.args.train": "[estimator,unet]",
        "data.root": photographs,
        "data.split": "all",
        "data.crop": crop,
        "train.run_dir": folder / "run",
        "train.steps": steps,
        "train.batch_size": 4,
        "train.precision": "bf16",
        "train.lr": 5e-4,
        "train.warmup": 5,
        "train.log_every": 1,
        "train.grid_every": steps,
        "loss.positioning": 1.0,
        "loss.deviation": 1.0,
        "loss.residual": 0.2,
        "loss.latent": 1.0,
        "loss.pixel": 1.0,
        "loss.gan": 0.01,
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    train_stage(load_config(ROOT / "configs" / "base.yaml", overrides=overrides))
    assert (folder / "run" / "model" / "unet" / "config.json").is_file()
    return [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]


def check_log(log: list[dict[str, float]], steps: int) -> None:
    """Every step is there and finite, and the generator learnt something."""
    assert [line["step"] for line in log] == list(range(1, steps + 1))
    assert all(math.isfinite(value) for line in log for value in line.values())
    half = steps // 2
    # From 0.13 to 0.011 on the CPU.
    assert sum(line["latent"] for line in log[half:]) < 0.5 * sum(line["latent"] for line in log[:half])


def restore_with_random_weights(name: str, device: torch.device, side: int) -> Image.Image:
    """One picture of ``side`` pixels a side through a backbone of random weights in bf16."""
    pipe = IDaSSRPipeline.from_random(name, torch.bfloat16).to(device)
    lq = Image.fromarray(data.astronaut()).resize((side // 4, side // 4), Image.Resampling.BICUBIC)
    result = pipe(lq, realism=0.5, return_trace=True)
    assert result.trace is not None and all(math.isfinite(value) for value in result.trace[0].values())
    return result.images[0]


@pytest.mark.skipif(not (MODELS / "compact").is_dir(), reason="the compact model is not in this checkout")
@pytest.mark.parametrize("realism", [0.0, 1.0])
def test_compact_agrees_with_the_cpu(realism: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # TF32 convolutions keep 10 bits of every product: right for speed, not for a comparison.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    pipe = IDaSSRPipeline.from_pretrained("compact")
    assert agreement(pipe, Image.open(ROOT / "examples" / "small.png"), realism, (CPU, CUDA)) >= 50


def test_twenty_training_steps_in_bf16(tmp_path: Path) -> None:
    check_log(train_in_bf16(tmp_path), steps=20)


def test_sd_turbo_with_random_weights_at_512() -> None:
    torch.cuda.reset_peak_memory_stats()
    assert restore_with_random_weights("sd-turbo", CUDA, 512).size == (512, 512)
    assert torch.cuda.max_memory_allocated() < 8 * 2**30
