"""Pictures in tar files of WebDataset's layout as work for any engine; nothing is unpacked."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath

from idas_sr.batch import Job, RefusedError
from idas_sr.imagefiles.formats import EXTENSIONS, Encoding


def has_shards(source: Path) -> bool:
    """Whether ``source`` is a tar, or a folder that holds tars."""
    return source.suffix == ".tar" if source.is_file() else any(_tars(source))


def plan_shards(source: Path, output: Path, encoding: Encoding | None = None) -> list[Job]:
    """Every picture of the tars, with its output SHARD/KEY.png, in the order of the files.

    Raises:
        RefusedError: a tar cannot be read, there is no picture in them, or two would have one output.
    """
    name = (encoding or Encoding()).name_of
    jobs: dict[Path, Job] = {}
    for tar in [source] if source.is_file() else _tars(source):
        try:
            with tarfile.open(tar) as file:
                for entry in file:
                    inside = PurePosixPath(entry.name)
                    if not entry.isfile() or inside.suffix.lower() not in EXTENSIONS:
                        continue
                    # Folders in the tar are part of WebDataset's keys; what would lead out of the output is not.
                    folder = output.joinpath(tar.stem, *(p for p in inside.parent.parts if p not in ("/", "..")))
                    job = Job(tar, folder / name(inside.name), entry.name, entry.offset_data, entry.size)
                    if job.target in jobs:
                        raise RefusedError(f"{jobs[job.target]} and {job} would both become {job.target}.")
                    jobs[job.target] = job
        except (tarfile.TarError, OSError) as error:
            raise RefusedError(f"{tar} cannot be read as a tar ({error}); write or fetch it again.") from error
    if not jobs:
        raise RefusedError(f"There is no picture in the tars of {source}; known are {', '.join(sorted(EXTENSIONS))}.")
    return list(jobs.values())


def _tars(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tar")) if folder.is_dir() else []
