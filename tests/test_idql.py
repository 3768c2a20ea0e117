"""IDQL: its critics are IQL's, its policy clones, and acting takes the best of many."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_iql import SPEC, STATS, batch

from agents import iql
from agents.idql import Config
from rlkit.testing import bits
from rlkit.types import Discrete, InputError

SMALL = Config(widths=(8, 8), flow_widths=(8,), block_width=8, blocks=1, batch_size=3, candidates=64, dropout=0.0)
LEARNER = SMALL.stages(SPEC, 4)[0].learner
FLOW = dataclasses.replace(LEARNER, config=dataclasses.replace(SMALL, policy="flow", average=1.0, decay=False))
KEY = jax.random.key(5)


@pytest.fixture(scope="module", params=[LEARNER, FLOW], ids=["diffusion", "flow"])
def learner(request):
    return request.param


@pytest.fixture(scope="module")
def updated(learner):
    """(state, state after an update, its metrics)."""
    init = jax.jit(learner.init)
    state = init(jax.random.key(0), None, STATS)._replace(target=init(jax.random.key(9), None, STATS).target)
    after, metrics = jax.jit(learner.update)(state, batch(), KEY, 0)
    return state, after, metrics


def test_its_critics_are_iqls(updated):
    """From the same parameters and batch, V, critics and targets come to the same."""
    state, after, _ = updated
    if "VmapMLP_0" not in state.critic.params["params"]:
        pytest.skip("a flow's critics are of another architecture")
    base = iql.Config(widths=(8, 8), batch_size=3).stages(SPEC, 4)[0].learner
    first = jax.jit(base.init)(jax.random.key(0), None, STATS)
    assert bits((first.critic, first.value)) == bits((state.critic, state.value))
    theirs, _ = jax.jit(base.update)(first._replace(target=state.target), batch(), KEY, 0)
    ours = jax.tree.leaves((after.critic, after.target, after.value))
    for a, b in zip(ours, jax.tree.leaves((theirs.critic, theirs.target, theirs.value)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_the_cloning_loss_by_hand(learner, updated):
    state, _, metrics = updated
    data = batch()
    time_key, noise_key, _ = jax.random.split(KEY, 3)
    z = jax.random.normal(noise_key, (3, 2))
    params = state.actor.params
    if learner is FLOW:
        t = jax.random.uniform(time_key, (3,))[:, None]
        out = learner._actor.apply(params, data.obs, (1 - t) * data.action + t * z, t)
        target = z - data.action
    else:
        level = jax.random.randint(time_key, (3,), 1, 6)
        kept = np.array([0.80413, 0.43518, 0.15850, 0.03885, 0.00641], np.float32)  # alpha^2 of the five levels
        kept = kept[np.asarray(level) - 1][:, None]
        x = np.sqrt(kept) * data.action + np.sqrt(1 - kept) * z
        out = learner._actor.apply(params, data.obs, x, level - 1.0)
        target = z
    np.testing.assert_allclose(metrics["actor/loss"], ((out - target) ** 2).sum(-1).mean(), rtol=1e-4)


def test_the_clone_does_not_see_the_critics(learner, updated):
    state, after, _ = updated
    other = state._replace(target=jax.tree.map(lambda leaf: leaf + 0.1, state.target))
    moved, _ = jax.jit(learner.update)(other, batch(), KEY, 0)
    assert bits(moved.actor) == bits(after.actor) and bits(moved.value) != bits(after.value)


def test_the_average_follows_the_policy(learner, updated):
    state, after, _ = updated
    share = learner.config.average
    expected = jax.tree.map(lambda a, b: (1 - share) * a + share * b, state.average, after.actor.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.average, expected)
    assert bits(after.average) != bits(state.average)


def test_the_best_candidate_of_the_average_is_taken(learner, updated):
    _, state, _ = updated
    obs = jnp.array([0.3, -1.0, 0.2])
    many = jnp.tile(obs, (64, 1))
    drawn = learner.draw(state.average, many, KEY)
    assert (jnp.abs(drawn) <= 1).all() and drawn.std(0).min() > 0.05
    q, online = (
        np.asarray(learner._critic.apply(params, many, drawn))[..., 0].min(0)
        for params in (state.target, state.critic.params)
    )
    assert q.argmax() != online.argmax()
    action, _ = learner.act(state, obs, KEY, greedy=True)
    np.testing.assert_allclose(action, drawn[q.argmax()][None])
    alone = dataclasses.replace(learner, config=dataclasses.replace(learner.config, candidates=1))
    assert alone.act(state, obs, KEY, greedy=True)[0].shape == (1, 2)


def test_discrete_actions_are_refused():
    with pytest.raises(InputError, match="idql .*continuous"):
        SMALL.stages(dataclasses.replace(SPEC, action=Discrete(2)), 1)
