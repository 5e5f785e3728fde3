"""The documentation site: builds without a warning, loads nothing from other servers."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def outward(markdown: str, repository: str | None) -> str:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    return hooks.outward(markdown, repository)


def test_links_out_of_the_docs_lead_into_the_repository() -> None:
    text = "[the keys](../configs/base.yaml) [this](training.md#data) ![picture](images/a.png)"
    there = "[the keys](https://example.org/r/blob/main/configs/base.yaml)"
    assert outward(text, "https://example.org/r/") == f"{there} [this](training.md#data) ![picture](images/a.png)"
    assert outward(text, None).startswith("the keys (`configs/base.yaml`) [this]")
    assert outward("[configs/base.yaml](../configs/base.yaml)", None) == "configs/base.yaml"


def test_every_page_stands_once_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    named = re.findall(r": (\w+\.md)$", text, re.M)
    pages = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    assert sorted(named) == pages, "give every page of docs/ one line under nav in mkdocs.yml"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_no_other_server(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'not included in the "nav"' not in done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 12
    fetched = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=["']?(?:https?:)?//[^"' >]+""")
    # Where the site says where it lies is no request.
    found = {m for page in pages for m in fetched.findall(page.read_text(encoding="utf-8")) if "canonical" not in m}
    assert found == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.css"))
    assert not re.search(r"url\(['\"]?(https?:)?//|@import", styles)
    api = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    assert "from_pretrained" in api and "push_to_hub" in api
