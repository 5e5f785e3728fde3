#!/usr/bin/env python3
"""Whether HD-CLIP orders degradations on held-out photographs, also at levels it was not trained on.

python scripts/measure_hdclip.py PHOTOGRAPHS                            the HD-CLIP of the compact model
python scripts/measure_hdclip.py PHOTOGRAPHS --model runs/compact/hdclip
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import idas_sr
from idas_sr.evaluation.heldout import held_out_pairs
from idas_sr.evaluation.ordinal import measure_ordinal
from idas_sr.networks.hd_clip import load_hd_clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, help="folder of the training data; its held-out split is used")
    parser.add_argument("--model", default="compact", help="model that ships, run directory, or folder of an HD-CLIP")
    parser.add_argument("--count", type=int, default=100, help="photographs (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures")
    args = parser.parse_args()
    try:
        network = load_hd_clip(args.model)
        pictures = [lq for lq, _ in held_out_pairs(args.photographs, args.count, "bicubic")]
        if len(pictures) < 2:
            raise ValueError(f"{args.photographs} holds one held-out photograph; comparing needs two or more.")
        with torch.inference_mode():
            figures = measure_ordinal(network, pictures)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"measure_hdclip {idas_sr.__version__}: {error}")
    table = Table("", "figure", "value", title=f"{len(pictures)} held-out photographs")
    for part, values in figures.items():
        for name, value in values.items():
            table.add_row(part, name, f"{value:.3f}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
