"""What the UNet is told: conditioners turn a picture, or nothing, into prompt tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.hd_clip import Described, load_hd_clip
from idas_sr.networks.visual_prompt import VisualPrompt
from idas_sr.types import Condition


class Prompt:
    """The same cached prompt for every picture.

    Args:
        backbone: that it is built for; only its sizes and names are looked at.
        positive, negative: names of token sequences of the backbone; None: its first one, and no negative.
    """

    def __init__(self, backbone: LatentBackbone, positive: str | None = None, negative: str | None = None) -> None:
        self.positive, self.negative = positive, negative

    def __call__(self, lq: Tensor, backbone: LatentBackbone) -> Condition:
        """(B, 3, h, w) -> tokens (B, L, D)."""
        batch = len(lq)
        positive = self.positive or backbone.prompt.config["names"][0]
        negative = None if self.negative is None else backbone.embed(self.negative, batch)
        return Condition(backbone.embed(positive, batch), negative)


class HDClipPrompt(nn.Module):
    """HD-CLIP's embeddings, added to the host's own prompts; the host is not trained for it.

    The positive prompt is moved by what the picture shows, the negative one by what was done to it; the empty one, to
    compare both with, stays as it is.

    Args:
        backbone: of the host.
        model: name of a model of this package whose HD-CLIP to take, run directory of configs/train/hdclip.yaml, or
            folder of a saved HD-CLIP.
        positive, negative, empty: names of the host's prompts; None: its first, second and third one (with two, the
            first is the empty one too).

    Raises:
        ValueError: there is no HD-CLIP, or it was trained for prompts of another size.
    """

    def __init__(
        self,
        backbone: LatentBackbone,
        model: str = "compact",
        positive: str | None = None,
        negative: str | None = None,
        empty: str | None = None,
    ) -> None:
        super().__init__()
        names = list(backbone.prompt.config["names"])
        own = (names[0], names[1], names[2] if len(names) > 2 else names[0])
        self.names = [given or default for given, default in zip((positive, negative, empty), own, strict=True)]
        self.network = load_hd_clip(model)
        _, *size = backbone.prompt.tokens.shape
        if list(self.network.config["tokens"]) != size:
            count, width = self.network.config["tokens"]
            raise ValueError(
                f"This HD-CLIP makes {count} prompt tokens of width {width}, the model wants {size[0]} of width "
                f"{size[1]}; train one on its backbone with configs/train/hdclip.yaml and name its run directory."
            )

    def describe(self, lq: Tensor) -> Described:
        """What HD-CLIP says of pictures (B, 3, h, w) in [-1, 1]."""
        return self.network(lq)

    def forward(self, lq: Tensor, backbone: LatentBackbone) -> Condition:
        """(B, 3, h, w) in [-1, 1] -> tokens (B, L, D)."""
        positive, negative, empty = (backbone.embed(name, len(lq)) for name in self.names)
        shown, done = self.network.offsets(self.describe(lq))
        return Condition(positive + shown.to(positive), negative + done.to(negative), empty)


def visual_prompt(backbone: LatentBackbone, **args: Any) -> VisualPrompt:
    """A visual prompt of the backbone's width."""
    return VisualPrompt(int(backbone.unet.config["cross_attention_dim"]), **args)


CONDITIONERS = {"prompt": Prompt, "hdclip": HDClipPrompt, "visual": visual_prompt}
