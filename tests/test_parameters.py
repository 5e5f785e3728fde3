"""What each stage trains, adapters on their way through files, and who moves in whose turn."""

import copy
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import skimage.data
import torch
from contract import full_size, load_script, trained
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from idas_sr.build import build_method
from idas_sr.config import Component, Config, load_config
from idas_sr.methods.base import Method
from idas_sr.methods.distillation import tied_timestep
from idas_sr.methods.idas import IDaSSR
from idas_sr.methods.latent_perceptual import LatentPerceptualTask
from idas_sr.methods.parameters import parameter_table
from idas_sr.methods.restorer import RESTORATION
from idas_sr.methods.task import Batch
from idas_sr.networks import lora, presets
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.latent_perceptual import LatentPerceptual, load_latent_perceptual
from idas_sr.networks.mine import MINE
from idas_sr.networks.sd_turbo import load_sd_turbo
from idas_sr.networks.sd_turbo_random import TINY, write_random_sd_turbo
from idas_sr.networks.store import load_parts, save_parts
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.training.run import train_stage
from idas_sr.types import Condition

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
STEERING = {"latent": 1.0, "gan_latent": 0.1, "vsd": 0.1}
PRESETS = [presets.tiny, presets.tiny_sd_turbo]
BUILT: dict[str, IDaSSR] = {}
"""Arguments -> what ``tiny_task`` made of them, untouched: a copy takes a third of the time."""


def tiny_task(
    preset=presets.tiny_sd_turbo, train=("estimator", "unet_lora"), weights=STEERING, backbone=None, **args
) -> IDaSSR:
    key = str((preset, train, weights, args))
    if backbone is None and key in BUILT:
        return copy.deepcopy(BUILT[key])
    is_new = backbone is None
    torch.manual_seed(0)
    backbone = preset() if backbone is None else backbone
    stride = backbone.downsample // Method.scale
    estimator = MINE(backbone.latent_channels, stride, 16, 16, 1, 8)
    method = Component("idas", {"train": tuple(train), "zero_prob": 0.0, **args})
    task = build_method(backbone, estimator, method, weights=weights)
    assert isinstance(task, IDaSSR)
    task.unfreeze()
    if is_new:
        BUILT[key] = copy.deepcopy(task)
    return task


def batch_of(count: int = 2, side: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(1)
    hq = torch.rand(count, 3, side, side, generator=generator)
    lq = nn.functional.avg_pool2d(hq, 4)
    uniform = torch.rand(count, 8, generator=generator)
    return {"hq": hq, "lq": lq, "seed": torch.arange(count), "uniform": uniform, "shared": torch.full((8,), 0.4)}


def start_adapters(*networks: nn.Module, name: str = "") -> None:
    """Adapters start as nothing; here they (or the one called ``name``) do something."""
    generator = torch.Generator().manual_seed(2)
    for network in networks:
        for path, parameter in network.named_parameters():
            if "lora_B" in path and name in path:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05


def turn(task: IDaSSR, player: str, batch: Batch) -> dict[str, Tensor]:
    task.set_player(player)
    losses, left = task(player, batch)
    batch.update(left)
    torch.stack(list(losses.values())).sum().backward()
    return losses


export_adapter = load_script("export_adapter")


# ---- golden: what every stage trains ----

# MINE's own count follows its architecture; the test of its size is in test_sd_turbo.py and test_networks.py.
GOLDEN = {
    "compact/0-autoencoder": [("generator", "backbone.vae", 1_172_536)],
    "compact/1-prior": [("generator", "backbone.unet", 2_913_384), ("generator", "backbone.prompt", 768)],
    "compact/2-positioning": [("generator", "estimator", None)],
    "compact/3-anchor": [("generator", "estimator", None)],
    "compact/4-steering": [
        ("generator", "estimator", None),
        ("generator", "backbone.unet", 2_913_384),
        ("generator", "backbone.vae.decoder", 697_072),
        ("critic", "restoration.critic", 389_905),
    ],
    "compact/5-severity": [("generator", "estimator.severity", 167_906)],
    "compact/6-polish": [("generator", "backbone.vae.decoder", 697_072)],
    "sd-turbo/2-positioning": [("generator", "estimator", None)],
    "sd-turbo/3-anchor": [("generator", "estimator", None), ("critic", "restoration.latent_critic", 387_108)],
    "sd-turbo/4-steering": [
        ("generator", "estimator", None),
        ("generator", "unet_lora, rank 16", 16_222_848),
        ("critic", "restoration.latent_critic", 387_108),
        ("fake_score", "fake_score, rank 16", 16_222_848),
    ],
    "latent-perceptual": [("generator", "network", 408_564)],
    "hdclip": [
        ("generator", "network.encoder", 314_944),
        ("generator", "network.semantic", 49_344),
        ("generator", "network.degradation", 65_856),
        ("generator", "network.scale", 396),
        ("generator", "network.semantic_tokens", 16_640),
        ("generator", "network.degradation_tokens", 49_408),
    ],
    "degradation-scores": [("generator", "network", 149_410)],
    "personal": [
        ("generator", "estimator_lora, rank 16", None),
        ("generator", "unet_lora, rank 16", 619_776),
    ],
    "compact/methods/s3diff": [
        ("generator", "estimator.unet", 770_240),
        ("generator", "estimator.encoder", 160_960),
        ("generator", "backbone.unet.conv_in", 4_672),
        ("critic", "restoration.critic", 389_905),
    ],
    # The paper counts 34.5 M: the first two.
    "sd-turbo/s3diff": [
        ("generator", "estimator.unet", 32_833_600),
        ("generator", "estimator.encoder", 1_629_680),
        ("generator", "backbone.unet.conv_in", 11_840),
        ("critic", "restoration.critic", 389_905),
    ],
    "compact/methods/invsr": [("generator", "estimator", None), ("critic", "restoration.latent_critic", 138_595)],
    "compact/methods/osediff": [
        ("generator", "unet_lora, rank 16", 617_600),
        ("generator", "vae_encoder_lora, rank 8", 70_080),
        ("generator", "backbone.unet.conv_in", 4_672),
        ("fake_score", "fake_score, rank 8", 309_888),
    ],
    "compact/methods/rcod": [
        ("generator", "estimator", None),
        ("generator", "conditioner", 64_672),
        ("generator", "unet_lora, rank 16", 617_600),
        ("generator", "vae_encoder_lora, rank 8", 70_080),
        ("generator", "backbone.unet.conv_in", 4_672),
        ("fake_score", "fake_score, rank 8", 309_888),
    ],
}


def stage(name: str, *overrides: str) -> Config:
    trial = []
    if name.endswith("s3diff"):
        # Without the trained degradation estimator, which counts as frozen.
        trial += ["estimator.scores=null"]
    if name == "personal":
        trial += ["train.adapter=null"]
    return full_size(CONFIGS / "train" / f"{name}.yaml", *trial, *overrides)


def test_every_stage_has_a_golden_row() -> None:
    there = {
        path.relative_to(CONFIGS / "train").with_suffix("").as_posix() for path in (CONFIGS / "train").rglob("*.yaml")
    }
    # A method of ``idas-sr new-method`` has it in its own test.
    elsewhere = {name for name in there if (ROOT / "tests" / f"test_method_{Path(name).name}.py").is_file()}
    assert there - elsewhere == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_what_trains_is_golden(name: str) -> None:
    found = trained(stage(name))
    expected = [(player, part, count) for player, part, count in GOLDEN[name]]
    known = [(p, n, c if e is None else e) for (p, n, c), (_, _, e) in zip(found, expected, strict=True)]
    assert found == known


def test_table_names_players_parts_and_totals() -> None:
    task = tiny_task()
    lines = parameter_table(task).splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["generator", "generator", "critic", "fake_score"]
    assert "unet_lora, rank 16" in lines[1]
    count = sum(p.numel() for player in task.trainable() for p in task.parameters_of(player))
    assert lines[-2].split() == ["trained", "in", "all", f"{count:,}"]
    assert lines[-1].split() == ["frozen", f"{sum(p.numel() for p in task.parameters()) - count:,}"]


def test_what_is_marked_trainable_is_what_the_players_hold() -> None:
    task = tiny_task(train=("estimator", "unet_lora", "vae_encoder_lora", "conv_in", "decoder"))
    held = {id(p) for player in task.trainable() for p in task.parameters_of(player)}
    assert {id(p) for p in task.parameters() if p.requires_grad} == held


# ---- turns ----


@pytest.mark.parametrize("preset", PRESETS)
def test_only_the_active_player_gets_gradients(preset) -> None:
    task, batch = tiny_task(preset, ("estimator", "unet_lora", "vae_encoder_lora")), batch_of()
    start_adapters(task.backbone)
    assert list(task.trainable()) == ["generator", "critic", "fake_score"]
    for player in task.trainable():
        task.zero_grad()
        turn(task, player, batch)
        got = {id(p) for p in task.parameters() if p.grad is not None and p.grad.any()}
        held = {id(p) for p in task.parameters_of(player)}
        assert got <= held, player
        # Two things keep gradients from the others, and either hides that the other is broken: so look at both.
        assert {id(p) for p in task.parameters() if p.requires_grad} == held, player
        assert [name for name, value in batch.items() if value.requires_grad] == [], player
        # A few have none because of ReLU-like zeros or because nothing depends on them (a bias before a normalisation).
        assert len(got) > 0.8 * len(held), player


@pytest.mark.parametrize("preset", PRESETS)
def test_checkpointing_changes_no_gradient_although_adapters_are_switched(preset) -> None:
    """The backward pass computes the UNet again: with the adapter of then, not with the one that was on last."""
    gradients = []
    for is_checkpointing in (False, True):
        task, batch = tiny_task(preset, ("estimator", "unet_lora", "vae_encoder_lora")), batch_of()
        start_adapters(task.backbone)
        if is_checkpointing:
            task.backbone.unet.enable_gradient_checkpointing()
        values = {}
        for player in task.trainable():
            values |= turn(task, player, batch)
        gradients.append({name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None})
    assert set(values) >= {"latent", "gan_latent", "vsd", "critic_latent", "fake_score"}
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_the_prior_that_vsd_asks_is_the_one_from_before() -> None:
    """With an adapter and with full training of the UNet alike; and the fake score is not the prior."""
    for train in (("estimator", "unet_lora"), ("estimator", "unet"), ("estimator", "conv_in")):
        task = tiny_task(train=train, vae_encoder_rank=4)
        torch.manual_seed(0)
        before = presets.tiny_sd_turbo()
        start_adapters(task.backbone)
        if "unet_lora" not in train:
            for parameter in task.parameters_of("generator"):
                parameter.data += 0.1
        z, t = torch.randn(1, 4, 8, 8), torch.tensor([300.0])
        tokens = before.embed("positive", 1)
        lora.use_lora(task.prior.unet, None)
        with torch.no_grad():
            torch.testing.assert_close(task.prior.predict_z0(z, t, tokens), before.predict_z0(z, t, tokens))
            lora.use_lora(task.backbone.unet, lora.GENERATOR)
            assert not torch.allclose(
                task.backbone.predict_z0(z, t, tokens), before.predict_z0(z, t, tokens), atol=1e-3
            )


def test_critic_and_prior_do_not_see_the_generators_adapter() -> None:
    task, batch = tiny_task(), batch_of()
    start_adapters(task.backbone, name=lora.GENERATOR)
    task._switch_on()
    # The fake score starts as the prior: it costs nothing, however far the generator has gone.
    z0 = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    tokens = task.backbone.embed("positive", 2)
    batch |= {"timestep": torch.tensor([200.0, 300.0]), "z0": z0, "z_lq": z0, "z_hq": -z0}
    with torch.no_grad():
        assert task.distillation.distill(task.prior, z0, Condition(tokens), batch).tolist() == [0, 0]
        task._switch_on()
        with_adapter = task.restoration.of_critics(task.prior, tokens, batch)["critic_latent"]
        start_adapters(task.backbone)
        task._switch_on()
        assert torch.equal(task.restoration.of_critics(task.prior, tokens, batch)["critic_latent"], with_adapter)
        features = task.backbone.encoder_features(z0, batch["timestep"], tokens)
        task._switch_on()
        adapted = task.backbone.encoder_features(z0, batch["timestep"], tokens)
        assert not torch.allclose(features[-1], adapted[-1], atol=1e-3)
        assert torch.equal(
            task.restoration.latent_critic(z0, z0, features),
            task.restoration._judge(task.prior, z0, z0, batch["timestep"], tokens),
        )


def test_scores_are_compared_around_the_position() -> None:
    timestep = torch.tensor([100.0, 500.0, 900.0])
    low, high = (tied_timestep(timestep, torch.full((3,), u)).tolist() for u in (0.0, 1.0))
    assert low == [20, 250, 650]
    assert high == [350, 750, 980]


def test_the_fake_score_learns_the_restored_latents() -> None:
    """After following them the two scores differ, and what VSD pays is no longer zero."""
    task = tiny_task()
    paid, errors = [], []
    optimizer = torch.optim.Adam(task.parameters_of("fake_score"), 4e-3)
    for _ in range(6):
        batch = batch_of()
        with torch.no_grad():
            task.set_player("generator")
            losses, left = task("generator", batch)
        batch.update(left)
        paid.append(float(losses["vsd"]))
        optimizer.zero_grad()
        errors.append(float(turn(task, "fake_score", batch)["fake_score"].detach()))
        optimizer.step()
    assert paid[0] == 0
    assert paid[-1] > 1e-4
    assert errors[-1] < errors[0]


def test_clean_targets_come_from_the_encoder_without_adapter() -> None:
    task, batch = tiny_task(train=("estimator", "vae_encoder_lora")), batch_of()
    hq = batch["hq"] * 2 - 1
    lora.use_lora(task.backbone.vae.encoder, None)
    with torch.no_grad():
        before = task.backbone.encode(hq)
    start_adapters(task.backbone.vae.encoder)
    lora.use_lora(task.backbone.vae.encoder, lora.GENERATOR)
    assert torch.equal(task.encode_clean(hq), before)
    # And the low-quality picture's from the one with it.
    with torch.no_grad():
        assert not torch.allclose(task.backbone.encode(hq), before, atol=1e-3)


# ---- terms ----


def test_weight_zero_builds_neither_critic_nor_fake_score() -> None:
    task = tiny_task(weights={"latent": 1.0, "gan_latent": 0.0, "gan": 0.0, "vsd": 0.0})
    assert list(task.trainable()) == ["generator"]
    assert lora.adapters_of(task.backbone.unet) == {lora.GENERATOR}
    assert task.own_prior is None and not list(task.restoration.children())
    assert set(task.losses("generator", batch_of())) == {"latent"}


def test_realism_weighs_every_restoration_term(tmp_path: Path) -> None:
    network = LatentPerceptual(8, (8, 8))
    network.save_pretrained(tmp_path / "model" / "latent_perceptual")
    names = [name for name in RESTORATION if name not in ("feature", "lpips")]
    torch.manual_seed(0)
    args = {"latent_perceptual": str(tmp_path), "at_realism_1": dict.fromkeys(names, 3.0)}
    task = tiny_task(presets.tiny, weights=dict.fromkeys(names, 0.5), **args)
    values, steering = {}, task.steering
    # The same restoration at every realism, so that only the weight differs.
    task.steering = lambda anchor, z, realism, *rest: steering(anchor, z, 0.0, *rest)
    for realism in (0.0, 1.0):
        batch = batch_of()
        batch["uniform"][:, 1] = realism
        values[realism] = {name: float(value.detach()) for name, value in task.losses("generator", batch).items()}
    assert set(values[0.0]) == set(names)
    for name in names:
        assert values[1.0][name] == pytest.approx(3 * values[0.0][name], rel=0.02), name


# ---- adapters in files ----


def output(backbone: LatentBackbone, image: Tensor) -> Tensor:
    with torch.no_grad():
        z = backbone.encode(image)
        tokens = backbone.embed(backbone.prompt.config["names"][0], len(z))
        return backbone.predict_z0(z, torch.tensor([200.0]), tokens)


@pytest.mark.parametrize("preset", PRESETS)
def test_adapters_survive_the_file_merged_and_kept(preset, tmp_path: Path) -> None:
    task = tiny_task(preset, ("estimator", "unet_lora", "vae_encoder_lora"), vae_encoder_rank=2)
    start_adapters(task.backbone)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    task._switch_on()
    expected = output(task.backbone, image)
    task.save(tmp_path)
    assert {path.name for path in (tmp_path / "unet_lora").iterdir()} == {lora.WEIGHTS, lora.CONFIG}
    merged, _ = load_parts(tmp_path)
    torch.testing.assert_close(output(merged, image), expected, rtol=1e-4, atol=1e-4)
    assert merged.unet.state_dict().keys() == preset().unet.state_dict().keys()
    kept, _ = load_parts(tmp_path, keep=["unet_lora", "vae_encoder_lora"])
    torch.testing.assert_close(output(kept, image), expected, rtol=1e-5, atol=1e-5)
    # The fake score is the training's own business.
    assert lora.adapters_of(kept.unet) == {lora.GENERATOR}


def test_the_next_stage_goes_on_with_the_adapter(tmp_path: Path) -> None:
    task = tiny_task()
    start_adapters(task.backbone)
    task.save(tmp_path)
    backbone, _ = load_parts(tmp_path, keep=["unet_lora"])
    again = tiny_task(backbone=backbone)
    for old, new in zip(task.parameters_of("generator")[-4:], again.parameters_of("generator")[-4:], strict=True):
        assert torch.equal(old, new)
    backbone, _ = load_parts(tmp_path, keep=["unet_lora"])
    with pytest.raises(ValueError, match="rank 16; go on with that, not with 8"):
        tiny_task(backbone=backbone, unet_rank=8)


def test_saving_again_writes_the_same_bytes(tmp_path: Path) -> None:
    task = tiny_task()
    for name in ("a", "b"):
        task.save(tmp_path / name)
    files = [sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("*.*")) for n in ("a", "b")]
    assert files[0] == files[1]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files[0])


def test_an_adapter_of_another_network_is_refused(tmp_path: Path) -> None:
    lora.add_lora(small := nn.Sequential(nn.Linear(3, 3)), lora.GENERATOR, 2)
    lora.save_lora(small, lora.GENERATOR, tmp_path)
    with pytest.raises(ValueError, match="does not fit"):
        lora.load_lora(nn.Sequential(nn.Linear(4, 4)), lora.GENERATOR, tmp_path)


def finished_run(folder: Path, sd_turbo: Path, *train: str) -> Path:
    """A stage on ``sd_turbo`` whose adapters do something, as training leaves it."""
    task = tiny_task(train=train, backbone=load_sd_turbo(str(sd_turbo)))
    start_adapters(task.backbone)
    task.save(folder / "model")
    settings = {"method": {"name": "idas", "args": {"train": list(train)}}}
    settings |= {"steering": {"name": "n1", "args": {"kappa": 1.7}}}
    OmegaConf.save(OmegaConf.create(settings), folder / "config.yaml")
    return folder


def test_the_pipeline_merges_adapters_from_a_stage_and_from_an_export(tmp_path: Path) -> None:
    sd_turbo = write_random_sd_turbo(tmp_path / "sd-turbo", TINY)
    run = finished_run(tmp_path / "run", sd_turbo, "estimator", "unet_lora", "vae_encoder_lora")
    said = export_adapter.export(run, tmp_path / "exported")
    assert str(tmp_path / "exported" / "adapters" / "idas") in said
    stage = IDaSSRPipeline.from_pretrained(run / "model")
    exported = IDaSSRPipeline.from_pretrained(tmp_path / "exported", sd_path=str(sd_turbo))
    assert stage.config["steering"] == exported.config["steering"] == {"name": "n1", "args": {"kappa": 1.7}}
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    first, second = (pipe(image, realism=0.7, output_type="pt").images for pipe in (stage, exported))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)
    # The adapters count: without them it is another picture.
    for pipe in (stage, exported):
        assert lora.adapters_of(pipe.unet) == set()
    for name in ("unet_lora", "vae_encoder_lora"):
        shutil.rmtree(tmp_path / "exported" / "adapters" / "idas" / name)
    bare = IDaSSRPipeline.from_pretrained(tmp_path / "exported", sd_path=str(sd_turbo))
    assert float((bare(image, realism=0.7, output_type="pt").images - first).abs().max()) > 0.01


def test_written_settings_are_json_in_lines_that_can_be_read() -> None:
    value = {
        "layers": [{"path": f"down_blocks.{i}.resnets.0.conv1", "block": i} for i in range(9)],
        "rank": 16,
        "none": None,
    }
    text = export_adapter.as_json(value)
    assert json.loads(text) == value and max(map(len, text.splitlines())) <= export_adapter.WIDTH
    # One line per layer, and three for the braces and the rest.
    assert len(text.splitlines()) == 9 + 6


def test_what_is_no_adapter_is_not_exported(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", write_random_sd_turbo(tmp_path / "sd-turbo", TINY), "estimator", "decoder")
    with pytest.raises(ValueError, match="trained decoder: that is no adapter"):
        export_adapter.export(run, tmp_path / "exported")


@pytest.mark.parametrize(
    ("train", "says"),
    [
        (("estimator", "unet", "unet_lora"), "train either the whole UNet or"),
        (("estimator", "unit"), "no part called 'unit'"),
        (("estimator", "severity"), "which is a piece of it"),
        (("estimator", "estimator_lora"), "train either the whole network or"),
    ],
)
def test_parts_that_cannot_be(train: Iterable[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tiny_task(train=tuple(train))


@pytest.mark.long
@pytest.mark.slow
def test_a_steering_run_resumes_with_adapters_critic_and_fake_score(tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    Image.fromarray(skimage.data.astronaut()[:256, :256]).save(photographs / "astronaut.png")
    overrides = [f"data.root={photographs}", "data.split=all", "data.crop=64", "data.workers=0", "train.batch_size=1"]
    overrides += ["train.steps=3", "train.save_every=1", "train.grid_every=0", "train.warmup=0", "train.keep=9"]
    overrides += ["train.init=null", "train.precision=fp32", "backbone.name=tiny-sd-turbo", "loss.lpips=0"]
    overrides += ["estimator.width=16", "estimator.deep_width=16", "estimator.blocks=1", "estimator.severity_width=8"]
    path = CONFIGS / "train" / "sd-turbo" / "4-steering.yaml"
    results = []
    for name in ("whole", "again"):
        config = load_config(
            CONFIGS / "base.yaml", path, overrides=[*overrides, f"train.run_dir={tmp_path / name}", "train.lr=1e-3"]
        )
        train_stage(config)
        if name == "again":
            for late in sorted((tmp_path / name / "checkpoints").iterdir())[1:]:
                late.unlink()
            shutil.rmtree(tmp_path / name / "model")
            train_stage(config)
        model = tmp_path / name / "model"
        results.append({p.relative_to(model): p.read_bytes() for p in model.rglob("*") if p.is_file()})
    assert results[0] == results[1]
    # It did train: an adapter starts with one factor at zero.
    tensors = load_file(tmp_path / "whole" / "model" / "unet_lora" / lora.WEIGHTS)
    assert all(value.any() for key, value in tensors.items() if "lora_A" in key)
    assert sum(bool(value.any()) for key, value in tensors.items() if "lora_B" in key) > 100


# ---- the latent perceptual network ----


def test_latent_perceptual_learns_kind_and_level() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    task = LatentPerceptualTask(presets.tiny(), {"kind": 1.0, "level": 1.0}, (16, 16))
    task.unfreeze()
    optimizer = torch.optim.Adam(task.parameters_of("generator"), 3e-3)
    batches = [batch_of(8, 32) for _ in range(2)]
    for index, batch in enumerate(batches):
        batch["uniform"] = torch.rand(8, 8, generator=torch.Generator().manual_seed(index))
    totals = []
    for step in range(40):
        losses, _ = task("generator", batches[step % 2])
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        totals.append(float(sum(value.detach() for value in losses.values())))
    assert sum(totals[-4:]) < 0.8 * sum(totals[:4])


def test_latent_perceptual_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"latent-perceptual\.yaml.*loss\.latent_perceptual=0"):
        load_latent_perceptual(tmp_path, 8)
    save_parts(tmp_path / "model", presets.tiny())
    LatentPerceptual(4, (8,)).save_pretrained(tmp_path / "model" / "latent_perceptual")
    with pytest.raises(ValueError, match="another backbone's latents"):
        load_latent_perceptual(tmp_path, 8)
