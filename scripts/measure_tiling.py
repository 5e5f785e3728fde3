#!/usr/bin/env python3
"""Tiles against the whole picture, and peak memory against the size of the picture.

    python scripts/measure_tiling.py agreement -i PHOTOGRAPHS
    python scripts/measure_tiling.py memory --sides 512 2048

agreement: photographs of scikit-image and held-out ones of a folder, reduced to a shorter side of --side, are restored
whole and by tiles. PSNR over R, G and B of values in [0, 1], not rounded. A seam is a step between neighbouring pixels
where tiles begin, meet or end that the whole picture does not have: the mean absolute difference of the two pixels
there, tiled over whole, divided by the same ratio everywhere else.

memory: every size in a process of its own, `scripts/infer.py`; its peak resident memory as the system counts it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from idas_sr import IDaSSRPipeline
from idas_sr.data.sources import list_photographs
from idas_sr.evaluation.heldout import load_picture
from idas_sr.finishing import finish
from idas_sr.methods.tiles import Tiles
from idas_sr.pipeline import SEED
from idas_sr.planning import Plan
from idas_sr.tiling import Axis, Grid

REPOSITORY = Path(__file__).parents[1]
BUNDLED = ("astronaut", "chelsea", "coffee")


def photographs(folder: Path | None, count: int, side: int) -> list[tuple[str, Tensor]]:
    """Names and pictures (3, h, w) in [0, 1]."""
    found = [(name, torch.from_numpy(getattr(skimage.data, name)().copy())) for name in BUNDLED]
    pictures = [(name, pixels.permute(2, 0, 1)[None].float() / 255) for name, pixels in found]
    if folder is not None:
        paths = list_photographs(folder, "validation")
        # Spread over the folder, whose neighbours are often of one place.
        chosen = [paths[index * len(paths) // max(count - 3, 1)] for index in range(max(count - 3, 0))]
        pictures += [(path.stem, load_picture(path)) for path in chosen]
    out = []
    for name, picture in pictures[:count]:
        factor = min(1.0, side / min(picture.shape[-2:]))
        if factor < 1:
            picture = F.interpolate(picture, scale_factor=factor, mode="bicubic", antialias=True).clamp(0, 1)
        out.append((name, picture[0]))
    return out


@torch.inference_mode()
def by_tiles(pipe: IDaSSRPipeline, picture: Tensor, realism: float, plan: Plan) -> Tensor:
    """(3, h, w) in [0, 1] -> (3, H, W) in [0, 1]."""
    tiles = Tiles(pipe.restorer, picture, realism, SEED, plan, torch.device("cpu"))
    size = (picture.shape[-2] * pipe.restorer.scale, picture.shape[-1] * pipe.restorer.scale)
    rows = finish(tiles.bands(), picture, pipe.restorer.scale, "none", size)
    return torch.cat([part.clone() for part in rows], dim=1)


def borders(axis: Axis, scale: int) -> Tensor:
    """(length * scale - 1,) bool: whether a tile begins, ends or meets its neighbour between a pixel and the next."""
    mask = torch.zeros(axis.length * scale - 1, dtype=torch.bool)
    for start, overlap in zip(axis.starts[1:], axis.overlaps(), strict=True):
        for share in (0.25, 0.5, 0.75):
            place = round((start + overlap * share) * scale)
            mask[place - 1 : place + 1] = True
    return mask


def seams(whole: Tensor, tiled: Tensor, grid: Grid, scale: int) -> dict[str, float]:
    """Mean absolute steps and errors at borders and elsewhere, of (3, H, W)."""
    sums = {f"{what}_{where}": [0.0, 0.0] for what in ("whole", "tiled", "error") for where in ("border", "else")}
    for dim, axis in ((1, grid.rows), (2, grid.columns)):
        size = whole.shape[dim]
        mask = borders(axis, scale)[: size - 1]
        steps = {"whole": whole.diff(dim=dim).abs(), "tiled": tiled.diff(dim=dim).abs()}
        steps["error"] = (tiled - whole).abs().narrow(dim, 0, size - 1)
        for what, values in steps.items():
            lines = values.double().mean([d for d in range(3) if d != dim])
            for where, part in (("border", lines[mask]), ("else", lines[~mask])):
                sums[f"{what}_{where}"][0] += float(part.sum())
                sums[f"{what}_{where}"][1] += len(part)
    return {key: total / max(count, 1) for key, (total, count) in sums.items()}


def agreement(args: argparse.Namespace) -> int:
    pipe = IDaSSRPipeline.from_pretrained(args.model)
    scale, multiple = pipe.restorer.scale, pipe.restorer.multiple
    table = Table("", "size", "tiles", "PSNR, dB", "step at borders", "error at borders, levels", "elsewhere")
    rows = []
    for name, picture in photographs(args.input, args.count, args.side):
        height, width = picture.shape[-2:]
        plan = pipe.plan(height, width, args.tile)
        whole = pipe(picture, realism=args.realism, tile=0, output_type="pt").images[0]
        tiled = by_tiles(pipe, picture, args.realism, replace(plan, samples=0) if args.own_statistics else plan)
        padded = [-(-side // multiple) * multiple for side in (height, width)]
        grid = Grid.cover(*padded, plan.tile, plan.overlap, multiple)
        found = seams(whole, tiled, grid, scale)
        step = found["tiled_border"] / found["whole_border"] / (found["tiled_else"] / found["whole_else"])
        psnr = float(-10 * torch.log10((whole - tiled).double().square().mean()))
        rows.append({"name": name, "size": [width, height], "tiles": len(grid), "psnr": psnr, "step": step, **found})
        errors = [f"{255 * found[key]:.3f}" for key in ("error_border", "error_else")]
        table.add_row(name, f"{width}x{height}", str(len(grid)), f"{psnr:.2f}", f"{step:.4f}", *errors)
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    Console().print(table)
    steps, worst = [row["step"] for row in rows], min(row["psnr"] for row in rows)
    at, elsewhere = (sum(row[f"error_{where}"] for row in rows) for where in ("border", "else"))
    print(
        f"worst picture {worst:.2f} dB; steps at borders {min(steps):.4f} to {max(steps):.4f} "
        f"of those elsewhere; error at borders {at / elsewhere:.3f} of that elsewhere"
    )
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def peak(side: int, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Peak resident memory in MiB and seconds of a process that restores a picture of ``side`` x ``side``."""
    source = folder / f"{side}.png"
    photograph = np.asarray(Image.fromarray(skimage.data.astronaut()).resize((side, side), Image.Resampling.BICUBIC))
    Image.fromarray(photograph).save(source)
    command = [sys.executable, str(REPOSITORY / "scripts" / "infer.py"), "-i", str(source), "-o", str(folder / "out")]
    command += ["--model", args.model, "--tile", args.tile, "--color-fix", args.color_fix, "--device", "cpu"]
    begin = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}.")
    with Image.open(folder / "out" / f"{side}.png") as image:
        assert image.size == (4 * side, 4 * side), image.size
    return {"side": side, "peak_mib": usage.ru_maxrss / 1024, "seconds": time.perf_counter() - begin}


def memory(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        rows = [peak(side, args, Path(folder)) for side in args.sides]
    table = Table("", "peak, MiB", "of the first", "seconds")
    for row in rows:
        share = row["peak_mib"] / rows[0]["peak_mib"]
        size = f"{row['side']}x{row['side']} -> {4 * row['side']}x{4 * row['side']}"
        table.add_row(size, f"{row['peak_mib']:.0f}", f"{share:.2f}", f"{row['seconds']:.1f}")
    Console().print(table)
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("agreement", help="tiled against whole")
    first.add_argument("-i", "--input", type=Path, help="folder of photographs, of which held-out ones are taken")
    first.add_argument("--count", type=int, default=8, help="photographs (default: %(default)s)")
    first.add_argument("--side", type=int, default=400, help="longest shorter side (default: %(default)s)")
    first.add_argument("--tile", type=int, default=512, help="pixels of the x4 result (default: %(default)s)")
    first.add_argument("--realism", type=float, default=0.5)
    first.add_argument("--own-statistics", action="store_true", help="tiles do not share the picture's statistics")
    second = commands.add_parser("memory", help="peak memory of a process per picture size")
    second.add_argument("--sides", type=int, nargs="+", default=[512, 2048], help="of square inputs")
    second.add_argument("--tile", default="512", help="as of infer (default: %(default)s)")
    second.add_argument("--color-fix", default="none", help="as of infer (default: %(default)s)")
    for command in (first, second):
        command.add_argument("--model", default="compact", help="name or folder of a model (default: %(default)s)")
        command.add_argument("--json", type=Path, help="write the figures")
    args = parser.parse_args()
    return agreement(args) if args.command == "agreement" else memory(args)


if __name__ == "__main__":
    sys.exit(main())
