"""How the site is made of the pages in this folder: `make docs`."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]  # the extensions beside this file; agents and benchmarks

from rlkit import __version__  # noqa: E402  (needs the path)

project = "rlkit-jax"
author = "The rlkit-jax authors"
release = __version__

extensions = ["myst_parser", "agent_pages", "repository_links"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3  # [a table](own_data.md#a-table) works as on GitHub
smartquotes = False  # else --steps becomes a dash
highlight_language = "none"  # of indented blocks, which are commands

html_theme = "furo"
html_title = "rlkit-jax"
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
