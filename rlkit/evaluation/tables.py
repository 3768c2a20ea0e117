"""Tables of scores with intervals: as text, and as Markdown, LaTeX and CSV for papers and pages.

The table shows the last checkpoint and the mean of the evaluations in the last fifth of training side by side, since
single checkpoints of one run differ by tens of points. The best checkpoint is not shown: choosing it takes the
environment, which offline training does not have.
"""

from __future__ import annotations

import csv
import io
import math
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

import numpy as np

from rlkit.evaluation.statistics import Estimate, Over, estimate

HEADER = ("method", "return", "score, last checkpoint", "score, last fifth", "success, %")
MARKS: dict[Over, str] = {"seeds and starts": "", "episodes": "*", "seeds": "**", "seeds, resampled": "***"}
MEANINGS: dict[Over, str] = {
    "seeds and starts": "over seeds and starts",
    "episodes": "(*) over episodes alone, of the data or of the only seed",
    "seeds": "(**) over seeds alone",
    "seeds, resampled": "(***) over seeds alone, by bootstrap instead of t",
}


class Row(NamedTuple):
    """A line of the table; None leaves a cell empty."""

    method: str
    returns: Estimate | None  # raw, last checkpoint; None for a run without evaluations
    score: Estimate | None = None  # normalised, last checkpoint
    late: Estimate | None = None  # normalised, mean of the evaluations in the last fifth of training
    success: Estimate | None = None  # % of the episodes of the last checkpoint that the environment calls a success


class Line(NamedTuple):
    """A row of a comparison, and what it is of."""

    dataset: str
    method: str  # the name by which it is found on other datasets
    row: Row
    goal: str = ""  # what the agent was asked for
    seeds: int | None = None  # that the numbers are of; None for the data
    diverged: int = 0  # seeds that are left out


class Group(NamedTuple):
    """Rows under a title: what was run on one dataset."""

    title: str
    rows: Sequence[Row]


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


def under_titles(groups: Sequence[Group]) -> list[Row]:
    """The rows of all groups for one table: each group below its title, where there are several."""
    if len(groups) == 1:
        return list(groups[0].rows)
    rows = []
    for group in groups:
        rows.append(Row(group.title, None))
        rows += [entry._replace(method=f"  {entry.method}") for entry in group.rows]
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text. Columns without any entry are left out."""
    columns = filled_columns(rows)
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
    columns = filled_columns(rows)
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


def filled_columns(rows: Sequence[Row]) -> list[tuple[str, ...]]:
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


# --- for papers and pages ---

_LATEX = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "[": "{[}",  # after the end of a line it would begin an option
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_QUANTITIES = ("return", "score", "late_score", "success")  # of a Row's cells, in the CSV


def markdown(groups: Sequence[Group], headings: Sequence[str]) -> str:
    """The groups as one table in Markdown, the titles in bold; the legend and ``headings`` stand below it."""
    columns = filled_columns(under_titles(groups))
    header, *lines = zip(*columns, strict=True)
    titles = _title_lines(groups)
    text = [_markdown_row(header), _markdown_row(["---", *["---:"] * (len(header) - 1)])]
    for number, (name, *cells) in enumerate(lines):
        name = _in_markdown(name)
        if number in titles:
            name = f"**{name}**"
        text.append(_markdown_row([name, *map(_in_markdown, cells)]))
    for words in (note(under_titles(groups)), *headings):
        text += ["", _in_markdown(words)]
    return "\n".join([*text, ""])


def latex(groups: Sequence[Group], headings: Sequence[str]) -> str:
    """The groups as one ``tabular`` for LaTeX, without any package; the legend and ``headings`` are comments."""
    columns = filled_columns(under_titles(groups))
    header, *lines = zip(*columns, strict=True)
    titles = _title_lines(groups)
    text = [f"% {_on_one_line(words)}" for words in (note(under_titles(groups)), *headings)]
    text.append(f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}")
    text += ["\\hline", _latex_row(map(_in_latex, header))]
    if not titles:
        text.append("\\hline")
    for number, (name, *cells) in enumerate(lines):
        if number in titles:
            text.append("\\hline")
            text.append(f"\\multicolumn{{{len(header)}}}{{l}}{{\\textit{{{_in_latex(name)}}}}} \\\\")
            continue
        numbers = [re.sub(r"-(?=\d)", "$-$", cell) for cell in cells]
        text.append(_latex_row([_in_latex(name), *numbers]))
    return "\n".join([*text, "\\hline", "\\end{tabular}", ""])


def _title_lines(groups: Sequence[Group]) -> set[int]:
    """Which of the lines of `under_titles` are titles."""
    if len(groups) == 1:
        return set()
    lengths = [1 + len(group.rows) for group in groups]
    return {sum(lengths[:number]) for number in range(len(groups))}


def csv_text(lines: Sequence[Line]) -> str:
    """A line for each dataset and method (and goal), numbers in full; what is not known is left empty.

    Scores are normalised, successes in per cent; an interval has its ends, and over what it is.
    """
    names = ["dataset", "method", "goal", "seeds", "diverged"]
    for quantity in _QUANTITIES:
        names += [f"{quantity}_mean", f"{quantity}_low", f"{quantity}_high", f"{quantity}_over"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for line in lines:
        seeds = "" if line.seeds is None else line.seeds
        cells = [line.dataset, line.method, line.goal, seeds, line.diverged]
        for estimate_of in line.row[1:]:
            cells += _csv_cells(estimate_of)
        writer.writerow(cells)
    return stream.getvalue()


def _csv_cells(entry: Estimate | None) -> list[str]:
    if entry is None:
        return [""] * 4
    numbers = ["" if math.isnan(number) else repr(float(number)) for number in entry[:3]]
    return [*numbers, entry.over]


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _in_markdown(text: str) -> str:
    """``text`` with every character escaped that means something in Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#~$&])", r"\\\1", _on_one_line(text))


def _latex_row(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in _on_one_line(text))


def _on_one_line(text: str) -> str:
    """A name may come from a file, which may have any character in it."""
    return " ".join(text.split())
