"""The plots of the study of realism control, as PNG files (docs/study.md). Needs matplotlib, of the extra ``plot``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from idas_sr.evaluation.plots import COLOURS, DPI, Drawn, new_figure, style_of
from idas_sr.evaluation.study_tables import OWN, Summary

FAMILIES = {
    "idas": ("IDaS-SR with HD-CLIP", "P"),
    "invsr": ("InvSR, 1 to 5 steps", "s"),
    "osediff": ("OSEDiff", "D"),
    "rcod": ("RCOD, groups", "^"),
    "s3diff": ("S3Diff, and with HD-CLIP", "v"),
}
"""First word of a row of scripts/study_methods.py -> name in the legend, and marker."""

TRIVIAL = ("bicubic", "unsharp", "grain")
PLANES = (("sqdist", "sqdist (lower: closer)"), ("niqe", "niqe (lower: more like photographs)"))


def draw(
    dial: Summary, variants: Summary, gaps: Mapping[str, Summary], methods: Mapping[str, Any], output: Path
) -> list[Drawn]:
    """Draw ``study_tradeoff.png``, ``study_steerings.png`` and, where gaps were measured, ``study_gap.png``.

    Args:
        dial, variants: summaries of the model's own dial and of the other ways to steer.
        gaps: set of pictures -> its summary.
        methods: rows of scripts/study_methods.py, name -> means by measure.
    """
    output.mkdir(parents=True, exist_ok=True)
    drawn = [_trade_off(dial, methods, output), _steerings(variants, output)]
    return [*drawn, _gap(gaps, output)] if gaps else drawn


def _save(figure: Any, path: Path, title: str, caption: str) -> Drawn:
    figure.savefig(path, dpi=DPI, facecolor="white")
    # Flat colours: a palette makes the file a third as large, and it has to live in the repository.
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(96)
    small.save(path, optimize=True)
    return Drawn(path, title, caption)


def _legend(figure: Any, ax: Any, columns: int) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def families(
    methods: Mapping[str, Mapping[str, float | None]],
) -> dict[str, list[tuple[str, Mapping[str, float | None]]]]:
    """First word of the rows' names -> rows; IDaS-SR alone is left out, because its dial is a curve of its own."""
    found: dict[str, list[tuple[str, Mapping[str, float | None]]]] = {}
    for name, values in methods.items():
        first, _, setting = name.partition(", ")
        if first in FAMILIES and (first != "idas" or "HD-CLIP" in setting):
            found.setdefault(first, []).append((setting, values))
    return found


def _trade_off(dial: Summary, methods: Mapping[str, Any], output: Path) -> Drawn:
    """Fidelity against a distance and against naturalness: the dial's curve, the others as points."""
    figure, axes = new_figure(1, len(PLANES), 5.4, 4.4)
    curves, realism = dial["variants"][OWN]["curves"], dial["realism"]
    for ax, (measure, title) in zip(axes, PLANES, strict=True):
        ax.plot(
            curves["psnr_y"], curves[measure], "o-", color=COLOURS[0], markersize=3.5, label="IDaS-SR, realism 0 to 1"
        )
        for i in (0, -1):
            at = (curves["psnr_y"][i], curves[measure][i])
            ax.annotate(f"r={realism[i]:g}", at, (5, 4), textcoords="offset points", fontsize=8)
        shown = list(zip(curves["psnr_y"], curves[measure], strict=True))
        for index, (first, rows) in enumerate(families(methods).items(), start=1):
            shown += _points(ax, FAMILIES[first], rows, measure, COLOURS[index % len(COLOURS)])
        _trivial(ax, methods, measure, shown)
        ax.set_xlabel("psnr_y, dB (higher: closer)", fontsize=9)
        ax.set_title(title, fontsize=10)
    _legend(figure, axes[0], 4)
    caption = (
        "Every point is a setting of a method, mean over the same pictures; the others were trained for minutes where "
        "IDaS-SR had hours. A lower niqe alone proves nothing, since grain lowers it."
    )
    return _save(figure, output / "study_tradeoff.png", "The dial among the other methods", caption)


def _points(
    ax: Any, family: tuple[str, str], rows: Sequence[tuple[str, Mapping[str, float | None]]], measure: str, colour: str
) -> list[tuple[float, float]]:
    """A family's rows, joined where they are settings of one knob; returns where they lie."""
    name, marker = family
    known = [
        (s, v["psnr_y"], v[measure]) for s, v in rows if v.get("psnr_y") is not None and v.get(measure) is not None
    ]
    for knob in ("steps", "group"):
        joined = [(x, y) for setting, x, y in known if setting.startswith(knob) and not setting.endswith("auto")]
        if joined:
            ax.plot(*zip(*joined, strict=True), color=colour, linewidth=0.8, alpha=0.6)
    if known:
        ax.plot(
            [x for _, x, _ in known],
            [y for _, _, y in known],
            marker,
            color=colour,
            markersize=5.5,
            alpha=0.85,
            label=name,
        )
    for setting, x, y in known:
        kind, _, value = setting.partition(" ")
        if kind in ("steps", "group") and value in ("1", "5", "fid", "real"):
            ax.annotate(value, (x, y), (4, -9), textcoords="offset points", fontsize=7, color=colour)
    return [(x, y) for _, x, y in known]  # type: ignore[misc]


def _trivial(ax: Any, methods: Mapping[str, Any], measure: str, shown: Sequence[tuple[float, float]]) -> None:
    """Restorations without a model: in the plot where they are near what it shows, else named in its corner."""
    low, high = min(y for _, y in shown), max(y for _, y in shown)
    reach, labelled = high - low or 1.0, False
    outside: list[str] = []
    for name in TRIVIAL:
        x, y = (methods.get(name, {}).get(key) for key in ("psnr_y", measure))
        if x is None or y is None:
            continue
        if low - reach / 2 <= y <= high + reach / 2:
            ax.plot([x], [y], "x", color="#555555", markersize=6, label=None if labelled else "without a model")
            ax.annotate(name, (x, y), (5, 3), textcoords="offset points", fontsize=7, color="#555555")
            labelled = True
        else:
            outside.append(f"{name} {x:.2f} dB, {y:.2f}")
    if outside:
        text = "\n".join(["outside:", *outside])
        ax.annotate(text, (0.02, 0.98), xycoords="axes fraction", va="top", fontsize=7, color="#555555")
    ax.margins(0.14)


def _steerings(summary: Summary, output: Path) -> Drawn:
    """What the other ways to steer and to reschedule do to four measures."""
    panels = {
        "psnr_y": "psnr_y, dB",
        "sqdist": "sqdist",
        "niqe": "niqe",
        "high_band": "log energy above 0.25 cycle",
        "gap_mean": "position-state gap, mean",
        "b_r": "weight b_r of fresh noise",
    }
    figure, axes = new_figure(2, 3, 4.0, 2.9)
    for ax, (measure, title) in zip(axes, panels.items(), strict=True):
        for index, (label, variant) in enumerate(summary["variants"].items()):
            values = variant["curves"].get(measure)
            if values and None not in values:
                ax.plot(
                    summary["realism"], values, marker="o", markersize=3, linewidth=1.4, label=label, **style_of(index)
                )
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("realism", fontsize=9)
    _legend(figure, axes[0], 5)
    caption = f"Means over {summary['images']} pictures and two seeds; the same model, not trained for the other ways."
    return _save(figure, output / "study_steerings.png", "Other ways to steer", caption)


def _gap(sets: Mapping[str, Summary], output: Path) -> Drawn:
    """Mean of the gap and of its size over realism, a row per set of pictures."""
    figure, axes = new_figure(len(sets), 2, 5.2, 2.9)
    for row, (name, found) in enumerate(sets.items()):
        for column, (part, words) in enumerate((("mean", "mean of g"), ("abs", "mean of its size"))):
            ax = axes[2 * row + column]
            for index, (label, of) in enumerate(found["steerings"].items()):
                if None not in of[part]:
                    ax.plot(
                        found["realism"],
                        of[part],
                        marker="o",
                        markersize=3,
                        linewidth=1.4,
                        label=label,
                        **style_of(index),
                    )
            ax.axhline(0, color="#888888", linewidth=0.8)
            ax.set_title(f"{name}: {words}", fontsize=10)
            ax.set_xlabel("realism", fontsize=9)
    _legend(figure, axes[0], 6)
    caption = "Above 0 the state is noisier than the timestep that the UNet is told, below 0 less noisy."
    return _save(figure, output / "study_gap.png", "Do position and state agree?", caption)
