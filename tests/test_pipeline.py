"""IDaSSRPipeline on tiny real networks: sizes, seeds, batches, traces, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_pipeline
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from torch import Tensor

import idas_sr
from idas_sr.color import COLOR_FIXES
from idas_sr.networks.presets import SD_TURBO_SCHEDULER
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.resample import pad_to_multiple, upsample
from idas_sr.schedule import NoiseSchedule

CAT = data.chelsea()[60:92, 100:148]


def restore(pipe: IDaSSRPipeline, image: object = CAT, **options: object) -> Tensor:
    images = pipe(image, output_type="pt", **options).images  # type: ignore[arg-type]
    assert isinstance(images, Tensor)
    return images


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (5, 200), (2, 3), (16, 16)])
@pytest.mark.parametrize("upscale", [4, 2.5])
def test_output_size_is_exactly_the_rounded_product(
    tiny: IDaSSRPipeline, size: tuple[int, int], upscale: float
) -> None:
    height, width = size
    image = np.resize(data.chelsea(), (height, width, 3))
    (out,) = tiny(Image.fromarray(image), upscale=upscale).images
    assert out.size == (round(width * upscale), round(height * upscale))


def test_a_small_factor_leaves_at_least_one_pixel(tiny: IDaSSRPipeline) -> None:
    assert restore(tiny, CAT[:1, :7], upscale=0.1).shape == (1, 3, 1, 1)


def test_realism_0_does_not_depend_on_the_seed_and_1_does(tiny: IDaSSRPipeline) -> None:
    assert torch.equal(restore(tiny, realism=0, seed=1), restore(tiny, realism=0, seed=2))
    assert torch.equal(restore(tiny, realism=1, seed=1), restore(tiny, realism=1, seed=1))
    assert (restore(tiny, realism=1, seed=1) - restore(tiny, realism=1, seed=2)).abs().mean() > 1e-3


def test_a_generator_gives_its_seed_and_42_is_the_default(tiny: IDaSSRPipeline) -> None:
    def drawn(seed: int) -> Tensor:
        return restore(tiny, realism=1, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(5), drawn(5))
    assert not torch.equal(drawn(5), drawn(6))
    assert torch.equal(restore(tiny, realism=1), restore(tiny, realism=1, seed=42))
    assert not torch.equal(restore(tiny, realism=1), restore(tiny, realism=1, seed=43))


def test_the_global_generator_is_neither_read_nor_moved(tiny: IDaSSRPipeline) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = restore(tiny, realism=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(restore(tiny, realism=1), first)


def test_a_batch_gives_what_its_pictures_give_one_by_one(tiny: IDaSSRPipeline) -> None:
    pictures = [CAT, data.coffee()[:32, :48], data.astronaut()[:20, :24], data.coffee()[100:132, 200:248]]
    levels = [1.0, 0.3, 0.7, 0.0]
    together = tiny(pictures, realism=levels, output_type="pt", return_trace=True)
    for picture, level, out, trace in zip(pictures, levels, together.images, together.trace, strict=True):
        alone = tiny(picture, realism=level, output_type="pt", return_trace=True)
        assert torch.allclose(out, alone.images[0], atol=2e-5)
        assert trace == pytest.approx(alone.trace[0], rel=1e-4)


def test_the_trace_is_chariots(tiny: IDaSSRPipeline) -> None:
    trace = tiny([CAT] * 3, realism=[0, 0.5, 1], return_trace=True).trace
    assert trace is not None and set(trace[0]) == {"t_hat", "t_r", "a_r", "b_r", "raw", "realism"}
    assert [(entry["realism"], entry["raw"]) for entry in trace] == [(0, 0), (0.5, 0.5), (1, 1)]
    assert trace[0]["t_r"] == trace[0]["t_hat"] and trace[0]["b_r"] == 0
    assert trace[0]["t_r"] < trace[1]["t_r"] < trace[2]["t_r"]
    schedule = NoiseSchedule.from_config(SD_TURBO_SCHEDULER)
    for entry in trace:
        level, target = (float(schedule.sigma(torch.tensor([entry[key]]))) for key in ("t_hat", "t_r"))
        assert entry["a_r"] == pytest.approx(level, rel=1e-5)
        assert entry["a_r"] ** 2 + entry["b_r"] ** 2 == pytest.approx(target**2, rel=1e-4)
    assert tiny(CAT).trace is None


def test_it_is_the_method_with_padding_around_it(tiny: IDaSSRPipeline) -> None:
    lq = torch.from_numpy(CAT.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    expected = (tiny.restorer.restore_image(lq, 0.7, [7]).hq / 2 + 0.5).clamp(0, 1)
    assert torch.equal(restore(tiny, realism=0.7, seed=7), expected)


def test_padding_is_cropped_off_again(tiny: IDaSSRPipeline) -> None:
    # A picture that is its own reflection beyond row 31 and column 47: cutting those off must be undone by the padding.
    whole = np.pad(CAT[:31, :47], ((0, 1), (0, 1), (0, 0)), mode="reflect")
    cut = restore(tiny, CAT[:31, :47], realism=0)
    assert torch.allclose(cut, restore(tiny, whole, realism=0)[..., :124, :188], atol=1e-5)


@pytest.mark.parametrize("color_fix", COLOR_FIXES)
def test_colour_fix_uses_the_unpadded_input(tiny: IDaSSRPipeline, color_fix: str) -> None:
    lq = torch.from_numpy(data.chelsea()[:30, :41].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    hq = tiny.restorer.restore_image(pad_to_multiple(lq, 4), 0.0).hq[..., :120, :164]
    expected = (COLOR_FIXES[color_fix](hq, upsample(lq, 4)) / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(restore(tiny, lq / 2 + 0.5, realism=0, color_fix=color_fix), expected, atol=1e-5)


def test_output_types_show_the_same_picture(tiny: IDaSSRPipeline) -> None:
    tensor, array = restore(tiny), tiny(CAT, output_type="np").images
    (image,) = tiny(CAT).images
    assert array.shape == (1, 128, 192, 3) and np.array_equal(array[0], tensor[0].permute(1, 2, 0).numpy())
    assert np.array_equal(np.asarray(image), (array[0] * 255).round().astype(np.uint8))
    assert array.min() >= 0 and array.max() <= 1
    (images,) = tiny(CAT, return_dict=False)
    assert np.array_equal(np.asarray(images[0]), np.asarray(image))
    mixed = tiny([CAT, CAT[:8]], output_type="np").images
    assert [one.shape for one in mixed] == [(128, 192, 3), (32, 192, 3)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"realism": 2}, "between 0 and 1"),
        ({"realism": -0.1}, "between 0 and 1"),
        ({"realism": float("nan")}, "between 0 and 1"),
        ({"realism": [0.1, 0.2]}, "1 pictures but 2"),
        ({"upscale": 0}, "upscale"),
        ({"upscale": float("inf")}, "upscale"),
        ({"color_fix": "magic"}, "none, adain, wavelet"),
        ({"output_type": "jpeg"}, "pil, np, pt"),
        ({"seed": 1, "generator": torch.Generator()}, "not both"),
    ],
)
def test_arguments_out_of_range_are_refused(tiny: IDaSSRPipeline, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        tiny(CAT, **options)
    assert "\n" not in str(caught.value)


def test_save_and_load_give_identical_pictures(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.set_steering("n1", kappa=1.9)
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin")) and not (tmp_path / "adapters").exists()
    loaded = IDaSSRPipeline.from_pretrained(tmp_path)
    for realism in (0, 0.6):
        assert torch.equal(restore(pipe, realism=realism), restore(loaded, realism=realism))
    assert not torch.equal(restore(tiny_pipeline(), realism=0.6), restore(loaded, realism=0.6))
    assert idas_sr.MINE is type(loaded.estimator) and idas_sr.PromptTokens is type(loaded.prompt)


def test_loaded_networks_are_fp32_frozen_and_in_inference_mode(tmp_path: Path) -> None:
    tiny_pipeline().to(torch.float16).save_pretrained(tmp_path)
    loaded = IDaSSRPipeline.from_pretrained(tmp_path)
    for part in (loaded.vae, loaded.unet, loaded.prompt, loaded.estimator):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
        assert not part.training and not any(p.requires_grad for p in part.parameters())
    half = IDaSSRPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.unet.dtype == torch.bfloat16
    assert (restore(half, realism=0.5) - restore(loaded, realism=0.5)).abs().mean() < 0.05


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A prior with an adapter beside it, as the compact model is shipped: another seed's UNet and MINE."""
    prior, tuned = tiny_pipeline(seed=0), tiny_pipeline(seed=1)
    prior.register_modules(estimator=None)
    prior.register_to_config(method=None)
    prior.save_pretrained(tmp_path)
    folder = tmp_path / "adapters" / "idas"
    folder.mkdir(parents=True)
    tensors = {f"estimator.{k}": v.contiguous() for k, v in tuned.estimator.state_dict().items()}
    tensors |= {f"unet.{k}": v.contiguous() for k, v in tuned.unet.state_dict().items()}
    save_file(tensors, folder / "adapter.safetensors")
    config = {
        "method": "idas",
        "steering": {"name": "n1", "args": {"kappa": 2.0}},
        "estimator": dict(tuned.estimator.config),
    }
    (folder / "config.json").write_text(json.dumps(config, default=list))
    return tmp_path


def test_the_adapter_is_merged(shipped: Path) -> None:
    loaded, tuned = IDaSSRPipeline.from_pretrained(shipped), tiny_pipeline(seed=1)
    for name in ("unet", "estimator"):
        own, expected = getattr(loaded, name).state_dict(), getattr(tuned, name).state_dict()
        assert all(torch.equal(own[key], expected[key]) for key in expected)
    assert loaded.config["method"] == "idas" and loaded.config["steering"]["args"] == {"kappa": 2.0}
    assert torch.equal(
        loaded.vae.state_dict()["encoder.layers.0.weight"], tiny_pipeline(0).vae.state_dict()["encoder.layers.0.weight"]
    )


def test_merged_model_saves_as_a_plain_pipeline(shipped: Path, tmp_path: Path) -> None:
    loaded = IDaSSRPipeline.from_pretrained(shipped)
    loaded.save_pretrained(tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapters").exists()
    again = IDaSSRPipeline.from_pretrained(tmp_path / "merged")
    assert torch.equal(restore(loaded, realism=0.5), restore(again, realism=0.5))


def test_an_adapter_that_does_not_fit_is_refused(shipped: Path) -> None:
    save_file({"unet.nothing": torch.zeros(1)}, shipped / "adapters" / "idas" / "adapter.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        IDaSSRPipeline.from_pretrained(shipped)


def test_unknown_models_and_methods_are_refused_naming_what_there_is(shipped: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no method called 'other'; it has idas"):
        IDaSSRPipeline.from_pretrained(shipped, method="other")
    with pytest.raises(ValueError, match="no model called 'nothing'; use "):
        IDaSSRPipeline.from_pretrained("nothing")
    with pytest.raises(ValueError, match="nor to be had from the Hub"):
        IDaSSRPipeline.from_pretrained("nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no saved pipeline"):
        IDaSSRPipeline.from_pretrained(tmp_path / "empty")
    shutil.rmtree(shipped / "adapters")
    with pytest.raises(ValueError, match="no method called 'idas'; it has none"):
        IDaSSRPipeline.from_pretrained(shipped)


def test_a_prior_alone_says_what_is_missing() -> None:
    pipe = tiny_pipeline()
    pipe.register_modules(estimator=None)
    with pytest.raises(ValueError, match="prior only"):
        pipe(CAT)


def test_steering_can_be_exchanged_and_bad_ones_are_refused() -> None:
    pipe = tiny_pipeline()
    default = pipe(CAT, realism=1, return_trace=True).trace[0]
    pipe.set_steering(kappa=1.5)
    assert pipe(CAT, realism=1, return_trace=True).trace[0]["t_r"] < default["t_r"]
    pipe.set_steering("label-only")
    assert pipe(CAT, realism=1, return_trace=True).trace[0]["b_r"] == 0
    for bad in ({"name": "n9"}, {"name": "n1", "speed": 3}, {"kappa": 0.5}):
        with pytest.raises(ValueError, match=r"n9|speed|kappa"):
            pipe.set_steering(**bad)


@pytest.mark.parametrize("upscale", [4, 3])
def test_random_weights_are_the_same_twice(upscale: float) -> None:
    first, second = (IDaSSRPipeline.from_random("compact") for _ in range(2))
    assert torch.equal(restore(first, upscale=upscale), restore(second, upscale=upscale))
    assert (
        sum(p.numel() for part in first.components.values() if hasattr(part, "parameters") for p in part.parameters())
        > 1e6
    )


def test_sd_turbo_without_its_weights_says_what_where_and_under_which_licence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"huggingface\.co/stabilityai/sd-turbo.*License.*--sd-path.*--random-weights"):
        IDaSSRPipeline.from_pretrained("sd-turbo")
    with pytest.raises(ValueError, match=r"unet/config\.json.*missing"):
        IDaSSRPipeline.from_pretrained("sd-turbo", sd_path=str(tmp_path))
    with pytest.raises(ValueError, match="does not exist"):
        IDaSSRPipeline.from_pretrained("sd-turbo", sd_path=str(tmp_path / "nothing"))
