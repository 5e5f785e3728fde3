"""Test sets on disk: which files they are, what is in them, and how those that can be made are made."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from idas_sr.data.degradation import Degradation
from idas_sr.data.photographs import sample_rng
from idas_sr.imagefiles.formats import EXTENSIONS
from idas_sr.imagefiles.heatmaps import is_heatmap
from idas_sr.imagefiles.reading import read_rgb
from idas_sr.images import write_png

IMAGENET_TEST_SEED = 10000
"""With which InvSR chooses the photographs of ImageNet-Test (scripts/prepare_sr_testing_syn.py)."""

PHOTOGRAPHS_OF_IMAGENET = re.compile(r".*\.[jp][pn].*g", re.IGNORECASE)
"""What InvSR takes for a photograph: the names its shell pattern matches."""


def pictures_in(folder: Path) -> dict[str, Path]:
    """Stem -> file of the pictures in ``folder`` itself, sorted; folders below it are not entered, maps passed over.

    Raises:
        ValueError: no such folder, no picture in it, or two pictures of one stem.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give a folder of pictures.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in EXTENSIONS or path.name.startswith(".") or is_heatmap(path):
            continue
        if path.stem in found:
            raise ValueError(f"{found[path.stem]} and {path.name} have the same stem; keep one of the two.")
        found[path.stem] = path
    if not found:
        raise ValueError(f"There is no picture in {folder}; known are {', '.join(sorted(EXTENSIONS))}.")
    return found


def pixels_digest(pixels: np.ndarray) -> str:
    """SHA-256 of a picture's size and 8-bit values (H, W, 3): the same for every lossless file of it."""
    head = f"{pixels.shape[1]}x{pixels.shape[0]}\n".encode()
    return hashlib.sha256(head + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def set_digest(digests: Mapping[str, str]) -> str:
    """SHA-256 of a whole set from stem -> digest of its pictures."""
    lines = "".join(f"{stem} {digests[stem]}\n" for stem in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def folder_digest(folder: Path) -> str:
    """`set_digest` of the pictures in a folder."""
    return set_digest({stem: pixels_digest(read_rgb(path)) for stem, path in pictures_in(folder).items()})


def choose_photographs(folder: Path, count: int, seed: int = IMAGENET_TEST_SEED) -> list[Path]:
    """``count`` photographs as InvSR's script chooses them: sort, shuffle, sample, with Python's own generator.

    Raises:
        ValueError: no such folder, or fewer photographs than that.
    """
    if not folder.is_dir():
        raise ValueError(f"The folder of photographs {folder} does not exist; give it with --source.")
    found = sorted(path for path in folder.iterdir() if PHOTOGRAPHS_OF_IMAGENET.fullmatch(path.name))
    if len(found) < count:
        raise ValueError(f"{folder} holds {len(found)} photographs, {count} are needed; the set takes no fewer.")
    rng = random.Random(seed)
    rng.shuffle(found)
    return rng.sample(found, count)


def centre_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (size, size, 3) uint8: the short side brought to ``size`` by area, the middle cut out.

    InvSR's testing mode (basicsr/data/realesrgan_dataset.py), rounded to 8 bits.
    """
    height, width = pixels.shape[:2]
    if min(height, width) != size:
        factor = size / min(height, width)
        new = (max(size, round(width * factor)), max(size, round(height * factor)))
        pixels = cv2.resize(pixels.astype(np.float32), new, interpolation=cv2.INTER_AREA).round().clip(0, 255)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size].astype(np.uint8)


def synthesise(path: Path, target: Path, preset: str, size: int, seed: int) -> tuple[str, str, str]:
    """Write ``target``/gt/STEM.png and ``target``/lq/STEM.png of one photograph; nothing but name and seed decides.

    DIFFERS: InvSR degrades the cropped photograph before it is rounded to 8 bits; here LQ is made of the saved file, so
    that anybody can make it again.

    Returns:
        Stem, digest of LQ, digest of the ground truth.
    """
    # Sums depend on how many threads share them, and a rounding to 8 bits may hang on the last bit.
    torch.set_num_threads(1)
    hq = centre_crop(read_rgb(path), size)
    tensor = torch.from_numpy(hq.copy()).movedim(-1, 0)[None].float() / 255
    rng = sample_rng(seed, zlib.crc32(path.stem.encode()))
    degraded = Degradation(preset, jpeg="pillow")(tensor, [rng])[0]
    lq = (degraded.movedim(0, -1) * 255).round().byte().numpy()
    for name, pixels in (("gt", hq), ("lq", lq)):
        write_png(Image.fromarray(pixels), target / name / f"{path.stem}.png")
    return path.stem, pixels_digest(lq), pixels_digest(hq)


def synthesise_all(
    photographs: Sequence[Path],
    target: Path,
    preset: str = "imagenet-test",
    size: int = 512,
    seed: int = IMAGENET_TEST_SEED,
    jobs: int = 1,
    on_picture: Callable[[str], None] = lambda stem: None,
) -> dict[str, str]:
    """Make a synthetic test set, bit for bit the same for every number of processes.

    Returns:
        Set digests, ``lq`` and ``hq``.

    Raises:
        ValueError: two photographs of one stem, or a folder that holds pictures of another set.
    """
    stems = {path.stem for path in photographs}
    if len(stems) < len(photographs):
        raise ValueError("Two of the photographs have the same stem; rename one of them.")
    for name in ("gt", "lq"):
        (target / name).mkdir(parents=True, exist_ok=True)
        others = sorted(p.name for p in (target / name).iterdir() if p.is_file() and p.stem not in stems)
        if others:
            raise ValueError(f"{target / name} holds pictures of another set, first {others[0]}; choose a new folder.")
    lq, hq = {}, {}
    work = partial(synthesise, target=target, preset=preset, size=size, seed=seed)
    for stem, low, high in _spread(work, photographs, jobs):
        lq[stem], hq[stem] = low, high
        on_picture(stem)
    return {"lq": set_digest(lq), "hq": set_digest(hq)}


def _spread(
    work: Callable[[Path], tuple[str, str, str]], paths: Sequence[Path], jobs: int
) -> Iterator[tuple[str, str, str]]:
    if jobs <= 1:
        threads = torch.get_num_threads()
        try:
            yield from map(work, paths)
        finally:
            torch.set_num_threads(threads)
        return
    # A forked child would inherit PyTorch's thread pool without its threads.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, paths, chunksize=4)


def arrange_realsr_v3(source: Path, target: Path) -> int:
    """Copy the x4 test pictures of RealSR V3 (CAMERA/Test/4/*_HR.png, *_LR4.png) to ``target``/hq and /lq, stems equal.

    Returns:
        The number of pairs.

    Raises:
        ValueError: the folders are not there, or a picture has no partner.
    """
    pairs: dict[str, tuple[Path, Path]] = {}
    for camera in ("Canon", "Nikon"):
        folder = source / camera / "Test" / "4"
        if not folder.is_dir():
            raise ValueError(
                f"{folder} does not exist; --source is the unpacked folder of RealSR V3 with {camera}/ in it."
            )
        for high in sorted(folder.glob("*_HR.png")):
            low = high.with_name(high.name.replace("_HR.png", "_LR4.png"))
            if not low.is_file():
                raise ValueError(f"{high} has no partner {low.name}; unpack RealSR V3 again.")
            pairs[high.name.removesuffix("_HR.png")] = (low, high)
    for kind, index in (("lq", 0), ("hq", 1)):
        (target / kind).mkdir(parents=True, exist_ok=True)
        for stem, pair in pairs.items():
            shutil.copyfile(pair[index], target / kind / f"{stem}.png")
    return len(pairs)
