#!/usr/bin/env python3
"""What adapting the compact model to one camera brings, and what it costs: the table of docs/personal.md.

    python scripts/measure_personal.py --photographs PHOTOGRAPHS --squeezenet FILE -o out/personal

The camera is one fixed degradation that the model was never trained on (configs/data/personal-camera.yaml). 30
photographs of the training split are its pairs; for the other way, 30 pictures of it and 30 clean photographs that show
something else, from which scripts/estimate_degradation.py estimates it. Each training is `scripts/train.py
configs/train/personal.yaml`, and is measured on photographs of the held-out split, which nothing was trained on, at
realism 0. What is there already is not trained again. Words such as train.steps=100 are handed to the trainings.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from idas_sr import IDaSSRPipeline
from idas_sr.build import build_degradation
from idas_sr.config import load_config
from idas_sr.data.corruptions import to_pillow
from idas_sr.data.degradation import Degradation
from idas_sr.data.sources import list_photographs
from idas_sr.evaluation.heldout import pairs_of
from idas_sr.images import write_png
from idas_sr.losses import FeatureDistance
from idas_sr.methods.task import to_signed, to_unit
from idas_sr.metrics import psnr_y
from idas_sr.resample import upsample

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("pairs", "estimated")
Scores = dict[str, np.ndarray]


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """``count`` of the paths, evenly spread.

    Raises:
        SystemExit: there are fewer.
    """
    if len(paths) < count:
        sys.exit(f"measure_personal: {len(paths)} photographs where {count} are needed; lower --pairs or --count.")
    return [paths[index * len(paths) // count] for index in range(count)]


def write_pictures(folder: Path, pairs: list[tuple[Tensor, Tensor]], names: Sequence[str]) -> None:
    """The pairs as ``folder``/lq and ``folder``/hq."""
    for name, pair in zip(names, pairs, strict=True):
        for kind, picture in zip(("lq", "hq"), pair, strict=True):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            write_png(to_pillow(picture), folder / kind / f"{name}.png")


def prepare(photographs: Path, output: Path, camera: Degradation, count: int) -> None:
    """The camera's pairs, and elsewhere its pictures and clean photographs of other scenes."""
    thirds = spread(list_photographs(photographs, "train"), 3 * count)
    parts = [pairs_of(thirds[start::3], camera) for start in range(3)]
    for name, pairs in zip(("pairs", "pictures", "clean"), parts, strict=True):
        write_pictures(output / name, pairs, [f"{index:03d}" for index in range(count)])


def run(*words: object) -> float:
    """A command of this repository to its end; the CPU seconds that it took.

    Raises:
        SystemExit: it failed.
    """
    process = subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"measure_personal: {words[0]} failed, see above.")
    return usage.ru_utime + usage.ru_stime


def adapt(output: Path, way: str, seed: int, words: Sequence[str]) -> tuple[Path, float]:
    """Train and export one adapter where it is not there yet; its file and the CPU seconds of the training."""
    file, times = output / f"{way}-{seed}.safetensors", output / f"{way}-{seed}.json"
    if not file.is_file():
        camera = [] if way == "pairs" else [output / "my-camera.yaml"]
        root = output / "pairs" if way == "pairs" else output / "clean" / "hq"
        run_dir = output / "runs" / f"{way}-{seed}"
        settings = [f"data.root={root}", f"train.run_dir={run_dir}", f"seed={seed}", *words]
        seconds = run("scripts/train.py", "configs/train/personal.yaml", *camera, *settings)
        times.write_text(json.dumps({"cpu_seconds": seconds}))
        run("scripts/export_adapter.py", run_dir, file)
    return file, float(json.loads(times.read_text())["cpu_seconds"])


@torch.inference_mode()
def measure(
    pipe: IDaSSRPipeline | None, pairs: list[tuple[Tensor, Tensor]], distance: FeatureDistance | None, title: str
) -> Scores:
    """psnr_y and sqdist (N,) of the pairs restored at realism 0, or enlarged where there is no pipeline."""
    rows = []
    for lq, hq in track(pairs, title, transient=True):
        if pipe is None:
            signed = upsample(to_signed(lq), 4)
        else:
            signed = pipe.restorer.restore_image(to_signed(lq), 0.0, [0]).hq
            assert signed is not None
        picture = (to_unit(signed) * 255).round() / 255
        apart = np.nan if distance is None else float(distance(to_signed(picture), to_signed(hq)))
        rows.append((float(psnr_y(picture, hq)), apart))
    columns = np.array(rows).T
    return {"psnr_y": columns[0], "sqdist": columns[1]}


def spread_of(values: Sequence[float], digits: int) -> str:
    """Mean, and standard deviation over seeds where there are several."""
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {np.std(values, ddof=1):.{digits}f}"


def table_of(title: str, rows: dict[str, list[Scores]], seconds: dict[str, list[float]]) -> tuple[Table, dict]:
    """Means over photographs, then over seeds; gains are over the model as it ships."""
    table = Table("", "psnr_y", "gain", "better on", "sqdist", "CPU-minutes", title=title)
    base = rows["compact"][0]
    result = {}
    for name, seeds in rows.items():
        psnr = [float(scores["psnr_y"].mean()) for scores in seeds]
        gain = [float((scores["psnr_y"] - base["psnr_y"]).mean()) for scores in seeds]
        better = [float((scores["psnr_y"] > base["psnr_y"]).mean()) for scores in seeds]
        sqdist = [float(scores["sqdist"].mean()) for scores in seeds]
        minutes = [value / 60 for value in seconds.get(name, [])]
        result[name] = {"psnr_y": psnr, "gain": gain, "better_on": better, "sqdist": sqdist, "cpu_minutes": minutes}
        cells = (spread_of(psnr, 2), spread_of(gain, 2), f"{np.mean(better):.0%}", spread_of(sqdist, 3))
        if name == "compact":
            cells = (cells[0], "", "", cells[3])
        table.add_row(name, *cells, spread_of(minutes, 1) if minutes else "")
    return table, result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="training data; both its splits are used")
    parser.add_argument("--squeezenet", type=Path, help="SqueezeNet 1.0 weights, for sqdist")
    parser.add_argument("--camera", type=Path, default=ROOT / "configs" / "data" / "personal-camera.yaml")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/personal"), metavar="FOLDER")
    parser.add_argument("--pairs", type=int, default=30, help="(default: %(default)s)")
    parser.add_argument("--count", type=int, default=40, help="photographs to measure on (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--elsewhere", default="compact", help="a degradation of other cameras (default: %(default)s)")
    parser.add_argument("words", nargs="*", metavar="key=value", help="for the trainings")
    args = parser.parse_args()
    output = args.output.resolve()
    words = [f"data.root={args.photographs}", "train.run_dir=unused"]
    camera = build_degradation(load_config(ROOT / "configs" / "base.yaml", args.camera, overrides=words).data)
    if not (output / "clean" / "hq" / f"{args.pairs - 1:03d}.png").is_file():
        prepare(args.photographs, output, camera, args.pairs)
    if "estimated" in args.ways and not (output / "my-camera.yaml").is_file():
        folders = ("--lq", output / "pictures" / "lq", "--clean", output / "clean" / "hq")
        run("scripts/estimate_degradation.py", *folders, "-o", output / "my-camera.yaml")
    trained = {way: [adapt(output, way, seed, args.words) for seed in args.seeds] for way in args.ways}

    distance = FeatureDistance.yardstick(args.squeezenet) if args.squeezenet else None
    held_out = spread(list_photographs(args.photographs, "validation"), args.count)
    names = {way: f"adapted, {way}" for way in args.ways}
    seconds = {names[way]: [time for _, time in made] for way, made in trained.items()}
    results = {}
    for title, degradation in (
        ("this camera", camera),
        (f"other cameras: {args.elsewhere}", Degradation(args.elsewhere)),
    ):
        pairs = pairs_of(held_out, degradation)
        rows = {"bicubic": [measure(None, pairs, distance, "bicubic")]}
        rows["compact"] = [measure(IDaSSRPipeline.from_pretrained("compact"), pairs, distance, "compact")]
        for way, made in trained.items():
            pipes = [IDaSSRPipeline.from_pretrained("compact", adapter=file) for file, _ in made]
            rows[names[way]] = [measure(pipe, pairs, distance, names[way]) for pipe in pipes]
        table, results[title] = table_of(f"{title}, {args.count} held-out photographs, realism 0", rows, seconds)
        Console().print(table)
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
