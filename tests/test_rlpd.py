"""RLPD's settings of SAC: its losses and updates by hand, and shares of the data that are the same everywhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import bits

from agents import sac
from agents.sac import RLPD, SAC, minibatches
from rlkit.networks import Ensemble, GaussianPolicy, tanh_normal_sample
from rlkit.types import Box, InputError, Spec, Stats, Transitions

SPEC = Spec(Box((3,), (-np.inf,) * 3, (np.inf,) * 3), Box((2,), (-1.0,) * 2, (1.0,) * 2), 10)
STATS = Stats(*(jnp.asarray(x) for x in ([0.5, 0, -1], [1.0, 2, 3], [0.1, -0.1], [0.5, 0.4])))
UPDATES = 4
CONFIG = sac.Config(
    widths=(8, 8),
    batch_size=6,
    critics=5,
    target_critics=2,
    actor_q="mean",
    critic_updates=UPDATES,
    critic_norm_first=True,
    initialisation="xavier",
    critic_learning_rate=1e-2,
)
ALPHA = jnp.float32(0.7)


def random_batch(number):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return Transitions(
        obs=normal(number, 3),
        action=jnp.tanh(normal(number, 2)),
        reward=normal(number),
        discount=jnp.where(jnp.arange(number) % 3 == 0, 0.0, 0.99),
        next_obs=normal(number, 3),
        extra={},
    )


BATCH = random_batch(6 * UPDATES)


@pytest.fixture(scope="module")
def trained():
    """(learner, its state), the target critics away from the critics."""
    agent = RLPD(CONFIG, SPEC)
    state = jax.jit(agent.init)(jax.random.key(0), None, STATS)
    return agent, state._replace(target=jax.tree.map(lambda leaf: 1.5 * leaf, state.target))


def test_the_target_is_the_smallest_of_two_critics_that_are_drawn_anew(trained):
    agent, state = trained
    every = np.asarray(agent._q(state.target, BATCH.next_obs, BATCH.action))
    drawn_q = jax.jit(agent.drawn_q)
    counts = np.zeros(5)
    for number in range(60):
        values = np.asarray(drawn_q(state.target, BATCH.next_obs, BATCH.action, jax.random.key(number)))
        distances = np.abs(every[None] - values[:, None]).max(-1)
        chosen = distances.argmin(1)
        np.testing.assert_allclose(every[chosen], values, rtol=1e-5, atol=1e-6)
        assert len(set(chosen)) == 2
        counts[chosen] += 1
    assert (counts > 12).all(), "24 of each are expected"

    key = jax.random.key(7)
    policy = agent._actor.apply(state.actor.params, BATCH.next_obs)
    action, log_prob = map(np.asarray, tanh_normal_sample(*policy, key))
    smallest = np.asarray(drawn_q(state.target, BATCH.next_obs, action, key)).min(0)
    target = jax.jit(agent.target_value)(state, ALPHA, BATCH, key)
    by_hand = BATCH.reward + BATCH.discount * (smallest - 0.7 * log_prob)
    np.testing.assert_allclose(target, by_hand, rtol=1e-4, atol=1e-5)

    without = RLPD(dataclasses.replace(CONFIG, backup_entropy=False), SPEC)
    target = jax.jit(without.target_value)(state, ALPHA, BATCH, key)
    np.testing.assert_allclose(target, BATCH.reward + BATCH.discount * smallest, rtol=1e-4, atol=1e-5)


def test_the_actor_ascends_the_mean_of_all_critics(trained):
    agent, state = trained
    key = jax.random.key(2)
    policy = agent._actor.apply(state.actor.params, BATCH.obs)
    action, log_prob = map(np.asarray, tanh_normal_sample(*policy, key))
    values = np.asarray(agent._q(state.critic.params, BATCH.obs, action))
    loss, _ = agent.actor_loss(state.actor.params, state, ALPHA, BATCH, key)
    np.testing.assert_allclose(loss, np.mean(0.7 * log_prob - values.mean(0)), rtol=1e-4)
    smallest = RLPD(dataclasses.replace(CONFIG, actor_q="min"), SPEC)
    loss, _ = smallest.actor_loss(state.actor.params, state, ALPHA, BATCH, key)
    np.testing.assert_allclose(loss, np.mean(0.7 * log_prob - values.min(0)), rtol=1e-4)


def test_the_critics_take_all_updates_in_turn_and_the_actor_and_the_temperature_one(trained):
    agent, state = trained
    key = jax.random.key(5)
    after, metrics = jax.jit(agent.update)(state, BATCH, key, 0)
    assert int(after.critic.opt[0].count) == UPDATES
    assert int(after.actor.opt[0].count) == int(after.log_alpha.opt[0].count) == 1

    actor_key, critic_key = jax.random.split(key)
    alpha = jnp.exp(state.log_alpha.params)
    parts = [jax.tree.map(lambda leaf, i=i: leaf[i::UPDATES], BATCH) for i in range(UPDATES)]
    by_hand, _ = jax.jit(agent.update_actor)(state, alpha, parts[-1], actor_key)
    update_critic = jax.jit(agent.update_critic)
    losses = []
    for part, part_key in zip(parts, jax.random.split(critic_key, UPDATES), strict=True):
        by_hand, measured = update_critic(by_hand, alpha, part, part_key)
        losses.append(float(measured["critic/loss"]))
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(by_hand), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(metrics["critic/loss"], np.mean(losses), rtol=1e-3)


@pytest.mark.parametrize("number", [1, 2, 5, 20])
def test_each_minibatch_has_the_share_of_the_data_exactly(number):
    """The first rows of a batch are the data's. Cut one after another, the first minibatches would have them all."""
    size, share = 8, 0.25
    total = size * number
    from_data = jnp.arange(total) < round(share * total)
    rows, from_data = minibatches((jnp.arange(total), from_data), number)
    assert from_data.shape == (number, size)
    assert from_data.sum(1).tolist() == [share * size] * number
    assert sorted(rows.ravel().tolist()) == list(range(total))


def test_the_batch_has_the_rows_of_all_updates():
    class Drawn:
        def transitions(self, key, number, gamma):
            return number, gamma

    assert RLPD(CONFIG, SPEC).sample(Drawn(), None) == (6 * UPDATES, 0.99)


def test_the_norm_comes_before_the_activation():
    """A member by hand, of Xavier kernels and no biases."""
    network = Ensemble(2, (8, 8), out=1, out_bound=3e-3, norm_first=True, xavier=True)
    params = network.init(jax.random.key(0), BATCH.obs, BATCH.action)
    layers = jax.device_get(params)["params"]["VmapMLP_0"]
    x = np.concatenate([BATCH.obs, BATCH.action], -1)
    for name in ("Dense_0", "Dense_1"):
        kernel = layers[name]["kernel"][1]
        bound = np.sqrt(6 / sum(kernel.shape))
        assert 0.8 * bound < np.abs(kernel).max() <= bound and not layers[name]["bias"].any()
        x = x @ kernel
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        x = np.maximum(x, 0)
    assert not layers["Dense_2"]["bias"].any()
    by_hand = x @ layers["Dense_2"]["kernel"][1]
    np.testing.assert_allclose(network.apply(params, BATCH.obs, BATCH.action)[1], by_hand, rtol=1e-4, atol=1e-5)


def test_a_xavier_policy_has_no_biases_and_larger_heads():
    params = GaussianPolicy((8,), actions=2, xavier=True).init(jax.random.key(0), BATCH.obs)["params"]
    for layer in params.values():
        assert not layer["bias"].any()
    assert np.abs(params["Dense_1"]["kernel"]).max() > 0.1


@pytest.mark.slow
def test_the_defaults_are_sac_to_the_bit():
    config = sac.Config(widths=(8, 8), batch_size=6)
    states = []
    for agent in (SAC(config, SPEC), RLPD(config, SPEC)):
        state = jax.jit(agent.init)(jax.random.key(0), None, STATS)
        state, _ = jax.jit(agent.update)(state, BATCH, jax.random.key(1), 0)
        states.append(bits(state))
    assert states[0] == states[1]


def test_more_critics_in_the_target_than_there_are_are_refused():
    with pytest.raises(InputError, match="takes 3 of 2 critics"):
        sac.Config(target_critics=3).stages(SPEC, 1)
