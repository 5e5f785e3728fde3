#!/usr/bin/env python3
"""One table of every method of a model on the same pictures: what its signature pays, and what it costs.

    python scripts/study_methods.py -i LQ -r HQ -o out/methods --squeezenet squeezenet_v10.pth
    python scripts/study_methods.py ... --also "osediff without VSD=runs/compact-methods/osediff-without-vsd"

A row per setting of every adapter of the model (InvSR's steps, RCOD's groups, S3Diff's cores, a dial's places, HD-CLIP
on two hosts), a row per further training stage (--also), and three restorations without a model. Milliseconds: median
over pictures, one at a time. Rows that are done already, with the same weights and pictures, are not done again.
"""

import argparse
import hashlib
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from diffusers.utils import logging as diffusers_logging
from omegaconf import OmegaConf
from safetensors import safe_open

from idas_sr.build import METHODS, has_dial
from idas_sr.data.benchmarks import pictures_in
from idas_sr.evaluation.files import file_sha256, versions, write_json
from idas_sr.evaluation.score import PROTOCOL, Scores, score_folder
from idas_sr.evaluation.trivial import TRIVIAL, write_trivial
from idas_sr.imagefiles.reading import read_picture
from idas_sr.images import to_pil
from idas_sr.methods.invsr import STEPS
from idas_sr.methods.rcod import NAMES
from idas_sr.networks.hd_clip import FOLDER as HDCLIP
from idas_sr.networks.library import find_model, fingerprint
from idas_sr.pipeline import IDaSSRPipeline

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "steps": [{"steps": count} for count in STEPS],
    "group": [{"group": name} for name in (*NAMES, "auto")],
    "guided": [{"guided": True}, {"guided": False}],
}
"""Option of a method -> the rows that show it."""
REALISM = (0.0, 0.5, 1.0)
HDCLIP_HOSTS: dict[str, dict[str, Any]] = {"idas": {"realism": 0.5}, "s3diff": {}}
"""Method -> how it is called where HD-CLIP tells it what is there and what was done to it."""
HDCLIP_GUIDERS: dict[str, dict[str, Any]] = {
    "CFG": {"name": "cfg", "args": {"scale": 1.1, "negative_scale": 0.1}},
    "CFPG a": {"name": "cfpg", "args": {"form": "a", "scale": 1.1, "negative_scale": 0.1}},
    "CFPG b": {"name": "cfpg", "args": {"form": "b", "scale": 1.1}},
}
COSTS = ("unet_evaluations", "milliseconds")
SHOWN = {"psnr_y": 2, "ssim_y": 4, "sqdist": 3, "niqe": 2}
"""Metric -> decimals."""
LABEL = "small budget"
"""Over the column of names: nothing here was trained for as long as its paper asks."""


@dataclass
class Row:
    """A setting of a method.

    Attributes:
        folders: whose weights the pictures depend on.
        trained: parameters that training added to or changed in the shared autoencoder and prior.
    """

    name: str
    make: Callable[[], IDaSSRPipeline]
    folders: Sequence[Path]
    call: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    slots: dict[str, Any] = field(default_factory=dict)
    trained: int | None = None


def rows_of(model: Path, also: Sequence[str]) -> Iterator[Row]:
    """The rows of a model's adapters, then those of ``also`` (NAME=RUN_DIR of a stage)."""
    shared, hosts = [model / name for name in ("vae", "unet", "prompt")], []
    for folder in sorted(path.parent for path in model.glob("adapters/*/config.json")):
        method = folder.name

        def load(method: str = method) -> IDaSSRPipeline:
            return IDaSSRPipeline.from_pretrained(model, method)

        plain = Row(method, load, [*shared, folder], trained=parameters_in([folder]))
        yield from settings_of(plain, method)
        if method in HDCLIP_HOSTS and (model / HDCLIP).is_dir():
            hosts.append(plain)
    for plain in hosts:
        call, clip = HDCLIP_HOSTS[plain.name], model / HDCLIP
        for name, guider in HDCLIP_GUIDERS.items():
            yield replace(
                plain,
                name=", ".join([plain.name, *_words(call), f"HD-CLIP, {name}"]),
                folders=[*plain.folders, clip],
                call=call,
                slots={"conditioner": {"name": "hdclip", "args": {"model": str(clip)}}, "guider": guider},
                trained=(plain.trained or 0) + parameters_in([clip]),
            )
    for text in also:
        name, _, place = text.partition("=")
        stage = Path(place) / "model"
        if not place or not stage.is_dir():
            raise ValueError(f"--also {text}: give NAME=RUN_DIR, a finished training stage.")

        def load_stage(stage: Path = stage) -> IDaSSRPipeline:
            return IDaSSRPipeline.from_pretrained(stage)

        yield Row(name, load_stage, [stage], trained=trained_by(stage))


def settings_of(row: Row, method: str) -> Iterator[Row]:
    """One row per place of the dial, or per value of the method's options that SETTINGS names; else ``row`` itself."""
    if has_dial(method):
        calls = [{"realism": realism} for realism in REALISM]
        yield from (replace(row, name=", ".join([row.name, *_words(call)]), call=call) for call in calls)
        return
    for options in [values for option in METHODS[method].choices for values in SETTINGS.get(option, [])] or [{}]:
        yield replace(row, name=", ".join([row.name, *_words(options)]), options=options)


def _words(values: dict[str, Any]) -> list[str]:
    if "guided" in values:
        return [] if values["guided"] else ["C = identity"]
    return [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]


def parameters_in(folders: Iterable[Path]) -> int:
    """Numbers in the safetensors files of folders."""
    total = 0
    for path in (path for folder in folders for path in folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            total += sum(torch.Size(file.get_slice(key).get_shape()).numel() for key in file.keys())  # noqa: SIM118
    return total


def trained_by(stage: Path) -> int:
    """Parameters of the parts that a stage of adapters trained; ``stage`` is its model/."""
    parts = [stage / name for name in ("unet_lora", "vae_encoder_lora", "estimator", "conditioner")]
    total = parameters_in(parts)
    if "conv_in" in OmegaConf.load(stage.parent / "config.yaml").method.args.get("train", []):
        with safe_open(stage / "unet" / SAFETENSORS_WEIGHTS_NAME, "pt") as file:
            total += sum(file.get_tensor(key).numel() for key in ("conv_in.weight", "conv_in.bias"))
    return total


def restore(row: Row, pictures: dict[str, Path], output: Path) -> dict[str, float]:
    """Write the pictures of a row; milliseconds and UNet evaluations per picture."""
    pipe = row.make()
    pipe.set_options(**row.options)
    pipe.set_slots(**row.slots)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = pipe.unet.register_forward_hook(count)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    seconds = []
    for stem, path in pictures.items():
        picture = read_picture(path).colour[None]
        begin = time.perf_counter()
        (result,) = pipe(picture, output_type="pt", return_dict=False, **row.call)
        seconds.append(time.perf_counter() - begin)
        to_pil(result[0]).save(output / f"{stem}.png")
    handle.remove()
    return {"milliseconds": statistics.median(seconds) * 1000, "unet_evaluations": calls / len(pictures)}


def identity(row: Row, pictures: dict[str, Path]) -> str:
    """Of everything that decides a row: another one, another row."""
    weights = [fingerprint(folder) for folder in row.folders]
    inputs = [file_sha256(path) for path in pictures.values()]
    told = (row.call, row.options, row.slots.get("guider"))
    return hashlib.sha256(repr((weights, told, inputs)).encode()).hexdigest()


def study(args: argparse.Namespace) -> None:
    pictures = dict(list(pictures_in(args.input).items())[: args.count])
    quiet(args.threads)
    references = args.output / f"references of {len(pictures)}"
    references.mkdir(parents=True, exist_ok=True)
    for stem, path in pictures_in(args.reference).items():
        if stem in pictures and not (references / path.name).exists():
            (references / path.name).symlink_to(path.resolve())
    names = [row.name for row in rows_of(find_model(args.model), args.also) if row.name.startswith(tuple(args.only))]
    make = partial(made, pictures=pictures, references=references, args=args)
    if args.jobs > 1:
        # The last rows take longest: begun first, no process waits for them alone. Processes, since loading is not
        # thread-safe; spawned, since torch's threads do not survive a fork.
        with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
            rows = dict(zip(reversed(names), pool.map(make, reversed(names)), strict=True))
            rows = {name: rows[name] for name in names}
    else:
        rows = {name: make(name) for name in names}
    if any(args.only):
        return
    write_trivial(pictures, {stem: index for index, stem in enumerate(pictures)}, args.output)
    scores = {name: score_folder(args.output / name, references, args.squeezenet) for name in TRIVIAL}
    rows = {name: as_row(score) for name, score in scores.items()} | rows
    write_json(args.output / "methods.json", as_json(rows, next(iter(scores.values())), args))
    print(markdown({name: {**row, **row["mean"]} for name, row in rows.items()}, not args.no_times))


def quiet(threads: int) -> None:
    """Threads of torch in this process; nothing of diffusers on the terminal."""
    torch.set_num_threads(threads)
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()


def made(name: str, pictures: dict[str, Path], references: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A row of the file of results, restored and measured unless its record says that it has been already."""
    quiet(args.threads)
    row = next(row for row in rows_of(find_model(args.model), args.also) if row.name == name)
    said, done = {"identity": identity(row, pictures), "squeezenet": args.squeezenet is not None}, {}
    record = args.output / f"{row.name}.json"
    if record.is_file():
        done = json.loads(record.read_text(encoding="utf-8"))
    if {key: done.get(key) for key in said} != said:
        done = {**said, "trained": row.trained, **restore(row, pictures, args.output / row.name)}
        if args.jobs > 1:
            # Several rows at a time slow one another down: no measurement.
            del done["milliseconds"]
        done |= as_row(score_folder(args.output / row.name, references, args.squeezenet))
        write_json(record, done)
        values = ", ".join(f"{name} {done['mean'][name]:.3f}" for name in SHOWN if done["mean"].get(name) is not None)
        print(f"{row.name}: {values}", file=sys.stderr)
    return {key: done[key] for key in ("trained", *COSTS, "mean", "images", "data") if key in done}


def as_row(scores: Scores) -> dict[str, Any]:
    """What was measured of one folder, as a row of a file of results."""
    return {"mean": scores.mean, "images": scores.images, "data": scores.data}


def as_json(rows: dict[str, dict[str, Any]], scores: Scores, args: argparse.Namespace) -> dict[str, Any]:
    """The study as a file of results that fits idas_sr/evaluation/result.schema.json; ``scores`` of any of the rows."""
    settings = {name: value if value is None else str(value) for name, value in vars(args).items() if name != "also"}
    return {
        "protocol": PROTOCOL,
        "rows": rows,
        "notes": scores.notes,
        "settings": {**settings, "also": args.also, "fingerprint": fingerprint(find_model(args.model))},
        "versions": versions(),
        "weights": scores.weights,
        "command": sys.argv,
    }


def markdown(table: dict[str, dict[str, Any]], times: bool = True) -> str:
    """The table, as text."""
    shown = [name for name in SHOWN if any(values.get(name) is not None for values in table.values())]
    head = [LABEL, *shown, "trained parameters", "UNet evaluations", *(["ms"] if times else [])]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, values in table.items():
        cells = [name, *("" if values.get(key) is None else f"{values[key]:.{SHOWN[key]}f}" for key in shown)]
        cells.append("" if values.get("trained") is None else f"{values['trained'] / 1e6:.2f} M")
        costs = COSTS if times else COSTS[:1]
        cells += ["" if values.get(key) is None else f"{values[key]:.0f}" for key in costs]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input", type=Path, required=True, metavar="LQ", help="folder of low-quality pictures")
    parser.add_argument("-r", "--reference", type=Path, required=True, metavar="HQ", help="what they should become")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--model", default="compact", metavar="NAME|FOLDER")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=RUN_DIR", help="a training stage")
    parser.add_argument("--squeezenet", type=Path, metavar="FILE", help="SqueezeNet 1.0 weights, for sqdist")
    parser.add_argument("--count", type=int, default=None, metavar="N", help="the first N pictures only")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="of the restoration (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="rows at a time; above 1 without milliseconds")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        metavar="NAME",
        help="make rows that begin so and print no table: several runs may share the folder",
    )
    parser.add_argument("--no-times", action="store_true", help="leave the milliseconds out of the printed table")
    args = parser.parse_args(arguments)
    try:
        study(args)
    except (ValueError, OSError) as error:
        print(f"study_methods: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
