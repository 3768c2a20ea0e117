"""Observations that an exported policy is tried on, and the range in which each number usually lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlkit.datasets import Episodes, Normaliser

CHECKS = 16  # observations that are stored with the policy
TRIED = 1_000  # further ones, on which it is compared before it is written
QUANTILES = (0.001, 0.999)
MOST_ROWS = 100_000  # of which quantiles are taken


class Sample(NamedTuple):
    """Observations in the environment's units. The first CHECKS of them are stored."""

    rows: np.ndarray  # [CHECKS + TRIED, O] float32
    usual: np.ndarray  # [O, 2] float32, the range of each number
    source: str  # where the rows are from
    range_source: str  # what the range is


def of_data(episodes: Episodes, seed: int = 0) -> Sample:
    """Steps of the training data, drawn at random; some come twice where there are fewer."""
    rng = np.random.default_rng(seed)
    drawable = np.flatnonzero(episodes.drawable())
    number = CHECKS + TRIED
    chosen = rng.choice(drawable, number, replace=len(drawable) < number)
    seen = drawable
    if len(seen) > MOST_ROWS:
        seen = np.sort(rng.choice(drawable, MOST_ROWS, replace=False))
    usual = np.quantile(episodes.obs[seen], QUANTILES, axis=0).T
    low, high = (f"{100 * quantile:g} %" for quantile in QUANTILES)
    return Sample(
        np.asarray(episodes.obs[chosen], np.float32),
        usual.astype(np.float32),
        "the training data",
        f"{low} and {high} quantiles of the training data",
    )


def of_statistics(stats: Mapping[str, Sequence[float]], normaliser: Normaliser, seed: int = 0) -> Sample:
    """Draws from independent normal distributions with the data's means and standard deviations, within the least and
    the largest value of each number. ``stats``: those of run.json, as the agent sees observations."""
    rng = np.random.default_rng(seed)
    mean = np.array(stats["obs_mean"], np.float32)
    std = np.array(stats["obs_std"], np.float32)
    low = np.array(stats.get("obs_low") or mean - 3 * std, np.float32)  # which older runs do not have
    high = np.array(stats.get("obs_high") or mean + 3 * std, np.float32)
    drawn = rng.normal(mean, std, (CHECKS + TRIED, len(mean)))
    seen = np.clip(drawn, low, high).astype(np.float32)
    raw = seen * normaliser.obs_scale + normaliser.obs_mean
    usual = np.stack([low, high], -1) * normaliser.obs_scale[:, None] + normaliser.obs_mean[:, None]
    return Sample(
        raw.astype(np.float32),
        usual.astype(np.float32),
        "the data's recorded means and standard deviations",
        "least and largest values of the training data",
    )
