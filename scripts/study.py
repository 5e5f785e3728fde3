#!/usr/bin/env python3
"""The study of realism control (docs/study.md): dial, ways to steer, position-state gap, other methods, in one command.

    python scripts/study.py -i LQ -r HQ --photographs PHOTOGRAPHS --squeezenet squeezenet_v10.pth -o out/study
    python scripts/study.py ... --page docs/study.md          # and put tables and plots into the page

Pairs have the same stem. Writes OUT/study.json (everything that was measured), tables.md and plots. The same command
again goes on where it was interrupted. Times need a quiet machine and are not taken here: scripts/study_methods.py
without --jobs prints them.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from idas_sr.atomic import replacing
from idas_sr.cli import ended
from idas_sr.data.degradation import Degradation
from idas_sr.data.sources import list_photographs
from idas_sr.evaluation import plots, study_plots, study_tables
from idas_sr.evaluation.files import between_marks, file_sha256, versions, write_json, write_text
from idas_sr.evaluation.gap import measure_gaps, summarise_gaps
from idas_sr.evaluation.heldout import held_out_pair, load_picture
from idas_sr.evaluation.score import pair_by_stem
from idas_sr.evaluation.study_tables import HELD_OUT, OWN
from idas_sr.evaluation.sweep import Plan, Variant, study_file, variants_of
from idas_sr.evaluation.sweep_summary import summarise
from idas_sr.losses import FeatureDistance
from idas_sr.networks.library import find_model, fingerprint
from idas_sr.pipeline import SEED, IDaSSRPipeline
from idas_sr.steering import RESCHEDULES

STEERED = (OWN, "n2", "n3", "n4", "label-only", "noise-only")
TENTHS = tuple(i / 10 for i in range(11))
RAW, TURNED = "raw dial", "calibrated dial"
BLOCKS = ("made", "checked", "curve", "methods", "steerings", "diversity", "gap")
"""Parts of the page that are made here, between marks of these names."""

Files = Sequence[tuple[Path, Path]]
PairMaker = Callable[[], tuple[Tensor, Tensor]]


class Study:
    """A model, the yardstick, and where what is measured lies."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.folder, self.output, self.jobs = find_model(args.model), args.output, args.jobs
        self.pipe = IDaSSRPipeline.from_pretrained(self.folder)
        self.distance, self.weights = FeatureDistance.yardstick(args.squeezenet), file_sha256(args.squeezenet)
        self.fingerprint = fingerprint(self.folder)
        self.own = json.loads(json.dumps(self.pipe.steering_settings))

    def sweep(
        self, name: str, variants: Sequence[Variant], realism: Sequence[float], seeds: tuple[int, ...], files: Files
    ) -> dict[str, Any]:
        """Summary of pairs under ``variants``; several pictures at a time, one thread each."""
        plan = Plan(self.fingerprint, tuple(realism), seeds, self.weights)
        with pictures_at_a_time(self.jobs, len(files) * len(variants), name) as (pool, tick):
            one = partial(study_file, self.pipe.restorer, variants, plan, output=self.output / name)
            work = [pool.submit(one, pair, distance=self.distance, on_variant=tick) for pair in files]
            records = [future.result() for future in work]
        return summarise(records, plan.realism)

    def turned(self, files: Files) -> dict[str, Any] | None:
        """As `sweep` for the dial that people turn; None where the model has no table for it."""
        dial = self.pipe.calibration
        if len(dial.table) == 2:
            return None
        variants = variants_of(self.own, [OWN], [])
        found = self.sweep("calibrated", variants, [dial.raw_of(position) for position in TENTHS], (SEED,), files)
        return found | {"realism": list(TENTHS)}

    def variants(self) -> list[Variant]:
        """The ways to steer with the model's own reschedule, then its own way with every other reschedule."""
        rule = self.own["args"].get("reschedule", "s2")
        others = [name for name in RESCHEDULES if name != rule]
        return [*variants_of(self.own, STEERED, []), *variants_of(self.own, [OWN], others)]

    def gaps(self, name: str, pairs: Sequence[PairMaker], told: Sequence[str]) -> dict[str, Any]:
        """Position-state gaps of a set of pairs; ``told`` names them, for what was measured before."""
        variants = variants_of(self.own, STEERED, [])
        key = [self.fingerprint, [asdict(variant) for variant in variants], TENTHS, list(told)]
        identity = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        kept = self.output / "gaps" / f"{name}.json"
        done = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        if done.get("key") != identity:
            steerings = {variant.label: variant.build() for variant in variants}
            with tqdm(total=len(pairs), desc=f"gap, {name}", disable=None) as bar:
                rows = measure_gaps(self.pipe.restorer, steerings, TENTHS, pairs, self.jobs, bar.update)
            done = {"key": identity, "summary": summarise_gaps(rows, TENTHS)}
            write_json(kept, done)
        return done["summary"]


@contextmanager
def pictures_at_a_time(jobs: int, total: int, name: str) -> Iterator[tuple[ThreadPoolExecutor, Callable[[str], None]]]:
    """A pool, and what moves its bar; after an error nothing new is begun."""
    with tqdm(total=total, desc=name, disable=None) as bar, ThreadPoolExecutor(jobs) as pool:

        def tick(_: str) -> None:
            bar.update()

        try:
            yield pool, tick
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def methods_of(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Rows and table of scripts/study_methods.py, which keeps what is done.

    Raises:
        ValueError: it failed.
    """
    folder = args.methods or args.output / "methods"
    command = [sys.executable, str(Path(__file__).with_name("study_methods.py"))]
    command += ["-i", str(args.input), "-r", str(args.reference), "-o", str(folder), "--model", args.model]
    command += ["--squeezenet", str(args.squeezenet), "--jobs", str(args.jobs), "--threads", "1", "--no-times"]
    command += [word for text in args.also for word in ("--also", text)]
    count = args.methods_pictures or args.limit
    done = subprocess.run([*command, *(["--count", str(count)] if count else [])], stdout=subprocess.PIPE)
    if done.returncode:
        raise ValueError(f"The table of methods was not made, see above; what is done stays in {folder}.")
    rows = json.loads((folder / "methods.json").read_text(encoding="utf-8"))["rows"]
    return {name: row["mean"] for name, row in rows.items()}, done.stdout.decode()


def gaps_of_sets(study: Study, files: Files, args: argparse.Namespace) -> dict[str, Any]:
    """Set of pictures -> summary of its gaps."""

    def read(pair: tuple[Path, Path]) -> tuple[Tensor, Tensor]:
        return load_picture(pair[0]), load_picture(pair[1])

    hashes = [file_sha256(path) for pair in files for path in pair]
    sets = {"pairs": study.gaps("pairs", [partial(read, pair) for pair in files], hashes)}
    if args.photographs is not None:
        paths = list_photographs(args.photographs, "validation")[: args.count]
        degradation = Degradation("realesrgan")
        pairs = [partial(held_out_pair, path, index, degradation) for index, path in enumerate(paths)]
        sets[HELD_OUT] = study.gaps("held-out", pairs, [f"{path.name} {path.stat().st_size}" for path in paths])
    return sets


def tables(found: Mapping[str, Any], methods: str, named: Mapping[str, str]) -> dict[str, str]:
    """Name of a block -> its Markdown, without the plots."""
    dials = {name: found[name] for name in (RAW, TURNED) if found.get(name)}
    curves = [f"{name}, {of['images']} pictures, one seed:\n\n{study_tables.curve(of)}" for name, of in dials.items()]
    held_out, variants = found["gaps"].get(HELD_OUT), found["variants"]
    at = [
        f"At realism {variants['realism'][place]:g}, {variants['images']} pictures, two seeds:\n\n"
        f"{study_tables.steerings(variants, named, place)}"
        for place in (len(variants["realism"]) // 2, -1)
    ]
    counts = ", ".join(f"{of['images']} {name}" for name, of in found["gaps"].items())
    return {
        "made": found["made"],
        "checked": study_tables.checked(dials, held_out),
        "curve": "\n\n".join(curves),
        "methods": f"{found['methods_pictures']} pictures:\n\n{methods.strip()}",
        "steerings": "\n\n".join(at),
        "diversity": f"{variants['images']} pictures:\n\n{study_tables.diversity(variants)}",
        "gap": f"{counts}:\n\n{study_tables.gaps(found['gaps'])}",
    }


def with_plots(blocks: Mapping[str, str], drawn: Sequence[plots.Drawn], folder: str) -> dict[str, str]:
    """Blocks, each with the plot that belongs to it."""
    places = {"study_tradeoff": "methods", "study_steerings": "steerings", "study_gap": "gap"}
    found = dict(blocks)
    for plot in drawn:
        place = places[plot.path.stem]
        found[place] += f"\n\n![{plot.title}]({folder}{plot.path.name})\n\n*{plot.caption}*"
    return found


def study(args: argparse.Namespace) -> None:
    plots.check()
    # A restoration per thread uses the cores already; more threads than cores get in each other's way.
    torch.set_num_threads(1)
    page = None if args.page is None else args.page.read_text(encoding="utf-8")
    for name in BLOCKS if page is not None else ():
        between_marks(page, marks(name), "")
    files = [(p.restored, p.reference) for p in pair_by_stem(args.input, args.reference).values()][: args.limit]
    run = Study(args)
    variants, few = run.variants(), files[: args.pictures]
    found: dict[str, Any] = {
        RAW: run.sweep("raw", variants_of(run.own, [OWN], []), TENTHS, (SEED,), files),
        TURNED: run.turned(files),
        "variants": run.sweep("variants", variants, args.realism, (SEED, SEED + 1), few),
        "gaps": gaps_of_sets(run, files, args),
    }
    found["methods"], table = methods_of(args)
    same = files[: args.methods_pictures]
    found["methods_pictures"] = len(same)
    found["settings"] = {"fingerprint": run.fingerprint, "steering": run.own, "model": args.model}
    found |= {"versions": versions(), "command": [Path(sys.argv[0]).name, *sys.argv[1:]]}
    told = "".join(f", {name} {value}" for name, value in run.own["args"].items())
    found["made"] = (
        f"Model `{Path(args.model).name}`, fingerprint `{run.fingerprint[:12]}`, steering `{run.own['name']}`{told}; "
        f"{len(files)} pairs, seed {SEED}."
    )
    write_json(args.output / "study.json", found)
    # Methods and dial in one plot have to be of the same pictures; nothing is restored again for that.
    curve = found[RAW] if same == files else run.sweep("raw", variants_of(run.own, [OWN], []), TENTHS, (SEED,), same)
    drawn = study_plots.draw(curve, found["variants"], found["gaps"], found["methods"], args.output)
    blocks = tables(found, table, {variant.label: variant.steering for variant in variants})
    text = "\n\n".join(f"## {name}\n\n{block}" for name, block in with_plots(blocks, drawn, "").items())
    write_text(args.output / "tables.md", text + "\n")
    if args.page is not None:
        publish(args.page, with_plots(blocks, drawn, "images/"), drawn)
    print(blocks["checked"])
    print(f"\n{args.output / 'tables.md'}")


def marks(name: str) -> tuple[str, str]:
    """What stands before and after a block of the page."""
    return f"<!-- study, {name}: begin -->", f"<!-- study, {name}: end -->"


def publish(page: Path, blocks: Mapping[str, str], drawn: Sequence[plots.Drawn]) -> None:
    """Put blocks between their marks, and the plots into images/ beside the page."""
    text = page.read_text(encoding="utf-8")
    for name, block in blocks.items():
        text = between_marks(text, marks(name), block)
    for plot in drawn:
        target = page.parent / "images" / plot.path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial_file:
            partial_file.write_bytes(plot.path.read_bytes())
    write_text(page, text)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input", type=Path, required=True, metavar="LQ", help="folder of low-quality pictures")
    parser.add_argument("-r", "--reference", type=Path, required=True, metavar="HQ", help="what they should become")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--squeezenet", type=Path, required=True, metavar="FILE", help="SqueezeNet 1.0 weights")
    parser.add_argument("--photographs", type=Path, help="training data, of which the held-out split gives the gap")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="of them (default: %(default)s)")
    parser.add_argument("--model", default="compact", metavar="NAME|FOLDER")
    parser.add_argument("--methods", type=Path, metavar="FOLDER", help="of study_methods.py (default: OUT/methods)")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=RUN_DIR", help="a training stage")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N pairs only")
    parser.add_argument("--methods-pictures", type=int, metavar="N", help="pairs for the other methods (default: all)")
    parser.add_argument(
        "--pictures", type=int, default=20, metavar="N", help="pairs for the other ways to steer (default: %(default)s)"
    )
    parser.add_argument(
        "--realism",
        type=float,
        nargs="+",
        default=[0, 0.25, 0.5, 0.75, 1],
        metavar="R",
        help="for the other ways to steer (default: 0 0.25 0.5 0.75 1)",
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="pictures at a time (default: %(default)s)"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="page whose marked parts are replaced")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    return ended("study", lambda: study(args), "the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())
