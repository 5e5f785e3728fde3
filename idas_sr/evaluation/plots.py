"""Plots of a realism study, as PNG files. Needs matplotlib, which comes with the extra ``plot``."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idas_sr.evaluation.spectrum import HIGH, ring_centres
from idas_sr.lines import LINES

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6d31", "#555555")
"""Okabe and Ito's, which colour-blind readers tell apart; after them dashes tell variants apart."""

DASHES = ("-", "--", ":", "-.")
DPI = 130


@dataclass(frozen=True)
class Drawn:
    """A plot on disk and what it shows."""

    path: Path
    title: str
    caption: str


@dataclass(frozen=True)
class Panel:
    """One set of axes: a measure of the curves, its title, and a level of the reference to draw, if any."""

    measure: str
    title: str
    level: float | None = None
    level_name: str = ""


def check() -> None:
    """Refuse early where plots cannot be drawn.

    Raises:
        ValueError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError('Plots need matplotlib; install it with pip install "idas-sr[plot]".')


def new_figure(rows: int, columns: int, width: float = 4.2, height: float = 3.2) -> tuple[Any, list[Any]]:
    """A figure without a window, and its axes in reading order."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.grid(color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8, color="#888888")
        ax.title.set_size(10)
    return figure, axes


def style_of(index: int) -> dict[str, Any]:
    """Colour and dashes of the variant number ``index``."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def draw_all(summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]], output: Path) -> list[Drawn]:
    """Draw every plot of a study into ``output``; measures that were not taken have no plot."""
    output.mkdir(parents=True, exist_ok=True)
    variants = summary["variants"]
    drawn = [_curves(summary, output), _trade_off(summary, output), _pictures(summary, records, output)]
    if any("diversity" in variant for variant in variants.values()):
        drawn.append(_diversity(summary, output))
    drawn += [_gap(summary, output), _spectra(summary, output), _lines(summary, output)]
    return drawn


def _save(figure: Any, path: Path, title: str, caption: str) -> Drawn:
    figure.savefig(path, dpi=DPI, facecolor="white")
    return Drawn(path, title, caption)


def _plot(ax: Any, realism: Sequence[float], values: Sequence[float | None], **style: Any) -> None:
    known = [(r, value) for r, value in zip(realism, values, strict=True) if value is not None]
    if known:
        ax.plot(*zip(*known, strict=True), marker="o", markersize=3.5, linewidth=1.5, **style)


def _share_axis(figure: Any, axes: Sequence[Any], count: int) -> None:
    """Realism below every axes that is used; no others; a legend where there is more than one line."""
    for ax in axes[:count]:
        ax.set_xlabel("realism", fontsize=9)
        ax.set_xlim(-0.04, 1.04)
    for ax in axes[count:]:
        ax.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False, fontsize=9)


def _curves(summary: Mapping[str, Any], output: Path) -> Drawn:
    panels = [
        Panel("psnr_y", "psnr_y, dB (higher: closer)"),
        Panel("ssim_y", "ssim_y (higher: closer)"),
        Panel("sqdist", "sqdist (lower: closer)"),
        Panel("niqe", "niqe (lower: more like photographs)", summary["reference"]["niqe"], "reference"),
        Panel("high_band", "log energy above 0.25 cycles/pixel, against reference", 0.0, "reference"),
        Panel("b_r", "weight b_r of fresh noise"),
    ]
    variants = summary["variants"]
    panels = [p for p in panels if any(p.measure in v["curves"] for v in variants.values())]
    figure, axes = new_figure(2, 3)
    for ax, panel in zip(axes, panels, strict=False):
        for index, (label, variant) in enumerate(variants.items()):
            values = variant["curves"].get(panel.measure)
            if values:
                _plot(ax, summary["realism"], values, label=label, **style_of(index))
        if panel.level is not None:
            ax.axhline(panel.level, color="#888888", linewidth=1, linestyle=(0, (4, 3)))
            ax.annotate(
                panel.level_name,
                (0.01, panel.level),
                xycoords=("axes fraction", "data"),
                va="bottom",
                fontsize=8,
                color="#666666",
            )
        ax.set_title(panel.title, fontsize=10)
    _share_axis(figure, axes, len(panels))
    caption = f"Means over {summary['images']} pictures and all seeds."
    return _save(figure, output / "curves.png", "The dial", caption)


def _trade_off(summary: Mapping[str, Any], output: Path) -> Drawn:
    variants = summary["variants"]
    pairs = [("psnr_y", "psnr_y, dB"), ("sqdist", "sqdist (lower: closer)")]
    pairs = [p for p in pairs if any(p[0] in v["curves"] for v in variants.values())]
    figure, axes = new_figure(1, len(pairs), 5.2, 4.0)
    realism = summary["realism"]
    for ax, (measure, title) in zip(axes, pairs, strict=True):
        for index, (label, variant) in enumerate(variants.items()):
            x, y = variant["curves"][measure], variant["curves"].get("niqe")
            if not y or None in x or None in y:
                continue
            ax.plot(x, y, marker="o", markersize=3.5, linewidth=1.5, label=label, **style_of(index))
            # All start at one point: at realism 0 nothing is steered yet.
            for i in (0, -1) if index == 0 else (-1,):
                words = f"r={realism[i]:g}"
                ax.annotate(words, (x[i], y[i]), (5, 4), textcoords="offset points", fontsize=8)
        ax.set_xlabel(title, fontsize=9)
        ax.set_ylabel("niqe (lower: more like photographs)", fontsize=9)
        ax.margins(0.12)
    handles, labels = axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False, fontsize=9)
    caption = (
        "Every point is one value of realism. A lower niqe alone proves nothing, since grain lowers it; read it beside "
        "the distance from the reference."
    )
    return _save(figure, output / "tradeoff.png", "Fidelity against naturalness", caption)


def _pictures(summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]], output: Path) -> Drawn:
    """psnr_y of every picture relative to its own start, and the distribution of rank correlations."""
    realism, variants = summary["realism"], summary["variants"]
    figure, (left, right) = new_figure(1, 2, 5.2, 3.6)
    label = next(iter(variants))
    for record in records:
        rows = record["variants"][label]["rows"]
        values = [[row["psnr_y"] for row in rows if row["realism"] == r] for r in realism]
        means = [sum(at) / len(at) for at in values]
        left.plot(realism, [m - means[0] for m in means], color=COLOURS[0], alpha=0.35, linewidth=0.9)
    left.axhline(0, color="#888888", linewidth=0.8)
    left.set_title(f"{label}: psnr_y of each picture, less that at its start, dB", fontsize=10)
    left.set_xlabel("realism", fontsize=9)
    found = [[s for s in variant["spearman"] if s is not None] for variant in variants.values()]
    for index, (name, values) in enumerate(zip(variants, found, strict=True)):
        # Stacked dots would hide one another, so every variant has its own row and equal values spread a little.
        offsets = [index + 0.5 * ((i % 7) / 6 - 0.5) for i in range(len(values))]
        right.plot(values, offsets, "o", markersize=4, alpha=0.6, color=style_of(index)["color"])
        mean = variants[name]["dial"]["spearman_mean"]
        text = f"{name}\n(does not move)" if mean is None else f"{name}\nmean {mean:.2f}"
        right.annotate(text, (1.02, index), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    right.set_yticks([])
    right.set_xlim(-1.05, 1.05)
    right.set_ylim(-0.6, len(found) - 0.4)
    right.set_title("Spearman's rank correlation of realism and psnr_y, per picture", fontsize=10)
    caption = "A dial that works gives up fidelity in every picture, not only on average: rank correlation -1."
    return _save(figure, output / "pictures.png", "Picture by picture", caption)


def _side_by_side(summary: Mapping[str, Any], part: str, names: tuple[str, str]) -> tuple[Any, Any]:
    """Two panels of a part of each variant over realism, where the variant has it."""
    figure, axes = new_figure(1, 2)
    for index, (label, variant) in enumerate(summary["variants"].items()):
        for ax, name in zip(axes, names, strict=True):
            if name in variant[part]:
                _plot(ax, summary["realism"], variant[part][name], label=label, **style_of(index))
    return figure, axes


def _diversity(summary: Mapping[str, Any], output: Path) -> Drawn:
    figure, axes = _side_by_side(summary, "diversity", ("rms", "high_share"))
    axes[0].set_title("difference between seeds, rms in 8-bit levels", fontsize=10)
    axes[1].set_title(f"share of its energy above {HIGH:g} cycles/pixel", fontsize=10)
    axes[1].set_ylim(0, 1)
    _share_axis(figure, axes, 2)
    caption = (
        "0 at realism 0 means that the seed does not matter there. Where most of the energy is high, seeds differ in "
        "texture and not in structure (white noise: 0.80)."
    )
    return _save(figure, output / "diversity.png", "What another seed changes", caption)


def _gap(summary: Mapping[str, Any], output: Path) -> Drawn:
    figure, axes = _side_by_side(summary, "curves", ("gap_mean", "gap_abs"))
    axes[0].axhline(0, color="#888888", linewidth=0.8)
    axes[0].set_title("position-state gap, mean", fontsize=10)
    axes[1].set_title("position-state gap, mean of absolute values", fontsize=10)
    axes[1].set_ylim(bottom=0)
    _share_axis(figure, axes, 2)
    caption = (
        "log(rms(y_r - z_hq) / w(t_r)): above 0 the state is noisier than the timestep that the network is told, "
        "below 0 less noisy."
    )
    return _save(figure, output / "gap.png", "Do position and state agree?", caption)


def _spectra(summary: Mapping[str, Any], output: Path) -> Drawn:
    from matplotlib import colormaps

    variants = summary["variants"]
    columns = min(len(variants), 4)
    figure, axes = new_figure(-(-len(variants) // columns), columns, 4.6 if columns > 1 else 6.4, 3.4)
    for ax, (label, variant) in zip(axes, variants.items(), strict=False):
        for r, values in zip(summary["realism"], variant["spectrum"], strict=True):
            if None not in values:
                ax.plot(ring_centres(), values, color=colormaps["viridis"](0.92 * r), linewidth=1.4, label=f"r={r:g}")
        ax.axhline(0, color="#888888", linewidth=0.8)
        ax.axvspan(HIGH, 0.5, color="#f2f2f2", zorder=0)
        ax.set_title(f"{label}: log power against reference", fontsize=10)
        ax.set_xlabel("cycles per pixel", fontsize=9)
    for ax in axes[1:]:
        ax.sharey(axes[0])
    axes[0].legend(fontsize=7, frameon=False, ncols=2)
    for ax in axes[len(variants) :]:
        ax.set_visible(False)
    caption = "0: as much energy as the reference at that frequency. The shaded band is what high_band averages."
    return _save(figure, output / "spectrum.png", "How much detail, at which scale", caption)


def _lines(summary: Mapping[str, Any], output: Path) -> Drawn:
    figure, axes = new_figure(1, len(LINES), 3.3, 3.0)
    for k, (ax, frequency) in enumerate(zip(axes, LINES, strict=True)):
        for index, (label, variant) in enumerate(summary["variants"].items()):
            _plot(ax, summary["realism"], [at[k] for at in variant["lines"]], label=label, **style_of(index))
        level = summary["reference"]["lines"][k]
        if level is not None:
            ax.axhline(level, color="#888888", linewidth=1, linestyle=(0, (4, 3)))
        ax.axhspan(0.9, 1.1, color="#eef6ee", zorder=0)
        ax.set_title(f"{frequency:g} cycles/pixel", fontsize=10)
        # One range that shows the band of 10 % and grows with what is drawn.
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, 0.8), max(high, 1.2))
    _share_axis(figure, axes, len(LINES))
    caption = (
        "Power at periods of 8 and 4 pixels over that of neighbouring frequencies. Within the band of 10 % there is no "
        "grid to be seen; dashed: the references themselves."
    )
    return _save(figure, output / "grid.png", "Is a grid printed into the pictures?", caption)
