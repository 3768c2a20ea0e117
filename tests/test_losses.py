"""Shared losses: closed forms and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkit import losses


@pytest.mark.parametrize(
    ("level", "p", "expected"), [(0.9, 0.1, 0.5), (0.7, 0.5, 0.7), (0.9, 0.02, 0.155), (0.5, 0.3, 0.3)]
)
def test_the_minimiser_on_coin_tosses_is_the_closed_form(level, p, expected):
    """The expectile m of a Bernoulli(p) solves level p (1 - m) = (1 - level) (1 - p) m."""
    closed = level * p / (level * p + (1 - level) * (1 - p))
    assert closed == pytest.approx(expected, abs=1e-3)

    def mean(m):
        return p * losses.expectile(1 - m, level) + (1 - p) * losses.expectile(0 - m, level)

    grid = jnp.linspace(0, 1, 100_001)
    assert grid[jnp.argmin(mean(grid))] == pytest.approx(closed, abs=1e-3)
    assert jax.grad(mean)(closed) == pytest.approx(0, abs=1e-6)


def test_the_expectile_at_one_half_is_half_the_square():
    error = jnp.array([-2.0, 0.0, 3.0])
    np.testing.assert_array_equal(losses.expectile(error, 0.5), 0.5 * error**2)


def test_weights_grow_with_the_advantage_up_to_their_limit_and_stay_finite():
    weight = losses.advantage_weight(jnp.array([-1e4, 0.0, 0.5, 1e4]), 2.0, 100.0)
    np.testing.assert_allclose(weight, [0, 1, np.e, 100], rtol=1e-6)
