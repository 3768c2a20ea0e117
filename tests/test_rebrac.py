"""ReBRAC: its penalties by hand, and its limit, TD3."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_iql import SPEC, STATS, batch

from agents import td3_bc
from agents.rebrac import Config
from rlkit import online
from rlkit.online import Online
from rlkit.types import Discrete, InputError

SMALL = Config(widths=(8, 8, 8), batch_size=3, actor_beta=0.3, critic_beta=0.2)
LEARNER = SMALL.stages(SPEC, 10)[0].learner


def data():
    """Three rows: within an episode, terminal, and the last before a time limit."""
    rows = batch()
    extra = {"next_action": jnp.array([[0.5, -0.2], [0.0, 0.0], [0.0, 0.0]]), "has_next_action": jnp.array([1.0, 0, 0])}
    return rows._replace(extra=extra)


def state(learner=LEARNER):
    """A state whose targets are not the networks."""
    first = jax.jit(learner.init)(jax.random.key(0), None, STATS)
    targets = jax.tree.map(lambda x: 3 * x, (first.target_actor, first.target_critic))
    return first._replace(target_actor=targets[0], target_critic=targets[1])


def test_the_critics_penalty_by_hand():
    before, rows, key = state(), data(), jax.random.key(1)
    action = np.asarray(LEARNER._next_action(before, rows, key))
    q = np.asarray(LEARNER._critic.apply(before.target_critic, rows.next_obs, action))[..., 0].min(0)
    penalty = (action[0, 0] - 0.5) ** 2 + (action[0, 1] + 0.2) ** 2  # summed over dimensions
    by_hand = [0 + 0.99 * (q[0] - 0.2 * penalty), 1.0, 2 + 0.99 * q[2]]
    np.testing.assert_allclose(LEARNER.target_value(before, rows, key), by_hand, rtol=1e-5)


def test_the_actors_loss_by_hand():
    before, rows = state(), data()
    action = np.tanh(LEARNER._actor.apply(before.actor.params, rows.obs))
    q = np.asarray(LEARNER._critic.apply(before.critic.params, rows.obs, action))[..., 0].min(0)
    distance = ((action - rows.action) ** 2).sum(1).mean()
    loss = LEARNER.actor_loss(before.actor.params, before.critic.params, rows, 0)[0]
    np.testing.assert_allclose(loss, 0.3 * distance - q.mean() / np.abs(q).mean(), rtol=1e-5)


def test_without_penalties_and_layer_norm_it_is_td3():
    config = dataclasses.replace(SMALL, actor_beta=0.0, critic_beta=0.0, critic_layer_norm=False)
    learner = config.stages(SPEC, 10)[0].learner
    td3 = td3_bc.Config(alpha=1.0, widths=config.widths).stages(SPEC, 10)[0].learner
    before, rows, key = state(learner), data(), jax.random.key(1)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, state(td3)))  # the same networks from the same key
    np.testing.assert_array_equal(learner.target_value(before, rows, key), td3.target_value(before, rows, key))

    def follow(params):  # TD3's actor, with the smaller critic
        action = jnp.tanh(learner._actor.apply(params, rows.obs))
        return -learner._critic.apply(before.critic.params, rows.obs, action).squeeze(-1).min(0).mean()

    ours = jax.grad(lambda p: learner.actor_loss(p, before.critic.params, rows, 0)[0])(before.actor.params)
    scale = jnp.abs(follow(before.actor.params))  # three values of one sign: their mean size is that of their mean
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a * scale, b, rtol=1e-3, atol=1e-7),
        ours,
        jax.grad(follow)(before.actor.params),
    )


def test_only_the_critics_are_normalised():
    before = state()
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(before)]
    assert any("critic" in name and "LayerNorm" in name for name in names)
    assert not any("actor" in name and "LayerNorm" in name for name in names)


def test_discrete_actions_are_refused():
    with pytest.raises(InputError, match="rebrac .*continuous"):
        SMALL.stages(dataclasses.replace(SPEC, action=Discrete(2)), 1)


def test_online_the_critics_penalty_is_gone_and_the_actors_falls_to_half():
    plan = Online(steps=11, updates=2)  # 22 updates
    first, second = online.stages(SMALL, SPEC, 10, [plan, plan])[1:]
    assert first.learner.config.critic_beta == second.learner.config.critic_beta == 0
    assert LEARNER.actor_beta(7) == SMALL.actor_beta
    betas = [first.learner.actor_beta(jnp.int32(step)) for step in (0, 7, 21)]
    np.testing.assert_allclose(betas, [0.3, 0.3 * (1 - 0.5 / 3), 0.15], rtol=1e-6)
    np.testing.assert_allclose(second.learner.actor_beta(jnp.int32(3)), 0.15, err_msg="it has fallen already")
    before, rows = state(), data()
    last = first.learner.actor_loss(before.actor.params, before.critic.params, rows, jnp.int32(21))
    whole = LEARNER.actor_loss(before.actor.params, before.critic.params, rows, 0)
    np.testing.assert_allclose(whole[0] - last[0], 0.15 * last[1]["actor/distance"], rtol=1e-4)


def test_noise_is_added_only_to_what_is_collected():
    before, obs = state(), jnp.ones(3)
    greedy, _ = LEARNER.act(before, obs, jax.random.key(0), greedy=True)
    drawn = jnp.stack([LEARNER.act(before, obs, jax.random.key(n), greedy=False)[0] for n in range(60)])
    noise = np.asarray(drawn) - np.asarray(greedy)
    assert 0.02 < noise.std() < 0.04, "a standard deviation of 0.03"
