#!/usr/bin/env python3
"""Train one stage, or all stages of the compact model.

    accelerate launch scripts/train.py configs/train/compact/0-autoencoder.yaml data.root=PHOTOGRAPHS
    accelerate launch scripts/train.py data.root=PHOTOGRAPHS            # all stages, in order
The same command again resumes.
"""

import sys

import idas_sr  # noqa: F401  (first: it makes torchvision importable)
from idas_sr.config import ConfigError
from idas_sr.training.loop import TrainingError
from idas_sr.training.run import main

if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ConfigError, TrainingError, FileNotFoundError, ValueError) as error:
        # An error in a data worker arrives with the worker's whole traceback; its last line is the sentence.
        sys.exit(f"train: {str(error).strip().splitlines()[-1]}")
