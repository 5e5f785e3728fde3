"""Realism maps as files: grey pictures, white is 1."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from idas_sr.imagefiles.formats import EXTENSIONS
from idas_sr.imagefiles.reading import read_picture
from idas_sr.imagefiles.writing import LUMA


def map_for(maps: Path, name: str) -> Path:
    """The file with the map of a picture: ``maps`` itself, or the one of the picture's stem in the folder ``maps``.

    Args:
        maps: file or folder.
        name: file name of the picture.

    Raises:
        ValueError: there is none, or there are several.
    """
    if not maps.is_dir():
        return maps
    stem = Path(name).stem
    found = [path for suffix in sorted(EXTENSIONS) if (path := maps / f"{stem}{suffix}").is_file()]
    if len(found) != 1:
        what = "no realism map" if not found else f"more than one realism map, {found[0].name} and {found[1].name},"
        raise ValueError(f"There is {what} for {name} in {maps}; it should have one, {stem}.png for example.")
    return found[0]


def read_map(path: str | Path) -> Tensor:
    """(h, w) in [0, 1] of a picture file, upright: its luma; transparency and colour profile do not count.

    Raises:
        ValueError: as ``read_picture``.
    """
    picture = read_picture(path)
    if picture.grey:
        # As it stands: a sum of weights would move white by a rounding error.
        return picture.colour[0]
    return (picture.colour * torch.tensor(LUMA)[:, None, None]).sum(0).clamp(0, 1)
