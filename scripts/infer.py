#!/usr/bin/env python3
"""Restore pictures: the same as ``idas-sr infer``; --help lists the options."""

import sys

from idas_sr.cli import main

if __name__ == "__main__":
    sys.exit(main(["infer", *sys.argv[1:]]))
