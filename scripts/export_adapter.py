#!/usr/bin/env python3
"""Write what a training added to the backbone that it started from, without that backbone's own weights.

python scripts/export_adapter.py runs/sd-turbo/4-steering my-model
python scripts/infer.py -i photo.jpg -o restored --model my-model --sd-path SD_TURBO

python scripts/export_adapter.py runs/compact-methods/invsr idas_sr/models/compact --half
python scripts/infer.py -i photo.jpg -o restored --method invsr

python scripts/export_adapter.py runs/personal my-camera.safetensors
python scripts/infer.py -i photo.jpg -o restored --adapter my-camera.safetensors
"""

import argparse
import functools
import json
import shutil
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor

import idas_sr
from idas_sr.build import initial_parts
from idas_sr.config import load_config
from idas_sr.networks.adapter_file import write_adapter_file
from idas_sr.networks.library import base_fingerprint, find_model
from idas_sr.networks.lora import GENERATOR, WEIGHTS, adapters_of, plain_state_dict, save_lora
from idas_sr.networks.store import load_parts, lora_networks
from idas_sr.pipeline import method_settings

MERGED = ("unet", "decoder")
"""Parts whose training changes so much of the backbone's own weights that an adapter does not hold it."""
PERSONAL = ("unet_lora", "vae_encoder_lora", "estimator_lora")
"""Parts that one file holds."""
WIDTH = 160
"""Characters of a line of JSON."""


def export(run: Path, output: Path, half: bool = False) -> str:
    """Write ``output``/adapters/METHOD; return one line about it.

    Args:
        run: run directory of the last stage.
        output: folder of the model.
        half: round the weights to fp16.

    Raises:
        FileNotFoundError: the stage is not finished.
        ValueError: it trained something that is not an adapter, or a weight does not fit into fp16.
    """
    backbone, estimator = load_parts(run / "model", keep=("unet_lora", "vae_encoder_lora"))
    settings = OmegaConf.load(run / "config.yaml")
    if "train" in settings and settings.train.get("adapter"):
        raise ValueError(f"{run} adapted a trained model: give OUTPUT as FILE.safetensors.")
    trained = list(settings.method.args.get("train", []))
    changed = [name for name in trained if name in MERGED]
    if changed or not trained:
        what = f"trained {', '.join(changed)}" if changed else "trained no part of a method"
        raise ValueError(f"{run} {what}: that is no adapter; give {run / 'model'} itself as the model.")
    tensors = {} if estimator is None else {f"estimator.{key}": value for key, value in estimator.state_dict().items()}
    if "conditioner" in trained:
        path = run / "model" / "conditioner" / "diffusion_pytorch_model.safetensors"
        tensors |= {f"conditioner.{key}": value for key, value in load_file(path).items()}
    if "conv_in" in trained:
        tensors |= {f"unet.conv_in.{key}": value for key, value in backbone.unet.conv_in.state_dict().items()}
    config = method_settings(settings)
    if estimator is not None:
        config["estimator"] = {"_class_name": type(estimator).__name__}
        config["estimator"] |= {key: value for key, value in estimator.config.items() if not key.startswith("_")}

    folder = output / "adapters" / config["method"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, network in lora_networks(backbone).items():
        if GENERATOR in adapters_of(network):
            save_lora(network, GENERATOR, folder / name)
            if half:
                save_file(rounded(load_file(folder / name / WEIGHTS)), folder / name / WEIGHTS)
    if tensors:
        tensors = {key: value.contiguous() for key, value in tensors.items()}
        save_file(rounded(tensors) if half else tensors, folder / "adapter.safetensors")
    (folder / "config.json").write_text(as_json(config) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    return f"{folder}: {size / 2**20:.2f} MiB of weights"


def export_file(run: Path, output: Path) -> str:
    """Write what adapting a trained model added to it as one file in fp16, for ``--adapter``; one line about it.

    Raises:
        FileNotFoundError: the stage is not finished.
        ValueError: it trained something that is not an adapter, or its model is another one by now.
    """
    backbone, estimator = load_parts(run / "model", keep=PERSONAL)
    config = load_config(run / "config.yaml")
    others = sorted(set(config.method.args.get("train", [])) - set(PERSONAL))
    if others:
        raise ValueError(f"{run} trained {', '.join(others)}, which the file of an adapter does not hold.")
    before, estimator_before = initial_parts(config)
    for name, new, old in (("unet", backbone.unet, before.unet), ("estimator", estimator, estimator_before)):
        now = {} if new is None else plain_state_dict(new)
        then = {} if old is None else old.state_dict()
        if now.keys() != then.keys() or any(not torch.equal(value, then[key]) for key, value in now.items()):
            raise ValueError(f"{config.train.init} has another {name} than {run} was trained on; train it again.")
    start = str(config.train.init)
    base = find_model(start) if config.train.adapter else Path(start) / "model"
    networks = lora_networks(backbone, estimator)
    size = write_adapter_file(output, networks, config.method.name, base_fingerprint(base, config.method.name))
    return f"{output}: {size / 2**20:.2f} MiB"


def as_json(value: object, depth: int = 0) -> str:
    """JSON in which whatever fits on a line stands on one: S3Diff's configuration lists nearly a hundred layers."""
    flat = json.dumps(value)
    if not isinstance(value, dict | list) or depth + len(flat) <= WIDTH:
        return flat
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {as_json(item, depth + 1)}" for key, item in value.items()]
    else:
        items = [as_json(item, depth + 1) for item in value]
    start, end = ("{", "}") if isinstance(value, dict) else ("[", "]")
    space = "\n" + " " * depth
    return f"{start}{space} " + f",{space} ".join(items) + f"{space}{end}"


def rounded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """To fp16.

    Raises:
        ValueError: a value that fp16 cannot hold.
    """
    out = {key: value.half() for key, value in tensors.items()}
    broken = [key for key, value in out.items() if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(f"{broken[0]} has values beyond the range of fp16; leave --half out.")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="run directory of the last stage")
    parser.add_argument(
        "output", type=Path, metavar="OUTPUT", help="folder of a model to write or to add to; or FILE.safetensors"
    )
    parser.add_argument("--half", action="store_true", help="round the weights to fp16")
    args = parser.parse_args()
    try:
        write = export_file if args.output.suffix == ".safetensors" else functools.partial(export, half=args.half)
        print(write(args.run, args.output))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"export_adapter {idas_sr.__version__}: {error}")


if __name__ == "__main__":
    main()
