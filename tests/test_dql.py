"""Diffusion-QL: its losses by hand, the gradient through all steps of the sampler, and how it acts."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_iql import SPEC, STATS, batch

from agents.dql import Config
from rlkit.testing import bits
from rlkit.types import Box, Discrete, InputError, Spec

SMALL = Config(widths=(8, 8), batch_size=3, candidates=64, levels=3, eta=2.0)
LEARNER = SMALL.stages(SPEC, 4)[0].learner
KEY = jax.random.key(5)


def with_config(**changes):
    return dataclasses.replace(LEARNER, config=dataclasses.replace(SMALL, **changes))


@pytest.fixture(scope="module")
def state():
    """A state whose targets are neither the critics nor the policy."""
    first = jax.jit(LEARNER.init)(jax.random.key(0), None, STATS)
    target, average = jax.tree.map(lambda leaf: leaf + 0.1, (first.target, first.average))
    return first._replace(target=target, average=average)


def test_parameters_at_the_papers_size():
    box = Box((11,), (-1.0,) * 11, (1.0,) * 11)
    spec = Spec(box, Box((3,), (-1.0,) * 3, (1.0,) * 3), 10)
    moments = STATS._replace(obs_mean=jnp.zeros(11), action_mean=jnp.zeros(3))
    state = jax.eval_shape(Config().stages(spec, 1)[0].learner.init, KEY, None, moments)
    counts = [sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(net.params)) for net in (state.actor, state.critic)]
    time = (16 * 32 + 32) + (32 * 16 + 16)
    body = (11 + 3 + 16 + 1) * 256 + 2 * 257 * 256 + 257 * 3
    critic = (11 + 3 + 1) * 256 + 2 * 257 * 256 + 257
    assert counts == [time + body, 2 * critic]


def test_the_target_by_hand(state):
    data = batch()
    action = LEARNER.draw(state.average, data.next_obs, KEY)
    q = np.asarray(LEARNER._critic.apply(state.target, data.next_obs, action))[..., 0]
    expected = data.reward + data.discount * q.min(0)
    assert expected[1] == data.reward[1]  # terminal: nothing but the reward
    np.testing.assert_allclose(LEARNER.target_value(state, data, KEY), expected, rtol=1e-5)


def test_the_largest_of_several_next_actions_counts_for_each_critic_apart(state):
    data, learner = batch(), with_config(max_q_backup=True, backups=4)
    obs = np.repeat(np.asarray(data.next_obs), 4, 0)  # four of the first, then four of the second
    action = learner.draw(state.average, jnp.asarray(obs), KEY)
    q = np.asarray(learner._critic.apply(state.target, obs, action))[..., 0]
    largest = np.stack([[q[k, 4 * b : 4 * b + 4].max() for b in range(3)] for k in range(2)])
    expected = data.reward + data.discount * largest.min(0)
    np.testing.assert_allclose(learner.target_value(state, data, KEY), expected, rtol=1e-5)


def test_the_policys_loss_by_hand(state):
    """Either critic is followed by chance, divided by the size of the other."""
    data, seen = batch(), set()
    loss_of = jax.jit(LEARNER.actor_loss)
    for number in range(6):
        key = jax.random.key(number)
        cloning_key, action_key, order_key = jax.random.split(key, 3)
        action = LEARNER.draw(state.actor.params, data.obs, action_key)
        q = np.asarray(LEARNER._critic.apply(state.critic.params, data.obs, action))[..., 0]
        cloning = LEARNER.cloning_loss(state.actor.params, data, cloning_key)
        i = 0 if jax.random.bernoulli(order_key) else 1
        expected = cloning - 2 * q[i].mean() / np.abs(q[1 - i]).mean()
        loss, _ = loss_of(state.actor.params, state.critic.params, data, key)
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
        seen.add(i)
    assert seen == {0, 1}


def test_the_cloning_loss_by_hand(state):
    data = batch()
    time_key, noise_key = jax.random.split(KEY)
    level = np.asarray(jax.random.randint(time_key, (3,), 1, 4))
    z = jax.random.normal(noise_key, (3, 2))
    step = np.arange(1, 4)
    kept = np.cumprod(np.exp(-0.1 / 3 - 0.5 * 9.9 * (2 * step - 1) / 9))[level - 1].astype(np.float32)[:, None]
    x = np.sqrt(kept) * data.action + np.sqrt(1 - kept) * z
    out = LEARNER._actor.apply(state.actor.params, data.obs, x, jnp.asarray(level - 1, jnp.float32))
    by_hand = ((out - z) ** 2).mean()
    np.testing.assert_allclose(LEARNER.cloning_loss(state.actor.params, data, KEY), by_hand, rtol=1e-4)


def test_q_reaches_the_policy_through_every_step(state):
    """The gradient of a drawn action, by finite differences: a sampler cut off before its last step has another."""
    obs = jnp.array([[0.3, -1.0, 0.2]])
    params = state.actor.params
    bias = ("params", "Joined_4", "bias")

    def drawn(shift):
        moved = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf + shift if tuple(part.key for part in path) == bias else leaf, params
        )
        return LEARNER.draw(moved, obs, jax.random.key(2)).sum()

    assert params["params"]["Joined_4"]["bias"].shape == (2,)
    gradient = jax.jit(jax.grad(drawn))(0.0)
    step = 1e-2
    difference = (drawn(step) - drawn(-step)) / (2 * step)
    assert abs(gradient) > 0.1
    np.testing.assert_allclose(gradient, difference, rtol=2e-2)


def test_the_average_moves_at_its_times(state):
    learner, data = with_config(average_every=5, average_after=10), batch()
    update = jax.jit(learner.update)
    for step, moves in ((5, False), (10, True), (12, False), (15, True)):
        after, _ = update(state, data, KEY, jnp.int32(step))
        share = 0.005 if moves else 0.0
        expected = jax.tree.map(lambda a, b, s=share: (1 - s) * a + s * b, state.average, after.actor.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.average, expected)
        assert (bits(after.average) != bits(state.average)) == moves
    expected = jax.tree.map(lambda a, b: 0.995 * a + 0.005 * b, state.target, after.critic.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.target, expected)


def test_candidates_are_taken_by_the_softmax_of_their_values(state):
    obs = jnp.array([0.3, -1.0, 0.2])
    steep = jax.tree.map(lambda leaf: 30 * leaf, state.target)
    told = state._replace(target=steep)

    @jax.jit
    def many(key):
        draw_key, _ = jax.random.split(key)
        drawn = LEARNER.draw(told.actor.params, jnp.tile(obs, (64, 1)), draw_key)
        q = LEARNER._critic.apply(told.target, jnp.tile(obs, (64, 1)), drawn)[..., 0].min(0)
        return LEARNER.act(told, obs, key, greedy=True)[0][0], drawn, q

    actions, drawn, q = jax.vmap(many)(jax.random.split(KEY, 400))
    value = np.take_along_axis(np.asarray(q), np.abs(drawn - actions[:, None]).sum(-1).argmin(1)[:, None], 1)
    share = np.exp(np.asarray(q) - np.asarray(q).max(1, keepdims=True))
    expected = (share / share.sum(1, keepdims=True) * np.asarray(q)).sum(1)
    spread = np.asarray(q).std()
    assert spread > 0.1
    assert abs((value[:, 0] - expected).mean()) < 4 * spread / math.sqrt(400)
    cold = with_config(temperature=1e-6)
    best, _ = cold.act(told, obs, jax.random.split(KEY, 400)[0], greedy=True)
    np.testing.assert_allclose(best[0], drawn[0][q[0].argmax()], rtol=1e-5, atol=1e-6)


def test_discrete_actions_are_refused():
    with pytest.raises(InputError, match="dql .*continuous"):
        SMALL.stages(dataclasses.replace(SPEC, action=Discrete(2)), 1)
