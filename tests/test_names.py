"""What file names tell."""

from __future__ import annotations

import json

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec

from rlkit.datasets.formats import d4rl_names


@pytest.mark.parametrize(
    ("stem", "env", "limit"),
    [
        ("hopper_medium", "Hopper-v4", 1000),
        ("hopper-medium-replay-v2", "Hopper-v4", 1000),
        ("halfcheetah_medium_expert-v2", "HalfCheetah-v4", 1000),
        ("walker_mixed", "Walker2d-v4", 1000),
        ("walker2d_full_replay-v2", "Walker2d-v4", 1000),
        ("door-demos-v0-bc-combined", "AdroitHandDoor-v1", 200),
        ("hammer-v0_demos_clipped", "AdroitHandHammer-v1", 200),
        ("relocate-expert-v1", "AdroitHandRelocate-v1", 200),
        ("cartpole_random_v1.1.0", "CartPole-v1", 500),
        ("pendulum_v1.1.0", "Pendulum-v1", 200),
        ("Ant_maze_u-maze_noisy_multistart_True_multigoal_True_sparse_fixed", None, 700),
        ("Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse", None, 1000),
        ("antmaze-umaze-diverse-v2", None, 700),
        ("antmaze-large-play-v2", None, 1000),
        ("maze2d-umaze-sparse-v1", None, 300),
        ("maze2d-eval-medium-dense-v1", None, 600),
        ("maze2d-large-dense-v1", None, 800),
        ("maze2d-large-sparse", None, 600),
        ("maze2d-open-sparse", None, 150),
        ("mini_kitchen_microwave_kettle_light_slider-v0", None, 280),
        ("flow-merge-v0-idm", None, 750),
        ("carla_lane_follow_flat-v0", None, 250),
        ("minigrid4rooms_random", None, 50),
        ("bullet-hopper_medium_replay", None, 1000),
        ("bullet-maze2d-umaze-sparse", None, 300),
        ("grasshopper", None, None),
        ("pencil", None, None),
    ],
)
def test_families(stem, env, limit):
    known = d4rl_names.origin(stem, None)
    assert (known.env, known.limit) == (env, limit)
    assert env is not None or known.notes


@pytest.mark.parametrize(
    ("stem", "id", "limit", "kwargs"),
    [
        ("pen-expert-v1", "AdroitHandPen-v1", 100, {}),
        ("ant_medium_expert-v2", "Ant-v4", 1000, {"use_contact_forces": True}),
    ],
)
def test_environments_that_differ_from_the_registered_ones(stem, id, limit, kwargs):
    known = d4rl_names.origin(stem, None)
    spec = EnvSpec.from_json(known.env)
    assert (spec.id, spec.max_episode_steps, spec.kwargs) == (id, limit, kwargs)
    assert known.limit == limit and json.loads(known.env)["entry_point"]
    assert spec.entry_point.split(".")[0] in ("gymnasium", "gymnasium_robotics")


@pytest.mark.parametrize("id", ["Hopper-v4", "HalfCheetah-v4", "Walker2d-v4", "Ant-v4", "CartPole-v1", "Pendulum-v1"])
def test_environments_of_gymnasium_are_registered(id):
    assert id in gymnasium.registry


def test_an_environment_that_is_given_overrides_the_name_but_not_the_recorded_time_limit():
    known = d4rl_names.origin("pen-v0_expert_clipped", "AdroitHandPenSparse-v1")
    assert (known.env, known.limit, known.notes) == ("AdroitHandPenSparse-v1", 100, ())
    assert d4rl_names.origin("unknown", "Acrobot-v1").limit == 500
    assert d4rl_names.origin("unknown", "AdroitHandDoor-v1").limit == 200
    assert d4rl_names.origin("unknown", "Mine-v0").limit is None


def test_faults_of_the_data_are_told_whatever_the_environment():
    assert "issue 77" in d4rl_names.origin("antmaze-umaze-v2", "Mine-v0").notes[0]
    assert "issue 85" in d4rl_names.origin("maze2d-umaze-sparse-v1", None).notes[0]
