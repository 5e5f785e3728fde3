"""The command line: ``idas-sr COMMAND``; every command is a module here with ``add_arguments`` and ``run``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NoReturn

from idas_sr import __version__
from idas_sr.cli.machine import choose_device, choose_precision

__all__ = ["COMMANDS", "INTERRUPTED", "build_parser", "choose_device", "choose_precision", "ended", "main", "quieten"]

COMMANDS = {
    "infer": "restore pictures",
    "reproduce": "make an output again from the recipe in it, and compare",
    "demo": "the same in a browser, with a slider",
    "train": "train a model, or go on training it",
    "evaluate": "measure restored pictures, or run a benchmark",
    "compare": "let people choose between results blindly, and score their votes",
    "new-method": "start a method: its class, configuration and test",
    "models": "list models, backbones and methods, with size and licence",
    "doctor": "say what this machine can run, and what is missing",
}
"""Name -> what it does. Imported one by one, so that no command waits for what another needs, or fails with it."""

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended: 128 + SIGINT."""

OFFLINE = "look for nothing on the network: use what is on this machine"

EPILOG = """examples:
  idas-sr infer -i photo.jpg -o restored --realism 0.3      restore one picture
  idas-sr demo                                              try it in a browser on this machine
  idas-sr doctor                                            what runs here, and what to install for the rest

idas-sr COMMAND --help lists the options of a command. With --offline, before or after the command, nothing is
looked for on the network.
"""


class Parser(argparse.ArgumentParser):
    """Errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help lists all options)\n")


def build_parser(prog: str | None = None, chosen: str | None = None) -> Parser:
    """The whole command line; only the command ``chosen`` knows its own arguments."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog=prog or "idas-sr",
        description="One-step super-resolution with a realism dial.",
        epilog=EPILOG,
        formatter_class=formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"idas-sr {__version__}")
    parser.add_argument("--offline", action="store_true", help=OFFLINE)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, formatter_class=formatter, allow_abbrev=False)
        if name == chosen:
            command_module(name).add_arguments(command)
        command.add_argument("--offline", action="store_true", help=OFFLINE)
    return parser


def command_module(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"idas_sr.cli.{name.replace('-', '_')}")


def go_offline() -> None:
    """Tell the libraries that may use the network not to; they read it once, when they are imported."""
    for name, value in (("HF_HUB_OFFLINE", "1"), ("WANDB_MODE", "offline"), ("GRADIO_ANALYTICS_ENABLED", "False")):
        os.environ[name] = value


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run a command line; returns the exit code. A mistake of the user's ends in one line, never in a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--offline" in words:
        go_offline()
        # Anywhere on the line, also behind the words of a command's own commands.
        words = [word for word in words if word != "--offline"]
    chosen = next((word for word in words if word in COMMANDS), None)
    args = build_parser(prog, chosen).parse_args(words)
    quieten()
    hint = {"infer": "--resume goes on from here", "train": "the same command goes on from the last checkpoint"}
    name = f"{prog or 'idas-sr'} {args.command}"
    return ended(name, lambda: command_module(args.command).run(args), hint.get(args.command, ""))


def ended(name: str, work: Callable[[], int | None], hint: str = "") -> int:
    """Do a command's or a script's work; its exit code, 0 for None.

    2 after a mistake of the user's (ValueError, OSError) and 130 after Ctrl-C, each with one line on standard error.

    Args:
        name: what the line begins with.
        hint: what is said of work that was interrupted.
    """
    try:
        return work() or 0
    except (ValueError, OSError) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted{'; ' * bool(hint)}{hint}", file=sys.stderr)
        return INTERRUPTED


def quieten() -> None:
    """Without diffusers' loading bars and notes on configuration files, which would hide our own lines."""
    # Here, not above: the parser alone, and what it refuses, should not wait for diffusers.
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
