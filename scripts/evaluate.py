#!/usr/bin/env python3
"""Measure restored pictures: the same as ``idas-sr evaluate``, for ``accelerate launch``; --help lists the options."""

import sys

from idas_sr import cli


def main(arguments: list[str] | None = None) -> int:
    """``idas-sr evaluate`` with these words."""
    return cli.main(["evaluate", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
