"""The end of a run: one JSON summary, written line by line, and one table."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.table import Table

from idas_sr.invention import in_words

SHOWN = 100
"""Reasons of failures, notices and shares of invented detail that are kept; the summary has all."""

STATUSES = ("restored", "skipped", "failed")


def invented_line(name: str, share: float) -> str:
    """What is printed of a picture with a map."""
    return f"{name}: {in_words(share)} of its detail is invented"


class Report:
    """Counts outcomes and, with a ``path``, writes each into a JSON summary; holds no more than the counts.

    The summary is ``{"settings": ..., "outcomes": [...], "totals": {...}, "workers": {...}}``; it is there, complete
    and valid, when the ``with`` block ends, even by an error.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self._path, self._settings = path, settings
        self._file: TextIO | None = None
        self.counts: Counter[str] = Counter()
        self.workers: dict[str, Counter[str]] = {}
        self.failures: list[str] = []
        self.notices: list[str] = []
        self.inventions: list[str] = []
        self.seconds = 0.0

    def __enter__(self) -> Report:
        if self._path is not None:
            self._partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
            self._file = self._partial.open("w", encoding="utf-8")
            self._file.write(f'{{\n"settings": {json.dumps(self._settings)},\n"outcomes": [')
        return self

    def add(self, values: Mapping[str, Any]) -> None:
        """Take the ``summary()`` of an ``Outcome``, with the name of its ``worker`` where there are several."""
        if self._file is not None:
            self._file.write(("," if self.counts else "") + "\n" + json.dumps(values))
        self.counts[values["status"]] += 1
        self.seconds += values["seconds"]
        self.workers.setdefault(values.get("worker", ""), Counter())[values["status"]] += 1
        if values["status"] == "failed" and len(self.failures) < SHOWN:
            self.failures.append(values["reason"])
        if values.get("invented") is not None and len(self.inventions) < SHOWN:
            self.inventions.append(invented_line(values["input"], values["invented"]))
        for notice in values["notices"][: max(0, SHOWN - len(self.notices))]:
            self.notices.append(f"{values['input']}: {notice}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None or self._path is None:
            return
        workers = {name: dict(counts) for name, counts in self.workers.items() if name}
        about = {"totals": dict(self.counts)} | ({"workers": workers} if workers else {})
        self._file.write("\n]" + "".join(f',\n"{key}": {json.dumps(value)}' for key, value in about.items()) + "\n}\n")
        self._file.close()
        os.replace(self._partial, self._path)

    def line(self) -> str:
        """Such as "3 restored, 1 failed"."""
        return ", ".join(f"{self.counts[status]} {status}" for status in STATUSES if self.counts[status])

    def table(self, seconds: float) -> Table:
        """One row per worker and one for all; ``seconds`` is how long the whole run took."""
        table = Table("worker", *STATUSES)
        for name, counts in sorted(self.workers.items()):
            table.add_row(name, *(str(counts[status]) for status in STATUSES))
        table.add_section()
        table.add_row("all", *(str(self.counts[status]) for status in STATUSES))
        done = sum(self.counts.values())
        table.caption = f"{done} pictures in {seconds:.1f} s, {done / max(seconds, 1e-9):.2f} per second"
        return table
