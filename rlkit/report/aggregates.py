"""What the methods of a comparison come to over its datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    seeds: dict[str, dict[str, int]]  # label -> dataset -> seeds that the last evaluation has
    seed_notes: list[str]  # where there is no interval over seeds, or one that is too short
    notes: list[str]  # what was left out, and why; ``seed_notes`` last


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
    seeds = {}
    for label, by_dataset in returns.items():
        seeds[label] = {name: len(last) for name, last in by_dataset.items()}
    seed_notes = list(_few_seeds(seeds))
    return Aggregates(datasets, methods, _improvement(returns), seeds, seed_notes, [*notes, *seed_notes])


def _few_seeds(seeds: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """A sentence for each number of seeds that is too small, with the methods that have as many."""
    by_number: dict[int, list[str]] = {}
    for label, by_dataset in seeds.items():
        for name, number in by_dataset.items():
            by_number.setdefault(number, []).append(f"{label} on {name}")
    for number, found in sorted(by_number.items()):
        if number == 1:
            yield f"one seed, so no interval over seeds: {'; '.join(found)}"
        elif number < FEW_SEEDS:
            yield f"with {number} seeds the intervals over seeds are too short (docs/report.md): {'; '.join(found)}"


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
