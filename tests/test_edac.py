"""SAC-N and EDAC: the minimum of an ensemble, and the diversity of its gradients against finite differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sac import BATCH, RATES, SIZES, SPEC, STATS, learner

from agents.edac import EDAC, Config, diversity
from rlkit.types import InputError, Transitions


class Noise(EDAC):
    """Critics whose errors are independent standard normals."""

    def _q(self, params, obs, action):
        return jax.random.normal(jax.random.key(0), (self.config.critics, len(obs)))


@pytest.mark.slow
@pytest.mark.parametrize("critics, expected", [(2, -0.58), (10, -1.54), (50, -2.25)])
def test_the_target_is_as_low_as_the_smallest_of_n_normals(critics, expected):
    rows = 20_000
    agent = Noise(Config(critics=critics, **SIZES), SPEC)
    batch = Transitions(
        jnp.zeros((rows, 3)), jnp.zeros((rows, 2)), jnp.zeros(rows), jnp.ones(rows), jnp.zeros((rows, 3)), {}
    )
    state = jax.jit(EDAC(Config(**SIZES), SPEC).init)(jax.random.key(1), None, STATS)
    target = jax.jit(agent.target_value)(state, jnp.float32(0), batch, jax.random.key(2))
    assert target.mean() == pytest.approx(expected, abs=0.02)


def test_diversity_is_the_sum_of_the_pairs_cosines():
    gradients = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    unit = gradients / np.linalg.norm(gradients, axis=-1, keepdims=True)
    by_hand = [sum(unit[i, b] @ unit[j, b] for i in range(4) for j in range(4) if i != j) / 3 for b in range(3)]
    np.testing.assert_allclose(diversity(gradients), by_hand, rtol=1e-4, atol=1e-5)
    alike = jnp.broadcast_to(jnp.array([3.0, 4.0]), (5, 1, 2))
    np.testing.assert_allclose(diversity(alike), 5, rtol=1e-5)
    np.testing.assert_allclose(diversity(jnp.stack([alike[0], -2 * alike[0]])), -2, rtol=1e-5)


@pytest.fixture(scope="module")
def trained():
    """Four critics away from their initial values, so that no gradient is tiny."""
    agent = learner(Config(critics=4, eta=2.0, **SIZES | {"widths": (8,)}, **RATES))
    params = jax.jit(agent.init)(jax.random.key(0), None, STATS).critic.params
    keys = iter(jax.random.split(jax.random.key(1), 8))
    return agent, jax.tree.map(lambda x: x + 0.5 * jax.random.normal(next(keys), x.shape), params)


@pytest.mark.slow
def test_the_loss_and_its_gradient_against_finite_differences(trained):
    agent, params = trained
    target = jnp.array([1.0, -2.0, 0.5])
    with jax.enable_x64(True):
        double = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (params, target, BATCH))
        q = jax.jit(agent._q)
        critic_loss = jax.jit(agent.critic_loss)

        def by_hand(params):
            _, target, batch = double
            values, h = q(params, batch.obs, batch.action), 1e-5
            gradients = []
            for a in range(2):
                step = h * jnp.eye(2)[a][None]
                above, below = (q(params, batch.obs, batch.action + s) for s in (step, -step))
                gradients.append(np.asarray(above - below) / (2 * h))
            unit = np.stack(gradients, -1)
            unit = unit / np.linalg.norm(unit, axis=-1, keepdims=True)
            cosines = np.einsum("iba,jba->bij", unit, unit)
            pairs = (cosines.sum((1, 2)) - np.trace(cosines, axis1=1, axis2=2)) / 3
            return sum(np.mean((np.asarray(values[i]) - np.asarray(target)) ** 2) for i in range(4)) + 2 * pairs.mean()

        assert float(critic_loss(*double)[0]) == pytest.approx(by_hand(double[0]), rel=1e-5)
        gradient = jax.jit(jax.grad(lambda p: agent.critic_loss(p, *double[1:])[0]))(double[0])
        direction = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), double[0])
        slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)))
        ends = [jax.tree.map(lambda x, d, s=s: x + s * 1e-4 * d, double[0], direction) for s in (1, -1)]
        assert float(slope) == pytest.approx((by_hand(ends[0]) - by_hand(ends[1])) / 2e-4, rel=1e-3)


@pytest.mark.slow
def test_the_term_drives_the_gradients_apart():
    def cosine(eta):
        agent = learner(Config(critics=4, eta=eta, **SIZES, **RATES | {"critic_learning_rate": 1e-2}))
        state = jax.jit(agent.init)(jax.random.key(0), None, STATS)

        def body(state, step):
            return agent.update(state, BATCH, jax.random.fold_in(jax.random.key(1), step), step)[0], None

        state = jax.jit(lambda state: jax.lax.scan(body, state, jnp.arange(200))[0])(state)
        measured = dataclasses.replace(agent, config=dataclasses.replace(agent.config, eta=1.0))
        return measured.critic_loss(state.critic.params, jnp.zeros(3), BATCH)[1]["critic/cosine"]

    assert cosine(10.0) < cosine(0.0) - 0.5


def test_one_critic_has_none_to_differ_from():
    with pytest.raises(InputError, match="--config.eta 0"):
        Config(critics=1).stages(SPEC, 1)
    assert Config(critics=1, eta=0.0).stages(SPEC, 1)
