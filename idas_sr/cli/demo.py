"""``idas-sr demo``: the web app on this machine."""

from __future__ import annotations

import argparse
import threading

from idas_sr.batch import Settings
from idas_sr.build import has_dial
from idas_sr.cli.arguments import add_infer_arguments, count_value
from idas_sr.cli.infer import prepare
from idas_sr.cli.machine import PRECISIONS, choose_device
from idas_sr.demo.serve import MAX_BYTES, MAX_PIXELS, serving
from idas_sr.pipeline import IDaSSRPipeline

EXAMPLES = """examples:
  %(prog)s                                  the compact model, reached from this machine only
  %(prog)s --port 8080 --device cuda        on another port, on the GPU
  %(prog)s --host 0.0.0.0 --max-pixels 250000
                                            for others too, with smaller pictures: there is no password

Nothing that is uploaded is kept: it goes an hour later, and when the program ends (Ctrl-C).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``demo``."""
    parser.description = "Restore pictures in a browser. Needs the extra `demo`."
    parser.epilog = EXAMPLES
    page = parser.add_argument_group("page")
    page.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    page.add_argument("--port", type=count_value, help="default: the first free one from 7860")
    page.add_argument(
        "--max-pixels", type=count_value, default=MAX_PIXELS, metavar="N", help="of a picture (default: %(default)s)"
    )
    page.add_argument(
        "--max-bytes",
        type=count_value,
        default=MAX_BYTES,
        metavar="N",
        help="of a file, also of what the brush sends, about 1 MB (default: %(default)s)",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="compact", metavar="NAME|FOLDER|HUB_ID", help="default: %(default)s")
    model.add_argument("--method", default="idas", metavar="NAME", help="default: %(default)s")
    model.add_argument("--sd-path", metavar="FOLDER|HUB_ID", help="SD-Turbo's weights, for models that stand on them")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    machine.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C; 0 then.

    Raises:
        ValueError: no such model, or gradio is missing.
        OSError: the port is taken.
    """
    pipeline, settings = load(args)
    with serving(pipeline, settings, args.host, args.port, args.max_pixels, args.max_bytes) as address:
        print(f"The page is at {address} (Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("Ended; uploads and results are deleted.")
    return 0


def load(args: argparse.Namespace) -> tuple[IDaSSRPipeline, Settings]:
    """The pipeline, and what its files say about how they were made: the same as ``infer`` with these options.

    Raises:
        ValueError: as ``infer``; or a method without a dial.
    """
    parser = argparse.ArgumentParser()
    add_infer_arguments(parser)
    given = {
        name: value
        for name, value in vars(args).items()
        if name in ("model", "method", "sd_path", "device", "precision")
    }
    make, settings = prepare(parser.parse_args([], argparse.Namespace(**given)), choose_device(args.device))
    if not has_dial(args.method):
        raise ValueError(
            f"The page is about the dial, which the method {args.method} does not have; use idas-sr infer."
        )
    return make(), settings
