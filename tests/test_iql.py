"""IQL: its losses by hand, and its limits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.iql import Config
from rlkit.types import Box, Discrete, InputError, Spec, Stats, Transitions

SPEC = Spec(Box((3,), (-np.inf,) * 3, (np.inf,) * 3), Box((2,), (-1.0,) * 2, (1.0,) * 2), 10)
STATS = Stats(*(jnp.asarray(x) for x in ([0.5, 0, -1], [1.0, 2, 3], [0.1, -0.1], [0.5, 0.4])))
SMALL = Config(widths=(8, 8), batch_size=3, expectile=0.8, beta=2.0)
LEARNER = SMALL.stages(SPEC, 2)[0].learner
DISCRETE = SMALL.stages(dataclasses.replace(SPEC, action=Discrete(4)), 2)[0].learner


def batch(seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    return Transitions(
        obs=jax.random.normal(keys[0], (3, 3)),
        action=jnp.tanh(jax.random.normal(keys[1], (3, 2))),
        reward=jnp.arange(3.0),
        discount=jnp.array([0.99, 0.0, 0.99]),
        next_obs=jax.random.normal(keys[2], (3, 3)),
        extra={},
    )


def by_hand(learner, state, data):
    """Advantages and the four networks' outputs in NumPy."""
    v, next_v = (np.asarray(learner._value.apply(state.value.params, x))[:, 0] for x in (data.obs, data.next_obs))
    inputs = (data.obs,) if learner is DISCRETE else (data.obs, data.action)
    q, target_q = (np.asarray(learner._critic.apply(p, *inputs)) for p in (state.critic.params, state.target))
    if learner is DISCRETE:
        q, target_q = (np.stack([x[:, b, data.action[b]] for b in range(3)], -1)[..., None] for x in (q, target_q))
    return q[..., 0], target_q[..., 0].min(0) - v, np.asarray(data.reward + data.discount * next_v)


@pytest.fixture(params=[LEARNER, DISCRETE], ids=["continuous", "discrete"])
def learner(request):
    return request.param


def start(learner):
    """A state whose targets are not the critics, and three rows."""
    data, moments = batch(), STATS
    if learner is DISCRETE:
        data = data._replace(action=jnp.array([2, 0, 3]))
        moments = STATS._replace(action_mean=jnp.zeros(0), action_std=jnp.zeros(0))
    state = jax.jit(learner.init)(jax.random.key(0), None, moments)
    return state._replace(target=jax.tree.map(lambda x: 3 * x, state.target)), data


def test_the_losses_by_hand(learner):
    state, data = start(learner)
    q, advantage, target = by_hand(learner, state, data)
    assert target[1] == data.reward[1]  # terminal: nothing but the reward
    _, metrics = jax.jit(learner.update)(state, data, jax.random.key(1), 0)
    expectile = np.mean([(0.8 if u > 0 else 0.2) * u * u for u in advantage])
    np.testing.assert_allclose(metrics["value/loss"], expectile, rtol=1e-5)
    np.testing.assert_allclose(metrics["critic/loss"], sum(((q[i] - target) ** 2).mean() for i in range(2)), rtol=1e-5)
    if learner is DISCRETE:
        logits = np.asarray(learner._actor.apply(state.actor.params, data.obs), np.float64)
        log_prob = [logits[b, data.action[b]] - np.log(np.exp(logits[b]).sum()) for b in range(3)]
    else:
        mean = np.tanh(learner._actor.apply(state.actor.params, data.obs)[0])
        log_prob = (-0.5 * (data.action - mean) ** 2 - 0.5 * np.log(2 * np.pi)).sum(1)  # of deviation 1 at the start
    np.testing.assert_allclose(metrics["actor/loss"], -np.mean(np.exp(2 * advantage) * log_prob), rtol=1e-5)


def test_a_weight_is_cut_at_its_limit():
    state, data = start(LEARNER)
    metrics = LEARNER.actor_loss(state.actor.params, jnp.array([0.0, 50.0, -50.0]), data)[1]
    np.testing.assert_allclose(metrics["actor/weight"], (1 + 100 + 0) / 3, rtol=1e-6)


def test_with_expectile_one_half_v_regresses_on_the_mean_and_with_beta_zero_the_actor_clones():
    state, data = start(LEARNER)
    plain = dataclasses.replace(LEARNER, config=dataclasses.replace(SMALL, expectile=0.5, beta=0.0))
    q = jnp.array([1.0, -2.0, 0.5])
    ours = jax.grad(lambda p: plain.value_loss(p, q, data)[0])(state.value.params)
    square = jax.grad(lambda p: 0.5 * ((q - plain._v(p, data.obs)) ** 2).mean())(state.value.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), ours, square)
    loss, metrics = plain.actor_loss(state.actor.params, 10 * q, data)
    np.testing.assert_allclose(loss, -metrics["actor/log_prob"], rtol=1e-6)


def test_neither_v_nor_the_critics_ask_the_policy(learner):
    state, data = start(learner)
    other = state._replace(actor=state.actor._replace(params=jax.tree.map(lambda x: x + 1, state.actor.params)))
    update = jax.jit(learner.update)
    a, b = (update(s, data, jax.random.key(1), 0)[0] for s in (state, other))
    for one, two in zip(jax.tree.leaves((a.critic, a.value)), jax.tree.leaves((b.critic, b.value)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_actors_step_falls_to_zero_over_all_updates_and_the_critics_does_not():
    state, data = start(LEARNER)
    update = jax.jit(LEARNER.update)
    steps = [state]
    for step in range(3):
        steps.append(update(steps[-1], data, jax.random.key(1), step)[0])

    def moved(net, a, b):
        both = zip(jax.tree.leaves(getattr(a, net).params), jax.tree.leaves(getattr(b, net).params), strict=True)
        return max(float(jnp.abs(x - y).max()) for x, y in both)

    sizes = [moved("actor", a, b) for a, b in zip(steps, steps[1:], strict=False)]
    np.testing.assert_allclose(sizes[0], SMALL.actor_learning_rate, rtol=1e-3)  # Adam's first step
    assert 0 < sizes[1] < 0.6 * sizes[0] and sizes[2] == 0
    assert moved("critic", *steps[2:]) > 0


def test_unbounded_actions_are_refused():
    with pytest.raises(InputError, match="iql .*bounded"):
        SMALL.stages(dataclasses.replace(SPEC, action=Box((2,), (-np.inf,) * 2, (np.inf,) * 2)), 1)
