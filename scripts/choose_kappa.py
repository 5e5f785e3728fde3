#!/usr/bin/env python3
"""How far the dial of a trained model may reach: sqdist and PSNR-Y at realism 1 by kappa, on held-out photographs.

    python scripts/choose_kappa.py MODEL --photographs PHOTOGRAPHS --squeezenet FILE

Prints, per degradation and zoom, realism 0 and realism 1 for each kappa, and the largest kappa whose realism 1 stays
within --rise of realism 0 in sqdist, on average over degradations and zooms: photographs are sharp at zoom 1 and as
soft as the full-size frames of a camera at 2. `scripts/export_compact.py --kappa` writes it into the model.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from idas_sr import IDaSSRPipeline
from idas_sr.evaluation.heldout import held_out_pairs
from idas_sr.losses import FeatureDistance
from idas_sr.methods.task import to_signed, to_unit
from idas_sr.metrics import psnr_y


@torch.inference_mode()
def measure(
    pipe: IDaSSRPipeline, pairs: list[tuple[Tensor, Tensor]], realism: float, distance: FeatureDistance
) -> tuple[float, float]:
    """Mean (sqdist, PSNR-Y) of the restored pairs, rounded to 8 bits."""
    rows = []
    for index, (lq, hq) in enumerate(pairs):
        picture = to_unit(pipe.restorer.restore_image(to_signed(lq), realism, [index]).hq)
        picture = (picture * 255).round() / 255
        rows.append((float(distance(to_signed(picture), to_signed(hq))), float(psnr_y(picture, hq))))
    sqdist, psnr = np.mean(rows, axis=0)
    return float(sqdist), float(psnr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name or folder of a model")
    parser.add_argument("--photographs", type=Path, required=True, help="training data; its held-out split is used")
    parser.add_argument("--squeezenet", type=Path, required=True, help="SqueezeNet 1.0 weights, for sqdist")
    parser.add_argument("--degradations", nargs="+", default=["camera"])
    parser.add_argument("--zooms", nargs="+", type=float, default=[1.0, 1.5, 2.0], help="enlargements of the targets")
    parser.add_argument("--kappas", nargs="+", type=float, default=[1.06, 1.1, 1.14, 1.18, 1.22])
    parser.add_argument("--count", type=int, default=16, help="photographs (default: %(default)s)")
    parser.add_argument("--rise", type=float, default=0.1, help="of sqdist that realism 1 may cost")
    args = parser.parse_args()
    pipe = IDaSSRPipeline.from_pretrained(args.model)
    distance = FeatureDistance.yardstick(args.squeezenet)
    table = Table("degradation", "kappa", "sqdist", "psnr_y")
    rises: dict[float, list[float]] = {kappa: [] for kappa in args.kappas}
    for degradation, zoom in itertools.product(args.degradations, args.zooms):
        pairs = held_out_pairs(args.photographs, args.count, degradation, zoom)
        zero = measure(pipe, pairs, 0.0, distance)
        table.add_row(f"{degradation}, zoom {zoom:g}", "realism 0", f"{zero[0]:.4f}", f"{zero[1]:.3f}")
        for kappa in track(args.kappas, degradation):
            pipe.set_steering(kappa=kappa)
            one = measure(pipe, pairs, 1.0, distance)
            rises[kappa].append(one[0] - zero[0])
            table.add_row("", f"{kappa:g}", f"{one[0]:.4f}", f"{one[1]:.3f}")
    fitting = [kappa for kappa, rise in rises.items() if np.mean(rise) <= args.rise]
    console = Console()
    console.print(table)
    console.print(
        f"largest kappa within {args.rise:g}: {max(fitting)}" if fitting else f"no kappa stays within {args.rise:g}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
