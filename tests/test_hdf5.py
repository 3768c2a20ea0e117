"""D4RL's layouts and the flat one: tiny files, worked by hand."""

from __future__ import annotations

import re

import h5py
import numpy as np
import pytest
from gymnasium.spaces import Discrete

from rlkit.datasets import ActionOptions, DataOptions, rows
from rlkit.datasets.formats import hdf5
from rlkit.datasets.options import UNTOLD
from rlkit.datasets.untrusted import fields
from rlkit.types import InputError

# Seven steps; the observation of step i is [i, -i], so that a wrong successor shows.
OBSERVATIONS = np.array([[i, -i] for i in range(7)], np.float32)
ACTIONS = np.linspace(-0.5, 0.7, 7, dtype=np.float32)[:, None]
REWARDS = np.arange(7, dtype=np.float32)


def write(path, **changes):
    """The seven steps, with fields added, replaced or (None) left out; "infos/x" makes a group."""
    stored = {"observations": OBSERVATIONS, "actions": ACTIONS, "rewards": REWARDS, "terminals": np.zeros(7, bool)}
    with h5py.File(path, "w") as root:
        for name, values in (stored | changes).items():
            if values is not None:
                root[name] = values
    return path


def flags(*steps):
    values = np.zeros(7, bool)
    values[list(steps)] = True
    return values


def read(path, env=None, infos=False):
    return hdf5.read(path, options=DataOptions(str(path), env=env), infos=infos)


def test_v1_ends_at_terminals_and_timeouts_and_has_no_final_observation(tmp_path):
    wide = {"observations": np.arange(77.0).reshape(7, 11), "actions": np.zeros((7, 3))}
    path = write(tmp_path / "hopper_medium-v1.hdf5", terminals=flags(1), timeouts=flags(4), **wide)
    recording = read(path)
    assert recording.name == "hopper_medium-v1.hdf5"
    np.testing.assert_array_equal(recording.observations, wide["observations"])
    np.testing.assert_array_equal(recording.actions, wide["actions"])
    np.testing.assert_array_equal(recording.rewards, REWARDS)
    np.testing.assert_array_equal(recording.terminations, flags(1))
    np.testing.assert_array_equal(recording.truncations, flags(4))
    assert recording.lengths.tolist() == [2, 3, 2]
    assert not recording.has_final.any() and recording.finals.shape == (3, 11)
    assert recording.action_space is None and recording.observation_space is None
    assert recording.env_spec == "Hopper-v4" and "Hopper-v2" in " ".join(recording.notes)


@pytest.mark.parametrize(
    ("name", "width", "actions", "note"),
    [
        ("pen_expert.hdf5", 45, np.zeros((210, 4)), "45 numbers .* and 24 in an action.* has 45 and 4"),
        ("walker_expert.hdf5", 24, np.zeros((210, 6)), "17 numbers .* and 6 in an action.* has 24 and 6"),
        ("cartpole_v1.hdf5", 4, np.full(210, 0.5), "choices of 0 to 1, and the file has other actions"),
        ("pen_line.hdf5", 45, np.zeros((210, 24)), None),
        ("walker_walk.hdf5", 17, np.zeros((210, 6)), None),
        ("cartpole_swingup.hdf5", 4, np.zeros((210, 1)), None),
    ],
)
def test_a_name_that_the_contents_do_not_confirm_tells_nothing(tmp_path, name, width, actions, note):
    """Without end marks the time limit of the name would cut pen's file every 100 steps."""
    rows = len(actions)
    stored = {"observations": np.zeros((rows, width)), "actions": actions, "rewards": np.zeros(rows)}
    path = write(tmp_path / name, **stored, terminals=np.zeros(rows))
    with pytest.raises(InputError, match="no time limit is known from its name and contents"):
        read(path)
    recording = read(write(path, **stored, terminals=np.zeros(rows), timeouts=np.zeros(rows)))
    assert recording.lengths.tolist() == [rows] and recording.env_spec is None and recording.action_space is None
    told = [line for line in recording.notes if "the name is not used" in line]
    assert len(told) == (note is not None) and re.search(note or "", " ".join(told))
    assert "name it with --env" in recording.notes[-1]


def test_v2_takes_final_observations_from_next_observations(tmp_path):
    successors = OBSERVATIONS + [1, -1]
    successors[1], successors[4] = [100, 100], [200, 200]
    path = write(
        tmp_path / "x.hdf5", terminals=flags(1), timeouts=flags(4), next_observations=successors.astype(np.float64)
    )
    recording = read(path)
    assert recording.lengths.tolist() == [2, 3, 2]
    assert recording.has_final.all()
    assert recording.finals.tolist() == [[100, 100], [200, 200], [7, -7]]
    assert recording.notes == [
        "neither the file's name nor its contents tell the environment: name it with --env to evaluate"
    ]


def test_v2_jump_in_next_observations_ends_an_episode_without_a_flag(tmp_path):
    successors = OBSERVATIONS + [1, -1]
    successors[2] = [50, 50]
    recording = read(write(tmp_path / "x.hdf5", next_observations=successors))
    assert recording.lengths.tolist() == [3, 4]
    assert recording.finals.tolist() == [[50, 50], [7, -7]]
    assert not recording.terminations.any() and not recording.truncations.any()
    assert "episode ends without a flag" in recording.notes[0] and recording.notes[0].endswith(": 1")


def test_v0_ends_at_terminals_and_at_the_time_limit_since_the_last_end(tmp_path):
    rows = 230
    stored = {
        "observations": np.zeros((rows, 45)),
        "actions": np.zeros((rows, 24)),
        "rewards": np.zeros((rows, 1)),
        "terminals": (np.arange(rows) == 14).astype(np.float32)[:, None],
    }
    recording = read(write(tmp_path / "pen-v0_expert_clipped.hdf5", **stored))
    assert recording.lengths.tolist() == [15, 100, 100, 15]
    assert recording.rewards.shape == (rows,)
    assert np.flatnonzero(recording.terminations).tolist() == [14] and not recording.truncations.any()
    assert recording.notes[0].endswith("time limit of 100 steps: 2")


@pytest.mark.parametrize(("env", "lengths"), [("MountainCarContinuous-v0", [999, 1]), ("Mine-v0", [1000])])
def test_v0_of_unknown_name_asks_for_the_environment(tmp_path, env, lengths):
    stored = {"observations": np.zeros((1000, 2)), "actions": np.zeros((1000, 2)), "rewards": np.zeros(1000)}
    path = write(tmp_path / "mine.hdf5", **stored, terminals=np.zeros(1000))
    with pytest.raises(InputError, match=r"mine.hdf5: has none of timeouts.*--env"):
        read(path)
    recording = read(path, env=env)
    assert recording.lengths.tolist() == lengths and recording.env_spec == env


def test_flat_layout_keeps_a_false_terminal_in_mid_episode(tmp_path):
    path = write(
        tmp_path / "cartpole_v1.1.0.h5",
        observations=np.zeros((7, 4)),
        actions=np.array([0, 1, 1, 0, 0, 0, 1], np.int32),
        terminals=flags(1, 2).astype(np.float32),
        episode_terminals=flags(2, 6).astype(np.float32),
        discrete_action=True,
        version="1.0",
    )
    recording = read(path)
    assert recording.lengths.tolist() == [3, 4]
    np.testing.assert_array_equal(recording.terminations, flags(1, 2))
    assert not recording.truncations.any() and not recording.has_final.any()
    assert recording.choices and recording.actions.tolist() == [0, 1, 1, 0, 0, 0, 1]
    assert recording.env_spec == "CartPole-v1" and recording.notes == []


def test_rows_after_the_last_end_are_an_episode(tmp_path):
    recording = read(write(tmp_path / "x.h5", episode_terminals=flags(3)))
    assert recording.lengths.tolist() == [4, 3]


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32])
def test_choices_of_a_known_environment_in_any_dtype(tmp_path, dtype):
    path = write(tmp_path / "x.h5", actions=np.zeros((7, 1), dtype), timeouts=flags(6))
    episodes = rows.assemble(read(path, env="CartPole-v1"))
    assert episodes.action_space == Discrete(1) and episodes.action.shape == (8,)
    assert episodes.action.dtype == np.int32


def test_integers_are_choices_and_floats_are_amounts(tmp_path):
    def load(actions, told=UNTOLD, **fields):
        recording = read(write(tmp_path / "x.h5", actions=actions, timeouts=flags(6), **fields))
        return rows.assemble(recording, action=told)

    assert load(np.arange(7)).action_space == Discrete(7)
    amounts = load(np.arange(7.0))
    assert (amounts.action_space.low, amounts.action_space.high) == (0, 6)
    assert "--action.kind discrete that they are choices" in amounts.report.notes[-1]
    assert load(np.arange(7.0), ActionOptions("discrete")).action_space == Discrete(7)
    assert load(np.arange(7)[:, None], discrete_action=False).action_space == amounts.action_space


def test_infos_only_when_asked_for_and_metadata_never(tmp_path):
    extra = {"infos/qpos": OBSERVATIONS, "infos/deep/speed": REWARDS, "infos/short": np.zeros(3), "metadata/a": "text"}
    path = write(tmp_path / "x.hdf5", timeouts=flags(6), surprise=REWARDS, **extra)
    assert read(path).infos == {}
    recording = read(path, infos=True)
    assert sorted(recording.infos) == ["deep/speed", "qpos"]
    np.testing.assert_array_equal(recording.infos["qpos"], OBSERVATIONS)
    assert "fields that were not read: surprise" in recording.notes
    assert "infos without one row of numbers per step were left out: short" in recording.notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": None, "terminals": None}, "no field rewards, terminals .found: actions, observations"),
        ({"rewards": np.zeros(6)}, "rewards has 6 rows where observations has 7"),
        ({"next_observations": np.zeros((7, 3))}, r"next_observations has shape \(7, 3\) where .* \(7, 2\)"),
        ({"terminals": np.array([0, 0, 2, 0, 0, 0, 0])}, r"terminals\[2\] is 2; expected 0 or 1"),
        ({"timeouts": np.array([0, 0, 0, np.nan, 0, 0, 0])}, r"timeouts\[3\] is nan"),
        ({"rewards": np.zeros((7, 2))}, r"rewards has shape \(7, 2\)"),
        ({"observations": np.zeros((0, 2)), "actions": np.zeros(0), "rewards": [], "terminals": []}, "has no rows"),
        ({"actions": np.array([b"left"] * 7)}, "actions is not an array of numbers"),
        (
            {"actions": np.array([0, 1, -1, 0, 0, 0, 0])},
            "index 2, actions: -1 is below 0, the number of the first",
        ),
        ({"actions": np.zeros((7, 2), np.int64)}, "several choices a step are not served"),
        ({"actions": np.full(7, 0.5), "discrete_action": True}, "index 0, actions: 0.5 is no whole number"),
        ({"discrete_action": [True, False]}, "discrete_action: not one number"),
        ({"observations/nested": np.zeros(7), "observations": None}, "observations is not an array"),
        ({"episode_0/rewards": np.zeros(7)}, "none of the known layouts"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=rf"^x\.h5: .*{message}") as caught:
        rows.assemble(read(write(tmp_path / "x.h5", **{"timeouts": flags(6)} | changes)))
    assert "\n" not in str(caught.value)


def test_a_group_for_each_episode_is_refused_with_what_was_found_and_what_is_known(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as root:
        root["infos/a"], root["elsewhere"] = REWARDS, h5py.ExternalLink("other.h5", "/")
        for number in range(2):
            root[f"ep{number}/obs"], root[f"ep{number}/act"] = OBSERVATIONS, ACTIONS
    with pytest.raises(InputError) as caught:
        read(tmp_path / "x.h5")
    told = str(caught.value)
    assert told.startswith(
        "x.h5: none of the known layouts: its root has elsewhere, ep0, ep1, infos, and the group ep0 "
    )
    for words in ("has act, obs;", "D4RL", "data/demo_0", "d3rlpy 2", "metadata.json", "a .npz for each episode"):
        assert words in told
    with h5py.File(tmp_path / "y.h5", "w") as root:
        root["infos/a"], root["acts"] = REWARDS, ACTIONS
    with pytest.raises(InputError, match="no field observations, actions, .*found: acts, infos"):
        read(tmp_path / "y.h5")


def test_damaged_missing_and_empty_files(tmp_path):
    path = write(tmp_path / "x.hdf5", observations=np.random.default_rng(0).normal(size=(7, 2000)), timeouts=flags(6))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="x.hdf5 cannot be read as HDF5"):
        read(path)
    path.write_bytes(b"no such format")
    with pytest.raises(InputError, match="x.hdf5 cannot be read as HDF5"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="the file is empty"):
        read(path)
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "absent.hdf5")


def test_a_small_file_that_declares_a_huge_array_is_refused(tmp_path):
    path = write(tmp_path / "x.h5", observations=None, actions=None, rewards=None, terminals=None)
    rows = 10**12
    with h5py.File(path, "w") as root:
        for name in ("observations", "actions", "rewards", "terminals"):
            root.create_dataset(name, (rows,), "f8", chunks=(1000,))
    assert path.stat().st_size < 10_000
    with pytest.raises(InputError, match="unpacks to 7450.6 GiB, more than the free memory"):
        read(path)


def test_free_memory_is_known():
    assert 2**20 < fields.free_memory() < 2**50
