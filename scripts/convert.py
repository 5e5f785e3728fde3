#!/usr/bin/env python3
"""Say what a checkpoint holds, and what of it would not fit the networks of this package. Nothing in it is executed.

python scripts/convert.py inspect FILE                            what is in it, and which network it comes closest to
python scripts/convert.py inspect FILE --against sd-turbo/unet    what would not fit that one; exit code 1 if any

FILE: .safetensors, or a .pt, .pth, .ckpt, .bin or .pkl that holds tensors only.
"""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import idas_sr
from idas_sr.build import METHODS, build_estimator
from idas_sr.networks import presets
from idas_sr.networks.backbone import LatentBackbone
from idas_sr.networks.checkpoints import Fit, candidates, compare, contents_of, read_tensors
from idas_sr.networks.degradation_scores import DegradationScores
from idas_sr.networks.hd_clip import HDCLIP

LISTED = 40


def targets() -> dict[str, nn.Module]:
    """Name -> network, without memory for its weights."""
    with torch.device("meta"):
        found: dict[str, nn.Module] = {}
        backbones: dict[str, LatentBackbone] = {"compact": presets.compact(), "sd-turbo": presets.sd_turbo()}
        for name, backbone in backbones.items():
            found |= {f"{name}/{part}": getattr(backbone, part) for part in ("vae", "unet", "prompt")}
            kinds = {method: kind.estimator_class for method, kind in METHODS.items() if kind.estimator_class}
            found |= {f"{name}/{method}": build_estimator(backbone, kind) for method, kind in kinds.items()}
        return found | {"hdclip": HDCLIP(), "degradation-scores": DegradationScores()}


def closest(tensors: dict[str, Tensor], networks: dict[str, nn.Module]) -> tuple[str, str, Fit]:
    """Network, prefix and fit with most matching tensors, fewest others where that is equal; no prefix if none does."""
    best: tuple[tuple[int, int], str, str, Fit] | None = None
    for name, network in networks.items():
        own = network.state_dict()
        for prefix, inside in candidates(tensors).items():
            fit = compare(own, inside)
            if prefix and not fit.matching:
                continue
            score = len(fit.matching), -len(fit.missing) - len(fit.unexpected) - len(fit.reshaped)
            if best is None or score > best[0]:
                best = score, name, prefix, fit
    assert best is not None
    return best[1:]


def report(path: Path, tensors: dict[str, Tensor]) -> None:
    """Print what the file holds."""
    contents = contents_of(tensors)
    table = Table("part", "tensors", "parameters", title=str(path))
    for part, (count, numbers) in list(contents.parts.items())[:LISTED]:
        table.add_row(part, f"{count:,}", f"{numbers:,}")
    if len(contents.parts) > LISTED:
        table.add_row(f"... {len(contents.parts) - LISTED} more", "", "")
    console = Console()
    console.print(table)
    numbers = sum(n for _, n in contents.parts.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in contents.dtypes.items())
    console.print(f"{len(tensors):,} tensors ({kinds}), {numbers:,} parameters", highlight=False)
    if contents.broken:
        console.print(f"values that are not finite in {len(contents.broken)}: {', '.join(contents.broken[:3])}")


def inspect(path: Path, against: str | None) -> int:
    """Print what is in a checkpoint and what fits; 1 if ``against`` is named and something does not.

    Raises:
        ValueError: the file cannot be read, or there is no such network.
    """
    networks = targets()
    if against is not None and against not in networks:
        raise ValueError(f"There is no network called {against!r}; choose one of {', '.join(networks)}.")
    tensors = read_tensors(path)
    report(path, tensors)
    chosen = networks if against is None else {against: networks[against]}
    name, prefix, fit = closest(tensors, chosen)
    below = f" below {prefix!r}" if prefix else ""
    if not fit.matching and against is None:
        print("It has no tensor in common with any network of this package.")
        return 0
    print(f"{'Closest' if against is None else 'Against'}: {name}{below}: {len(fit.matching):,} tensors fit.")
    print(f"{'It can be loaded' if fit.is_whole else 'It cannot be loaded'}: {fit.describe()}.")
    for title, names in (("missing", fit.missing), ("no place", fit.unexpected)):
        for entry in names[:LISTED] if against is not None else ():
            print(f"  {title}: {entry}")
    for entry, (theirs, ours) in list(fit.reshaped.items())[:LISTED] if against is not None else ():
        print(f"  shape: {entry}: {theirs} in the file, {ours} here")
    return 0 if fit.is_whole or against is None else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("inspect", help="say what a checkpoint holds and what would not fit")
    command.add_argument("file", type=Path)
    command.add_argument("--against", metavar="NETWORK", help="such as sd-turbo/unet (default: the closest one)")
    args = parser.parse_args()
    try:
        sys.exit(inspect(args.file, args.against))
    except ValueError as error:
        print(f"convert {idas_sr.__version__}: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
