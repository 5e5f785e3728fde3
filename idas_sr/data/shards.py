"""Tar shards in WebDataset's layout with an index of offsets, so that any sample is read without the ones before it.

The webdataset library reads these shards too, as a stream; it is not used here because a stream has no sample number
i, and a run that resumes would have to read everything again up to where it was.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from idas_sr.atomic import write_text
from idas_sr.data.entries import Entry, PictureFile
from idas_sr.imagefiles.formats import EXTENSIONS

INDEX = "index.json"
"""Name of a shard folder's table of contents."""

LQ = ".lq"
"""Before the extension of a low-quality counterpart: ``00000012_name.png`` and ``00000012_name.lq.png``."""

NUMBER = re.compile(r"^\d{8}_")


def write_shards(entries: Sequence[Entry], folder: Path, shard_bytes: int = 500_000_000) -> Iterator[Path]:
    """Pack the files of ``entries``, unchanged, into ``00000.tar`` ... of about ``shard_bytes`` and index them.

    Gives each shard as it is done; the index is written last, so a folder without one was not finished.

    Raises:
        FileExistsError: the folder is not empty.
        ValueError: a picture cannot be read from disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder for the shards.")
    number = index = 0
    while index < len(entries):
        path = folder / f"{number:05d}.tar"
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
            while index < len(entries) and (tar.offset == 0 or tar.offset < shard_bytes):
                _add(tar, entries[index], index)
                index += 1
        number += 1
        yield path
    write_index(folder)


def _add(tar: tarfile.TarFile, entry: Entry, index: int) -> None:
    # WebDataset ends the key at the first dot. The picture's own name comes back on reading: the split goes by it.
    stem = Path(entry.hq.name).stem.replace("%", "%25").replace(".", "%2E")
    key = f"{index:08d}_{stem}"
    for file, infix in ((entry.hq, ""), (entry.lq, LQ)):
        if file is None:
            continue
        content = file.content()
        info = tarfile.TarInfo(key + infix + Path(file.name).suffix.lower())
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def write_index(folder: Path) -> Path:
    """Index all tars of ``folder``, one's own or others' in WebDataset's layout.

    Raises:
        ValueError: a tar cannot be read, or holds no picture.
    """
    shards: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.tar")):
        samples: dict[str, list[Any]] = {}
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    _note(samples, member)
        except tarfile.TarError as error:
            raise ValueError(f"{path} cannot be read as a tar ({error}); write or fetch it again.") from error
        complete = [sample for sample in samples.values() if sample[1] is not None]
        if not complete:
            raise ValueError(f"{path} holds no picture ({', '.join(sorted(EXTENSIONS))}).")
        shards.append({"name": path.name, "bytes": path.stat().st_size, "samples": complete})
    target = folder / INDEX
    write_text(target, json.dumps({"version": 1, "shards": shards}))
    return target


def _note(samples: dict[str, list[Any]], member: tarfile.TarInfo) -> None:
    """Put a member's place into its sample: name, then place of HQ, then place of LQ or None."""
    path = Path(member.name)
    if not member.isfile() or path.suffix.lower() not in EXTENSIONS:
        return
    key, is_lq = member.name.split(".")[0], path.with_suffix("").suffix == LQ
    sample = samples.setdefault(key, [None, None, None])
    sample[2 if is_lq else 1] = [member.offset_data, member.size]
    if not is_lq:
        sample[0] = unquote(NUMBER.sub("", path.name))


def read_index(folder: Path) -> list[Entry]:
    """The entries of a folder of shards.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: the index cannot be read, or a shard is not the one that was indexed.
    """
    try:
        shards = json.loads((folder / INDEX).read_text())["shards"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / INDEX} cannot be read; write it anew with prepare_data.py shard.") from error
    entries = []
    for shard in shards:
        path = folder / shard["name"]
        if not path.is_file():
            raise FileNotFoundError(f"The shard {path} is missing; fetch it, or index the folder anew without it.")
        if path.stat().st_size != shard["bytes"]:
            raise ValueError(f"The shard {path} is not the one that was indexed (size); fetch it or index it anew.")
        for name, hq, lq in shard["samples"]:
            pair = None if lq is None else PictureFile(path, f"{name} (LQ)", *lq)
            entries.append(Entry(PictureFile(path, name, *hq), pair))
    return entries
