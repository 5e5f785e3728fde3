"""Folders with SD-Turbo's layout and random weights, to try reading, hashing and checking without the real ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

from idas_sr.networks.presets import SD_TURBO_SCHEDULER, SD_TURBO_UNET, SD_TURBO_VAE
from idas_sr.networks.prompt import PromptTokens

TOKENS = 77
"""Context length of CLIP's text encoders."""


@dataclass(frozen=True)
class Architecture:
    """Configurations of the parts; a key that is not named has the default of its diffusers class.

    Attributes:
        unet, vae, scheduler: arguments of UNet2DConditionModel, AutoencoderKL and EulerDiscreteScheduler.
        text: arguments of CLIPTextConfig; None: no text encoder, random prompt tokens are written in its place.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    text: dict[str, Any] | None = None


FULL = Architecture(SD_TURBO_UNET, SD_TURBO_VAE, SD_TURBO_SCHEDULER)
TINY = Architecture(
    {
        **SD_TURBO_UNET,
        "block_out_channels": [8, 8, 16, 16],
        "attention_head_dim": [1, 1, 2, 2],
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "norm_num_groups": 4,
    },
    {**SD_TURBO_VAE, "block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4},
    SD_TURBO_SCHEDULER,
    {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
)
"""Stride, latent channels, token count and file layout of SD-Turbo at a thousandth of its width."""


def write_random_sd_turbo(
    folder: Path, architecture: Architecture = FULL, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Path:
    """Write unet/, vae/, scheduler/ and text_encoder/ with tokenizer/ (or prompt/) in stabilityai/sd-turbo's layout.

    Returns:
        ``folder``, the same files for the same arguments.
    """
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            # In the final precision from the start, one network after the other: half the memory.
            torch.set_default_dtype(dtype)
            UNet2DConditionModel.from_config(architecture.unet).save_pretrained(folder / "unet")
            AutoencoderKL.from_config(architecture.vae).save_pretrained(folder / "vae")
            if architecture.text is None:
                width = architecture.unet["cross_attention_dim"]
                PromptTokens(("positive", "negative"), TOKENS, width).save_pretrained(folder / "prompt")
            else:
                _write_text_encoder(folder, architecture.text)
        finally:
            torch.set_default_dtype(before)
    EulerDiscreteScheduler.from_config(architecture.scheduler).save_pretrained(folder / "scheduler")
    return folder


def _write_text_encoder(folder: Path, arguments: dict[str, Any]) -> None:
    # Slow to import, and only tests and trial runs come here.
    from transformers import CLIPTextConfig, CLIPTextModel

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    start, end = len(pieces) - 2, len(pieces) - 1
    config = CLIPTextConfig(
        vocab_size=len(pieces),
        max_position_embeddings=TOKENS,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        **arguments,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    # The published tokenizer's files; merges without a rule spell every word out.
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True, exist_ok=True)
    (tokenizer / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tokenizer / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
