#!/usr/bin/env python3
"""Write what a training on SD-Turbo added, without SD-Turbo's own weights: MINE and the LoRA.

python scripts/export_adapter.py runs/sd-turbo/4-steering my-model
python scripts/infer.py -i photo.jpg -o restored --model my-model --sd-path SD_TURBO
"""

import argparse
import json
import sys
from pathlib import Path

from omegaconf import OmegaConf
from safetensors.torch import save_file

import idas_sr
from idas_sr.networks.lora import GENERATOR, adapters_of, save_lora
from idas_sr.networks.store import load_parts, lora_networks

MERGED = ("unet", "conv_in", "decoder")
"""Parts whose training changes SD-Turbo's own weights, which an adapter does not hold."""


def export(run: Path, output: Path) -> str:
    """Write ``output``/adapters/METHOD; return one line about it.

    Raises:
        FileNotFoundError: the stage is not finished.
        ValueError: it trained something that is not an adapter.
    """
    backbone, estimator = load_parts(run / "model", keep=("unet_lora", "vae_encoder_lora"))
    settings = OmegaConf.load(run / "config.yaml")
    changed = [name for name in settings.method.args.get("train", []) if name in MERGED]
    if estimator is None or changed:
        what = f"trained {', '.join(changed)}" if changed else "has no estimator"
        raise ValueError(f"{run} {what}: that is no adapter; give {run / 'model'} itself as the model.")
    folder = output / "adapters" / settings.method.name
    folder.mkdir(parents=True, exist_ok=True)
    for name, network in lora_networks(backbone).items():
        if GENERATOR in adapters_of(network):
            save_lora(network, GENERATOR, folder / name)
    tensors = {f"estimator.{key}": value.contiguous() for key, value in estimator.state_dict().items()}
    save_file(tensors, folder / "adapter.safetensors")
    config = {
        "method": settings.method.name,
        "steering": OmegaConf.to_container(settings.steering),
        "estimator": {key: value for key, value in estimator.config.items() if not key.startswith("_")},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    return f"{folder}: {size / 2**20:.1f} MiB of weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="run directory of the last stage")
    parser.add_argument("output", type=Path, metavar="FOLDER", help="model to write, for --model")
    args = parser.parse_args()
    try:
        print(export(args.run, args.output))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"export_adapter {idas_sr.__version__}: {error}")


if __name__ == "__main__":
    main()
