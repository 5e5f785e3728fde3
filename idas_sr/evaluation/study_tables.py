"""The tables of the study of realism control, as Markdown (docs/study.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from idas_sr.lines import LINES
from idas_sr.steering import STEERINGS

OWN = "n1"
"""Label of the steering that models ship with."""

HELD_OUT = "held-out photographs"
"""Name of the set on which the position-state gap is asked for."""

Summary = Mapping[str, Any]
"""What `idas_sr.evaluation.sweep_summary.summarise` returns."""

MEASURES = {"psnr_y": 2, "ssim_y": 4, "sqdist": 3, "niqe": 2, "high_band": 2, "t_r": 0, "b_r": 3}
"""Columns of the curves -> decimals."""


@dataclass(frozen=True)
class Check:
    """One thing that is asked of a dial, and what it does."""

    what: str
    asked: str
    got: str
    held: bool


def number(value: float | None, decimals: int = 2, sign: bool = False) -> str:
    """A cell: empty where there is no value, and no minus before nothing but zeros."""
    if value is None:
        return ""
    value = round(value, decimals) + 0.0
    return f"{value:{'+' if sign else ''}.{decimals}f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _known(values: Sequence[float | None]) -> list[float]:
    if None in values:
        raise ValueError("A measure of the dial is missing for some realism: every picture was too small for it.")
    return [float(value) for value in values if value is not None]


def _steps(values: Sequence[float]) -> list[float]:
    return [b - a for a, b in pairwise(values)]


def dial_checks(summary: Summary, label: str = OWN) -> list[Check]:
    """What is asked of the dial on pairs, over the values of realism that were measured.

    Raises:
        ValueError: a measure is missing.
    """
    variant = summary["variants"][label]
    curves, dial = variant["curves"], variant["dial"]
    psnr, ssim, sqdist, niqe, high = (
        _known(curves[name]) for name in ("psnr_y", "ssim_y", "sqdist", "niqe", "high_band")
    )
    falls, rises, steps = _steps(psnr), _steps(high), len(psnr) - 1
    niqe_rise, more, spearman = max(_steps(niqe)), sqdist[-1] - sqdist[0], dial["spearman_mean"]
    ends, energy = f"{number(high[0], sign=True)} to {number(high[-1], sign=True)}", "energy of 0.25 to 0.5 cycle"
    checks = [
        Check("psnr_y at 0", "at least 25.8", number(psnr[0]), psnr[0] >= 25.8),
        Check("ssim_y at 0", "at least 0.74", number(ssim[0], 4), ssim[0] >= 0.74),
        Check("sqdist at 0", "at most 2.11", number(sqdist[0], 3), sqdist[0] <= 2.11),
        Check("psnr_y at 1", "at least 24.5", number(psnr[-1]), psnr[-1] >= 24.5),
        Check("sqdist at 1, less that at 0", "at most 0.05", number(more, 3, True), more <= 0.05),
        Check("niqe at 1", "at most 6.1", number(niqe[-1]), niqe[-1] <= 6.1),
        _all_steps("mean psnr_y falls", sum(step < 0 for step in falls), steps, max(falls), 3),
        Check(
            "Spearman(r, psnr_y), mean over pictures",
            "at most -0.95",
            number(spearman, 3),
            spearman is not None and spearman <= -0.95,
        ),
        Check("span of psnr_y", "at least 1 dB", f"{number(psnr[0] - psnr[-1])} dB", psnr[0] - psnr[-1] >= 1),
        Check(
            "niqe from 0 to 1", "falls by 0.5", f"{number(niqe[0])} to {number(niqe[-1])}", niqe[0] - niqe[-1] >= 0.5
        ),
        Check("largest rise of niqe in a step", "at most 0.1", number(niqe_rise, 3, True), niqe_rise <= 0.1),
        _all_steps(f"{energy} rises", sum(step > 0 for step in rises), steps, min(rises), 3),
        Check(f"{energy}, log ratio", "ends in -0.3 to +0.1", ends, -0.3 <= high[-1] <= 0.1),
    ]
    return [*checks, _worst_line(summary, label)]


def _all_steps(what: str, right: int, steps: int, worst: float, decimals: int) -> Check:
    got = f"{right} of {steps}, weakest {number(worst, decimals, True)}"
    return Check(what, "at every step", got, right == steps)


def _worst_line(summary: Summary, label: str) -> Check:
    """The spectral line that stands out furthest, at any realism."""
    ratios = [
        (abs(ratio - 1), ratio, line, r)
        for r, at in zip(summary["realism"], summary["variants"][label]["lines"], strict=True)
        for line, ratio in zip(LINES, at, strict=True)
        if ratio is not None
    ]
    off, ratio, line, r = max(ratios)
    got = f"{number(ratio)} at {line:g} cycle, r = {r:g}"
    return Check("spectral lines against their neighbours, worst", "0.9 to 1.1", got, off <= 0.1)


def gap_checks(found: Summary) -> list[Check]:
    """What is asked of the position-state gap; ``found`` is what `idas_sr.evaluation.gap.summarise_gaps` returns."""
    realism, own = found["realism"], found["steerings"][OWN]
    mean, size = _known(own["mean"]), _known(own["abs"])
    late = max(value for r, value in zip(realism, size, strict=True) if r >= 0.5)
    furthest = max(mean, key=abs)
    checks = [
        Check("mean size of the gap at 0", "at most 0.12", number(size[0], 3), size[0] <= 0.12),
        Check("mean size of the gap from 0.5 on", "at most 0.05", number(late, 3), late <= 0.05),
        Check("mean gap, at its furthest from 0", "at most 0.03", number(furthest, 3, True), abs(furthest) <= 0.03),
    ]
    for label in ("label-only", "noise-only"):
        end = _known(found["steerings"][label]["mean"])[-1]
        checks.append(Check(f"mean gap of {label} at 1", "beyond 0.3", number(end, 3, True), abs(end) > 0.3))
    return checks


def checked(dials: Mapping[str, Summary], gap: Summary | None) -> str:
    """The dial, checked: a column per dial (name -> summary); the gap belongs to the first, formulas' own one."""
    columns = [dial_checks(summary) for summary in dials.values()]
    rows = [[row[0].what, row[0].asked, *(_verdict(check) for check in row)] for row in zip(*columns, strict=True)]
    if gap is not None:
        rows += [[c.what, c.asked, _verdict(c), *[""] * (len(columns) - 1)] for c in gap_checks(gap)]
    return markdown(["", "asked", *dials], rows)


def _verdict(check: Check) -> str:
    return f"{check.got} ({'held' if check.held else 'missed'})"


def curve(summary: Summary, label: str = OWN) -> str:
    """Means over pictures at every realism, and the spectral lines."""
    variant = summary["variants"][label]
    shown = {name: decimals for name, decimals in MEASURES.items() if name in variant["curves"]}
    rows = []
    for i, r in enumerate(summary["realism"]):
        values = [number(variant["curves"][name][i], decimals) for name, decimals in shown.items()]
        rows.append([f"{r:g}", *values, *(number(line) for line in variant["lines"][i])])
    return markdown(["realism", *shown, *(f"line {line:g}" for line in LINES)], rows)


def steerings(summary: Summary, names: Mapping[str, str], place: int) -> str:
    """One row per way to steer, at one value of realism; the first row is realism 0, where all are the anchor.

    Args:
        names: label -> name of its steering.
        place: of the value of realism; Spearman and spectral lines are those of the whole dial.
    """
    head = ["", "paired", *(name for name in MEASURES if name not in ("t_r", "b_r")), "gap", "seeds", "above 0.25"]
    variants = summary["variants"]
    rows = [["at realism 0", "", *_at(variants[OWN], 0), "", ""]]
    for label, variant in variants.items():
        paired = "yes" if STEERINGS[names[label]].paired else "no"
        rows.append([label, paired, *_at(variant, place), number(variant["dial"]["spearman_mean"]), _worst(variant)])
    return markdown([*head, "Spearman", "worst line"], rows)


def _at(variant: Mapping[str, Any], place: int) -> list[str]:
    """Quality, gap and what another seed changes at one value of realism; cells of what was not measured are empty."""
    curves, seeds = variant["curves"], variant.get("diversity", {})
    quality = [(name, decimals) for name, decimals in MEASURES.items() if name not in ("t_r", "b_r")]
    cells = [number(curves[name][place], decimals) if name in curves else "" for name, decimals in quality]
    cells.append(number(curves["gap_mean"][place], 3, True))
    return [*cells, *(number(seeds[name][place]) if name in seeds else "" for name in ("rms", "high_share"))]


def _worst(variant: Mapping[str, Any]) -> str:
    return number(variant["dial"]["line_furthest_from_1"])


def diversity(summary: Summary, label: str = OWN) -> str:
    """What another seed changes, over realism."""
    found = summary["variants"][label].get("diversity")
    if not found:
        return ""
    rows = [
        [f"{r:g}", number(rms), number(share)]
        for r, rms, share in zip(summary["realism"], found["rms"], found["high_share"], strict=True)
    ]
    return markdown(["realism", "rms between two seeds, 8-bit levels", "share of it above 0.25 cycle"], rows)


def gaps(sets: Mapping[str, Summary]) -> str:
    """Mean of the gap and of its size, per set of pictures and steering, at 0, the middle and 1."""
    realism = next(iter(sets.values()))["realism"]
    places = [0, len(realism) // 2, len(realism) - 1]
    head = ["", *(f"g at {realism[i]:g}" for i in places), *(f"size at {realism[i]:g}" for i in places)]
    rows = [
        [
            f"{name}: {label}",
            *(number(of["mean"][i], 3, True) for i in places),
            *(number(of["abs"][i], 3) for i in places),
        ]
        for name, found in sets.items()
        for label, of in found["steerings"].items()
    ]
    return markdown(head, rows)
