"""Reproduction as a gate: what was measured against what was expected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOLERANCE = 0.001
TOLERANCES = {
    "psnr_y": 0.0005,
    "ssim_y": 0.0005,
    "psnr_y_border4": 0.0005,
    "ssim_y_border4": 0.0005,
    "lr_psnr": 0.0005,
    "niqe": 0.002,
    "musiq": 0.01,
    "tres": 0.01,
    "fid": 0.05,
}
"""Of a mean; a file of expectations may bring its own under the key ``tolerance``."""


@dataclass(frozen=True)
class Difference:
    """One expected value beside ours; ``row`` is empty where there is only one."""

    row: str
    metric: str
    ours: float | None
    theirs: float | None
    tolerance: float

    @property
    def is_within(self) -> bool:
        """Whether it is close enough, a hair of rounding error allowed."""
        if self.ours is None or self.theirs is None:
            return self.ours is self.theirs
        return abs(self.ours - self.theirs) <= self.tolerance * (1 + 1e-9)


def load_expected(path: Path) -> dict[str, Any]:
    """A JSON file with ``mean`` (of `score`) or ``rows`` (of a benchmark), and maybe ``protocol`` and ``tolerance``.

    Raises:
        ValueError: the file is missing or holds no such thing.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as JSON ({error}); --expect wants a file that --json wrote."
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("mean", values.get("rows")), dict):
        raise ValueError(f"{path} has neither 'mean' nor 'rows'; --expect wants a file that --json wrote.")
    return values


def means_of(values: Mapping[str, Any]) -> dict[str, Mapping[str, float | None]]:
    """Row -> metric -> mean; a file of one row has the name ''."""
    if "rows" in values:
        return {name: row["mean"] for name, row in values["rows"].items()}
    return {"": values["mean"]}


def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[Difference]:
    """Every value of ``theirs`` beside ours; what we lack is None. What they lack does not count.

    Raises:
        ValueError: they were measured by another protocol.
    """
    if theirs.get("protocol", ours["protocol"]) != ours["protocol"]:
        raise ValueError(
            f"The expected values are of protocol {theirs['protocol']!r}, ours of {ours['protocol']!r}: not comparable."
        )
    tolerances = TOLERANCES | theirs.get("tolerance", {})
    measured = means_of(ours)
    found = []
    for row, means in means_of(theirs).items():
        for metric, value in means.items():
            mine = measured.get(row, {}).get(metric)
            found.append(Difference(row, metric, mine, value, tolerances.get(metric, TOLERANCE)))
    return found


def difference_table(differences: list[Difference]) -> str:
    """Ours, theirs, difference and tolerance, one line each."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.5f}"

    head = ("row", "column", "ours", "theirs", "difference", "tolerance", "")
    lines = [head]
    for d in differences:
        gap = None if d.ours is None or d.theirs is None else d.ours - d.theirs
        mark = "" if d.is_within else "OUTSIDE"
        lines.append((d.row, d.metric, number(d.ours), number(d.theirs), number(gap), f"{d.tolerance:g}", mark))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    aligned = (
        [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    )
    return "\n".join("  ".join(cells).rstrip() for cells in aligned)
