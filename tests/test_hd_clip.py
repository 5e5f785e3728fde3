"""HD-CLIP: the scale of levels, what encoders it stands on, its prompts, and how it is measured."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from idas_sr.build import build_method
from idas_sr.conditioning import HDClipPrompt
from idas_sr.config import Component
from idas_sr.data.ordered import KINDS, degrade_to_levels
from idas_sr.evaluation.ordinal import LEVELS, between, measure_ordinal
from idas_sr.methods.base import Method
from idas_sr.methods.hd_clip import info_nce
from idas_sr.networks.hd_clip import FOLDER, HDCLIP, OrdinalScale, load_hd_clip
from idas_sr.networks.library import MODELS

ROOT = Path(__file__).parents[1]
TINY_CLIP = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
    "projection_dim": 12,
}


def small(name: str) -> torch.Tensor:
    """(1, 3, 96, 96) in [0, 1]."""
    image = torch.from_numpy(getattr(skimage.data, name)()[100:196, 100:196].copy())
    return image.permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def network() -> HDCLIP:
    torch.manual_seed(0)
    return HDCLIP(width=4, embedding=8, tokens=(4, 8)).eval()


# ---- degradations of known level ----


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_a_higher_level_is_further_from_the_picture(kind: int) -> None:
    picture = small("astronaut")
    rows = [[level if i == kind else 0.0 for i in range(3)] for level in np.linspace(0, 1, 6)]
    distances = [float((degrade_to_levels(picture, row, 3) - picture).square().mean()) for row in rows]
    assert distances[0] < 1e-5 and all(np.diff(distances) > 1e-6)


def test_degraded_pictures_have_eight_bits() -> None:
    for levels in ([0, 0, 0], [0.3, 0, 0], [0, 0.3, 0], [0.2, 0.2, 0.2]):
        grey = degrade_to_levels(small("chelsea"), levels, 0) * 255
        assert float((grey - grey.round()).abs().max()) < 1e-4
    with pytest.raises(ValueError, match="blur, noise, compression"):
        degrade_to_levels(small("chelsea"), [0.1, 1.2, 0], 0)


# ---- the scale ----


def test_levels_between_lie_on_the_arc_between_their_neighbours() -> None:
    torch.manual_seed(1)
    scale = OrdinalScale(2, 16, (0.0, 0.5, 1.0))
    with torch.no_grad():
        scale.steps.copy_(torch.tensor([[0.3, 2.0], [1.0, -1.0]]))
    found = scale(torch.tensor([[0.0, 0.0], [0.25, 0.25], [0.5, 0.5], [0.75, 0.75], [1.0, 1.0]]))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(5, 2))
    for kind in range(2):
        # Independent of the package: the angle on the arc is atan(g), g the running sum of softplus.
        heights = np.concatenate([[0], np.cumsum(np.log1p(np.exp(scale.steps[kind].detach().numpy())))])
        angles = np.arctan([heights[0], heights[:2].mean(), heights[1], heights[1:].mean(), heights[2]])
        cosines = (found[:, kind] @ found[:, kind].T).detach().numpy()
        np.testing.assert_allclose(cosines, np.cos(angles[:, None] - angles[None]), atol=1e-5)


def test_reading_gives_back_what_was_written() -> None:
    torch.manual_seed(2)
    scale = OrdinalScale(3, 32)
    levels = torch.linspace(0, 1, 33)[:, None].expand(-1, 3)
    read = scale.read(scale(levels))
    assert (read - levels)[4:-4].abs().max() < 0.12 and bool((read.diff(dim=0) > 0).all())
    with pytest.raises(ValueError, match="rise from 0 to 1"):
        OrdinalScale(3, 8, (0.0, 0.6, 0.5, 1.0))


def test_info_nce_is_lowest_where_pairs_match() -> None:
    torch.manual_seed(0)
    rows = F.normalize(torch.randn(6, 12), dim=1)
    assert info_nce(rows, rows) < 0.1 < info_nce(rows, rows.roll(1, 0))


# ---- encoders and files ----


def test_any_size_and_a_saved_one_is_the_same(network: HDCLIP, tmp_path: Path) -> None:
    picture = small("coffee") * 2 - 1
    for side in (8, 33, 96):
        said = network(picture[..., :side, :side])
        assert said.semantic.shape == (1, 8) and said.degradation.shape == (1, 3, 8)
        assert bool(((said.levels >= 0) & (said.levels <= 1)).all())
    network.save_pretrained(tmp_path / FOLDER)
    again = load_hd_clip(tmp_path)
    torch.testing.assert_close(again(picture).degradation, network(picture).degradation)
    with pytest.raises(ValueError, match=r"configs/train/hdclip\.yaml"):
        load_hd_clip(tmp_path / "nowhere")


def test_stands_on_a_clip_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**TINY_CLIP)).eval()
    clip.save_pretrained(tmp_path / "clip")
    model = HDCLIP.on_clip(str(tmp_path / "clip"), embedding=8, tokens=(4, 8)).eval()
    trained = {id(p) for part in model.trained_parts() for p in part.parameters()}
    assert all(id(p) not in trained and not p.requires_grad for p in model.encoder.parameters())
    picture = small("astronaut") * 2 - 1
    # CLIP's own preprocessing, written out.
    pixels = F.interpolate(picture, (32, 32), mode="bicubic", antialias=True) / 2 + 0.5
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = (pixels.clamp(0, 1) - mean.reshape(1, 3, 1, 1)) / std.reshape(1, 3, 1, 1)
    torch.testing.assert_close(model.encoder(picture), clip(pixels).image_embeds)
    model.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(load_hd_clip(tmp_path / "saved")(picture).semantic, model(picture).semantic)


# ---- as a conditioner ----


def test_prompts_are_the_hosts_own_until_trained(
    network: HDCLIP, tiny_method: Method, photograph: torch.Tensor, tmp_path: Path
) -> None:
    network.save_pretrained(tmp_path / FOLDER)
    args = Component("hdclip", {"model": str(tmp_path)})
    method = build_method(tiny_method.backbone, tiny_method.estimator, conditioner=args)
    assert isinstance(method.conditioner, HDClipPrompt)
    lq = photograph[..., :64, :64]
    said = method.conditioner(lq, method.backbone)
    for name, tokens in zip(("clean", "degraded", "none"), (said.positive, said.negative, said.empty), strict=True):
        assert tokens is not None and torch.equal(tokens, method.backbone.embed(name, 1))
    plain = tiny_method.restore_image(lq).z0
    assert torch.equal(method.restore_image(lq).z0, plain)
    with torch.no_grad():
        method.conditioner.network.semantic_tokens.weight.normal_()
        method.conditioner.network.degradation_tokens.weight.normal_()
    moved = method.conditioner(lq, method.backbone)
    assert moved.empty is not None and torch.equal(moved.empty, method.backbone.embed("none", 1))
    assert not torch.equal(moved.positive, said.positive) and not torch.equal(moved.negative, said.negative)
    assert not torch.equal(method.restore_image(lq).z0, plain)


def test_prompts_of_another_size_are_refused(tiny_method: Method, tmp_path: Path) -> None:
    HDCLIP(width=4, embedding=8, tokens=(77, 16)).save_pretrained(tmp_path / FOLDER)
    with pytest.raises(ValueError, match="77 prompt tokens of width 16, the model wants 4 of width 8"):
        HDClipPrompt(tiny_method.backbone, str(tmp_path))


# ---- measuring ----


def test_export_is_the_same_network_in_half_precision(network: HDCLIP, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "run" / FOLDER)
    script = runpy.run_path(str(ROOT / "scripts" / "export_hdclip.py"), run_name="loaded")
    with pytest.raises(ValueError, match="no model in"):
        script["export"](tmp_path / "run", tmp_path / "model")
    (tmp_path / "model").mkdir()
    script["export"](tmp_path / "run", tmp_path / "model")
    picture = small("coffee") * 2 - 1
    found = load_hd_clip(tmp_path / "model")(picture)
    torch.testing.assert_close(found.degradation, network(picture).degradation, rtol=0, atol=5e-3)


def test_between_sees_order_and_its_lack() -> None:
    torch.manual_seed(0)
    way = torch.linspace(0, 1, 5)[:, None] * torch.randn(1, 6)
    place, share = between(way.expand(3, -1, -1))
    torch.testing.assert_close(place, torch.full((3,), 0.5))
    assert bool((share == 1).all())
    place, share = between(way[[0, 1, 4, 3, 2]].expand(3, -1, -1))
    assert float(place[1]) > 1 and float(share[1]) == 0


def test_measures_photographs(network: HDCLIP) -> None:
    found = measure_ordinal(network, [small(name) for name in ("astronaut", "chelsea", "coffee")])
    assert set(found) == {*KINDS, "semantic"}
    assert all(-1 <= found[kind]["spearman"] <= 1 for kind in KINDS) and 0 <= found["semantic"]["found"] <= 1


def test_measuring_by_the_script(network: HDCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network.save_pretrained(tmp_path / FOLDER)
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    # The split is made by name: these are held out.
    for name, number in (("coffee", 2), ("astronaut", 4)):
        Image.fromarray(getattr(skimage.data, name)()[:128, :128]).save(photographs / f"held_out_{number}.png")
    script = runpy.run_path(str(ROOT / "scripts" / "measure_hdclip.py"), run_name="loaded")
    output = tmp_path / "figures.json"
    command = ["measure_hdclip.py", str(photographs), "--model", str(tmp_path), "--json", str(output)]
    monkeypatch.setattr("sys.argv", command)
    script["main"]()
    assert set(json.loads(output.read_text())) == {*KINDS, "semantic"}
    monkeypatch.setattr("sys.argv", [*command[:3], str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="no HD-CLIP"):
        script["main"]()


@pytest.mark.skipif(not (MODELS / "compact" / FOLDER).is_dir(), reason="the compact HD-CLIP is not in this checkout")
def test_the_shipped_one_orders_photographs_it_has_not_seen() -> None:
    shipped = load_hd_clip("compact")
    pictures = [small(name) for name in ("astronaut", "chelsea", "coffee")]
    found = measure_ordinal(shipped, pictures)
    for kind in KINDS:
        assert found[kind]["spearman_one"] > 0.95 and found[kind]["spearman"] > 0.75, kind
        assert 0 < found[kind]["lowest_place"] < found[kind]["highest_place"] < 1, kind
    assert found["semantic"]["same"] < found["semantic"]["other"]
    assert len([level for level in LEVELS if level not in shipped.config["levels"]]) == 4
