"""SD-Turbo's published weights behind the backbone: from a local folder or the Hub, safetensors only."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from idas_sr.atomic import replacing
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.prompt import PromptTokens
from idas_sr.schedule import NoiseSchedule

REPOSITORY = "stabilityai/sd-turbo"
REVISION = "b261bac6fd2cf515557d5d0707481eafa0485ec2"
"""Commit of the repository that this package was written against."""

PROMPTS = {
    "positive": "a sharp, richly detailed photograph, natural light, fine texture",
    "negative": "a blurry, noisy, low quality photograph with compression artifacts",
}
"""Fixed for every picture. Ours; changing a word changes every result."""

NEEDED = ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")


def find_sd_turbo(source: str | None = None, revision: str | None = None) -> Path:
    """Local folder of SD-Turbo's files; downloads them where ``source`` is a Hub id and the Hub can be reached.

    Args:
        source: folder or Hub id; None: the published repository.
        revision: of a Hub id; None: the pinned one for the published repository, else the newest.

    Raises:
        ValueError: the weights are not there; says where to get them, and under which licence they come.
    """
    if source is not None and Path(source).is_dir():
        missing = [name for name in NEEDED if not (Path(source) / name).is_file()]
        if missing:
            raise ValueError(f"{source} is no folder of SD-Turbo's files: {', '.join(missing)} is missing there.")
        return Path(source)
    name = source or REPOSITORY
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(f"The folder {name} with SD-Turbo's weights does not exist; {_where_to_get()}")
    pinned = revision or (REVISION if name == REPOSITORY else None)
    wanted = ["unet/*", "vae/*", "scheduler/*", "text_encoder/*", "tokenizer/*", "prompt/*"]
    try:
        folder = snapshot_download(name, revision=pinned, allow_patterns=wanted, ignore_patterns=["*.bin", "*.fp16.*"])
    except Exception as error:
        # The Hub client has a dozen kinds of errors for "not there" and "not reachable"; all mean the same here.
        raise ValueError(
            f"SD-Turbo's weights are not on this machine and {name} could not be had; {_where_to_get()}"
        ) from error
    return Path(folder)


def _where_to_get() -> str:
    return (
        f"get them from https://huggingface.co/{REPOSITORY} (about 3.5 GB, Stability AI Community License: free for "
        "research and small businesses) and give the folder as --sd-path, or try the network with --random-weights."
    )


def load_sd_turbo(
    source: str | None = None, revision: str | None = None, dtype: torch.dtype = torch.float32
) -> LatentBackbone:
    """SD-Turbo with its published weights and the fixed prompts' cached embeddings.

    Raises:
        ValueError: as ``find_sd_turbo``; or a file there is missing or no safetensors.
    """
    folder = find_sd_turbo(source, revision)
    try:
        vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype, use_safetensors=True)
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype, use_safetensors=True)
        scheduler = EulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder} has no complete SD-Turbo weights as safetensors files ({reason})") from error
    prompt = cached_prompt(folder)
    # Not prompt.to(dtype): diffusers warns there of modules that stay in fp32, of which there are none.
    prompt.tokens.data = prompt.tokens.data.to(dtype)
    return LatentBackbone(vae, unet, prompt, NoiseSchedule.from_config(scheduler.config))


def cache_folder() -> Path:
    """Where this package keeps what it computes once: ``IDAS_SR_CACHE``, else the user's cache directory."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "idas_sr"
    return Path(os.environ.get("IDAS_SR_CACHE") or default)


def cached_prompt(folder: Path) -> PromptTokens:
    """The prompts' embeddings: from ``folder``/prompt, the user's cache, or computed once with the text encoder there.

    Raises:
        ValueError: none of the three is there.
    """
    if (folder / "prompt" / "config.json").is_file():
        return PromptTokens.from_pretrained(folder / "prompt", torch_dtype=torch.float32)
    _require_text_encoder(folder)
    cache = cache_folder() / f"sd-turbo-prompt-{_prompt_key(folder)}.safetensors"
    if cache.is_file():
        tokens = load_file(cache)["tokens"]
    else:
        try:
            tokens = _encode_prompts(folder)
        except (OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"The text encoder in {folder} cannot be read, so the fixed prompt has no embedding ({reason})"
            ) from error
        cache.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into place: a run beside this one must not read half a file.
        with replacing(cache) as partial:
            save_file({"tokens": tokens}, partial)
    prompt = PromptTokens(names=tuple(PROMPTS), length=tokens.shape[1], width=tokens.shape[2])
    prompt.load_state_dict({"tokens": tokens})
    return prompt


def _require_text_encoder(folder: Path) -> None:
    if not (folder / "text_encoder" / "config.json").is_file() or not (folder / "tokenizer").is_dir():
        raise ValueError(
            f"{folder} has neither prompt/ nor text_encoder/ and tokenizer/, so the fixed prompt cannot be embedded; "
            "download those two folders of SD-Turbo as well."
        )


def _prompt_key(folder: Path) -> str:
    """What the embeddings depend on, as a short hash: the words, the tokenizer and the text encoder.

    A folder's name says nothing (every copy may be called sd-turbo), and hashing 1.4 GB at every start takes seconds:
    of the weights, sizes and the last MiB stand for the rest.
    """
    digest = hashlib.sha256(json.dumps(PROMPTS).encode())
    for path in sorted(p for name in ("tokenizer", "text_encoder") for p in (folder / name).iterdir() if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.parent.name}/{path.name} {size}\n".encode())
        with path.open("rb") as file:
            file.seek(max(0, size - 2**20))
            digest.update(file.read())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _encode_prompts(folder: Path) -> torch.Tensor:
    """(P, L, D) embeddings of ``PROMPTS``."""
    # Slow to import and needed once in a lifetime.
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", use_safetensors=True).float().eval()
    ids = tokenizer(
        list(PROMPTS.values()),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return encoder(ids.input_ids)[0].contiguous()
