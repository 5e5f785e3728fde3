"""Small, real networks that every test may share.

What they need is imported where it is used: the process that hands the tests out to others waits for none of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes that each use every core slow one another down many times. PyTorch reads this when it is imported.
    os.environ["OMP_NUM_THREADS"] = "1"

import idas_sr  # noqa: F401, I001  (first: it makes torchvision importable)

import pytest
import torch

if TYPE_CHECKING:
    import numpy as np

    from idas_sr.methods.base import Method
    from idas_sr.networks.backbone import LatentBackbone
    from idas_sr.pipeline import IDaSSRPipeline
    from idas_sr.schedule import NoiseSchedule

MOST_WORKERS = 4
"""Each is a process with PyTorch and a copy of the shared networks: up to 2 GiB at the end of the suite."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole default suite runs in several processes, one per core, where pytest-xdist is installed.

    Named files, ``-k``, another ``-m``, ``--pdb`` and ``-n 0`` run in this one.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        # One of them already: it must not start more.
        return
    options = config.option
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and options.markexpr.startswith("not slow")
    if not is_whole or options.keyword or options.usepdb or getattr(options, "numprocesses", 0) is not None:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores > 1:
        options.numprocesses = min(cores, MOST_WORKERS)
        # Neighbours share fixtures of their file, so each process gets one piece of the list, and takes from others
        # when it has none left.
        options.dist = "worksteal"


def tiny_pipeline(seed: int = 0) -> IDaSSRPipeline:
    """The compact architecture at very small width, random weights."""
    from diffusers import AutoencoderTiny, UNet2DConditionModel

    from idas_sr.networks.backbone import LatentBackbone
    from idas_sr.networks.mine import MINE
    from idas_sr.networks.presets import COMPACT_UNET, COMPACT_VAE, SD_TURBO_SCHEDULER
    from idas_sr.networks.prompt import PromptTokens
    from idas_sr.pipeline import IDaSSRPipeline
    from idas_sr.schedule import NoiseSchedule

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = {**COMPACT_VAE, "encoder_block_out_channels": [16], "decoder_block_out_channels": [16]}
        vae |= {"num_encoder_blocks": [1], "num_decoder_blocks": [1]}
        unet = {**COMPACT_UNET, "block_out_channels": [16, 16, 16], "cross_attention_dim": 8, "norm_num_groups": 4}
        backbone = LatentBackbone(
            AutoencoderTiny.from_config(vae),
            UNet2DConditionModel.from_config(unet),
            PromptTokens(width=8),
            NoiseSchedule.from_config(SD_TURBO_SCHEDULER),
            [0.1 * i for i in range(8)],
            [0.5 + 0.1 * i for i in range(8)],
        )
        estimator = MINE(
            width=16, deep_width=16, blocks=1, severity_width=8, control_channels=backbone.control_channels
        )
        estimator.deepen(1)
        return IDaSSRPipeline.from_backbone(backbone, estimator).eval()


def infer(model: Path, source: Path, output: Path, *options: object) -> int:
    """``idas-sr infer`` in this process; its exit code."""
    from idas_sr import cli

    return cli.main(["infer", "-i", str(source), "-o", str(output), "--model", str(model), *map(str, options)])


def write_photos(folder: Path, pictures: Mapping[str, np.ndarray]) -> Path:
    """A new folder with files of these names and pictures (H, W, 3) uint8."""
    from PIL import Image

    folder.mkdir()
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / name)
    return folder


def write_pair(folder: Path, stem: str, pixels: np.ndarray) -> tuple[Path, Path]:
    """Files of a photograph (H, W, 3), sides multiples of 4, and of its quarter-size version: lq, hq."""
    from PIL import Image

    files = folder / "lq" / f"{stem}.png", folder / "hq" / f"{stem}.png"
    picture = Image.fromarray(pixels)
    small = picture.resize((picture.width // 4, picture.height // 4), Image.Resampling.BICUBIC)
    for file, content in zip(files, (small, picture), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        content.save(file)
    return files


@pytest.fixture(scope="session")
def tiny() -> IDaSSRPipeline:
    """Shared: do not change it; ask for ``tiny_pipeline()`` where a test does."""
    return tiny_pipeline()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder, as saved."""
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_method() -> Method:
    """The shared pipeline's method: real networks, restoration without files around it."""
    return tiny_pipeline().restorer


@pytest.fixture(scope="session")
def tiny_backbone(tiny_method: Method) -> LatentBackbone:
    """Its backbone."""
    return tiny_method.backbone


@pytest.fixture(scope="session")
def schedule() -> NoiseSchedule:
    """SD-Turbo's."""
    from idas_sr.networks.presets import SD_TURBO_SCHEDULER
    from idas_sr.schedule import NoiseSchedule

    return NoiseSchedule.from_config(SD_TURBO_SCHEDULER)


@pytest.fixture(scope="session")
def photograph() -> torch.Tensor:
    """(1, 3, 256, 384) in [-1, 1], a real one."""
    import skimage.data

    image = torch.from_numpy(skimage.data.coffee()[:256, :384].copy())
    return image.permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of three photographs, all of them of the training split."""
    import skimage.data
    from PIL import Image

    folder = tmp_path_factory.mktemp("photographs")
    for name in ("astronaut", "chelsea", "coffee"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for tests marked so."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()
