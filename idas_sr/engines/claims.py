"""A worker's side of a manifest: taking parts, noting what is done, ending."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import TracebackType

from filelock import FileLock

from idas_sr.atomic import write_text
from idas_sr.batch import Outcome
from idas_sr.engines.manifest import Manifest, lines_of, sweep, unique

POLL = 0.2
"""Seconds between two looks at the claims of others."""


class Part:
    """A claimed part: what is left of it, and where its results go."""

    def __init__(self, manifest: Manifest, worker: str, name: str) -> None:
        self._manifest, self._worker, self.name = manifest, worker, name
        self._journal = manifest.folder / "journal" / name
        #: Whether an owner before this one began it, so that outputs may be there without a line in the journal.
        self.was_begun = self._journal.exists()
        done = {line["index"] for line in lines_of(self._journal)} if self.was_begun else set()
        self._index = {job: i for i, job in enumerate(manifest.jobs_of(name))}
        #: What is left to do.
        self.jobs = [job for job, i in self._index.items() if i not in done]
        if self.was_begun:
            self._clean()
        self._file = self._journal.open("a", encoding="utf-8")

    def _clean(self) -> None:
        """Take away what a killed owner left half written."""
        complete = list(lines_of(self._journal))
        write_text(self._journal, "".join(json.dumps(line) + "\n" for line in complete))
        sweep(self.jobs)

    def note(self, outcome: Outcome) -> None:
        """Record that a picture is done; to be called after its file is complete."""
        line = {"index": self._index[outcome.job], "worker": self._worker, **outcome.summary()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def finish(self) -> None:
        """Every picture has its line."""
        self._file.close()
        self._journal.rename(self._manifest.folder / "done" / self.name)
        (self._manifest.folder / "claimed" / self._worker / self.name).unlink(missing_ok=True)

    def give_back(self) -> None:
        """Leave the rest to others."""
        self._file.close()
        claim = self._manifest.folder / "claimed" / self._worker / self.name
        claim.rename(self._manifest.folder / "todo" / self.name)


class Worker:
    """One process's place in a manifest; alive from ``with`` to its end or the process's."""

    def __init__(self, manifest: Manifest, name: str, rank: int = 0, count: int = 1) -> None:
        self.manifest, self.rank, self.count = manifest, rank, count
        self.name = unique(name)
        self._lock = FileLock(manifest.folder / "workers" / self.name)

    def __enter__(self) -> Worker:
        self._lock.acquire()
        (self.manifest.folder / "claimed" / self.name).mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def claim(self, name: str) -> Part | None:
        """Take part ``name``; None if another was faster."""
        try:
            (self.manifest.folder / "todo" / name).rename(self.manifest.folder / "claimed" / self.name / name)
        except FileNotFoundError:
            return None
        return Part(self.manifest, self.name, name)

    def parts(self) -> Iterator[Part]:
        """Claim part after part until all are done by somebody; claims of workers that die meanwhile are taken over."""
        while not self.manifest.is_done():
            names = self.manifest.names("todo")
            # Each begins elsewhere, so that they seldom reach for the same one.
            start = len(names) * self.rank // self.count
            for name in names[start:] + names[:start]:
                if (part := self.claim(name)) is not None:
                    yield part
            if not names and not self.manifest.release_dead() and not self.manifest.is_done():
                time.sleep(POLL)

    def await_part(self, name: str) -> Part | None:
        """Take part ``name`` as soon as it is nobody's; None once another has done it."""
        while not (self.manifest.folder / "done" / name).exists():
            if (part := self.claim(name)) is not None:
                return part
            if not self.manifest.release_dead():
                time.sleep(POLL)
        return None
