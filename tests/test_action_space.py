"""What the actions are: as the source says, as the user tells, as the data show, and as the environment has them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from gymnasium import Env, spaces

from rlkit.datasets import ActionOptions, DataOptions, check_env, from_episodes, load
from rlkit.datasets.environment import OBSERVATION
from rlkit.types import InputError

UNIT = spaces.Box(-1, 1, (1,), np.float32)


def episodes(actions, observations=None, **options):
    """One episode with the given actions; observation i is [i]."""
    actions = np.asarray(actions)
    if observations is None:
        observations = np.arange(len(actions) + 1.0)[:, None]
    episode = {"observations": observations, "actions": actions, "rewards": np.ones(len(actions))}
    return from_episodes([episode], name="toy", **options)


class World(Env):
    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space


# --- without an environment ---


def test_doses_from_zero_are_not_taken_for_the_interval_of_a_tanh():
    """An agent that believed in [-1, 1] would prescribe negative doses."""
    data = episodes([[0.0], [0.8], [0.25]])
    assert (data.action_space.low, data.action_space.high) == (0, np.float32(0.8))
    assert data.derived == (OBSERVATION, "action kind", "action bounds")
    assert "the data do not describe their actions: taken as amounts within the range of the data, [0, 0.8]" in str(
        data.report.notes
    )
    told = episodes([[0.0], [0.8], [0.25]], action=ActionOptions(low=(0.0,), high=(1.0,)))
    assert told.action_space == spaces.Box(0, 1, (1,)) and told.derived == (OBSERVATION,)
    assert not any("actions" in note for note in told.report.notes)


def test_whole_doses_are_amounts_where_the_user_says_so():
    assert episodes([0, 250, 100]).action_space == spaces.Discrete(251)
    told = episodes([0, 250, 100], action=ActionOptions("continuous"))
    assert told.action_space == spaces.Box(0, 250, (1,)) and told.action.tolist() == [[0], [250], [100], [0]]
    assert told.derived == (OBSERVATION, "action bounds")


def test_choices_that_nobody_took_and_choices_from_one():
    counted = episodes([1, 3, 1])
    assert counted.action_space == spaces.Discrete(4)
    assert "none below 1 was taken: if they count from 1, say --action.first 1" in counted.report.notes[-1]
    told = episodes([1, 3, 1], action=ActionOptions(choices=5, first=1))
    assert told.action_space == spaces.Discrete(5, start=1) and told.derived == (OBSERVATION,)
    stored_as_floats = episodes([[1.0], [3.0]], action=ActionOptions("discrete", first=1))
    assert stored_as_floats.action_space == spaces.Discrete(3, start=1)
    assert stored_as_floats.action.dtype == np.int32 and stored_as_floats.action[:2].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("actions", "told", "words"),
    [
        ([[0.5]], ActionOptions("discrete"), "index 0, actions: 0.5 is no whole number"),
        ([0, 3], ActionOptions(choices=3), "index 1, actions: 3 is beyond the last of 3 choices from 0"),
        ([1, 3], ActionOptions(choices=3), "3 is beyond the last of 3 choices from 0; if they count from 1, say"),
        ([2, 0], ActionOptions(first=1), "index 1, actions: 0 is below 1, the number of the first choice"),
        ([[0.5], [1.5]], ActionOptions(high=(1.0,)), r"index 1, actions: element 0 is 1.5, outside \[0.5, 1.0\]"),
        ([[0.5]], ActionOptions(low=(0.0, 0.0)), "--action.low has 2 numbers, and an action 1"),
        ([[0.5]], ActionOptions(low=(2.0,)), "component 0 of the actions has the bounds 2.0, 0.5"),
        ([0], ActionOptions(low=(0.0,), choices=3), "are of choices"),
        ([0], ActionOptions("continuous", first=1), "are of choices"),
        ([0], ActionOptions("discrete", high=(1.0,)), "are of amounts"),
        ([[0, 1]], ActionOptions(), "several choices a step are not served"),
        ([[0.0, 1.0]], ActionOptions("discrete"), "2 numbers wide, but a choice is one number"),
    ],
)
def test_what_contradicts_is_refused(actions, told, words):
    with pytest.raises(InputError, match=f"^toy: .*{words}"):
        episodes(actions, action=told)


def test_data_that_describe_their_actions_are_not_told_what_they_are():
    with pytest.raises(InputError, match="the data describe their actions themselves .*: leave --action out"):
        episodes([[0.5]], action_space=UNIT, action=ActionOptions(high=(1.0,)))


def test_floats_of_pandas_are_refused_with_both_readings_unless_somebody_says(tmp_path):
    """A column of integers becomes floats as soon as one row has none: the final observation's."""
    path = tmp_path / "x.csv"
    path.write_text("episode,step,observation,action,reward,terminated\n0,0,0,1.0,1,0\n0,1,1,0.0,1,0\n0,2,2,,,\n")
    options = DataOptions(str(path), cache_dir=tmp_path / "cache")
    with pytest.raises(InputError, match="whole numbers written as floats.*discrete .choices. or .*continuous"):
        load(options)
    chosen = load(dataclasses.replace(options, action=ActionOptions("discrete")))
    assert chosen.action_space == spaces.Discrete(2) and chosen.action[:2].tolist() == [1, 0]
    amounts = load(dataclasses.replace(options, action=ActionOptions("continuous")))
    assert amounts.action_space == spaces.Box(0, 1, (1,))
    by_environment = load(dataclasses.replace(options, env="Mine-v0"))
    world = World(spaces.Box(-9, 9, (1,)), spaces.Discrete(3))
    assert check_env(by_environment, world).action[:2].tolist() == [1, 0]


# --- with an environment ---


def test_a_derived_space_only_has_to_fit_and_the_environments_is_taken():
    """Three of four actions were seen; choices count from 1; amounts were stored as integers, choices as floats."""
    observation = spaces.Box(-9, 9, (1,))
    for actions, space, stored in [
        ([0, 2, 1], spaces.Discrete(4), [0, 2, 1]),
        ([1, 3, 2], spaces.Discrete(3, start=1), [1, 3, 2]),
        ([0, 2, 1], spaces.Box(0, 5, (1,)), [[0], [2], [1]]),
        ([[0.0], [2.0], [1.0]], spaces.Discrete(3), [0, 2, 1]),
        ([[-1.9], [0.5], [1.5]], spaces.Box(-2, 2, (1, 1)), [[np.float32(-1.9)], [0.5], [1.5]]),
    ]:
        data = check_env(episodes(actions), World(observation, space))
        assert data.action_space == space and data.action[:3].tolist() == stored
        assert data.derived == () and data.report.notes == ()


@pytest.mark.parametrize(
    ("actions", "told", "space", "words"),
    [
        ([0, 4], ActionOptions(), spaces.Discrete(4), r"action\[0\] goes from 0 to 4"),
        ([[0.5], [1.0]], ActionOptions(), spaces.Discrete(4), "action is a Box, the environment's a Discrete"),
        ([0, 1], ActionOptions("discrete"), spaces.Box(0, 5, (1,)), "action is a Discrete, the environment's a Box"),
        ([[0.5]], ActionOptions(), spaces.Box(-1, 1, (2,)), "action has 1 numbers, the environment's 2"),
        ([[0.5]], ActionOptions(), spaces.MultiBinary(2), "action is a Box, the environment's a MultiBinary"),
        ([[0.5]], ActionOptions(low=(0,), high=(1,)), UNIT, r"action low\[0\] is 0, the environment's -1"),
    ],
)
def test_what_does_not_fit_an_environment_is_refused(actions, told, space, words):
    with pytest.raises(InputError, match=f"toy does not belong to environment World: {words}"):
        check_env(episodes(actions, action=told), World(spaces.Box(-9, 9, (1,)), space))


def test_a_flat_table_becomes_what_the_environment_observes():
    """Numbers of states, and a row whose first number is a Discrete part of a Dict."""
    states = check_env(episodes([0, 1]), World(spaces.Discrete(4), spaces.Discrete(2)))
    assert states.obs.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    parts = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(-9, 9, (2,))})
    numbers = np.array([[0, 5, 6], [1, 7, 8], [1, 3, 4]])
    whole = check_env(episodes([0, 1], numbers), World(parts, spaces.Discrete(2)))
    assert whole.obs.tolist() == [[1, 0, 5, 6], [0, 1, 7, 8], [0, 1, 3, 4]] and whole.observation_space == parts
    flat = np.array([[1, 0, 5, 6], [0, 1, 7, 8], [0, 1, 3, 4]])
    assert check_env(episodes([0, 1], flat), World(parts, spaces.Discrete(2))).obs.tolist() == flat.tolist()
    with pytest.raises(InputError, match="observation: 2.0 is not one of the whole numbers 0 to 1"):
        check_env(episodes([0, 1]), World(spaces.Discrete(2), spaces.Discrete(2)))
    with pytest.raises(InputError, match="observation has 1 numbers, the environment's 4"):
        check_env(episodes([0, 1]), World(parts, spaces.Discrete(2)))


# --- several datasets ---


def csv(path, first, actions):
    lines = ["episode,step,observation,action,reward,terminated"]
    for step, action in enumerate(actions):
        lines.append(f"0,{step},{first + step},{action},1,{int(step == len(actions) - 1)}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_several_datasets_are_joined_with_a_space_that_holds_the_actions_of_all(tmp_path):
    names = csv(tmp_path / "a.csv", 0, [0.5, 0.25]), csv(tmp_path / "b.csv", 10, [-3.0])
    data = load(DataOptions(names, cache_dir=tmp_path / "cache"))
    assert data.name == "a.csv + b.csv"
    assert data.obs[:, 0].tolist() == [0, 1, 1, 10, 10] and data.t.tolist() == [0, 1, 2, 0, 1]
    assert data.action[:, 0].tolist() == [0.5, 0.25, 0, -3, 0]
    assert data.action_space == spaces.Box(-3, 0.5, (1,))
    assert (data.report.episodes, data.report.steps, data.report.terminal_episodes) == (2, 3, 2)
    assert sum("[-3, 0.5]" in note for note in data.report.notes) == 1
    assert sum("describe their actions" in note for note in data.report.notes) == 1
    alone = load(DataOptions(names[:1], cache_dir=tmp_path / "cache"))
    assert alone.name == "a.csv" and alone.fingerprint != data.fingerprint


def test_datasets_of_other_kinds_are_not_joined(tmp_path):
    names = csv(tmp_path / "a.csv", 0, [0.5]), csv(tmp_path / "b.csv", 0, ['"[1, 2]"'])
    with pytest.raises(InputError, match="b.csv and a.csv cannot be joined: action has 2 numbers, another part's 1"):
        load(DataOptions(names, cache_dir=tmp_path / "cache"))
