"""Tables of scores with intervals.

The table shows the last checkpoint and the mean of the evaluations in the last fifth of training side by side, since
single checkpoints of one run differ by tens of points. The best checkpoint is not shown: choosing it takes the
environment, which offline training does not have.
"""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TextIO

import numpy as np

from rlkit.evaluation.statistics import Estimate, Over, estimate

HEADER = ("method", "return", "score, last checkpoint", "score, last fifth", "success, %")
MARKS: dict[Over, str] = {"seeds and starts": "", "episodes": "*", "seeds": "**"}
MEANINGS: dict[Over, str] = {
    "seeds and starts": "over seeds and starts",
    "episodes": "(*) over episodes alone, of the data or of the only seed",
    "seeds": "(**) over seeds alone",
}


class Row(NamedTuple):
    """A line of the table; None leaves a cell empty."""

    method: str
    returns: Estimate | None  # raw, last checkpoint; None for a run without evaluations
    score: Estimate | None = None  # normalised, last checkpoint
    late: Estimate | None = None  # normalised, mean of the evaluations in the last fifth of training
    success: Estimate | None = None  # % of the episodes of the last checkpoint that the environment calls a success


def row(method: str, returns: Any, scores: Any = None, late: Any = None, success: Any = None) -> Row:
    """A line from [S, episodes] returns, and, where there are reference scores, the same normalised.

    late: [S, episodes], means over the last fifth of training. success: [S, episodes], 1 or 0; left out if it has NaN.
    """
    returns_cell = estimate(returns)
    score_cell = None
    late_cell = None
    if scores is not None:
        score_cell = estimate(scores)
    if late is not None:
        late_cell = estimate(late)
    success_cell = None
    if success is not None and np.isfinite(success).all():
        success_cell = estimate(100 * np.asarray(success))
    return Row(method, returns_cell, score_cell, late_cell, success_cell)


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text. Columns without any entry are left out."""
    columns = _columns(rows)
    padded = []
    for number, column in enumerate(columns):
        width = max(map(len, column))
        if number == 0:
            cells = [cell.ljust(width) for cell in column]
        else:
            cells = [cell.rjust(width) for cell in column]
        title, *entries = cells
        padded.append([title, "-" * width, *entries])
    lines = ["  ".join(cells) for cells in zip(*padded, strict=True)]
    lines.append(note(rows))
    return "\n".join(lines)


def side_by_side(columns: Mapping[str, Mapping[str, float]], width: int) -> list[str]:
    """Numbers as aligned lines of text, a line for each name and a column for each title in ``columns``. What does not
    fit into ``width`` columns of text stands below the rest."""
    names = list(dict.fromkeys(name for numbers in columns.values() for name in numbers))
    cells = {}
    for title, numbers in columns.items():
        entries = [title, *(f"{numbers[name]:.4g}" if name in numbers else "" for name in names)]
        longest = max(map(len, entries))
        cells[title] = [entry.rjust(longest) for entry in entries]
    margin = max(map(len, names), default=0)
    blocks: list[list[list[str]]] = []
    taken = width
    for column in cells.values():
        needed = len(column[0]) + 2
        if taken + needed > width:
            blocks.append([[name.ljust(margin) for name in ("", *names)]])
            taken = margin
        blocks[-1].append(column)
        taken += needed
    return ["  ".join(line).rstrip() for block in blocks for line in zip(*block, strict=True)]


def note(rows: Sequence[Row]) -> str:
    """Legend of the intervals of ``rows``, and of what varied."""
    shown = set()
    for entry in rows:
        for cell in entry[1:]:
            if cell is not None and not math.isnan(cell.low):
                shown.add(cell.over)
    if not shown:
        return "one number each: no interval"
    over = [words for kind, words in MEANINGS.items() if kind in shown]
    return f"[95 % t interval] {'; '.join(over)}"


def show(rows: Sequence[Row], stream: TextIO | None = None) -> None:
    """Print the table to ``stream`` (standard output by default), with rules and colour if that is a terminal.

    Where it is wider than the terminal, intervals stand below their means, and long names are folded."""
    stream = stream or sys.stdout
    if not stream.isatty():
        print(table(rows), file=stream)
        return
    import rich.box
    from rich.console import Console
    from rich.table import Table

    caption = _escaped(note(rows))
    drawn = Table(box=rich.box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    console = Console(file=stream)
    columns = _columns(rows)
    if _drawn_width(columns) > console.width:
        names, *numbers = columns
        columns = [names, *map(_narrow, numbers)]
    header, *lines = zip(*columns, strict=True)
    method, *numbers = header
    drawn.add_column(method, justify="left", style="bold", overflow="fold")
    for title in numbers:
        drawn.add_column(title, justify="right", no_wrap=True)
    for cells in lines:
        drawn.add_row(*map(_escaped, cells))
    console.print(drawn)


def _drawn_width(columns: Sequence[Sequence[str]]) -> int:
    """Of the drawn table, whose cells have a blank on either side."""
    return sum(max(map(len, column)) + 2 for column in columns) + 2


def _narrow(column: Sequence[str]) -> list[str]:
    """The column with intervals below their means, and its title on as many lines as that takes."""
    title, *entries = column
    folded = [entry.replace(" [", "\n[") for entry in entries]
    width = max((len(line) for entry in folded for line in entry.split("\n")), default=0)
    longest_word = max(map(len, title.split()))
    lines = textwrap.wrap(title, max(width, longest_word))
    return ["\n".join(lines), *folded]


def _escaped(text: str) -> str:
    """``text`` as rich prints it: a bracket would begin a style."""
    return text.replace("[", "\\[")


def _columns(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The columns that have entries, each with its title first."""
    lines = []
    for entry in rows:
        cells = map(_cell, entry[1:])
        lines.append((entry.method, *cells))
    columns = []
    for title, *entries in zip(HEADER, *lines, strict=True):
        if any(entries):
            columns.append((title, *entries))
    return columns


def _cell(entry: Estimate | None) -> str:
    if entry is None:
        return ""
    if math.isnan(entry.low):
        return f"{entry.value:.1f}"
    mark = MARKS[entry.over]
    return f"{entry.value:.1f} [{entry.low:.1f}, {entry.high:.1f}]{mark}"
