"""Figures as SVG texts, for a page: lines with bands, values with intervals, histograms and ranges.

They are written here and not by matplotlib: colours come from the page's style sheet, so that one drawing serves light,
dark and print, labels stay texts that can be found and read aloud, and the bytes depend on no version of a library.

Every drawing is a function of its data and of a ``name``, which makes its ids unique in a page. Marks and labels lie
inside its view box: numbers that are not finite are left out, and what is beyond an axis is moved to its end.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rlkit.report.markup import escaped, short
from rlkit.report.svg import (
    FONT,
    LETTER,
    Mark,
    Scale,
    dashed,
    dot,
    finite,
    rule,
    spread,
    svg,
    text,
    ticks,
    ticks_within,
    upright,
    whole,
    width_of,
)

WIDTH = 400.0  # of a view box, in units that are about pixels
HEIGHT = 250.0
GAP = 5.0  # between an axis and its labels
COLOURS = 6  # of the style sheet; further series have dashes
DASHES = ("", "7 3", "2 3")
LEVEL_DASHES = ("5 3", "1.5 2", "7 2 1.5 2")


class Line(NamedTuple):
    """A series of K points; NaN leaves a gap."""

    label: str
    x: Sequence[float]  # [K]
    y: Sequence[float]  # [K]
    low: Sequence[float] | None = None  # [K] lower edge of its band
    high: Sequence[float] | None = None  # [K]
    threads: Sequence[Sequence[float]] = ()  # [S][K] thin lines, one for each seed
    switch: float | None = None  # a vertical line
    colour: int | None = None  # number of its colour; None: its place among the series


class Level(NamedTuple):
    """A horizontal line."""

    label: str
    value: float


class Interval(NamedTuple):
    """A value and the ends of its interval, which are NaN where it has none."""

    label: str
    value: float
    low: float
    high: float


class Bars(NamedTuple):
    """The counts of a histogram."""

    label: str
    counts: Sequence[int]


class Range(NamedTuple):
    """Between which numbers a column lies: all of it, its middle nine tenths, and its bounds, if it has some."""

    label: str
    low: float
    high: float
    inner: tuple[float, float] | None = None
    bounds: tuple[float, float] | None = None


# --- drawings ---


def lines(
    name: str,
    series: Sequence[Line],
    *,
    title: str,
    description: str,
    xlabel: str,
    ylabel: str,
    levels: Sequence[Level] = (),
    xticks: Sequence[Mark] | None = None,
    is_logarithmic: bool = False,
    limits: tuple[float, float] | None = None,
    marks: bool = False,
    size: tuple[float, float] = (WIDTH, HEIGHT),
) -> str:
    """Lines with bands and threads. The y axis reaches over all lines and threads, and over bands as far as that leaves
    room for the lines.

    Args:
        name: of the drawing. series: the lines, in the order of their colours. title, description: its text
        alternative. xticks: (place, label) of the marks of the x axis, in rising order. is_logarithmic: the x axis.
        limits: of the y axis. marks: whether every point is marked, with its band as an error bar.

    Returns:
        The text of an <svg> element.

    Raises:
        ValueError: no point is finite.
    """
    # --- axes ---
    switches = [line.switch for line in series if line.switch is not None]
    x_low, x_high = spread(finite([*_of_all(line.x for line in series), *switches]), is_logarithmic)
    y_low, y_high = limits or _y_limits(series, levels)
    yticks = ticks(y_low, y_high, 5)
    if limits is None:
        y_low, y_high = min(y_low, yticks[0][0]), max(y_high, yticks[-1][0])
    if xticks is None:
        xticks = ticks_within(x_low, x_high)
    width, height = size
    left = 2 * GAP + FONT + max(width_of(label) for _, label in yticks)
    margin = 10 if marks else 0  # for the half of a mark that lies beyond
    x = Scale(x_low, x_high, left + 6 + margin, width - 14 - margin, is_logarithmic)
    y = Scale(y_low, y_high, height - 3 * FONT - GAP, FONT)
    frame = _Frame(x, y)

    # --- marks ---
    parts = [*frame.axes(xticks, yticks, xlabel, ylabel)]
    for number, level in enumerate(levels):
        place = y(level.value)
        parts.append(rule(x.start, place, x.stop, place, "level", LEVEL_DASHES[number % len(LEVEL_DASHES)]))
    for number, line in enumerate(series):
        parts += frame.line(line, number if line.colour is None else line.colour, marks)
    return svg(name, parts, title, description, size)


def intervals(
    name: str,
    items: Sequence[Interval],
    *,
    title: str,
    description: str,
    xlabel: str,
    middle: float | None = None,
    limits: tuple[float, float] | None = None,
) -> str:
    """Values with their intervals, one below the other, each under its label.

    middle: a vertical line. limits: of the axis. Returns and raises as `lines`.
    """
    letters = int((WIDTH - 20) / (FONT * LETTER))
    numbers = [number for item in items for number in item[1:]]
    if middle is not None:
        numbers.append(middle)
    low, high = limits or spread(finite(numbers))
    if limits is None:
        low, high = low - 0.03 * (high - low), high + 0.03 * (high - low)
    scale = Scale(low, high, 20, WIDTH - 20)

    # --- labels and intervals ---
    parts = []
    y = FONT + 2
    for item in items:
        for words in textwrap.wrap(item.label, letters) or [""]:
            parts.append(text(10, y, words))
            y += FONT + 3
        parts += _whisker(scale, y - 2, item)
        y += FONT + 4

    # --- the axis below them ---
    bottom = y - 4
    behind = []
    for value, label in ticks_within(low, high):
        behind.append(rule(scale(value), FONT + 6, scale(value), bottom, "grid"))
        parts.append(text(scale(value), bottom + FONT + 2, label, "middle"))
    if middle is not None:
        behind.append(rule(scale(middle), FONT + 6, scale(middle), bottom, "level", LEVEL_DASHES[0]))
    parts.append(rule(20, bottom, WIDTH - 20, bottom, "axis"))
    parts.append(text(WIDTH / 2, bottom + 2 * FONT + 6, xlabel, "middle"))
    return svg(name, [*behind, *parts], title, description, (WIDTH, bottom + 3 * FONT))


def histogram(
    name: str,
    edges: Sequence[float],
    stacks: Sequence[Bars],
    *,
    title: str,
    description: str,
    xlabel: str,
    ylabel: str,
    is_whole: bool = False,
) -> str:
    """Counts between ``edges`` [B + 1], those of several ``stacks`` on top of each other. is_whole: whether whole
    numbers were counted. Returns and raises as `lines`."""
    low, high = spread(finite(edges))
    if len(edges) == 2:  # one bar is not to fill the drawing
        low, high = low - 4 * (high - low), high + 4 * (high - low)
    xticks = whole(ticks_within(low, high)) if is_whole else ticks_within(low, high)
    most = int(np.sum([bars.counts for bars in stacks], axis=0).max())
    yticks = whole(ticks(0, max(most, 1), 4))
    left = 2 * GAP + FONT + max(width_of(label) for _, label in yticks)
    x = Scale(low, high, left + 2, WIDTH - 14)
    y = Scale(0, max(most, yticks[-1][0]), HEIGHT - 3 * FONT - GAP, FONT)
    parts = [*_Frame(x, y).axes(xticks, yticks, xlabel, ylabel)]
    below = np.zeros(len(edges) - 1)
    for number, bars in enumerate(stacks):
        above = below + np.asarray(bars.counts)
        for place in np.flatnonzero(bars.counts).tolist():
            start, stop = x(edges[place]), x(edges[place + 1])
            top, bottom = y(above[place]), y(below[place])
            size = f'width="{max(stop - start - 1, 0.5):.1f}" height="{bottom - top:.1f}"'
            parts.append(f'<rect class="bar s{number % COLOURS}" x="{start:.1f}" y="{top:.1f}" {size}/>')
        below = above
    return svg(name, parts, title, description, (WIDTH, HEIGHT))


def ranges(name: str, columns: Sequence[Range], *, title: str, description: str, xlabel: str) -> str:
    """The range of each column on a line of its own: thin from the least to the largest number, thick for its middle,
    and a mark at each bound. Returns and raises as `lines`."""
    numbers = [number for column in columns for number in (column.low, column.high, *(column.bounds or ()))]
    low, high = spread(finite(numbers))
    labels = [short(column.label, 24) for column in columns]
    left = 10 + max(width_of(label) for label in labels)
    scale = Scale(low, high, left + 12, WIDTH - 20)
    row = FONT + 5
    bottom = 8 + row * len(columns)
    parts = []
    for value, label in ticks_within(low, high):
        parts.append(rule(scale(value), 6, scale(value), bottom, "grid"))
        parts.append(text(scale(value), bottom + FONT + 2, label, "middle"))
    for number, (column, label) in enumerate(zip(columns, labels, strict=True)):
        y = 8 + row * (number + 0.5)
        parts.append(text(left, y + FONT / 3, label, "end"))
        parts.append(rule(scale(column.low), y, scale(column.high), y, "thin s0"))
        if column.inner is not None:
            parts.append(rule(scale(column.inner[0]), y, scale(column.inner[1]), y, "thick s0"))
        for bound in finite(column.bounds or ()):
            parts.append(rule(scale(bound), y - 5, scale(bound), y + 5, "axis"))
    parts.append(rule(left + 12, bottom, WIDTH - 20, bottom, "axis"))
    parts.append(text((left + WIDTH) / 2, bottom + 2 * FONT + 6, xlabel, "middle"))
    return svg(name, parts, title, description, (WIDTH, bottom + 3 * FONT))


def legend(series: Sequence[Line | Bars], levels: Sequence[Level] = ()) -> str:
    """The names of series and levels as an HTML list, which folds on narrow pages."""
    items = []
    for number, one in enumerate(series):
        if isinstance(one, Bars):
            mark = f'<rect class="bar s{number % COLOURS}" x="2" y="1" width="22" height="8"/>'
        else:
            colour = number if one.colour is None else one.colour
            mark = rule(1, 5, 25, 5, f"line s{colour % COLOURS}", DASHES[colour // COLOURS % len(DASHES)])
        items.append((mark, one.label))
    for number, level in enumerate(levels):
        items.append((rule(1, 5, 25, 5, "level", LEVEL_DASHES[number % len(LEVEL_DASHES)]), level.label))
    entries = []
    for mark, label in items:
        swatch = f'<svg class="swatch" viewBox="0 0 26 10" aria-hidden="true">{mark}</svg>'
        entries.append(f"<li>{swatch} {escaped(label)}</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'


# --- parts of them ---


def _of_all(columns: Iterable[Sequence[float]]) -> Iterator[float]:
    for column in columns:
        yield from column


def _y_limits(series: Sequence[Line], levels: Sequence[Level]) -> tuple[float, float]:
    """Of all lines and threads; bands are given half of their height more on either side."""
    numbers = [level.value for level in levels]
    edges: list[float] = []
    for line in series:
        numbers += _of_all((line.y, *line.threads))
        if line.low is not None and line.high is not None:
            edges += _of_all((line.low, line.high))
    low, high = spread(finite(numbers))
    edges = finite(edges)
    if not edges:
        return low, high
    room = (high - low) / 2
    return min(low, max(min(edges), low - room)), max(high, min(max(edges), high + room))


class _Frame(NamedTuple):
    """The axes of a drawing."""

    x: Scale
    y: Scale

    def axes(self, xticks: Sequence[Mark], yticks: Sequence[Mark], xlabel: str, ylabel: str) -> Iterator[str]:
        bottom, top = self.y.start, self.y.stop
        left, right = self.x.start, self.x.stop
        for value, label in yticks:
            height = self.y(value)
            yield rule(left, height, right, height, "grid")
            yield text(left - GAP, height + FONT / 3, label, "end")
        taken = -math.inf
        for value, label in xticks:
            place = self.x(value)
            half = width_of(label) / 2
            centre = min(max(place, half + 1), right + 13 - half)
            yield rule(place, bottom, place, bottom + 4, "axis")
            if centre - half < taken + 4:  # it would lie over the label before it
                continue
            taken = centre + half
            yield text(centre, bottom + FONT + GAP, label, "middle")
        yield rule(left, bottom, right, bottom, "axis")
        yield text((left + right) / 2, bottom + 2 * FONT + GAP + 3, xlabel, "middle")
        if ylabel:
            yield upright(FONT, (top + bottom) / 2, ylabel)

    def line(self, line: Line, number: int, marks: bool) -> Iterator[str]:
        """The band, the threads and the line, in the order in which they are drawn."""
        colour = f"s{number % COLOURS}"
        dash = DASHES[number // COLOURS % len(DASHES)]
        if line.switch is not None:
            place = self.x(line.switch)
            yield rule(place, self.y.start, place, self.y.stop, f"thread {colour}", "2 3")
        if line.low is not None and line.high is not None:
            yield from self._band(line.x, line.low, line.high, colour, marks)
        for thread in line.threads:
            yield from self._path(line.x, thread, f"thread {colour}", "", 1.5, False)
        yield from self._path(line.x, line.y, f"line {colour}", dash, 3, marks)

    def _path(
        self, x: Sequence[float], y: Sequence[float], kind: str, dash: str, radius: float, marks: bool
    ) -> Iterator[str]:
        for points in self._pieces(x, y):
            if len(points) > 1:
                yield f'<path class="{kind}"{dashed(dash)} d="M{_joined(points)}"/>'
            if marks or len(points) == 1:
                yield from (dot(*point, radius, kind) for point in points)

    def _band(
        self, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str, marks: bool
    ) -> Iterator[str]:
        """An area, or, where ``marks`` are drawn or there is one point, an upright line at each."""
        for lower, upper in zip(self._pieces(x, low), self._pieces(x, high), strict=True):
            if marks or len(lower) == 1:
                for start, stop in zip(lower, upper, strict=True):
                    yield rule(*start, *stop, f"thin {colour}")
                continue
            yield f'<path class="band {colour}" d="M{_joined([*upper, *reversed(lower)])}Z"/>'

    def _pieces(self, x: Sequence[float], y: Sequence[float]) -> list[list[tuple[float, float]]]:
        """The places of the points, in pieces without a gap."""
        pieces: list[list[tuple[float, float]]] = [[]]
        for a, b in zip(x, y, strict=True):
            if math.isfinite(a) and math.isfinite(b):
                pieces[-1].append((self.x(a), self.y(b)))
            elif pieces[-1]:
                pieces.append([])
        return [piece for piece in pieces if piece]


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _whisker(scale: Scale, y: float, item: Interval) -> Iterator[str]:
    if not math.isfinite(item.value):
        yield text(20, y + FONT / 3, "not known")
        return
    if math.isfinite(item.low) and math.isfinite(item.high):
        yield rule(scale(item.low), y, scale(item.high), y, "line s0")
        for end in (item.low, item.high):
            yield rule(scale(end), y - 4, scale(end), y + 4, "line s0")
    yield dot(scale(item.value), y, 4, "line s0")
