"""How well a mean return is known: the one interval that every table, figure and result shows.

Every seed of a run plays the same starts (episode i begins from the same reset for all of them), so returns are a
table [S seeds, E starts] with three things that vary: the seed, the start, and the rest. Other seeds and other starts
would have given another mean. The interval counts both, by the two-way random-effects model

    return = mean + seed effect + start effect + rest,

from the mean squares of its analysis of variance, with a t quantile at the degrees of freedom of Satterthwaite (1946,
"An approximate distribution of estimates of variance components"). How often it covers the true mean is measured by
benchmarks/coverage.py; docs/evaluation.md has the table.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit

Over = Literal["seeds and starts", "seeds", "episodes", "seeds, resampled"]
LEVEL = 0.95


class Estimate(NamedTuple):
    """A mean and its 95 % interval, whose ends are NaN where one number is all there is.

    over: what varied. With one seed it is its episodes: the interval then says how well that one policy was measured,
    and nothing about the method. With one start, or exact values, it is the seeds. Over several datasets the seeds of
    each are resampled (rlkit.evaluation.aggregate); else the interval is Student's.
    """

    value: float
    low: float
    high: float
    over: Over


def estimate(returns: Any) -> Estimate:
    """Mean of returns (or scores) [S, E] and its interval; NaN throughout if one of them is NaN.

    Column e must be the same start for every seed. For returns of recorded episodes S is 1; for exact values E is 1.
    Raises ValueError unless there are two axes, neither of them empty, and as many starts for each seed.
    """
    values = table(returns)
    seeds, starts = values.shape
    value = float(values.mean())
    half = float(half_width(values))
    if seeds == 1:
        over: Over = "episodes"
    elif starts == 1:
        over = "seeds"
    else:
        over = "seeds and starts"
    return Estimate(value, value - half, value + half, over)


def half_width(returns: np.ndarray) -> np.ndarray:
    """Half of the interval's width, [...] for returns [..., S, E]."""
    seeds, starts = returns.shape[-2:]
    if seeds > 1 and starts > 1:
        return _two_way(returns)
    outer = returns.shape[:-2]
    units = returns.reshape(*outer, seeds * starts)
    return _one_way(units)


def _one_way(units: np.ndarray) -> np.ndarray:
    """Student's interval of the mean of independent ``units`` [..., n]; NaN for a single one."""
    number = units.shape[-1]
    if number == 1:
        return np.full(units.shape[:-1], np.nan)
    variance = units.var(axis=-1, ddof=1)
    standard_error = np.sqrt(variance / number)
    return _t_quantile(number - 1) * standard_error


def _two_way(returns: np.ndarray) -> np.ndarray:
    """The interval over seeds and starts of ``returns`` [..., S, E], at least two of each.

    With the mean squares A of the seeds, B of the starts and R of the rest, the mean of all returns has the variance
    (A + B - R) / (S E), since A estimates var(rest) + E var(seed), and B var(rest) + S var(start). A variance that
    comes out negative, A or B below R, counts as zero.
    """
    seeds, starts = returns.shape[-2:]
    both = (-2, -1)

    # --- the rest: what neither the seed nor the start explains ---
    mean = returns.mean(axis=both, keepdims=True)
    seed_means = returns.mean(axis=-1, keepdims=True)
    start_means = returns.mean(axis=-2, keepdims=True)
    rest = returns - seed_means - start_means + mean
    rest_freedom = (seeds - 1) * (starts - 1)

    # --- mean squares, and the variance that they add up to ---
    seed_square = starts * seed_means.var(axis=both, ddof=1)
    start_square = seeds * start_means.var(axis=both, ddof=1)
    rest_sum = (rest**2).sum(axis=both)
    rest_square = rest_sum / rest_freedom
    seed_excess = np.maximum(seed_square - rest_square, 0)
    start_excess = np.maximum(start_square - rest_square, 0)
    total = rest_square + seed_excess + start_excess

    # --- degrees of freedom ---
    # Each share is relative to the total. Where nothing varies at all, every share is 0 / 1.
    is_constant = total == 0
    divisor = np.where(is_constant, 1, total)
    seed_share = seed_square / divisor
    start_share = start_square / divisor
    rest_share = rest_square / divisor
    uncertainty = seed_share**2 / (seeds - 1)
    uncertainty += start_share**2 / (starts - 1)
    uncertainty += rest_share**2 / rest_freedom
    # Satterthwaite's value is at least the smallest degrees of freedom that went in, unless R was subtracted. Then it
    # is kept at that minimum too: else two mean squares that happen to be small would make the interval endless.
    fewest = min(seeds, starts) - 1
    satterthwaite = 1 / np.where(is_constant, 1, uncertainty)
    freedom = np.maximum(satterthwaite, fewest)

    standard_error = np.sqrt(total / (seeds * starts))
    return _t_quantile(freedom) * standard_error


def _t_quantile(freedom: Any) -> np.ndarray:
    probability = (1 + LEVEL) / 2
    return stdtrit(freedom, probability)


def table(returns: Any) -> np.ndarray:
    """Returns as float64 [S, E]. ValueError unless there are two axes, neither empty, and as many starts for each."""
    try:
        values = np.asarray(returns, np.float64)
    except ValueError as error:  # numpy's words for rows of different lengths
        raise ValueError(f"expected returns [seeds, starts], as many starts for each seed ({error})") from None
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"expected returns [seeds, starts], not {list(values.shape)}")
    return values


def last_fifth(steps: Any, values: Any, planned: int | None = None) -> np.ndarray | None:
    """Mean of the evaluations in the last fifth of training, those after more than 80 % of the updates.

    steps: [K] updates at each evaluation. values: [K, ...]; returns [...], or None where training has not come to its
    last fifth. planned: updates of the whole training; None: the largest of ``steps``. Single checkpoints of one run
    differ by tens of points, which this evens out.
    """
    steps = np.asarray(steps)
    values = np.asarray(values, np.float64)
    if steps.ndim != 1 or not len(steps) or len(steps) != len(values):
        raise ValueError(f"expected as many values as steps, not {values.shape} for {steps.shape}")
    whole = steps.max() if planned is None else planned
    if whole > 0:
        is_late = steps > 0.8 * whole
    else:
        is_late = steps == 0
    if not is_late.any():
        return None
    return values[is_late].mean(0)
