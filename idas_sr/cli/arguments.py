"""The arguments of ``idas-sr infer``, and the kinds of values that other commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from idas_sr.cli.machine import PRECISIONS
from idas_sr.cli.pictures import add_encoding_arguments, size_value
from idas_sr.color import COLOR_FIXES
from idas_sr.dial import AUTO, CALIBRATED, DIALS
from idas_sr.pipeline import MAX_UPSCALE, REALISM, SEED
from idas_sr.steering import STEERINGS

METHOD_OPTIONS = ("steps", "timesteps", "group")
"""Options of methods, each in some of them only."""

EXAMPLES = """examples:
  %(prog)s                                           restore the three pictures of examples/ into results/
  %(prog)s -i photo.jpg -o restored                  one picture, x4, into restored/photo.png
  %(prog)s -i photos -o restored --realism 0         a folder, as close to the input as the model can
  %(prog)s -i photos -o restored --realism 1 -s 2    more detail, at twice the size
  %(prog)s -i photos -o restored --resume            go on where a run was interrupted
"""


def realism_value(text: str) -> float | str:
    """A number in [0, 1], or ``auto``."""
    if text == AUTO:
        return text
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 (faithful) and 1 (most detail), not {text}")
    return value


def upscale_value(text: str) -> float:
    """A number in (0, MAX_UPSCALE]."""
    value = _number(text)
    if not 0 < value <= MAX_UPSCALE:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {MAX_UPSCALE:g}, not {text}")
    return value


def count_value(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text}")
    return int(text)


def tile_value(text: str) -> int | str:
    """``auto`` or a whole number from 0."""
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be auto, 0 for whole pictures, or a number of pixels, not {text}")
    return text if text == "auto" else int(text)


def color_fix_value(text: str) -> str:
    """Entry of COLOR_FIXES; ``nofix`` is what some call ``none``."""
    return "none" if text == "nofix" else text


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, not {text}")
    return value


def _add(group: Any, *names: str, aliases: Sequence[str] = (), **options: Any) -> None:
    """An option, and names that it has in other projects, which work but are not listed."""
    action = group.add_argument(*names, **options)
    if aliases:
        kept = {k: v for k, v in options.items() if k in ("type", "choices")}
        group.add_argument(*aliases, dest=action.dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **kept)


def add_infer_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``infer``."""
    parser.description = "Restore a picture or a folder of pictures. Every output is STEM.png in the output folder."
    parser.epilog, parser.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter

    files = parser.add_argument_group("files")
    _add(
        files,
        "-i",
        "--input",
        aliases=("--in_path", "--input_image"),
        type=Path,
        metavar="PATH",
        help="picture or folder (default: the examples of the repository)",
    )
    _add(
        files,
        "-o",
        "--output",
        aliases=("--out_path", "--output_dir"),
        type=Path,
        metavar="FOLDER",
        help="folder of the results; existing results are overwritten (default: results)",
    )
    _add(
        files,
        "--recursive",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="also the folders in the input folder",
    )
    _add(
        files,
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="skip results that were made from the same input with the same settings",
    )
    _add(
        files,
        "--map",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="also write STEM.map.png: where, and how much of, the detail is invented (costs 9 more restorations)",
    )
    add_encoding_arguments(files)
    _add(files, "--summary", type=Path, metavar="PATH", help="write what was done as JSON")

    result = parser.add_argument_group("result")
    realism = result.add_mutually_exclusive_group()
    _add(
        realism,
        "--realism",
        type=realism_value,
        default=None,
        metavar="R|auto",
        help="0 stays closest to the input, 1 gives most detail; auto: by the severity of each picture "
        f"(default: {REALISM}; for methods with a dial)",
    )
    _add(
        realism,
        "--realism-map",
        type=Path,
        metavar="PATH",
        help="grey picture that says how much where (white: 1), or a folder with one per picture, of the same names",
    )
    _add(
        result,
        "--dial",
        choices=DIALS,
        default=CALIBRATED,
        help="unit of realism; calibrated: equal moves change equally much, where the model has a table for it; raw: "
        "as the formulas have it (default: %(default)s)",
    )
    size = result.add_mutually_exclusive_group()
    _add(
        size,
        "-s",
        "--upscale",
        aliases=("--scale",),
        type=upscale_value,
        default=4.0,
        metavar="S",
        help="size of the result over that of the input; the network works at 4 (default: 4)",
    )
    _add(
        size,
        "--target-size",
        type=size_value,
        metavar="SIZE",
        help="of the result in pixels: 1920x1080, 1920x, x1080, long:1920 or short:1080",
    )
    _add(
        result,
        "--seed",
        type=int,
        default=SEED,
        help="of the fresh noise; without effect at realism 0 (default: %(default)s)",
    )
    _add(
        result,
        "--color-fix",
        aliases=("--color_fix", "--align_method"),
        type=color_fix_value,
        choices=tuple(COLOR_FIXES),
        default="none",
        help="take colours from the input (default: %(default)s)",
    )
    _add(
        result,
        "--consistent",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="the nearest picture that is the input again when it is reduced to the input's size",
    )

    model = parser.add_argument_group("model")
    _add(
        model,
        "--model",
        default="compact",
        metavar="NAME|FOLDER|HUB_ID",
        help="saved pipeline, or sd-turbo (default: %(default)s)",
    )
    _add(model, "--method", default="idas", metavar="NAME", help="adapter on its backbone (default: %(default)s)")
    _add(
        model,
        "--adapter",
        type=Path,
        metavar="FILE",
        help="personal adapter trained on that model and method (docs/personal.md)",
    )
    _add(
        model,
        "--steps",
        aliases=("--num_steps",),
        type=count_value,
        metavar="N",
        help="UNet evaluations of invsr (1-5)",
    )
    _add(model, "--timesteps", type=count_value, nargs="+", metavar="T", help="of invsr's steps, 1 to 1000, descending")
    _add(model, "--group", choices=("fid", "neu", "real", "auto"), help="of rcod: fidelity, neutral, realism")
    _add(
        model,
        "--sd-path",
        aliases=("--sd_path",),
        metavar="FOLDER|HUB_ID",
        help="SD-Turbo's weights, for models that stand on them",
    )
    _add(
        model,
        "--conditioner",
        type=str,
        nargs="+",
        metavar=("NAME", "KEY=VALUE"),
        help="what the UNet is told: prompt, or hdclip with model=FOLDER (default: the method's own)",
    )
    _add(
        model,
        "--guider",
        type=str,
        nargs="+",
        metavar=("NAME", "KEY=VALUE"),
        help="how predictions are combined: positive, cfg or cfpg, such as cfpg form=b (default: the method's)",
    )
    _add(
        model,
        "--steering",
        choices=tuple(STEERINGS),
        default=None,
        help="how the dial steers (default: the model's own)",
    )
    _add(
        model,
        "--kappa",
        type=_number,
        default=None,
        metavar="K",
        help="noise level at realism 1 over that at 0 (default: the model's own)",
    )
    _add(
        model,
        "--random-weights",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="build --model compact or sd-turbo untrained, to try shape, memory and speed",
    )

    machine = parser.add_argument_group("machine")
    _add(
        machine,
        "--device",
        choices=("auto", "cuda", "mps", "cpu"),
        default="auto",
        help="default: cuda where there is one, else cpu",
    )
    _add(
        machine,
        "--precision",
        aliases=("--mixed_precision",),
        choices=("auto", *PRECISIONS),
        default="auto",
        help="of the networks; auto: fp32, and half of it for sd-turbo (default: %(default)s)",
    )
    _add(
        machine,
        "--processes",
        type=count_value,
        default=None,
        metavar="N",
        help="share a folder among N processes of this machine, or of the cluster (default: as launched, or 1)",
    )
    _add(
        machine,
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: the machines of a Ray cluster, RAY_ADDRESS or this one alone (default: %(default)s)",
    )
    _add(
        machine,
        "--batch-size",
        aliases=("--batch_size",),
        type=count_value,
        default=None,
        metavar="N",
        help="pictures of equal size at once (default: on a GPU as many small ones as fill it, on the CPU one)",
    )
    _add(
        machine,
        "--compile",
        action="store_true",
        help="compile the networks first (torch.compile): minutes once, then faster for pictures of the same size",
    )
    _add(
        machine,
        "--tile",
        aliases=("--tile_size",),
        type=tile_value,
        default="auto",
        metavar="auto|0|N",
        help="work by tiles of at most N pixels of the x4 result; 0: whole pictures; auto: by free memory "
        "(default: %(default)s)",
    )
