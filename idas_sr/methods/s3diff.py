"""S3Diff (arXiv 2409.17058): adapters whose core depends on how blurred and how noisy the picture is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from idas_sr.guidance import Positive
from idas_sr.methods.base import Memory
from idas_sr.methods.restoration_losses import DECODED
from idas_sr.methods.restorer import Restorer
from idas_sr.methods.task import Batch, Losses, draw, to_signed
from idas_sr.networks.guided_lora import DegradationGuide
from idas_sr.resample import upsample
from idas_sr.types import Anchor, Condition, Restored


class S3Diff(Restorer):
    """No noise, one position for every picture, and degradation-guided LoRA on UNet and VAE encoder (methods.md 2).

    Trained with online negative prompting: a share of the samples is told the negative prompt and has the enlarged
    low-quality picture as its target, so that guidance away from that prompt leads away from such pictures. Losses are
    those on pixels (the paper: ``pixel_l2`` 2, ``lpips`` 5, ``gan`` 0.5).

    DIFFERS: the encoder gives the posterior's mode, not a sample; generator and critic see one batch, where the
    released code takes a step of its own for the adversarial loss; the critic is ours and not on DINO's features.

    Args:
        estimator: all that is added to the prior.
        timestep: of every picture.
        negative_share: of training samples with the negative prompt.
        guided: False works with C = identity, plain LoRA (ablation).
        training: the arguments of ``Restorer``; ``estimator`` in ``train`` stands for the adapters and what predicts
            their cores.

    Raises:
        ValueError: peft adapters beside the guided ones, or a loss on the prior that they sit on.
    """

    estimator_class = DegradationGuide
    choices = ("guided",)
    kept = ("timestep",)
    slots = {  # noqa: RUF012
        "steering": ("as-is", {}),
        "conditioner": ("prompt", {"positive": "clean", "negative": "degraded"}),
        "guider": ("cfg", {"scale": 1.07}),
    }

    def __init__(
        self,
        *parts: Any,
        estimator: DegradationGuide,
        timestep: float = 999.0,
        negative_share: float = 0.05,
        guided: bool = True,
        **training: Any,
    ) -> None:
        super().__init__(*parts, estimator=estimator, **training)
        unfit = {"unet_lora", "vae_encoder_lora"} & set(self.train_parts)
        if unfit or self.weight("vsd") or self.weight("gan_latent"):
            what = ", ".join(sorted(unfit)) or "loss.vsd and loss.gan_latent"
            raise ValueError(f"s3diff has adapters of its own, in `estimator`; leave out {what}.")
        self.guide = estimator
        self.timestep, self.negative_share, self.guided = timestep, negative_share, guided
        self._severity: Tensor | None = None
        self.guide.attach(self.backbone)

    # ---- the method ----

    def anchor(self, lq: Tensor, z_lq: Tensor, timestep: Tensor | None = None) -> Anchor:
        return Anchor(torch.full((len(z_lq),), self.timestep, device=z_lq.device) if timestep is None else timestep)

    def severity_map(self, lq: Tensor, z_lq: Tensor) -> Tensor:
        """(B, 2, 1, 1): the scores. A picture has one core, however many tiles it is restored in."""
        return self.guide.score(lq)[..., None, None]

    def anchor_tile(self, lq: Tensor, z_lq: Tensor, severity: Tensor) -> Anchor:
        return self.anchor(lq, z_lq)

    def encode(self, lq: Tensor) -> Tensor:
        self._guide(lq)
        return super().encode(lq)

    def restore(
        self, lq: Tensor, *args: Any, memory: Memory | None = None, severity: Tensor | None = None, **kwargs: Any
    ) -> Restored:
        self._severity = severity
        if memory is not None and memory.z_lq is not None:
            # The UNet's cores too may be another picture's by now.
            self._guide(lq)
        try:
            return super().restore(lq, *args, memory=memory, severity=severity, **kwargs)
        finally:
            self._severity = None

    def _guide(self, lq: Tensor) -> None:
        self.guide.guide(lq if self.guided else None, self._severity)

    # ---- training ----

    def trainable(self) -> dict[str, list[nn.Module]]:
        players = super().trainable()
        parts = []
        for module in players["generator"]:
            # The degradation estimator stays as it is.
            parts += self.guide.trained_parts() if module is self.guide else [module]
        return {**players, "generator": parts}

    @torch.no_grad()
    def encode_clean(self, picture: Tensor) -> Tensor:
        self.guide.switch(False)
        z = self.backbone.encode(picture)
        self.guide.switch(True)
        return z

    def generator_losses(self, batch: Batch) -> Losses:
        lq, hq = to_signed(batch["lq"]), to_signed(batch["hq"])
        lq_up = upsample(lq, self.scale)
        said = self.conditioner(lq, self.backbone)
        if said.negative is None:
            raise ValueError("s3diff trains with a negative prompt; name it as conditioner.args.negative.")
        is_negative = draw(batch, 2) < self.negative_share
        rows = is_negative.reshape(-1, 1, 1)
        target = torch.where(rows[..., None], lq_up, hq)
        result = self.restore(
            lq,
            seeds=batch["seed"].tolist(),
            condition=Condition(torch.where(rows, said.negative, said.positive)),
            decode=self.restoration.has(*DECODED) and self.restoration.decode_crop is None,
            guider=Positive(),
        )
        z_target = self.encode_clean(target)
        values = self.restoration.on_latents(self.prior, result, z_target, said.positive, batch)
        if self.restoration.has(*DECODED):
            values |= self.restoration.on_pixels(self.backbone, result, target, lq_up, batch)
        # What the critic judges, and what has to please it, is restored under the positive prompt.
        batch["judged"] = (~is_negative).float()
        if "gan" in values:
            values["gan"] = values["gan"] * batch["judged"]
        return {name: self.weight(name) * value.mean() for name, value in values.items() if self.weight(name)}
