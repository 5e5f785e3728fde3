#!/usr/bin/env python3
"""Train nano_idas.py and measure it on the way: a table on the screen, its rows beside the model, and a plot.

    python scripts/measure_nano.py PHOTOGRAPHS --out nano.safetensors --steps 1600 --plot docs/images/nano.png

psnr_y in dB on one crop of each of 48 photographs that the training does not use, degraded as in training.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idas_sr.cli import ended
from idas_sr.data.sources import list_photographs
from idas_sr.evaluation import plots
from idas_sr.evaluation.files import write_text
from idas_sr.metrics import psnr_y

NANO = Path(__file__).parents[1] / "nano_idas.py"
CROPS = 48
PSNR = ("bicubic", "realism 0", "realism 0.5", "realism 1")


def load_nano() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nano_idas", NANO)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def measure(nano: ModuleType, model: Any, hq: Tensor, lq: Tensor) -> dict[str, float]:
    """PSNR-Y of bicubic interpolation and of restorations; pictures (B, 3, h, w) in [-1, 1]."""

    def against(image: Tensor) -> float:
        eight_bits = [(x.clamp(-1, 1) * 127.5 + 127.5).round() / 255 for x in (image, hq)]
        return round(float(psnr_y(*eight_bits).mean()), 3)

    row = {"bicubic": against(nano.enlarge(lq))}
    for realism in (0.0, 0.5, 1.0):
        z0, *_ = model.restore(lq, torch.full((len(lq),), realism), range(len(lq)))
        row[f"realism {realism:g}"] = against(model.decode(z0))
    return row


def curve(nano: ModuleType, photographs: Path, out: Path, steps: int, seed: int, **config: Any) -> list[dict[str, Any]]:
    """Train; some twenty-five rows, which also go into a ``.jsonl`` file beside the model as they come.

    Raises:
        ValueError: there is nothing to train or to measure on, or ``out`` exists.
    """
    held_out = list_photographs(photographs, "validation")[:CROPS]
    hq, lq = nano.pairs([nano.read_picture(path, nano.CROP) for path in held_out], np.random.default_rng(0))
    rows: list[dict[str, Any]] = []
    losses: list[float] = []
    done = 0

    def watch(stage: str, loss: float, model: Any) -> None:
        nonlocal done
        done += 1
        losses.append(loss)
        if done % max(steps // 25, 1):
            return
        row = {"stage": stage, "step": done, "cpu_minutes": round(time.process_time() / 60, 2)}
        row["loss"] = round(sum(losses) / len(losses), 4)
        losses.clear()
        rows.append(row | (measure(nano, model, hq, lq) if stage == "restoration" else {}))
        write_text(out.with_suffix(".jsonl"), "".join(json.dumps(row) + "\n" for row in rows))

    nano.train(photographs, out, steps, seed, watch=watch, **config)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown, PSNR-Y in dB."""
    lines = ["| step | CPU minutes | loss | " + " | ".join(PSNR) + " |", "|---|---|---|" + "---|" * len(PSNR)]
    for row in rows:
        figures = " | ".join(f"{row[name]:.2f}" for name in PSNR)
        lines.append(f"| {row['step']} | {row['cpu_minutes']:.1f} | {row['loss']:.3f} | {figures} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    figure, (ax,) = plots.new_figure(1, 1, width=5.6, height=3.4)
    minutes = [row["cpu_minutes"] for row in rows]
    ax.axhline(rows[0]["bicubic"], color="#888888", linestyle="--", linewidth=1.2, label="bicubic")
    for index, name in enumerate(PSNR[1:]):
        ax.plot(minutes, [row[name] for row in rows], label=name, linewidth=1.5, **plots.style_of(index))
    ax.set_xlabel("minutes of one CPU core", fontsize=9)
    ax.set_ylabel("psnr_y on held-out photographs, dB", fontsize=9)
    ax.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, facecolor="white")


def run(args: argparse.Namespace) -> None:
    if args.plot:
        plots.check()
    rows = curve(load_nano(), args.photographs, args.out, args.steps, args.seed)
    rows = [row for row in rows if row["stage"] == "restoration"]
    if args.plot:
        plot(rows, args.plot)
    print(table(rows))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("nano.safetensors"))
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="PNG file to draw")
    args = parser.parse_args(arguments)
    return ended("measure_nano", lambda: run(args), "the rows so far lie beside the model")


if __name__ == "__main__":
    sys.exit(main())
