"""Half precision restores the picture that fp32 restores."""

import math

import pytest
import skimage.data
import torch
from conftest import tiny_pipeline

from idas_sr.networks import tiny_precision
from idas_sr.networks.presets import compact
from idas_sr.pipeline import IDaSSRPipeline


def decibel(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(float((a - b).square().mean()))


@pytest.mark.parametrize("crop", [(slice(100, 164), slice(100, 164)), (slice(0, 64), slice(400, 464))])
def test_bf16_is_fp32_to_55_db(crop: tuple[slice, slice]) -> None:
    lq = skimage.data.astronaut()[crop]
    restored = [
        IDaSSRPipeline.from_pretrained("compact", dtype=dtype)(lq, realism=0.7, output_type="pt")
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert decibel(restored[0].images, restored[1].images) >= 55


def test_fp32_is_the_stock_autoencoder() -> None:
    torch.manual_seed(0)
    vae = compact().vae
    stock = type(vae).from_config(vae.config)
    stock.load_state_dict(vae.state_dict())
    x = torch.randn(1, 48, 16, 16)
    stock.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert torch.equal(vae.encode(x).latents, stock.encode(x).latents)
        z = torch.randn(1, 8, 16, 16)
        assert torch.equal(vae.decode(z).sample, stock.decode(z).sample)


def test_stream_stays_in_fp32_through_conversions() -> None:
    pipe = tiny_pipeline().to(torch.bfloat16)
    backbone = pipe.restorer.backbone
    seen = []
    for layer in backbone.vae.decoder.layers:
        layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    backbone.decode(torch.randn(1, 8, 8, 8))
    assert set(seen) == {(torch.float32, torch.float32)}
    assert backbone.vae.decoder.layers[2].conv[0].weight.dtype == torch.bfloat16
    tiny_precision.prepare(backbone.vae)
    assert len(backbone.vae.decoder.layers[2].conv._forward_hooks) == 1


def test_position_is_decided_in_fp32() -> None:
    method = tiny_pipeline().to(torch.bfloat16).restorer
    assert {p.dtype for p in method.estimator.severity.parameters()} == {torch.float32}
    assert method.estimator.enter.weight.dtype == torch.bfloat16
    assert {p.dtype for p in tiny_pipeline().restorer.estimator.parameters()} == {torch.float32}
