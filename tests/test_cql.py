"""CQL and Cal-QL: the bandit whose values are known, and the conservative term by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sac import BATCH, RATES, SIZES, SPEC, STATS, learner

from agents.cql import CQL, Candidates, Config
from rlkit.networks import tanh_normal_sample
from rlkit.online import Online
from rlkit.types import InputError, Transitions

SMALL = SIZES | {"critic_widths": (8, 8)} | RATES


@pytest.mark.slow
def test_a_step_in_chunks_is_the_step():
    def after(chunk):
        agent = learner(Config(chunk=chunk, candidates=2, min_gap=0.5, **SMALL))
        state = agent.init(jax.random.key(0), None, STATS)
        return jax.jit(agent.update_critic)(state, jnp.float32(0.1), BATCH, jax.random.key(1))

    (whole, metrics), (chunked, same) = after(None), after(1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole.critic, chunked.critic)
    np.testing.assert_allclose(metrics["critic/gap"], same["critic/gap"], rtol=1e-5)
    np.testing.assert_allclose(metrics["critic/loss"], same["critic/loss"], rtol=1e-5)


def test_a_chunk_that_leaves_a_rest_is_refused():
    with pytest.raises(InputError, match="a chunk of 3 does not divide a batch of 8"):
        Config(chunk=3, batch_size=8).stages(SPEC, 1)


class Table(CQL):
    """A value for each of four arms, by its number."""

    def _q(self, params, obs, action):
        return params[:, action[..., 0].astype(jnp.int32)]


def bandit(cql_alpha, floor):
    """The arms' values after gradient descent: behaviour (.6, .3, .08, .02), rewards (0, 1, .5, 2). Expected are
    the minima of a loss that has a half at the squared error, hence twice its weight."""
    arm = np.repeat(np.arange(4), (30, 15, 4, 1))
    reward = jnp.asarray(np.array([0, 1, 0.5, 2], np.float32)[arm])
    action = jnp.asarray(arm[:, None], jnp.float32)
    batch = Transitions(jnp.zeros((50, 1)), action, reward, jnp.zeros(50), jnp.zeros((50, 1)), {})
    arms = jnp.broadcast_to(jnp.arange(4.0)[:, None, None], (4, 50, 1))
    candidates = Candidates(arms, jnp.zeros((4, 50)), None if floor is None else jnp.full((4, 50), floor))
    agent, weight = Table(Config(), SPEC), jnp.float32(2 * cql_alpha)

    def descend(_, params):
        gradient, _ = jax.grad(agent.conservative_loss, has_aux=True)(params, reward, batch, candidates, weight)
        return params - 0.05 * gradient  # short steps: at the floor the gradient jumps

    return jax.jit(lambda params: jax.lax.fori_loop(0, 8000, descend, params))(jnp.zeros((1, 4)))[0]


@pytest.mark.parametrize(
    "cql_alpha, floor, expected",
    [
        (0.0, None, (0, 1, 0.5, 2)),  # the rarest arm looks best
        (0.1, None, (0.075, 0.976, 0.352, 0.698)),
        (1.0, None, (0.420, 0.604, -0.406, -1.040)),
        (1.0, 0.38, (0.581, 0.876, 0.382, 0.377)),  # Cal-QL: the rare arms stop at the behaviour's value
    ],
)
def test_the_bandits_values(cql_alpha, floor, expected):
    values = bandit(cql_alpha, floor)
    np.testing.assert_allclose(values, expected, atol=0.01)
    if floor is None:
        assert values @ jnp.array([0.6, 0.3, 0.08, 0.02]) == pytest.approx(0.38, abs=1e-3)


@pytest.fixture(scope="module")
def drawn():
    """(agent, state, batch with returns, candidates) of a calibrated learner with two actions from each source; its
    targets are not the critics."""
    agent = learner(Config(candidates=2, calibrate=True, gamma=0.9, **SMALL))
    assert agent.needs == ("return_to_go@0.9",)
    batch = BATCH._replace(extra={"return_to_go@0.9": jnp.array([0.5, -3.0, 0.01])})
    state = jax.jit(agent.init)(jax.random.key(0), None, STATS)
    state = state._replace(target=jax.tree.map(lambda x: 3 * x, state.target))
    policies = [agent._actor.apply(state.actor.params, obs) for obs in (batch.obs, batch.next_obs)]
    return agent, state, batch, agent.draw_candidates(*policies, batch, jax.random.key(1)), policies


def test_the_term_by_hand_and_its_floor_for_the_policys_actions_alone(drawn):
    agent, state, batch, candidates, policies = drawn
    assert candidates.action.shape == (6, 3, 2) and (jnp.abs(candidates.action) <= 1).all()
    np.testing.assert_allclose(candidates.log_density[:2], -2 * math.log(2), rtol=1e-6)
    for rows, (mean, log_std) in zip((slice(2, 4), slice(4, 6)), policies, strict=True):
        mean, std = np.asarray(mean), np.exp(np.asarray(log_std))
        u = np.arctanh(np.asarray(candidates.action[rows], np.float64))
        normal = -0.5 * ((u - mean) / std) ** 2 - np.log(std * math.sqrt(2 * math.pi))
        density = (normal - np.log(1 - np.tanh(u) ** 2)).sum(-1)
        np.testing.assert_allclose(candidates.log_density[rows], density, rtol=1e-3, atol=1e-3)
    target, params = jnp.array([1.0, -2.0, 0.5]), state.critic.params
    q = np.asarray(agent._q(params, batch.obs, batch.action))
    terms = []
    for i in range(2):
        for b in range(3):
            total = 0.0
            for k in range(6):
                value = float(agent._q(params, batch.obs[b : b + 1], candidates.action[k, b : b + 1])[i, 0])
                value = value if k < 2 else max(value, float(batch.extra["return_to_go@0.9"][b]))
                total += math.exp(value - float(candidates.log_density[k, b]))
            terms.append(math.log(total) - q[i, b])
    squared = sum(np.mean((q[i] - np.asarray(target)) ** 2) for i in range(2))
    loss, metrics = agent.conservative_loss(params, target, batch, candidates, jnp.float32(5.0))
    np.testing.assert_allclose(loss, squared + 5 * np.sum(terms) / 3, rtol=1e-5)
    np.testing.assert_allclose(metrics["critic/gap"], np.mean(terms), rtol=1e-5)


@pytest.mark.slow
def test_a_gap_below_its_minimum_has_no_gradient(drawn):
    _, state, batch, candidates, _ = drawn

    def gradient(min_gap):
        agent = learner(Config(min_gap=min_gap, **SMALL))
        q = agent._q(state.critic.params, batch.obs, batch.action)
        both = jax.tree.map(lambda x: x[:1].repeat(2, 0), state.critic.params)  # no squared error in either critic
        gradient = jax.grad(agent.conservative_loss, has_aux=True)(both, q[0], batch, candidates, jnp.float32(1))[0]
        return sum(jnp.abs(x).sum() for x in jax.tree.leaves(gradient))

    assert gradient(100.0) < 1e-5 < gradient(-100.0)


def test_the_backup_takes_the_best_of_its_actions_and_the_entropy_where_asked(drawn):
    _, state, batch, _, (_, there) = drawn
    alpha, key = jnp.float32(0.5), jax.random.key(4)

    def backup(**options):
        return np.asarray(learner(Config(candidates=8, **options, **SMALL)).backup(state, alpha, batch, there, key))

    one, best, soft = backup(), backup(max_backup=True), backup(backup_entropy=True)
    assert one[1] == best[1] == soft[1] == -2  # terminal
    mean, log_std = (jnp.broadcast_to(x, (8, *x.shape)) for x in there)
    agent = learner(Config(candidates=8, **SMALL))
    action, _ = tanh_normal_sample(mean, log_std, key)
    values = np.asarray(agent._q(state.target, batch.next_obs[None], action)).min(0).max(0)
    np.testing.assert_allclose(best, batch.reward + batch.discount * values, rtol=1e-6)
    assert not np.allclose(soft[[0, 2]], one[[0, 2]])


def test_the_multiplier_rises_where_the_gap_is_above_its_target():
    agent = learner(Config(cql_alpha=5.0, lagrange_gap=0.8, **SMALL))
    for gap, sign in ((1.8, 1), (-0.2, -1)):
        gradient = jax.grad(lambda p, gap=gap: agent.multiplier_loss(p, jnp.float32(gap))[0])(jnp.float32(0.3))
        np.testing.assert_allclose(-gradient, sign * math.exp(0.3) * 5, rtol=1e-5)
    state = jax.jit(agent.init)(jax.random.key(0), None, STATS)
    after, metrics = jax.jit(agent.update)(state, BATCH, jax.random.key(1), 0)
    # the first gaps are about log(30 x 4), far above 0.8; critics and multiplier move together from the same gap
    assert metrics["critic/gap"] > 3 and after.log_multiplier.params > state.log_multiplier.params
    assert metrics["multiplier/value"] == pytest.approx(math.e)


def test_the_multiplier_is_at_most_a_million_and_has_no_gradient_beyond():
    agent = learner(Config(cql_alpha=5.0, lagrange_gap=0.8, **SMALL))

    def multiplied(log_multiplier):
        gradient, metrics = jax.grad(agent.multiplier_loss, has_aux=True)(jnp.float32(log_multiplier), jnp.float32(1.8))
        return float(metrics["multiplier/value"]), -float(gradient)

    assert multiplied(13.0) == pytest.approx((math.exp(13), 5 * math.exp(13)), rel=1e-4)
    for beyond in (14.0, 100.0):  # exp(100) is beyond float32 too
        value, slope = multiplied(beyond)
        assert value == pytest.approx(1e6, rel=1e-4) and slope == 0

    state = jax.jit(agent.init)(jax.random.key(0), None, STATS)
    state = state._replace(log_multiplier=state.log_multiplier._replace(params=jnp.float32(14)))
    _, metrics = jax.jit(agent.update)(state, BATCH, jax.random.key(1), 0)
    # the squared error is small beside two critics' gaps of 5e6 each
    assert metrics["critic/loss"] == pytest.approx(2 * 5e6 * metrics["critic/gap"], rel=1e-3)


def test_online_calibration_needs_whole_episodes_and_keeps_its_floor():
    config = Config(calibrate=True, gamma=0.9, **SMALL)
    stages = config.stages(SPEC, 1)
    with pytest.raises(InputError, match=r"give --online\.unit episode"):
        config.online(SPEC, stages, Online(steps=10))
    (stage,) = config.online(SPEC, stages, Online(steps=3, unit="episode", updates=7))
    assert stage.continues and stage.steps == 21
    assert stage.learner.config.calibrate and stage.learner.needs == ("return_to_go@0.9",)
    (stage,) = Config(**SMALL).online(SPEC, Config(**SMALL).stages(SPEC, 1), Online(steps=10))
    assert stage.steps == 10 and stage.learner.needs == ()
