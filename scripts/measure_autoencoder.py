#!/usr/bin/env python3
"""The ceiling of a model: PSNR of photographs that its autoencoder only encodes and decodes, nothing restored.

    python scripts/measure_autoencoder.py -i KODAK
    python scripts/measure_autoencoder.py -i KODAK --model my-model

No restoration by this model can come closer to a clean picture than this, on average. Pictures are rounded to 8 bits;
PSNR over R, G and B together, and on BT.601 luma.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table

from idas_sr import IDaSSRPipeline
from idas_sr.evaluation.heldout import load_picture
from idas_sr.imagefiles.formats import EXTENSIONS
from idas_sr.methods.task import to_signed, to_unit
from idas_sr.metrics import psnr_y


@torch.inference_mode()
def round_trip(pipe: IDaSSRPipeline, hq: torch.Tensor) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1], any size -> the same, encoded, decoded and rounded to 8 bits."""
    backbone = pipe.restorer.backbone
    height, width = hq.shape[-2:]
    padding = [-side % backbone.downsample for side in (width, height)]
    padded = F.pad(hq, (0, padding[0], 0, padding[1]), mode="replicate")
    decoded = to_unit(backbone.decode(backbone.encode(to_signed(padded))))[..., :height, :width]
    return (decoded * 255).round() / 255


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input", type=Path, required=True, help="folder of clean photographs")
    parser.add_argument("--model", default="compact", help="name or folder of a model (default: %(default)s)")
    args = parser.parse_args()
    pictures = sorted(path for path in args.input.glob("*") if path.suffix.lower() in EXTENSIONS)
    if not pictures:
        print(f"measure_autoencoder: no picture in {args.input}", file=sys.stderr)
        return 1
    pipe = IDaSSRPipeline.from_pretrained(args.model)
    rows = []
    for path in track(pictures, "round trip"):
        hq = load_picture(path)
        decoded = round_trip(pipe, hq)
        rgb = float(-10 * torch.log10((decoded - hq).square().mean()))
        rows.append((rgb, float(psnr_y(decoded, hq))))
    values = np.array(rows)
    table = Table("", "PSNR RGB, dB", "PSNR-Y, dB")
    for name, value in (("mean", values.mean(0)), ("lowest", values.min(0)), ("highest", values.max(0))):
        table.add_row(name, f"{value[0]:.2f}", f"{value[1]:.2f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
