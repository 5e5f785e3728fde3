#!/usr/bin/env python3
"""Train: the same as ``idas-sr train``, for ``accelerate launch``; --help lists examples."""

import sys

from idas_sr import cli


def main(arguments: list[str] | None = None) -> int:
    """``idas-sr train`` with these words."""
    return cli.main(["train", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
