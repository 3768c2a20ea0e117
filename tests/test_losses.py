"""Shared losses: closed forms and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

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


def test_the_divergence_of_normals_is_that_of_quadrature():
    """KL of N(1, 2^2) from N(0, 1) is (4 + 1 - 1) / 2 - ln 2; for others the integral of p (log p - log q)."""
    zero = jnp.zeros(())
    np.testing.assert_allclose(losses.normal_kl(jnp.ones(()), jnp.log(2.0), zero, zero), 2 - np.log(2), rtol=1e-6)
    x = np.linspace(-30, 30, 200_001)
    p, q = stats.norm(1.5, 0.7), stats.norm(-0.5, 1.3)
    integral = np.trapezoid(p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), x)
    found = losses.normal_kl(*(jnp.float32(v) for v in (1.5, np.log(0.7), -0.5, np.log(1.3))))
    np.testing.assert_allclose(found, integral, rtol=1e-5)
