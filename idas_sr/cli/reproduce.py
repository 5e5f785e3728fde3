"""``idas-sr reproduce``: make an output again from the recipe that it holds, and compare."""

from __future__ import annotations

import argparse
import functools
import json
import warnings
from pathlib import Path
from typing import Any

from idas_sr.cli.arguments import add_infer_arguments
from idas_sr.cli.infer import SLOTS, prepare
from idas_sr.cli.machine import choose_device
from idas_sr.imagefiles.sizes import TargetSize
from idas_sr.networks.library import MODELS, fingerprint
from idas_sr.reproduction import Recipe, Reproduction, reproduce

EXAMPLES = """examples:
  %(prog)s restored/photo.png photo.jpg                       with a model of this package
  %(prog)s restored/photo.png photo.jpg --model my-model      with another one
  %(prog)s restored/photo.png photo.jpg --realism-map where.png

The exit code is 0 where all pixels are the same, 1 where some are not, 2 where it cannot be tried.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``reproduce``."""
    parser.description = (
        "Restore an input as the recipe in an output says, compare the pixels, and say what was not as it was then. "
        "Neither file is changed."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="picture that idas-sr has written")
    parser.add_argument("input", type=Path, metavar="INPUT", help="picture that it was made from")
    parser.add_argument(
        "--model",
        metavar="NAME|FOLDER|HUB_ID",
        help="the recipe knows its hash only (default: the model of this package with that hash, or compact)",
    )
    parser.add_argument("--sd-path", metavar="FOLDER|HUB_ID", help="SD-Turbo's weights, for models that stand on them")
    parser.add_argument("--adapter", type=Path, metavar="FILE", help="that the output was made with, if it was")
    parser.add_argument("--realism-map", type=Path, metavar="PATH", help="that the output was made with, if it was")
    for slot in SLOTS:
        parser.add_argument(
            f"--{slot}", nargs="+", metavar=("NAME", "KEY=VALUE"), help="where the recipe's own needs a folder"
        )
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")


def run(args: argparse.Namespace) -> int:
    """Reproduce; 0 where the pixels are the same, else 1.

    Raises:
        ValueError: there is no recipe, or what it asks for is not here.
        OSError: a file cannot be read.
    """
    recipe = Recipe.of_file(args.output)
    if not args.input.is_file():
        raise ValueError(f"There is no file {args.input}.")
    device = choose_device(args.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load, settings = prepare(infer_arguments(recipe, args), device)
        result = reproduce(args.output, args.input, settings, functools.cache(load), recipe)
    print(as_text(result, args.output))
    return 0 if result.comparison.is_identical else 1


def infer_arguments(recipe: Recipe, given: argparse.Namespace) -> argparse.Namespace:
    """The command line of ``infer`` that a recipe stands for.

    Args:
        recipe: of an output.
        given: what it cannot know: model, sd_path, adapter, realism_map, conditioner, guider, device.

    Raises:
        ValueError: something that it asks for has to be given and was not.
    """
    parser = argparse.ArgumentParser()
    add_infer_arguments(parser)
    args = parser.parse_args([])
    then = recipe.settings
    _check_maps(then, given.realism_map)
    for name, value in {**then, **then.get("extra", {})}.items():
        if hasattr(args, name) and name not in ("model", "input", "realism_map", *SLOTS):
            setattr(args, name, value)
    args.device, args.sd_path, args.realism_map = given.device, given.sd_path, given.realism_map
    args.adapter = given.adapter
    for slot in SLOTS:
        setattr(args, slot, getattr(given, slot) or _words(slot, then.get("extra", {}).get(slot)))
    encoding = then.get("encoding") or {}
    args.format, args.quality = encoding.get("format", "png"), encoding.get("quality")
    args.bit_depth, args.suffix = encoding.get("bits", 8), encoding.get("suffix", "")
    args.metadata = encoding.get("metadata", True)
    args.target_size = TargetSize(**then["size"]) if then.get("size") else None
    args.random_weights = str(then["model"]).startswith("random ") and given.model is None
    args.model = given.model or _model_of(str(then["model"]))
    return args


def _check_maps(then: dict[str, Any], realism_map: Path | None) -> None:
    if "mask" in then.get("extra", {}):
        raise ValueError("The output was made in the web app with a painted region, which no file holds any more.")
    if then.get("realism_map") and realism_map is None:
        raise ValueError("The output was made with a realism map; give it with --realism-map.")
    if realism_map is not None and not then.get("realism_map"):
        raise ValueError("The output was made without a realism map; leave --realism-map out.")
    if realism_map is not None and not realism_map.exists():
        raise ValueError(f"The realism map {realism_map} does not exist.")


def _model_of(weights: str) -> str:
    """The model of this package with these weights, a random one's backbone, or the usual model."""
    if weights.startswith("random "):
        return weights.removeprefix("random ")
    folders = sorted(path for path in MODELS.iterdir() if path.is_dir()) if MODELS.is_dir() else []
    return next((path.name for path in folders if fingerprint(path) == weights), "compact")


def _words(slot: str, then: dict[str, Any] | None) -> list[str] | None:
    """A slot as ``infer`` takes it: its name, and KEY=VALUE."""
    if then is None:
        return None
    if any(isinstance(value, str) and len(value) == 64 for value in then["args"].values()):
        raise ValueError(f"The output was made with --{slot} {then['name']} and a folder; give both with --{slot}.")
    return [then["name"], *(f"{key}={json.dumps(value)}" for key, value in then["args"].items())]


def as_text(result: Reproduction, output: Path) -> str:
    """What came of it, for people."""
    found = result.comparison
    width, height = found.size
    if found.is_identical:
        lines = [f"identical: all {width}x{height} pixels of {output} came out the same"]
    elif found.differing is None:
        lines = [f"differs: {output} was made again with another size, depth or kind of pixels"]
    else:
        lines = [
            f"differs: {found.differing} of {width * height} pixels of {output} came out otherwise, by at most "
            f"{found.largest} levels"
        ]
    return "\n".join([*lines, *(f"  {line}" for line in result.differences)])
