"""The realism study: one anchor per picture, steered to every realism with every seed, and everything measured.

What is measured of one picture lies in a JSON file of its own, so a study that was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idas_sr.build import construct
from idas_sr.config import Component
from idas_sr.evaluation import spectrum
from idas_sr.evaluation.files import write_json
from idas_sr.imagefiles.reading import read_picture
from idas_sr.images import to_pil, write_png
from idas_sr.losses import FeatureDistance
from idas_sr.methods.base import Method
from idas_sr.methods.positioning import rms
from idas_sr.metrics import luma, niqe, psnr_y, ssim_y
from idas_sr.resample import pad_to_multiple, upsample
from idas_sr.steering import RESCHEDULES, STEERINGS, Steering
from idas_sr.types import Anchor, Condition, Steered

MEASURES = 1
"""Raised when a measure changes its meaning: results of another number are measured again."""


@dataclass(frozen=True)
class Variant:
    """One way to steer: an entry of STEERINGS with its arguments, and the name it has in tables and plots."""

    label: str
    steering: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> Steering:
        """The steering itself.

        Raises:
            ConfigError: unknown name or argument.
        """
        return construct(STEERINGS, "steering", Component(self.steering, dict(self.args)))


def variants_of(own: Mapping[str, Any] | None, steerings: Sequence[str], reschedules: Sequence[str]) -> list[Variant]:
    """Every steering with every reschedule, all other arguments being the model's own.

    Args:
        own: the model's steering, ``{"name": ..., "args": {...}}``; None: CHARIOT's default.
        steerings: entries of STEERINGS, or ``all`` that take a reschedule.
        reschedules: entries of RESCHEDULES, or ``all``; empty: the model's own, which labels then do not mention.

    Raises:
        ValueError: an unknown name.
    """
    args = dict((own or {}).get("args", {}))
    chosen = {}
    # Every steering that takes a reschedule and an end point; temperature and as-is do not.
    movable = [name for name, kind in STEERINGS.items() if kind.__init__ is Steering.__init__]
    tables = ("steering", steerings, STEERINGS, movable), ("reschedule", reschedules, RESCHEDULES, list(RESCHEDULES))
    for kind, names, table, everything in tables:
        chosen[kind] = everything if "all" in names else list(dict.fromkeys(names))
        if unknown := [name for name in chosen[kind] if name not in table]:
            raise ValueError(f"There is no {kind} called {unknown[0]!r}; choose among {', '.join(table)} and all.")
    if not chosen["reschedule"]:
        return [Variant(name, name, args) for name in chosen["steering"]]
    pairs = itertools.product(chosen["steering"], chosen["reschedule"])
    return [Variant(f"{name} {rule}", name, {**args, "reschedule": rule}) for name, rule in pairs]


@dataclass(frozen=True)
class Plan:
    """What a study measures.

    Attributes:
        model: fingerprint of the weights.
        realism: values of the dial, ascending.
        seeds: of the fresh noise.
        sqdist: fingerprint of the SqueezeNet weights, or None where sqdist is left out.
    """

    model: str
    realism: tuple[float, ...]
    seeds: tuple[int, ...]
    sqdist: str | None = None

    def __post_init__(self) -> None:
        if not self.realism or list(self.realism) != sorted(set(self.realism)):
            raise ValueError(f"Values of realism must ascend, not {list(self.realism)}.")
        if self.realism[0] < 0 or self.realism[-1] > 1:
            raise ValueError(f"realism must lie between 0 and 1, not {list(self.realism)}.")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"Seeds must differ from one another, not {list(self.seeds)}.")

    def key(self, contents: Iterable[bytes]) -> str:
        """Equal for measurements that may stand in for one another; ``contents`` are the files of a pair."""
        hashes = [hashlib.sha256(content).hexdigest() for content in contents]
        parts = {**asdict(self), "files": hashes, "measures": MEASURES}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Anchored:
    """One picture after the steps that no dial touches: encoded, anchored, conditioned."""

    z_lq: Tensor
    anchor: Anchor
    condition: Condition
    size: tuple[int, int]
    """(H, W) of the output without the padding."""


@torch.inference_mode()
def anchor_picture(method: Method, lq: Tensor) -> Anchored:
    """Steps 1 and 2 of `Method.restore` for one picture (1, 3, h, w) in [0, 1], padded as the pipeline does."""
    device = next(method.parameters()).device
    padded = pad_to_multiple(lq.to(device) * 2 - 1, method.multiple)
    z_lq = method.backbone.encode(upsample(padded, method.scale))
    size = (lq.shape[-2] * method.scale, lq.shape[-1] * method.scale)
    return Anchored(z_lq, method.anchor(padded, z_lq), method.conditioner(padded, method.backbone), size)


@torch.inference_mode()
def restore_anchored(
    method: Method, steering: Steering, start: Anchored, realism: float, seed: int
) -> tuple[Tensor, Steered]:
    """Steps 3 to 5 of `Method.restore`: (1, 3, H, W) on the CPU, rounded to 8 bits in [0, 1], and the steered state."""
    backbone, anchor = method.backbone, start.anchor
    steered = steering(anchor, start.z_lq, realism, [seed], backbone.schedule)
    z0 = method.guider(
        lambda tokens: backbone.predict_z0(steered.state, steered.timestep, tokens, steered.sigma, anchor.control),
        start.condition,
    )
    height, width = start.size
    picture = (backbone.decode(z0)[..., :height, :width] / 2 + 0.5).clamp(0, 1)
    return (picture.float().cpu() * 255).round() / 255, steered


class PictureStudy:
    """Measures one picture.

    Args:
        method: on its device, in inference mode.
        hq: (1, 3, H, W) in [0, 1], the reference.
        lq: (1, 3, h, w) in [0, 1].
        distance: for sqdist, or None.
        jobs: restorations at a time, each in a thread.

    Raises:
        ValueError: the reference is not ``scale`` times as large as the input.
    """

    def __init__(
        self, method: Method, lq: Tensor, hq: Tensor, distance: FeatureDistance | None = None, jobs: int = 1
    ) -> None:
        if tuple(hq.shape[-2:]) != tuple(side * method.scale for side in lq.shape[-2:]):
            sizes = [f"{picture.shape[-1]}x{picture.shape[-2]}" for picture in (hq, lq)]
            raise ValueError(
                f"The reference is {sizes[0]}, but {method.scale} times the input of {sizes[1]} is needed."
            )
        self.method, self.distance, self.jobs = method, distance, jobs
        self.lq, self.hq, self.start = lq, hq, anchor_picture(method, lq)
        self._exact_hq = _exact(hq)
        with torch.inference_mode():
            padded = pad_to_multiple(hq * 2 - 1, method.multiple * method.scale)
            self.z_hq = method.backbone.encode(padded.to(self.start.z_lq.device))

    def reference(self) -> dict[str, Any]:
        """What the reference itself measures: niqe and line ratios."""
        return {
            "niqe": _finite(niqe(self._exact_hq)),
            "lines": _finite_list(spectrum.line_ratios(luma(self._exact_hq)[0])),
        }

    def measure(
        self, variant: Variant, plan: Plan, keep: Callable[[float, Tensor], None] | None = None
    ) -> dict[str, Any]:
        """All rows (one per realism and seed) and the diversity per realism of one variant.

        Args:
            keep: is given every realism and the first seed's picture (1, 3, H, W) in [0, 1] there.
        """
        steering = variant.build()
        with ThreadPoolExecutor(max(1, self.jobs)) as pool:
            tasks = [
                [pool.submit(self._row, steering, r, seed) for seed in self._distinct_seeds(steering, r, plan)]
                for r in plan.realism
            ]
            rows, diversity = [], []
            for r, futures in zip(plan.realism, tasks, strict=True):
                found = [future.result() for future in futures]
                pictures = [picture for _, picture in found]
                # A seed that cannot matter was not run; its row is that of the first.
                full = [found[min(i, len(found) - 1)][0] for i in range(len(plan.seeds))]
                rows += [{**row, "seed": seed} for row, seed in zip(full, plan.seeds, strict=True)]
                if len(plan.seeds) > 1:
                    diversity.append({"realism": r, **_diversity(pictures)})
                if keep is not None:
                    keep(r, pictures[0])
        return {"rows": rows, "diversity": diversity}

    @torch.inference_mode()
    def _distinct_seeds(self, steering: Steering, realism: float, plan: Plan) -> tuple[int, ...]:
        """All seeds, or only the first where no fresh noise enters."""
        steered = steering(self.start.anchor, self.start.z_lq, realism, [plan.seeds[0]], self.method.backbone.schedule)
        return plan.seeds if bool((steered.fresh != 0).any()) else plan.seeds[:1]

    def _row(self, steering: Steering, realism: float, seed: int) -> tuple[dict[str, Any], Tensor]:
        picture, steered = restore_anchored(self.method, steering, self.start, realism, seed)
        image, reference = _exact(picture), self._exact_hq
        ratio = spectrum.log_ratio(image, reference)
        row: dict[str, Any] = {
            "realism": realism,
            "t_r": float(steered.timestep),
            "a_r": float(steered.keep),
            "b_r": float(steered.fresh),
            "gap": position_state_gap(steered, self.z_hq, self.method),
            "psnr_y": _finite(psnr_y(image, reference)),
            "ssim_y": _finite(ssim_y(image, reference)),
            "niqe": _finite(niqe(image)),
        }
        if self.distance is not None and min(image.shape[-2:]) >= spectrum.SMALLEST:
            with torch.inference_mode():
                row["sqdist"] = _finite(self.distance(picture * 2 - 1, self.hq * 2 - 1))
        row["high_band"] = _finite(spectrum.high_band(ratio))
        row["lines"] = _finite_list(spectrum.line_ratios(luma(image)[0]))
        row["spectrum"] = _finite_list(ratio)
        return row, picture


def position_state_gap(steered: Steered, z_hq: Tensor, method: Method) -> float | None:
    """g = log(rms(y_r - z_hq) / w(declared timestep)) of one picture (methods.md 9.5): 0 where both agree."""
    declared = method.backbone.schedule.sigma(steered.timestep)
    return _finite((rms(steered.state - z_hq) / declared).log())


def _exact(picture: Tensor) -> Tensor:
    """A picture of 8-bit levels in [0, 1] in float64, each the nearest number to k / 255: as read from a file."""
    return (picture.double() * 255).round() / 255


def _finite(value: Tensor | float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _finite_list(values: Tensor) -> list[float | None]:
    return [_finite(value) for value in values]


def _diversity(pictures: Sequence[Tensor]) -> dict[str, float | None]:
    """Mean over pairs of seeds: rms of the difference in 8-bit levels, and share of its energy above 0.25 cycles."""
    pairs = list(itertools.combinations(pictures, 2))
    if not pairs:
        return {"rms": 0.0, "high_share": None}
    distances = [float(rms((a - b) * 255)) for a, b in pairs]
    shares = [spectrum.share_above(luma(a)[0] - luma(b)[0]) for a, b in pairs]
    return {"rms": sum(distances) / len(pairs), "high_share": _finite(sum(shares) / len(pairs))}


def study_file(
    method: Method,
    variants: Sequence[Variant],
    plan: Plan,
    files: tuple[Path, Path],
    output: Path,
    pictures: bool = False,
    distance: FeatureDistance | None = None,
    jobs: int = 1,
    on_variant: Callable[[str], None] = lambda label: None,
) -> dict[str, Any]:
    """Measure the pair of files (low-quality, reference), or read what ``output``/images holds of it already.

    Args:
        pictures: also write input, restorations of the first variant (first seed) and reference below
            ``output``/pictures.
        on_variant: called with the label of each variant that is done.

    Raises:
        ValueError: an unreadable picture, or sizes that do not fit.
    """
    lq_file, hq_file = files
    stem = lq_file.stem
    kept, folder = output / "images" / f"{stem}.json", output / "pictures" / stem
    key = plan.key([lq_file.read_bytes(), hq_file.read_bytes()])
    record = _read_record(kept, key) or {"stem": stem, "key": key, "variants": {}, "pictures_of": None}
    study: PictureStudy | None = None
    for index, variant in enumerate(variants):
        shown = asdict(variant) if pictures and index == 0 else None
        done = record["variants"].get(variant.label, {}).get("variant") == asdict(variant)
        if not done or (shown is not None and record["pictures_of"] != shown):
            if study is None:
                lq, hq = (read_picture(file).colour[None] for file in (lq_file, hq_file))
                study = PictureStudy(method, lq, hq, distance, jobs)
                record |= {"t_hat": float(study.start.anchor.timestep), "reference": study.reference()}
            keep = _keeper(folder, study.lq, study.hq) if shown is not None else None
            record["variants"][variant.label] = {"variant": asdict(variant), **study.measure(variant, plan, keep)}
            record["pictures_of"] = shown or record["pictures_of"]
            write_json(kept, record)
        on_variant(variant.label)
    return {**record, "variants": {variant.label: record["variants"][variant.label] for variant in variants}}


def picture_name(realism: float) -> str:
    """File name of the restoration at one realism."""
    return f"r{realism:.3f}.png"


def _keeper(folder: Path, lq: Tensor, hq: Tensor) -> Callable[[float, Tensor], None]:
    """Writes the two ends of the row of pictures, and returns what writes the restorations between them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_png(to_pil(lq[0]), folder / "input.png")
    write_png(to_pil(hq[0]), folder / "reference.png")
    return lambda realism, picture: write_png(to_pil(picture[0]), folder / picture_name(realism))


def _read_record(path: Path, key: str) -> dict[str, Any] | None:
    """What was measured before with the same settings from the same files; None where there is nothing like it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return record if record.get("key") == key else None
