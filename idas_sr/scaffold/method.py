"""A new method's class, configuration and test, written into a checkout of this repository and known to it."""

from __future__ import annotations

import ast
import keyword
import re
from pathlib import Path
from string import Template

from idas_sr.build import METHODS, PRETRAINING
from idas_sr.evaluation.files import write_text

LONGEST = 30
"""Characters of a name: longer ones would break the lines of what is written."""
BUILD = Path("idas_sr/build.py")
PLACES = {
    "method.py.txt": "idas_sr/methods/{}.py",
    "stage.yaml.txt": "configs/train/compact/methods/{}.yaml",
    "test.py.txt": "tests/test_method_{}.py",
}
"""Template -> where it goes."""


def class_name(name: str) -> str:
    """``my_method`` -> ``MyMethod``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a method.

    Raises:
        ValueError: with the reason.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or len(name) > LONGEST or keyword.iskeyword(name):
        raise ValueError(
            f"{name!r} cannot be the name of a method: it takes small letters, digits and single underscores, begins "
            f"with a letter, has at most {LONGEST} characters and is no word of Python."
        )
    if name in METHODS or name in PRETRAINING:
        raise ValueError(f"There is a method called {name} already; choose another name.")


def with_method(source: str, name: str) -> str:
    """The text of build.py with one more line among its imports and one more in its table ``METHODS``.

    Raises:
        ValueError: the name of the class is taken there, or the table is not as expected.
    """
    kind = class_name(name)
    if kind in _names_in(source):
        raise ValueError(f"The class would be called {kind}, which {BUILD} knows already; choose another name.")
    imports = re.findall(r"^from idas_sr\.methods\.\w+ import .+\n", source, re.M)
    table = re.search(r"^METHODS: [^\n]+ = \{\n(?:    \"\w+\": \w+,\n)+(?=\}\n)", source, re.M)
    if not imports or table is None:
        raise ValueError(f"{BUILD} does not list one method per line; add {kind} to METHODS there by hand.")
    source = source[: table.end()] + f'    "{name}": {kind},\n' + source[table.end() :]
    line = f"from idas_sr.methods.{name} import {kind}\n"
    later = next((other for other in imports if other.split()[1] > f"idas_sr.methods.{name}"), None)
    before = source.index(later) if later else source.index(imports[-1]) + len(imports[-1])
    return source[:before] + line + source[before:]


def _names_in(source: str) -> set[str]:
    """What a module imports, defines or uses."""
    nodes = list(ast.walk(ast.parse(source)))
    imported = {
        alias.asname or alias.name for n in nodes if isinstance(n, ast.Import | ast.ImportFrom) for alias in n.names
    }
    return imported | {n.id for n in nodes if isinstance(n, ast.Name)}


def new_method(name: str, repository: Path) -> list[Path]:
    """Write what a method starts with: a class that works, its configuration, its test, and its two lines in build.py.

    Args:
        name: of the method, as ``--method`` and ``method.name`` take it.
        repository: a checkout of this repository.

    Returns:
        What was written or changed, the class first, build.py last.

    Raises:
        ValueError: the name cannot be used, there is a file of that name, or this is no checkout; nothing is written.
        OSError: a file cannot be written; those written before it are taken away.
    """
    check_name(name)
    build = repository / BUILD
    if not all((repository / place).is_dir() for place in ("idas_sr/methods", "configs/train", "tests")):
        raise ValueError(
            f"{repository} is no checkout of this repository, where methods live; give one with --repository FOLDER."
        )
    targets = {template: repository / place.format(name) for template, place in PLACES.items()}
    for path in targets.values():
        if path.exists():
            raise ValueError(f"{path} is there already; choose another name, or move it away.")
    changed = with_method(build.read_text(encoding="utf-8"), name)
    written: list[Path] = []
    try:
        for template, path in targets.items():
            text = Path(__file__).with_name(template).read_text(encoding="utf-8")
            words = {"name": name, "kind": class_name(name), "title": class_name(name)}
            written.append(path)
            write_text(path, Template(text).substitute(words))
        write_text(build, changed)
    except OSError:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return [*written, build]
