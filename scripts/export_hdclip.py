#!/usr/bin/env python3
"""Put the HD-CLIP that a training made beside a model, rounded to fp16: the conditioner hdclip then finds it there.

python scripts/export_hdclip.py runs/compact/hdclip idas_sr/models/compact
"""

import argparse
import json
import sys
from pathlib import Path

from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file

import idas_sr
from idas_sr.networks.hd_clip import FOLDER, load_hd_clip


def export(run: Path, model: Path) -> str:
    """Write ``model``/hdclip; return one line about it.

    Raises:
        ValueError: no HD-CLIP in ``run``, ``model`` is no folder, or a weight that fp16 cannot hold.
    """
    network = load_hd_clip(run)
    if not model.is_dir():
        raise ValueError(f"There is no model in {model}.")
    tensors = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    broken = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(f"{broken[0]} has values beyond the range of fp16.")
    folder = model / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / SAFETENSORS_WEIGHTS_NAME
    save_file(tensors, path.with_suffix(".partial"))
    path.with_suffix(".partial").rename(path)
    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return f"{folder}: {path.stat().st_size / 2**20:.2f} MiB of weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="run directory of configs/train/hdclip.yaml")
    parser.add_argument("model", type=Path, metavar="FOLDER", help="model to add to")
    args = parser.parse_args()
    try:
        print(export(args.run, args.model))
    except ValueError as error:
        sys.exit(f"export_hdclip {idas_sr.__version__}: {error}")


if __name__ == "__main__":
    main()
