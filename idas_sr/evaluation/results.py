"""Result files of ``idas-sr evaluate``, ours and other people's: read, checked, and set side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from idas_sr.evaluation.columns import COLUMNS
from idas_sr.evaluation.schema import read_checked

SCHEMA = Path(__file__).with_name("result.schema.json")
TOLERANCE = 1e-6
"""Relative: a mean may differ by this from the mean of its pictures, which is what rounding in between leaves."""

Row = Mapping[str, Any]
"""``mean``, ``images`` and ``data`` of one line of a table."""


def rows_in(result: Mapping[str, Any], name: str) -> dict[str, Row]:
    """Name -> row of a result; that of a single folder is called ``name``."""
    rows: dict[str, Row] = result.get("rows", {name: result})
    return rows


def read_result(path: Path) -> dict[str, Any]:
    """A result file.

    Raises:
        ValueError: it does not fit the schema, its rows are not of the same pictures or references, or a mean is not
            that of its pictures.
        OSError: it cannot be read.
    """
    result: dict[str, Any] = read_checked(path, SCHEMA, "results of idas-sr evaluate")
    if (words := next(_contradictions(rows_in(result, path.stem)), None)) is not None:
        raise ValueError(f"{path} contradicts itself: {words}.")
    return result


def _contradictions(rows: Mapping[str, Row]) -> Iterator[str]:
    first, common = next(iter(rows.items()))
    for name, row in rows.items():
        if row["images"].keys() != common["images"].keys():
            yield f"rows {first!r} and {name!r} are not of the same pictures"
        for side in ("reference", "lq"):
            if row["data"].get(side) != common["data"].get(side):
                yield f"rows {first!r} and {name!r} have another {side}"
        yield from (f"row {name!r}, {words}" for words in _wrong_means(row))


def _wrong_means(row: Row) -> Iterator[str]:
    for column, value in row["mean"].items():
        known = [of[column] for of in row["images"].values() if of.get(column) is not None]
        if not COLUMNS[column].per_picture or (not known and value is None):
            continue
        mean = math.fsum(known) / len(known) if known else None
        if mean is None or value is None or not math.isclose(mean, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            yield f"{column}: the mean is given as {value} and that of the pictures is {mean}"


def table(rows: Mapping[str, Row]) -> str:
    """Name, number of pictures and means of rows, aligned for a terminal."""
    columns = [name for name in COLUMNS if any(name in row["mean"] for row in rows.values())]
    lines = [["", "images", *columns]]
    for name, row in rows.items():
        values = (row["mean"].get(column) for column in columns)
        cells = ["-" if v is None else f"{v:.{COLUMNS[c].digits}f}" for c, v in zip(columns, values, strict=True)]
        lines.append([name, str(len(row["images"])), *cells])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )
