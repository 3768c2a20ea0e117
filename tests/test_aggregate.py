"""Scores over several datasets: worked by hand, at their limits, and how often their intervals cover."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from benchmarks import aggregate_coverage
from rlkit.evaluation.aggregate import interquartile_mean, performance_profile, probability_of_improvement, run_scores


def of_runs(*runs):
    """Scores [S, 2] whose means over the episodes are ``runs``."""
    return np.array(runs, np.float64)[:, None] + [-3.0, 3.0]


def test_a_run_is_the_mean_of_its_episodes():
    assert [runs.tolist() for runs in run_scores([[[1, 3], [5, 7]], [[10]]])] == [[2, 6], [10]]
    for wrong in ([], [[1.0, 2.0]], [np.zeros((0, 2))], [[[1.0], [1.0, 2.0]]]):
        with pytest.raises(ValueError):
            interquartile_mean(wrong)


@pytest.mark.parametrize("number", [1, 3, 4, 5, 8, 11])
def test_interquartile_mean_is_the_trimmed_mean_of_all_runs(number):
    """Of all together, not the mean of what each dataset comes to."""
    runs = np.random.default_rng(number).normal(size=number) ** 3
    parts = np.split(runs, [number // 3]) if number // 3 else [runs]
    found = interquartile_mean([of_runs(*part) for part in parts])
    assert found.value == pytest.approx(scipy.stats.trim_mean(runs, 0.25))
    assert found.over == "seeds, resampled"


def test_interquartile_mean_by_hand():
    # ordered: -90 1 | 2 3 4 5 | 6 1000; a mean of the datasets' own would be 2 and 4.5
    found = interquartile_mean([of_runs(1000, 3, 1, 2), of_runs(4, 6, 5, -90)])
    assert found.value == 3.5
    assert found.low <= found.value <= found.high


def test_runs_are_drawn_within_their_dataset_alone():
    """Mixed up, four of four runs could be those of the easy dataset, and the interval would reach from 0 to 100."""
    constant = [of_runs(0, 0, 0), of_runs(100, 100, 100)]
    assert interquartile_mean(constant)[:3] == (50, 50, 50)
    profile = performance_profile(constant, [50.0])
    assert (profile.share, profile.low, profile.high) == (0.5, 0.5, 0.5)


def test_an_interval_is_that_of_all_draws():
    """Two runs 0 and 8 of one dataset: the four pairs of draws have the means 0, 4, 4 and 8, a quarter of each end."""
    found = interquartile_mean([of_runs(0, 8)])
    assert found[:3] == (4, 0, 8)
    # two datasets of two runs: of the 16 draws one has 0, 0, 0, 0, whose share is beyond 2.5 %
    found = interquartile_mean([of_runs(0, 8), of_runs(0, 8)])
    assert (found.low, found.high) == (0, 8)


@pytest.mark.parametrize(("single", "share"), [(0, 0.75), (1, 0.5)])
def test_one_seed_of_a_dataset_leaves_no_interval(single, share):
    scores = [of_runs(1, 2, 3), of_runs(4, 5, 6)]
    scores[single] = scores[single][:1]
    mean = interquartile_mean(scores)
    assert np.isfinite(mean.value) and np.isnan(mean[1:3]).all()
    profile = performance_profile(scores, [0.0, 2.5])
    assert profile.share.tolist() == [1, share]
    assert np.isnan([profile.low, profile.high]).all() and profile.low.shape == (2,)
    for x, y in (scores, scores[::-1]), ([scores[0]], [scores[1]]):
        better = probability_of_improvement(x, y)
        assert np.isfinite(better.value) and np.isnan(better[1:3]).all()


def test_profile_is_the_share_of_runs_strictly_above():
    profile = performance_profile([of_runs(1, 2), of_runs(3, 3)], [0, 1, 2.5, 3])
    assert profile.thresholds.tolist() == [0, 1, 2.5, 3]
    assert profile.share.tolist() == [1, 0.75, 0.5, 0]
    # of the first dataset's two draws each is 2 with probability a half; the second has 3 alone
    assert profile.low.tolist() == [1, 0.5, 0.5, 0] and profile.high.tolist() == [1, 1, 0.5, 0]


def test_probability_of_improvement_counts_a_tie_half():
    # pairs of the first: 2 > 1, 2 = 2, 5 > 1, 5 > 2: 3.5 of 4; of the second: 0 < 9, 0 < 9: 0 of 2
    found = probability_of_improvement([of_runs(2, 5), of_runs(0, 0)], [of_runs(1, 2), of_runs(9, 9)])
    assert found.value == pytest.approx((3.5 / 4 + 0) / 2)
    same = of_runs(1, 2, 3)
    assert probability_of_improvement([same], [same]).value == 0.5


def test_probability_of_improvement_is_manns_and_whitneys_and_adds_up_to_one():
    rng = np.random.default_rng(0)
    x, y = np.round(rng.normal(size=7), 1), np.round(rng.normal(size=5), 1)
    found = probability_of_improvement([of_runs(*x)], [of_runs(*y)])
    assert found.value == pytest.approx(scipy.stats.mannwhitneyu(x, y).statistic / 35)
    back = probability_of_improvement([of_runs(*y)], [of_runs(*x)])
    assert back.value + found.value == pytest.approx(1)
    assert back.low + found.high == pytest.approx(1, abs=0.05)


def test_other_numbers_of_datasets_cannot_be_compared():
    with pytest.raises(ValueError):
        probability_of_improvement([of_runs(1, 2)], [of_runs(1, 2), of_runs(3, 4)])


def test_intervals_cover_about_as_often_as_they_say():
    """With five seeds of each of six datasets; the table for other numbers is in docs/report.md."""
    rng = np.random.default_rng(0)
    for quantity in aggregate_coverage.QUANTITIES:
        covered = aggregate_coverage.coverage(quantity, datasets=6, seeds=5, experiments=150, draws=300, rng=rng)
        assert 84 <= covered <= 98, quantity


def test_the_table_of_the_docs_is_what_was_measured():
    with aggregate_coverage.RESULTS.open() as file:
        _, *measured = csv.reader(file)
    rows = [(quantity, int(seeds), int(datasets), share) for quantity, seeds, datasets, _, _, share in measured]
    docs = Path(aggregate_coverage.__file__).parent.parent / "docs" / "report.md"
    assert aggregate_coverage.markdown(rows) in docs.read_text()
