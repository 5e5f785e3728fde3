"""A page on which people compare results without knowing whose they are; it needs no server and no network."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import random
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idas_sr.comparison.scores import CORRECTION
from idas_sr.comparison.votes import FORMAT, seal
from idas_sr.data.benchmarks import pictures_in
from idas_sr.evaluation.files import write_text
from idas_sr.imagefiles.reading import read_rgb

QUESTION = "Which picture is better?"
MIME = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".bmp": "image/bmp"}
"""Files that every browser shows as they are; others become PNG."""
EMBED_LIMIT = 64 * 2**20
"""Bytes of pictures up to which they go into the page itself; it grows by a third more."""
OWN = re.compile(r"[0-9a-f]{16}\.[a-z]+")
"""Name of a file in the folder beside a page."""
NAMES = (("reference", "Reference"), ("lq", "Input"))
"""Further pictures that may be shown beside the two, and their titles."""


@dataclass(frozen=True)
class Comparison:
    """One question: two methods (places in the list of names) on one picture."""

    picture: str
    left: int
    right: int


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        comparisons: on the page.
        bytes: of the page, and of the folder beside it, 0 where the pictures are in the page.
        equal: (picture, name, name) of comparisons left out because both pictures are the same.
        unpaired: stems that are not in every folder.
    """

    path: Path
    comparisons: int
    bytes: tuple[int, int]
    equal: tuple[tuple[str, str, str], ...]
    unpaired: tuple[str, ...]


@dataclass
class _Pictures:
    """Files that the page shows, each under a name that says nothing; equal files once."""

    salt: bytes
    found: dict[str, tuple[bytes, str]] = field(default_factory=dict)

    def add(self, path: Path) -> str:
        content, suffix = _for_browsers(path)
        # Salted: the digest of a published picture would tell whose it is.
        key = hashlib.sha256(self.salt + content).hexdigest()[:16]
        self.found[key] = (content, suffix)
        return key

    @property
    def size(self) -> int:
        return sum(len(content) for content, _ in self.found.values())


def _for_browsers(path: Path) -> tuple[bytes, str]:
    suffix = path.suffix.lower()
    if suffix in MIME:
        return path.read_bytes(), suffix
    file = io.BytesIO()
    Image.fromarray(read_rgb(path)).save(file, "PNG")
    return file.getvalue(), ".png"


def arrange(choices: Mapping[tuple[int, int], Sequence[str]], seed: int, limit: int | None = None) -> list[Comparison]:
    """Questions in random order, every pair of methods equally often on either side.

    Args:
        choices: pair of methods -> pictures on which to compare them.
        limit: at most so many questions, taken from all pairs alike.
    """
    rng = random.Random(seed)
    piles = [[Comparison(stem, i, j) for stem in rng.sample(list(s), len(s))] for (i, j), s in choices.items()]
    turns = [pile[turn] for turn in range(max(map(len, piles), default=0)) for pile in piles if turn < len(pile)]
    chosen = turns[:limit]
    for pair in choices:
        own = [place for place, one in enumerate(chosen) if (one.left, one.right) == pair]
        for place in rng.sample(own, len(own) // 2):
            chosen[place] = Comparison(chosen[place].picture, *reversed(pair))
    rng.shuffle(chosen)
    return chosen


def write_page(
    folders: Mapping[str, Path],
    output: Path,
    lq: Path | None = None,
    reference: Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    question: str = QUESTION,
    embed: bool | None = None,
) -> Written:
    """Write a comparison page.

    Args:
        folders: name -> folder of its pictures, paired by stem; two or more.
        output: the page; pictures that do not go into it lie beside it in STEM_pictures/, under names that say nothing.
        lq, reference: folders of pictures that are shown beside the two.
        seed: decides order and sides.
        limit: ask at most so many questions.
        embed: pictures within the page; None: where they have at most ``EMBED_LIMIT`` bytes.

    Raises:
        ValueError: fewer than two folders, no common picture, sizes that differ, a picture that has no input or
            reference, or nothing to choose between.
        OSError: the page cannot be written.
    """
    if len(folders) < 2:
        raise ValueError("A comparison needs the folders of two results or more.")
    rng = random.Random(seed)
    names = rng.sample(list(folders), len(folders))
    found = {name: pictures_in(folders[name]) for name in names}
    stems = sorted(set.intersection(*(set(of) for of in found.values())))
    if not stems:
        raise ValueError(f"{' and '.join(map(str, folders.values()))} have no stem in common; pictures pair by stem.")
    beside = {key: pictures_in(folder) for key, folder in (("reference", reference), ("lq", lq)) if folder}
    for key, partners in beside.items():
        if missing := [stem for stem in stems if stem not in partners]:
            folder = reference if key == "reference" else lq
            raise ValueError(
                f"{missing[0]} is not in {folder}; a page shows a partner with every picture or with none."
            )
    choices, equal = _choices(names, found, stems)
    comparisons = arrange(choices, seed, limit)
    if not comparisons:
        raise ValueError("There is nothing to choose: all pictures of the folders are equal, pixel for pixel.")
    pictures = _Pictures(rng.randbytes(16))
    data = _data(names, found, beside, comparisons, question, pictures)
    embed = pictures.size <= EMBED_LIMIT if embed is None else embed
    size = _write(output, data, pictures, question, embed)
    unpaired = sorted(set().union(*found.values()) - set(stems))
    return Written(output, len(comparisons), size, equal, tuple(unpaired))


def _choices(
    names: Sequence[str], found: Mapping[str, Mapping[str, Path]], stems: Sequence[str]
) -> tuple[dict[tuple[int, int], list[str]], tuple[tuple[str, str, str], ...]]:
    """Pair of methods -> pictures that differ; and those that do not."""
    choices: dict[tuple[int, int], list[str]] = {pair: [] for pair in combinations(range(len(names)), 2)}
    equal = []
    for stem in stems:
        pixels = [read_rgb(found[name][stem]) for name in names]
        for i, j in choices:
            a, b = pixels[i], pixels[j]
            if a.shape != b.shape:
                sizes = [f"{found[names[k]][stem]} has {pixels[k].shape[1]}x{pixels[k].shape[0]}" for k in (i, j)]
                raise ValueError(f"{' and '.join(sizes)} pixels; pictures that are compared have one size.")
            if np.array_equal(a, b):
                one, other = sorted((names[i], names[j]))
                equal.append((stem, one, other))
            else:
                choices[i, j].append(stem)
    return choices, tuple(equal)


def _data(
    names: Sequence[str],
    found: Mapping[str, Mapping[str, Path]],
    beside: Mapping[str, Mapping[str, Path]],
    comparisons: Sequence[Comparison],
    question: str,
    pictures: _Pictures,
) -> dict[str, Any]:
    def shown(one: Comparison) -> dict[str, Any]:
        sides = {side: pictures.add(found[names[getattr(one, side)]][one.picture]) for side in ("left", "right")}
        return {"picture": one.picture, "methods": [one.left, one.right], **sides, **_partners(one, beside, pictures)}

    asked = [shown(one) for one in comparisons]
    identity = json.dumps([question, names, asked]).encode()
    return {
        "format": FORMAT,
        "page": hashlib.sha256(identity).hexdigest()[:16],
        "question": question,
        "sealed": seal(names),
        "correction": CORRECTION,
        "beside": [[key, title] for key, title in NAMES if key in beside],
        "comparisons": asked,
    }


def _partners(one: Comparison, beside: Mapping[str, Mapping[str, Path]], pictures: _Pictures) -> dict[str, str]:
    return {key: pictures.add(partners[one.picture]) for key, partners in beside.items()}


def _write(output: Path, data: dict[str, Any], pictures: _Pictures, question: str, embed: bool) -> tuple[int, int]:
    folder = output.with_name(f"{output.stem}_pictures")
    if embed:
        sources = {
            key: f"data:{MIME[suffix]};base64,{base64.b64encode(content).decode()}"
            for key, (content, suffix) in sorted(pictures.found.items())
        }
    else:
        sources = {key: f"{folder.name}/{key}{suffix}" for key, (_, suffix) in sorted(pictures.found.items())}
        _write_folder(folder, {f"{key}{suffix}": content for key, (content, suffix) in pictures.found.items()})
    # "<" never stands in what a browser reads as part of the page.
    text = json.dumps({**data, "sources": sources}).replace("<", "\\u003c")
    here = Path(__file__)
    page, style, script = (here.with_suffix(f".{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    parts = {"QUESTION": html.escape(question), "STYLE": style, "SCRIPT": script, "DATA": text}
    # In one pass: a mark within what is put in is text.
    write_text(output, re.sub("@@([A-Z]+)@@", lambda mark: parts[mark[1]], page))
    return output.stat().st_size, 0 if embed else pictures.size


def _write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """The folder with these files, whole or as it was.

    Raises:
        ValueError: there is such a folder, and it holds something else.
    """
    if folder.exists() and not (folder.is_dir() and all(OWN.fullmatch(path.name) for path in folder.iterdir())):
        raise ValueError(f"{folder} is there already and not of a comparison page; choose another name for the page.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        for name, content in contents.items():
            (partial / name).write_bytes(content)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
