"""What the web app does behind its page: pictures in, restorations as files out. Knows nothing of the page itself."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from idas_sr.batch import Job, Outcome, Settings, restore_files
from idas_sr.imagefiles.heatmaps import overlaid
from idas_sr.imagefiles.reading import PictureFile, read_picture
from idas_sr.imagefiles.writing import save_picture
from idas_sr.images import to_pil
from idas_sr.invention import Invention, measure
from idas_sr.pipeline import IDaSSROutput, IDaSSRPipeline, target_size
from idas_sr.recipe import complete
from idas_sr.resample import resize
from idas_sr.session import Session

KEPT = 3
"""Pictures whose anchors are held in memory at once; an older one is opened again when it is needed."""
STRIP = (0.0, 0.25, 0.5, 0.75, 1.0)
OVERLAYS: dict[str, Callable[[Invention], Tensor]] = {
    "change": lambda found: found.change,
    "spread": lambda found: found.spread,
}
"""What can be laid over the picture."""
STRIP_SIDE = 320
"""Output pixels of a side of the pictures of a strip, from the middle."""


@dataclass(frozen=True)
class Dial:
    """What a visitor chose.

    Attributes:
        realism: in [0, 1], outside the painted region.
        painted: realism of the painted region.
        mask: (h, w) bool of any size with the picture's shape: the painted region; None: nothing is painted.
        overlay: show in the picture what is invented: entry of OVERLAYS; empty: show the picture.
    """

    realism: float = 0.5
    seed: int = 42
    upscale: float = 4.0
    color_fix: str = "none"
    painted: float = 0.0
    mask: np.ndarray | None = None
    overlay: str = ""


@dataclass(frozen=True)
class Shown:
    """A restoration for the page.

    Attributes:
        before: file of the enlarged input, as large as ``after``.
        after: file that ``idas-sr infer`` would write.
        trace: positions, see ``IDaSSROutput``.
        positions: timestep told to the UNet at realism 0, 0.1 ... 1.
        seconds: that the restoration took, without reading and writing.
        is_first: whether the picture was encoded and anchored for it.
        size: (width, height) of the input.
        notices: what was converted or left out.
        overlay: file of what is invented, over the picture; None where it was not asked for.
        invented: share of the detail, see `idas_sr.invention.Invention`; None likewise.
    """

    before: Path
    after: Path
    trace: dict[str, float]
    positions: tuple[float, ...]
    seconds: float
    is_first: bool
    size: tuple[int, int]
    notices: tuple[str, ...]
    overlay: Path | None = None
    invented: float | None = None


@dataclass
class _Open:
    picture: PictureFile
    content: bytes
    session: Session
    before: dict[tuple[int, int], Path]


class Studio:
    """Restores for the page, one picture at a time.

    Args:
        pipeline: loaded, on its device.
        settings: of everything but the dial.
        folder: for files that the page shows; what is older than ``keep_seconds`` there is deleted.
        max_pixels: of an input.
        keep_seconds: age at which a file is deleted.
    """

    def __init__(
        self, pipeline: IDaSSRPipeline, settings: Settings, folder: Path, max_pixels: int, keep_seconds: float = 3600
    ) -> None:
        self.pipeline, self.settings, self.folder = pipeline, settings, folder
        self.max_pixels, self.keep_seconds = max_pixels, keep_seconds
        self._opened: OrderedDict[str, _Open] = OrderedDict()
        # One picture at a time: two would only wait for one another's cores, and sessions are shared.
        self._lock = threading.Lock()

    def restore(self, path: Path, dial: Dial) -> Shown:
        """Restore an uploaded picture as the dial says.

        Raises:
            ValueError: the picture cannot be read, is too large, or cannot become that large; one sentence.
        """
        with self._lock:
            self.sweep()
            opened = self._open(path)
            is_first = opened.session.memory.anchor is None
            settings = replace(
                self.settings,
                realism=dial.realism,
                seed=dial.seed,
                upscale=dial.upscale,
                color_fix=dial.color_fix,
                extra=self.settings.extra | _note_of(dial),
            )
            start = time.perf_counter()
            result = self._run(opened, dial, dial.realism)
            seconds = time.perf_counter() - start
            low_height, low_width = opened.picture.colour.shape[-2:]
            height, width = target_size(low_height, low_width, dial.upscale)
            restored = resize(_only(result)[None], (height, width))[0].clamp(0, 1)
            after = self._new(settings.encoding.name_of(path.name))
            assert result.trace is not None
            recipe = complete(settings.recipe(opened.content), result.trace[0], self.pipeline.device)
            said = save_picture(restored, opened.picture, after, settings.encoding, recipe)
            return Shown(
                self._before(opened, (height, width)),
                after,
                result.trace[0],
                tuple(opened.session.positions([i / 10 for i in range(11)])),
                seconds,
                is_first,
                (low_width, low_height),
                (*opened.picture.notices, *said),
                *self._overlaid(opened, dial, (height, width)),
            )

    def strip(self, path: Path, dial: Dial) -> Iterator[tuple[float, Image.Image]]:
        """The middle of the picture at each realism of STRIP, whatever is painted."""
        for realism in STRIP:
            with self._lock:
                opened = self._open(path)
                result = self._run(opened, replace(dial, mask=None), realism)
            yield realism, _middle(to_pil(_only(result)))

    def batch(self, paths: Sequence[Path], dial: Dial) -> Iterator[Outcome]:
        """Restore files into a folder of their own; outcomes in their order, names made unique."""
        self.sweep()
        folder = self._new("batch")
        folder.mkdir()
        settings = replace(
            self.settings, realism=dial.realism, seed=dial.seed, upscale=dial.upscale, color_fix=dial.color_fix
        )
        jobs = [Job(path, folder / name) for path, name in zip(paths, _unique(paths, settings), strict=True)]
        for job in jobs:
            # Each by itself, so that the page of another visitor need not wait for all of them.
            with self._lock:
                try:
                    self._check(read_picture(job.source))
                except ValueError as error:
                    yield Outcome(job, "failed", str(error))
                    continue
                yield from restore_files([job], lambda: self.pipeline, settings)

    def zip_of(self, outcomes: Sequence[Outcome]) -> Path:
        """One file with everything that was restored."""
        archive = self._new("restored.zip")
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
            for outcome in outcomes:
                if outcome.status == "restored":
                    file.write(outcome.job.target, outcome.job.target.name)
        return archive

    def enlarged(self, path: Path, side: int) -> np.ndarray:
        """(H, W, 3) uint8 of the input with a longest side of ``side``, to paint on."""
        with self._lock:
            colour = self._open(path).picture.colour
        height, width = colour.shape[-2:]
        size = target_size(height, width, side / max(height, width))
        return np.asarray(to_pil(resize(colour[None], size)[0].clamp(0, 1)))

    def sweep(self) -> None:
        """Delete what is old; what is being read by a browser stays until next time."""
        limit = time.time() - self.keep_seconds
        for path in sorted(self.folder.rglob("*"), reverse=True):
            try:
                if path.stat().st_mtime < limit:
                    path.rmdir() if path.is_dir() else path.unlink()
            except OSError:
                # A folder that is not empty, or somebody else was quicker.
                continue

    def _open(self, path: Path) -> _Open:
        if not path.is_file():
            raise ValueError("The picture is no longer on the server, which keeps none for long; upload it again.")
        content = path.read_bytes()
        key = hashlib.sha256(content).hexdigest()
        if key not in self._opened:
            picture = read_picture(path)
            self._check(picture)
            while len(self._opened) >= KEPT:
                self._opened.popitem(last=False)
            self._opened[key] = _Open(picture, content, Session(self.pipeline, picture.colour), {})
        self._opened.move_to_end(key)
        return self._opened[key]

    def _check(self, picture: PictureFile) -> None:
        height, width = picture.colour.shape[-2:]
        if height * width > self.max_pixels:
            raise ValueError(
                f"The picture has {width}x{height} pixels and this page takes {self.max_pixels / 1e6:g} million; "
                "reduce it, or restore it with idas-sr infer."
            )

    def _run(self, opened: _Open, dial: Dial, realism: float) -> IDaSSROutput:
        where = _where(opened, dial, realism)
        return opened.session(where, dial.seed, upscale=dial.upscale, color_fix=dial.color_fix, output_type="pt")

    def _overlaid(self, opened: _Open, dial: Dial, size: tuple[int, int]) -> tuple[Path, float] | tuple[None, None]:
        if not dial.overlay:
            return None, None
        colour, memory = opened.picture.colour, opened.session.memory
        where = _where(opened, dial, dial.realism)
        found = measure(self.pipeline, colour, where, dial.seed, size, dial.color_fix, memory=memory)
        path = self._new("invented.png")
        heat = overlaid(found.picture, OVERLAYS[dial.overlay](found))
        # Maps of large pictures are smaller; the page lays it beside the picture.
        heat.resize(size[::-1], Image.Resampling.BILINEAR).save(path)
        return path, found.share

    def _before(self, opened: _Open, size: tuple[int, int]) -> Path:
        if size not in opened.before or not opened.before[size].is_file():
            enlarged = resize(opened.picture.colour[None], size)[0].clamp(0, 1)
            opened.before[size] = self._new("before.png")
            to_pil(enlarged).save(opened.before[size])
        return opened.before[size]

    def _new(self, name: str) -> Path:
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return folder / name


def _where(opened: _Open, dial: Dial, realism: float) -> float | Tensor:
    """Realism of the picture, or the map that was painted."""
    if dial.mask is None or not dial.mask.any():
        return realism
    return realism_map(dial, *opened.picture.colour.shape[-2:])


def realism_map(dial: Dial, height: int, width: int) -> Tensor:
    """(height, width) in [0, 1]: ``painted`` where the mask is, ``realism`` elsewhere."""
    assert dial.mask is not None
    mask = Image.fromarray(dial.mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.NEAREST)
    is_painted = torch.from_numpy(np.array(mask)) > 0
    return torch.where(is_painted, torch.tensor(dial.painted), torch.tensor(dial.realism))


def _note_of(dial: Dial) -> dict[str, object]:
    """What the recipe says about a painted region; nothing where there is none."""
    if dial.mask is None or not dial.mask.any():
        return {}
    digest = hashlib.sha256(np.packbits(dial.mask).tobytes()).hexdigest()
    return {"painted": dial.painted, "mask": digest}


def _unique(paths: Sequence[Path], settings: Settings) -> list[str]:
    names: list[str] = []
    for path in paths:
        name, number = settings.encoding.name_of(path.name), 2
        while name in names:
            stem, dot, extension = settings.encoding.name_of(path.name).rpartition(".")
            name, number = f"{stem} ({number}){dot}{extension}", number + 1
        names.append(name)
    return names


def _only(result: IDaSSROutput) -> Tensor:
    (image,) = result.images
    assert isinstance(image, Tensor)
    return image


def _middle(image: Image.Image) -> Image.Image:
    width, height = min(image.width, STRIP_SIDE), min(image.height, STRIP_SIDE)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
