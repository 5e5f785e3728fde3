"""Every loss, on eight real photographs at three levels of blur, noise and compression: milder is cheaper.

The values are golden (golden_losses.json). After a change that is meant to move them:
IDAS_SR_UPDATE_GOLDEN=1 python -m pytest -m "slow or not slow" tests/test_restoration_losses.py
"""

import json
import os
from functools import cache
from pathlib import Path

import pytest
import skimage.data
import torch
from torch import Tensor

from idas_sr import losses as terms
from idas_sr.methods import positioning
from idas_sr.methods.latent_perceptual import KINDS, corrupt
from idas_sr.methods.restoration_losses import DECODED, LATENT, RestorationLosses, _shifted
from idas_sr.networks import presets
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.latent_perceptual import LatentPerceptual
from idas_sr.networks.pca import start_from_pca
from idas_sr.types import Anchor, Restored, Steered

GOLDEN = Path(__file__).with_name("golden_losses.json")
WEIGHTS = Path(__file__).parents[2] / "shared/data/weights/squeezenet_v10.pth"
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina")
PHOTOGRAPHS += ("stereo_motorcycle", "immunohistochemistry")
LEVELS = (0.0, 0.5, 1.0)
SIDE = 64
OF_CRITICS = ("gan", "gan_latent")
"""Mean something once the critics have learnt a bit, which takes longer than all the others together."""
ANCHOR = ("positioning", "ranking", "severity_map", "deviation", "residual", "calibration")


@cache
def photographs() -> Tensor:
    """(8, 3, 64, 64) in [0, 1]: the middle of each."""
    crops = []
    for name in PHOTOGRAPHS:
        image = getattr(skimage.data, name)()
        image = image[0] if isinstance(image, tuple) else image
        top, left = ((n - SIDE) // 2 for n in image.shape[:2])
        crop = torch.from_numpy(image[top : top + SIDE, left : left + SIDE].copy())
        crops.append(crop.permute(2, 0, 1).float() / 255)
    return torch.stack(crops)


@cache
def degraded(kind: int) -> tuple[Tensor, ...]:
    """The photographs at each level, mildest first, in [-1, 1]."""
    return tuple(
        torch.cat([corrupt(image[None], kind, level, seed) for seed, image in enumerate(photographs())]) * 2 - 1
        for level in LEVELS
    )


@cache
def backbone() -> LatentBackbone:
    """Tiny, but its autoencoder is the linear projection that fits the photographs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = presets.tiny()
        start_from_pca(built.vae, photographs() * 2 - 1, built.unshuffle, raw_std=0.5, exponent=0.5)
    with torch.no_grad():
        raw = built.encode_raw(photographs() * 2 - 1)
    built.set_statistics(raw.mean((0, 2, 3)), raw.std((0, 2, 3)))
    return built.eval().requires_grad_(False)


@cache
def restoration(is_taught: bool) -> RestorationLosses:
    """All terms but ``feature`` (weights not shipped) and ``vsd`` (not a distance); taught critics know a bit."""
    weights = dict.fromkeys((*LATENT, *DECODED), 1.0) | {"vsd": 0.0, "feature": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = {
            "lpips": terms.LearnedDistance("squeeze", untrained=True),
            "latent_perceptual": LatentPerceptual(8, (16, 24, 32)),
        }
        built = RestorationLosses(backbone(), weights, **networks)
    if is_taught:
        critics = RestorationLosses(backbone(), dict.fromkeys(OF_CRITICS, 1.0))
        critics.critic, critics.latent_critic = built.critic, built.latent_critic
        _teach(critics)
    return built.requires_grad_(False)


def batch_of() -> dict[str, Tensor]:
    return {"hq": photographs(), "shared": torch.full((8,), 0.5)}


def restored(picture: Tensor) -> tuple[Restored, Tensor, Tensor]:
    """A restoration that gave ``picture``, the latent of the clean photographs and the tokens."""
    count = len(picture)
    with torch.no_grad():
        z0, z_hq = backbone().encode(picture), backbone().encode(photographs() * 2 - 1)
    timestep = torch.full((count,), 200.0)
    steered = Steered(timestep, timestep, timestep, timestep, z0)
    # The input beside the candidate is the same for every candidate.
    z_lq = torch.zeros_like(z0)
    return Restored(picture, z0, Anchor(timestep), steered, z_lq), z_hq, backbone().embed("clean", count)


def values_of(losses: RestorationLosses, picture: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    result, z_hq, tokens = restored(picture)
    hq = photographs() * 2 - 1
    values = losses.on_latents(backbone(), result, z_hq, tokens, batch)
    return values | losses.on_pixels(backbone(), result, hq, torch.zeros_like(hq), batch)


def _teach(losses: RestorationLosses) -> None:
    """A few steps on the severest pictures against the clean ones, by the critics' own turn."""
    optimizer = torch.optim.Adam([p for critic in losses.critics() for p in critic.parameters()], 5e-3)
    hq = photographs() * 2 - 1
    with torch.enable_grad():
        for step in range(60):
            batch, picture = batch_of(), degraded(step % len(KINDS))[-1]
            result, z_hq, tokens = restored(picture)
            with torch.no_grad():
                losses.on_latents(backbone(), result, z_hq, tokens, batch)
                losses.on_pixels(backbone(), result, hq, torch.zeros_like(hq), batch)
            optimizer.zero_grad()
            torch.stack(list(losses.of_critics(backbone(), tokens, batch).values())).sum().backward()
            optimizer.step()


def anchor_values(picture: Tensor) -> dict[str, Tensor]:
    """Losses of an estimator that takes every picture for a nearly clean one."""
    result, z_hq, _ = restored(picture)
    deviation, level = result.z0 - z_hq, 0.01
    target = positioning.snr_matching(result.z0, z_hq).log()
    predicted = torch.full_like(target, level).log()
    noise = torch.randn(deviation.shape, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(len(deviation), 1, 4, 4)
    return {
        "positioning": terms.huber(predicted, target),
        # Half of the pictures clean, and ordered the wrong way round.
        "ranking": terms.ranking(torch.tensor([0.0, 1.0]), torch.tensor([float(target.mean()), -6.0]), 10.0),
        "severity_map": terms.power_likelihood(level**2 * ones, deviation),
        "deviation": terms.mean_of(deviation.abs()),
        "residual": (level - positioning.rms(deviation)).abs(),
        "calibration": terms.calibration(deviation / 0.5 + noise),
    }


@cache
def table(is_taught: bool) -> dict[str, dict[str, list[float]]]:
    """Term -> kind -> mean over the photographs at each level."""
    torch.set_num_threads(1)
    losses = restoration(is_taught)
    out: dict[str, dict[str, list[float]]] = {}
    with torch.no_grad():
        for kind, name in enumerate(KINDS):
            for picture in degraded(kind):
                result, z_hq, _ = restored(picture)
                values = values_of(losses, picture, batch_of()) | anchor_values(picture)
                # Scores that know their pictures exactly: the prior the clean ones, the fake score the restored ones.
                values["vsd"] = terms.vsd(result.z0, z_hq, result.z0)
                for term, value in values.items():
                    out.setdefault(term, {}).setdefault(name, []).append(round(float(value.mean()), 6))
    return out


TERMS = sorted({*LATENT, *DECODED, *ANCHOR} - {"feature"})


@pytest.mark.parametrize("term", [pytest.param(t, marks=[pytest.mark.slow] * (t in OF_CRITICS)) for t in TERMS])
def test_loss_falls_with_the_level_and_has_its_golden_value(term: str) -> None:
    measured = table(term in OF_CRITICS or "IDAS_SR_UPDATE_GOLDEN" in os.environ)
    if os.environ.get("IDAS_SR_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(measured, indent=1, sort_keys=True) + "\n")
    golden = json.loads(GOLDEN.read_text())
    for kind in KINDS:
        mild, middle, severe = measured[term][kind]
        assert mild < middle < severe, kind
        assert [mild, middle, severe] == pytest.approx(golden[term][kind], rel=0.02, abs=1e-3), kind


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="SqueezeNet weights are not at hand")
@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_feature_loss_falls_with_the_level(kind: int) -> None:
    losses = RestorationLosses(backbone(), {"feature": 1.0}, feature_distance=terms.FeatureDistance(WEIGHTS))
    values = []
    for picture in degraded(kind):
        result, _, _ = restored(picture)
        hq = photographs() * 2 - 1
        with torch.no_grad():
            values.append(float(losses.on_pixels(backbone(), result, hq, hq, batch_of())["feature"].mean()))
    assert values == sorted(values) and values[0] > 0


# ---- what is built, and what is not ----


def test_weight_zero_builds_nothing() -> None:
    losses = RestorationLosses(backbone(), dict.fromkeys((*LATENT, *DECODED), 0.0))
    assert [name for name, _ in losses.named_modules()] == [""]
    assert losses.critics() == []


@pytest.mark.parametrize(("term", "built"), [("gan", "PixelCritic"), ("gan_latent", "LatentCritic")])
def test_a_critic_is_built_with_its_term_alone(term: str, built: str) -> None:
    critics = RestorationLosses(backbone(), {term: 0.1, "latent": 1.0}).critics()
    assert [type(critic).__name__ for critic in critics] == [built]


@pytest.mark.parametrize("term", ["feature", "lpips", "latent_perceptual"])
def test_a_term_without_its_network_is_refused(term: str) -> None:
    with pytest.raises(ValueError, match=rf"loss\.{term} has a weight"):
        RestorationLosses(backbone(), {term: 1.0})


def test_decoded_window_is_the_same_place_in_latent_and_picture() -> None:
    losses = RestorationLosses(backbone(), {"pixel": 1.0}, decode_crop=8)
    result, _, _ = restored(degraded(0)[0])
    batch = {"shared": torch.tensor([0.0] * 6 + [0.3, 0.9])}
    z0 = losses.window(result.z0, batch)
    assert z0.shape[-2:] == (8, 8)
    # Of 9 places each way the third and the last.
    assert torch.equal(z0, result.z0[..., 2:10, 8:16])
    hq = losses.window(photographs(), batch, 4)
    assert torch.equal(hq, photographs()[..., 8:40, 32:64])
    assert losses.window(result.z0[..., :6, :6], batch).shape[-1] == 6


def test_critic_sees_another_window_with_every_draw() -> None:
    image = torch.arange(64.0).reshape(1, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    windows = []
    for draw in (0.0, 0.5, 0.99):
        batch = {"uniform": torch.full((1, 8), draw)}
        windows.append(_shifted(image, batch))
    assert all(window.shape == (1, 1, 24, 24) for window in windows)
    assert torch.equal(windows[1], image[..., 4:28, 4:28]) and torch.equal(windows[2], image[..., 7:31, 7:31])
