"""A realism study as one HTML page that needs no other file and no network, and as a table for a terminal."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter

from idas_sr.evaluation.files import write_text
from idas_sr.evaluation.plots import Drawn
from idas_sr.evaluation.sweep import picture_name

LARGEST = 512
"""Pixels along a side that a picture on the page has at most; larger ones are cut to their middle, never shrunk."""

DETAIL = 128
"""Side of the cut that the strips show at twice its size."""

COLUMNS = (
    ("psnr_y_span", "psnr_y given up, dB", 2),
    ("psnr_y_largest_rise", "largest rise of psnr_y in a step", 3),
    ("spearman_mean", "Spearman(r, psnr_y), mean", 3),
    ("niqe_fall", "niqe won", 2),
    ("niqe_largest_rise", "largest rise of niqe in a step", 3),
    ("high_band_rise", "rise of the high band", 2),
    ("high_band_largest_fall", "its largest fall in a step", 3),
    ("line_furthest_from_1", "grid (1: none)", 2),
)

ENDS = (("psnr_y", 2), ("ssim_y", 4), ("sqdist", 3), ("niqe", 2), ("high_band", 2), ("gap_mean", 3), ("gap_abs", 3))

EXPLAINED = (
    "A rise of psnr_y or niqe, or a fall of the high band, is a step in which the dial went the wrong way; figures up "
    "to 0 mean that there was none. high_band: mean log power between 0.25 and 0.5 cycles per pixel, less that of the "
    "reference. grid: the power at a period of 8 or 4 pixels that is furthest from that of its neighbours, as a "
    "factor, over all r. sqdist: feature distance of SqueezeNet, not LPIPS."
)

ABOUT_PICTURES = (
    "Move the slider. The pictures are JPEG for this page (quality 95) and cut to their middle where they are large; "
    "the strips below them are exact pixels of the busiest part, enlarged. All files are in <code>pictures/</code>."
)

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1180px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2.2em; border-top: 1px solid #ddd; padding-top: 1em; }
h3 { font-size: 1em; margin: 1.8em 0 .4em; }
table { border-collapse: collapse; font-size: .86em; } th, td { padding: .25em .7em; text-align: right;
  border-bottom: 1px solid #e4e4e4; font-variant-numeric: tabular-nums; }
th { font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
.wide { overflow-x: auto; } p.caption { color: #555; font-size: .9em; margin: .3em 0; max-width: 75ch; }
img.plot { max-width: 100%; height: auto; }
.viewer { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px; }
.viewer figure, .strip figure { margin: 0; }
.viewer img { width: 100%; height: auto; display: block; background: #eee; }
figcaption { font-size: .8em; color: #444; } .dial { display: flex; align-items: center; gap: .8em; margin: .5em 0; }
.dial input { flex: 1; accent-color: #0072b2; } .dial output { min-width: 12em; font-variant-numeric: tabular-nums; }
.strip { display: flex; gap: 4px; overflow-x: auto; margin-top: .6em; padding-bottom: .4em; }
.strip img { width: 192px; height: 192px; image-rendering: pixelated; display: block; }
code { background: #f4f4f4; padding: .1em .3em; overflow-wrap: anywhere; }
"""

SCRIPT = """
for (const view of document.querySelectorAll('.study')) {
  const steps = [...view.querySelectorAll('.step')], dial = view.querySelector('input'),
    out = view.querySelector('output');
  const show = () => { steps.forEach((img, i) => { img.hidden = i != dial.value; });
    out.textContent = steps[dial.value].dataset.words; };
  dial.addEventListener('input', show); show();
}
"""


def table(summary: Mapping[str, Any]) -> str:
    """One row per variant and end of the dial, aligned for a terminal."""
    realism = summary["realism"]
    head = ["steering", "r", *(name for name, _ in ENDS), "Spearman"]
    rows = [head]
    for label, variant in summary["variants"].items():
        for i in sorted({0, len(realism) - 1}):
            values = [_number(variant["curves"].get(name, [None] * len(realism))[i], digits) for name, digits in ENDS]
            rows.append([label, f"{realism[i]:g}", *values, _number(variant["dial"]["spearman_mean"], 3)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)


def write(summary: Mapping[str, Any], drawn: Sequence[Drawn], shown: Sequence[str], output: Path) -> Path:
    """Write ``output``/report.html; returns its path.

    Args:
        summary: of the study.
        drawn: its plots.
        shown: stems whose pictures lie below ``output``/pictures.
    """
    settings = summary["settings"]
    first = next(iter(summary["variants"]))
    parts = [
        "<h1>What the realism dial does</h1>",
        f"<p>{summary['images']} pictures, realism {_words(summary['realism'])}, seeds {_words(settings['seeds'])}; "
        f"model <code>{html.escape(str(settings['model']))}</code>, "
        f"weights <code>{settings['fingerprint'][:12]}</code>. 0 stays closest to the input, 1 gives most detail.</p>",
        f"<p><code>{html.escape(' '.join(summary['command']))}</code></p>",
        "<h2>The dial in figures</h2>",
        _ends_table(summary),
        _dial_table(summary),
        f"<p class=caption>{EXPLAINED}</p>",
    ]
    if shown:
        parts.append(f"<h2>Pictures ({html.escape(first)})</h2><p class=caption>{ABOUT_PICTURES}</p>")
        parts += [_study(stem, summary["realism"], output / "pictures" / stem) for stem in shown]
    parts.append("<h2>Plots</h2>")
    parts += [_plot(plot) for plot in drawn]
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    parts.append(f"<p class=caption>{html.escape(versions)}</p>")
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Realism study</title><style>{STYLE}</style>"
        f"<body>{''.join(parts)}<script>{SCRIPT}</script></body></html>\n"
    )
    path = output / "report.html"
    write_text(path, page)
    return path


def _words(values: Sequence[Any]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><tr>{top}</tr>{body}</table></div>"


def _ends_table(summary: Mapping[str, Any]) -> str:
    realism, rows = summary["realism"], []
    for label, variant in summary["variants"].items():
        for i in sorted({0, len(realism) // 2, len(realism) - 1}):
            values = [_number(variant["curves"].get(name, [None] * len(realism))[i], digits) for name, digits in ENDS]
            rows.append([f"{label}, r = {realism[i]:g}", *values])
    rows.append(["the references", "–", "–", "–", _number(summary["reference"]["niqe"], 2), "0.00", "–", "–"])
    return _html_table(["", *(name for name, _ in ENDS)], rows)


def _dial_table(summary: Mapping[str, Any]) -> str:
    rows = [
        [label, *(_number(variant["dial"][name], digits) for name, _, digits in COLUMNS)]
        for label, variant in summary["variants"].items()
    ]
    return "<br>" + _html_table(["", *(title for _, title, _ in COLUMNS)], rows)


def _plot(plot: Drawn) -> str:
    source = _data_url(plot.path.read_bytes(), "png")
    title = html.escape(plot.title)
    return (
        f"<h3>{title}</h3><img class=plot alt='{title}' src='{source}'><p class=caption>{html.escape(plot.caption)}</p>"
    )


def _study(stem: str, realism: Sequence[float], folder: Path) -> str:
    """Input, restoration under a slider and reference of one picture; below them a strip of enlarged cuts."""
    reference = Image.open(folder / "reference.png").convert("RGB")
    lq = Image.open(folder / "input.png").convert("RGB").resize(reference.size, Image.Resampling.BICUBIC)
    steps = [Image.open(folder / picture_name(r)).convert("RGB") for r in realism]
    images = "".join(
        f"<img class=step data-words='realism {r:g}' alt='restored at realism {r:g}' src='{_jpeg(step)}'"
        f"{'' if i == 0 else ' hidden'}>"
        for i, (r, step) in enumerate(zip(realism, steps, strict=True))
    )
    name = html.escape(stem)
    viewer = (
        f"<div class=viewer><figure><img alt='input' src='{_jpeg(lq)}'>"
        "<figcaption>input, enlarged (bicubic)</figcaption></figure>"
        f"<figure>{images}<figcaption>restored</figcaption></figure>"
        f"<figure><img alt='reference' src='{_jpeg(reference)}'><figcaption>reference</figcaption></figure></div>"
    )
    box = busiest(reference)
    cells = [("input", lq), *((f"r = {r:g}", step) for r, step in zip(realism, steps, strict=True))]
    strip = "".join(
        f"<figure><img alt='{title}' src='{_png(picture.crop(box))}'><figcaption>{title}</figcaption></figure>"
        for title, picture in [*cells, ("reference", reference)]
    )
    return (
        f"<div class=study><h3>{name}</h3><div class=dial><span>faithful</span><input type=range min=0 value=0 "
        f"max={len(realism) - 1} aria-label='realism of {name}'><span>most detail</span><output></output></div>{viewer}"
        f"<div class=strip>{strip}</div></div>"
    )


def busiest(picture: Image.Image, side: int = DETAIL) -> tuple[int, int, int, int]:
    """Box (left, top, right, bottom) of at most ``side`` pixels in which the picture has most fine detail."""
    grey = np.asarray(picture.convert("L"), dtype=np.float64)
    height, width = (min(side, length) for length in grey.shape)
    # Mean square of what a slight blur takes away, over every window; those that leave the picture do not count.
    energy = uniform_filter((grey - gaussian_filter(grey, 1.5)) ** 2, (height, width), mode="constant")
    inner = energy[height // 2 : grey.shape[0] - (height - 1) // 2, width // 2 : grey.shape[1] - (width - 1) // 2]
    top, left = (int(i) for i in np.unravel_index(int(inner.argmax()), inner.shape))
    return left, top, left + width, top + height


def _jpeg(picture: Image.Image) -> str:
    left, top = (max(side - LARGEST, 0) // 2 for side in picture.size)
    cut = picture.crop((left, top, left + min(picture.width, LARGEST), top + min(picture.height, LARGEST)))
    file = io.BytesIO()
    cut.save(file, "JPEG", quality=95, subsampling=0)
    return _data_url(file.getvalue(), "jpeg")


def _png(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return _data_url(file.getvalue(), "png")


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
