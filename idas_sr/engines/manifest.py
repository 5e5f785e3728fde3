"""One list of work that many processes share through files: parts are claimed by renaming, owners are known by locks.

A manifest is a folder::

    run.json             what is restored and with which settings; written last, so a folder without it was not finished
    parts/000012         the jobs of part 12, one JSON line each; never changed
    todo/000012          an empty file: nobody has the part
    claimed/NAME/000012  that file, renamed: worker NAME has it
    journal/000012       one line per picture of the part that is done, written after the picture
    done/000012          the journal, renamed: the part is done
    workers/NAME         locked as long as worker NAME lives
    errors/NAME          why a worker gave up

Renaming is atomic, so a part has one owner at any time. The kernel drops the lock of a process that ends, however it
ends, so a lock that can be taken says that its worker is dead: no clock and no process number decides that.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from idas_sr.atomic import token_of, write_text
from idas_sr.batch import Job, RefusedError
from idas_sr.imagefiles.heatmaps import heat_path

FOLDER = ".idas_sr"
"""Name of the manifest in the output folder."""

FOLDERS = ("parts", "todo", "claimed", "journal", "done", "workers", "errors")

PART = 64
"""Pictures of a part at most: what a worker claims at once, and what an end of the list may leave uneven."""

CLOCK = 5.0
"""Seconds by which the beginning of one process may seem to move."""


@dataclass(frozen=True)
class Header:
    """What a run is: two runs with equal settings, source and parts are one and share their work.

    Attributes:
        settings: of all outputs, JSON values.
        source: of the pictures.
        launch: says which processes were started together.
    """

    settings: dict[str, Any]
    source: str
    launch: str


class Manifest:
    """The shared list of one run; make one with ``open_manifest``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.header = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        self.pictures: int = self.header["pictures"]
        self._presence: FileLock | None = None

    def attend(self) -> None:
        """Count as living from now until this process ends or ``leave``."""
        if not self.is_finished:
            self._presence = FileLock(self.folder / "workers" / unique("attending"))
            self._presence.acquire()

    def leave(self) -> None:
        """No longer count as living."""
        if self._presence is not None:
            self._presence.release()

    @property
    def is_finished(self) -> bool:
        """Whether the run was concluded, so that nothing but the header is left."""
        return bool(json.loads((self.folder / "run.json").read_text(encoding="utf-8")).get("finished"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process opens or concludes this manifest meanwhile."""
        with FileLock(self.folder / "lock"):
            yield

    def names(self, kind: str) -> list[str]:
        """Sorted names of the parts that are ``todo`` or ``done``."""
        return _listed(self.folder / kind)

    def jobs_of(self, part: str) -> list[Job]:
        """All jobs of a part, done or not."""
        with (self.folder / "parts" / part).open(encoding="utf-8") as file:
            return [Job.from_json(json.loads(line)) for line in file]

    def claims(self) -> Iterator[tuple[str, str]]:
        """(worker, part) of every claim."""
        for worker in _listed(self.folder / "claimed"):
            for part in _listed(self.folder / "claimed" / worker):
                yield worker, part

    def is_done(self) -> bool:
        """Whether every part is."""
        return self.is_finished or len(self.names("done")) == self.header["parts"]

    def done_pictures(self) -> int:
        """Pictures of the finished parts."""
        size, done = self.header["part"], self.names("done")
        last = f"{self.header['parts'] - 1:06d}"
        return len(done) * size - (size * self.header["parts"] - self.pictures if last in done else 0)

    def outcomes(self) -> Iterator[dict[str, Any]]:
        """The lines of all finished parts, in the order of the list, one at a time."""
        for part in self.names("done"):
            yield from lines_of(self.folder / "done" / part)

    def release_dead(self) -> int:
        """Give the claims of dead workers back; returns how many. Any process may call it at any time."""
        released = 0
        for worker in sorted({worker for worker, _ in self.claims()}):
            lock = FileLock(self.folder / "workers" / worker)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                for part in _listed(self.folder / "claimed" / worker):
                    claim = self.folder / "claimed" / worker / part
                    if (self.folder / "done" / part).exists():
                        # It ended between its last two steps.
                        claim.unlink()
                    else:
                        claim.rename(self.folder / "todo" / part)
                        released += 1
            finally:
                lock.release()
        return released

    def note_error(self, error: Exception) -> None:
        """Record why a worker gives up, for the one who concludes."""
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        write_text(self.folder / "errors" / unique("worker"), first)

    def errors(self) -> list[str]:
        """Why workers gave up, each reason once."""
        paths = (self.folder / "errors" / name for name in _listed(self.folder / "errors"))
        return list(dict.fromkeys(path.read_text(encoding="utf-8") for path in paths))

    def has_living_workers(self) -> bool:
        """Whether any process works on this list now."""
        return any(not _is_free(self.folder / "workers" / name) for name in _listed(self.folder / "workers"))

    def finish(self) -> None:
        """Leave only the header, marked as finished, so that a process of the same launch that comes late knows."""
        _write_json(self.folder / "run.json", {**self.header, "finished": True})
        for kind in FOLDERS:
            shutil.rmtree(self.folder / kind, ignore_errors=True)


def open_manifest(output: Path, header: Header, plan: Callable[[], Sequence[Job]], processes: int) -> Manifest:
    """Join the run that is under way in ``output``, or list the work of a new one.

    One is joined if it has the same settings and source and was started by the same launch or has living workers. What
    dead ones left half written is taken away.

    Args:
        plan: lists all jobs; not called when a run is joined.
        processes: expected number of workers; decides the size of the parts.

    Raises:
        RefusedError: living workers write other results into this folder.
    """
    folder = output / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if (old := _present(folder)) is not None:
            same = (old.header["settings"], old.header["source"]) == (header.settings, header.source)
            if same and _may_join(old, header.launch):
                old.attend()
                return old
            if not old.is_finished and old.has_living_workers():
                raise RefusedError(
                    f"Another run with other settings writes into {output} now; wait for it or choose another -o."
                )
            sweep(job for part in _listed(folder / "journal") for job in old.jobs_of(part))
        _create(folder, header, plan(), processes)
        manifest = Manifest(folder)
        manifest.attend()
        return manifest


def _present(folder: Path) -> Manifest | None:
    try:
        return Manifest(folder)
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _may_join(old: Manifest, launch: str) -> bool:
    if is_same_launch(old.header["launch"], launch):
        return True
    return not old.is_finished and old.has_living_workers()


def _create(folder: Path, header: Header, jobs: Sequence[Job], processes: int) -> None:
    (folder / "run.json").unlink(missing_ok=True)
    for kind in FOLDERS:
        shutil.rmtree(folder / kind, ignore_errors=True)
        (folder / kind).mkdir()
    # A dozen parts per worker at least, so that none waits long for the last one.
    size = min(PART, max(1, len(jobs) // (12 * processes)))
    parts = -(-len(jobs) // size)
    for number in range(parts):
        lines = [json.dumps(job.as_json()) for job in jobs[number * size : (number + 1) * size]]
        (folder / "parts" / f"{number:06d}").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "todo" / f"{number:06d}").touch()
    about = {"settings": header.settings, "source": header.source, "launch": header.launch}
    _write_json(folder / "run.json", {**about, "pictures": len(jobs), "part": size, "parts": parts})


def is_same_launch(one: str, other: str) -> bool:
    """Whether two names of launches, PROCESS@TIME or any other text, mean the same one."""
    if one == other:
        return True
    (process, _, began), (other_process, _, other_began) = one.partition("@"), other.partition("@")
    if process != other_process or not (began and other_began):
        return False
    # The system computes the time when a process began from its clock, which may be set in between.
    return abs(float(began) - float(other_began)) < CLOCK


def unique(name: str) -> str:
    """Never the name of an earlier one: a name whose lock is free stays dead."""
    return f"{name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _is_free(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def _listed(folder: Path) -> list[str]:
    try:
        # A name with a leading dot is that of a file which its writer, perhaps killed, has not finished.
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The complete JSON lines of a file; a killed writer's last one may be cut off."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def sweep(jobs: Iterable[Job]) -> None:
    """Remove the half-written files of writers that were killed; nobody may be writing these outputs."""
    names: dict[Path, set[str]] = {}
    for job in jobs:
        names.setdefault(job.target.parent, set()).update(map(token_of, (job.target, heat_path(job.target))))
    for folder, tokens in names.items():
        if folder.is_dir():
            for path in folder.glob(".*.partial"):
                if path.name[1:].rsplit(".", 2)[0] in tokens:
                    path.unlink(missing_ok=True)


def _write_json(path: Path, values: Any) -> None:
    write_text(path, json.dumps(values, indent=1) + "\n")
