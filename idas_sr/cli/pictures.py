"""The arguments of the command line that say how picture files are written."""

from __future__ import annotations

import argparse
from typing import Any

from idas_sr.imagefiles.formats import FORMATS, Encoding
from idas_sr.imagefiles.sizes import TargetSize


def size_value(text: str) -> TargetSize:
    """A size in pixels, as ``TargetSize.parse`` reads it."""
    try:
        return TargetSize.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error


def add_encoding_arguments(group: Any) -> None:
    """Format of the results, and what of the inputs is carried over."""
    group.add_argument(
        "--format",
        "--ext",
        choices=(*FORMATS, "same"),
        default="png",
        help="of the results; same: that of each input where it can be written (default: %(default)s)",
    )
    group.add_argument(
        "--quality",
        type=int,
        metavar="Q",
        help="1 to 100, of jpg (default 95), webp (95; 100 loses nothing), avif (90)",
    )
    group.add_argument(
        "--bit-depth", type=int, choices=(8, 16), default=8, help="per channel; 16 for png and tiff (default: 8)"
    )
    group.add_argument(
        "--suffix", default="", metavar="TEXT", help="put behind the name: photo.jpg and _x4 become photo_x4.png"
    )
    group.add_argument(
        "--metadata",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep EXIF (also the place), XMP, text and resolution; colour profiles are always kept",
    )


def encoding_of(args: argparse.Namespace) -> Encoding:
    """What the parsed arguments say.

    Raises:
        ValueError: they do not go together.
    """
    return Encoding(args.format, args.quality, args.bit_depth, args.metadata, args.suffix)
