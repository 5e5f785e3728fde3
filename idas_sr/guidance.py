"""How predictions under different prompts are combined.

All guiders work on z0. For one state and one level of noise z0 = y - w eps is affine in eps, and the weights of every
combination here sum to one, so the result is that of the same combination of eps.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from idas_sr.types import Condition

Predict = Callable[[Tensor], Tensor]
SMALL = 1e-12


class Positive:
    """One prediction under the positive prompt: one UNet evaluation."""

    compares = False
    """Whether it needs a negative prompt."""

    def __call__(self, predict: Predict, condition: Condition) -> Tensor:
        """``predict`` maps tokens (B, L, D) to z0 (B, C, h, w)."""
        return predict(condition.positive)


class ClassifierFree:
    """Classifier-free guidance: base + scale (positive - base) - negative_scale (negative - base).

    The base is the prediction under the empty prompt where the condition has one (three prompts: the form of methods.md
    5 for HD-CLIP), else that under the negative prompt (two: S3Diff's neg + 1.07 (pos - neg), methods.md 2.5). As many
    UNet evaluations as prompts with a weight: one at the neutral setting, scale 1 and negative_scale 0.

    Args:
        scale: s_p. S3Diff's 1.07 is for t = 999; what a step can change is proportional to its noise level.
        negative_scale: s_n.
    """

    compares = True

    def __init__(self, scale: float = 1.07, negative_scale: float = 0.0) -> None:
        self.scale, self.negative_scale = scale, negative_scale

    def __call__(self, predict: Predict, condition: Condition) -> Tensor:
        """As ``Positive``.

        Raises:
            ValueError: nothing to compare the positive prompt with, or ``negative_scale`` without three prompts.
        """
        negative = _negative_of(condition, "cfg")
        positive = predict(condition.positive)
        if condition.empty is None:
            if self.negative_scale:
                raise ValueError("negative_scale needs three prompts; use the conditioner hdclip, or leave it at 0.")
            return positive if self.scale == 1 else positive + (self.scale - 1) * (positive - predict(negative))
        if self.scale == 1 and not self.negative_scale:
            return positive
        base = predict(condition.empty)
        out = positive + (self.scale - 1) * (positive - base)
        return out - self.negative_scale * (predict(negative) - base) if self.negative_scale else out


class Projected:
    """Classifier-free projection guidance (idea: arXiv 2512.10340; its formulas are not public, these are ours).

    Form ``a``: base + scale g_p - negative_scale g_n', where g_p and g_n are what the positive and the negative prompt
    change against the base, and g_n' is g_n without its part along g_p: moving away from the degradation cannot take
    anything of what is shown with it. Three UNet evaluations, two where the condition has no empty prompt: the base is
    then the positive prediction itself, and nothing is projected.

    Form ``b`` (after APG): g = positive - negative is split along the positive prediction; positive + (scale - 1)
    (g' + keep g_along). ``keep`` below 1 holds back what only raises contrast and saturation. Two UNet evaluations.

    Inner products are over all cells and channels of a sample. With scale 1 and negative_scale 0 both are the plain
    prediction.

    Args:
        form: ``a`` or ``b``.
        scale: s_p.
        negative_scale: s_n of form a.
        keep: kappa of form b.

    Raises:
        ValueError: another form.
    """

    compares = True

    def __init__(self, form: str = "a", scale: float = 1.1, negative_scale: float = 0.1, keep: float = 0.0) -> None:
        if form not in ("a", "b"):
            raise ValueError(f"The form of cfpg is a or b, not {form!r}.")
        self.form, self.scale, self.negative_scale, self.keep = form, scale, negative_scale, keep

    def __call__(self, predict: Predict, condition: Condition) -> Tensor:
        """As ``Positive``.

        Raises:
            ValueError: the condition has no negative prompt.
        """
        negative = _negative_of(condition, "cfpg")
        positive = predict(condition.positive)
        if self.form == "b":
            along, across = split(positive - predict(negative), positive) if self.scale != 1 else (0.0, 0.0)
            return positive + (self.scale - 1) * (across + self.keep * along)
        base = positive if condition.empty is None else predict(condition.empty)
        gain = positive - base
        _, loss = split(predict(negative) - base, gain) if self.negative_scale else (gain, 0.0)
        return positive + (self.scale - 1) * gain - self.negative_scale * loss


def split(vector: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """(B, ...) -> its parts along ``direction`` and orthogonal to it, per sample; along nothing, the first is 0."""
    axes = tuple(range(1, vector.dim()))
    power = direction.square().sum(axes, keepdim=True)
    along = (vector * direction).sum(axes, keepdim=True) / power.clamp_min(SMALL) * direction
    return along, vector - along


def _negative_of(condition: Condition, name: str) -> Tensor:
    if condition.negative is None:
        raise ValueError(
            f"The guider {name} compares two prompts and there is one; name the other as conditioner.args.negative, or "
            "use the conditioner hdclip."
        )
    return condition.negative


GUIDERS = {"positive": Positive, "cfg": ClassifierFree, "cfpg": Projected}
