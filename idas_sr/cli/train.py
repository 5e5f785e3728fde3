"""``idas-sr train``: one stage, or all stages of the compact model."""

from __future__ import annotations

import argparse
import logging
import sys

from idas_sr.training import run as training
from idas_sr.training.errors import Stopped, TrainingError

SIGTERM_STATUS = 128 + 15
"""As a shell reports it, so that what waits for the result does not start."""

EXAMPLES = """examples:
  %(prog)s configs/train/compact/0-autoencoder.yaml data.root=PHOTOGRAPHS     one stage
  %(prog)s data.root=PHOTOGRAPHS                                              all stages of compact, in order
  accelerate launch scripts/train.py data.root=PHOTOGRAPHS                    the same on several GPUs

The same command again resumes. Every key, with its default: configs/base.yaml.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``train``."""
    parser.description = "Train one stage, or all stages of the compact model."
    parser.epilog = EXAMPLES
    parser.add_argument(
        "words", nargs="*", metavar="CONFIG|key=value", help="stages and data sets to use, and settings that differ"
    )


def run(args: argparse.Namespace) -> int:
    """Train; 0 when finished, 143 when SIGTERM stopped it after it saved its state."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("idas_sr").setLevel(logging.INFO)
    try:
        training.main(args.words)
    except Stopped as stopped:
        print(f"idas-sr train: {stopped}", file=sys.stderr)
        return SIGTERM_STATUS
    except (TrainingError, OSError, ValueError) as error:
        # An error in a data worker arrives with the worker's whole traceback; its last line is the sentence.
        print(f"idas-sr train: error: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        return 1
    return 0
