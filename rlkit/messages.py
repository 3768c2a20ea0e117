"""Lines on stderr: whole in a file, and wrapped where somebody reads them on a terminal.

This module imports nothing heavy, so that a mistake on the command line is told at once.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap

WIDTH = 80  # columns
_KEPT = "\0"  # stands for a blank that no line may end at
_TO_COPY = re.compile("`[^`]*`")


def tell(text: str) -> None:
    """Print ``text`` to stderr, see `line`.

    Example:
        tell("training without evaluation: --env none")
    """
    print(line(text), file=sys.stderr)


def line(text: str) -> str:
    """``text`` as rlkit's: one line, and on a terminal as many as its columns, at most 80, ask for. What stands between
    backticks is there to be copied, so that it is never broken."""
    whole = f"rlkit: {text}"
    if not sys.stderr.isatty():
        return whole
    columns = min(WIDTH, shutil.get_terminal_size().columns)
    kept = _TO_COPY.sub(lambda found: found[0].replace(" ", _KEPT), whole)
    wrapped = textwrap.fill(kept, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return wrapped.replace(_KEPT, " ")
