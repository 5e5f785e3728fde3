#!/usr/bin/env python3
"""Take the mean error out of what a trained MINE declares, on whole photographs of the training split.

    python scripts/center_anchor.py runs/compact/5-severity runs/compact/5-severity-centred --photographs PHOTOGRAPHS

The severity head learns on crops, by losses that seek the median; over whole photographs, some of them much more
detailed than their average crop, the mean of log(true / declared) is then not 0, and the state is noisier than the
UNet is told. Two numbers of the head take that out: the bias of its power and the bias of the residual's share. They
are fitted on photographs that the head was trained with, so the held-out ones stay a test.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from idas_sr.build import build_method
from idas_sr.cli import ended
from idas_sr.config import Component
from idas_sr.data.degradation import Degradation
from idas_sr.data.sources import list_photographs
from idas_sr.evaluation.heldout import pairs_of
from idas_sr.evaluation.sweep import position_state_gap
from idas_sr.methods.base import Method
from idas_sr.methods.positioning import snr_matching
from idas_sr.methods.task import to_signed
from idas_sr.networks.mine import MINE
from idas_sr.networks.store import load_parts, save_parts
from idas_sr.resample import upsample

ROUNDS = 3
"""The share follows the level, so both are moved a few times; each round measures anew."""


@torch.inference_mode()
def errors(method: Method, pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float, float]:
    """Means over pairs: log(true / declared level), position-state gap at realism 0, declared share of the residual."""
    schedule, rows = method.backbone.schedule, []
    for lq, hq in pairs:
        lq, hq = to_signed(lq), to_signed(hq)
        z_lq, z_hq = method.backbone.encode(upsample(lq, method.scale)), method.backbone.encode(hq)
        anchor = method.anchor(lq, z_lq)
        sigma = schedule.sigma(anchor.timestep)
        gap = position_state_gap(method.steering(anchor, z_lq, 0.0, [0], schedule), z_hq, method)
        assert anchor.residual is not None
        rows.append((float((snr_matching(z_lq, z_hq) / sigma).log()), gap, float(anchor.residual / sigma)))
    level, gap, share = torch.tensor(rows).mean(0).tolist()
    return level, gap, share


@torch.no_grad()
def centre(mine: MINE, method: Method, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[float, float, float]]:
    """Move the two biases; the errors before every round and after the last."""
    bias, history = mine.severity.out.bias, []
    for _ in tqdm(range(ROUNDS), "rounds"):
        level, gap, share = errors(method, pairs)
        history.append((level, gap, share))
        bias[0] += 2 * level
        # Noise fills what the residual leaves of the level, 1 - share^2: the excess of the state, e^2g - 1, is taken
        # from there. What the level itself corrects is not corrected twice.
        wanted = math.sqrt(min(max(share**2 + math.expm1(2 * (gap - level)), 0.05), 0.95))
        bias[1] += logit(wanted) - logit(share)
    return [*history, errors(method, pairs)]


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def run(args: argparse.Namespace) -> None:
    if args.output.exists():
        raise ValueError(f"{args.output} exists already; name another folder or delete it.")
    backbone, mine = load_parts(args.run / "model")
    if not isinstance(mine, MINE):
        raise ValueError(f"{args.run} has no MINE to centre.")
    degradation = Degradation(args.degradation)
    paths = list_photographs(args.photographs, "train")
    pairs = pairs_of(paths[:: max(len(paths) // args.count, 1)][: args.count], degradation)
    for place, (level, gap, share) in enumerate(centre(mine, build_method(backbone, mine, Component("idas")), pairs)):
        name = f"before {place + 1}" if place < ROUNDS else "after"
        print(f"{name}: log(true / declared level) {level:+.3f}, position-state gap {gap:+.3f}, share {share:.3f}")
    # A stage is finished where model/ is, as in the trainer.
    partial = args.output / "model.partial"
    save_parts(partial, backbone, mine)
    partial.rename(args.output / "model")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="finished run whose MINE is centred")
    parser.add_argument("output", type=Path, help="new run directory; only its model/ is written")
    parser.add_argument("--photographs", type=Path, required=True, help="training data; its training split is used")
    parser.add_argument("--degradation", default="compact", help="default: %(default)s, what the head was trained with")
    parser.add_argument("--count", type=int, default=60, help="photographs (default: %(default)s)")
    args = parser.parse_args(arguments)
    return ended("center_anchor", lambda: run(args), "nothing was written")


if __name__ == "__main__":
    sys.exit(main())
