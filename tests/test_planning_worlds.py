"""The small worlds of points: walks that meet a constraint, a block in the way, and two joined corridors."""

from __future__ import annotations

import numpy as np
import pytest

import envs
from envs.recording import rollout
from envs.toys import detour, u_turn, walk


@pytest.mark.parametrize(
    ("world", "number", "tolerance"),
    [(walk, 1000, 1e-12), (detour, 100, 1e-12), (u_turn, 100, 1e-12)],
)
def test_references_are_those_of_the_table_and_both_are_made_by_their_id(world, number, tolerance):
    env = envs.make(world.ENV)
    assert env.spec.max_episode_steps == world.STEPS
    low, high, *_ = envs.REFERENCES[world.ENV]
    assert world.references(number) == pytest.approx((low, high), abs=tolerance)


@pytest.mark.parametrize("world", [walk, detour, u_turn])
def test_recording_again_gives_the_same_episodes_and_an_episode_follows_from_its_number(world):
    some, more = world.record(3), world.record(5)
    for one, other in zip(some, more, strict=False):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_walk_meets_its_constraint_and_its_label_is_the_return():
    episodes = walk.record(200)
    ends = np.array([episode["observations"][-1] for episode in episodes])
    labels = np.array([episode["rewards"].sum() for episode in episodes])
    met = walk.meets(ends)
    assert labels.tolist() == [0, 1] * 100
    assert met[labels == 0, 0].mean() > 0.98 and met[labels == 1, 1].mean() > 0.98  # of float32's last digit
    assert 0.3 < met.all(-1).mean() < 0.5
    for episode in episodes[:5]:
        np.testing.assert_allclose(np.diff(episode["observations"], axis=0), episode["actions"], atol=1e-6)


def test_the_world_pays_for_an_end_that_meets_both_constraints():
    env = envs.make(walk.ENV)
    for distance, paid in ((0.5, 0.0), (0.85, 1.0), (1.2, 0.0)):
        action = np.array([distance / walk.STEPS, 0.0])
        rows = rollout(env, lambda obs, action=action: action, 0)
        assert rows["rewards"].tolist() == [0.0] * (walk.STEPS - 1) + [paid]


def test_the_mean_of_both_ways_ends_at_the_block_and_each_way_at_the_goal():
    env = envs.make(detour.ENV)
    above, below = detour.behaviour(1.0, 1.0), detour.behaviour(1.0, -1.0)
    for policy in (above, below):
        assert rollout(env, policy, 3)["rewards"].sum() > 35
    rows = rollout(env, lambda obs: (above(obs) + below(obs)) / 2, 3)
    assert rows["rewards"].sum() == 0
    assert -0.31 < rows["observations"][-1][0] < -0.19  # nobody passes through
    recorded = np.concatenate([episode["observations"] for episode in detour.record(20)])
    assert detour.is_free(recorded).all()


def test_the_goal_round_the_turn_ends_the_episode_and_is_seldom_reached_in_the_data():
    env = envs.make(u_turn.ENV)
    rows = rollout(env, u_turn.direct, 0)
    steps = len(rows["rewards"])
    assert rows["rewards"].tolist() == [0.0] * (steps - 1) + [1.0] and 35 < steps < 45
    assert rows["terminations"][-1] and not rows["truncations"][-1]
    straight = rollout(env, lambda obs: np.array([1.0, 0.0], np.float32), 0)
    assert straight["truncations"][-1] and straight["observations"][-1][0] <= -u_turn.WALL[0]
    recorded = u_turn.record(60)
    assert 0.1 < np.mean([episode["rewards"].sum() for episode in recorded]) < 0.4
    assert u_turn.is_free(np.concatenate([episode["observations"] for episode in recorded])).all()
