#!/usr/bin/env python3
"""Train one stage, or all stages of the compact model.

    accelerate launch scripts/train.py configs/train/compact/0-autoencoder.yaml data.root=PHOTOGRAPHS
    accelerate launch scripts/train.py data.root=PHOTOGRAPHS            # all stages, in order
The same command again resumes.
"""

import logging
import sys

import idas_sr  # noqa: F401  (first: it makes torchvision importable)
from idas_sr.config import ConfigError
from idas_sr.training.errors import Stopped, TrainingError
from idas_sr.training.run import main

SIGTERM_STATUS = 128 + 15
"""As a shell reports it, so that what waits for the result does not start."""

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("idas_sr").setLevel(logging.INFO)
    try:
        main(sys.argv[1:])
    except Stopped as stopped:
        print(f"train: {stopped}", file=sys.stderr)
        sys.exit(SIGTERM_STATUS)
    except (ConfigError, TrainingError, FileNotFoundError, ValueError) as error:
        # An error in a data worker arrives with the worker's whole traceback; its last line is the sentence.
        sys.exit(f"train: {str(error).strip().splitlines()[-1]}")
