#!/usr/bin/env python3
"""Calibrate a model's dial on held-out photographs: its table, and the realism that a severity asks for.

    python scripts/calibrate_dial.py compact --photographs PHOTOGRAPHS --squeezenet FILE --write
    python scripts/calibrate_dial.py compact --squeezenet FILE --lq LQ --hq HQ        # what it is worth elsewhere

The first measures one half of the photographs, makes the tables, and reports what they do on the other half; --write
stores them in the model's configuration and in its card. It has to be run again when weights or steering change. The
second measures a calibrated model on pairs, and changes nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from tqdm import tqdm

from idas_sr import IDaSSRPipeline
from idas_sr.atomic import write_text
from idas_sr.dial import Calibration
from idas_sr.evaluation.calibration import (
    MOVES,
    Curve,
    Pair,
    best_fixed,
    dial_table,
    even_grid,
    fine_grid,
    load_pairs,
    measure_all,
    severity_table,
)
from idas_sr.evaluation.score import pair_by_stem
from idas_sr.imagefiles.reading import read_picture
from idas_sr.losses import FeatureDistance
from idas_sr.networks.library import choose_adapter, find_model

MARKS = "<!-- calibrate_dial: begin -->", "<!-- calibrate_dial: end -->"


class Run:
    """A model, the yardstick, and how many pictures are measured at a time."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.pipe = IDaSSRPipeline.from_pretrained(args.model, args.method).to(args.device)
        if not self.pipe.restorer.steering.dial:
            raise ValueError(f"The method {args.method} has no dial to calibrate.")
        self.distance, self.jobs = FeatureDistance.yardstick(args.squeezenet), args.jobs

    def curves(self, pairs: Sequence[Pair], realism: Sequence[float], what: str, steps: bool = True) -> list[Curve]:
        """Every pair at the same raw realism."""
        return self.curves_at(pairs, [realism] * len(pairs), what, steps)

    def curves_at(
        self, pairs: Sequence[Pair], realism: Sequence[Sequence[float]], what: str, steps: bool = False
    ) -> list[Curve]:
        """Every pair at its own."""
        with tqdm(total=len(pairs), desc=what, disable=None) as bar:
            return measure_all(
                self.pipe.restorer, pairs, realism.__getitem__, self.distance, self.jobs, lambda: bar.update(), steps
            )

    def report(
        self, pairs: Sequence[Pair], dial: Calibration, fixed: float | None, steps: bool = True
    ) -> dict[str, Any]:
        """What a calibrated dial does for pairs: steps before and after, and auto against every fixed realism.

        Args:
            pairs: that nothing was chosen with.
            dial: the tables.
            fixed: raw realism that was best where they were chosen.
            steps: whether the moves of the dial are measured, at ``MOVES`` of them; else a quarter of the dial apart.
        """
        grid = even_grid(MOVES if steps else 4)
        before, sizes = self.curves(pairs, grid, "raw dial", steps), {}
        if steps:
            after = self.curves(pairs, [dial.raw_of(position) for position in grid], "calibrated dial")
            sizes = {"raw": _steps(before), "calibrated": _steps(after)}
        told = [curve.timestep for curve in before]
        chosen = dial.by_severity(torch.tensor(told)).tolist()
        auto = self.curves_at(pairs, [[r] for r in chosen], "auto")
        fixed = best_fixed(before) if fixed is None else fixed
        return {
            "pictures": len(pairs),
            "timesteps": told,
            "steps": sizes,
            "rows": {
                f"raw {r:g}": _mean([c.sqdist[i] for c in before], [c.psnr_y[i] for c in before])
                for i, r in enumerate(grid)
            },
            "best of each": _mean(
                [min(c.sqdist) for c in before], [c.psnr_y[int(np.argmin(c.sqdist))] for c in before]
            ),
            "auto": _mean([c.sqdist[0] for c in auto], [c.psnr_y[0] for c in auto]),
            "chosen": chosen,
            "fixed": fixed,
            "auto less fixed": _against(auto, before, fixed),
        }


def _mean(sqdist: Sequence[float], psnr: Sequence[float]) -> list[float]:
    return [float(np.mean(sqdist)), float(np.mean(psnr))]


def _steps(curves: Sequence[Curve]) -> list[float]:
    return np.mean([curve.steps for curve in curves], axis=0).tolist()


def _against(auto: Sequence[Curve], before: Sequence[Curve], fixed: float) -> list[float]:
    """Mean difference in sqdist from a fixed realism, and its standard error over pictures."""
    differences = [a.sqdist[0] - b.at(fixed)[0] for a, b in zip(auto, before, strict=True)]
    return [float(np.mean(differences)), float(np.std(differences, ddof=1) / np.sqrt(len(differences)))]


def as_markdown(report: dict[str, Any]) -> str:
    """Both tables, for a page and for a terminal."""
    lines = []
    if report["steps"]:
        head = " | ".join(str(move + 1) for move in range(MOVES))
        lines += [f"| move ({report['pictures']} pictures) | {head} | largest / smallest |", "|---" * (MOVES + 2) + "|"]
        for name, values in report["steps"].items():
            row = " | ".join(f"{value:.4f}" for value in values)
            lines.append(f"| {name} | {row} | {max(values) / min(values):.2f} |")
        lines.append("")
    lines += [f"| realism ({report['pictures']} pictures) | sqdist | PSNR-Y |", "|---|---|---|"]
    rows = {**report["rows"], "auto": report["auto"], "best of each picture, known afterwards": report["best of each"]}
    lines += [f"| {name} | {sqdist:.4f} | {psnr:.3f} |" for name, (sqdist, psnr) in rows.items()]
    gain, error = report["auto less fixed"]
    lines += ["", f"auto less raw {report['fixed']:g}: {gain:+.4f} sqdist, standard error {error:.4f} over pictures"]
    return "\n".join(lines)


def card_block(dial: Calibration, report: dict[str, Any], made: str) -> str:
    """The part of a model card between the marks."""
    positions = even_grid(10)
    head = "| dial | " + " | ".join(f"{position:g}" for position in positions) + " |"
    row = "| raw | " + " | ".join(f"{dial.raw_of(position):.3f}" for position in positions) + " |"
    knots = ", ".join(f"{r:g} at timestep {t:g}" for t, r in zip(dial.timesteps, dial.realism, strict=True))
    lines = [MARKS[0], head, "|---" * (len(positions) + 1) + "|", row, ""]
    lines += [f"`auto`: raw realism {knots}, linear between and constant beyond.", "", made, ""]
    return "\n".join([*lines, as_markdown(report), MARKS[1]])


def store(model: str, method: str, config: dict[str, Any], block: str) -> list[Path]:
    """Write the tables into the model's configuration and, where it has the marks, its card; returns the files."""
    folder = find_model(model)
    adapter = choose_adapter(folder, method)
    path = folder / "model_index.json" if adapter is None else adapter / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["calibration"] = config
    write_text(path, json.dumps(values, indent=2, sort_keys=True) + "\n")
    card, written = folder / "README.md", [path]
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if MARKS[0] in text and MARKS[1] in text:
        pattern = re.compile(f"{re.escape(MARKS[0])}.*?{re.escape(MARKS[1])}", re.S)
        write_text(card, pattern.sub(lambda _: block, text))
        written.append(card)
    return written


def calibrate(args: argparse.Namespace) -> dict[str, Any]:
    """Make the tables with one half of the photographs and report on the other; store them if asked to."""
    run, pairs = Run(args), load_pairs(args.photographs, args.count)
    fitting, testing = pairs[::2], pairs[1::2]
    curves = run.curves(fitting, fine_grid(), "one half")
    timesteps, realism = severity_table(curves)
    dial = Calibration(dial_table(curves), timesteps, realism)
    report = run.report(testing, dial, best_fixed(curves))
    steering = json.loads(json.dumps(run.pipe.steering_settings))
    auto = {"timesteps": list(timesteps), "realism": list(realism)}
    config = {"steering": steering, "table": list(dial.table), "auto": auto}
    made = (
        f"Made by `python scripts/calibrate_dial.py {Path(args.model).name} --photographs PHOTOGRAPHS --squeezenet "
        f"FILE --count {args.count} --write`; the figures are of the half of the photographs that the tables were not "
        "made with."
    )
    if args.write:
        for path in store(args.model, args.method, config, card_block(dial, report, made)):
            Console(stderr=True).print(f"wrote {path}")
    return {"calibration": config, "report": report}


def check(args: argparse.Namespace) -> dict[str, Any]:
    """Report on pairs of files what the model's tables do for them."""
    run, found = Run(args), pair_by_stem(args.lq, args.hq)
    pairs = [
        (read_picture(pair.restored).colour[None], read_picture(pair.reference).colour[None])
        for pair in found.values()
        if pair.reference
    ]
    dial = run.pipe.calibration
    if not dial.timesteps:
        raise ValueError(f"The model {args.model} has no tables for its steering; give --photographs to make them.")
    return {"report": run.report(pairs[: args.count] if args.count else pairs, dial, None, steps=False)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name or folder of a model")
    parser.add_argument("--method", default="idas", help="adapter (default: %(default)s)")
    parser.add_argument("--photographs", type=Path, help="training data, of which the held-out split is used")
    parser.add_argument("--squeezenet", type=Path, required=True, help="SqueezeNet 1.0 weights, for sqdist")
    parser.add_argument("--lq", type=Path, help="folder of inputs to report on")
    parser.add_argument("--hq", type=Path, help="folder of their references")
    parser.add_argument("--count", type=int, default=None, help="photographs (default: 60) or pairs (all)")
    parser.add_argument("--jobs", type=int, default=1, help="pictures at a time, each one thread (default: 1)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true", help="store the tables in the model's folder")
    parser.add_argument("--json", type=Path, help="write everything that was measured")
    args = parser.parse_args()
    torch.set_num_threads(1 if args.jobs > 1 else torch.get_num_threads())
    try:
        if (args.photographs is None) == (args.lq is None) or (args.lq is None) != (args.hq is None):
            raise ValueError("Give --photographs to calibrate, or --lq and --hq to report on pairs.")
        if args.photographs is not None:
            args.count = args.count or 60
        result = check(args) if args.photographs is None else calibrate(args)
    except (ValueError, OSError) as error:
        print(f"calibrate_dial: error: {error}", file=sys.stderr)
        return 2
    if args.json is not None:
        write_text(args.json, json.dumps(result, indent=1) + "\n")
    print(as_markdown(result["report"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
