"""A folder of pictures restored into another: what is refused before any work, what is skipped, what failed."""

from __future__ import annotations

import hashlib
import io
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from idas_sr import recipe as recipes
from idas_sr.consistency import PROMISED, Projector, check_larger
from idas_sr.dial import CALIBRATED
from idas_sr.imagefiles.formats import EXTENSIONS, READABLE, Encoding
from idas_sr.imagefiles.heatmaps import heat_path, is_heatmap, read_note
from idas_sr.imagefiles.limits import check_output
from idas_sr.imagefiles.maps import map_for, read_map
from idas_sr.imagefiles.reading import PictureFile, one_line, read_content, read_picture
from idas_sr.imagefiles.sizes import TargetSize
from idas_sr.imagefiles.writing import can_save_rows, check_sides, read_recipe, save_picture, save_rows
from idas_sr.images import Picture, stamp, to_pil, to_tensors
from idas_sr.invention import Invention, measure, save_map
from idas_sr.overlap import ahead
from idas_sr.pipeline import IDaSSROutput, IDaSSRPipeline, target_size
from idas_sr.resample import resize
from idas_sr.types import Memory

BATCH_PIXELS = 128 * 128
"""Input pixels of a batch of small pictures: below it a call's fixed cost is most of the time."""

READ_AHEAD, WRITE_BEHIND = 4 * 2**20, 16 * 2**20
"""Pixels read before, and restored pixels not written after, the picture that is worked on: about 50 MB each."""

THREADS = 4
"""Readers, and as many writers; decoding and encoding release Python's lock."""


class RefusedError(ValueError):
    """A run that cannot be started; the message says why and what to do."""


@dataclass(frozen=True)
class Job:
    """One picture, a file or a piece of a tar, and the file that its restoration becomes.

    Attributes:
        source: the picture file, or the tar that it is in.
        member: name in the tar; None for a picture file.
        offset, size: of the picture's bytes in the tar.
    """

    source: Path
    target: Path
    member: str | None = None
    offset: int = 0
    size: int = 0

    def __str__(self) -> str:
        return str(self.source) if self.member is None else f"{self.member} in {self.source}"

    @property
    def name(self) -> str:
        """File name of the picture."""
        return Path(self.member or self.source).name

    def content(self) -> bytes:
        """The encoded picture.

        Raises:
            OSError: it cannot be read.
            ValueError: it is too large to be a picture.
        """
        if self.member is None:
            return read_content(self.source)
        with self.source.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def as_json(self) -> list[str | int | None]:
        """JSON values that mean the same in every working folder."""
        return [str(self.source.absolute()), str(self.target.absolute()), self.member, self.offset, self.size]

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> Job:
        """What ``as_json`` gave."""
        return cls(Path(values[0]), Path(values[1]), *values[2:])


@dataclass(frozen=True)
class Settings:
    """Everything but the input that decides how an output looks.

    Attributes:
        model: fingerprint of the weights.
        realism: a number or ``auto``; None leaves it to the method.
        extra: steering and other settings of the method, JSON values.
        watermark: written across every output; for pictures that are no results.
        encoding: how outputs are written.
        size: of every output in pixels; takes the place of ``upscale``.
        realism_map: file or folder of maps that take the place of ``realism``, see ``map_for``.
        dial: unit of ``realism`` and of maps, entry of DIALS.
        consistent: whether outputs are projected, see `idas_sr.consistency`.
        with_map: whether beside every output lies a map of what is invented in it, see `idas_sr.invention`.
    """

    model: str
    realism: float | str | None
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
    realism_map: Path | None = None
    dial: str = CALIBRATED
    consistent: bool = False
    with_map: bool = False

    def recipe(self, content: bytes, job: Job | None = None) -> str:
        """JSON text that is equal for equal outputs; ``content`` are the bytes of the input file.

        Raises:
            ValueError: the job has no realism map where there should be one.
            OSError: it cannot be read.
        """
        recipe = asdict(self) | {"input": hashlib.sha256(content).hexdigest()}
        # The output is the same with a map and without.
        del recipe["with_map"]
        if self.realism_map is None:
            del recipe["realism_map"]
        else:
            found = None if job is None else map_for(self.realism_map, job.name).read_bytes()
            recipe |= {"realism": None, "realism_map": found and hashlib.sha256(found).hexdigest()}
        if not self.consistent:
            # As it was before there was this setting.
            del recipe["consistent"]
        if recipe["realism"] == 0:
            # No fresh noise is drawn there, whatever the unit, so the file must not differ either.
            del recipe["seed"], recipe["dial"]
        return json.dumps(recipe, sort_keys=True)

    def realism_of(self, job: Job) -> float | str | Tensor | None:
        """A number, ``auto``, or the job's map; None leaves it to the method.

        Raises:
            ValueError: the map is missing or no picture.
        """
        return self.realism if self.realism_map is None else read_map(map_for(self.realism_map, job.name))

    def size_of(self, job: Job, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the output of a picture of this size.

        Raises:
            ValueError: it cannot be had, the format cannot hold it, or memory.
        """
        size = self.size.resolve(height, width) if self.size else target_size(height, width, self.upscale)
        if self.consistent or self.with_map:
            check_larger(size, height, width)
        check_sides(*size, self.encoding.format_of(job.target.suffix))
        if not self.may_stream(job):
            self.check_memory(size, height, width)
        return size

    def may_stream(self, job: Job) -> bool:
        """Whether the output's format can be written while the picture is restored, as far as is known unread."""
        return self.watermark is None and self.encoding.format_of(job.target.suffix).name == "PNG"

    def check_memory(self, size: tuple[int, int], height: int, width: int) -> None:
        """Refuse an output of ``size`` that would have to be held whole.

        Raises:
            ValueError: memory cannot hold it.
        """
        # With a size in pixels, the network's own output is resampled to it.
        whole = target_size(height, width, 4.0 if self.size else self.upscale)
        check_output(*max(size, whole, key=math.prod))


@dataclass(frozen=True)
class Outcome:
    """What became of one job: ``restored``, ``skipped`` or ``failed``, with the reason; and what was converted.

    ``invented`` is the share that its map says, see `idas_sr.invention.Invention`; None without a map.
    """

    job: Job
    status: str
    reason: str | None = None
    seconds: float = 0.0
    size: tuple[int, int] | None = None
    trace: dict[str, float] | None = None
    notices: tuple[str, ...] = ()
    invented: float | None = None

    def summary(self) -> dict[str, Any]:
        """As JSON values."""
        values = asdict(self)
        del values["job"]
        return {"input": str(self.job), "output": str(self.job.target), **values}


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


def check_maps(jobs: list[Job]) -> list[Job]:
    """The jobs, where each map gets a name of its own.

    Raises:
        RefusedError: two maps, or a map and an output, would have one name.
    """
    targets = {job.target: job for job in jobs}
    taken: dict[Path, Job] = {}
    for job in jobs:
        path = heat_path(job.target)
        if path in targets:
            raise RefusedError(f"The map of {job} and the output of {targets[path]} would both be {path}; rename one.")
        if path in taken:
            raise RefusedError(f"The maps of {taken[path]} and {job} would both be {path}; rename one of them.")
        taken[path] = job
    return jobs


def _pictures(source: Path, recursive: bool) -> list[Path]:
    if source.is_file():
        return [source]
    found = source.rglob("*") if recursive else source.iterdir()
    # Names with a leading dot are other programs' leftovers, not the user's pictures.
    shown = (path for path in found if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."))
    return sorted(path for path in shown if path.is_file() and not is_heatmap(path))


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
    jobs: Iterable[Job],
    load: Callable[[], IDaSSRPipeline],
    settings: Settings,
    batch_size: int | None = None,
    resume: bool = False,
) -> Iterator[Outcome]:
    """Restore files, each output complete or not there; a bad file fails alone.

    Files are read ahead and written behind in threads, while the networks work here; how much is in memory at a time
    does not depend on how many jobs there are. Outcomes come in the order in which the pictures were restored.

    Args:
        jobs: what ``plan`` returned.
        load: gives the pipeline; called when the first picture is ready, so a fully resumed run loads nothing.
        settings: of all outputs.
        batch_size: pictures of equal size that go through the networks together; None: as many small ones as have
            ``BATCH_PIXELS`` input pixels together. With maps they go alone.
        resume: skip outputs that were made from the same input with the same settings.
    """
    if settings.with_map:
        batch_size = 1
    with ThreadPoolExecutor(THREADS, "read") as readers, ThreadPoolExecutor(THREADS, "write") as writers:
        read = ahead(partial(_read, settings=settings, resume=resume), jobs, readers, _input_pixels, READ_AHEAD)
        computed = _compute(read, load, settings, batch_size)
        yield from ahead(partial(_finish, settings=settings), computed, writers, _output_pixels, WRITE_BEHIND)


@dataclass(frozen=True)
class _Ready:
    """A picture that was read, the settings of its output as text, and its realism: a number, ``auto`` or a map."""

    job: Job
    picture: PictureFile
    recipe: str
    realism: float | str | Tensor | None

    @property
    def pixels(self) -> int:
        return self.picture.colour[0].numel()


@dataclass(frozen=True)
class _Restored:
    """A restored picture that is not written yet, and the recipe that its file will hold."""

    ready: _Ready
    recipe: str
    image: Tensor
    seconds: float
    trace: dict[str, float]
    invention: Invention | None = None


def _input_pixels(job: Job) -> int:
    """What a picture will weigh in memory; the header tells it. One that cannot be read weighs nothing."""
    try:
        with Image.open(job.source if job.member is None else io.BytesIO(job.content()), formats=READABLE) as image:
            return image.width * image.height
    except Exception:
        # Pillow raises errors of a dozen kinds for damaged files; reading will name this one.
        return 0


def _output_pixels(result: Outcome | _Restored) -> int:
    return result.image[0].numel() if isinstance(result, _Restored) else 0


def _read(job: Job, settings: Settings, resume: bool) -> Outcome | _Ready:
    try:
        content = job.content()
        recipe = settings.recipe(content, job)
        if resume and recipes.has_settings(read_recipe(job.target), recipe):
            note = read_note(heat_path(job.target), recipe) if settings.with_map else {}
            if note is not None:
                why, invented = "made before from the same input with the same settings", note.get("invented")
                return Outcome(job, "skipped", why, invented=invented)
        picture = read_picture(str(job), content, partial(settings.size_of, job))
        return _Ready(job, picture, recipe, settings.realism_of(job))
    except (OSError, ValueError) as error:
        return Outcome(job, "failed", _naming(job, error))


def _compute(
    read: Iterable[Outcome | _Ready], load: Callable[[], IDaSSRPipeline], settings: Settings, batch_size: int | None
) -> Iterator[Outcome | _Restored]:
    for group in _groups(read, batch_size):
        if isinstance(group, Outcome):
            yield group
        else:
            yield from _restore_batch(load(), group, settings)


def _groups(read: Iterable[Outcome | _Ready], batch_size: int | None) -> Iterator[Outcome | list[_Ready]]:
    """Pictures of equal size together; which ones depends on their order alone, never on how fast they were read."""
    groups: dict[tuple[int, ...], list[_Ready]] = {}
    held = 0
    for ready in read:
        if isinstance(ready, Outcome):
            yield ready
            continue
        shape = tuple(ready.picture.colour.shape)
        limit = max(1, BATCH_PIXELS // ready.pixels) if batch_size is None else batch_size
        group = groups.setdefault(shape, [])
        group.append(ready)
        held += ready.pixels
        if len(group) >= limit:
            held -= sum(one.pixels for one in groups.pop(shape))
            yield group
        while held > READ_AHEAD and groups:
            # Many different sizes: the one that waits longest goes as it is.
            group = groups.pop(next(iter(groups)))
            held -= sum(one.pixels for one in group)
            yield group
    yield from groups.values()


def _restore_batch(pipeline: IDaSSRPipeline, ready: list[_Ready], settings: Settings) -> Iterator[Outcome | _Restored]:
    begin, memory = time.perf_counter(), Memory()
    if len(ready) == 1 and _is_streamed(pipeline, ready[0], settings):
        yield _restore_rows(pipeline, ready[0], settings)
        return
    try:
        for one in ready:
            height, width = one.picture.colour.shape[-2:]
            settings.check_memory(settings.size_of(one.job, height, width), height, width)
        result = pipeline(
            [one.picture.colour for one in ready],
            realism=_together(ready),
            upscale=4.0 if settings.size else settings.upscale,
            seed=settings.seed,
            color_fix=settings.color_fix,
            output_type="pt",
            return_trace=True,
            tile=settings.extra.get("tile", "auto"),
            dial=settings.dial,
            memory=memory if len(ready) == 1 else None,
        )
        seconds = (time.perf_counter() - begin) / len(ready)
        invention = _measured(pipeline, ready[0], settings, memory) if settings.with_map else None
    except (RuntimeError, MemoryError, ValueError) as error:
        # Most likely too large together; alone each gets its own chance.
        if len(ready) > 1:
            for one in ready:
                yield from _restore_batch(pipeline, [one], settings)
        else:
            job = ready[0].job
            yield Outcome(job, "failed", f"{job} could not be restored: {one_line(error)}")
        return
    assert isinstance(result, IDaSSROutput) and result.trace is not None
    for place, (one, image, trace) in enumerate(zip(ready, result.images, result.trace, strict=True)):
        assert isinstance(image, Tensor)
        # By tiles or with a map, every picture goes through the networks by itself.
        batch = (0, 1) if "tile" in trace or isinstance(one.realism, Tensor) else (place, len(ready))
        recipe = recipes.complete(one.recipe, trace, pipeline.device, batch)
        yield _Restored(one, recipe, image, seconds, trace, invention)


def _measured(pipeline: IDaSSRPipeline, ready: _Ready, settings: Settings, memory: Memory | None = None) -> Invention:
    """What is invented in a picture that goes alone."""
    colour = ready.picture.colour
    return measure(
        pipeline,
        colour,
        ready.realism,
        settings.seed,
        settings.size_of(ready.job, *colour.shape[-2:]),
        settings.color_fix,
        settings.consistent,
        settings.extra.get("tile", "auto"),
        memory,
        dial=settings.dial,
    )


def _together(ready: list[_Ready]) -> list[float | str | Picture] | None:
    """Realism of a batch; None where it is the method's own."""
    return [one.realism for one in ready if one.realism is not None] or None


def _is_streamed(pipeline: IDaSSRPipeline, ready: _Ready, settings: Settings) -> bool:
    """Whether a picture is written while it is restored: one by tiles, into a file that can be written so."""
    if not settings.may_stream(ready.job) or not can_save_rows(ready.picture, ready.job.target, settings.encoding):
        return False
    height, width = ready.picture.colour.shape[-2:]
    return not pipeline.plan(height, width, settings.extra.get("tile", "auto")).is_whole(height, width)


def _restore_rows(pipeline: IDaSSRPipeline, ready: _Ready, settings: Settings) -> Outcome:
    job, picture, begin = ready.job, ready.picture, time.perf_counter()
    size = settings.size_of(job, *picture.colour.shape[-2:])

    def write(rows: Iterator[Tensor], trace: dict[str, float]) -> None:
        recipe = recipes.complete(ready.recipe, trace, pipeline.device)
        save_rows(rows, size, picture, job.target, settings.encoding, recipe)

    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        _, trace = pipeline.restore_rows(
            picture.colour,
            write,
            ready.realism,
            size,
            settings.seed,
            settings.color_fix,
            settings.extra.get("tile", "auto"),
            settings.dial,
            settings.consistent,
        )
        seconds, invented = round(time.perf_counter() - begin, 4), None
        if settings.with_map:
            invention = _measured(pipeline, ready, settings)
            invented = save_map(invention, job.target, ready.recipe, ready.realism)
    except OSError as error:
        return Outcome(job, "failed", f"{job.target} could not be written: {error.strerror or one_line(error)}")
    except (RuntimeError, MemoryError, ValueError) as error:
        return Outcome(job, "failed", f"{job} could not be restored: {one_line(error)}")
    notices = (*picture.notices, *_disagreement(trace))
    return Outcome(job, "restored", None, seconds, (size[1], size[0]), trace, notices, invented)


def _finish(result: Outcome | _Restored, settings: Settings) -> Outcome:
    """Write what was restored; other outcomes pass."""
    if isinstance(result, Outcome):
        return result
    job, picture = result.ready.job, result.ready.picture
    height, width = settings.size_of(job, *picture.colour.shape[-2:])
    restored, trace = resize(result.image[None], (height, width))[0].clamp(0, 1), result.trace
    if settings.consistent:
        # Not earlier: the picture agrees with its input at the size that it has in the end.
        projector = Projector(picture.colour, (height, width))
        restored, trace = projector.whole(restored), trace | {"lr_psnr": projector.decibels()}
    if settings.watermark is not None:
        (restored,) = to_tensors(stamp(to_pil(restored), settings.watermark))
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        said = save_picture(restored, picture, job.target, settings.encoding, result.recipe)
        invented = None
        if result.invention is not None:
            invented = save_map(result.invention, job.target, result.ready.recipe, result.ready.realism)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        return Outcome(job, "failed", f"{job.target} could not be written: {reason}")
    notices = (*picture.notices, *said, *_disagreement(trace))
    return Outcome(job, "restored", None, round(result.seconds, 4), (width, height), trace, notices, invented)


def _disagreement(trace: dict[str, float]) -> tuple[str, ...]:
    """A note where a picture could not be made consistent."""
    if trace.get("lr_psnr", PROMISED) >= PROMISED:
        return ()
    return (
        f"it agrees with its input to {trace['lr_psnr']:.1f} dB only: no picture between black and white is this input "
        "when it is reduced",
    )


def _naming(job: Job, error: BaseException) -> str:
    """The error in one line that names the file."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line if str(job.source) in line else f"{job} cannot be restored: {line}"
