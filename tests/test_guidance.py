"""Guidance: neutral scales, the direction that projection removes, and what a guider without its prompts says."""

import numpy as np
import pytest
import torch
from torch import Tensor

from idas_sr.build import build_method
from idas_sr.config import Component, ConfigError
from idas_sr.guidance import GUIDERS, ClassifierFree, Positive, Projected, split
from idas_sr.methods.base import Method
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.types import Condition


@pytest.fixture(scope="module")
def three(tiny_backbone: LatentBackbone) -> Condition:
    return Condition(*(tiny_backbone.embed(name, 2) for name in ("clean", "degraded", "none")))


@pytest.fixture(scope="module")
def predict(tiny_backbone: LatentBackbone):  # type: ignore[no-untyped-def]
    """z0 of a real UNet, which knows its prompts; and how often it was asked."""
    generator = torch.Generator().manual_seed(1)
    state = torch.randn(2, 8, 8, 8, generator=generator)

    def call(tokens: Tensor) -> Tensor:
        call.count += 1  # type: ignore[attr-defined]
        with torch.no_grad():
            return tiny_backbone.predict_z0(state, torch.tensor([300.0, 500.0]), tokens)

    call.count = 0  # type: ignore[attr-defined]
    return call


def three_predictions(predict, condition: Condition) -> list[np.ndarray]:  # type: ignore[no-untyped-def]
    tokens = (condition.positive, condition.negative, condition.empty)
    found = [predict(t).double().numpy() for t in tokens if t is not None]
    assert np.abs(found[0] - found[1]).max() > 1e-4, "the network does not listen to its prompt"
    return found


@pytest.mark.parametrize(
    "guider", [ClassifierFree(1.0), Projected("a", 1.0, 0.0), Projected("b", 1.0)], ids=["cfg", "cfpg a", "cfpg b"]
)
def test_neutral_scale_is_the_plain_prediction(predict, three: Condition, guider) -> None:  # type: ignore[no-untyped-def]
    for condition in (three, Condition(three.positive, three.negative)):
        assert torch.equal(guider(predict, condition), Positive()(predict, condition))


def test_neutral_cfg_asks_once(predict, three: Condition) -> None:  # type: ignore[no-untyped-def]
    predict.count = 0
    ClassifierFree(1.0)(predict, three)
    assert predict.count == 1
    ClassifierFree(1.07)(predict, Condition(three.positive, three.negative))
    assert predict.count == 3


def test_cfg_of_two_prompts_is_s3diffs(predict, three: Condition) -> None:  # type: ignore[no-untyped-def]
    pos, neg, _ = three_predictions(predict, three)
    found = ClassifierFree(1.07)(predict, Condition(three.positive, three.negative))
    np.testing.assert_allclose(found.numpy(), neg + 1.07 * (pos - neg), atol=2e-4)


def test_cfg_of_three_prompts(predict, three: Condition) -> None:  # type: ignore[no-untyped-def]
    pos, neg, empty = three_predictions(predict, three)
    found = ClassifierFree(1.5, 0.3)(predict, three)
    np.testing.assert_allclose(found.numpy(), empty + 1.5 * (pos - empty) - 0.3 * (neg - empty), atol=2e-4)


def test_form_a_cannot_take_away_what_is_shown(predict, three: Condition) -> None:  # type: ignore[no-untyped-def]
    pos, neg, empty = three_predictions(predict, three)
    # Independent of the package: Gram-Schmidt per sample.
    for i in range(2):
        gain, loss = (pos - empty)[i].ravel(), (neg - empty)[i].ravel()
        removed = loss - (loss @ gain) / (gain @ gain) * gain
        assert abs(loss @ gain) > 1e-3 * np.linalg.norm(loss) * np.linalg.norm(gain), "nothing to project"
        found = Projected("a", 1.2, 0.5)(predict, three)[i].double().numpy().ravel()
        np.testing.assert_allclose(found, empty[i].ravel() + 1.2 * gain - 0.5 * removed, atol=5e-4)
        taken = empty[i].ravel() + 1.2 * gain - found
        cosine = taken @ gain / (np.linalg.norm(taken) * np.linalg.norm(gain))
        assert abs(cosine) < 1e-3


def test_form_b_leaves_out_what_is_parallel_to_the_prediction(predict, three: Condition) -> None:  # type: ignore[no-untyped-def]
    pos, neg, _ = three_predictions(predict, three)
    added = (Projected("b", 3.0, keep=0.0)(predict, three).double().numpy() - pos) / 2
    for i in range(2):
        whole = (pos - neg)[i].ravel()
        direction = pos[i].ravel() / np.linalg.norm(pos[i])
        assert abs(added[i].ravel() @ direction) < 1e-3 * np.linalg.norm(whole)
        np.testing.assert_allclose(added[i].ravel(), whole - (whole @ direction) * direction, atol=5e-4)
    kept = Projected("b", 3.0, keep=1.0)(predict, three).double().numpy()
    np.testing.assert_allclose(kept, pos + 2 * (pos - neg), atol=5e-4)


def test_split_is_orthogonal_per_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    vector, direction = (torch.randn(3, 4, 5, 5, generator=generator) for _ in range(2))
    direction[2] = 0
    along, across = split(vector, direction)
    assert torch.allclose(along + across, vector, atol=1e-6)
    assert (across * direction).sum((1, 2, 3)).abs().max() < 1e-4
    assert torch.equal(along[2], torch.zeros_like(along[2]))


def test_guider_without_a_second_prompt_says_what_to_do(tiny_method: Method, photograph: Tensor) -> None:
    for name in ("cfg", "cfpg"):
        with pytest.raises(ConfigError, match=r"conditioner\.args\.negative"):
            build_method(tiny_method.backbone, tiny_method.estimator, guider=Component(name))
        with pytest.raises(ValueError, match="compares two prompts"):
            GUIDERS[name]()(lambda tokens: tokens, Condition(torch.zeros(1, 4, 8)))
    prompts = Component("prompt", {"negative": "degraded"})
    method = build_method(tiny_method.backbone, tiny_method.estimator, conditioner=prompts, guider=Component("cfg"))
    assert not torch.equal(
        method.restore_image(photograph[..., :64, :64]).z0, tiny_method.restore_image(photograph[..., :64, :64]).z0
    )


def test_negative_scale_needs_three_prompts(predict, three: Condition) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="three prompts"):
        ClassifierFree(1.0, 0.5)(predict, Condition(three.positive, three.negative))
    with pytest.raises(ValueError, match="a or b"):
        Projected("c")
