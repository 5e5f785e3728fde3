"""The package keeps its layers: imports point downwards, and a few habits that would tie it to one machine stay out."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "idas_sr"

# Lowest first. A module imports from lower layers or from its own sub-package; every one is listed here.
LAYERS: list[set[str]] = [
    {"types", "hub", "atomic"},
    {
        "config",
        "schedule",
        "noise",
        "guidance",
        "resample",
        "tiling",
        "planning",
        "color",
        "images",
        "metrics",
        "dial",
        "lines",
    }
    | {"lines", "torchvision_shim"},
    {"steering", "imagefiles", "realism", "recipe", "finishing", "consistency"},
    {"networks"},
    {"conditioning", "losses", "data"},
    {"methods"},
    {"build"},
    {"overlap", "pipeline", "training"},
    {"invention"},
    {"batch", "session", "verification"},
    {"engines", "reproduction"},
    {"evaluation", "benchmarking"},
    {"demo", "comparison", "scaffold"},
    {"cli"},
]
RANK = {name: index for index, layer in enumerate(LAYERS) for name in layer}

# idas_sr/__init__.py is the public face and may name anything; models/ holds weights, no code.
UNRANKED = {"__init__", "models"}

SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "models")


def owner(path: Path) -> str:
    """The name in LAYERS that a source file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(source: str) -> Iterator[tuple[int, str]]:
    """(line, first name below idas_sr) of every import of the package in ``source``, however it is spelled."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            if node.module == "idas_sr":
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif (node.module or "").startswith("idas_sr."):
                yield node.lineno, (node.module or "").split(".")[1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "idas_sr":
                    # The bare package would give access to every layer at once.
                    yield node.lineno, "__init__"
                elif alias.name.startswith("idas_sr."):
                    yield node.lineno, alias.name.split(".")[1]


def upward_imports(here: str, source: str) -> list[str]:
    """One line per import in ``source`` (a module of layer ``here``) that does not point downwards."""
    return [
        f"{line}: {here} imports {there}"
        for line, there in imported_modules(source)
        if there != here and RANK.get(there, len(LAYERS)) >= RANK[here] and there != "__version__"
    ]


def test_every_module_has_a_layer() -> None:
    present = {owner(path) for path in SOURCES} - UNRANKED
    unlisted = present - set(RANK)
    assert not unlisted, f"give these a layer in tests/test_layers.py: {sorted(unlisted)}"


def test_the_page_shows_the_same_order() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"## Layers\n\n```\n(.*?)```", page, re.S)
    shown = [name for line in reversed(block.splitlines()) for name in re.findall(r"[a-z_]+", line.split("(")[0])]
    assert set(shown) <= set(RANK) and [RANK[name] for name in shown] == sorted(RANK[name] for name in shown)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_downwards(path: Path) -> None:
    here = owner(path)
    if here not in RANK:
        assert here in UNRANKED, f"{here} has no layer"
        return
    wrong = upward_imports(here, path.read_text(encoding="utf-8"))
    assert not wrong, f"{path.name}: {wrong}"


@pytest.mark.parametrize(
    "source",
    [
        "import idas_sr.pipeline",
        "from idas_sr import pipeline",
        "from idas_sr.pipeline import IDaSSRPipeline",
        "import idas_sr",
        "from idas_sr import IDaSSRPipeline",
        "def late():\n    from idas_sr.methods.base import Method",
        "from idas_sr import networks",
    ],
)
def test_upward_import_is_seen(source: str) -> None:
    assert upward_imports("networks" if "networks" not in source else "steering", source)


def test_downward_import_is_fine() -> None:
    source = "from idas_sr.types import Anchor\nfrom idas_sr import schedule\nfrom idas_sr.networks.mine import Mine\n"
    assert upward_imports("networks", source) == []


# What a line may not contain, and the files in which it may nevertheless.
FORBIDDEN = {
    "moves tensors to CUDA by itself": (r"\.cuda\(", set()),
    "names the CUDA device": (r"""["']cuda(:\d+)?["']""", {"pipeline", "cli"}),
    "edits sys.path": (r"\bsys\.path\b", set()),
    "prints": (r"(?<![\w.])print\(", {"cli"}),
}
# Comparing a device's type decides between two ways to compute; it moves nothing.
HARMLESS = re.compile(r"""\.type\s*(==|!=)\s*["']cuda["']""")


def forbidden_lines(source: str, pattern: str) -> list[int]:
    return [n for n, line in enumerate(source.splitlines(), 1) if re.search(pattern, HARMLESS.sub("", line))]


@pytest.mark.parametrize("habit", FORBIDDEN)
def test_habit_stays_out(habit: str) -> None:
    pattern, excepted = FORBIDDEN[habit]
    found = {
        path.relative_to(PACKAGE).as_posix(): lines
        for path in SOURCES
        if owner(path) not in excepted and (lines := forbidden_lines(path.read_text(encoding="utf-8"), pattern))
    }
    assert not found, f"code that {habit}: {found}"


@pytest.mark.parametrize(
    ("habit", "line"),
    [
        ("moves tensors to CUDA by itself", "z = z.cuda()"),
        ("names the CUDA device", 'model.to("cuda:0")'),
        ("edits sys.path", "sys.path.insert(0, here)"),
        ("prints", "    print(x)"),
    ],
)
def test_habit_is_seen(habit: str, line: str) -> None:
    assert forbidden_lines(line, FORBIDDEN[habit][0]) == [1]
    assert forbidden_lines('if z.device.type == "cuda":  # pprint(x)', FORBIDDEN[habit][0]) == []
