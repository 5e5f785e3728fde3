"""S3Diff: the guided LoRA against steps written out in numpy, its estimator, and online negative prompting."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from conftest import tiny_pipeline
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from test_parameters import export_adapter
from test_training_configs import tiny_overrides
from torch import Tensor, nn

from idas_sr.build import build_method
from idas_sr.cli import main
from idas_sr.config import Component, load_config
from idas_sr.methods.base import Memory
from idas_sr.methods.s3diff import S3Diff
from idas_sr.networks import presets
from idas_sr.networks.degradation_scores import DegradationScores, load_degradation_scores
from idas_sr.networks.guided_lora import DegradationGuide, GuidedLora, block_of, describe_layers
from idas_sr.networks.hd_clip import HDCLIP
from idas_sr.networks.store import load_parts, save_parts
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.resample import upsample
from idas_sr.training.run import CONFIGS, train_stage

SMALL: dict[str, object] = {"unet_rank": 3, "encoder_rank": 2, "scores_args": {"width": 4, "hidden": 8}}
WEIGHTS = {"pixel_l2": 2.0, "gan": 0.5}


class Net(nn.Module):
    """One layer of each sort, under the paths that a UNet would give them."""

    def __init__(self) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList([nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3, stride=2, padding=1)})])
        self.mid_block = nn.Linear(4, 5)
        self.up_blocks = nn.ModuleList([nn.ModuleDict({"conv": nn.Conv2d(4, 4, 1)})])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.up_blocks[0]["conv"](self.down_blocks[0]["conv"](x))  # type: ignore[index]
        return y, self.mid_block(y.flatten(2).transpose(1, 2))


def trained(adapters: nn.Module, seed: int = 0, size: float = 0.3) -> None:
    """Weights that are not at their start, as if they had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapters.parameters():
        with torch.no_grad():
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))


def lq_pictures() -> Tensor:
    """(2, 3, 16, 16) in [-1, 1], of real photographs."""
    pictures = [getattr(skimage.data, name)()[96:160:4, 96:160:4] for name in ("astronaut", "coffee")]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.fixture
def method() -> S3Diff:
    torch.manual_seed(0)
    backbone = presets.tiny()
    guide = DegradationGuide.for_backbone(backbone, 4, **SMALL)  # type: ignore[arg-type]
    args = {"train": ["estimator", "conv_in"], "negative_share": 0.5}
    made = build_method(backbone, guide, Component("s3diff", args), weights=WEIGHTS)
    assert isinstance(made, S3Diff)
    return made


# ---- the adapter ----


def reference(net: Net, adapters: GuidedLora, cores: np.ndarray, x: Tensor) -> np.ndarray:
    """Output of the linear layer, every adapter of rank r written out in numpy: W x + (alpha / r) B C A x."""

    def weight(kind: nn.ModuleDict, path: str) -> np.ndarray:
        return kind[path.replace(".", "/")].weight.detach().double().numpy()  # type: ignore[union-attr, operator]

    def conv(image: np.ndarray, kernel: np.ndarray, stride: int, pad: int) -> np.ndarray:
        image = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
        size, side = kernel.shape[-1], (image.shape[-1] - kernel.shape[-1]) // stride + 1
        out = np.zeros((len(kernel), side, side))
        for i in range(side):
            for j in range(side):
                window = image[:, i * stride : i * stride + size, j * stride : j * stride + size]
                out[:, i, j] = np.einsum("ocij,cij->o", kernel, window)
        return out

    results, factor = [], 8.0 / adapters.rank
    for number, picture in enumerate(x.double().numpy()):
        for path, block, stride, pad in (("down_blocks.0.conv", 0, 2, 1), ("up_blocks.0.conv", 2, 1, 0)):
            layer = net.get_submodule(path)
            inner = conv(picture, weight(adapters.lora_a, path), stride, pad)
            inner = np.einsum("sr,rhw->shw", cores[number, block], inner)
            own = conv(picture, layer.weight.detach().double().numpy(), stride, pad)
            own += layer.bias.detach().double().numpy()[:, None, None]
            picture = own + factor * conv(inner, weight(adapters.lora_b, path), 1, 0)
        rows = picture.reshape(4, -1).T
        inner = rows @ weight(adapters.lora_a, "mid_block").T @ cores[number, 1].T
        own = rows @ net.mid_block.weight.detach().double().numpy().T + net.mid_block.bias.detach().double().numpy()
        results.append(own + factor * inner @ weight(adapters.lora_b, "mid_block").T)
    return np.stack(results)


@pytest.fixture
def small_net() -> tuple[Net, GuidedLora]:
    torch.manual_seed(3)
    net = Net()
    adapters = GuidedLora(*describe_layers(net), rank=2, alpha=8.0)
    adapters.attach(net)
    return net, adapters


def test_untrained_adapters_change_nothing(small_net: tuple[Net, GuidedLora]) -> None:
    net, adapters = small_net
    x = lq_pictures()
    adapters.is_on = False
    before = net(x)
    adapters.is_on = True
    for waves in (None, torch.randn(2, 256)):
        adapters.guide(waves)
        assert all(torch.equal(a, b) for a, b in zip(net(x), before, strict=True))


@pytest.mark.parametrize("is_guided", [False, True])
def test_is_the_formula(small_net: tuple[Net, GuidedLora], is_guided: bool) -> None:
    net, adapters = small_net
    trained(adapters)
    x = lq_pictures()
    adapters.guide(torch.randn(2, 256, generator=torch.Generator().manual_seed(1)) if is_guided else None)
    identity = np.broadcast_to(np.eye(2), (2, 4, 2, 2))
    cores = identity if adapters.cores is None else adapters.cores.detach().double().numpy()
    assert is_guided == bool(np.abs(cores - identity).max() > 0.1)
    if is_guided:
        assert np.abs(cores[0] - cores[1]).max() > 0.1, "every picture has the same core"
        assert np.abs(cores[:, 0] - cores[:, 2]).max() > 0.1, "every block has the same core"
    np.testing.assert_allclose(net(x)[1].detach().numpy(), reference(net, adapters, cores, x), rtol=1e-5, atol=2e-2)


def test_identity_cores_are_plain_lora(small_net: tuple[Net, GuidedLora]) -> None:
    net, adapters = small_net
    trained(adapters)
    torch.manual_seed(3)
    plain = Net()
    targets = [layer["path"] for layer in adapters.layers]
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=8, target_modules=targets), plain, adapter_name="plain")
    for path in targets:
        layer = plain.get_submodule(path)
        name = path.replace(".", "/")
        layer.lora_A["plain"].weight = adapters.lora_a[name].weight
        layer.lora_B["plain"].weight = adapters.lora_b[name].weight
    x = lq_pictures()
    for ours, theirs in zip(net(x), plain(x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_detached_adapters_are_gone(small_net: tuple[Net, GuidedLora]) -> None:
    net, adapters = small_net
    adapters.is_on = False
    x = lq_pictures()
    before = net(x)[0]
    adapters.is_on = True
    trained(adapters)
    assert not torch.equal(net(x)[0], before)
    adapters.detach()
    assert torch.equal(net(x)[0], before)


def test_blocks_of_sd_turbo_are_s3diffs() -> None:
    backbone = presets.tiny_sd_turbo()
    for network, count in ((backbone.unet, 10), (backbone.vae.encoder, 6)):
        layers, blocks = describe_layers(network)
        assert blocks == count and {layer["block"] for layer in layers} <= set(range(count))
        assert not any("time_emb" in layer["path"] for layer in layers)
    assert [block_of(p, 4, 10) for p in ("down_blocks.3.x", "mid_block.x", "up_blocks.0.x", "conv_out")] == [3, 4, 5, 9]


# ---- the estimator ----


def test_scores_lie_between_0_and_1_and_load_strictly(tmp_path: Path) -> None:
    network = DegradationScores(4, 8).eval()
    scores = network(lq_pictures() / 2 + 0.5)
    assert scores.shape == (2, 2) and bool(((scores > 0) & (scores < 1)).all())
    with pytest.raises(FileNotFoundError, match=r"degradation-scores\.yaml"):
        load_degradation_scores(tmp_path)
    network.save_pretrained(tmp_path / "model" / "degradation_scores")
    guide = DegradationGuide.for_backbone(presets.tiny(), 4, scores=str(tmp_path), unet_rank=2, encoder_rank=2)
    torch.testing.assert_close(guide.degradation_scores(lq_pictures()), network(lq_pictures()))


# ---- the method ----


def test_the_latent_is_the_state_at_999(method: S3Diff) -> None:
    result = method.restore_image(lq_pictures())
    assert result.anchor.timestep.tolist() == [999.0, 999.0]
    # Independent of the package: abar of SD-Turbo's schedule at index 999 (methods.md 0.3).
    signal = np.prod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2) ** 0.5
    np.testing.assert_allclose(result.steered.state.numpy() * signal, result.z_lq.numpy(), rtol=1e-4, atol=1e-5)


def test_guidance_and_cores_reach_the_picture(method: S3Diff) -> None:
    trained(method.guide.unet, size=0.05)
    lq = lq_pictures()
    guided = method.restore_image(lq).z0
    method.guided = False
    assert not torch.allclose(method.restore_image(lq).z0, guided)
    method.guided = True
    # Another picture's degradation in the batch must not matter.
    torch.testing.assert_close(method.restore_image(lq[:1]).z0, guided[:1], rtol=1e-3, atol=2e-2)


def test_tiles_of_a_picture_share_its_core(method: S3Diff) -> None:
    for part in (method.guide.unet, method.guide.encoder):
        trained(part, size=0.05)
    lq = lq_pictures()
    scores = method.severity_map(lq, method.encode(lq)).mean((2, 3))
    assert scores.shape == (2, 2) and not torch.equal(scores[0], scores[1])
    with torch.no_grad():
        alone = method.restore(lq[:1])
        tile = method.restore(lq[:1], severity=scores[1:])
        torch.testing.assert_close(method.restore(lq[:1], severity=scores[:1]).z0, alone.z0, rtol=1e-3, atol=2e-2)
    assert not torch.allclose(tile.z_lq, alone.z_lq) and not torch.allclose(tile.z0, alone.z0)


def test_a_remembered_picture_keeps_its_core(method: S3Diff) -> None:
    trained(method.guide.unet, size=0.05)
    lq, memory = lq_pictures(), Memory()
    with torch.no_grad():
        first = method.restore(lq[:1], memory=memory).z0
        method.restore(lq[1:])
        assert torch.equal(method.restore(lq[:1], memory=memory).z0, first)


def test_trains_adapters_and_not_the_estimator(method: S3Diff) -> None:
    method.unfreeze()
    assert all(not p.requires_grad for p in method.guide.degradation_scores.parameters())
    names = {name for name, p in method.named_parameters() if p.requires_grad and not name.startswith("restoration")}
    assert all(".unet." in name or ".encoder." in name or "conv_in" in name for name in names), names


def batch_of(hq: Tensor, uniform: float) -> dict[str, Tensor]:
    """A batch whose first sample draws ``uniform`` where the prompt is decided, and whose second is positive."""
    draws = torch.full((2, 8), 0.4)
    draws[:, 2] = torch.tensor([uniform, 0.9])
    seed, shared = torch.tensor([1, 2]), torch.zeros(8)
    return {"hq": hq, "lq": lq_pictures() / 2 + 0.5, "seed": seed, "uniform": draws, "shared": shared}


def test_negative_samples_aim_at_the_low_quality_picture(method: S3Diff) -> None:
    hq = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        batch = batch_of(hq, uniform=0.1)
        losses = method.losses("generator", batch)
        lq = lq_pictures()
        target = torch.stack([upsample(lq, 4)[0], hq[1] * 2 - 1])
        clean, degraded = (method.backbone.embed(name, 2) for name in ("clean", "degraded"))
        told = torch.stack([degraded[0], clean[1]])
        method.guide.guide(lq)
        z_lq = method.backbone.encode(upsample(lq, 4))
        timestep = torch.full((2,), 999.0)
        state = z_lq / float(method.backbone.schedule.coef(timestep)[0][0])
        picture = method.backbone.decode(method.backbone.predict_z0(state, timestep, told))
        expected = 2.0 * (picture - target).square().mean()
    torch.testing.assert_close(losses["pixel_l2"], expected, rtol=1e-3, atol=1e-4)
    assert batch["judged"].tolist() == [0.0, 1.0]


def test_critic_sees_positive_samples_only(method: S3Diff) -> None:
    hq = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    batch = batch_of(hq, uniform=0.1)
    # Spectral normalisation moves with every look while it trains.
    method.eval()
    with torch.no_grad():
        method.losses("generator", batch)
        one = method.losses("critic", dict(batch))["critic"]
        other = method.losses("critic", {**batch, "fake": torch.stack([batch["fake"][0] + 5, batch["fake"][1]])})
        seen = method.losses("critic", {**batch, "fake": torch.stack([batch["fake"][0], batch["fake"][1] + 5])})
    assert torch.equal(one, other["critic"]) and not torch.equal(one, seen["critic"])


def test_saved_and_loaded_restores_the_same(method: S3Diff, tmp_path: Path) -> None:
    trained(method.guide.unet, size=0.05)
    trained(method.guide.encoder, 1, size=0.05)
    save_parts(tmp_path, method.backbone, estimator=method.guide)
    backbone, guide = load_parts(tmp_path)
    assert isinstance(guide, DegradationGuide)
    again = build_method(backbone, guide, Component("s3diff"))
    lq = lq_pictures()
    torch.testing.assert_close(again.restore_image(lq).z0, method.restore_image(lq).z0, rtol=1e-4, atol=1e-3)


def test_refuses_what_does_not_go_together(method: S3Diff) -> None:
    guide = DegradationGuide.for_backbone(method.backbone, 4, **SMALL)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"adapters of its own.*unet_lora"):
        build_method(presets.tiny(), guide, Component("s3diff", {"train": ["unet_lora"]}))
    with pytest.raises(ValueError, match=r"loss\.vsd"):
        build_method(presets.tiny(), guide, Component("s3diff", {"train": ["estimator"]}), weights={"vsd": 1.0})


# ---- from a training to pictures ----


def test_trained_exported_and_used_from_the_command_line(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = CONFIGS / "train" / "compact" / "methods" / "s3diff.yaml"
    prior = tiny_pipeline()
    model = tmp_path / "model"
    backbone = prior.restorer.backbone
    save_parts(tmp_path / "prior" / "model", backbone)
    IDaSSRPipeline.from_backbone(backbone, None, method=None).save_pretrained(model)
    overrides = [*tiny_overrides(stage, photographs, tmp_path / "run"), f"train.init={tmp_path / 'prior'}"]
    train_stage(load_config(CONFIGS / "base.yaml", stage, overrides=[*overrides, "train.lr=1e-2"]))
    export_adapter.export(tmp_path / "run", model)
    HDCLIP(width=4, embedding=8, tokens=(4, 8)).save_pretrained(tmp_path / "hdclip")

    Image.fromarray(skimage.data.coffee()[:24, :32]).save(tmp_path / "in.png")
    common = ["infer", "-i", str(tmp_path / "in.png"), "--model", str(model), "--method", "s3diff"]
    hdclip = ["--conditioner", "hdclip", f"model={tmp_path / 'hdclip'}"]
    pictures = {}
    for name, extra in {
        "own": [],
        "plain": ["--guider", "positive"],
        "strong": ["--guider", "cfg", "scale=6"],
        "hdclip": [*hdclip, "--guider", "cfpg", "form=a", "scale=3", "negative_scale=2"],
    }.items():
        assert main([*common, "-o", str(tmp_path / name), *extra]) == 0, capsys.readouterr().err
        with Image.open(tmp_path / name / "in.png") as picture:
            assert picture.size == (128, 96)
            pictures[name] = np.asarray(picture).tobytes()
    assert len(set(pictures.values())) == 4
    capsys.readouterr()
    for wrong, words in {
        ("--realism", "0.5"): "has no option 'realism'",
        ("--guider", "cfg", "speed=2"): "speed",
        ("--conditioner", "visual"): "choose one of prompt, hdclip",
        ("--guider", "cfg", "fast"): "fast is no KEY=VALUE",
        ("--guider", "cfg", "scale=["): "cannot be read",
        ("--conditioner", "prompt"): "conditioner.args.negative",
    }.items():
        assert main([*common, "-o", str(tmp_path / "wrong"), *wrong]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said
