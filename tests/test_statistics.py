"""Statistics: worked by hand, and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from rlkit import statistics
from rlkit.statistics import Estimate, bootstrap_interval, estimate, iqm, last_fifth, mean, pooled


def test_iqm_leaves_out_a_quarter_at_each_end():
    assert iqm(np.array([100.0, 1, 2, 3, -50, 4, 5, 6])) == (2 + 3 + 4 + 5) / 4
    assert iqm(np.array([7.0, 1, 100])) == 36  # too few to leave any out
    assert iqm(np.array([[0.0, 1, 2, 99], [4, 4, 5, 5]])).tolist() == [1.5, 4.5]


def test_iqm_equals_scipys_trimmed_mean():
    values = np.random.default_rng(0).normal(size=(3, 30))
    np.testing.assert_allclose(iqm(values), scipy.stats.trim_mean(values, 0.25, axis=-1), rtol=1e-12)


def test_interval_of_two_units_is_their_range():
    # the mean of two draws is 0 or 10 with probability 1/4 each
    assert bootstrap_interval([np.array([0.0, 10.0])]) == (0.0, 10.0)


def test_interval_of_coin_tosses_is_the_binomials():
    tosses = np.array([0.0] * 50 + [1.0] * 50)
    low, high = bootstrap_interval([tosses])
    assert (low, high) == pytest.approx(scipy.stats.binom.ppf([0.025, 0.975], 100, 0.5) / 100, abs=0.01)


@pytest.mark.parametrize("statistic", [mean, iqm])
def test_interval_agrees_with_scipy(statistic):
    units = np.random.default_rng(1).exponential(size=25)
    theirs = scipy.stats.bootstrap(
        (units,), lambda x, axis: statistic(x), method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    ours = bootstrap_interval([units], statistic)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_drawing_in_parts_draws_as_many(monkeypatch):
    units = [np.random.default_rng(0).normal(size=7)]
    whole = bootstrap_interval(units)
    monkeypatch.setattr(statistics, "AT_ONCE", 7 * 3000)
    assert bootstrap_interval(units) == whole


def test_draws_follow_from_the_seed():
    units = [np.random.default_rng(0).normal(size=7)]
    assert bootstrap_interval(units, seed=3) == bootstrap_interval(units, seed=3)
    assert bootstrap_interval(units, seed=3) != bootstrap_interval(units, seed=4)


def test_seeds_are_resampled_and_not_their_episodes():
    returns = np.array([[0.0, 100], [40, 60], [50, 50]])
    assert estimate(returns) == Estimate(50.0, 50.0, 50.0, "seeds")


def test_one_seed_resamples_its_episodes_and_says_so():
    found = estimate([[0.0, 10.0]])
    assert found == Estimate(5.0, 0.0, 10.0, "episodes")


def test_one_episode_of_one_seed_has_no_interval():
    found = estimate([[3.0]])
    assert found.value == 3 and np.isnan([found.low, found.high]).all()


def test_tasks_are_strata():
    # within each task all seeds agree: a stratified interval has no width, one over all units would have
    tasks = [np.full((3, 2), 10.0), np.full((3, 2), 90.0)]
    assert pooled(tasks) == Estimate(50.0, 50.0, 50.0, "seeds")
    assert pooled([*tasks, np.zeros((1, 2))]).over == "episodes"


@pytest.mark.parametrize("tasks", [[], [np.zeros(3)], [np.zeros((0, 3))], [np.zeros((2, 0))]])
def test_wrong_shapes_are_refused(tasks):
    with pytest.raises(ValueError, match="seeds, episodes"):
        pooled(tasks)


def test_last_fifth_is_strictly_after_80_percent():
    steps = [0, 200, 400, 600, 800, 900, 1000]
    assert last_fifth(steps, [[9, 9], [9, 9], [9, 9], [9, 9], [9, 9], [1, 3], [2, 5]]).tolist() == [1.5, 4.0]
    assert last_fifth([0], [4.0]) == 4.0
    with pytest.raises(ValueError, match="as many"):
        last_fifth([0, 1], [1.0])


def test_coverage_of_normal_means_is_near_95_percent(monkeypatch):
    """The percentile bootstrap of 20 units covers a little less than it says."""
    monkeypatch.setattr(statistics, "SAMPLES", 500)
    rng = np.random.default_rng(5)
    intervals = np.array([bootstrap_interval([rng.normal(size=20)], seed=i) for i in range(400)])
    covered = (intervals[:, 0] <= 0) & (intervals[:, 1] >= 0)
    assert 0.88 < covered.mean() < 0.98
