"""Builds or checks a benchmark's set from what the user has; nothing is ever downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from idas_sr.data.benchmarks import (
    IMAGENET_TEST_SEED,
    arrange_realsr_v3,
    choose_photographs,
    folder_digest,
    synthesise_all,
)
from idas_sr.evaluation.benchmark import MARK, BenchmarkConfig, Verdict, check_set, judge
from idas_sr.evaluation.files import versions, write_json


def build_set(
    config: BenchmarkConfig,
    source: Path,
    count: int | None = None,
    seed: int = IMAGENET_TEST_SEED,
    jobs: int = 1,
    on_picture: Callable[[str], None] = lambda stem: None,
) -> str:
    """Make the set in ``config.data.root`` from the folder ``source``; returns what was made, as a sentence.

    Args:
        count: pictures of a synthetic set; default the benchmark's own number.
        seed: chooses the photographs and draws the degradations.

    Raises:
        ValueError: the set cannot be made, or ``source`` is not what it is made from.
    """
    root = Path(config.data.root)
    if config.data.build == "realsr-v3":
        return f"{arrange_realsr_v3(source, root)} pairs copied to {root}."
    if config.data.build is None:
        raise ValueError(f"{config.title} cannot be made here. {config.data.source}")
    wanted = config.data.count if count is None else count
    size = config.data.hq_size[0] if config.data.hq_size else 512
    photographs = choose_photographs(source, wanted, seed)
    hashes = synthesise_all(photographs, root, config.data.build, size, seed, jobs, on_picture)
    mark = {"name": config.name, "count": wanted, "seed": seed, "preset": config.data.build, "hashes": hashes}
    write_json(root / MARK, mark | {"versions": versions()})
    return f"{wanted} pairs made in {root}; hashes: lq {hashes['lq']}, hq {hashes['hq']}."


def inspect_set(config: BenchmarkConfig, count: int | None = None) -> tuple[dict[str, str], Verdict]:
    """Check number, pairs and sizes of a set and hash its contents.

    Args:
        count: pictures, where a synthetic set was made with another number.

    Returns:
        Hashes (``lq``, ``hq``), and what they say.

    Raises:
        ValueError: the set is not as it should be.
    """
    if count is not None:
        config = replace(config, data=replace(config.data, count=count))
    checked = check_set(config)
    hashes = {"lq": folder_digest(next(iter(checked.lq.values())).parent)}
    if checked.hq:
        hashes["hq"] = folder_digest(next(iter(checked.hq.values())).parent)
    return hashes, judge(config, hashes)
