"""``idas-sr models``: what there is to restore with."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from idas_sr.build import METHODS
from idas_sr.cli import catalogue

BACKBONES = {
    "compact": ("4.1 M parameters, trained here", "Apache-2.0"),
    "sd-turbo": ("866 M + 84 M parameters, weights from others", "Stability AI Community License"),
}

EXAMPLES = """examples:
  %(prog)s            a table
  %(prog)s --json     the same for programs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``models``."""
    parser.description = "List models, methods and backbones, with size and licence. Nothing is downloaded."
    parser.epilog = EXAMPLES
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the catalogue."""
    values = collect()
    print(json.dumps(values, indent=1) if args.json else as_text(values))
    return 0


def collect() -> dict[str, list[dict[str, Any]]]:
    """Models that ship, methods, and weights of others, as JSON values without paths of this machine."""
    return {
        "models": [asdict(model) for model in catalogue.shipped()],
        "methods": [{"name": name, "purpose": _first_sentence(kind)} for name, kind in METHODS.items()],
        "backbones": [{"name": name, "size": size, "licence": text} for name, (size, text) in BACKBONES.items()],
        "weights of others": [
            {**asdict(weights), "here": weights.here is not None} for weights in catalogue.published()
        ],
    }


def _first_sentence(kind: type) -> str:
    return (kind.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ").split(". ")[0].rstrip(".")


def as_text(values: dict[str, list[dict[str, Any]]]) -> str:
    """The catalogue for people."""
    lines = ["Models that come with this package (--model NAME):"]
    for model in values["models"]:
        size = f"{model['parameters'] / 1e6:.1f} M parameters, {model['size'] / 2**20:.1f} MiB"
        lines.append(
            f"  {model['name']:<10} {size}; licence {model['licence']}; methods: {', '.join(model['methods'])}"
        )
    lines += ["", "Methods (--method NAME):"]
    lines += [f"  {method['name']:<10} {method['purpose']}" for method in values["methods"]]
    lines += ["", "Backbones that a method can be trained on (configs/train/):"]
    lines += [f"  {one['name']:<10} {one['size']}; {one['licence']}" for one in values["backbones"]]
    lines += ["", "Weights that others publish, which this package reads but does not bring:"]
    for one in values["weights of others"]:
        lines.append(f"  {one['name']:<10} {one['purpose']}; {one['size']}; {one['licence']}")
        lines.append(f"  {'':<10} {'on this machine' if one['here'] else 'not on this machine: ' + one['command']}")
    return "\n".join(lines)
