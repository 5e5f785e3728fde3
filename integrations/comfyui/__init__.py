"""ComfyUI nodes that restore pictures with idas_sr: one loads a model, one restores a batch of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from idas_sr.cli.machine import PRECISIONS, choose_device, choose_precision
from idas_sr.color import COLOR_FIXES
from idas_sr.pipeline import IDaSSRPipeline

CATEGORY = "image/upscaling"
PIPE = "IDAS_SR"
"""Type of the wire between the two nodes."""


class IDaSSRLoader:
    """Loads a model of the package (``compact``), a folder that ``save_pretrained`` wrote, or a Hub id."""

    CATEGORY, FUNCTION = CATEGORY, "load"
    RETURN_TYPES, RETURN_NAMES = (PIPE,), ("idas_sr",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  (the name that ComfyUI asks for)
        return {
            "required": {"model": ("STRING", {"default": "compact"})},
            "optional": {
                "method": ("STRING", {"default": "idas", "tooltip": "adapter on the model's backbone"}),
                "device": (["auto", "cuda", "mps", "cpu"],),
                "precision": (["auto", *PRECISIONS],),
                "sd_path": ("STRING", {"default": "", "tooltip": "SD-Turbo's weights, for adapters on them"}),
                "revision": ("STRING", {"default": "", "tooltip": "of a Hub repository"}),
            },
        }

    def load(
        self,
        model: str,
        method: str = "idas",
        device: str = "auto",
        precision: str = "auto",
        sd_path: str = "",
        revision: str = "",
    ) -> tuple[IDaSSRPipeline]:
        """The pipeline on its device.

        Raises:
            ValueError: no such model, method or device here; the message says what there is.
        """
        where = choose_device(device)
        dtype = PRECISIONS[choose_precision(precision, where, model)]
        pipe = IDaSSRPipeline.from_pretrained(
            model, method, sd_path=sd_path or None, revision=revision or None, dtype=dtype
        )
        return (pipe.to(where),)


class IDaSSRUpscale:
    """Restores a batch of images, one after the other."""

    CATEGORY, FUNCTION = CATEGORY, "upscale"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "idas_sr": (PIPE,),
                "image": ("IMAGE",),
                "realism": ("FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.05}),
                "seed": ("INT", {"default": 42, "min": 0, "max": 2**64 - 1}),
                "upscale": ("FLOAT", {"default": 4.0, "min": 1.0, "max": 8.0, "step": 0.25}),
                "color_fix": (list(COLOR_FIXES),),
            },
            "optional": {"realism_map": ("MASK", {"tooltip": "realism by place, white is 1; in place of the number"})},
        }

    def upscale(
        self,
        idas_sr: IDaSSRPipeline,
        image: Tensor,
        realism: float = 0.5,
        seed: int = 42,
        upscale: float = 4.0,
        color_fix: str = "none",
        realism_map: Tensor | None = None,
    ) -> tuple[Tensor]:
        """(B, h, w, 3) in [0, 1] -> (B, H, W, 3) fp32 in [0, 1] on the CPU; a fourth channel (transparency) is dropped.

        Args:
            realism_map: (1, h, w) or (B, h, w) in [0, 1], realism by place, in place of ``realism``.

        Raises:
            ValueError: an argument out of its range, or a map of another shape than the images or of another number.
        """
        if realism_map is not None and len(realism_map) not in (1, len(image)):
            raise ValueError(
                f"There are {len(image)} images but {len(realism_map)} realism maps; give one, or one each."
            )
        amounts = [realism] * len(image) if realism_map is None else list(realism_map.expand(len(image), -1, -1))
        pictures = [
            # One at a time: ComfyUI's batches may be whole videos.
            idas_sr(
                one[None, ..., :3].movedim(-1, 1).clamp(0, 1),
                realism=amount,
                seed=seed,
                upscale=upscale,
                color_fix=color_fix,
                output_type="pt",
            ).images
            for one, amount in zip(image, amounts, strict=True)
        ]
        return (torch.cat(pictures).movedim(1, -1).contiguous(),)


NODE_CLASS_MAPPINGS = {"IDaSSRLoader": IDaSSRLoader, "IDaSSRUpscale": IDaSSRUpscale}
NODE_DISPLAY_NAME_MAPPINGS = {"IDaSSRLoader": "IDaS-SR: load model", "IDaSSRUpscale": "IDaS-SR: restore (realism dial)"}
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
