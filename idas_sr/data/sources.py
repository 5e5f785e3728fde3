"""Where training pictures are: folders, file lists, paired folders and indexed shards, all as one list of entries."""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from idas_sr.data.entries import Entry, PictureFile
from idas_sr.data.shards import INDEX, read_index
from idas_sr.imagefiles.formats import EXTENSIONS

VALIDATION_SHARE = 5
"""Every fifth photograph, chosen by its name, is held out: it stays held out when others are added."""


def is_validation(path: Path) -> bool:
    """Whether a photograph belongs to the held-out split."""
    return zlib.crc32(path.name.encode()) % VALIDATION_SHARE == 0


def list_photographs(root: str | Path, split: str = "all") -> list[Path]:
    """Sorted picture files under ``root``.

    Raises:
        FileNotFoundError: no such folder, or no picture of that split in it.
        ValueError: unknown split.
    """
    return [entry.hq.path for entry in in_split(_folder(Path(root)), split, str(root))]


def in_split(entries: Sequence[Entry], split: str, where: str) -> list[Entry]:
    """The entries of ``train``, ``validation`` or ``all``.

    Raises:
        FileNotFoundError: there are none.
        ValueError: unknown split.
    """
    if split not in ("train", "validation", "all"):
        raise ValueError(f"split must be train, validation or all, not {split!r}.")
    chosen = [e for e in entries if split == "all" or is_validation(Path(e.hq.name)) == (split == "validation")]
    if not chosen:
        raise FileNotFoundError(
            f"No photograph of split {split!r} in {where} ({len(entries)} pictures there); set data.root=FOLDER."
        )
    return chosen


def list_entries(
    root: str | Path,
    lq: str | Path | None = None,
    take: int | None = None,
    expected: int | None = None,
    at_least: int = 1,
) -> list[Entry]:
    """All entries of one source, sorted by name.

    Args:
        root: folder of pictures (searched recursively), text file with one picture per line (relative to the file's
            folder; after a tab its low-quality counterpart), or folder of shards with their index.
        lq: folder of low-quality counterparts with the same relative names, of any picture extension.
        take: only the first so many.
        expected: how many there must be then.
        at_least: how few there may be then.

    Raises:
        FileNotFoundError: the source, or a counterpart, is not there.
        ValueError: another number than expected, too few, or a list or index that cannot be read.
    """
    root = Path(root)
    if root.is_file():
        entries = _listed(root)
    elif (root / INDEX).is_file():
        entries = read_index(root)
    else:
        entries = _folder(root)
    if lq is not None:
        entries = _paired(entries, root, Path(lq))
    entries = entries[:take]
    if expected is not None and len(entries) != expected:
        raise ValueError(
            f"{root} holds {len(entries)} pictures where {expected} are expected; complete the set, or set "
            "expected=null for this source to train on what there is."
        )
    if entries and len(entries) < at_least:
        what = "pictures" if lq is None else "pairs"
        raise ValueError(
            f"{root} holds {len(entries)} {what} where at least {at_least} are needed; add more, or lower at_least of "
            "this source."
        )
    return entries


def licensed(entries: Sequence[Entry], manifest: Path, licences: Sequence[str]) -> list[Entry]:
    """The entries whose picture is under one of ``licences``; version numbers do not matter ("CC BY" is "CC BY 4.0").

    Args:
        entries: with file names that the manifest has; one that it does not have is left out.
        manifest: table with tabs and the columns ``file`` and ``licence``.
        licences: names as the manifest has them.

    Raises:
        FileNotFoundError: there is no such manifest, or no entry is left.
        ValueError: it lacks a column, or has no picture under one of ``licences``.
    """
    try:
        with manifest.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"The manifest {manifest} does not exist; set manifest of this source.") from error
    if not rows or not {"file", "licence"} <= rows[0].keys():
        raise ValueError(f"{manifest} is no table with tabs and the columns file and licence.")
    of = {Path(row["file"]).name: _without_version(row["licence"] or "") for row in rows}
    wanted = {_without_version(name) for name in licences}
    if strange := sorted(wanted - set(of.values())):
        raise ValueError(
            f"{manifest} has no picture under {strange[0]!r}; it has {', '.join(sorted(set(of.values())))}."
        )
    chosen = [entry for entry in entries if of.get(Path(entry.hq.name).name) in wanted]
    if not chosen:
        raise FileNotFoundError(f"{manifest} names none of the {len(entries)} pictures there as under {licences[0]}.")
    return chosen


def _without_version(licence: str) -> str:
    return re.sub(r"\s+\d+(\.\d+)*$", "", licence.strip()).lower()


def _folder(root: Path) -> list[Entry]:
    if not root.is_dir():
        raise FileNotFoundError(f"The folder of photographs {root} does not exist; set data.root=FOLDER.")
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS)
    return [Entry(PictureFile(path, path.name)) for path in found]


def _listed(path: Path) -> list[Entry]:
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        files = [PictureFile(path.parent / name.strip(), Path(name.strip()).name) for name in line.split("\t")]
        if len(files) > 2:
            raise ValueError(f"Line {number} of {path} has {len(files)} columns; write HQ, or HQ, a tab and LQ.")
        for file in files:
            if not file.path.is_file():
                raise FileNotFoundError(f"Line {number} of {path} names {file.path}, which does not exist.")
        entries.append(Entry(*files))
    return entries


def _paired(entries: Sequence[Entry], root: Path, lq: Path) -> list[Entry]:
    if not lq.is_dir():
        raise FileNotFoundError(f"The folder of low-quality pictures {lq} does not exist.")
    counterparts = {
        p.relative_to(lq).with_suffix("").as_posix(): p for p in lq.rglob("*") if p.suffix.lower() in EXTENSIONS
    }
    pairs = []
    for entry in entries:
        name = entry.hq.path.relative_to(root).with_suffix("").as_posix()
        if name not in counterparts:
            raise FileNotFoundError(f"{entry.hq} has no counterpart {name}.* in {lq}; add it or remove the picture.")
        path = counterparts.pop(name)
        pairs.append(Entry(entry.hq, PictureFile(path, path.name)))
    if counterparts:
        name, path = min(counterparts.items())
        raise FileNotFoundError(f"{path} has no counterpart {name}.* in {root}; add it or remove the picture.")
    return pairs
