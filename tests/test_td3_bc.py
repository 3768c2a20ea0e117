"""TD3+BC: its losses by hand, its limits, and its delay."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import bits
from test_iql import SPEC, STATS, batch

from agents import rebrac
from agents.td3_bc import Config
from rlkit.types import Discrete, InputError

SMALL = Config(widths=(8, 8), batch_size=3)
LEARNER = SMALL.stages(SPEC, 10)[0].learner
INIT = jax.jit(LEARNER.init)


def state():
    """A state whose targets are not the networks."""
    first = INIT(jax.random.key(0), None, STATS)
    targets = jax.tree.map(lambda x: 3 * x, (first.target_actor, first.target_critic))
    return first._replace(target_actor=targets[0], target_critic=targets[1])


def with_config(**changes):
    return dataclasses.replace(LEARNER, config=dataclasses.replace(SMALL, **changes))


def test_the_target_by_hand():
    before, data = state(), batch()
    quiet = with_config(policy_noise=0.0)
    action = np.tanh(quiet._actor.apply(before.target_actor, data.next_obs))
    q = np.asarray(quiet._critic.apply(before.target_critic, data.next_obs, action))[..., 0]
    target = quiet.target_value(before, data, jax.random.key(1))
    np.testing.assert_allclose(target, data.reward + data.discount * q.min(0), rtol=1e-5)
    assert target[1] == data.reward[1]  # terminal: nothing but the reward


def test_the_targets_noise_is_clipped_and_so_are_its_actions():
    before, data = state(), batch()
    clean = jnp.tanh(LEARNER._actor.apply(before.target_actor, data.next_obs))
    noisy = with_config(policy_noise=100.0)._next_action(before, data, jax.random.key(1))
    np.testing.assert_allclose(jnp.abs(noisy - clean), 0.5, rtol=1e-5)  # of either sign
    wide = with_config(policy_noise=100.0, noise_clip=3.0)._next_action(before, data, jax.random.key(1))
    np.testing.assert_array_equal(jnp.abs(wide), 1.0)


def test_the_losses_by_hand():
    before, data = state(), batch()
    critic = before.critic.params
    q = np.asarray(LEARNER._critic.apply(critic, data.obs, data.action))[..., 0]
    y = np.array([1.0, -2.0, 0.5])
    by_hand = sum(np.mean([(q[i, b] - y[b]) ** 2 for b in range(3)]) for i in range(2))
    np.testing.assert_allclose(LEARNER.critic_loss(critic, jnp.asarray(y, jnp.float32), data)[0], by_hand, rtol=1e-5)
    action = np.tanh(LEARNER._actor.apply(before.actor.params, data.obs))
    first = np.asarray(LEARNER._critic.apply(critic, data.obs, action))[0, :, 0]
    distance = np.mean([(action[b, k] - data.action[b, k]) ** 2 for b in range(3) for k in range(2)])
    by_hand = distance - 2.5 * first.mean() / np.abs(first).mean()
    np.testing.assert_allclose(LEARNER.actor_loss(before.actor.params, critic, data, 0)[0], by_hand, rtol=1e-5)


def gradient(learner, params, critic, data):
    return jax.grad(lambda p: learner.actor_loss(p, critic, data, 0)[0])(params)


def test_the_actor_does_not_feel_the_scale_of_rewards():
    before, data = state(), batch()
    output = ("params", "VmapMLP_0", "Dense_2")
    louder = jax.tree_util.tree_map_with_path(
        lambda path, x: 10 * x if tuple(k.key for k in path[:3]) == output else x, before.critic.params
    )
    np.testing.assert_allclose(*(LEARNER._critic.apply(p, data.obs, data.action) * s for p, s in
                                 ((before.critic.params, 10), (louder, 1))), rtol=1e-5)  # fmt: skip
    both = (gradient(LEARNER, before.actor.params, critic, data) for critic in (before.critic.params, louder))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *both)


def test_with_alpha_zero_the_actor_clones():
    before, data = state(), batch()
    ours = gradient(with_config(alpha=0.0), before.actor.params, before.critic.params, data)
    clone = jax.grad(lambda p: ((jnp.tanh(LEARNER._actor.apply(p, data.obs)) - data.action) ** 2).mean())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), ours, clone(before.actor.params))


def test_alpha_for_a_mean_over_dimensions_is_one_over_coefficient_and_dimensions_for_a_sum():
    """The presets take their alpha from losses of the form coefficient x sum (pi(s) - a)^2 - Q / mean |Q|."""
    before, data, coefficient, dimensions = state(), batch(), 0.05, 2
    critic = jax.tree.map(lambda x: x[:1].repeat(2, 0), before.critic.params)  # one critic twice: no smaller one
    config = rebrac.Config(actor_beta=coefficient, widths=SMALL.widths, critic_layer_norm=False)
    summed = gradient(config.stages(SPEC, 10)[0].learner, before.actor.params, critic, data)
    alpha = 1 / (coefficient * dimensions)
    ours = gradient(with_config(alpha=alpha), before.actor.params, critic, data)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, alpha * b, rtol=1e-4, atol=1e-6), ours, summed)


def test_actor_and_targets_rest_on_odd_steps_and_their_metrics_are_means_over_the_actors_updates():
    before, data, key = state(), batch(), jax.random.key(1)
    update = jax.jit(LEARNER.update)
    rested, silent = update(before, data, key, 1)
    assert bits(rested[0:1] + rested[2:]) == bits(before[0:1] + before[2:])
    assert bits(rested.critic) != bits(before.critic)
    moved, metrics = update(before, data, key, 2)
    assert bits(moved.critic) == bits(rested.critic)
    assert all(bits(a) != bits(b) for a, b in zip(moved, before, strict=True))
    for part, net in (("target_actor", moved.actor), ("target_critic", moved.critic)):
        expected = jax.tree.map(lambda t, o: 0.995 * t + 0.005 * o, getattr(before, part), net.params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), getattr(moved, part), expected
        )
    loss = LEARNER.actor_loss(before.actor.params, moved.critic.params, data, 0)[0]
    np.testing.assert_allclose((metrics["actor/loss"] + silent["actor/loss"]) / 2, loss, rtol=1e-5)


def test_discrete_actions_are_refused():
    with pytest.raises(InputError, match="td3-bc .*continuous"):
        SMALL.stages(dataclasses.replace(SPEC, action=Discrete(2)), 1)
