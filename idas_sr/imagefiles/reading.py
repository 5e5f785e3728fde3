"""A picture file to tensors and what must not be lost on the way."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from idas_sr.imagefiles.formats import READABLE
from idas_sr.imagefiles.limits import UnfitError, check_input
from idas_sr.imagefiles.metadata import Metadata, collect, fitting_profile, orientation_of
from idas_sr.imagefiles.wide import read_wide, wide_channels
from idas_sr.images import pixels_of

Found = TypeVar("Found")

MAX_BYTES = 2**31
"""Of a file that is read; a larger one is no picture that fits into memory."""


@dataclass(frozen=True)
class PictureFile:
    """What a file holds, upright.

    Attributes:
        colour: (3, h, w) in [0, 1], in the file's own colour space; greyscale as three equal channels. Where the
            picture is fully transparent, the nearest visible colour.
        alpha: (1, h, w) in [0, 1], or None where the file has no transparency.
        grey: whether the file is greyscale.
        bits: 8 or 16 per channel, of the file.
        metadata: to be carried over.
        notices: what was converted or left out, each a part of a sentence.
    """

    colour: Tensor
    alpha: Tensor | None
    grey: bool
    bits: int
    metadata: Metadata
    notices: tuple[str, ...] = ()


def read_picture(
    path: str | Path, content: bytes | None = None, check: Callable[[int, int], object] | None = None
) -> PictureFile:
    """Read a picture file; of an animation the first frame.

    Args:
        path: of the file.
        content: its bytes, where they were read before or are not a file of their own; ``path`` only names them then.
        check: called with the height and width of the upright picture before it is decoded; a ValueError that it
            raises refuses the file.

    Raises:
        ValueError: the file is missing, empty, cut off, no picture, of a kind that is not read, has more pixels than
            twice ``PIL.Image.MAX_IMAGE_PIXELS``, above which Pillow takes it for a decompression bomb, a side above
            ``MAX_SIDE``, or more pixels than fit into free memory. The message is one sentence that names the file.
    """
    return _opened(path, content, lambda image, content: _decode(image, content, check))


def read_rgb(path: str | Path, content: bytes | None = None) -> np.ndarray:
    """(H, W, 3) uint8 of a picture file, upright: all that training and measuring look at.

    Colour profiles and what lies under transparency are left as they are, 16 bits become 8.

    Args:
        path, content: as of ``read_picture``.

    Raises:
        ValueError: as ``read_picture``, less its limits on sides and memory.
    """
    pixels = _opened(path, content, lambda image, _: pixels_of(image))
    return pixels if pixels.dtype == np.uint8 else (pixels * 255).round().astype(np.uint8)


def _opened(path: str | Path, content: bytes | None, decode: Callable[[Image.Image, bytes], Found]) -> Found:
    """What ``decode`` makes of a file; every error becomes one sentence that names it."""
    try:
        if content is None:
            content = read_content(path)
        with Image.open(io.BytesIO(content), formats=READABLE) as image:
            return decode(image, content)
    except UnfitError as error:
        raise ValueError(f"{path} cannot be restored: {error}.") from error
    except UnidentifiedImageError as error:
        kinds = "PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF and PNM are"
        why = "the file is empty" if not content else f"it is damaged or of a kind that is not read ({kinds})"
        raise ValueError(f"{path} cannot be read as a picture: {why}.") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ValueError(
            f"{path} cannot be read as a picture: it claims more than {most} pixels; reduce or cut it."
        ) from error
    except Exception as error:
        # Pillow's readers raise errors of a dozen kinds for damaged files.
        raise ValueError(f"{path} cannot be read as a picture ({one_line(error)}); repair or replace it.") from error


def read_content(path: str | Path) -> bytes:
    """The bytes of a picture file.

    Raises:
        ValueError: it has more than ``MAX_BYTES``; a part of a sentence.
        OSError: it cannot be read.
    """
    if os.path.getsize(path) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES // 2**30} GiB")
    return Path(path).read_bytes()


def one_line(error: BaseException) -> str:
    """The first line of an error's message without its full stop, or its kind."""
    return next(iter(str(error).splitlines()), "").rstrip(". ") or f"damaged: {type(error).__name__}"


def _decode(image: Image.Image, content: bytes, check: Callable[[int, int], object] | None) -> PictureFile:
    check_input(image.height, image.width)
    # First, because looking for further pictures or for EXIF may load the pixels.
    channels, notices = wide_channels(image), []
    if (frames := _frames(image)) > 1:
        notices.append(f"of its {frames} pictures only the first was restored")
    orientation = orientation_of(image)
    if check is not None:
        try:
            check(*(image.size if orientation >= 5 else image.size[::-1]))
        except ValueError as error:
            raise UnfitError(one_line(error)) from error
    profile, said = fitting_profile(image)
    icc = image.info.get("icc_profile") if profile is not None and image.mode not in ("CMYK", "LAB") else None
    metadata, left_out = collect(image, icc)
    image.load()
    if image.mode in ("CMYK", "LAB"):
        image, converted = _to_srgb(image, profile), f"converted from {image.mode} to sRGB"
        notices.append(converted)
    pixels, wide_said = _pixels(image, content, channels)
    pixels = np.ascontiguousarray(upright(pixels, orientation))
    bits, top = (16, 65535) if pixels.dtype == np.uint16 else (8, 255)
    tensor = torch.from_numpy(pixels.astype(np.float32) / top).movedim(-1, 0)
    grey, has_alpha = tensor.shape[0] <= 2, tensor.shape[0] in (2, 4)
    colour, alpha = (tensor[:-1], tensor[-1:]) if has_alpha else (tensor, None)
    if alpha is not None:
        colour = _spread(colour, alpha[0])
    colour = colour.expand(3, -1, -1) if grey else colour
    return PictureFile(colour.contiguous(), alpha, grey, bits, metadata, (*notices, *said, *left_out, *wide_said))


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored (H, W, C) pixels as EXIF orientation 1 to 8 means them (Exif 2.32, tag 0x0112)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return pixels[rows, columns]


def _frames(image: Image.Image) -> int:
    """How many pictures a file shows one after the other; leaves it at the first."""
    if image.format == "MPO":
        # What phones put behind the photograph, previews and gain maps, is no sequence.
        return 1
    try:
        frames = int(getattr(image, "n_frames", 1))
    except Exception:
        # Damage behind the first frame, of which Pillow's readers speak in many ways.
        frames = 1
    if image.tell() != 0:
        image.seek(0)
    return frames


def _pixels(image: Image.Image, content: bytes, wide: int) -> tuple[np.ndarray, list[str]]:
    """(H, W, 1 to 4) uint8 or uint16 of a loaded picture: grey, grey + alpha, RGB or RGB + alpha.

    ``wide``: channels of 16 bits in the file, of which Pillow has loaded 8; 0 where it loads all there is.
    """
    if image.mode == "F":
        raise ValueError(
            "its values are floating point numbers of unknown range; save it with 8 or 16 bits per channel"
        )
    if image.mode.startswith("I"):
        return _wide_grey(image), []
    said = []
    if wide:
        pixels = read_wide(content, wide)
        if pixels is not None and pixels.shape[:2] == (image.height, image.width):
            return pixels, []
        said = ["its 16 bits per channel were read as 8"]
    transparent = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("LA" if transparent else "L")).reshape(image.height, image.width, -1), said
    if image.mode == "P" and image.palette is not None and image.palette.mode == "RGBA":
        transparent = True
    return np.asarray(image.convert("RGBA" if transparent else "RGB")), said


def _wide_grey(image: Image.Image) -> np.ndarray:
    """(H, W, 1 or 2) uint16 of 16-bit grey; Pillow's own conversion would clip at 255."""
    values = np.asarray(image)
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 65535:
        raise ValueError("its grey values have more than 16 bits; save it with 8 or 16 bits per channel")
    grey = values.astype(np.uint16)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        return np.stack([grey, np.where(grey == clear, 0, 65535).astype(np.uint16)], axis=-1)
    return grey[..., None]


def _to_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile | None) -> Image.Image:
    """CMYK by its profile where it has one, else by Pillow's plain formula; Lab by its definition."""
    if image.mode == "LAB":
        profile = profile or ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    if profile is None:
        return image.convert("RGB")
    try:
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, profile, target, outputMode="RGB")
    except ImageCms.PyCMSError:
        return image.convert("RGB")
    assert converted is not None
    return converted


def _spread(colour: Tensor, alpha: Tensor) -> Tensor:
    """The nearest visible colour where nothing is visible, so that hidden colours do not bleed into the edges."""
    hidden = (alpha == 0).numpy()
    if not hidden.any() or hidden.all():
        return colour
    rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return colour[:, torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(columns.astype(np.int64))]
