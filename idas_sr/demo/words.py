"""Severity, position and outcomes in words and small drawings (SVG and HTML of our own, nothing from elsewhere)."""

from __future__ import annotations

import html
from collections.abc import Sequence

from idas_sr.batch import Outcome
from idas_sr.demo.studio import Shown
from idas_sr.imagefiles.heatmaps import COLOURS, FULL, TICKS
from idas_sr.invention import in_words

LAST = 999.0
"""Timestep of almost pure noise."""
SEVERITIES = ((80.0, "close to clean"), (160.0, "some way from clean"), (240.0, "far from clean"))
WORST = "very far from clean"


def severity(timestep: float) -> str:
    """Words for a declared timestep. The limits are ours; an eye may see it differently."""
    return next((word for limit, word in SEVERITIES if timestep < limit), WORST)


def describe(shown: Shown, realism: float) -> str:
    """The panel below a restoration."""
    trace = shown.trace
    width, height = shown.size
    freshness = trace["b_r"] ** 2 / max(trace["a_r"] ** 2 + trace["b_r"] ** 2, 1e-12)
    how = "encoded, anchored and restored" if shown.is_first else "restored from its anchor"
    notes = "".join(f"<li>{html.escape(notice)}</li>" for notice in shown.notices)
    moved = trace["t_r"] - trace["t_hat"]
    position = "exactly there" if moved < 0.5 else f"{moved:.0f} steps further"
    return (
        '<div class="panel"><div class="facts">'
        f'<div class="severity">{severity(trace["t_hat"])}</div>'
        f"<p>MINE finds the picture at timestep <b>{trace['t_hat']:.0f}</b> of 999. At realism {realism:g} the network "
        f"starts {position}, and <b>{freshness:.0%}</b> of the noise's energy is fresh.</p>"
        f'<p class="small">{width}x{height} pixels, {how} in {shown.seconds:.2f} s</p>'
        f"{invention_of(shown)}{f'<ul class=small>{notes}</ul>' if notes else ''}</div>"
        f"{scale_of(trace['t_hat'])}{curve_of(shown.positions, realism)}</div>"
    )


def invention_of(shown: Shown) -> str:
    """The share of invented detail and the legend of the overlay; nothing where there is none."""
    if shown.invented is None:
        return ""
    stops = ", ".join(f"rgb{colour} {place:.0%}" for place, colour in COLOURS)
    ticks = "".join(f"<span>{tick}{' and more' if tick == FULL else ''}</span>" for tick in TICKS)
    return (
        f"<p><b>{in_words(shown.invented)}</b> of the energy of the detail is invented. Grey is where there is next to "
        f'none; colours are steps of the 255 between black and white:</p><div class="heat">'
        f'<div style="background:linear-gradient(to right, {stops})"></div><p>{ticks}</p></div>'
    )


def scale_of(timestep: float) -> str:
    """A ruler from clean to noise with a mark at the declared timestep."""
    x = 8 + 264 * timestep / LAST
    ticks = "".join(
        f'<line x1="{8 + 264 * t / LAST:.1f}" x2="{8 + 264 * t / LAST:.1f}" y1="30" y2="34"/>'
        for t in range(0, 1000, 100)
    )
    return (
        '<svg class="plot" viewBox="0 0 280 64" role="img" aria-label="severity">'
        '<text x="8" y="14">clean</text><text x="272" y="14" text-anchor="end">noise</text>'
        f'<rect x="8" y="22" width="264" height="8" rx="4" class="rail"/><g class="tick">{ticks}</g>'
        f'<rect x="8" y="22" width="{x - 8:.1f}" height="8" rx="4" class="fill"/>'
        f'<circle cx="{x:.1f}" cy="26" r="7" class="dot"/>'
        f'<text x="{min(max(x, 40), 240):.1f}" y="52" text-anchor="middle" class="value">timestep {timestep:.0f}</text>'
        "</svg>"
    )


def curve_of(positions: Sequence[float], realism: float) -> str:
    """The timestep over the dial, with a dot where the dial is."""
    if len(positions) < 2:
        return ""
    low, high = min(positions), max(positions)
    span = max(high - low, 1.0)

    def place(r: float, t: float) -> tuple[float, float]:
        return 40 + 226 * r, 64 - 48 * (t - low) / span

    points = [place(i / (len(positions) - 1), t) for i, t in enumerate(positions)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    between = realism * (len(positions) - 1)
    index = min(int(between), len(positions) - 2)
    here = positions[index] + (between - index) * (positions[index + 1] - positions[index])
    x, y = place(realism, here)
    return (
        '<svg class="plot" viewBox="0 0 280 92" role="img" aria-label="timestep over realism">'
        '<line x1="40" y1="64" x2="266" y2="64" class="axis"/><line x1="40" y1="12" x2="40" y2="64" class="axis"/>'
        f'<text x="34" y="67" text-anchor="end">{low:.0f}</text><text x="34" y="20" text-anchor="end">{high:.0f}</text>'
        '<text x="40" y="80" text-anchor="middle">0</text><text x="266" y="80" text-anchor="middle">1</text>'
        f'<text x="153" y="84" text-anchor="middle">realism</text><polyline points="{line}" class="curve"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" class="dot"/></svg>'
    )


def report(outcomes: Sequence[Outcome], count: int) -> str:
    """Progress of a batch and what became of each file; no path of the server in it."""
    rows = "".join(
        f'<tr class="{outcome.status}"><td>{html.escape(outcome.job.source.name)}</td><td>{outcome.status}</td>'
        f"<td>{_result_of(outcome)}</td></tr>"
        for outcome in outcomes
    )
    done = len(outcomes)
    return (
        f'<div class="batch"><div class="bar"><div style="width:{100 * done / max(count, 1):.0f}%"></div></div>'
        f'<p class="small">{done} of {count}</p><table>{rows}</table></div>'
    )


def _result_of(outcome: Outcome) -> str:
    if outcome.size is not None:
        return f"{outcome.size[0]}x{outcome.size[1]} pixels, {outcome.seconds:.2f} s"
    return html.escape(without_paths(outcome.reason or "", outcome))


def without_paths(text: str, outcome: Outcome) -> str:
    """A message that names the file, not where the server keeps it."""
    for path in (outcome.job.source, outcome.job.target):
        text = text.replace(str(path), path.name)
    return text
