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
from typing import Any, NamedTuple

import numpy as np

from rlkit.report.markup import escaped, short

WIDTH = 400.0  # of a view box, in units that are about pixels
HEIGHT = 250.0
FONT = 11.0
LETTER = 0.62  # width of a letter as a share of the font's size: more than the mean of any usual font
GAP = 5.0  # between an axis and its labels
COLOURS = 6  # of the style sheet; further series have dashes
DASHES = ("", "7 3", "2 3")
LARGEST = 1e100  # beyond which a number is as good as infinite
UNITS = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"), (0.0, 1.0, ""))  # from which number on, unit, letter
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


class Scale(NamedTuple):
    """Where the numbers from ``low`` to ``high`` lie: from ``start`` to ``stop``."""

    low: float
    high: float
    start: float
    stop: float
    is_logarithmic: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.is_logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / (high - low)
        return self.start + share * (self.stop - self.start)


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
    xticks: Sequence[tuple[float, str]] | None = None,
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
    x_low, x_high = _spread(_finite([*_of_all(line.x for line in series), *_switches(series)]), is_logarithmic)
    y_low, y_high = limits or _y_limits(series, levels)
    yticks = ticks(y_low, y_high, 5)
    if limits is None:
        y_low, y_high = min(y_low, yticks[0][0]), max(y_high, yticks[-1][0])
    if xticks is None:
        xticks = _within(ticks(x_low, x_high, 5), x_low, x_high)
    width, height = size
    left = 2 * GAP + FONT + max(_width(label) for _, label in yticks)
    frame = _Frame(
        Scale(x_low, x_high, left + 6, width - 14, is_logarithmic),
        Scale(y_low, y_high, height - 3 * FONT - GAP, FONT),
    )
    parts = [*frame.axes(xticks, yticks, xlabel, ylabel)]
    for number, level in enumerate(levels):
        parts.append(frame.level(level, number))
    for number, line in enumerate(series):
        parts += frame.line(line, number if line.colour is None else line.colour, marks)
    return _svg(name, parts, title, description, size)


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
    numbers = _finite([number for item in items for number in item[1:]] + ([] if middle is None else [middle]))
    low, high = limits or _spread(numbers, False)
    marks = _within(ticks(low, high, 5), low, high)
    scale = Scale(low, high, 20, WIDTH - 20)
    parts = []
    y = FONT + 2
    for number, item in enumerate(items):
        for text in textwrap.wrap(item.label, letters) or [""]:
            parts.append(_text(10, y, text))
            y += FONT + 3
        parts += _whisker(scale, y - 2, item, number)
        y += FONT + 4
    bottom = y - 4
    for value, label in marks:
        parts.append(_rule(scale(value), FONT + 6, scale(value), bottom, "grid"))
        parts.append(_text(scale(value), bottom + FONT + 2, label, "middle"))
    if middle is not None:
        parts.append(_rule(scale(middle), FONT + 6, scale(middle), bottom, "level", LEVEL_DASHES[0]))
    parts.append(_rule(20, bottom, WIDTH - 20, bottom, "axis"))
    parts.append(_text(WIDTH / 2, bottom + 2 * FONT + 6, xlabel, "middle"))
    return _svg(name, parts, title, description, (WIDTH, bottom + 3 * FONT))


def histogram(
    name: str,
    edges: Sequence[float],
    stacks: Sequence[Bars],
    *,
    title: str,
    description: str,
    xlabel: str,
    ylabel: str,
) -> str:
    """Counts between ``edges`` [B + 1], those of several ``stacks`` on top of each other. Returns and raises as
    `lines`."""
    low, high = _spread(_finite(edges), False)
    totals = np.sum([bars.counts for bars in stacks], axis=0)
    yticks = [tick for tick in ticks(0, max(totals.max(), 1), 4) if tick[0] == round(tick[0])]
    xticks = _within(ticks(low, high, 5), low, high)
    left = 2 * GAP + FONT + max(_width(label) for _, label in yticks)
    frame = _Frame(
        Scale(low, high, left + 2, WIDTH - 14), Scale(0, max(totals.max(), yticks[-1][0]), HEIGHT - 3 * FONT - GAP, FONT)
    )
    parts = [*frame.axes(xticks, yticks, xlabel, ylabel)]
    below = np.zeros(len(totals))
    for number, bars in enumerate(stacks):
        above = below + np.asarray(bars.counts)
        for place in np.flatnonzero(bars.counts).tolist():
            parts.append(frame.bar(edges[place], edges[place + 1], below[place], above[place], number))
        below = above
    return _svg(name, parts, title, description, (WIDTH, HEIGHT))


class Range(NamedTuple):
    """Between which numbers a column lies: all of it, its middle nine tenths, and its bounds, if it has some."""

    label: str
    low: float
    high: float
    inner: tuple[float, float] | None = None
    bounds: tuple[float, float] | None = None


def ranges(name: str, columns: Sequence[Range], *, title: str, description: str, xlabel: str) -> str:
    """The range of each column on a line of its own: thin from the least to the largest number, thick for its middle,
    and a mark at each bound. Returns and raises as `lines`."""
    numbers = [number for column in columns for number in (column.low, column.high, *(column.bounds or ()))]
    low, high = _spread(_finite(numbers), False)
    marks = _within(ticks(low, high, 5), low, high)
    labels = [short(column.label, 24) for column in columns]
    left = 10 + max(_width(label) for label in labels)
    scale = Scale(low, high, left + 12, WIDTH - 20)
    row = FONT + 5
    bottom = 8 + row * len(columns)
    parts = []
    for value, label in marks:
        parts.append(_rule(scale(value), 6, scale(value), bottom, "grid"))
        parts.append(_text(scale(value), bottom + FONT + 2, label, "middle"))
    for number, (column, label) in enumerate(zip(columns, labels, strict=True)):
        y = 8 + row * (number + 0.5)
        parts.append(_text(left, y + FONT / 3, label, "end"))
        parts.append(_rule(scale(column.low), y, scale(column.high), y, "thin s0"))
        if column.inner is not None:
            parts.append(_rule(scale(column.inner[0]), y, scale(column.inner[1]), y, "thick s0"))
        for bound in _finite(column.bounds or ()):
            parts.append(_rule(scale(bound), y - 5, scale(bound), y + 5, "axis"))
    parts.append(_rule(left + 12, bottom, WIDTH - 20, bottom, "axis"))
    parts.append(_text((left + WIDTH) / 2, bottom + 2 * FONT + 6, xlabel, "middle"))
    return _svg(name, parts, title, description, (WIDTH, bottom + 3 * FONT))


def legend(labels: Sequence[str], levels: Sequence[Level] = (), kind: str = "line") -> str:
    """The names of series and levels as an HTML list, which folds on narrow pages. kind: "line" or "bar"."""
    items = []
    for number, label in enumerate(labels):
        if kind == "bar":
            mark = f'<rect class="bar s{number % COLOURS}" x="2" y="1" width="22" height="8"/>'
        else:
            mark = f'<line class="line s{number % COLOURS}"{_dash(DASHES, number // COLOURS)} x1="1" y1="5" x2="25" y2="5"/>'
        items.append((mark, label))
    for number, level in enumerate(levels):
        mark = f'<line class="level"{_dash(LEVEL_DASHES, number)} x1="1" y1="5" x2="25" y2="5"/>'
        items.append((mark, level.label))
    entries = []
    for mark, label in items:
        swatch = f'<svg class="swatch" viewBox="0 0 26 10" aria-hidden="true">{mark}</svg>'
        entries.append(f"<li>{swatch} {escaped(label)}</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'


# --- numbers on axes ---


def ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """About ``most`` round numbers with their labels, 1, 2 or 5 times a power of ten apart, the first at most ``low`` and
    the last at least ``high``. Labels are as long as it takes to tell them apart: 20k, 1.5M, 0.002, 3e-05."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    values = [number * step for number in range(first, max(last, first + 1) + 1)]
    largest = max(abs(values[0]), abs(values[-1]))
    return [(value, _tick_text(value, step, largest)) for value in values]


def _tick_text(value: float, step: float, largest: float) -> str:
    if value == 0:
        return "0"
    place = math.floor(math.log10(step) + 1e-9)  # of the last digit that differs
    if largest >= 1e12 or largest < 1e-3:
        digits = max(math.floor(math.log10(largest)) - place, 0)
        return f"{value:.{digits}e}"
    unit, letter = next(
        (unit, letter) for least, unit, letter in UNITS if largest >= least
    )
    digits = max(round(math.log10(unit)) - place, 0)
    return f"{value / unit:.{digits}f}{letter}"


def _within(marks: Sequence[tuple[float, str]], low: float, high: float) -> list[tuple[float, str]]:
    """Those ``marks`` that lie on the axis, but for rounding."""
    room = 1e-9 * (high - low)
    return [(value, label) for value, label in marks if low - room <= value <= high + room]


def _finite(numbers: Iterable[float]) -> list[float]:
    return [float(number) for number in numbers if abs(number) < LARGEST]


def _of_all(columns: Iterable[Sequence[float]]) -> Iterator[float]:
    for column in columns:
        yield from column


def _switches(series: Sequence[Line]) -> list[float]:
    return [line.switch for line in series if line.switch is not None]


def _spread(numbers: Sequence[float], is_logarithmic: bool) -> tuple[float, float]:
    """The least and the largest of ``numbers``, which are moved apart where they are one. ValueError for none."""
    if not numbers:
        raise ValueError("there is nothing to draw: no number is finite")
    low, high = min(numbers), max(numbers)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    if is_logarithmic:
        return low / 2, high * 2
    room = 0.1 * abs(low) or 1.0
    return low - room, high + room


def _y_limits(series: Sequence[Line], levels: Sequence[Level]) -> tuple[float, float]:
    """Of all lines and threads; a band is given half of their height more on either side."""
    numbers = [level.value for level in levels]
    edges: list[float] = []
    for line in series:
        numbers += _of_all((line.y, *line.threads))
        edges += [*(line.low or ()), *(line.high or ())]
    low, high = _spread(_finite(numbers), False)
    room = (high - low) / 2
    edges = _finite(edges)
    if edges:
        low, high = min(low, max(min(edges), low - room)), max(high, min(max(edges), high + room))
    return low, high


# --- marks ---


class _Frame(NamedTuple):
    """The axes of a drawing."""

    x: Scale
    y: Scale

    def axes(
        self,
        xticks: Sequence[tuple[float, str]],
        yticks: Sequence[tuple[float, str]],
        xlabel: str,
        ylabel: str,
    ) -> Iterator[str]:
        bottom, top = self.y.start, self.y.stop
        left, right = self.x.start, self.x.stop
        for value, label in yticks:
            height = self.y(value)
            yield _rule(left, height, right, height, "grid")
            yield _text(left - GAP, height + FONT / 3, label, "end")
        taken = -math.inf
        for value, label in xticks:
            place = self.x(value)
            half = _width(label) / 2
            centre = min(max(place, half + 1), right + 13 - half)
            yield _rule(place, bottom, place, bottom + 4, "axis")
            if centre - half < taken + 4:  # it would lie over the label before it
                continue
            taken = centre + half
            yield _text(centre, bottom + FONT + GAP, label, "middle")
        yield _rule(left, bottom, right, bottom, "axis")
        yield _text((left + right) / 2, bottom + 2 * FONT + GAP + 3, xlabel, "middle")
        if ylabel:
            turned = f"translate({FONT:.1f} {(top + bottom) / 2:.1f}) rotate(-90)"
            yield f'<text class="label" text-anchor="middle" transform="{turned}">{escaped(ylabel)}</text>'

    def level(self, level: Level, number: int) -> str:
        height = self.y(level.value)
        return _rule(self.x.start, height, self.x.stop, height, "level", LEVEL_DASHES[number % len(LEVEL_DASHES)])

    def bar(self, left: float, right: float, low: float, high: float, number: int) -> str:
        x, end = self.x(left), self.x(right)
        y, bottom = self.y(high), self.y(low)
        size = f'width="{max(end - x - 1, 0.5):.1f}" height="{bottom - y:.1f}"'
        return f'<rect class="bar s{number % COLOURS}" x="{x:.1f}" y="{y:.1f}" {size}/>'

    def line(self, line: Line, number: int, marks: bool) -> Iterator[str]:
        """The band, the threads and the line, in the order in which they are drawn."""
        colour = f"s{number % COLOURS}"
        dash = _dash(DASHES, number // COLOURS)
        x = np.asarray(line.x, float)
        if line.switch is not None:
            place = self.x(line.switch)
            yield _rule(place, self.y.start, place, self.y.stop, f"thread {colour}", "2 3")
        if line.low is not None and line.high is not None:
            if marks:
                yield from self._bars(line, colour)
            else:
                yield from self._band(x, np.asarray(line.low, float), np.asarray(line.high, float), colour)
        for thread in line.threads:
            yield from self._path(x, np.asarray(thread, float), f"thread {colour}", "", False)
        yield from self._path(x, np.asarray(line.y, float), f"line {colour}", dash, marks)

    def _path(self, x: np.ndarray, y: np.ndarray, kind: str, dash: str, marks: bool) -> Iterator[str]:
        for part in _pieces(np.isfinite(x) & np.isfinite(y)):
            points = [(self.x(a), self.y(b)) for a, b in zip(x[part], y[part], strict=True)]
            if len(points) > 1:
                yield f'<path class="{kind}"{dash} d="M{_places(points)}"/>'
            if marks or len(points) == 1:
                radius = 1.5 if kind.startswith("thread") else 3
                for a, b in points:
                    yield f'<circle class="{kind} dot" cx="{a:.1f}" cy="{b:.1f}" r="{radius}"/>'

    def _band(self, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> Iterator[str]:
        for part in _pieces(np.isfinite(x) & np.isfinite(low) & np.isfinite(high)):
            upper = [(self.x(a), self.y(b)) for a, b in zip(x[part], high[part], strict=True)]
            lower = [(self.x(a), self.y(b)) for a, b in zip(x[part], low[part], strict=True)]
            if len(upper) == 1:
                ((place, top),), ((_, bottom),) = upper, lower
                yield _rule(place, bottom, place, top, f"thin {colour}")
                continue
            yield f'<path class="band {colour}" d="M{_places([*upper, *reversed(lower)])}Z"/>'

    def _bars(self, line: Line, colour: str) -> Iterator[str]:
        for a, low, high in zip(line.x, line.low or (), line.high or (), strict=True):
            if math.isfinite(low) and math.isfinite(high):
                yield _rule(self.x(a), self.y(low), self.x(a), self.y(high), f"thin {colour}")


def _pieces(known: np.ndarray) -> Iterator[slice]:
    """The stretches over which ``known`` [K] is true."""
    padded = np.concatenate([[False], known, [False]])
    changes = np.flatnonzero(padded[1:] != padded[:-1]).tolist()
    for start, stop in zip(changes[::2], changes[1::2], strict=True):
        yield slice(start, stop)


def _places(points: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _whisker(scale: Scale, y: float, item: Interval, number: int) -> Iterator[str]:
    if not math.isfinite(item.value):
        yield _text(20, y + FONT / 3, "not known")
        return
    colour = f"s{number % COLOURS}"
    if math.isfinite(item.low) and math.isfinite(item.high):
        yield _rule(scale(item.low), y, scale(item.high), y, f"line {colour}")
        for end in (item.low, item.high):
            yield _rule(scale(end), y - 4, scale(end), y + 4, f"line {colour}")
    yield f'<circle class="line {colour} dot" cx="{scale(item.value):.1f}" cy="{y:.1f}" r="4"/>'


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line class="{kind}"{dashes} x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="label" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escaped(text)}</text>'


def _dash(dashes: Sequence[str], number: int) -> str:
    dash = dashes[number % len(dashes)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _width(text: str) -> float:
    """About how wide ``text`` is drawn, rather too much."""
    return FONT * LETTER * len(text)


def _svg(name: str, parts: Iterable[Any], title: str, description: str, size: tuple[float, float]) -> str:
    width, height = size
    head = (
        f'<svg role="img" aria-labelledby="{name}-title {name}-desc" viewBox="0 0 {width:g} {height:g}" '
        f'font-size="{FONT:g}">'
        f'<title id="{name}-title">{escaped(title)}</title><desc id="{name}-desc">{escaped(description)}</desc>'
    )
    return head + "".join(parts) + "</svg>"
