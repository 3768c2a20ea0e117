"""Scores of a method over several datasets, after Agarwal et al. (2021, "Deep Reinforcement Learning at the Edge of the
Statistical Precipice", arXiv:2108.13264).

A run is one seed on one dataset; its score is the mean over its episodes. Few runs make a mean that one lucky seed
moves, so the interquartile mean leaves out the lowest and the highest quarter. Intervals are percentiles of a stratified
bootstrap: as many runs as a dataset has are drawn from it with replacement, for each dataset apart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Profile(NamedTuple):
    """Share of the runs whose score is above each threshold."""

    thresholds: np.ndarray  # [T] scores, increasing
    share: np.ndarray  # [T] 0 to 1
    low: np.ndarray  # [T] of the pointwise 95 % band; NaN where a dataset has one seed alone
    high: np.ndarray  # [T]
