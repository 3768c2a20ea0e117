"""AWAC: its losses by hand, and its limits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_iql import SPEC, STATS, batch

from agents.awac import Config
from rlkit.networks import normal_sample
from rlkit.types import Discrete, InputError

SMALL = Config(widths=(8, 8), batch_size=3, temperature=0.5)
LEARNER = SMALL.stages(SPEC, 10)[0].learner
INIT = jax.jit(LEARNER.init)
KEY = jax.random.key(1)


def state():
    first = INIT(jax.random.key(0), None, STATS)
    return first._replace(target=jax.tree.map(lambda x: 3 * x, first.target))


def q(params, obs, action):
    return np.asarray(LEARNER._critic.apply(params, obs, action))[..., 0].min(0)


def test_the_target_by_hand():
    before, data = state(), batch()
    action = normal_sample(*LEARNER._actor.apply(before.actor.params, data.next_obs), KEY)
    target = LEARNER.target_value(before, data, KEY)
    np.testing.assert_allclose(target, data.reward + data.discount * q(before.target, data.next_obs, action), rtol=1e-5)
    assert target[1] == data.reward[1]  # terminal: nothing but the reward


def test_the_actors_loss_by_hand():
    before, data = state(), batch()
    critic, recorded = before.critic.params, jnp.array([1.0, -2.0, 60.0])
    mean, log_std = LEARNER._actor.apply(before.actor.params, data.obs)
    advantage = recorded - q(critic, data.obs, normal_sample(mean, log_std, KEY))
    weight = np.minimum(np.exp(np.minimum(2 * advantage, 10)), 100)
    assert weight[2] == 100
    log_prob = (-0.5 * (data.action - mean) ** 2 - 0.5 * np.log(2 * np.pi)).sum(1)  # of deviation 1 at the start
    loss = LEARNER.actor_loss(before.actor.params, critic, recorded, data, KEY)[0]
    np.testing.assert_allclose(loss, -np.mean(weight * log_prob), rtol=1e-5)


def test_no_gradient_goes_through_the_weight():
    """The gradient is that of a clone whose weights are given as numbers."""
    before, data = state(), batch()
    recorded, params = jnp.array([0.1, -0.2, 0.3]), before.actor.params
    own = normal_sample(*LEARNER._actor.apply(params, data.obs), KEY)
    weight = jnp.exp(2 * (recorded - q(before.critic.params, data.obs, own)))

    def clone(params):
        mean, log_std = LEARNER._actor.apply(params, data.obs)
        density = -0.5 * ((data.action - mean) / jnp.exp(log_std)) ** 2 - log_std
        return -(weight * density.sum(-1)).mean()

    ours = jax.grad(lambda p: LEARNER.actor_loss(p, before.critic.params, recorded, data, KEY)[0])(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, jax.grad(clone)(params))


def test_a_large_temperature_clones():
    before, data = state(), batch()
    plain = dataclasses.replace(LEARNER, config=dataclasses.replace(SMALL, temperature=1e9))
    loss, metrics = plain.actor_loss(before.actor.params, before.critic.params, jnp.arange(3.0), data, KEY)
    np.testing.assert_allclose(loss, -metrics["actor/log_prob"], rtol=1e-6)


def test_the_advantage_is_that_of_the_critics_before_their_step():
    before, data = state(), batch()
    _, metrics = jax.jit(LEARNER.update)(before, data, KEY, 0)
    key = jax.random.split(KEY)[1]
    own = normal_sample(*LEARNER._actor.apply(before.actor.params, data.obs), key)
    gap = q(before.critic.params, data.obs, data.action) - q(before.critic.params, data.obs, own)
    np.testing.assert_allclose(metrics["actor/advantage"], gap.mean(), rtol=1e-4, atol=1e-7)


def test_discrete_actions_are_refused():
    with pytest.raises(InputError, match="awac .*continuous"):
        SMALL.stages(dataclasses.replace(SPEC, action=Discrete(2)), 1)
