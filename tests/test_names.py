"""What file names tell."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from rlkit.datasets.formats import d4rl_names


def origin(stem, env, observation, action):
    """Of a file with observations and actions of so many numbers, all 0."""
    return d4rl_names.origin(stem, env, np.zeros((2, observation)), np.zeros((2, action)))


@pytest.mark.parametrize(
    ("stem", "env", "limit", "widths"),
    [
        ("hopper_medium", "Hopper-v4", 1000, (11, 3)),
        ("hopper-medium-replay-v2", "Hopper-v4", 1000, (11, 3)),
        ("halfcheetah_medium_expert-v2", "HalfCheetah-v4", 1000, (17, 6)),
        ("walker_mixed", "Walker2d-v4", 1000, (17, 6)),
        ("walker2d_full_replay-v2", "Walker2d-v4", 1000, (17, 6)),
        ("door-demos-v0-bc-combined", "AdroitHandDoor-v1", 200, (39, 28)),
        ("hammer-v0_demos_clipped", "AdroitHandHammer-v1", 200, (46, 26)),
        ("relocate-expert-v1", "AdroitHandRelocate-v1", 200, (39, 30)),
        ("cartpole_random_v1.1.0", "CartPole-v1", 500, (4, 1)),
        ("pendulum_v1.1.0", "Pendulum-v1", 200, (3, 1)),
        ("Ant_maze_u-maze_noisy_multistart_True_multigoal_True_sparse_fixed", None, 700, (29, 8)),
        ("Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse", None, 1000, (29, 8)),
        ("antmaze-umaze-diverse-v2", None, 700, (29, 8)),
        ("antmaze-large-play-v2", None, 1000, (29, 8)),
        ("maze2d-umaze-sparse-v1", None, 300, (4, 2)),
        ("maze2d-eval-medium-dense-v1", None, 600, (4, 2)),
        ("maze2d-large-dense-v1", None, 800, (4, 2)),
        ("maze2d-large-sparse", None, 600, (4, 2)),
        ("maze2d-open-sparse", None, 150, (4, 2)),
        ("mini_kitchen_microwave_kettle_light_slider-v0", None, 280, (60, 9)),
        ("flow-merge-v0-idm", None, 750, (25, 5)),
        ("carla_lane_follow_flat-v0", None, 250, (6912, 2)),
        ("minigrid4rooms_random", None, 50, (147, 1)),
        ("bullet-hopper_medium_replay", None, 1000, (15, 3)),
        ("bullet-maze2d-umaze-sparse", None, 300, (4, 2)),
        ("grasshopper", None, None, (11, 3)),
        ("pencil", None, None, (45, 24)),
        ("pen_line", None, None, (45, 24)),
        ("walker_walk", None, None, (17, 6)),
        ("cartpole_swingup", None, None, (4, 1)),
    ],
)
def test_families(stem, env, limit, widths):
    known = origin(stem, None, *widths)
    assert (known.env, known.limit) == (env, limit)
    assert env is not None or known.notes


@pytest.mark.parametrize(
    ("stem", "id", "limit", "kwargs", "widths"),
    [
        ("pen-expert-v1", "AdroitHandPen-v1", 100, {}, (45, 24)),
        ("ant_medium_expert-v2", "Ant-v4", 1000, {"use_contact_forces": True}, (111, 8)),
    ],
)
def test_environments_that_differ_from_the_registered_ones(stem, id, limit, kwargs, widths):
    known = origin(stem, None, *widths)
    spec = EnvSpec.from_json(known.env)
    assert (spec.id, spec.max_episode_steps, spec.kwargs) == (id, limit, kwargs)
    assert known.limit == limit and json.loads(known.env)["entry_point"]
    assert spec.entry_point.split(".")[0] in ("gymnasium", "gymnasium_robotics")


@pytest.mark.parametrize("id", ["Hopper-v4", "HalfCheetah-v4", "Walker2d-v4", "Ant-v4", "CartPole-v1", "Pendulum-v1"])
def test_environments_of_gymnasium_are_registered(id):
    assert id in gymnasium.registry


def test_an_environment_that_is_given_overrides_the_name_but_not_the_recorded_time_limit():
    known = origin("pen-v0_expert_clipped", "AdroitHandPenSparse-v1", 45, 24)
    assert (known.env, known.limit, known.notes) == ("AdroitHandPenSparse-v1", 100, ())
    assert origin("unknown", "Acrobot-v1", 2, 1).limit == 500
    assert origin("unknown", "AdroitHandDoor-v1", 2, 1).limit == 200
    assert origin("unknown", "Mine-v0", 2, 1).limit is None


def test_faults_of_the_data_are_told_whatever_the_environment():
    assert "issue 77" in origin("antmaze-umaze-v2", "Mine-v0", 29, 8).notes[0]
    assert "issue 85" in origin("maze2d-umaze-sparse-v1", None, 4, 2).notes[0]


def test_a_name_needs_the_widths_of_its_environment():
    known = origin("walker2d_medium", None, 24, 6)
    assert (known.env, known.limit) == (None, None) and "the file has 24 and 6: the name is not used" in known.notes[0]
    given = origin("walker2d_medium", "Mine-v0", 24, 6)
    assert (given.env, given.limit) == ("Mine-v0", None) and given.notes == known.notes[:1]
