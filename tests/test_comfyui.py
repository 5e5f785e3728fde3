"""The ComfyUI nodes: found as ComfyUI finds them, run with its tensors."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import tiny_pipeline
from skimage import data

from idas_sr.pipeline import IDaSSRPipeline

FOLDER = Path(__file__).parents[1] / "integrations" / "comfyui"


@pytest.fixture(scope="module")
def nodes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("comfyui_idas_sr", FOLDER / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_node_is_what_comfyui_asks_for(nodes: ModuleType) -> None:
    assert set(nodes.NODE_CLASS_MAPPINGS) == set(nodes.NODE_DISPLAY_NAME_MAPPINGS)
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        inputs = node.INPUT_TYPES()
        method = getattr(node(), node.FUNCTION)
        names = {name for group in inputs.values() for name in group}
        assert names == set(method.__annotations__) - {"return"}
        assert isinstance(node.RETURN_TYPES, tuple) and node.CATEGORY
        numbers = [entry for group in inputs.values() for entry in group.values() if entry[0] in ("INT", "FLOAT")]
        assert all("default" in settings for _, settings in numbers)


def test_a_batch_goes_through_both_nodes(nodes: ModuleType, tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path)
    (loaded,) = nodes.IDaSSRLoader().load(str(tmp_path), device="cpu")
    assert isinstance(loaded, IDaSSRPipeline)
    batch = torch.stack(
        [torch.from_numpy(picture[60:92, 100:148] / 255) for picture in (data.chelsea(), data.coffee())]
    )
    batch = batch.float()
    (out,) = nodes.IDaSSRUpscale().upscale(loaded, batch, realism=0.7, seed=2**64 - 1)
    assert out.shape == (2, 128, 192, 3) and out.dtype == torch.float32 and out.is_contiguous()
    assert out.min() >= 0 and out.max() <= 1
    for picture, restored in zip(batch.numpy(), out.numpy(), strict=True):
        (expected,) = pipe(picture, realism=0.7, seed=2**64 - 1, output_type="np").images
        assert (restored == expected).all()
    transparent = torch.cat([batch[:1], torch.ones(1, 32, 48, 1)], dim=-1)
    (again,) = nodes.IDaSSRUpscale().upscale(loaded, transparent, realism=0.7, seed=2**64 - 1)
    assert torch.equal(again, out[:1])


def test_a_mask_is_realism_by_place(nodes: ModuleType, tiny: IDaSSRPipeline) -> None:
    image = torch.from_numpy(data.chelsea()[60:92, 100:164] / 255).float()[None].repeat(2, 1, 1, 1)
    mask = torch.zeros(1, 32, 64)
    mask[..., 32:] = 1
    upscale = nodes.IDaSSRUpscale().upscale
    (mixed,), (faithful,) = upscale(tiny, image, realism_map=mask), upscale(tiny, image, realism=0)
    (expected,) = tiny(image[0].numpy(), realism=mask[0], output_type="np").images
    assert (mixed[0].numpy() == expected).all() and torch.equal(mixed[0], mixed[1])
    assert not torch.equal(mixed, faithful)
    with pytest.raises(ValueError, match="2 images but 3 realism maps"):
        upscale(tiny, image, realism_map=mask.repeat(3, 1, 1))


def test_mistakes_end_in_a_sentence(nodes: ModuleType, tiny: IDaSSRPipeline) -> None:
    with pytest.raises(ValueError, match="no model called 'nothing'"):
        nodes.IDaSSRLoader().load("nothing", device="cpu")
    with pytest.raises(ValueError, match="no method called 'nothing'"):
        nodes.IDaSSRLoader().load("compact", method="nothing", device="cpu")
    with pytest.raises(ValueError, match="between 0 and 1"):
        nodes.IDaSSRUpscale().upscale(tiny, torch.zeros(1, 4, 4, 3), realism=2)
