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

from PIL import Image
from torch import Tensor

from idas_sr.images import EXTENSIONS, read_image, read_text, stamp, write_png
from idas_sr.pipeline import IDaSSROutput, IDaSSRPipeline

RECIPE_KEY = "idas_sr"
"""Entry of an output's PNG text metadata that says how it was made."""


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
    """

    model: str
    realism: float
    seed: int
    upscale: float
    color_fix: str
    precision: str
    method: str
    version: str
    extra: dict[str, Any] = field(default_factory=dict)
    watermark: str | None = None

    def recipe(self, content: bytes) -> str:
        """JSON text that is equal for equal outputs; ``content`` are the bytes of the input file."""
        recipe = asdict(self) | {"input": hashlib.sha256(content).hexdigest()}
        if self.realism == 0:
            # No fresh noise is drawn there, so the file must not differ either.
            del recipe["seed"]
        return json.dumps(recipe, sort_keys=True)


@dataclass(frozen=True)
class Outcome:
    """What became of one job: ``restored``, ``skipped`` or ``failed``, with the reason."""

    job: Job
    status: str
    reason: str | None = None
    seconds: float = 0.0
    size: tuple[int, int] | None = None
    trace: dict[str, float] | None = None

    def summary(self) -> dict[str, Any]:
        """As JSON values."""
        values = asdict(self)
        del values["job"]
        return {"input": str(self.job.source), "output": str(self.job.target), **values}


def plan(source: Path, output: Path, recursive: bool = False) -> list[Job]:
    """Pair every picture of a file or folder with its output STEM.png; sub-folders are kept with ``recursive``.

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
    jobs = [Job(path, output / path.relative_to(root).with_suffix(".png")) for path in _pictures(source, recursive)]
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
        ready: list[tuple[Job, Tensor, str]] = []
        for job in jobs[start : start + batch_size]:
            try:
                recipe = settings.recipe(job.source.read_bytes())
                if resume and read_text(job.target, RECIPE_KEY) == recipe:
                    yield Outcome(job, "skipped", "made before from the same input with the same settings")
                    continue
                ready.append((job, read_image(job.source), recipe))
            except (OSError, ValueError) as error:
                yield Outcome(job, "failed", _one_line(error))
        if ready:
            yield from _restore_batch(load(), ready, settings)


def _restore_batch(
    pipeline: IDaSSRPipeline, ready: list[tuple[Job, Tensor, str]], settings: Settings
) -> Iterator[Outcome]:
    begin = time.perf_counter()
    try:
        result = pipeline(
            [picture[0] for _, picture, _ in ready],
            realism=settings.realism,
            upscale=settings.upscale,
            seed=settings.seed,
            color_fix=settings.color_fix,
            return_trace=True,
        )
    except (RuntimeError, MemoryError, ValueError) as error:
        # Most likely too large together; alone each gets its own chance.
        if len(ready) > 1:
            for one in ready:
                yield from _restore_batch(pipeline, [one], settings)
        else:
            yield Outcome(ready[0][0], "failed", f"{ready[0][0].source} could not be restored: {_one_line(error)}")
        return
    assert isinstance(result, IDaSSROutput) and result.trace is not None
    seconds = (time.perf_counter() - begin) / len(ready)
    for (job, _, recipe), image, trace in zip(ready, result.images, result.trace, strict=True):
        yield _write(job, image, recipe, settings, seconds, trace)


def _write(
    job: Job, image: Image.Image, recipe: str, settings: Settings, seconds: float, trace: dict[str, float]
) -> Outcome:
    if settings.watermark is not None:
        image = stamp(image, settings.watermark)
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        write_png(image, job.target, {RECIPE_KEY: recipe})
    except OSError as error:
        return Outcome(job, "failed", f"{job.target} could not be written: {error.strerror or error}")
    return Outcome(job, "restored", None, round(seconds, 4), image.size, trace)


def _one_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
