"""A dataset in one picture: returns, lengths and ends of its episodes, ranges of its observations, its actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from rlkit.datasets.episodes import HAS_ACTION, TERMINAL, Episodes
from rlkit.evaluation.figures import COLOURS, GREY, decorate, save

BINS = 30
MOST_COLUMNS = 40  # of observations, and of actions that are amounts; a picture has no room for more
MOST_ROWS = 200_000  # from which the ranges are taken; of more, as many evenly spaced ones
INNER = (5, 95)  # per cent, between which the thick part of a range lies


def draw(path: Path, episodes: Episodes) -> None:
    """Draw ``episodes`` to the PNG ``path``. Raises OSError if it cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.2), dpi=150, layout="constrained")
    (of_returns, of_lengths), (of_observations, of_actions) = figure.subplots(2, 2)
    report = episodes.report
    figure.suptitle(f"{episodes.name}: {report.episodes:,} episodes, {report.steps:,} steps", x=0.01, ha="left")
    _returns(of_returns, episodes)
    _lengths(of_lengths, episodes)
    _observations(of_observations, episodes)
    _actions(of_actions, episodes)
    save(figure, path)


def _returns(axes: Any, episodes: Episodes) -> None:
    returns = episodes.returns()
    decorate(axes, "returns of the episodes", "return", "episodes")
    if not returns.size:
        axes.text(0.5, 0.5, "no episode has all of its rewards", ha="center", color=GREY, transform=axes.transAxes)
        return
    axes.hist(returns, BINS, color=COLOURS[0], alpha=0.75)
    mean = returns.mean()
    axes.axvline(mean, color=GREY, linewidth=1.2, linestyle="--", label=f"mean return {mean:.4g}")


def _lengths(axes: Any, episodes: Episodes) -> None:
    """Of the episodes that a terminal state ended, and of those that were cut."""
    starts = episodes.starts
    stops = np.append(starts[1:], len(episodes.t))
    lengths = stops - starts - 1
    is_terminal = (np.asarray(episodes.flags)[stops - 2] & TERMINAL) > 0
    edges = np.histogram_bin_edges(lengths, BINS)
    by_end = [lengths[is_terminal], lengths[~is_terminal]]
    labels = [f"ended by a terminal state ({is_terminal.sum():,})", f"cut short ({(~is_terminal).sum():,})"]
    axes.hist(by_end, edges, stacked=True, color=[COLOURS[1], COLOURS[2]], label=labels, alpha=0.75)
    decorate(axes, "lengths of the episodes", "steps", "episodes")


def _observations(axes: Any, episodes: Episodes) -> None:
    """The range of each column: thin from the least to the largest, thick for the middle nine tenths."""
    step = max(len(episodes.obs) // MOST_ROWS, 1)
    rows = np.asarray(episodes.obs[::step, :MOST_COLUMNS])
    columns = np.arange(rows.shape[1])
    least, largest = rows.min(0), rows.max(0)
    low, high = np.percentile(rows, INNER, axis=0)
    axes.vlines(columns, least, largest, color=COLOURS[0], linewidth=1)
    axes.vlines(columns, low, high, color=COLOURS[0], linewidth=4, alpha=0.75)
    axes.set_yscale("symlog", linthresh=1)
    shown = f" (the first {MOST_COLUMNS} of {episodes.obs.shape[1]})" if episodes.obs.shape[1] > MOST_COLUMNS else ""
    decorate(axes, f"ranges of the observations{shown}", "column", "value")
    names = episodes.names.observation
    if names:
        axes.set_xticks(columns, names[:MOST_COLUMNS], rotation=45, ha="right", fontsize=8)
        axes.set_xlabel("")


def _actions(axes: Any, episodes: Episodes) -> None:
    is_step = (np.asarray(episodes.flags) & HAS_ACTION) > 0
    action = np.asarray(episodes.action)[is_step]
    space = episodes.action_space
    if isinstance(space, Discrete):
        choices, counts = np.unique(action, return_counts=True)
        axes.bar(choices, counts, color=COLOURS[0], alpha=0.75)
        axes.set_xlim(space.start - 0.5, space.start + space.n - 0.5)
        decorate(axes, f"actions: {len(choices)} of {space.n} choices were taken", "choice", "steps")
        return
    columns = np.arange(min(action.shape[1], MOST_COLUMNS))
    rows = action[:, : len(columns)]
    low, high = np.percentile(rows, INNER, axis=0)
    axes.vlines(columns, rows.min(0), rows.max(0), color=COLOURS[0], linewidth=1)
    axes.vlines(columns, low, high, color=COLOURS[0], linewidth=4, alpha=0.75)
    bounds = [space.low.ravel()[: len(columns)], space.high.ravel()[: len(columns)]]
    axes.plot(columns, bounds[0], "_", color=GREY, label="bounds of the actions")
    axes.plot(columns, bounds[1], "_", color=GREY)
    decorate(axes, "actions", "component", "value")
    axes.set_xticks(columns, (episodes.names.action or [str(column) for column in columns])[: len(columns)])
