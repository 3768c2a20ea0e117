"""Scores of methods over several datasets, after Agarwal et al. (2021, "Deep Reinforcement Learning at the Edge of the
Statistical Precipice", arXiv:2108.13264).

A run is one seed on one dataset, and its score the mean over its episodes. Where there are few runs, one lucky seed
moves their mean; the interquartile mean leaves out the lowest and the highest quarter of them. Intervals are
percentiles of a stratified bootstrap: as many runs as each dataset has are drawn from those of that dataset, with
replacement. A dataset with one seed always draws that seed, so there is no interval then.

The bootstrap knows no other seeds than those there are. With three of each dataset its intervals are too short (see
docs/report.md for how often they cover).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlkit.evaluation.statistics import LEVEL, Estimate, table

DRAWS = 10_000  # of the bootstrap; the ends of an interval then vary by about a hundredth of its width


class Profile(NamedTuple):
    """Share of the runs whose score is above each threshold."""

    thresholds: np.ndarray  # [T] scores, increasing
    share: np.ndarray  # [T] 0 to 1
    low: np.ndarray  # [T] of the pointwise 95 % band; NaN where a dataset has one seed alone
    high: np.ndarray  # [T]


def run_scores(scores: Sequence[Any]) -> list[np.ndarray]:
    """The score of each run: for each dataset [S], the means over the episodes of scores [S, E].

    Raises ValueError where there is no dataset, or one is no table [S, E].
    """
    if not len(scores):
        raise ValueError("there are no scores")
    return [table(of_dataset).mean(1) for of_dataset in scores]


def interquartile_mean(scores: Sequence[Any], draws: int = DRAWS) -> Estimate:
    """Mean of the runs of all datasets without the lowest and the highest quarter, and its interval over the seeds.

    Args:
        scores: for each dataset [S, E], of S seeds; the numbers of seeds and of episodes may differ.
        draws: of the bootstrap.

    Returns:
        The estimate. Of n runs the n // 4 lowest and as many of the highest are left out, so it is the mean of all
        where there are fewer than four. The interval's ends are NaN where a dataset has one seed alone.

    Raises:
        ValueError: as `run_scores`.

    Example:
        interquartile_mean([hopper_scores, walker_scores])  # [5, 10] each
    """
    runs = run_scores(scores)
    value = float(_interquartile(np.concatenate(runs)))
    if not _have_seeds(runs):
        return Estimate(value, np.nan, np.nan, "seeds, resampled")
    rng = np.random.default_rng(0)
    drawn = [of_dataset[rng.integers(len(of_dataset), size=(draws, len(of_dataset)))] for of_dataset in runs]
    low, high = _percentiles(_interquartile(np.concatenate(drawn, axis=1)))
    return Estimate(value, float(low), float(high), "seeds, resampled")


def _interquartile(runs: np.ndarray) -> np.ndarray:
    """[...] for runs [..., n]."""
    cut = runs.shape[-1] // 4
    ordered = np.sort(runs, axis=-1)
    return ordered[..., cut : runs.shape[-1] - cut].mean(-1)


def performance_profile(scores: Sequence[Any], thresholds: Any, draws: int = DRAWS) -> Profile:
    """Share of the runs of all datasets whose score is above each of ``thresholds`` [T], with a pointwise band.

    scores, draws, errors: as for `interquartile_mean`.
    """
    runs = run_scores(scores)
    thresholds = np.asarray(thresholds, np.float64)
    is_above = [of_dataset[:, None] > thresholds for of_dataset in runs]
    share = np.concatenate(is_above).mean(0)
    if not _have_seeds(runs):
        unknown = np.full(len(thresholds), np.nan)
        return Profile(thresholds, share, unknown, unknown)
    rng = np.random.default_rng(0)
    drawn = sum(_counts(len(above), draws, rng) @ above for above in is_above)
    low, high = _percentiles(drawn / sum(map(len, runs)))
    return Profile(thresholds, share, low, high)


def probability_of_improvement(x: Sequence[Any], y: Sequence[Any], draws: int = DRAWS) -> Estimate:
    """Probability, 0 to 1, that a run of X has a higher score than one of Y on the same dataset: the mean over the
    datasets of the share of pairs in which it has, where a tie counts half (Mann and Whitney's U).

    Args:
        x: for each dataset the scores [S, E] of X. Returns do as well: nothing is compared between datasets.
        y: the same of Y, for the same datasets in the same order.
        draws: of the bootstrap.

    Returns:
        The estimate. The interval's ends are NaN where a dataset has one seed alone of X or of Y.

    Raises:
        ValueError: as `run_scores`, and where X and Y have other numbers of datasets.
    """
    pairs = list(zip(run_scores(x), run_scores(y), strict=True))
    is_higher = []
    for mine, theirs in pairs:
        difference = mine[:, None] - theirs
        is_higher.append((difference > 0) + 0.5 * (difference == 0))
    value = float(np.mean([of_dataset.mean() for of_dataset in is_higher]))
    if not all(_have_seeds(pair) for pair in pairs):
        return Estimate(value, np.nan, np.nan, "seeds, resampled")
    rng = np.random.default_rng(0)
    drawn = np.zeros(draws)
    for of_dataset in is_higher:
        mine, theirs = of_dataset.shape
        times_mine = _counts(mine, draws, rng) / mine
        times_theirs = _counts(theirs, draws, rng) / theirs
        drawn += np.einsum("di,ij,dj->d", times_mine, of_dataset, times_theirs)
    low, high = _percentiles(drawn / len(pairs))
    return Estimate(value, float(low), float(high), "seeds, resampled")


# --- bootstrap ---


def _have_seeds(runs: Sequence[np.ndarray]) -> bool:
    return all(len(of_dataset) > 1 for of_dataset in runs)


def _counts(number: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of ``number`` runs is drawn, [draws, number]."""
    return rng.multinomial(number, np.full(number, 1 / number), size=draws)


def _percentiles(drawn: np.ndarray) -> np.ndarray:
    """Both ends of the interval, [2, ...] for [draws, ...]."""
    outside = (1 - LEVEL) / 2
    return np.quantile(drawn, [outside, 1 - outside], axis=0)
