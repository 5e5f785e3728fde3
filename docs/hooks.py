"""For mkdocs: links to files outside docs/ lead into the repository, or become plain text where it has no address."""

import re
from typing import Any

OUTSIDE = re.compile(r"(?<!!)\[([^\]]*)\]\(\.\./([^)\s#]+)(#[^)\s]*)?\)")


def outward(markdown: str, repository: str | None) -> str:
    """``markdown`` with links to ../FILE pointing into ``repository``, or replaced by their text and the path."""

    def replace(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        if repository:
            return f"[{text}]({repository.rstrip('/')}/blob/main/{path}{anchor})"
        return text if path in text else f"{text} (`{path}`)"

    return OUTSIDE.sub(replace, markdown)


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Called by mkdocs for every page."""
    return outward(markdown, config.get("repo_url"))
