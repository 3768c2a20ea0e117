"""Rollouts under an agent: the mixed batch by hand, and what the model is told of the data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkit.acting import Reactive
from rlkit.models.dynamics import Scale
from rlkit.models.rollouts import FrozenModel, RewardAndScale, Rollouts, RolloutState
from rlkit.types import Box, Spec, Transitions

SPEC = Spec(Box((1,), (-np.inf,), (np.inf,)), Box((1,), (-1.0,), (1.0,)), 10)
# moments and range of the data: the model's change is standardised, and observations stay in [-1, 3.25]
SCALE = Scale(jnp.array([0.5]), jnp.array([2.0]), jnp.array([-1.0]), jnp.array([3.25]), jnp.array(True))


class Adding:
    """x' = x + a, ended from 3 on; the inputs are standardised with mean (1, 0) and deviation (2, 0.5)."""

    def sample(self, params, x, key):
        obs, action = 2 * x[:, :1] + 1, 0.5 * x[:, 1:]
        return (action - 0.5) / 2, (obs + action >= 3)[:, 0]


@dataclasses.dataclass(frozen=True)
class Pusher(Reactive):
    """Its state is its action, of which it plans the next two steps."""

    spec: Spec = SPEC
    needs: tuple = ()

    def act(self, state, memory, key, *, greedy):
        assert not greedy
        return jnp.stack([jnp.full(1, state), jnp.full(1, 100.0)]), memory

    def update(self, state, batch, key, step):
        return state + 1, {"batch/reward": batch.reward.mean()}


def reward(state, obs, action):
    return state - obs[:, 0] + 10 * action[:, 0]


def learner(length, real_share):
    return Rollouts(Pusher(), Adding(), reward, SPEC, length, real_share, gamma=0.9)


STATE = RolloutState(1.0, FrozenModel(RewardAndScale(5.0, SCALE), None, jnp.array([1.0, 0.0]), jnp.array([2.0, 0.5])))
BATCH = Transitions(
    obs=jnp.array([-7, -8, 0, 2.5, 1, 7, 8, 9], jnp.float32)[:, None],
    action=jnp.arange(8.0)[:, None] / 10,
    reward=jnp.arange(8.0),
    discount=jnp.array([0.9, 0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]),
    next_obs=jnp.arange(8.0)[:, None] + 50,
    extra={"row": jnp.arange(8)},
)


def test_the_mixed_batch_by_hand():
    """Two real steps; rollouts of 2 steps from 0, 2.5 and 1; of these the second ends, and 8 takes its place."""
    batch, told = learner(2, 0.25).mix(STATE, BATCH, jax.random.key(0))
    np.testing.assert_allclose(batch.obs[:, 0], [-7, -8, 0, 2.5, 1, 1, 8, 2])
    np.testing.assert_allclose(batch.action[:, 0], [0, 0.1, 1, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(batch.next_obs[:, 0], [50, 51, 1, 3.25, 2, 2, 3.25, 3])
    np.testing.assert_allclose(batch.discount, [0.9, 0, 0.9, 0, 0.9, 0.9, 0, 0])
    np.testing.assert_allclose(batch.reward, [0, 1, 15, 12.5, 14, 14, 7, 13])
    assert batch.extra == {}
    assert told["rollout/terminal"] == 0.5 and told["rollout/reward"] == pytest.approx(75.5 / 6)
    assert told["rollout/edge"] == pytest.approx(2 / 6)


@pytest.mark.slow
@pytest.mark.parametrize(("length", "share", "real"), [(3, 0.0, 0), (5, 0.3, 2), (1, 0.99, 7)])
def test_whatever_the_length_the_batch_keeps_its_size(length, share, real):
    batch, _ = learner(length, share).mix(STATE, BATCH, jax.random.key(0))
    assert len(batch.obs) == len(batch.reward) == len(batch.discount) == 8
    np.testing.assert_array_equal(batch.obs[:real], BATCH.obs[:real])
    np.testing.assert_array_equal(batch.action[real:], np.ones((8 - real, 1)))


def test_where_no_recorded_step_ends_none_of_a_rollout_does():
    """The rollout from 2.5 goes on at the edge of the data, where it is clipped to."""
    known = RewardAndScale(5.0, SCALE._replace(ends=jnp.array(False)))
    state = STATE._replace(world=STATE.world._replace(known=known))
    batch, _ = learner(2, 0.25).mix(state, BATCH, jax.random.key(0))
    np.testing.assert_allclose(batch.obs[2:, 0], [0, 2.5, 1, 1, 3.25, 2])
    np.testing.assert_allclose(batch.discount[2:], np.full(6, 0.9))


def test_the_base_learns_from_the_mixed_batch_and_the_world_stays():
    state, metrics = learner(2, 0.25).update(STATE, BATCH, jax.random.key(0), 0)
    assert state.base == 2 and metrics["batch/reward"] == pytest.approx((1 + 75.5) / 8)
    assert state.world is STATE.world
    batch, _ = learner(1, 0.0).mix(state, BATCH, jax.random.key(0))
    np.testing.assert_array_equal(batch.action, np.full((8, 1), 2.0))
