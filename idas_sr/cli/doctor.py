"""``idas-sr doctor``: what this machine can run, and the command that gets what is missing."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import diffusers
import psutil
import torch
from PIL import Image, features

from idas_sr import __version__
from idas_sr.cli import catalogue
from idas_sr.evaluation.score import available_cores
from idas_sr.pipeline import IDaSSRPipeline

EXAMPLES = """examples:
  %(prog)s              ten lines; exit code 1 where the model that ships here cannot restore
  %(prog)s --offline    as if there were no network
"""
GIB = 2**30
SD_TURBO_MEMORY = 6 * GIB
"""Of 950 M parameters in half precision, with room for a picture of 512 x 512 pixels."""


@dataclass(frozen=True)
class Finding:
    """One line: ``ok`` or not, and what to do where it is not.

    Attributes:
        state: ``ok``, ``--`` (works without) or ``NO`` (does not work).
        command: gets what is missing.
    """

    state: str
    topic: str
    detail: str
    command: str | None = None

    def __str__(self) -> str:
        return f"{self.state:<2}  {self.topic:<10} {self.detail}" + (f"  ->  {self.command}" if self.command else "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``doctor``."""
    parser.description = "Say what this machine can run, and which command gets what is missing. Changes nothing."
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 where one of them is that restoring does not work."""
    findings = list(examine(args.offline))
    print("\n".join(map(str, findings)))
    return 1 if any(finding.state == "NO" for finding in findings) else 0


def examine(is_offline: bool = False) -> Iterator[Finding]:
    """All findings, one per topic."""
    yield _software()
    yield _processor()
    yield _accelerator()
    yield _restoration()
    yield _sd_turbo()
    yield _demo()
    yield _extras()
    yield _metrics()
    yield _formats()
    yield _network(is_offline)


def _software() -> Finding:
    parts = f"idas-sr {__version__}, Python {platform.python_version()}, torch {torch.__version__}"
    return Finding("ok", "software", f"{parts}, diffusers {diffusers.__version__}")


def _processor() -> Finding:
    memory = psutil.virtual_memory()
    amount = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB memory free"
    return Finding("ok", "processor", f"{available_cores()} cores for this program, {amount}")


def _accelerator() -> Finding:
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = f"{torch.cuda.get_device_name()}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
        fits = "sd-turbo fits" if free > SD_TURBO_MEMORY else "too little for sd-turbo, enough for compact"
        return Finding("ok", "GPU", f"{name}: {fits}")
    if torch.backends.mps.is_available():
        return Finding("ok", "GPU", "Apple silicon: --device mps")
    hint = "torch here is built without CUDA" if torch.version.cuda is None else "torch sees none"
    return Finding("--", "GPU", f"none ({hint}): compact restores on the CPU, sd-turbo is slow there")


def _restoration() -> Finding:
    try:
        start = time.perf_counter()
        pipeline = IDaSSRPipeline.from_pretrained("compact")
        loaded = time.perf_counter()
        pipeline(Image.new("RGB", (64, 64), "gray"))
    except Exception as error:
        # Whatever it is, the line says it: this is the command for machines on which something is broken.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return Finding("NO", "compact", f"does not restore ({reason})", "pip install --force-reinstall idas-sr")
    seconds = f"loaded in {loaded - start:.1f} s, 64x64 to 256x256 pixels in {time.perf_counter() - loaded:.1f} s"
    return Finding("ok", "compact", f"restores: {seconds}")


def _sd_turbo() -> Finding:
    weights = next(one for one in catalogue.published() if one.name == "sd-turbo")
    if weights.here is not None:
        return Finding("ok", "sd-turbo", "weights are here, for training and for adapters trained on them")
    free = shutil.disk_usage(_existing(Path.home() / ".cache")).free / GIB
    return Finding("--", "sd-turbo", f"no weights ({weights.size}; {free:.0f} GiB of disk free)", weights.command)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _demo() -> Finding:
    if importlib.util.find_spec("gradio") is None:
        return Finding("--", "demo", "idas-sr demo needs gradio", catalogue.install_command("demo"))
    return Finding("ok", "demo", "idas-sr demo runs")


def _extras() -> Finding:
    found = {name: missing for name, missing in catalogue.extras().items() if name != "demo"}
    there = ", ".join(name for name, missing in found.items() if not missing)
    absent = [name for name, missing in found.items() if missing]
    if not absent:
        return Finding("ok", "extras", there)
    detail = f"{there or 'none'} there; without {', '.join(absent)}"
    return Finding("--", "extras", detail, catalogue.install_command(*absent))


def _metrics() -> Finding:
    weights = next(one for one in catalogue.published() if one.name == "alexnet")
    if weights.here is not None:
        return Finding("ok", "metrics", "PSNR, SSIM, NIQE, LPIPS")
    return Finding("--", "metrics", "PSNR, SSIM, NIQE; LPIPS lacks its weights", weights.command)


def _formats() -> Finding:
    codecs = {"JPEG": "jpg", "PNG": "zlib", "WebP": "webp", "TIFF": "libtiff", "AVIF": "avif"}
    there = [name for name, feature in codecs.items() if features.check(feature)]
    absent = [name for name in codecs if name not in there]
    if absent:
        detail = f"{', '.join(there)}; not {', '.join(absent)}"
        return Finding("--", "formats", detail, "pip install --upgrade pillow")
    return Finding("ok", "formats", ", ".join(there))


def _network(is_offline: bool) -> Finding:
    is_offline = is_offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    detail = "off, what is here is used" if is_offline else "used only for Hub ids and sd-turbo's weights"
    with tempfile.TemporaryDirectory() as folder:
        room = shutil.disk_usage(folder).free / GIB
    return Finding("ok", "network", f"{detail}; {room:.1f} GiB for temporary files")
