"""The backbone's four verbs, both presets, MINE's words and the autoencoder's linear start."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from idas_sr.networks import presets
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.mine import MIN_NOISE_POWER, MINE, Estimate
from idas_sr.networks.pca import start_from_pca
from idas_sr.networks.prompt import PromptTokens
from idas_sr.schedule import NoiseSchedule


def millions(*modules: nn.Module) -> float:
    return sum(p.numel() for module in modules for p in module.parameters()) / 1e6


# ---- backbone ----


@pytest.fixture(scope="module")
def tiny_kl(schedule: NoiseSchedule) -> LatentBackbone:
    """SD-Turbo's two classes at very small width."""
    torch.manual_seed(0)
    vae = {**presets.SD_TURBO_VAE, "block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "layers_per_block": 1}
    unet = {"block_out_channels": [8, 8], "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    unet |= {"cross_attention_dim": 8, "attention_head_dim": 4, "norm_num_groups": 4, "layers_per_block": 1}
    return LatentBackbone(
        AutoencoderKL.from_config(vae), UNet2DConditionModel.from_config(unet), PromptTokens(width=8), schedule
    ).eval()


def test_encode_is_the_scaled_mode(tiny_kl: LatentBackbone, photograph: Tensor) -> None:
    image = photograph[..., :64, :96]
    with torch.no_grad():
        first, second = tiny_kl.encode(image), tiny_kl.encode(image)
        posterior = tiny_kl.vae.encode(image).latent_dist
    assert torch.equal(first, second)
    assert first.shape == (1, 4, 8, 12)
    torch.testing.assert_close(first, posterior.mode() * 0.18215)
    # The check can tell: this posterior is not so narrow that a sample would pass for its mode.
    assert (posterior.sample() * 0.18215 - first).abs().max() > 0.01


def test_decode_undoes_the_scaling(tiny_kl: LatentBackbone) -> None:
    z = torch.randn(1, 4, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(tiny_kl.decode(z), tiny_kl.vae.decode(z / 0.18215).sample, atol=1e-5, rtol=1e-5)
    assert (tiny_kl.downsample, tiny_kl.unshuffle, tiny_kl.multiple) == (8, 1, 2)


def test_latents_are_normalised_by_the_statistics(photograph: Tensor) -> None:
    torch.manual_seed(0)
    backbone = presets.compact()
    with torch.no_grad():
        raw = backbone.encode_raw(photograph)
        backbone.set_statistics(raw.mean((0, 2, 3)), raw.std((0, 2, 3)))
        z = backbone.encode(photograph)
        torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(backbone.decode(z), backbone.decode_raw(raw), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_are_never_rounded(tiny_kl: LatentBackbone, schedule: NoiseSchedule, dtype: torch.dtype) -> None:
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        parts = AutoencoderKL.from_config(tiny_kl.vae.config), UNet2DConditionModel.from_config(tiny_kl.unet.config)
        backbone = LatentBackbone(*parts, PromptTokens(width=8), schedule)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(backbone.latents_std, torch.full((1, 4, 1, 1), 1 / 0.18215))
    assert backbone.to(dtype).latents_std.dtype == torch.float32
    assert torch.equal(backbone.latents_std, tiny_kl.latents_std)
    image = torch.zeros(1, 3, 16, 16)
    with torch.no_grad():
        z = backbone.encode(image)
        assert z.dtype == torch.float32
        assert backbone.decode(z).dtype == torch.float32
        assert backbone.predict_z0(z, torch.tensor([199.0]), backbone.embed("clean", 1)).dtype == torch.float32


def test_predict_z0_is_differentiable_in_the_state(tiny_backbone: LatentBackbone) -> None:
    state = torch.randn(1, 8, 8, 8, requires_grad=True)
    tokens = tiny_backbone.embed("clean", 1)
    (gradient,) = torch.autograd.grad(
        tiny_backbone.predict_z0(state, torch.tensor([199.5]), tokens).square().sum(), state
    )
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_position_and_tokens_reach_the_unet(tiny_backbone: LatentBackbone) -> None:
    z = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))[:1].repeat(3, 1, 1, 1)
    tokens = torch.cat([tiny_backbone.embed(name, 1) for name in ("clean", "clean", "degraded")])
    with torch.no_grad():
        eps = tiny_backbone.predict_eps(z, torch.tensor([199.0, 199.5, 199.0]), tokens)
    assert not torch.allclose(eps[0], eps[1], atol=1e-6)  # half an index already counts
    assert not torch.allclose(eps[0], eps[2], atol=1e-6)


def test_embed(tiny_backbone: LatentBackbone) -> None:
    tokens = tiny_backbone.embed("degraded", 3)
    assert tokens.shape == (3, 4, 8)
    assert torch.equal(tokens[:1], tiny_backbone.embed("degraded", 1))
    with pytest.raises(ValueError, match=r"'bad'.*clean, degraded, none"):
        tiny_backbone.embed("bad", 1)


# ---- presets ----


def test_compact_preset() -> None:
    backbone = presets.compact()
    assert millions(backbone.vae) == pytest.approx(1.1725, abs=1e-4)
    assert millions(backbone.unet) == pytest.approx(2.9134, abs=1e-4)
    assert millions(backbone, MINE()) <= 7.9
    assert (backbone.downsample, backbone.latent_channels, backbone.unshuffle) == (4, 8, 4)
    side = 4 * backbone.multiple
    with torch.no_grad():
        z = backbone.encode(torch.zeros(2, 3, 2 * side, 3 * side))
        assert z.shape == (2, 8, 2 * side // 4, 3 * side // 4)
        z0 = backbone.predict_z0(z, torch.tensor([199.0, 24.5]), backbone.embed("clean", 2))
        assert z0.shape == z.shape
        assert backbone.decode(z0).shape == (2, 3, 2 * side, 3 * side)


def test_compact_unet_attends_to_tokens_but_for_the_mid_block() -> None:
    """Attention among the latent's cells costs the square of the area: one such block, at the coarsest level."""
    attentions = {name: m for name, m in presets.compact().unet.named_modules() if isinstance(m, Attention)}
    among_cells = [name for name, m in attentions.items() if m.to_k.in_features != 64]
    assert len(attentions) == 8
    assert among_cells == ["mid_block.attentions.0.transformer_blocks.0.attn1"]


def test_compact_autoencoder_is_local(photograph: Tensor) -> None:
    torch.manual_seed(0)
    backbone = presets.compact()
    with torch.no_grad():
        whole = backbone.encode(photograph)
        part = backbone.encode(photograph[..., :160, :160])
    torch.testing.assert_close(part[..., :20, :20], whole[..., :20, :20], atol=1e-5, rtol=1e-5)


def test_sd_turbo_preset() -> None:
    with torch.device("meta"):
        backbone = presets.sd_turbo()
    assert millions(backbone.unet) == pytest.approx(865.91, abs=0.01)
    assert millions(backbone.vae) == pytest.approx(83.65, abs=0.01)
    assert (backbone.downsample, backbone.latent_channels, backbone.multiple) == (8, 4, 8)
    assert backbone.prompt.tokens.shape == (2, 77, 1024)


# ---- MINE ----


def inputs(batch: int, height: int, width: int, stride: int, channels: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lq = torch.rand(batch, 3, height * stride, width * stride, generator=generator) * 2 - 1
    return lq, torch.randn(batch, channels, height, width, generator=generator)


def estimate(mine: MINE, *tensors: Tensor) -> Estimate:
    with torch.no_grad():
        return mine(*tensors)


@pytest.mark.parametrize(("stride", "channels"), [(1, 8), (2, 4)])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 9)])
@pytest.mark.parametrize("parameterisation", ["i1", "i2"])
def test_mine_takes_any_size(parameterisation: str, size: tuple[int, int], stride: int, channels: int) -> None:
    mine = MINE(channels, stride, 16, 16, 1, 8, parameterisation)
    said = estimate(mine, *inputs(2, *size, stride, channels))
    assert said.log_sigma.shape == said.residual.shape == (2,)
    assert said.noise.shape == (2, channels, *size)
    assert said.noise.isfinite().all()
    assert (said.deviation is None) == (parameterisation == "i1")
    low, high = mine.log_range
    assert ((said.log_sigma > low) & (said.log_sigma < high)).all()
    assert ((said.residual > 0) & (said.residual < said.log_sigma.exp())).all()


def test_mine_starts_with_no_deviation() -> None:
    said = estimate(MINE(), *inputs(2, 8, 8, 1, 8))
    assert torch.equal(said.deviation, torch.zeros(2, 8, 8, 8))
    assert said.noise.std() > 0.1


def test_mine_noise_leaves_room_for_the_residual() -> None:
    """rms(u)^2 = 1 - (sigma_e / w)^2, so that u and what is left of the deviation fill the declared level (9.1)."""
    torch.manual_seed(1)
    mine = MINE(width=16, deep_width=16, blocks=1)
    # Another share for each picture: the residual's logit from strongly negative to strongly positive.
    for bias in (-4.0, 0.0, 1.0, 6.0):
        mine.severity.out.bias.data[1] = bias
        said = estimate(mine, *inputs(3, 12, 10, 1, 8))
        share = said.residual / said.log_sigma.exp()
        power = said.noise.square().mean((1, 2, 3))
        torch.testing.assert_close(power, (1 - share**2).clamp_min(MIN_NOISE_POWER), atol=1e-3, rtol=1e-3)
    assert float(power.min()) == pytest.approx(MIN_NOISE_POWER, rel=1e-2)  # the floor was reached


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (12, 20)])
def test_mine_severity_is_the_mean_of_its_map(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    mine = MINE(width=16, deep_width=16, blocks=1, sigma_min=1e-3, sigma_max=1e3)
    nn.init.normal_(mine.severity.out.weight, std=0.5)
    said = estimate(mine, *inputs(2, *size, 1, 8))
    assert said.power is not None
    assert said.power.shape == (2, 1, -(-size[0] // 4), -(-size[1] // 4))
    torch.testing.assert_close(said.log_sigma.exp() ** 2, said.power.mean((1, 2, 3)), rtol=1e-4, atol=1e-6)


def test_mine_severity_is_clipped_to_its_range() -> None:
    mine = MINE(width=16, deep_width=16, blocks=1, sigma_min=0.6, sigma_max=0.8)
    for start, level in ((0.25, 0.6), (0.49, 0.7), (4.0, 0.8)):
        mine.severity.out.bias.data[0] = math.log(start)
        said = estimate(mine, *inputs(1, 8, 8, 1, 8))
        assert float(said.log_sigma.exp()) == pytest.approx(level, rel=1e-4)


def test_mine_i1_noise_is_free() -> None:
    torch.manual_seed(1)
    mine = MINE(width=16, deep_width=16, blocks=1, parameterisation="i1")
    tensors = inputs(1, 8, 8, 1, 8)
    before = estimate(mine, *tensors).noise
    mine.noise_head.weight.data *= 3
    mine.noise_head.bias.data *= 3
    torch.testing.assert_close(estimate(mine, *tensors).noise, 3 * before)
    with pytest.raises(ValueError, match="'i1', 'i2' or 'i3', not 'i4'"):
        MINE(parameterisation="i4")


def test_mine_trunk_is_told_the_position() -> None:
    torch.manual_seed(1)
    mine = MINE(width=16, deep_width=16, blocks=1)
    for block in (*mine.before, *mine.deep, *mine.after):  # otherwise they start as the identity
        nn.init.normal_(block.conv2.weight, std=0.1)
    tensors = inputs(1, 8, 8, 1, 8)
    free, forced = estimate(mine, *tensors), estimate(mine, *tensors, torch.tensor([-1.4]))
    assert not torch.allclose(free.noise, forced.noise, atol=1e-4)
    assert torch.equal(free.log_sigma, forced.log_sigma)


def test_mine_position_has_its_own_gradient() -> None:
    """What the trunk does with a position must not move it: only the severity head's own loss does."""
    mine = MINE(width=16, deep_width=16, blocks=1)
    said = mine(*inputs(1, 8, 8, 1, 8))
    (said.noise.sum() + said.deviation.sum()).backward()
    assert all(p.grad is None or not p.grad.any() for p in mine.severity.parameters())
    said = mine(*inputs(1, 8, 8, 1, 8))
    said.log_sigma.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in mine.severity.parameters())


def test_mine_stores_its_range(tmp_path: Path) -> None:
    mine = MINE(width=16, deep_width=16, blocks=1)
    mine.set_range(0.3, 0.9)
    assert mine.log_range == pytest.approx((-1.20397, -0.10536), abs=1e-5)
    mine.set_similarity_quantiles(torch.linspace(0, 0.5, 3))
    mine.save_pretrained(tmp_path)
    for copy in (MINE.from_config(mine.config), MINE.from_pretrained(tmp_path)):
        assert copy.log_range == mine.log_range
        assert list(copy.config["similarity_quantiles"]) == [0, 0.25, 0.5]


def test_mine_grows_its_severity_head_without_changing_what_it_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mine, data = MINE(width=16, deep_width=16, blocks=1, severity_width=8), inputs(1, 24, 24, 1, 8)
    nn.init.normal_(mine.severity.out.weight)
    before = mine.severity_map(*data)
    mine.deepen(2)
    assert torch.equal(mine.severity_map(*data), before)
    nn.init.normal_(mine.severity.context[1].narrow.weight)
    after = mine.severity_map(*data)
    assert not torch.equal(after, before)
    mine.save_pretrained(tmp_path)
    assert torch.equal(MINE.from_pretrained(tmp_path).severity_map(*data), after)
    with pytest.raises(ValueError, match="severity_depth is 2 already and cannot become 1"):
        mine.deepen(1)
    other = MINE(width=16, deep_width=16, blocks=1, severity_width=12)
    other.take_severity(mine)
    assert torch.equal(other.severity_map(*data), after)
    assert {key: value.shape for key, value in MINE.from_config(other.config).state_dict().items()} == {
        key: value.shape for key, value in other.state_dict().items()
    }
    with pytest.raises(ValueError, match="read different inputs"):
        MINE(stride=2).take_severity(mine)


def test_mine_is_convolutions_only() -> None:
    """No attention anywhere, so that cost is linear in the area."""
    kinds = {type(m).__name__ for m in MINE().modules() if any(True for _ in m.parameters(recurse=False))}
    assert kinds == {"Conv2d", "Linear"}


def test_mine_is_the_same_on_a_tile() -> None:
    """No statistics over the picture in the trunk: far from its border a tile says what the picture says."""
    torch.manual_seed(1)
    mine = MINE(width=16, deep_width=16, blocks=1)
    for block in (*mine.before, *mine.deep, *mine.after):
        nn.init.normal_(block.conv2.weight, std=0.1)
    lq, z = inputs(1, 48, 48, 1, 8)
    position = torch.tensor([-0.5])
    # The share is the picture's; the severity head starts with the same for every picture.
    whole, tile = (estimate(mine, lq[..., :n, :n], z[..., :n, :n], position).noise for n in (48, 32))
    torch.testing.assert_close(tile[..., :12, :12], whole[..., :12, :12], atol=1e-5, rtol=1e-5)


# ---- linear start of the autoencoder ----


def test_pca_start_is_a_linear_projection(photograph: Tensor) -> None:
    torch.manual_seed(0)
    backbone = presets.compact()
    start_from_pca(backbone.vae, photograph, backbone.unshuffle, raw_std=0.5, exponent=0.5)
    with torch.no_grad():
        raw = backbone.encode_raw(photograph)
        decoded = backbone.decode_raw(raw).clamp(-1, 1)
    assert (raw.std((0, 2, 3)) / 0.5 - 1).abs().max() < 0.2
    psnr = -10 * ((decoded - photograph) / 2).square().mean().log10()
    assert float(psnr) > 27


# ---- control: the picture's second way into the UNet ----


@pytest.mark.parametrize("layers", [1, 2])
def test_control_channels_are_those_of_the_finest_skips(layers: int) -> None:
    config = presets.COMPACT_UNET | {"layers_per_block": layers, "block_out_channels": [16, 32, 48]}
    unet = UNet2DConditionModel.from_config(config)
    skips: list[Tensor] = []
    for module in (
        unet.conv_in,
        *unet.down_blocks[0].resnets,
        *unet.down_blocks[0].downsamplers,
        *unet.down_blocks[1].resnets,
    ):
        module.register_forward_hook(lambda _m, _i, out: skips.append(out))
    backbone = LatentBackbone(
        AutoencoderTiny.from_config(presets.COMPACT_VAE),
        unet,
        PromptTokens(),
        NoiseSchedule.from_config(presets.SD_TURBO_SCHEDULER),
    )
    with torch.no_grad():
        backbone.predict_eps(torch.randn(1, 8, 8, 8), torch.tensor([200.0]), backbone.embed("clean", 1))
    fine, coarse = backbone.control_channels
    assert [tuple(s.shape[1:]) for s in skips] == [(c, 8, 8) for c in fine] + [(c, 4, 4) for c in coarse]


def test_control_starts_as_the_prior_alone_and_then_reaches_the_unet() -> None:
    torch.manual_seed(0)
    backbone = presets.compact()
    mine = MINE(control_channels=backbone.control_channels)
    lq, z_lq = inputs(1, 12, 20, 1, 8)
    state, timestep, tokens = torch.randn_like(z_lq), torch.tensor([200.0]), backbone.embed("clean", 1)
    with torch.no_grad():
        alone = backbone.predict_z0(state, timestep, tokens)
        control = mine(lq, z_lq).control
        assert control is not None and all(float(c.abs().max()) == 0 for c in control)
        assert torch.equal(backbone.predict_z0(state, timestep, tokens, control=control), alone)
        for index in range(len(control)):
            moved = tuple(c + (1.0 if i == index else 0.0) for i, c in enumerate(control))
            assert not torch.allclose(backbone.predict_z0(state, timestep, tokens, control=moved), alone, atol=1e-4), (
                index
            )
    assert MINE()(lq, z_lq).control is None
