"""``idas-sr new-method``: the files with which a method of one's own starts, which pass their test as they are."""

from __future__ import annotations

import argparse
from pathlib import Path

from idas_sr.cli.catalogue import SOURCE
from idas_sr.scaffold.method import new_method

EXAMPLES = """examples:
  %(prog)s my_method                                  into the checkout that this program runs from
  %(prog)s my_method --repository ~/idas-sr           into another one
"""

NEXT = """Next:
  pytest tests/test_method_{name}.py                  what every method has to pass
  pytest tests/test_method_{name}.py -m slow          and with kills and two processes
  idas-sr train configs/train/compact/methods/{name}.yaml data.root=PHOTOGRAPHS
  python scripts/export_adapter.py runs/compact-methods/{name} my-model
  python scripts/study_methods.py -i LQ -r HQ -o out/methods --model my-model
Then put your idea in the place of `anchor` in {method}; docs/adding_a_method.md says what else there is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``new-method``."""
    parser.description = (
        "Write the class, the configuration and the test of a new method into a checkout of this repository, and "
        "its two lines into idas_sr/build.py. It works as it is: the test passes before anything is changed."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("name", help="small letters, digits, underscores; as --method takes it")
    parser.add_argument("--repository", type=Path, default=SOURCE, metavar="FOLDER", help="the checkout to write into")


def run(args: argparse.Namespace) -> int:
    """Write the files.

    Raises:
        ValueError, OSError: what `new_method` refuses.
    """
    *new, build = new_method(args.name, args.repository)
    for path in new:
        print(f"written: {path}")
    print(f"changed: {build}")
    print(NEXT.format(name=args.name, method=new[0]))
    return 0
