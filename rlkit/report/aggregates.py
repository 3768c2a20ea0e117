"""What the methods of a comparison come to over its datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlkit.evaluation.aggregate import (
    Profile,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    run_scores,
)
from rlkit.evaluation.evaluate import score
from rlkit.evaluation.statistics import Estimate
from rlkit.report.comparison import Comparison, Entry

THRESHOLDS = 101  # of a profile
FEW_SEEDS = 5  # with fewer the bootstrap covers less than it says (benchmarks/aggregate_coverage.csv)


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
    """The interquartile means, the performance profiles and the probabilities of improvement of ``comparison``.

    A method that was not evaluated on every dataset that has scores has no mean and no profile: over other datasets
    they would be another quantity. The note says so.
    """
    # --- scores and returns [S, E] of the last evaluations, by method and dataset ---
    scores: dict[str, dict[str, np.ndarray]] = {}
    returns: dict[str, dict[str, np.ndarray]] = {}
    for panel in comparison.panels:
        for entry in panel.entries:
            last = _last_returns(entry)
            if last is None:
                continue
            returns.setdefault(entry.label, {})[panel.name] = last
            reference = entry.record.reference
            if reference is not None:
                scaled = score(last, (reference.random, reference.expert))
                scores.setdefault(entry.label, {})[panel.name] = scaled
    scored = {dataset for by_dataset in scores.values() for dataset in by_dataset}
    datasets = [panel.name for panel in comparison.panels if panel.name in scored]

    # --- the methods that were evaluated on all of them ---
    notes = []
    complete = {}
    for label, by_dataset in scores.items():
        missing = [name for name in datasets if name not in by_dataset]
        if missing:
            notes.append(f"{label} is in no mean over the datasets: it has no score on {', '.join(missing)}")
        else:
            complete[label] = [by_dataset[name] for name in datasets]
    thresholds = _thresholds(list(complete.values()))
    methods = []
    for label, of_method in complete.items():
        mean = interquartile_mean(of_method)
        methods.append(Method(label, mean, performance_profile(of_method, thresholds)))
        single = [name for name, table in zip(datasets, of_method, strict=True) if len(table) == 1]
        if single:
            notes.append(f"{label} has one seed on {', '.join(single)}: no interval over seeds")
    fewest = min((len(last) for of_method in returns.values() for last in of_method.values()), default=0)
    if 1 < fewest < FEW_SEEDS:
        notes.append(f"with {fewest} seeds on a dataset the intervals over seeds are too short (docs/report.md)")
    return Aggregates(datasets, methods, _improvement(returns), notes)


def _last_returns(entry: Entry) -> np.ndarray | None:
    evaluated = next(iter(entry.by_goal.values()), None)
    return evaluated[-1].returns if evaluated else None


def _thresholds(by_method: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """From just below the lowest run of all methods, where every share is 1, to the highest, where it is 0."""
    if not by_method:
        return np.zeros(0)
    runs = np.concatenate([of_dataset for scores in by_method for of_dataset in run_scores(scores)])
    low, high = runs.min(), runs.max()
    margin = max(0.02 * (high - low), 1e-6 * max(abs(high), 1.0))
    return np.linspace(low - margin, high, THRESHOLDS)


def _improvement(returns: Mapping[str, Mapping[str, np.ndarray]]) -> dict[tuple[str, str], Estimate]:
    found = {}
    for mine, of_mine in returns.items():
        for theirs, of_theirs in returns.items():
            shared = [name for name in of_mine if name in of_theirs]
            if mine != theirs and shared:
                x = [of_mine[name] for name in shared]
                y = [of_theirs[name] for name in shared]
                found[mine, theirs] = probability_of_improvement(x, y)
    return found
