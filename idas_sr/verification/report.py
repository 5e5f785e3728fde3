"""One question and its answer, and a report of many."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes:
        name: what was looked at.
        passed: the answer.
        summary: the answer in one sentence, with its figures and the band.
        rows: table of the report, header first.
        needs_training: only trained weights can pass it: random ones must fail, or the band measures nothing.
        seconds: it took.
    """

    name: str
    passed: bool
    summary: str
    rows: list[Sequence[object]] = field(default_factory=list)
    needs_training: bool = False
    seconds: float = 0.0


def timed(step: Callable[[], Check]) -> Check:
    """Run a check and note its time."""
    began = time.perf_counter()
    check = step()
    return replace(check, seconds=time.perf_counter() - began)


def succeeded(checks: Sequence[Check], random_weights: bool = False) -> bool:
    """Whether all checks passed; with random weights: whether the others passed and each band rejected them."""
    return all(check.passed != (random_weights and check.needs_training) for check in checks)


def to_markdown(checks: Sequence[Check], facts: dict[str, object], random_weights: bool = False) -> str:
    """The report."""
    kind = " (RANDOM WEIGHTS: the bands must reject them)" if random_weights else ""
    lines = [f"# SD-Turbo verification{kind}", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += [f"**{'As it should be' if succeeded(checks, random_weights) else 'NOT as it should be'}.**", ""]
    for check in checks:
        lines += [f"## {check.name}: {'pass' if check.passed else 'FAIL'}", ""]
        lines += [f"{check.summary} ({check.seconds:.1f} s)", ""]
        if check.rows:
            header, *rows = (" | ".join(str(cell) for cell in row) for row in check.rows)
            lines += [f"| {header} |", "|" + " --- |" * len(check.rows[0]), *(f"| {row} |" for row in rows), ""]
    return "\n".join(lines)
