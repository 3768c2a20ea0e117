"""SAC: its losses by hand on three rows, and the siblings that are SAC at their limit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import bits

from agents import cql, edac, sac, sac_rnd
from rlkit.networks import tanh_normal_sample
from rlkit.types import Box, Discrete, InputError, Spec, Stats, Transitions

SPEC = Spec(Box((3,), (-np.inf,) * 3, (np.inf,) * 3), Box((2,), (-1.0,) * 2, (1.0,) * 2), 10)
STATS = Stats(*(jnp.asarray(x) for x in ([0.5, 0, -1], [1.0, 2, 3], [0.1, -0.1], [0.5, 0.4])))
SIZES = {"widths": (8, 8), "batch_size": 3}
RATES = {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3, "alpha_learning_rate": 1e-3}
BATCH = Transitions(
    obs=jnp.array([[0.1, -0.4, 1.0], [2.0, 0.3, -0.2], [-1.0, 0.5, 0.6]]),
    action=jnp.array([[0.5, -0.9], [0.0, 0.2], [-0.3, 0.8]]),
    reward=jnp.array([1.0, -2.0, 0.5]),
    discount=jnp.array([0.99, 0.0, 0.99]),
    next_obs=jnp.array([[0.2, -0.3, 0.9], [1.0, 0.0, 0.0], [-1.2, 0.4, 0.7]]),
    extra={},
)


def learner(config):
    return config.stages(SPEC, 1)[-1].learner


@pytest.fixture(scope="module")
def trained():
    """A learner with three critics, and its state away from its initial values."""
    agent = learner(sac.Config(critics=3, **SIZES, **RATES))
    state = jax.jit(agent.init)(jax.random.key(0), None, STATS)
    keys = iter(jax.random.split(jax.random.key(1), 18))

    def moved(params):
        return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), params)

    actor, critic = (net._replace(params=moved(net.params)) for net in (state.actor, state.critic))
    return agent, state._replace(actor=actor, critic=critic, target=moved(state.target))


def q(agent, params, obs, action):
    """[3, rows], each critic on the concatenated input, in NumPy."""
    layers, values = jax.device_get(params)["params"]["VmapMLP_0"], []
    for i in range(3):
        x = np.concatenate([obs, action], -1)
        for name in ("Dense_0", "Dense_1"):
            x = np.maximum(x @ layers[name]["kernel"][i] + layers[name]["bias"][i], 0)
        values.append((x @ layers["Dense_2"]["kernel"][i] + layers["Dense_2"]["bias"][i])[:, 0])
    return np.stack(values)


def test_losses_by_hand(trained):
    agent, state = trained
    alpha, key = jnp.float32(0.7), jax.random.key(2)
    action, log_prob = map(np.asarray, tanh_normal_sample(*agent._actor.apply(state.actor.params, BATCH.obs), key))
    by_hand = np.mean(0.7 * log_prob - q(agent, state.critic.params, BATCH.obs, action).min(0))
    loss, metrics = jax.jit(agent.actor_loss)(state.actor.params, state, alpha, BATCH, key)
    np.testing.assert_allclose(loss, by_hand, rtol=1e-5)
    np.testing.assert_allclose(metrics["actor/entropy"], -log_prob.mean(), rtol=1e-5)

    action, log_prob = map(np.asarray, tanh_normal_sample(*agent._actor.apply(state.actor.params, BATCH.next_obs), key))
    value = q(agent, state.target, BATCH.next_obs, action).min(0) - 0.7 * log_prob
    target = jax.jit(agent.target_value)(state, alpha, BATCH, key)
    np.testing.assert_allclose(target, [1 + 0.99 * value[0], -2, 0.5 + 0.99 * value[2]], rtol=1e-5)

    values = q(agent, state.critic.params, BATCH.obs, BATCH.action)
    by_hand = sum(np.mean((values[i] - np.asarray(target)) ** 2) for i in range(3))
    np.testing.assert_allclose(jax.jit(agent.critic_loss)(state.critic.params, target, BATCH)[0], by_hand, rtol=1e-5)


def updated(config, steps=2, prev=None, batch=BATCH):
    """The state after some updates from the same keys."""
    agent = learner(config)
    update = jax.jit(agent.update)
    state = jax.jit(agent.init)(jax.random.key(0), prev, STATS)
    for step in range(steps):
        state, _ = update(state, batch, jax.random.fold_in(jax.random.key(3), step), step)
    return state


def assert_same(a, b, names=sac.SACState._fields):
    """Equal bits of those fields of two states."""
    for name in names:
        assert bits(getattr(a, name)) == bits(getattr(b, name)), name


@pytest.fixture(scope="module")
def plain():
    return updated(sac.Config(**SIZES, **RATES))


@pytest.mark.slow
def test_an_ensemble_of_two_without_diversity_is_sac(plain):
    assert_same(updated(edac.Config(critics=2, eta=0.0, **SIZES, **RATES)), plain)


@pytest.mark.slow
def test_without_its_weight_the_conservative_term_leaves_sac(plain):
    config = cql.Config(cql_alpha=0.0, backup_entropy=True, critic_widths=(8, 8), **SIZES, **RATES)
    assert_same(updated(config), plain)


@pytest.mark.slow
def test_the_conservative_term_reaches_the_critics_alone():
    """One update with and one without the term: the actor and the temperature take the same step."""
    alone, both = (
        updated(cql.Config(cql_alpha=weight, critic_widths=(8, 8), **SIZES, **RATES), steps=1) for weight in (0.0, 10.0)
    )
    assert_same(alone, both, ("actor", "log_alpha"))
    with pytest.raises(AssertionError):
        assert_same(alone, both, ("critic",))


@pytest.mark.slow
def test_without_a_bonus_sac_rnd_is_sac(plain):
    config = sac_rnd.Config(beta=0.0, critic_layer_norm=False, rnd_width=8, rnd_embedding=4, **SIZES, **RATES)
    prev = jax.jit(sac_rnd.RND(config).init)(jax.random.key(0), None, STATS)
    prev = prev._replace(var=jnp.ones(()))
    assert_same(updated(config, prev=prev), plain)


@pytest.mark.parametrize("module", [sac, edac, cql])
@pytest.mark.parametrize(("action", "words"), [
    (Discrete(3), "needs amounts as actions, and these are 3 choices"),
    (Box((2,), (-np.inf,) * 2, (np.inf,) * 2), "needs bounded actions"),
])  # fmt: skip
def test_unbounded_and_discrete_actions_are_refused(module, action, words):
    with pytest.raises(InputError, match=words):
        module.Config().stages(dataclasses.replace(SPEC, action=action), 1)
