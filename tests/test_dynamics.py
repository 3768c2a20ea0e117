"""The dynamics model: a linear-Gaussian world is found again, and rollouts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkit.buffer import Buffer, stats
from rlkit.datasets import ActionOptions, DataOptions, Normaliser, from_episodes, spec
from rlkit.datasets.episodes import HAS_NEXT, TERMINAL
from rlkit.models import rewards
from rlkit.models.dynamics import LOG_VARIANCE, Ensemble, Moves, rollout, scale
from rlkit.models.rollouts import DynamicsModel, RewardAndScale

A, B = np.array([[-0.2, 0.1], [0.0, -0.3]]), np.array([0.3, 0.1])
NOISE = np.array([0.05, 0.2])


def buffer_of(episodes, needs=()):
    data = from_episodes(episodes, action=ActionOptions(low=(-1.0,), high=(1.0,)))
    return Buffer.from_episodes(data, Normaliser.fit(data, DataOptions("test")), needs), spec(data, None)


def linear_gaussian(number=1500, steps=4, seed=0):
    """s' = s + A s + B a + NOISE e; terminal where s_0 + a > 1."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(number):
        obs, actions, ended = [rng.uniform(-1, 1, 2)], [], []
        while len(actions) < steps and not any(ended):
            actions.append(rng.uniform(-1, 1, 1))
            ended.append(obs[-1][0] + actions[-1][0] > 1)
            obs.append(obs[-1] + A @ obs[-1] + B * actions[-1] + NOISE * rng.normal(size=2))
        found.append({"observations": np.array(obs), "actions": np.array(actions), "terminations": np.array(ended),
                      "rewards": np.zeros(len(actions))})  # fmt: skip
    return found


def test_the_scale_by_hand():
    steps = {"actions": np.zeros((2, 1), np.float32), "rewards": np.zeros(2)}
    buffer, _ = buffer_of([{"observations": np.array([[0, 5], [1, 5], [4, 5]], np.float32), **steps}] * 2)
    found = scale(buffer)
    np.testing.assert_allclose(found[:4], [[2, 0], [1, 1], [0, 5], [4, 5]])
    assert not found.ends and scale(buffer._replace(flags=buffer.flags.at[4].add(TERMINAL))).ends
    cut = buffer._replace(flags=buffer.flags.at[jnp.array([1, 4])].set(buffer.flags[1] & ~np.uint8(HAS_NEXT)))
    np.testing.assert_allclose(scale(cut)[:2], [[1, 0], [1, 1]])


def test_what_was_not_recorded_teaches_no_move_and_an_end_all_the_same():
    model = Ensemble(2, (8,), 2, 1e-2)
    net = model.init(jax.random.key(0), jnp.zeros(3))
    x, change = jnp.ones((2, 3)), jnp.array([[1.0, 1.0], [9.0, 9.0]])
    update = jax.jit(model.update)
    one, other = (
        update(net, Moves(x, change.at[1].set(v), jnp.array([False, True]), jnp.array([1.0, 0.0]))) for v in (9.0, -9.0)
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)
    third, _ = update(net, Moves(x, change, jnp.array([False, False]), jnp.array([1.0, 0.0])))
    assert model.predict(third.params, x)[2].mean() < model.predict(one[0].params, x)[2].mean()


def test_the_log_variance_keeps_its_bounds_and_its_gradient():
    model = Ensemble(1, (4,), 1, 1e-3)
    params = model.init(jax.random.key(0), jnp.zeros(2)).params

    def log_variance(shift):
        moved = jax.tree.map(lambda leaf: leaf + shift if leaf.shape[-1] == 3 else leaf, params)
        return model.predict(moved, jnp.zeros((1, 2)))[1][0, 0, 0]

    for shift in (-30.0, 30.0):
        value, slope = jax.jit(jax.value_and_grad(log_variance))(shift)
        assert LOG_VARIANCE[0] - 1e-3 <= value <= LOG_VARIANCE[1] + 1e-3 and slope > 0


@pytest.mark.slow
@pytest.mark.learning
def test_a_linear_gaussian_world_is_found_again():
    buffer, seen = buffer_of(linear_gaussian(), ("row",))
    model = Ensemble(3, (32, 32), 2, 3e-3)
    learner = DynamicsModel(model, seen, 256)

    @jax.jit
    def train(state):
        def body(step, state):
            keys = jax.random.split(jax.random.fold_in(jax.random.key(1), step))
            return learner.update(state, learner.sample(buffer, keys[0]), keys[1], step)[0]

        return jax.lax.fori_loop(0, 2000, body, state)

    state = train(learner.init(jax.random.key(0), RewardAndScale(None, scale(buffer)), stats(buffer)))
    net, known = jax.device_get((state.net, state.known.scale))
    rng = np.random.default_rng(1)
    obs, action = rng.uniform(-0.8, 0.8, (2000, 2)).astype(np.float32), rng.uniform(-1, 1, (2000, 1)).astype(np.float32)
    x = rewards.inputs(seen, state.mean, state.std, obs, action)
    found, log_variance, logit = model.predict(net.params, x)
    wanted = obs @ A.T + B * action
    error = np.abs(np.asarray(found.mean(0)) * known.std + known.mean - wanted).mean(0)
    spread = np.exp(0.5 * np.asarray(log_variance)) * known.std
    print(f"error of the mean {error} of noise {NOISE}; std {spread.mean((0, 1))}")
    assert (error < 0.25 * NOISE).all()
    np.testing.assert_allclose(spread.mean((0, 1)), NOISE, rtol=0.1)
    drawn = np.asarray(model.sample(net.params, x, jax.random.key(2))[0]) * known.std + known.mean - wanted
    np.testing.assert_allclose(drawn.std(0), NOISE, rtol=0.15)
    ends, clear = obs[:, 0] + action[:, 0] > 1, np.abs(obs[:, 0] + action[:, 0] - 1) > 0.1
    right = ((np.asarray(logit) > 0) == ends[None])[:, clear]
    assert 100 < ends[clear].sum() and right.mean() > 0.98, right.mean()


def test_rollouts_by_hand_begin_anew_after_an_end():
    """x' = x + a, ended where x' >= 3; the action is 1 for the first row and 2 for the second."""

    def step(obs, action, key):
        return obs + action, (obs + action >= 3)[:, 0]

    starts = jnp.array([[0, 0], [10, 20], [30, 40], [50, 60], [70, 0.5]], jnp.float32)[..., None]
    found = rollout(lambda obs, key: jnp.array([[1.0], [2.0]]), step, starts, jax.random.key(0))
    # row 0: 0, 1, 2 ends; 50 ends at once; 70. Row 1: 0, 2 ends; 40 ends at once; 60 too; 0.5
    np.testing.assert_array_equal(found.obs[..., 0], [[0, 0], [1, 2], [2, 40], [50, 60], [70, 0.5]])
    np.testing.assert_array_equal(found.next_obs, found.obs + found.action)
    np.testing.assert_array_equal(found.terminal, [[0, 0], [0, 1], [1, 1], [1, 1], [1, 0]])


def test_policy_and_world_draw_anew_at_every_step():
    def step(obs, action, key):
        return jax.random.normal(key, obs.shape), jnp.zeros(len(obs), bool)

    found = rollout(lambda obs, key: jax.random.normal(key, obs.shape), step, jnp.zeros((4, 3, 1)), jax.random.key(0))
    assert len(np.unique(found.action)) == len(np.unique(found.next_obs)) == 12
    assert not np.isin(found.action, found.next_obs).any()
