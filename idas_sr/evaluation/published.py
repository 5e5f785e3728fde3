"""What papers print, each row with its source, and tables that set our own rows beside them.

One JSON file per benchmark lies in ``published/``. Columns have pyiqa's names, so that variants stay apart
(``maniqa-pipal`` is not ``maniqa``), but for psnr_y and ssim_y, which are ours, and for ``lpips-unstated``: LPIPS of a
paper that does not say with which network.

Two families of protocols are in use (methods.md 8). I: InvSR's and ResShift's sets, RealSR at full size among them.
O: OSEDiff's and StableSR's, where "RealSR" means 128-pixel crops. The same method has other figures in each, so they
never share a table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

FAMILIES = {"I": "InvSR and ResShift", "O": "OSEDiff and StableSR"}

NEVER_PUBLISHED = frozenset({"imagenet-test-rebuilt"})
"""Benchmarks that a user makes: nobody has published figures for them, and those of their models do not count."""

DIGITS = {"psnr_y": 2, "ssim_y": 4, "niqe": 3, "musiq": 2, "fid": 2, "tres": 2, "pi": 3}
"""Decimals of a column in a table; 4 for all others."""

Metrics = Mapping[str, float | None]


@dataclass(frozen=True)
class PublishedRow:
    """One line of a paper's table.

    Attributes:
        method: as the paper calls it, with its steps or setting where that matters.
        benchmark: name of the test set.
        family: ``I`` or ``O``.
        metrics: column -> value; a column that the paper lacks is absent.
        source: paper and table.
        protocol: test set and settings of the metrics.
        known_wrong: why the row cannot be right, or None.
        note: what else one must know, or None.
    """

    method: str
    benchmark: str
    family: str
    metrics: Mapping[str, float]
    source: str
    protocol: str
    known_wrong: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class _Line:
    """One line of a table: what it is, its name, its figures and the numbers of its footnotes."""

    kind: str
    name: str
    metrics: Metrics
    notes: tuple[str, ...] = field(default=())


def published_benchmarks() -> list[str]:
    """Names that `published_rows` knows, sorted."""
    folder = files("idas_sr").joinpath("evaluation", "published")
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


@cache
def _load(benchmark: str) -> tuple[PublishedRow, ...]:
    text = files("idas_sr").joinpath("evaluation", "published", f"{benchmark}.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    common = {"benchmark": content["benchmark"], "family": content["family"], "protocol": content["protocol"]}
    return tuple(PublishedRow(**{**common, **row}) for row in content["rows"])


def published_rows(benchmark: str) -> list[PublishedRow]:
    """The published rows of one benchmark, all of one family; none for a set that a user makes.

    Raises:
        ValueError: no such benchmark.
    """
    if benchmark in NEVER_PUBLISHED:
        return []
    known = published_benchmarks()
    if benchmark not in known:
        raise ValueError(f"Nothing published is stored for {benchmark!r}; there is {', '.join(known)}.")
    return list(_load(benchmark))


def comparison_table(
    ours: Mapping[str, Metrics],
    published: Sequence[PublishedRow] = (),
    trivial: Mapping[str, Metrics] | None = None,
    columns: Sequence[str] | None = None,
) -> str:
    """A Markdown table whose first column says what a row is: trivial, published or ours.

    Args:
        ours: name -> metrics, measured here.
        published: rows of one benchmark, from `published_rows`.
        trivial: restorations without a model, measured here: bicubic, + unsharp mask, + grain.
        columns: metrics to show; default all that our rows have, or all published ones without rows of ours.

    Raises:
        ValueError: published rows of two families or of two benchmarks.
    """
    for name, values in (("families", {r.family for r in published}), ("benchmarks", {r.benchmark for r in published})):
        if len(values) > 1:
            raise ValueError(
                f"Rows of the {name} {' and '.join(sorted(values))} were measured differently and cannot share a table."
            )
    lines = [_Line("trivial", name, metrics) for name, metrics in (trivial or {}).items()]
    lines += [_published_line(row) for row in published]
    lines += [_Line("**ours**", name, metrics) for name, metrics in ours.items()]
    measured = [metrics for metrics in (*ours.values(), *(trivial or {}).values())]
    shown = columns or _columns(measured or [row.metrics for row in published])
    notes = list(dict.fromkeys(note for line in lines for note in line.notes))
    cells = [["", "", *shown]]
    for line in lines:
        marks = "".join(f" [{notes.index(note) + 1}]" for note in line.notes)
        cells.append([line.kind, line.name + marks, *(_number(line.metrics.get(c), c) for c in shown)])
    text = [_aligned(cells)]
    if published:
        head = published[0]
        text += ["", f"Published rows: family {head.family} ({FAMILIES[head.family]}). {head.protocol}."]
    if notes:
        text += ["", *(f"{number}. {note}." for number, note in enumerate(notes, 1))]
    return "\n".join(text) + "\n"


def _published_line(row: PublishedRow) -> _Line:
    notes = [row.source]
    if row.known_wrong:
        notes.append(f"KNOWN TO BE WRONG: {row.known_wrong}")
    if row.note:
        notes.append(row.note)
    return _Line("published, WRONG" if row.known_wrong else "published", row.method, row.metrics, tuple(notes))


def _columns(rows: Sequence[Metrics]) -> list[str]:
    """Columns in which any row has a value, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name, value in row.items() if value is not None))


def _number(value: float | None, column: str) -> str:
    return "–" if value is None else f"{value:.{DIGITS.get(column, 4)}f}"


def _aligned(cells: list[list[str]]) -> str:
    """Markdown whose columns also line up on a terminal: text to the left, figures to the right."""
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(cells[0]))]
    rule = ["-" * w if i < 2 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    rows = [
        [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))] for r in cells
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))
