"""A folder of pictures restored into another: what is refused before any work, what is skipped, what failed."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from idas_sr.imagefiles.formats import EXTENSIONS, Encoding
from idas_sr.imagefiles.reading import PictureFile, one_line, read_picture
from idas_sr.imagefiles.sizes import TargetSize
from idas_sr.imagefiles.writing import check_sides, read_recipe, save_picture
from idas_sr.images import stamp, to_pil, to_tensors
from idas_sr.pipeline import IDaSSROutput, IDaSSRPipeline, target_size
from idas_sr.resample import resize


class RefusedError(ValueError):
    """A run that cannot be started; the message says why and what to do."""


@dataclass(frozen=True)
class Job:
    """One picture file and the file that its restoration becomes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Settings:
    """Everything but the input that decides how an output looks.

    Attributes:
        model: fingerprint of the weights.
        extra: steering and other settings of the method, JSON values.
        watermark: written across every output; for pictures that are no results.
        encoding: how outputs are written.
        size: of every output in pixels; takes the place of ``upscale``.
    """

    model: str
    realism: float | None
    seed: int
    upscale: float
    color_fix: str
    precision: str
    method: str
    version: str
    extra: dict[str, Any] = field(default_factory=dict)
    watermark: str | None = None
    encoding: Encoding = Encoding()  # noqa: RUF009  (frozen)
    size: TargetSize | None = None

    def recipe(self, content: bytes) -> str:
        """JSON text that is equal for equal outputs; ``content`` are the bytes of the input file."""
        recipe = asdict(self) | {"input": hashlib.sha256(content).hexdigest()}
        if self.realism == 0:
            # No fresh noise is drawn there, so the file must not differ either.
            del recipe["seed"]
        return json.dumps(recipe, sort_keys=True)

    def size_of(self, picture: PictureFile, job: Job) -> tuple[int, int]:
        """(height, width) of the output.

        Raises:
            ValueError: it cannot be had, or the format cannot hold it.
        """
        height, width = picture.colour.shape[-2:]
        size = self.size.resolve(height, width) if self.size else target_size(height, width, self.upscale)
        check_sides(*size, self.encoding.format_of(job.target.suffix))
        return size


@dataclass(frozen=True)
class Outcome:
    """What became of one job: ``restored``, ``skipped`` or ``failed``, with the reason; and what was converted."""

    job: Job
    status: str
    reason: str | None = None
    seconds: float = 0.0
    size: tuple[int, int] | None = None
    trace: dict[str, float] | None = None
    notices: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """As JSON values."""
        values = asdict(self)
        del values["job"]
        return {"input": str(self.job.source), "output": str(self.job.target), **values}


def plan(source: Path, output: Path, recursive: bool = False, encoding: Encoding | None = None) -> list[Job]:
    """Pair every picture of a file or folder with its output, named by ``encoding``; ``recursive`` keeps sub-folders.

    Raises:
        RefusedError: no such input, no picture in it, two inputs with one output name, or outputs among the inputs.
    """
    if not source.exists():
        raise RefusedError(f"The input {source} does not exist.")
    root = source if source.is_dir() else source.parent
    if output.resolve() == root.resolve():
        raise RefusedError(f"The output folder {output} is the input folder; choose another with -o.")
    if recursive and source.is_dir() and output.resolve().is_relative_to(root.resolve()):
        raise RefusedError(
            f"The output folder {output} lies in the input folder, whose folders are all read; choose another with -o."
        )
    name = (encoding or Encoding()).name_of
    jobs = [
        Job(path, (output / path.relative_to(root)).with_name(name(path.name))) for path in _pictures(source, recursive)
    ]
    if not jobs:
        hint = "" if recursive else " (folders in it are read with --recursive)"
        raise RefusedError(f"There is no picture in {source}{hint}; known are {', '.join(sorted(EXTENSIONS))}.")
    taken: dict[Path, Path] = {}
    for job in jobs:
        if job.target in taken:
            raise RefusedError(
                f"{taken[job.target]} and {job.source} would both become {job.target}; rename one of them."
            )
        taken[job.target] = job.source
    return jobs


def _pictures(source: Path, recursive: bool) -> list[Path]:
    if source.is_file():
        return [source]
    found = source.rglob("*") if recursive else source.iterdir()
    # Names with a leading dot are other programs' leftovers, not the user's pictures.
    shown = (path for path in found if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."))
    return sorted(path for path in shown if path.is_file())


def prepare_output(folder: Path) -> None:
    """Create the output folder and make sure that it can be written to.

    Raises:
        RefusedError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise RefusedError(
            f"The output folder {folder} cannot be written to ({reason}); choose another with -o."
        ) from error


def restore_files(
    jobs: Sequence[Job],
    load: Callable[[], IDaSSRPipeline],
    settings: Settings,
    batch_size: int = 1,
    resume: bool = False,
) -> Iterator[Outcome]:
    """Restore files one batch after the other, each output complete or not there; a bad file fails alone.

    Args:
        jobs: what ``plan`` returned.
        load: gives the pipeline; called when the first picture is ready, so a fully resumed run loads nothing.
        settings: of all outputs.
        batch_size: pictures read ahead; those of equal size go through the networks together.
        resume: skip outputs that were made from the same input with the same settings.
    """
    for start in range(0, len(jobs), batch_size):
        ready: list[tuple[Job, PictureFile, str]] = []
        for job in jobs[start : start + batch_size]:
            try:
                recipe = settings.recipe(job.source.read_bytes())
                if resume and read_recipe(job.target) == recipe:
                    yield Outcome(job, "skipped", "made before from the same input with the same settings")
                    continue
                picture = read_picture(job.source)
                settings.size_of(picture, job)
                ready.append((job, picture, recipe))
            except (OSError, ValueError) as error:
                yield Outcome(job, "failed", _naming(job, error))
        if ready:
            yield from _restore_batch(load(), ready, settings)


def _restore_batch(
    pipeline: IDaSSRPipeline, ready: list[tuple[Job, PictureFile, str]], settings: Settings
) -> Iterator[Outcome]:
    begin = time.perf_counter()
    try:
        result = pipeline(
            [picture.colour for _, picture, _ in ready],
            realism=settings.realism,
            upscale=4.0 if settings.size else settings.upscale,
            seed=settings.seed,
            color_fix=settings.color_fix,
            output_type="pt",
            return_trace=True,
            tile=settings.extra.get("tile", "auto"),
        )
    except (RuntimeError, MemoryError, ValueError) as error:
        # Most likely too large together; alone each gets its own chance.
        if len(ready) > 1:
            for one in ready:
                yield from _restore_batch(pipeline, [one], settings)
        else:
            yield Outcome(ready[0][0], "failed", f"{ready[0][0].source} could not be restored: {one_line(error)}")
        return
    assert isinstance(result, IDaSSROutput) and result.trace is not None
    seconds = (time.perf_counter() - begin) / len(ready)
    for (job, picture, recipe), restored, trace in zip(ready, result.images, result.trace, strict=True):
        assert isinstance(restored, Tensor)
        yield _write(job, picture, restored, recipe, settings, seconds, trace)


def _write(
    job: Job,
    picture: PictureFile,
    restored: Tensor,
    recipe: str,
    settings: Settings,
    seconds: float,
    trace: dict[str, float],
) -> Outcome:
    height, width = settings.size_of(picture, job)
    restored = resize(restored[None], (height, width))[0].clamp(0, 1)
    if settings.watermark is not None:
        (restored,) = to_tensors(stamp(to_pil(restored), settings.watermark))
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        said = save_picture(restored, picture, job.target, settings.encoding, recipe)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        return Outcome(job, "failed", f"{job.target} could not be written: {reason}")
    notices = (*picture.notices, *said)
    return Outcome(job, "restored", None, round(seconds, 4), (width, height), trace, notices)


def _naming(job: Job, error: BaseException) -> str:
    """The error in one line that names the file."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line if str(job.source) in line else f"{job.source} cannot be restored: {line}"
