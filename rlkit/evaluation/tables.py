"""What a reader sees: a table of scores with intervals, and PNGs of learning curves and of what came of what was asked.

The table shows the last checkpoint and the mean of the evaluations in the last fifth of training side by side, since
single checkpoints of one run differ by tens of points. The best checkpoint is not shown: choosing it takes the
environment, which offline training does not have.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from rlkit.evaluation.statistics import Estimate, Over, estimate, half_width

HEADER = ("method", "return", "score, last checkpoint", "score, last fifth")
MARKS: dict[Over, str] = {"seeds and starts": "", "episodes": "*", "seeds": "**"}
MEANINGS: dict[Over, str] = {
    "seeds and starts": "over seeds and starts",
    "episodes": "(*) over episodes alone, of the data or of the only seed",
    "seeds": "(**) over seeds alone",
}
# Okabe and Ito's palette, which the colour-blind can tell apart, darkest first
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREY = "#6b6b6b"
DASHES = ((5, 3), (1.5, 2), (7, 2, 1.5, 2))


class Row(NamedTuple):
    """A line of the table; None leaves a cell empty."""

    method: str
    returns: Estimate  # raw, last checkpoint
    score: Estimate | None = None  # normalised, last checkpoint
    late: Estimate | None = None  # normalised, mean of the evaluations in the last fifth of training


def row(method: str, returns: Any, scores: Any = None, late: Any = None) -> Row:
    """A line from [S, episodes] returns, and, where there are reference scores, the same normalised.

    late: [S, episodes], means over the last fifth of training.
    """
    return Row(
        method,
        estimate(returns),
        None if scores is None else estimate(scores),
        None if late is None else estimate(late),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned plain text. Columns without any entry are left out."""
    columns = _columns(rows)
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for cells in zip(*columns, strict=True):
        padded = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        lines.append("  ".join([cells[0].ljust(widths[0]), *padded]))
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, note(rows)])


def note(rows: Sequence[Row]) -> str:
    """What the intervals of ``rows`` are, in words, and what they are over."""
    shown = {cell.over for entry in rows for cell in entry[1:] if cell and not math.isnan(cell.low)}
    over = [words for kind, words in MEANINGS.items() if kind in shown]
    return f"[95 % t interval] {'; '.join(over)}" if over else "one number each: no interval"


def show(rows: Sequence[Row], stream: TextIO | None = None) -> None:
    """Print the table to ``stream`` (standard output by default): with rules and colour to a terminal, else plain."""
    stream = stream or sys.stdout
    if not stream.isatty():
        print(table(rows), file=stream)
        return
    import rich.box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=rich.box.SIMPLE_HEAD, caption=note(rows).replace("[", "\\["), caption_justify="left")
    header, *lines = zip(*_columns(rows), strict=True)
    for number, title in enumerate(header):
        drawn.add_column(title, justify="right" if number else "left", style=None if number else "bold")
    for cells in lines:
        drawn.add_row(*(cell.replace("[", "\\[") for cell in cells))
    Console(file=stream).print(drawn)


def _columns(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The columns that have entries, each with its title first."""
    cells = [(entry.method, *map(_cell, entry[1:])) for entry in rows]
    columns = [(title, *column) for title, column in zip(HEADER, zip(*cells, strict=True), strict=True)]
    return [column for column in columns if any(column[1:])]


def _cell(found: Estimate | None) -> str:
    if found is None:
        return ""
    if math.isnan(found.low):
        return f"{found.value:.1f}"
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]{MARKS[found.over]}"


class Curve(NamedTuple):
    """One method's evaluations. values: [K, S, E] returns or scores of every episode, at ``steps`` [K]."""

    label: str
    steps: Any
    values: Any


def learning_curve(
    path: Path,
    curves: Sequence[Curve],
    *,
    title: str,
    ylabel: str = "normalised score",
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draw ``curves`` against updates to the PNG ``path``: means, and where there are several seeds their 95 % bands
    (rlkit.evaluation.statistics) and each seed as a thin line.

    levels: horizontal lines by label, such as the mean return of the data. Raises ValueError for shapes that do not
    agree, or OSError if the file cannot be written; a file that is there is replaced at once or not at all.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    if not curves:
        raise ValueError("there is no curve to draw")
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")  # not of pyplot: no window, nothing global
    axes = figure.add_subplot()
    for number, curve in enumerate(curves):
        _draw(axes, curve, COLOURS[number % len(COLOURS)])
    for (label, level), dashes in zip((levels or {}).items(), itertools.cycle(DASHES), strict=False):
        axes.axhline(level, color=GREY, linewidth=1.2, linestyle=(0, dashes), label=f"{label} ({level:.1f})", zorder=1)
    axes.set_xlabel("updates")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    _finish(figure, axes, title, path)


class Asked(NamedTuple):
    """One method, asked for the returns ``targets`` [G]. returns: [G, S, E], what came of each episode."""

    label: str
    targets: Sequence[float]
    returns: Any


def asked_and_achieved(
    path: Path,
    runs: Sequence[Asked],
    *,
    title: str,
    best: float | None = None,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draw the returns that came against those that were asked for to the PNG ``path``: means with 95 % intervals, and
    where there are several seeds each of them as a thin line. On the diagonal one gets what one asks for.

    best: the largest return of the data, beyond which nothing was learnt from. levels: horizontal lines by label, such
    as a method that is not asked. Raises as `learning_curve`.
    """
    from matplotlib.figure import Figure

    if not runs:
        raise ValueError("there is nothing to draw")
    figure = Figure(figsize=(7.2, 5.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for number, run in enumerate(runs):
        _draw_asked(axes, run, COLOURS[number % len(COLOURS)])
    ends = [min(min(run.targets) for run in runs), max(max(run.targets) for run in runs)]
    axes.plot(ends, ends, color=GREY, linewidth=1.2, linestyle=(0, DASHES[0]), label="as asked", zorder=1)
    if best is not None:
        label = f"the data's largest ({best:.1f})"
        axes.axvline(best, color=GREY, linewidth=1.2, linestyle=(0, DASHES[1]), label=label, zorder=1)
    for number, (label, level) in enumerate((levels or {}).items(), len(runs)):
        colour = COLOURS[number % len(COLOURS)]
        axes.axhline(level, color=colour, linewidth=1.2, linestyle=(0, DASHES[2]), label=f"{label} ({level:.1f})")
    axes.set_xlabel("return asked for")
    axes.set_ylabel("return")
    _finish(figure, axes, title, path)


def _draw_asked(axes: Any, run: Asked, colour: str) -> None:
    targets, returns = np.asarray(run.targets, np.float64), np.asarray(run.returns, np.float64)
    if targets.ndim != 1 or returns.ndim != 3 or len(targets) != len(returns) or returns.size == 0:
        raise ValueError(
            f"{run.label}: expected returns [G, S, E] for targets [G], not {returns.shape} for {targets.shape}"
        )
    seeds = returns.shape[1]
    order = np.argsort(targets)
    targets, returns = targets[order], returns[order]
    if seeds > 1:
        axes.plot(targets, returns.mean(2), color=colour, alpha=0.4, linewidth=0.7, zorder=3)
    label = f"{run.label} ({seeds} seed{'s' if seeds > 1 else ''})"
    axes.errorbar(
        targets, returns.mean((1, 2)), half_width(returns), color=colour, linewidth=2.2, marker="o", markersize=4,
        elinewidth=1.2, capsize=3, label=label, zorder=4,
    )  # fmt: skip


def _finish(figure: Any, axes: Any, title: str, path: Path) -> None:
    """What all figures share; written at once or not at all."""
    axes.set_title(title, loc="left", fontsize=12, pad=10)
    axes.margins(x=0.02)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    part = path.with_name(f"{path.name}.part")
    try:
        figure.savefig(part, format="png")
    except RuntimeError as error:  # of matplotlib's font and image libraries
        raise ValueError(f"{path} could not be drawn: {error}") from error
    except OSError:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)


def _draw(axes: Any, curve: Curve, colour: str) -> None:
    steps, values = np.asarray(curve.steps), np.asarray(curve.values, np.float64)
    if steps.ndim != 1 or values.ndim != 3 or len(steps) != len(values) or values.size == 0:
        raise ValueError(f"{curve.label}: expected values [K, S, E] at steps [K], not {values.shape} at {steps.shape}")
    seeds = values.shape[1]
    means = values.mean((1, 2))
    if seeds > 1:
        half = half_width(values)
        axes.fill_between(steps, means - half, means + half, color=colour, alpha=0.18, linewidth=0, zorder=2)
        axes.plot(steps, values.mean(2), color=colour, alpha=0.4, linewidth=0.7, zorder=3)
    label = f"{curve.label} ({seeds} seed{'s' if seeds > 1 else ''})"
    mark = "o" if len(steps) == 1 else None
    axes.plot(steps, means, color=colour, linewidth=2.2, marker=mark, label=label, zorder=4)
