"""What stock diffusers and peft do with our files and networks: custom pipeline, offloading, tiling, adapters."""

import copy
from pathlib import Path

import pytest
import torch
from conftest import tiny_pipeline
from diffusers import DiffusionPipeline
from peft import PeftModel
from safetensors.torch import load_file, save_file
from skimage import data
from torch import Tensor, nn

from idas_sr.build import build_estimator
from idas_sr.networks import lora
from idas_sr.networks.presets import tiny_sd_turbo
from idas_sr.pipeline import IDaSSRPipeline

CAT = data.chelsea()[60:92, 100:148]


def restore(pipe: IDaSSRPipeline, **options: object) -> Tensor:
    return pipe(CAT, output_type="pt", **options).images  # type: ignore[return-value, arg-type]


@pytest.fixture(scope="module")
def turbo() -> IDaSSRPipeline:
    """SD-Turbo's classes at very small width, random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = tiny_sd_turbo()
        return IDaSSRPipeline.from_backbone(backbone, build_estimator(backbone, width=16, deep_width=16)).eval()


def load_as_custom(folder: Path, monkeypatch: pytest.MonkeyPatch) -> DiffusionPipeline:
    # diffusers copies the folder's code to a cache before it runs it; not to the user's, in a test.
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(folder / "modules"))
    return DiffusionPipeline.from_pretrained(str(folder), custom_pipeline=str(folder), trust_remote_code=True)


def test_diffusers_loads_a_saved_folder_as_custom_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The shipped model, because its sizes are those at which the layout of weights in memory decides about last bits.
    ours = IDaSSRPipeline.from_pretrained("compact")
    ours.save_pretrained(tmp_path)
    theirs = load_as_custom(tmp_path, monkeypatch)
    assert isinstance(theirs, IDaSSRPipeline)
    for realism in (0, 1):
        assert torch.equal(restore(ours, realism=realism), restore(theirs, realism=realism))
    assert not torch.equal(restore(theirs, realism=1), restore(theirs, realism=0))


def test_offloading_fetches_every_network_and_changes_no_picture() -> None:
    # The hooks are diffusers' own and fire here as they do before an accelerator; they only have nowhere to move to.
    pipe, plain = tiny_pipeline(), tiny_pipeline()
    pipe.enable_model_cpu_offload(device="cpu")
    parts = {name: getattr(pipe, name) for name in ("estimator", "unet", "vae")}
    assert all(hasattr(part, "_hf_hook") for part in parts.values()) and not hasattr(pipe.prompt, "_hf_hook")
    order = [hook.model for hook in pipe._all_hooks]
    assert order == [pipe.estimator, pipe.unet, pipe.vae]
    assert torch.equal(restore(pipe), restore(plain))
    pipe.remove_all_hooks()
    assert torch.equal(restore(pipe), restore(plain))


def test_offloaded_networks_are_left_where_they_are() -> None:
    pipe = tiny_pipeline()
    pipe.enable_model_cpu_offload(device="cpu")
    # As on an accelerator: the pipeline runs on another device than its networks lie on.
    for part in (pipe.estimator, pipe.unet, pipe.vae):
        part._hf_hook.execution_device = torch.device("meta")
    backbone = pipe.restorer.backbone
    assert backbone.latents_mean.device.type == backbone.prompt.tokens.device.type == "meta"
    for part in (pipe.estimator, pipe.unet, pipe.vae):
        assert {parameter.device.type for parameter in part.parameters()} == {"cpu"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; there is none here")
def test_offloading_on_an_accelerator_leaves_nothing_there() -> None:
    pipe, plain = tiny_pipeline(), tiny_pipeline().to("cuda")
    pipe.enable_model_cpu_offload()
    offloaded = restore(pipe, realism=0.7)
    assert torch.allclose(offloaded, restore(plain, realism=0.7), atol=1e-5)
    for part in (pipe.estimator, pipe.unet, pipe.vae):
        assert {parameter.device.type for parameter in part.parameters()} == {"cpu"}
    assert pipe.prompt.tokens.device.type == "cuda"


def test_offloading_needs_an_accelerator() -> None:
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(RuntimeError, match="requires accelerator"):
        tiny_pipeline().enable_model_cpu_offload()


def test_vae_tiling_is_that_of_the_autoencoder(turbo: IDaSSRPipeline) -> None:
    whole, seen = restore(turbo, realism=0), []
    watch = turbo.vae.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[-1]))
    turbo.vae.enable_tiling()
    turbo.vae.tile_sample_min_size, turbo.vae.tile_latent_min_size = 64, 8
    tiled = restore(turbo, realism=0)
    turbo.vae.disable_tiling()
    watch.remove()
    assert len(seen) > 1 and max(seen) == 64
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)
    assert torch.equal(restore(turbo, realism=0), whole)


def test_an_autoencoder_that_diffusers_cannot_tile_says_so() -> None:
    pipe = tiny_pipeline()
    pipe.vae.enable_tiling()
    with pytest.raises(ValueError, match="4 latent channels only"):
        restore(pipe)
    pipe.vae.disable_tiling()
    assert torch.equal(restore(pipe), restore(tiny_pipeline()))


def with_adapter(network: nn.Module, folder: Path) -> nn.Module:
    """A copy of ``network`` under a random adapter, which is written to ``folder``."""
    network = copy.deepcopy(network)
    lora.add_lora(network, lora.GENERATOR, 3)
    for path, parameter in network.named_parameters():
        if "lora_B" in path:
            nn.init.normal_(parameter.data, std=0.1)
    lora.save_lora(network, lora.GENERATOR, folder)
    return network


def test_peft_and_diffusers_load_the_unets_adapter(turbo: IDaSSRPipeline, tmp_path: Path) -> None:
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([100.0]), torch.randn(1, 4, 8)
    ours = with_adapter(turbo.unet, tmp_path)(*inputs).sample
    assert (ours - turbo.unet(*inputs).sample).abs().max() > 1e-3
    by_peft = PeftModel.from_pretrained(copy.deepcopy(turbo.unet), str(tmp_path))
    assert torch.allclose(by_peft(*inputs).sample, ours, atol=1e-5)
    by_diffusers = copy.deepcopy(turbo.unet)
    by_diffusers.load_lora_adapter(str(tmp_path), weight_name=lora.WEIGHTS, prefix="base_model.model")
    assert torch.allclose(by_diffusers(*inputs).sample, ours, atol=1e-5)


def test_peft_loads_the_encoders_adapter_and_diffusers_under_another_name(
    turbo: IDaSSRPipeline, tmp_path: Path
) -> None:
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    ours = with_adapter(turbo.vae.encoder, tmp_path)(image)
    by_peft = PeftModel.from_pretrained(copy.deepcopy(turbo.vae.encoder), str(tmp_path))
    assert torch.allclose(by_peft(image), ours, atol=1e-5)
    # diffusers puts adapters on the whole autoencoder, in which these layers have another name.
    by_diffusers, tensors = copy.deepcopy(turbo.vae), load_file(tmp_path / lora.WEIGHTS)
    renamed = {key.replace(lora.PREFIX, "encoder."): value for key, value in tensors.items()}
    by_diffusers.load_lora_adapter(renamed, prefix=None)
    assert torch.allclose(by_diffusers.encoder(image), ours, atol=1e-5)


def test_adapters_without_pefts_prefix_are_still_read(tmp_path: Path) -> None:
    plain, x = nn.Sequential(nn.Linear(5, 5)), torch.randn(2, 5)
    ours = with_adapter(plain, tmp_path)(x)
    tensors = load_file(tmp_path / lora.WEIGHTS)
    save_file({key.removeprefix(lora.PREFIX): value for key, value in tensors.items()}, tmp_path / lora.WEIGHTS)
    lora.load_lora(plain, lora.GENERATOR, tmp_path)
    assert torch.allclose(plain(x), ours)
