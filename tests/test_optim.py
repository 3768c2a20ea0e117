"""One descent step, whole and in chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlkit import optim

ROWS = jnp.array([[1.0, 2.0], [0.0, -1.0], [3.0, 0.5], [-2.0, 1.0]]), jnp.array([1.0, -1.0, 0.5, 2.0])
SGD = optax.sgd(0.1)


def loss(params, rows):
    x, y = rows
    error = x @ params - y
    return (error**2).mean(), {"loss": (error**2).mean(), "error": error.mean()}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_step_in_chunks_is_the_step(size):
    net = optim.init(jnp.array([0.5, -0.5]), SGD)
    whole, metrics = optim.descend(lambda p: loss(p, ROWS), net, SGD)
    chunked, same = optim.descend_in_chunks(loss, ROWS, size, net, SGD)
    np.testing.assert_allclose(chunked.params, whole.params, rtol=1e-6)
    # errors -1.5, 1.5, 0.75, -3.5 against y: d/dp of the mean square is 2 x^T error / 4
    error = np.asarray(ROWS[0]) @ [0.5, -0.5] - np.asarray(ROWS[1])
    np.testing.assert_allclose(whole.params, [0.5, -0.5] - 0.1 * np.asarray(ROWS[0]).T @ error / 2, rtol=1e-6)
    for name in metrics:
        np.testing.assert_allclose(same[name], metrics[name], rtol=1e-6)


def test_chunks_take_rows_of_every_device_that_shares_the_batch():
    seen = []

    def spy(params, rows):
        jax.debug.callback(lambda x: seen.append(np.asarray(x).tolist()), rows)
        return (params * rows).mean(), {}

    optim.descend_in_chunks(spy, jnp.arange(6.0), 3, optim.init(jnp.ones(()), SGD), SGD)
    jax.effects_barrier()
    assert sorted(seen) == [[0, 2, 4], [1, 3, 5]]  # not the first half and the second


def test_a_step_size_that_falls_ends_at_nothing_and_one_that_stays_has_the_same_state():
    falling, staying = optim.fall(0.2, 4), optim.fall(0.2, None)
    np.testing.assert_allclose([falling(0), falling(2), falling(4), falling(9)], [0.2, 0.1, 0, 0], atol=1e-8)
    np.testing.assert_allclose([staying(0), staying(4), staying(9)], 0.2)
    params = jnp.ones(2)
    states = [optax.adam(rate).init(params) for rate in (falling, staying, optim.fall(0.2, 0))]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1]) == jax.tree.structure(states[2])


def test_after_the_warm_up_it_falls_or_stays():
    falling, staying = optim.warm_up_and_fall(0.2, 2, 6), optim.warm_up_and_fall(0.2, 2, None)
    np.testing.assert_allclose([falling(step) for step in (0, 1, 2, 4, 6)], [0.1, 0.2, 0.2, 0.1, 0], atol=1e-8)
    np.testing.assert_allclose([staying(step) for step in (0, 1, 2, 4, 6)], [0.1, 0.2, 0.2, 0.2, 0.2])
