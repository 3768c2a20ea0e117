"""What a set of returns says: mean, interquartile mean, and how sure one can be of them.

What varies between runs of one method is the seed, so a 95 % interval resamples seeds, each with the mean of its
episodes (a percentile bootstrap, stratified by task; Agarwal et al. 2021, arXiv 2108.13264). With a single seed only
the episodes are left to resample: the interval then says how well that one policy was measured and nothing about the
method, and `Estimate.over` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

Over = Literal["seeds", "episodes"]
Statistic = Callable[[np.ndarray], np.ndarray]  # over the last axis
SAMPLES = 10_000
TAIL = 0.025
AT_ONCE = 2_000_000  # units drawn in one go, which bounds the memory


class Estimate(NamedTuple):
    """A statistic and its 95 % interval, whose ends are NaN where there is one unit alone. over: what was resampled."""

    value: float
    low: float
    high: float
    over: Over


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis."""
    return np.mean(values, axis=-1)


def iqm(values: np.ndarray) -> np.ndarray:
    """Interquartile mean over the last axis: without the lowest and the highest quarter, rounded down (as rliable)."""
    cut = values.shape[-1] // 4
    return np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(-1)


def estimate(returns: Any, statistic: Statistic = mean, *, seed: int = 0) -> Estimate:
    """``statistic`` of one task's returns [S, episodes] (or scores), with its interval."""
    return pooled([returns], statistic, seed=seed)


def pooled(tasks: Sequence[Any], statistic: Statistic = mean, *, seed: int = 0) -> Estimate:
    """``statistic`` over several tasks, [S, episodes] scores each, with its interval.

    The units are seeds (means of their episodes) if every task has at least two, else episodes; those of all tasks are
    pooled, and each bootstrap sample draws every task's units from that task alone. The draws follow from ``seed``.
    Raises ValueError if there is no task, or if one has not two axes or is empty.
    """
    arrays = [np.asarray(task, np.float64) for task in tasks]
    if not arrays or any(array.ndim != 2 or array.size == 0 for array in arrays):
        raise ValueError(f"expected scores [seeds, episodes] for each task, not {[array.shape for array in arrays]}")
    over: Over = "seeds" if all(len(array) > 1 for array in arrays) else "episodes"
    strata = [array.mean(1) if over == "seeds" else array.ravel() for array in arrays]
    value = float(statistic(np.concatenate(strata)))
    return Estimate(value, *bootstrap_interval(strata, statistic, seed=seed), over)


def bootstrap_interval(
    strata: Sequence[np.ndarray], statistic: Statistic = mean, *, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of ``statistic`` of all units, resampled within each of ``strata``, [units] each.

    (NaN, NaN) if every stratum has a single unit.
    """
    if all(len(units) < 2 for units in strata):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)

    def draw(samples: int) -> np.ndarray:
        drawn = [units[rng.integers(len(units), size=(samples, len(units)))] for units in strata]
        return statistic(np.concatenate(drawn, axis=1))

    some = max(AT_ONCE // sum(map(len, strata)), 1)
    values = [draw(min(some, SAMPLES - done)) for done in range(0, SAMPLES, some)]
    low, high = np.quantile(np.concatenate(values), [TAIL, 1 - TAIL])
    return float(low), float(high)


def last_fifth(steps: Any, values: Any) -> np.ndarray:
    """Mean of the evaluations in the last fifth of training, those after more than 80 % of the updates.

    steps: [K] updates at each evaluation, the largest being the whole training. values: [K, ...]; returns [...].
    Single checkpoints of one run differ by tens of points, which this evens out.
    """
    steps, values = np.asarray(steps), np.asarray(values, np.float64)
    if steps.ndim != 1 or not len(steps) or len(steps) != len(values):
        raise ValueError(f"expected as many values as steps, not {values.shape} for {steps.shape}")
    late = steps > 0.8 * steps.max() if steps.max() > 0 else steps == 0
    return values[late].mean(0)
