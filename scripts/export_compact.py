#!/usr/bin/env python3
"""Write the shipped model from finished training stages: the prior, and what restoration training added as an adapter.

python scripts/export_compact.py runs/compact
python scripts/export_compact.py runs/compact --final 4-steering -o trial
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn

import idas_sr
from idas_sr.networks.library import MODELS
from idas_sr.networks.store import load_parts
from idas_sr.pipeline import IDaSSRPipeline

MAX_PARAMETERS = 7_900_000
MAX_BYTES = 16 * 2**20
PARTS = ("vae", "unet", "prompt", "scheduler", "model_index.json")


def half(name: str, module: nn.Module) -> dict[str, Tensor]:
    """The module's tensors rounded to fp16.

    Raises:
        ValueError: a value that fp16 cannot hold.
    """
    tensors = {key: value.half().contiguous() for key, value in module.state_dict().items()}
    broken = [key for key, value in tensors.items() if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(f"{name}.{broken[0]} has values beyond the range of fp16.")
    return tensors


def export(stages: Path, prior_name: str, final_name: str, output: Path, kappa: float | None = None) -> str:
    """Write the model's folder; return one line about it.

    Raises:
        FileNotFoundError: a stage is not finished.
        ValueError: the final stage changed what an adapter cannot hold, or the model is too large.
    """
    prior, _ = load_parts(stages / prior_name / "model")
    final, estimator = load_parts(stages / final_name / "model")
    if estimator is None:
        raise ValueError(f"{stages / final_name} trained no estimator; give a later stage as --final.")
    for name, old, new in (
        ("encoder", prior.vae.encoder, final.vae.encoder),
        ("prompt", prior.prompt, final.prompt),
    ):
        after = new.state_dict()
        if any(not torch.equal(value, after[key]) for key, value in old.state_dict().items()):
            raise ValueError(f"{final_name} stands on another {name} than {prior_name}; train it again from this one.")
    # One decoder ships, the one that restoration trained: it still decodes the latents of clean pictures.
    prior.vae = final.vae
    # The prior's UNet ships too: other methods start from it.
    stored = (final.vae, prior.unet, final.unet, final.prompt, estimator)
    parameters = sum(p.numel() for part in stored for p in part.parameters())
    if parameters > MAX_PARAMETERS:
        raise ValueError(f"{parameters} parameters are more than the {MAX_PARAMETERS} that may ship.")

    before, after = half("unet", prior.unet), half("unet", final.unet)
    adapter = {f"unet.{key}": value for key, value in after.items() if not torch.equal(value, before[key])}
    adapter |= {f"estimator.{key}": value for key, value in half("estimator", estimator).items()}
    settings = OmegaConf.load(stages / final_name / "config.yaml")
    if kappa is not None:
        settings.steering.args.kappa = kappa
    config = {
        "method": settings.method.name,
        "steering": OmegaConf.to_container(settings.steering),
        "estimator": {key: value for key, value in estimator.config.items() if not key.startswith("_")},
    }
    for part in (prior.vae, prior.prompt):
        half(type(part).__name__, part)
    pipe = IDaSSRPipeline.from_backbone(prior, None, method=None).to(torch.float16)

    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
        folder = Path(temporary)
        pipe.save_pretrained(folder)
        target = folder / "adapters" / config["method"]
        target.mkdir(parents=True)
        save_file(adapter, target / "adapter.safetensors")
        (target / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        for path in folder.rglob("*.json"):
            forget_origin(path)
        weights = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        if weights > MAX_BYTES:
            raise ValueError(f"{weights} bytes of weights are more than the {MAX_BYTES} that may ship.")
        check(folder, final.unet, estimator)
        replace(folder, output)
    return f"{output}: {parameters / 1e6:.3f} M parameters, {weights / 2**20:.2f} MiB of weights"


def forget_origin(path: Path) -> None:
    """Drop the path that diffusers notes in a configuration; it says where it lay on this machine."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def check(folder: Path, unet: nn.Module, estimator: nn.Module) -> None:
    """Load what was written and compare it with the trained weights, rounded once."""
    loaded = IDaSSRPipeline.from_pretrained(folder)
    for name, trained in (("unet", unet), ("estimator", estimator)):
        own = getattr(loaded, name).state_dict()
        for key, value in half(name, trained).items():
            if not torch.equal(own[key], value.float()):
                raise ValueError(f"{name}.{key} changed on the way into the file.")


def replace(folder: Path, output: Path) -> None:
    """Move the parts into ``output``; a model card there stays, and so do adapters of other methods."""
    output.mkdir(exist_ok=True)
    (output / "adapters").mkdir(exist_ok=True)
    for name in (*PARTS, *(f"adapters/{path.name}" for path in (folder / "adapters").iterdir())):
        old = output / name
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
        (folder / name).rename(old)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", type=Path, metavar="STAGE_DIR", help="folder of the stages, such as runs/compact")
    parser.add_argument("-o", "--output", type=Path, default=MODELS / "compact", metavar="FOLDER")
    parser.add_argument(
        "--prior", default="1-prior", metavar="NAME", help="stage that made the prior (default: %(default)s)"
    )
    parser.add_argument("--final", default="6-polish", metavar="NAME", help="stage to ship (default: %(default)s)")
    parser.add_argument("--kappa", type=float, help="end of the dial, where it is to differ from the training's")
    args = parser.parse_args()
    try:
        print(export(args.stages, args.prior, args.final, args.output, args.kappa))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"export_compact {idas_sr.__version__}: {error}")


if __name__ == "__main__":
    main()
