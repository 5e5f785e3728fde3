"""JSON files against JSON schemas: what is wrong with a file, in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

LARGEST = 64 * 2**20
"""Bytes: a file of results or votes above this is none."""


@cache
def checker(schema: Path) -> Callable[[Any], Any]:
    """A function that raises fastjsonschema's exception where a value does not fit a schema (draft 7)."""
    # Not at the top: it makes Python of a schema, which only who reads files of others needs.
    import fastjsonschema

    check: Callable[[Any], Any] = fastjsonschema.compile(json.loads(schema.read_text(encoding="utf-8")))
    return check


def complaint(value: Any, schema: Path) -> str | None:
    """What is wrong with a value, for the middle of a sentence; None where nothing is."""
    import fastjsonschema

    try:
        checker(schema)(value)
    except fastjsonschema.JsonSchemaValueException as error:
        # "data.rows.x.mean must be ...": the value at hand is a file for whoever reads this.
        place, _, words = str(error.message).partition(" ")
        place = place.removeprefix("data").removeprefix(".")
        return f"{place or 'the file'} {words}"
    return None


def read_checked(path: Path, schema: Path, what: str) -> Any:
    """The content of a JSON file that fits a schema.

    Args:
        what: the file should hold, for the sentence that refuses it.

    Raises:
        ValueError: it is too large, no JSON, or does not fit.
        OSError: it cannot be read.
    """
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size / 2**20:.0f} MiB, too much for {what}; give another file.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); give {what}.") from error
    if (words := complaint(value, schema)) is not None:
        raise ValueError(f"{path} does not hold {what}: {words}.")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number; null says that there is none")
