"""What the methods of a comparison come to over its datasets."""

from __future__ import annotations

from typing import NamedTuple

from rlkit.evaluation.aggregate import Profile
from rlkit.evaluation.statistics import Estimate
from rlkit.report.comparison import Comparison


class Method(NamedTuple):
    """A method over all datasets that have scores."""

    label: str
    interquartile_mean: Estimate  # of the scores; its ends are NaN where a dataset has one seed alone
    profile: Profile


class Aggregates(NamedTuple):
    """What the methods come to. A run counts as its mean score over the episodes of the last evaluation, for the goal
    that is the score."""

    datasets: list[str]  # that have scores, which every one of ``methods`` was evaluated on
    methods: list[Method]
    improvement: dict[tuple[str, str], Estimate]  # labels (X, Y) -> probability, 0 to 1, that a run of X has a higher
    #   return than one of Y, over the datasets of both; both orders are there
    notes: list[str]  # what was left out, and why there is no interval


def aggregate(comparison: Comparison) -> Aggregates:
    """The interquartile means, the performance profiles and the probabilities of improvement of ``comparison``."""
