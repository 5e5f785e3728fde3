"""An output made again from its recipe and its input, and what differs where it does not come out the same."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idas_sr import recipe as recipes
from idas_sr.batch import Job, Settings, restore_files
from idas_sr.imagefiles.reading import PictureFile, read_picture
from idas_sr.imagefiles.writing import read_recipe
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.planning import Plan

SHORT = 12
"""Digits of a hash that are shown."""


@dataclass(frozen=True)
class Recipe:
    """What an output says about its making: ``settings`` known before, ``result`` found on the way."""

    settings: dict[str, Any]
    result: dict[str, Any]

    @classmethod
    def of_file(cls, path: Path) -> Recipe:
        """The recipe in an output's file.

        Raises:
            ValueError: there is no such file, or no recipe in it.
        """
        if not path.is_file():
            raise ValueError(f"There is no file {path}.")
        found = recipes.parse(read_recipe(path))
        if found is None or "model" not in found[0]:
            raise ValueError(
                f"{path} holds no recipe: it was not written by idas-sr, or another program has saved it since "
                "without what it said."
            )
        return cls(*found)

    @property
    def tile(self) -> Plan | int | str:
        """How the picture was cut; outputs that do not say are cut as their settings ask for."""
        if "trace" not in self.result:
            return self.settings.get("extra", {}).get("tile", "auto")
        plan = [self.result["trace"].get(name) for name in ("tile", "overlap", "at_once", "samples")]
        return Plan(*(int(value) for value in plan)) if all(value is not None for value in plan) else 0

    @property
    def batch(self) -> tuple[int, int]:
        """Place in its batch, and how many there were."""
        place, count = self.result.get("batch", (0, 1))
        return int(place), int(count)


@dataclass(frozen=True)
class Comparison:
    """Pixels of an output and of what was made again.

    Attributes:
        size: (width, height) of the output.
        differing: pixels that are not the same; None: another size or kind of picture.
        largest: difference of a channel, in levels of the file's depth.
    """

    size: tuple[int, int]
    differing: int | None
    largest: int = 0

    @property
    def is_identical(self) -> bool:
        return self.differing == 0


@dataclass(frozen=True)
class Reproduction:
    """What came of it; ``differences`` are the things that were not as the recipe has them, one line each."""

    comparison: Comparison
    differences: tuple[str, ...]


def reproduce(
    output: Path, source: Path, settings: Settings, load: Callable[[], IDaSSRPipeline], recipe: Recipe | None = None
) -> Reproduction:
    """Restore ``source`` as the recipe in ``output`` says, beside it, and compare. Neither file is changed.

    Args:
        output: written by ``restore_files``.
        source: what it was made from.
        settings: as far as they could be had here; where they are not the recipe's, a line says so.
        load: gives the pipeline.
        recipe: of ``output``, where it was read before.

    Raises:
        ValueError: no recipe, an input that cannot be restored, or an output that cannot be read.
        OSError: a file cannot be read.
    """
    recipe = Recipe.of_file(output) if recipe is None else recipe
    content = source.read_bytes()
    place, count = recipe.batch
    with tempfile.TemporaryDirectory(prefix="idas_sr-") as folder:
        jobs = [Job(source, Path(folder) / str(index) / output.name) for index in range(count)]
        now = recipes.parse(settings.recipe(content, jobs[0]))
        assert now is not None
        # As many equal pictures as went through the networks together, cut as it was cut.
        settings = replace(settings, extra=settings.extra | {"tile": recipe.tile})
        pipeline, then = load(), recipe.result.get("machine", {})
        with _threads(then.get("threads")):
            for outcome in restore_files(jobs, lambda: pipeline, settings, batch_size=count):
                if outcome.status == "failed":
                    raise ValueError(f"{outcome.reason}.")
            here = recipes.machine(pipeline.device)
        differences = (*_differing(recipe.settings, now[0]), *_differing(then, here))
        return Reproduction(compare(output, jobs[place].target), differences)


@contextmanager
def _threads(count: Any) -> Iterator[None]:
    """As many threads as then, where there are so many cores: sums of several threads round in another order."""
    before = torch.get_num_threads()
    if isinstance(count, int) and 1 <= count <= (os.cpu_count() or 1):
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare(first: Path, second: Path) -> Comparison:
    """Pixels of two files, with their transparency.

    Raises:
        ValueError: one is no picture.
    """
    one, two = read_picture(first), read_picture(second)
    size = (one.colour.shape[-1], one.colour.shape[-2])
    if _kind(one) != _kind(two):
        return Comparison(size, None)
    difference = (_pixels(one) - _pixels(two)).abs().amax(0)
    levels = 65535 if one.bits == 16 else 255
    return Comparison(size, int((difference > 0).sum()), round(float(difference.max()) * levels))


def _kind(picture: PictureFile) -> tuple[Any, ...]:
    return (*picture.colour.shape, picture.grey, picture.bits, picture.alpha is None)


def _pixels(picture: PictureFile) -> Tensor:
    return picture.colour if picture.alpha is None else torch.cat([picture.colour, picture.alpha])


def _differing(then: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """A line per entry that is not the same."""
    for name in sorted({*then, *now}):
        old, new = then.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differing(old, new, f"{above}{name} ")
        else:
            yield f"{above}{name}: made with {_shown(old)}, here {_shown(new)}"


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    words = str(value)
    is_hash = len(words) == hashlib.sha256().digest_size * 2 and set(words) <= set("0123456789abcdef")
    return words[:SHORT] if is_hash else words
