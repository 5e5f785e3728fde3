"""Benchmarks as configurations: which set, what must be in it, and with what it is restored and measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from idas_sr.config import ConfigError
from idas_sr.data.benchmarks import pictures_in

MARK = "benchmark.json"
"""File in the root of a set that was made here: its name, seed and hashes."""


@dataclass(frozen=True)
class SetConfig:
    """Where a set lies and what it must hold.

    Attributes:
        root: folder of the set.
        lq, hq: names that the folders of inputs and references go by; the first that is there counts.
        count: pictures.
        lq_size, hq_size: (width, height) of every picture; empty where they differ.
        hashes: ``lq`` and ``hq`` of the true set (data/benchmarks.py: set_digest); empty where they are not known.
        hash_file: JSON file of such hashes, for a set whose hashes are not known here.
        needs_hash: published rows may stand beside ours only where hashes are known and equal.
        source: where to get it; build: how it is made.
    """

    root: str = MISSING
    lq: list[str] = field(default_factory=lambda: ["lq", "test_LR", "LR"])
    hq: list[str] = field(default_factory=lambda: ["hq", "gt", "test_HR", "HR"])
    count: int = MISSING
    lq_size: list[int] = field(default_factory=list)
    hq_size: list[int] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    hash_file: str | None = None
    needs_hash: bool = False
    source: str = MISSING
    build: str | None = None


@dataclass(frozen=True)
class ModelConfig:
    """What restores; names as on the command line of ``idas-sr infer``."""

    name: str = "compact"
    method: str = "idas"
    sd_path: str | None = None
    steering: str | None = None
    kappa: float | None = None
    color_fix: str = "none"
    precision: str = "auto"
    device: str = "auto"
    batch_size: int = 1


@dataclass(frozen=True)
class BenchmarkConfig:
    """One benchmark.

    Attributes:
        published: name of its published rows; None for a set that nobody else has.
        has_reference: whether there are references.
        realism: a number, or a list of them: one row each.
        output: folder of the results; default ``out/NAME``.
        columns: what to measure; empty: all that can be measured here.
        limit: only the first N pictures, for a try; no published rows then.
        jobs: pictures scored at a time, over all processes; 0: as many as cores.
        threads: of each process while restoring; 0: cores over processes.
    """

    name: str = MISSING
    title: str = MISSING
    published: str | None = None
    has_reference: bool = True
    scale: float = 4.0
    data: SetConfig = field(default_factory=SetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    realism: Any = 0.5
    seed: int = 42
    trivial: bool = True
    output: str | None = None
    columns: list[str] = field(default_factory=list)
    squeezenet: str | None = None
    limit: int = 0
    jobs: int = 0
    threads: int = 0

    @property
    def levels(self) -> list[float]:
        """Realism of each row."""
        values = self.realism if isinstance(self.realism, list | tuple) else [self.realism]
        return [float(value) for value in values]

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return Path(self.output) if self.output else Path("out") / self.name


@dataclass(frozen=True)
class Checked:
    """The files of a set whose number and sizes are right: stem -> file."""

    lq: dict[str, Path]
    hq: dict[str, Path]


def load_benchmark(path: str | Path, overrides: Sequence[str] = (), needs_root: bool = True) -> BenchmarkConfig:
    """A benchmark's YAML, then ``key=value`` strings, over the schema.

    Args:
        needs_root: whether ``data.root`` must be set.

    Raises:
        ConfigError: unknown key, wrong type or value, missing file or unreadable YAML.
    """
    if not Path(path).is_file():
        raise ConfigError(
            f"The benchmark's configuration {path} does not exist; there is one per set in configs/benchmark."
        )
    for text in overrides:
        if "=" not in text:
            raise ConfigError(f"{text} on the command line is no key=value, for example data.root=FOLDER.")
    try:
        own = OmegaConf.load(path)
        if not isinstance(own, DictConfig):
            raise ConfigError(f"{path} must be a mapping of keys to values.")
        rootless = {} if needs_root else {"data": {"root": ""}}
        given = OmegaConf.from_dotlist(list(overrides))
        merged = OmegaConf.merge(OmegaConf.structured(BenchmarkConfig), rootless, own, given)
    except (OmegaConfBaseException, AttributeError, TypeError) as error:
        where = getattr(error, "full_key", None)
        raise ConfigError(f"{path}: {f'{where}: ' if where else ''}{str(error).splitlines()[0]}") from error
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if missing := OmegaConf.missing_keys(merged):
        raise ConfigError(f"Not set: {', '.join(sorted(missing))}. Give it as key=value, for example data.root=FOLDER.")
    config: Any = OmegaConf.to_object(merged)
    _check_values(config)
    return config


def _check_values(config: BenchmarkConfig) -> None:
    try:
        levels = config.levels
    except (TypeError, ValueError) as error:
        raise ConfigError(f"realism must be a number or a list of numbers, not {config.realism!r}.") from error
    if not levels or len(set(levels)) < len(levels) or not all(0 <= level <= 1 for level in levels):
        raise ConfigError(f"realism must be different numbers between 0 and 1, not {config.realism!r}.")
    if config.limit < 0 or config.jobs < 0 or config.threads < 0 or config.model.batch_size < 1:
        raise ConfigError("limit, jobs and threads must not be negative, model.batch_size must be at least 1.")


def find_folder(root: Path, names: Sequence[str], source: str) -> Path:
    """The folder of ``root`` that goes by one of ``names``; ``.`` is the root itself.

    Raises:
        ValueError: there is none; the message says where the set comes from.
    """
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise ValueError(f"{root} has no folder {' or '.join(names)}. {source}")


def check_set(config: BenchmarkConfig) -> Checked:
    """Find a set's files and check their number, pairs and sizes; their contents are checked by their hashes.

    Raises:
        ValueError: something is missing or of another size; the first such file is named.
    """
    root, data = Path(config.data.root), config.data
    mark = root / MARK
    if mark.is_file() and (made := json.loads(mark.read_text(encoding="utf-8")).get("name")) != config.name:
        raise ValueError(f"{root} holds the set {made!r}, which was made here; it cannot stand for {config.name!r}.")
    lq = pictures_in(find_folder(root, data.lq, data.source))
    hq = pictures_in(find_folder(root, data.hq, data.source)) if config.has_reference else {}
    for here, there in ((lq, hq), (hq, lq)):
        if config.has_reference and (alone := [stem for stem in here if stem not in there]):
            raise ValueError(f"{here[alone[0]]} has no partner of the same stem ({len(alone)} such pictures).")
    if config.limit:
        kept = list(lq)[: config.limit]
        lq, hq = {stem: lq[stem] for stem in kept}, {stem: hq[stem] for stem in kept if stem in hq}
    elif len(lq) != data.count:
        raise ValueError(
            f"{root} holds {len(lq)} pictures, {config.title} has {data.count}. "
            f"Complete it, or try a part with limit=N. {data.source}"
        )
    _check_sizes(config, lq, hq)
    return Checked(lq, hq)


def _check_sizes(config: BenchmarkConfig, lq: dict[str, Path], hq: dict[str, Path]) -> None:
    for files, wanted in ((lq, config.data.lq_size), (hq, config.data.hq_size)):
        for path in files.values():
            size = _size_of(path)
            if wanted and size != tuple(wanted):
                raise ValueError(f"{path} is {size[0]}x{size[1]}, {config.title} has {wanted[0]}x{wanted[1]}.")
    for stem, path in hq.items():
        small, large = _size_of(lq[stem]), _size_of(path)
        if large != tuple(round(side * config.scale) for side in small):
            raise ValueError(
                f"{path} is {large[0]}x{large[1]}, not {config.scale:g} times {small[0]}x{small[1]} of {lq[stem]}."
            )


def _size_of(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error}); repair or replace it.") from error


def known_hashes(config: BenchmarkConfig) -> dict[str, str]:
    """Hashes that the set must have: of the user's ``data.hash_file``, else those in the configuration.

    Raises:
        ValueError: the file is no JSON of hashes.
    """
    if config.data.hash_file is None:
        return dict(config.data.hashes)
    try:
        found = json.loads(Path(config.data.hash_file).read_text(encoding="utf-8"))
        return {side: str(found[side]) for side in ("lq", "hq") if side in found}
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{config.data.hash_file} is no JSON file of hashes as prepare_data.py benchmark --write-hashes makes it."
        ) from error


class Verdict(NamedTuple):
    """Whether published rows may stand beside ours, why, and whether the set is another one than it should be."""

    may_compare: bool
    reason: str
    is_different: bool = False


def judge(config: BenchmarkConfig, hashes: dict[str, str]) -> Verdict:
    """What a set's hashes say.

    Args:
        hashes: measured, ``lq`` and where there is one ``hq``.

    Raises:
        ValueError: ``data.hash_file`` is no JSON of hashes.
    """
    if config.published is None:
        return Verdict(False, f"{config.title} is nobody else's set: no published row can stand beside it.")
    if config.limit:
        return Verdict(False, f"Only {config.limit} pictures were used (limit): published rows are left out.")
    known = known_hashes(config)
    if wrong := [side for side, value in known.items() if hashes.get(side) != value]:
        where = " and ".join(wrong)
        return Verdict(
            False, f"The {where} pictures are not those of {config.title}: published rows are left out.", True
        )
    if known:
        return Verdict(True, f"The pictures are those of {config.title}, by hash.")
    if config.data.needs_hash:
        return Verdict(
            False,
            f"No hash of {config.title} is known here, and such pictures can be made in many ways: published rows are "
            "left out. Give the hashes of the released set with data.hash_file=FILE.",
        )
    return Verdict(
        True, f"No hash of {config.title} is known here: names, number and sizes fit, contents are not verified."
    )
