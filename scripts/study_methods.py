#!/usr/bin/env python3
"""One table of every method of a model on the same pictures: what its signature pays, and what it costs.

    python scripts/study_methods.py -i LQ -r HQ -o out/methods --squeezenet squeezenet_v10.pth
    python scripts/study_methods.py ... --also osediff-without-vsd=runs/compact-methods/osediff-without-vsd/model

A row per setting of every adapter of the model (InvSR's steps, RCOD's groups, the ends of a dial), a row per further
training stage (--also), and three restorations without a model. Milliseconds: the median over pictures, one at a time.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from safetensors import safe_open

from idas_sr.build import METHODS, has_dial
from idas_sr.data.benchmarks import pictures_in
from idas_sr.evaluation.files import write_json
from idas_sr.evaluation.score import score_folder
from idas_sr.evaluation.trivial import TRIVIAL, write_trivial
from idas_sr.images import read_image, to_pil
from idas_sr.methods.invsr import STEPS
from idas_sr.methods.rcod import NAMES
from idas_sr.networks.library import find_model
from idas_sr.pipeline import IDaSSRPipeline

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "steps": [{"steps": count} for count in STEPS],
    "group": [{"group": name} for name in (*NAMES, "auto")],
}
"""Option of a method -> the rows that show it."""
COSTS = ("unet_evaluations", "milliseconds")
SHOWN = ("psnr_y", "ssim_y", "sqdist", "niqe")


@dataclass
class Row:
    """A setting of a method.

    Attributes:
        trained: parameters that training added to or changed in the shared autoencoder and prior.
    """

    name: str
    make: Callable[[], IDaSSRPipeline]
    call: dict[str, Any] = field(default_factory=dict)
    trained: int | None = None


def rows_of(model: Path, also: Sequence[str]) -> Iterator[Row]:
    """The rows of a model's adapters, then those of ``also`` (NAME=FOLDER of a stage)."""
    for folder in sorted(path.parent for path in model.glob("adapters/*/config.json")):
        method, trained = folder.name, parameters_in(folder)

        def load(method: str = method) -> IDaSSRPipeline:
            return IDaSSRPipeline.from_pretrained(model, method)

        if has_dial(method):
            for realism in (0.0, 0.5, 1.0):
                yield Row(f"{method}, realism {realism:g}", load, {"realism": realism}, trained)
            continue
        settings = [row for option in METHODS[method].choices for row in SETTINGS.get(option, [])]
        for options in settings or [{}]:
            label = ", ".join([method, *(f"{name} {value}" for name, value in options.items())])
            yield Row(label, lambda load=load, options=options: configured(load(), options), {}, trained)
    for text in also:
        name, _, folder = text.partition("=")
        if not folder:
            raise ValueError(f"--also {text}: give NAME=FOLDER, the folder of a training stage's model/.")
        yield Row(name, lambda folder=folder: IDaSSRPipeline.from_pretrained(folder))


def configured(pipe: IDaSSRPipeline, options: dict[str, Any]) -> IDaSSRPipeline:
    """``pipe`` with these options of its method."""
    pipe.set_options(**options)
    return pipe


def parameters_in(folder: Path) -> int:
    """Numbers in the safetensors files of a folder."""
    total = 0
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            total += sum(torch.Size(file.get_slice(key).get_shape()).numel() for key in file.keys())  # noqa: SIM118
    return total


def restore(row: Row, pictures: dict[str, Path], output: Path) -> dict[str, float]:
    """Write the pictures of a row; milliseconds and UNet evaluations per picture."""
    pipe = row.make()
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = pipe.unet.register_forward_hook(count)
    output.mkdir(parents=True, exist_ok=True)
    seconds = []
    for stem, path in pictures.items():
        picture = read_image(path)
        begin = time.perf_counter()
        result = pipe(picture, output_type="pt", **row.call).images[0]
        seconds.append(time.perf_counter() - begin)
        to_pil(result).save(output / f"{stem}.png")
    handle.remove()
    return {"milliseconds": statistics.median(seconds) * 1000, "unet_evaluations": calls / len(pictures)}


def study(args: argparse.Namespace) -> None:
    pictures = dict(list(pictures_in(args.input).items())[: args.count])
    torch.set_num_threads(args.threads)
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    write_trivial(pictures, {stem: index for index, stem in enumerate(pictures)}, args.output)
    table: dict[str, dict[str, Any]] = {name: {} for name in TRIVIAL}
    for row in rows_of(find_model(args.model), args.also):
        table[row.name] = {"trained": row.trained, **restore(row, pictures, args.output / row.name)}
    references = args.output / "references"
    references.mkdir(exist_ok=True)
    for stem, path in pictures_in(args.reference).items():
        if stem in pictures and not (references / path.name).exists():
            (references / path.name).symlink_to(path.resolve())
    for name, values in table.items():
        values |= score_folder(args.output / name, references, args.squeezenet).mean
    write_json(args.output / "methods.json", table)
    print(markdown(table))


def markdown(table: dict[str, dict[str, Any]]) -> str:
    """The table, as text."""
    shown = [name for name in SHOWN if any(values.get(name) is not None for values in table.values())]
    head = ["", *shown, "trained parameters", "UNet evaluations", "ms"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, values in table.items():
        cells = [name, *("" if values.get(key) is None else f"{values[key]:.3f}" for key in shown)]
        cells.append("" if values.get("trained") is None else f"{values['trained'] / 1e6:.2f} M")
        cells += [
            "" if values.get(key) is None else f"{values[key]:.0f}" for key in ("unet_evaluations", "milliseconds")
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input", type=Path, required=True, metavar="LQ", help="folder of low-quality pictures")
    parser.add_argument("-r", "--reference", type=Path, required=True, metavar="HQ", help="what they should become")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--model", default="compact", metavar="NAME|FOLDER")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=FOLDER", help="model/ of a training stage")
    parser.add_argument("--squeezenet", type=Path, metavar="FILE", help="SqueezeNet 1.0 weights, for sqdist")
    parser.add_argument("--count", type=int, default=None, metavar="N", help="the first N pictures only")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="of the restoration (default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        study(args)
    except (ValueError, OSError) as error:
        print(f"study_methods: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
