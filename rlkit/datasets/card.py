"""The dataset card: what episodes look like in a few numbers, which a run's record keeps, so that a page can show them
without the data."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from rlkit.datasets import blocks
from rlkit.datasets.episodes import HAS_ACTION, TERMINAL, Episodes

BINS = 30
MOST_COLUMNS = 40  # whose ranges are kept; a page has no room for more
MOST_CHOICES = 100  # whose counts are kept
MOST_ROWS = 20_000  # from which the middle of a range is taken: evenly spaced ones, where there are more
LARGEST_WHOLE = 1e9  # that gets a bin of its own; far beyond, a half is lost in rounding
INNER = (5, 95)  # per cent, between which the middle of a range lies


class Histogram(NamedTuple):
    """How many numbers lie between each two of the B + 1 ``edges``."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def is_whole(self) -> bool:
        """Whether edges and counts go together, which a file may have wrong."""
        has_edges = len(self.edges) == len(self.counts) + 1 > 1
        return has_edges and all(map(math.isfinite, self.edges)) and min(self.counts) >= 0

    @property
    def ends(self) -> tuple[float, float]:
        """The outermost edges, or the least and the largest number where each whole number has a bin of its own."""
        low, high = self.edges[0], self.edges[-1]
        has_whole_bins = high - low == len(self.counts) and low % 1 == 0.5
        return (low + 0.5, high - 0.5) if has_whole_bins else (low, high)


class Middle(NamedTuple):
    """Between which numbers nine tenths of each column lie."""

    low: tuple[float, ...]
    high: tuple[float, ...]


class Card(NamedTuple):
    """What episodes look like, in the units of their source. Of wide observations and actions the first MOST_COLUMNS
    columns are kept."""

    returns: Histogram | None  # of the episodes whose rewards are all known; None: there is none
    terminal_lengths: Histogram  # steps of the episodes that a terminal state ended
    cut_lengths: Histogram  # of those that were cut short, between the same edges
    unflagged_ends: int  # episodes of which no flag tells how they ended, counted among those that were cut short
    observation_middle: Middle  # their least and largest numbers are in the run's stats
    action_low: tuple[float, ...]  # least number of each column; empty for choices
    action_high: tuple[float, ...]
    action_middle: Middle
    choices: tuple[int, ...]  # steps at which each choice was taken, the first one first; empty for amounts
    steps: int
    on_bounds: int | None  # of them, those with an action on a bound; None where actions have none


def card(episodes: Episodes) -> Card:
    """The dataset card of ``episodes``."""
    from gymnasium.spaces import Box, Discrete  # a run's record is read where there is no gymnasium too

    # --- episodes ---
    starts = episodes.starts
    stops = np.append(starts[1:], len(episodes.t))
    lengths = stops - starts - 1
    is_terminal = (np.asarray(episodes.flags)[stops - 2] & TERMINAL) > 0
    edges = _edges(lengths)
    returns = episodes.returns()
    returns = returns[np.isfinite(returns)]

    # --- observations and actions ---
    every = max(len(episodes.obs) // MOST_ROWS, 1)
    is_step = (np.asarray(episodes.flags) & HAS_ACTION) > 0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    middle = Middle((), ())
    choices: tuple[int, ...] = ()
    space = episodes.action_space
    if isinstance(space, Discrete):
        if space.n <= MOST_CHOICES:
            taken = np.asarray(episodes.action)[is_step] - int(space.start)
            choices = tuple(np.bincount(taken, minlength=int(space.n)).tolist())
    else:
        low, high = _extremes(episodes.action, is_step)
        middle = _middle(_sampled(episodes.action, every)[is_step[::every]])
    has_bounds = isinstance(space, Box) and bool((np.isfinite(space.low) | np.isfinite(space.high)).any())
    return Card(
        returns=_histogram(returns, _edges(returns)) if returns.size else None,
        terminal_lengths=_histogram(lengths[is_terminal], edges),
        cut_lengths=_histogram(lengths[~is_terminal], edges),
        unflagged_ends=episodes.report.unflagged_ends,
        observation_middle=_middle(_sampled(episodes.obs, every)),
        action_low=low,
        action_high=high,
        action_middle=middle,
        choices=choices,
        steps=int(is_step.sum()),
        on_bounds=episodes.report.on_bounds if has_bounds else None,
    )


def _edges(values: np.ndarray) -> np.ndarray:
    """Of as many bins as there are different values, BINS at most. Where these are whole numbers so close together,
    each has its own bin, in the middle of which it is."""
    different = np.unique(values)
    is_whole = len(different) > 0 and bool((different == np.round(different)).all())
    if is_whole and different[-1] - different[0] < BINS and np.abs(different).max() < LARGEST_WHOLE:
        return np.arange(different[0] - 0.5, different[-1] + 1)
    return np.histogram_bin_edges(values, min(BINS, len(different)))


def _histogram(values: np.ndarray, edges: np.ndarray) -> Histogram:
    counts, _ = np.histogram(values, edges)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def _middle(rows: np.ndarray) -> Middle:
    low, high = np.percentile(rows, INNER, axis=0)
    return Middle(tuple(low.tolist()), tuple(high.tolist()))


def _sampled(column: Any, every: int) -> np.ndarray:
    """The rows 0, ``every``, ... of the first columns, a block at a time, so that what lies between them is freed."""
    rows, width = column.shape
    picked = []
    for part in blocks.blocks(rows, width):
        first = part.start + -part.start % every
        picked.append(np.array(column[first : part.stop : every, :MOST_COLUMNS]))
        blocks.forget(column)
    return np.concatenate(picked)


def _extremes(action: Any, is_step: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Least and largest number of each column over the steps, a block at a time."""
    rows, width = action.shape
    least = np.full(min(width, MOST_COLUMNS), np.inf)
    largest = -least
    for part in blocks.blocks(rows, width):
        steps = action[part, :MOST_COLUMNS][is_step[part]]
        if len(steps):
            least = np.minimum(least, steps.min(0))
            largest = np.maximum(largest, steps.max(0))
        blocks.forget(action)
    return tuple(least.tolist()), tuple(largest.tolist())
