"""The interval of a mean: worked by hand, at its limits, and how often it covers."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import scipy.stats

from benchmarks import coverage
from rlkit.evaluation.statistics import estimate, half_width, last_fifth

T1, T2, T3 = 12.706204736, 4.302652730, 3.182446305  # 97.5 % quantiles of Student's t at 1, 2 and 3, from a table


def test_two_way_interval_by_hand():
    # Means: of seeds 1, 5, 12, of starts 4, 8, of all 6. Mean squares: seeds 2 * (25 + 1 + 36) / 2 = 62,
    # starts 3 * (4 + 4) / 1 = 24, rest (1 + 1 + 1 + 1 + 4 + 4) / 2 = 6. Variance (62 + 24 - 6) / 6 = 40 / 3.
    # Degrees of freedom 80^2 / (62^2 / 2 + 24^2 / 1 + 6^2 / 2) = 6400 / 2516.
    found = estimate([[0, 2], [4, 6], [8, 16]])
    half = scipy.stats.t.ppf(0.975, 6400 / 2516) * np.sqrt(40 / 3)
    assert found == pytest.approx((6, 6 - half, 6 + half, "seeds and starts"))
    assert T3 < half / np.sqrt(40 / 3) < T2


def test_a_variance_that_comes_out_negative_is_zero():
    # Means: of both seeds 10, of starts 1, 9, 20. Mean squares: seeds 0, starts 2 * (81 + 1 + 100) / 2 = 182,
    # rest 4 / 2 = 2. Without the seeds 182 / 6 is left: the variance of the mean of the three starts' means.
    found = estimate([[0, 10, 20], [2, 8, 20]])
    half = scipy.stats.t.ppf(0.975, 2 / (1 + (1 / 91) ** 2)) * np.sqrt(182 / 6)
    assert found == pytest.approx((10, 10 - half, 10 + half, "seeds and starts"))
    over_starts = estimate([[1, 9, 20]])
    assert (found.low, found.high) == pytest.approx((over_starts.low, over_starts.high), rel=1e-3)


def test_where_both_variances_come_out_negative_the_rest_is_left():
    # Means of seeds and starts are all 5. Rest: 4 * 25 / 1 = 100, with one degree of freedom.
    found = estimate([[0, 10], [10, 0]])
    assert found == pytest.approx((5, 5 - 5 * T1, 5 + 5 * T1, "seeds and starts"))


def test_degrees_of_freedom_are_never_fewer_than_the_smaller_side_has():
    # All three mean squares are 4, so that Satterthwaite's formula alone gives 4^2 / (3 * 4^2) = 1/3.
    found = estimate([[3, -1], [-1, -1]])
    assert found == pytest.approx((0, -T1, T1, "seeds and starts"))


def test_where_all_starts_are_alike_only_seeds_count_and_the_other_way_round():
    seeds = estimate([[1, 1], [4, 4], [10, 10]])
    assert seeds == pytest.approx((*estimate([[1], [4], [10]])[:3], "seeds and starts"))
    starts = estimate([[1, 4, 10], [1, 4, 10]])
    assert starts == pytest.approx((*estimate([[1, 4, 10]])[:3], "seeds and starts"))


def test_seeds_and_starts_are_treated_alike():
    returns = np.random.default_rng(0).normal(size=(50, 3, 7))
    np.testing.assert_allclose(half_width(returns), half_width(returns.swapaxes(1, 2)), rtol=1e-9)


def test_many_tables_at_once_give_what_each_gives():
    returns = np.random.default_rng(0).normal(size=(5, 3, 4))
    for seeds, starts in ((3, 4), (1, 4), (3, 1), (1, 1)):
        together = half_width(returns[:, :seeds, :starts])
        singly = [half_width(one) for one in returns[:, :seeds, :starts]]
        np.testing.assert_allclose(together, singly, rtol=1e-12)


def test_one_seed_is_over_its_episodes_and_says_so():
    # standard deviation sqrt(50), of the mean 5
    assert estimate([[0.0, 10.0]]) == pytest.approx((5, 5 - 5 * T1, 5 + 5 * T1, "episodes"))


def test_exact_values_are_over_seeds():
    # standard deviation 2 of three, of the mean 2 / sqrt(3)
    half = T2 * 2 / np.sqrt(3)
    assert estimate([[1.0], [3.0], [5.0]]) == pytest.approx((3, 3 - half, 3 + half, "seeds"))


def test_a_single_number_has_no_interval():
    found = estimate([[3.0]])
    assert found.value == 3 and np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (3, 1)])
def test_identical_returns_have_an_interval_without_width(shape):
    assert estimate(np.full(shape, 7.0))[:3] == (7.0, 7.0, 7.0)
    assert estimate(np.full(shape, 0.1))[:3] == pytest.approx((0.1, 0.1, 0.1))


@pytest.mark.parametrize("returns", [[[np.nan]], [[1, np.nan]], [[1], [np.nan]], [[1, 2], [np.nan, 3]]])
def test_an_unknown_return_makes_everything_unknown(returns):
    assert np.isnan(estimate(returns)[:3]).all()


@pytest.mark.parametrize("returns", [[], 3.0, np.zeros(3), np.zeros((0, 3)), np.zeros((2, 0)), [[1.0, 2], [3]]])
def test_wrong_shapes_and_differing_numbers_of_starts_are_refused(returns):
    with pytest.raises(ValueError, match=r"expected returns \[seeds, starts\]"):
        estimate(returns)


def test_last_fifth_is_strictly_after_80_percent():
    steps = [0, 200, 400, 600, 800, 900, 1000]
    assert last_fifth(steps, [[9, 9], [9, 9], [9, 9], [9, 9], [9, 9], [1, 3], [2, 5]]).tolist() == [1.5, 4.0]
    assert last_fifth([0], [4.0]) == 4.0
    with pytest.raises(ValueError, match="as many"):
        last_fifth([0, 1], [1.0])


# ---- coverage


def promised(case: coverage.Case) -> bool:
    """Whether the interval is to cover 92 to 98.5 % in this case."""
    return case.seeds in (3, 5, 10) and case.starts in (10, 20)


def test_coverage_at_3_5_and_10_seeds_and_10_and_20_starts():
    rng = np.random.default_rng(1)
    cases = [case for case in coverage.cases() if promised(case)]
    assert len(cases) == 4 * 3 * 2
    for case in cases:
        assert 92 <= coverage.coverage(case, 3000, rng) <= 98.5, case


def test_an_interval_over_seeds_alone_would_not_cover(monkeypatch):
    case = coverage.Case(0.2, 3, 1, seeds=5, starts=10)
    rng = np.random.default_rng(1)
    monkeypatch.setattr(coverage, "half_width", lambda returns: half_width(returns.mean(axis=-1, keepdims=True)))
    assert coverage.coverage(case, 3000, rng) < 50


def test_the_tracked_table_of_coverages_is_whole_and_keeps_the_promise():
    with coverage.RESULTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    read = [coverage.Case(*(float(row[name]) for name in coverage.Case._fields)) for row in rows]
    assert read == coverage.cases()
    for case, row in zip(read, rows, strict=True):
        assert int(row["draws"]) >= 3000
        assert not promised(case) or 92 <= float(row["coverage"]) <= 98.5
    page = (coverage.RESULTS.parent.parent / "docs" / "evaluation.md").read_text()
    assert coverage.markdown({case: row["coverage"] for case, row in zip(read, rows, strict=True)}) in page
