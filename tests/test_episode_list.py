"""Keys of episodes in memory: those of other libraries are understood or refused, and none is passed over."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from rlkit.datasets import from_episodes
from rlkit.datasets.episode_list import NAMES, jumps
from rlkit.types import InputError

OBS = np.arange(8.0, dtype=np.float32).reshape(4, 2)
PLAIN = {
    "observations": OBS,
    "actions": np.array([[0.1], [0.2], [0.3]]),
    "rewards": np.array([1.0, 2.0, 3.0]),
    "terminations": np.array([False, False, True]),
    "truncations": np.zeros(3, bool),
}


def made(**changes):
    return from_episodes([{key: value for key, value in (PLAIN | changes).items() if value is not None}], name="toy")


@pytest.mark.parametrize("field", PLAIN)
def test_every_name_of_a_field_is_the_field(field):
    wanted = made().fingerprint
    for name in NAMES[field]:
        assert made(**{field: None, name: PLAIN[field]}).fingerprint == wanted


def test_names_of_ends_are_not_passed_over():
    assert made(terminations=None, terminals=PLAIN["terminations"]).report.terminal_episodes == 1
    cut = made(terminations=None, timeouts=PLAIN["terminations"], truncations=None).report
    assert (cut.terminal_episodes, cut.truncated_episodes, cut.unflagged_ends) == (0, 1, 0)


@pytest.mark.parametrize(
    ("terminations", "truncations", "terminal"),
    [(None, None, 1), (None, [0, 0, 1], 0), (None, [0, 0, 0], 1), ([0, 0, 1], None, 1), ([0, 0, 0], None, 0)],
)
def test_dones_say_that_an_episode_ended_and_the_other_flag_why(terminations, truncations, terminal):
    report = made(terminations=terminations, truncations=truncations, dones=[0, 0, 1]).report
    assert (report.terminal_episodes, report.truncated_episodes, report.unflagged_ends) == (terminal, 1 - terminal, 0)
    alone = terminations is None and truncations is None
    assert any("dones is read as" in note for note in report.notes) == alone


def test_one_flag_for_the_episode_is_that_of_its_last_step():
    for flag in (True, 1, np.bool_(True), np.array(True)):
        assert made(terminations=None, terminated=flag).fingerprint == made().fingerprint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"terminal_flags": [0, 0, 1]}, "unknown key 'terminal_flags', do you mean 'terminals'.*known: observations"),
        ({"speed": [0, 0, 1]}, r"unknown key 'speed' \(known: .*under infos"),
        ({"terminals": [0, 0, 1]}, "terminations and terminals are names of the same field"),
        ({"dones": [0, 1, 1]}, "index 1, dones: 1, but terminations and truncations say otherwise"),
        ({"dones": [0, 0, 2]}, "index 2, dones: 2"),
        ({"terminations": [0, 1], "truncations": None, "dones": [0, 0, 1]}, "terminations: 2 rows, but dones has 3"),
        ({"observations": OBS[:3]}, "3 rows for 3 steps, not 4.*or give next_observations"),
        ({"next_observations": OBS[1:] + [[0, 0], [1, 0], [0, 0]]}, "index 1, next_observations: not the .* index 2"),
        ({"next_observations": OBS[1:] + [[0, 0], [0, 0], [1, 0]]}, "index 2, next_observations: not the .* index 3"),
        ({"next_observations": OBS}, "next_observations: 4 rows and observations 4 for 3 steps"),
        ({"next_observations": OBS[1:, :1]}, r"next_observations: shape \[1\], but observations has \[2\]"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(changes, words):
    with pytest.raises(InputError, match=f"^toy: episode 0.*{words}"):
        made(**changes)


def test_next_observations_give_the_final_one():
    wanted = made().fingerprint
    for observations in (OBS, OBS[:3]):
        for name in NAMES["next_observations"]:
            assert made(observations=observations, **{name: OBS[1:].astype(np.float64)}).fingerprint == wanted
    single = {key: values[:1] for key, values in PLAIN.items()}
    assert from_episodes([single | {"next_obs": OBS[1:2]}]).obs.tolist() == OBS[:2].tolist()


def test_next_observations_of_a_dict_space():
    space = spaces.Dict({"a": spaces.Box(-9, 9, (1,)), "b": spaces.Box(-9, 9, (1,))})
    parts = {"a": OBS[:, :1], "b": OBS[:, 1:]}
    changed = {"observations": {key: column[:3] for key, column in parts.items()}}
    following = {key: column[1:] for key, column in parts.items()}
    data = from_episodes([PLAIN | changed | {"next_obs": following}], observation_space=space)
    assert data.obs.tolist() == OBS.tolist()
    following["b"] = following["b"] + [[1], [0], [0]]
    with pytest.raises(InputError, match="episode 0, index 0, next_observations/b: not the observation of index 1"):
        from_episodes([PLAIN | changed | {"next_obs": following}], observation_space=space)


def test_objects_may_have_other_attributes():
    thing = SimpleNamespace(obs=OBS, act=None, action=PLAIN["actions"], reward=[1, 2, 3], terminated=True, name="x")
    assert from_episodes([thing]).report.terminal_episodes == 1


def test_jumps_by_hand():
    nan = np.nan
    observations = np.array([[0, nan], [1, nan], [2, 5], [3, nan]])
    successors = np.array([[1, nan], [2, nan], [3, nan], [9, 9]])
    assert jumps(observations, successors).tolist() == [False, True, False]
    assert jumps(observations[:, 0], successors[:, 0]).tolist() == [False] * 3
    assert jumps(observations[:1], successors[:1]).tolist() == []
