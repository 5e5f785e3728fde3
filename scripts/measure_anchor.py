#!/usr/bin/env python3
"""What MINE knows and what each part of an anchor is worth: the tables of the model card.

    python scripts/measure_anchor.py --squeezenet FILE --photographs PHOTOGRAPHS --lq LQ_FOLDER --hq HQ_FOLDER

Photographs: the held-out split, degraded by a family never trained on (`heldout`). Pairs: two folders. Of each: rank
correlation of the predicted with the true noise level w*, spread of t-hat, position-state gap; and, with --squeezenet,
sqdist and PSNR-Y at realism 0 when one part is replaced: t-hat by its mean, inversion noise, deviation, control
residuals or the UNet's edit by 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import spearmanr
from torch import Tensor

from idas_sr import IDaSSRPipeline
from idas_sr.evaluation.heldout import held_out_pairs, load_picture
from idas_sr.evaluation.sweep import position_state_gap
from idas_sr.losses import FeatureDistance
from idas_sr.methods.base import Method
from idas_sr.methods.positioning import snr_matching
from idas_sr.methods.task import to_signed, to_unit
from idas_sr.metrics import psnr_y
from idas_sr.resample import upsample
from idas_sr.types import Anchor


def paired(lq_folder: Path, hq_folder: Path) -> list[tuple[Tensor, Tensor]]:
    """(lq, hq) of two folders, paired by the sorted order of equally many files."""
    lq, hq = (sorted(p for p in folder.iterdir() if p.suffix == ".png") for folder in (lq_folder, hq_folder))
    if len(lq) != len(hq):
        raise SystemExit(f"measure_anchor: {len(lq)} pictures in {lq_folder} but {len(hq)} in {hq_folder}.")
    return [(load_picture(a), load_picture(b)) for a, b in zip(lq, hq, strict=True)]


@torch.inference_mode()
def positions(method: Method, pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Rank correlation of predicted and true noise level, spread of t-hat, and the gap at realism 0, 0.5 and 1."""
    predicted, true, timesteps = [], [], []
    gaps: dict[float, list[float]] = {0.0: [], 0.5: [], 1.0: []}
    for index, (lq, hq) in enumerate(track(pairs, "positions")):
        lq, hq = to_signed(lq), to_signed(hq)
        z_lq, z_hq = method.backbone.encode(upsample(lq, method.scale)), method.backbone.encode(hq)
        anchor = method.anchor(lq, z_lq)
        predicted.append(float(method.backbone.schedule.sigma(anchor.timestep)))
        true.append(float(snr_matching(z_lq, z_hq)))
        timesteps.append(float(anchor.timestep))
        for realism in gaps:
            steered = method.steering(anchor, z_lq, realism, [index], method.backbone.schedule, (0, 0))
            gap = position_state_gap(steered, z_hq, method)
            gaps[realism].append(float("nan") if gap is None else gap)
    quartiles = np.percentile(timesteps, [25, 75])
    return {
        "images": len(pairs),
        "spearman": float(spearmanr(predicted, true)[0]),
        "t_hat_iqr": float(quartiles[1] - quartiles[0]),
        "t_hat_mean": float(np.mean(timesteps)),
        **{f"gap_mean_{r}": float(np.mean(g)) for r, g in gaps.items()},
        **{f"gap_abs_{r}": float(np.abs(g).mean()) for r, g in gaps.items()},
    }


def replacements(anchor: Anchor, mean_timestep: Tensor) -> dict[str, Anchor]:
    """The anchor, and the anchor with one part replaced."""
    assert anchor.noise is not None and anchor.deviation is not None
    return {
        "everything": anchor,
        "t-hat by its mean": dataclasses.replace(anchor, timestep=mean_timestep),
        "inversion noise by 0": dataclasses.replace(anchor, noise=torch.zeros_like(anchor.noise)),
        "deviation by 0": dataclasses.replace(anchor, deviation=torch.zeros_like(anchor.deviation)),
        "control residuals by 0": dataclasses.replace(anchor, control=None),
    }


@torch.inference_mode()
def worth(method: Method, pairs: list[tuple[Tensor, Tensor]], distance: FeatureDistance) -> dict[str, dict[str, float]]:
    """sqdist and PSNR-Y at realism 0 per replaced part."""
    schedule, scores = method.backbone.schedule, {}
    encoded = []
    for lq, _ in track(pairs, "anchors"):
        z_lq = method.backbone.encode(upsample(to_signed(lq), method.scale))
        encoded.append((z_lq, method.anchor(to_signed(lq), z_lq)))
    mean = torch.stack([schedule.log_sigma(a.timestep) for _, a in encoded]).mean(0).exp()
    mean_timestep = schedule.timestep_of(mean)
    for (z_lq, anchor), (lq, hq) in zip(track(encoded, "replacements"), pairs, strict=True):
        tokens = method.conditioner(lq, method.backbone).positive
        restored = {}
        for name, changed in replacements(anchor, mean_timestep).items():
            steered = method.steering(changed, z_lq, 0.0, [0], schedule, (0, 0))
            restored[name] = method.backbone.predict_z0(
                steered.state, steered.timestep, tokens, steered.sigma, changed.control
            )
        # The edit is what the UNet changes about the centre of the anchor.
        restored["the UNet's edit by 0"] = z_lq - (0 if anchor.deviation is None else anchor.deviation)
        for name, z0 in restored.items():
            picture = (to_unit(method.backbone.decode(z0)) * 255).round() / 255
            row = scores.setdefault(name, {"sqdist": [], "psnr_y": []})
            row["sqdist"].append(float(distance(to_signed(picture), to_signed(hq))))
            row["psnr_y"].append(float(psnr_y(picture, hq)))
    return {name: {key: float(np.mean(values)) for key, values in row.items()} for name, row in scores.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--photographs", type=Path, help="folder of the training data; its held-out split is used")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--degradation", default="heldout")
    parser.add_argument("--lq", type=Path)
    parser.add_argument("--hq", type=Path)
    parser.add_argument("--squeezenet", type=Path, help="SqueezeNet 1.0 weights, for sqdist")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    method = IDaSSRPipeline.from_pretrained(args.model).restorer
    sets = {}
    if args.photographs:
        sets[f"held-out photographs, {args.degradation}"] = held_out_pairs(
            args.photographs, args.count, args.degradation
        )
    if args.lq and args.hq:
        sets["pairs"] = paired(args.lq, args.hq)
    if not sets:
        parser.error("give --photographs, or --lq and --hq, or all three")
    distance = FeatureDistance.yardstick(args.squeezenet) if args.squeezenet else None
    result: dict[str, dict[str, object]] = {}
    for name, pairs in sets.items():
        result[name] = {"positions": positions(method, pairs)}
        if distance is not None:
            result[name]["replaced"] = worth(method, pairs, distance)
    report(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return 0


def report(result: dict[str, dict[str, object]]) -> None:
    """Print the tables."""
    console = Console()
    for name, parts in result.items():
        for part, values in parts.items():
            assert isinstance(values, dict)
            columns = ("replaced", "sqdist", "psnr_y") if part == "replaced" else ("figure", "value")
            table = Table(*columns, title=f"{name}: {part}")
            for key, row in values.items():
                cells = (f"{row['sqdist']:.4f}", f"{row['psnr_y']:.3f}") if part == "replaced" else (f"{row:.4g}",)
                table.add_row(key, *cells)
            console.print(table)


if __name__ == "__main__":
    sys.exit(main())
