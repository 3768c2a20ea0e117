"""The two doors, what an agent is built for, and the statistics' way through JSON."""

import json

import jax
import numpy as np
import pytest
from gymnasium import spaces

from rlkit import types
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.types import InputError

OBS = np.array([[0.0, 10.0], [2.0, 10.0], [4.0, 10.0], [99.0, 99.0]])  # the final observation counts for nothing


def data(action_space=None, rewards=(1.0, 2.0, 3.0), actions=None):
    action_space = action_space or spaces.Box(-1, 1, (2,))
    actions = np.zeros((3, 2)) if actions is None else actions
    episode = {"observations": OBS, "actions": actions, "rewards": np.array(rewards)}
    return from_episodes([episode, {**episode, "rewards": -np.array(rewards)}], name="toy", action_space=action_space)


def options(**changes) -> DataOptions:
    return DataOptions("toy", **changes)


def test_without_normalisation_nothing_changes_a_bit():
    normaliser = Normaliser.fit(data(), options())
    values = np.random.default_rng(0).uniform(-1, 1, (1000, 2)).astype(np.float32)
    values[:2] = [[-1, 1], [np.nextafter(np.float32(1), np.float32(0)), -0.0]]
    for door in normaliser.obs, normaliser.action:
        assert door(values).tobytes() == values.tobytes()
    for door in normaliser.env_action, normaliser.reward:  # -0 becomes 0
        np.testing.assert_array_equal(door(values), values)


def test_standard_observations_use_the_drawable_rows():
    normaliser = Normaliser.fit(data(), options(normalise="standard"))
    std = np.sqrt(8 / 3)
    np.testing.assert_allclose(normaliser.obs(OBS[:3])[:, 0], np.array([-2, 0, 2]) / (std + 1e-3), rtol=1e-6)
    np.testing.assert_array_equal(normaliser.obs(OBS[:3])[:, 1], 0)


def test_limits_move_every_recorded_observation_to_the_unit_box():
    """A window may end with an episode's final observation, which must not lie outside of what is clipped to. The
    element that never moves is 10 in the data; dividing by its range would give nan."""
    still = OBS.copy()
    still[3] = [6.0, 10.0]
    episode = {"observations": still, "actions": np.zeros((3, 2)), "rewards": np.zeros(3)}
    episodes = from_episodes([episode], name="toy", action_space=spaces.Box(-2, 2, (2,)))
    normaliser = Normaliser.fit(episodes, options(normalise="limits"))
    np.testing.assert_allclose(normaliser.obs(still)[:, 0], [-1, -1 / 3, 1 / 3, 1], rtol=1e-6)
    np.testing.assert_array_equal(normaliser.obs(still)[:, 1], 0)
    np.testing.assert_allclose(normaliser.obs(np.array([9.0, 11.0])), [2, 1], rtol=1e-6)  # beyond is seen, not clipped
    plain = Normaliser.fit(episodes, options())
    actions = np.array([[-2.0, 1.0], [0.5, 2.0]])
    np.testing.assert_array_equal(normaliser.action(actions), plain.action(actions))
    np.testing.assert_array_equal(normaliser.action(actions), [[-1, 0.5], [0.25, 1]])
    box = spec(episodes, None, normaliser, "limits").observation
    assert (box.low, box.high) == ((-1.0, -1.0), (1.0, 1.0))


def test_rewards():
    raw = np.array([1.0, -3.0])
    standard = Normaliser.fit(data(), options(reward="standard"))
    np.testing.assert_allclose(standard.reward(raw), raw / np.sqrt(14 / 3), rtol=1e-6)
    ranged = Normaliser.fit(data(), options(reward="return-range", reward_scale=2, reward_shift=-1))
    np.testing.assert_allclose(ranged.reward(raw), raw * 1000 / 12 * 2 - 1, rtol=1e-6)
    for transform in "standard", "return-range":
        with pytest.raises(InputError, match=f"toy: .*{transform}"):
            Normaliser.fit(data(rewards=(0.0, 0.0, 0.0)), options(reward=transform))


def test_action_door_maps_the_bounds_to_one_and_back():
    space = spaces.Box(np.float32([-0.4, 2, -np.inf, 5]), np.float32([0.4, 6, np.inf, 5]))
    normaliser = Normaliser.fit(data(space, actions=np.full((3, 4), [0, 2, 7, 5])), options())
    ends = np.stack([space.low, space.high])
    np.testing.assert_array_equal(normaliser.action(ends), [[-1, -1, -np.inf, 0], [1, 1, np.inf, 0]])
    np.testing.assert_array_equal(normaliser.env_action(normaliser.action(ends)), ends)
    np.testing.assert_array_equal(normaliser.env_action(np.float32([2, -2, 1e6, 2])), np.float32([0.4, 2, 1e6, 5]))
    action = spec(data(space, actions=np.full((3, 4), [0, 2, 7, 5])), None).action
    assert (action.low, action.high) == ((-1, -1, -np.inf, -1), (1, 1, np.inf, 1))


def test_discrete_actions_are_numbered_from_zero_inside():
    normaliser = Normaliser.fit(data(spaces.Discrete(3, start=1), actions=[1, 2, 3]), options())
    raw = np.array([1, 3])
    assert normaliser.action(raw).tolist() == [0, 2]
    assert normaliser.env_action(normaliser.action(raw)).tolist() == raw.tolist()
    assert normaliser.action_low.size == 0


@pytest.mark.parametrize(
    "space, normalise",
    [
        (spaces.Box(-2, 2, (2,)), "standard"),
        (spaces.Box(-np.inf, np.inf, (2,)), "limits"),
        (spaces.Discrete(2), "standard"),
    ],
    ids=str,
)
def test_json_is_exact_and_the_doors_work_under_jit(space, normalise):
    actions = [0, 1, 1] if isinstance(space, spaces.Discrete) else np.zeros((3, 2))
    normaliser = Normaliser.fit(data(space, actions=actions), options(normalise=normalise, reward="standard"))
    text = json.dumps(normaliser.to_json(), allow_nan=False)
    again = Normaliser.from_json(json.loads(text))
    for old, new in zip(normaliser, again, strict=True):
        assert (old.dtype, old.shape, old.tobytes()) == (new.dtype, new.shape, new.tobytes())

    def both(doors, obs, action):
        return doors.obs(obs), doors.env_action(doors.action(action)), doors.reward(obs)

    inputs = OBS.astype(np.float32), np.asarray(actions)
    with jax.numpy_rank_promotion("allow"):  # the doors take any leading axes
        jitted = jax.jit(both)(normaliser, *inputs)
    for here, there in zip(both(normaliser, *inputs), jitted, strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-6, atol=1e-6)
        assert here.dtype == there.dtype


@pytest.mark.parametrize("damage", [{"obs_mean": ["x"]}, {"more": 1}])
def test_damaged_json_is_refused(damage):
    with pytest.raises(InputError, match="normaliser"):
        Normaliser.from_json({**Normaliser.fit(data(), options()).to_json(), **damage})


def test_spec():
    box = types.Box((2,), (-np.inf,) * 2, (np.inf,) * 2)
    assert spec(data(), None) == types.Spec(box, types.Box((2,), (-1, -1), (1, 1)), 3)
    assert spec(data(), 100).horizon == 100
    assert hash(spec(data(), 2)) == hash(spec(data(), 3))
    assert spec(data(spaces.Discrete(4), actions=[0, 1, 2]), None).action == types.Discrete(4)
