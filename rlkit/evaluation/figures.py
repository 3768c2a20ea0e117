"""Figures as files: learning curves, what came over the values of a setting, and of the returns that were asked
for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlkit.evaluation.statistics import Estimate, half_width

# Okabe and Ito's palette, which the colour-blind can tell apart, darkest first
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREY = "#6b6b6b"
LIGHT_GREY = "#e4e4e4"
MOST_COLUMNS = 3  # of panels side by side
MOST_LEGEND_COLUMNS = 3
DASHES = ((5, 3), (1.5, 2), (7, 2, 1.5, 2))


class Curve(NamedTuple):
    """One method's K evaluations of S seeds."""

    label: str
    steps: Any  # [K] updates at each
    values: Any  # [K, S, E] returns or scores of every episode; E may change from one evaluation to the next
    switch: float | None = None  # updates after which it went online


class CurvePanel(NamedTuple):
    """The learning curves on one dataset."""

    title: str
    curves: Sequence[Curve]
    ylabel: str = "normalised score"
    levels: Mapping[str, float] = {}  # horizontal lines by label, such as the mean return of the data


def learning_curves(path: Path, panels: Sequence[CurvePanel]) -> None:
    """Draw curves against updates to ``path``, a PNG or SVG by its name, side by side where there are several panels.

    Each has its mean, and where there are several seeds the 95 % band (rlkit.evaluation.statistics) and each seed as a
    thin line. Curves with the same label have the same colour in every panel. Raises ValueError for shapes that do not
    agree, or OSError if the file cannot be written; an older file is replaced at once or not at all.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    labels = dict.fromkeys(curve.label for panel in panels for curve in panel.curves)
    if not labels:
        raise ValueError("there is no curve to draw")
    colours = dict(zip(labels, itertools.cycle(COLOURS), strict=False))
    is_alone = len(panels) == 1
    columns = 2 if len(panels) == 4 else min(len(panels), MOST_COLUMNS)
    rows = math.ceil(len(panels) / columns)
    size = (7.2, 4.4) if is_alone else (4.6 * columns, 3.6 * rows + 0.6)
    figure = Figure(figsize=size, dpi=150, layout="constrained")  # pyplot's would open windows, and be kept
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(places, panels, strict=False):
        for curve in panel.curves:
            _draw(axes, curve, colours[curve.label])
        for (label, level), dashes in zip(panel.levels.items(), itertools.cycle(DASHES), strict=False):
            style = (0, dashes)
            words = f"{label} ({level:.1f})" if is_alone else label  # it is another number in each panel
            axes.axhline(level, color=GREY, linewidth=1.2, linestyle=style, label=words, zorder=1)
        decorate(axes, panel.title, "updates", panel.ylabel)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in places[len(panels) :]:
        axes.remove()
    save(figure, path)


class Asked(NamedTuple):
    """One method that was asked for G returns."""

    label: str
    targets: Sequence[float]  # [G]
    returns: Any  # [G, S, E] what came of each episode


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
    as a method that is not asked. Raises as `learning_curves`.
    """
    from matplotlib.figure import Figure

    if not runs:
        raise ValueError("there is nothing to draw")
    figure = Figure(figsize=(7.2, 5.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for run, colour in zip(runs, itertools.cycle(COLOURS), strict=False):
        _draw_asked(axes, run, colour)
    lowest = min(min(run.targets) for run in runs)
    highest = max(max(run.targets) for run in runs)
    ends = [lowest, highest]
    axes.plot(ends, ends, color=GREY, linewidth=1.2, linestyle=(0, DASHES[0]), label="as asked", zorder=1)
    if best is not None:
        label = f"the data's largest ({best:.1f})"
        axes.axvline(best, color=GREY, linewidth=1.2, linestyle=(0, DASHES[1]), label=label, zorder=1)
    levels = levels or {}
    for number, (label, level) in enumerate(levels.items(), len(runs)):
        colour = COLOURS[number % len(COLOURS)]
        axes.axhline(level, color=colour, linewidth=1.2, linestyle=(0, DASHES[2]), label=f"{label} ({level:.1f})")
    decorate(axes, title, "return asked for", "return")
    save(figure, path)


def _draw_asked(axes: Any, run: Asked, colour: str) -> None:
    targets = np.asarray(run.targets, np.float64)
    returns = np.asarray(run.returns, np.float64)
    if targets.ndim != 1 or returns.ndim != 3 or len(targets) != len(returns) or returns.size == 0:
        shapes = f"{returns.shape} for {targets.shape}"
        raise ValueError(f"{run.label}: expected returns [G, S, E] for targets [G], not {shapes}")
    seeds = returns.shape[1]
    order = np.argsort(targets)
    targets = targets[order]
    returns = returns[order]
    if seeds > 1:
        axes.plot(targets, returns.mean(2), color=colour, alpha=0.4, linewidth=0.7, zorder=3)
    plural = "s" if seeds > 1 else ""
    label = f"{run.label} ({seeds} seed{plural})"
    means = returns.mean((1, 2))
    half = half_width(returns)
    line = {"color": colour, "linewidth": 2.2, "marker": "o", "markersize": 4, "zorder": 4}
    axes.errorbar(targets, means, half, elinewidth=1.2, capsize=3, label=label, **line)


class Swept(NamedTuple):
    """What came of one method at V values of a setting."""

    label: str  # "" for the only line
    values: Sequence[str]  # [V] as they were typed
    estimates: Sequence[Estimate]  # [V]


def over_values(
    path: Path,
    lines: Sequence[Swept],
    *,
    title: str,
    xlabel: str,
    ylabel: str = "normalised score",
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draw means and their 95 % intervals over the values of a setting to the PNG ``path``.

    Numbers stand at their places, on a logarithmic axis where the largest is ten times the smallest or more; other
    values stand side by side in the order in which they were typed. levels: horizontal lines by label. Raises as
    `learning_curves`.
    """
    from matplotlib.figure import Figure

    if not lines:
        raise ValueError("there is nothing to draw")
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    texts = list(dict.fromkeys(text for line in lines for text in line.values))
    places = _places(texts)
    is_logarithmic = min(places.values()) > 0 and max(places.values()) >= 10 * min(places.values())
    if is_logarithmic:
        axes.set_xscale("log")
    for line, colour in zip(lines, itertools.cycle(COLOURS), strict=False):
        _draw_swept(axes, line, places, colour)
    levels = levels or {}
    for (label, level), dashes in zip(levels.items(), itertools.cycle(DASHES), strict=False):
        style = (0, dashes)
        axes.axhline(level, color=GREY, linewidth=1.2, linestyle=style, label=f"{label} ({level:.1f})", zorder=1)
    decorate(axes, title, xlabel, ylabel)
    axes.margins(x=0.06)
    axes.set_xticks(list(places.values()), list(places))
    axes.set_xticks([], minor=True)
    save(figure, path)


def _places(texts: Sequence[str]) -> dict[str, float]:
    """Where each value stands on the axis, in the order of their places."""
    try:
        places = {text: float(text) for text in texts}
    except ValueError:
        return {text: 1.0 + number for number, text in enumerate(texts)}
    return dict(sorted(places.items(), key=lambda item: item[1]))


def _draw_swept(axes: Any, line: Swept, places: Mapping[str, float], colour: str) -> None:
    if not line.values or len(line.values) != len(line.estimates):
        raise ValueError(f"{line.label}: expected an estimate for each of {len(line.values)} values")
    by_place = sorted(zip(line.values, line.estimates, strict=True), key=lambda pair: places[pair[0]])
    x = [places[text] for text, _ in by_place]
    means = [estimate.value for _, estimate in by_place]
    half = [estimate.high - estimate.value for _, estimate in by_place]
    style = {"color": colour, "linewidth": 2.2, "marker": "o", "markersize": 4, "zorder": 4}
    axes.errorbar(x, means, half, elinewidth=1.2, capsize=3, label=line.label or "mean", **style)


def save(figure: Any, path: Path) -> None:
    """Write the figure as a PNG or SVG, by the path's ending, with one legend for all axes, at once or not at all.
    Raises OSError, ValueError."""
    handles: dict[str, Any] = {}  # by label; what stands in several axes is told once
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        _legend_below(figure, handles)
    part = path.with_name(f"{path.name}.part")
    try:
        figure.savefig(part, format=path.suffix[1:].lower())
    except RuntimeError as error:  # of matplotlib's font and image libraries
        raise ValueError(f"{path} could not be drawn: {error}") from error
    except OSError:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)


def _legend_below(figure: Any, handles: Mapping[str, Any]) -> None:
    """The legend of the whole figure, in as many rows as it takes, for which the figure becomes higher; a name that is
    wider than the figure is shortened in its middle. handles: by label."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    room = figure.bbox.width - 10  # the layout keeps a margin
    labels = list(handles)
    for columns in range(min(MOST_LEGEND_COLUMNS, len(labels)), 0, -1):
        legend = _legend(figure, handles, labels, columns)
        if legend.get_window_extent(renderer).width <= room:
            break
        legend.remove()
    else:
        legend = _legend(figure, handles, labels, 1)
        names = legend.get_texts()
        widths = [name.get_window_extent(renderer).width for name in names]
        beside = legend.get_window_extent(renderer).width - max(widths)  # the line's swatch and the margins
        for name, width in zip(names, widths, strict=True):
            if width > room - beside:
                name.set_text(_shortened(name.get_text(), (room - beside) / width))
    extent = legend.get_window_extent(renderer)
    one_row = extent.height / math.ceil(len(labels) / columns)
    figure.set_figheight(figure.get_figheight() + (extent.height - one_row) / figure.dpi)


def _legend(figure: Any, handles: Mapping[str, Any], labels: Sequence[str], columns: int) -> Any:
    place = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    return figure.legend(handles.values(), labels, **place)


def _shortened(name: str, share: float) -> str:
    """``name`` without its middle, so that about ``share`` of its width is left; a tenth less, as letters differ."""
    kept = int(0.45 * share * len(name))
    return f"{name[:kept]}…{name[len(name) - kept :]}"


def decorate(axes: Any, title: str, xlabel: str, ylabel: str) -> None:
    """The look of all axes."""
    axes.set_title(title, loc="left", fontsize=12, pad=10)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.margins(x=0.02)
    axes.grid(axis="y", color=LIGHT_GREY, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY)


def _draw(axes: Any, curve: Curve, colour: str) -> None:
    steps = np.asarray(curve.steps)
    values = [np.asarray(one, np.float64) for one in curve.values]
    shapes = [one.shape for one in values]
    is_table = all(one.ndim == 2 and one.size and len(one) == len(values[0]) for one in values)
    if steps.ndim != 1 or not values or not is_table or len(steps) != len(values):
        raise ValueError(f"{curve.label}: expected values [K, S, E] at steps [K], not {shapes} at {steps.shape}")
    seeds = len(values[0])
    means = np.array([one.mean() for one in values])
    if seeds > 1:
        half = np.array([half_width(one) for one in values])
        seed_means = np.array([one.mean(1) for one in values])
        axes.fill_between(steps, means - half, means + half, color=colour, alpha=0.18, linewidth=0, zorder=2)
        axes.plot(steps, seed_means, color=colour, alpha=0.4, linewidth=0.7, zorder=3)
    plural = "s" if seeds > 1 else ""
    label = f"{curve.label} ({seeds} seed{plural})"
    if curve.switch is not None:
        axes.axvline(curve.switch, color=colour, linewidth=1.0, linestyle=":", zorder=1)
        label = f"{label}, online from {curve.switch:,.0f}"
    mark = "o" if len(steps) == 1 else None
    axes.plot(steps, means, color=colour, linewidth=2.2, marker=mark, label=label, zorder=4)
