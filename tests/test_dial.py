"""The dial is the dial: what the networks really saw, on a real photograph, watched from outside."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_pipeline
from skimage import data
from torch import Tensor, nn

from idas_sr.networks.library import MODELS
from idas_sr.pipeline import IDaSSRPipeline

CAT = data.chelsea()[40:104, 100:180]
GPU = pytest.mark.gpu


def shipped() -> IDaSSRPipeline:
    if not (MODELS / "compact").is_dir():
        pytest.skip("the compact model has not been exported into this checkout")
    return IDaSSRPipeline.from_pretrained("compact")


@pytest.fixture(scope="module", params=[tiny_pipeline, shipped], ids=["tiny", "shipped"])
def pipe(request: pytest.FixtureRequest) -> IDaSSRPipeline:
    return request.param()


class Watch:
    """Records arguments and results of a module's calls without changing them."""

    def __init__(self, module: nn.Module) -> None:
        self.calls: list[tuple[tuple, dict[str, Any], Any]] = []
        self.handle = module.register_forward_hook(self._record, with_kwargs=True)

    def _record(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], result: Any) -> None:
        self.calls.append((args, kwargs, result))


def watched(pipe: IDaSSRPipeline, realism: float) -> tuple[dict[str, float], Watch, Watch]:
    unet, decoder = Watch(pipe.unet), Watch(pipe.vae.decoder)
    try:
        trace = pipe(CAT, realism=realism, return_trace=True).trace
    finally:
        unet.handle.remove()
        decoder.handle.remove()
    assert trace is not None
    return trace[0], unet, decoder


def state(pipe: IDaSSRPipeline, trace: dict[str, float], unet: Watch) -> tuple[Tensor, float]:
    """The VE state behind what the UNet was given, and its declared noise level w(t_r)."""
    sigma = float(pipe.restorer.backbone.schedule.sigma(torch.tensor([trace["t_r"]])))
    return unet.calls[0][0][0] * math.sqrt(1 + sigma**2), sigma


@pytest.mark.parametrize("realism", [0, 0.3, 1])
def test_one_unet_call_at_t_r_and_one_decoder_call(pipe: IDaSSRPipeline, realism: float) -> None:
    trace, unet, decoder = watched(pipe, realism)
    assert len(unet.calls) == 1 and len(decoder.calls) == 1
    assert unet.calls[0][0][1].tolist() == pytest.approx([trace["t_r"]], abs=1e-4)


@pytest.mark.parametrize("realism", [0.1, 0.5, 1])
def test_the_state_moved_by_b_r_of_fresh_noise(pipe: IDaSSRPipeline, realism: float) -> None:
    trace_0, unet_0, _ = watched(pipe, 0)
    trace_r, unet_r, _ = watched(pipe, realism)
    moved = state(pipe, trace_r, unet_r)[0] - state(pipe, trace_0, unet_0)[0]
    # 1 % of b_r, and what a sample of this size strays by itself (four standard errors).
    tolerance = 0.01 + 4 / math.sqrt(2 * moved.numel())
    assert float(moved.square().mean().sqrt()) == pytest.approx(trace_r["b_r"], rel=tolerance)


def test_the_result_uses_w_of_t_r(pipe: IDaSSRPipeline) -> None:
    trace, unet, decoder = watched(pipe, 0.7)
    y, sigma = state(pipe, trace, unet)
    eps = unet.calls[0][2].sample
    backbone = pipe.restorer.backbone
    raw = (y - sigma * eps) * backbone.latents_std + backbone.latents_mean
    assert torch.allclose(decoder.calls[0][0][0], raw, atol=1e-3 * float(raw.std()) + 1e-4)


def psnr(first: Tensor, second: Tensor) -> float:
    return float(-10 * (first - second).square().mean().log10())


@GPU
@pytest.mark.parametrize("realism", [0, 0.5, 1])
def test_cpu_and_cuda_agree(pipe: IDaSSRPipeline, realism: float) -> None:
    here = pipe(CAT, realism=realism, output_type="pt").images
    there = pipe.to("cuda")(CAT, realism=realism, output_type="pt").images
    pipe.to("cpu")
    assert psnr(here, there) >= 50


@GPU
def test_full_size_backbone_on_cuda() -> None:
    full = IDaSSRPipeline.from_random("sd-turbo", torch.float16).to("cuda")
    image = full(np.ascontiguousarray(data.astronaut()[:512:4, :512:4]), realism=0.5, output_type="pt").images
    assert image.shape == (1, 3, 512, 512) and bool(image.isfinite().all())
