"""An extension of Sphinx: links from the pages to files that are no pages.

On GitHub a link to ../rlkit/types.py opens the file. The site has no copy of it and knows no address of the repository,
so it shows the path as code; a link to an agent's file leads to the agent's page. Some documents outside of docs are
pages of the site too: at each build they are copied to docs/project, which git ignores, and links to them and from them
are changed to fit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agents import REGISTRY

DOCS = Path(__file__).parent
ROOT = DOCS.parent
# document of the repository -> its page, by their paths below ROOT and DOCS
COPIES = {
    "ARCHITECTURE.md": "project/architecture.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "benchmarks/README.md": "project/benchmarks.md",
}
AGENTS = {f"{entry.module.replace('.', '/')}.py": f"agents/{name}.md" for name, entry in REGISTRY.items()}
PAGES = COPIES | AGENTS | {"README.md": "index.md", "agents": "agents/index.md"}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")  # not pictures, and no address with a scheme


def fitted(text: str, document: Path, page: Path, pages: Mapping[str, str] = PAGES) -> tuple[str, list[str]]:
    """``text`` of ``document`` as that of ``page``, and the targets of its links that do not exist in the repository.

    Links to pages lead from ``page``, links to other files are code.
    """
    missing = []

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match.groups(default="")
        path = Path(os.path.normpath(document.parent / target))
        if not path.exists() or not path.is_relative_to(ROOT):
            missing.append(target)
            return words
        name = path.relative_to(ROOT).as_posix()
        if name in pages:
            path = DOCS / pages[name]
        if path.is_relative_to(DOCS):
            relative = Path(os.path.relpath(path, page.parent)).as_posix()
            return f"[{words}]({relative}{anchor})"
        if name.endswith(words.strip("`")):
            return f"`{name}`"
        return f"{words} (`{name}`)"

    return LINK.sub(link, text), missing


def copy(app: Any) -> None:
    """Write the pages that are copies."""
    for name, page_name in COPIES.items():
        document = ROOT / name
        page = DOCS / page_name
        text, missing = fitted(document.read_text(encoding="utf-8"), document, page)
        _warn(missing, name)
        page.parent.mkdir(exist_ok=True)
        page.write_text(text, encoding="utf-8")


def read(app: Any, name: str, source: list[str]) -> None:
    """Fit the links of the page ``name``, whose text is the only entry of ``source``."""
    page = Path(app.env.doc2path(name))
    source[0], missing = fitted(source[0], page, page)
    _warn(missing, name)


def _warn(missing: Iterable[str], where: str) -> None:
    from sphinx.util import logging

    for target in missing:
        logging.getLogger(__name__).warning("%s has a link to %s, which does not exist", where, target)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", copy)
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
