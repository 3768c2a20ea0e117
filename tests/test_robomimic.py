"""robomimic's HDF5 files and those of d3rlpy 2: tiny ones, worked by hand, found by their contents."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from rlkit.datasets import ColumnOptions, DataOptions, load
from rlkit.datasets.formats import hdf5
from rlkit.types import InputError


def demonstrate(path, dones=((0, 0, 1), (0, 1)), following=True, **attributes):
    """Demonstrations 0 and 10, of 3 and 2 steps: `object` is [i, i], `eef` is i, counted over both and their ends."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for name, value in attributes.items():
            data.attrs[name] = value
        for number, start, flags in ((10, 4, dones[1]), (0, 0, dones[0])):
            steps = len(flags)
            group = data.create_group(f"demo_{number}")
            group.attrs["num_samples"] = steps
            states = start + np.arange(steps + 1.0)
            group["actions"] = np.full((steps, 2), 0.25)
            group["rewards"], group["dones"] = np.arange(steps) + 1.0, np.array(flags)
            group["states"] = np.zeros((steps, 40))
            for name, part in {"obs": slice(0, -1), "next_obs": slice(1, None)}.items():
                if name == "obs" or following:
                    group[f"{name}/object"] = np.stack([states[part], states[part]], 1)
                    group[f"{name}/eef"] = states[part]
                    group[f"{name}/agentview_image"] = np.zeros((steps, 8, 8, 3), np.uint8)
    return path


def read(path, **options):
    return hdf5.read(path, options=DataOptions(str(path), **options), infos=False)


def test_demonstrations_are_episodes_in_the_order_of_their_numbers(tmp_path):
    recording = read(demonstrate(tmp_path / "hopper_medium.hdf5", total=5))
    assert recording.observations.tolist() == [[i, i, i] for i in (0, 1, 2, 4, 5)]
    assert recording.lengths.tolist() == [3, 2]
    assert recording.finals[:, 0].tolist() == [3, 6] and recording.has_final.all()
    assert recording.rewards.tolist() == [1, 2, 3, 1, 2]
    assert recording.terminations.tolist() == [False, False, True, False, True]
    assert recording.env_spec is None
    notes = " | ".join(recording.notes)
    assert "no rows of numbers were left out: agentview_image ([8, 8, 3])" in notes
    assert "observations are, in this order: eef (1), object (2)" in notes
    assert "names no environment" in notes


def test_without_next_observations_a_last_step_has_no_successor(tmp_path):
    path = demonstrate(tmp_path / "x.hdf5", dones=((0, 0, 0), (0, 1)), following=False)
    report = load(DataOptions(str(path)), use_cache=False).report
    assert (report.steps, report.used, report.no_successor, report.unflagged_ends) == (5, 4, 1, 1)


@pytest.mark.parametrize("following", [True, False])
def test_a_demonstration_that_goes_on_after_its_success_is_split(tmp_path, following):
    """No step is lost, and each keeps its successor."""
    recording = read(demonstrate(tmp_path / "x.hdf5", dones=((0, 1, 0), (1, 1)), following=following))
    assert recording.lengths.tolist() == [2, 1, 1, 1]
    assert recording.finals[:, 0].tolist() == ([2, 3, 5, 6] if following else [2, 2, 5, 5])
    assert recording.has_final.tolist() == [True, following, True, following]
    assert recording.terminations.tolist() == [False, True, False, True, True]
    assert "2 demonstrations make 4 episodes" in recording.notes[-1]


@pytest.mark.parametrize(
    ("arguments", "env", "note"),
    [
        ({"env_name": "CartPole-v1", "env_type": 2}, "CartPole-v1", None),
        ({"env_name": "Lift", "env_type": 1, "env_kwargs": {}}, None, "recorded in Lift, which Gymnasium does not"),
        ({"env_name": "os:Env-v0", "env_type": 2}, None, "recorded in os:Env-v0"),
    ],
)
def test_the_environment_of_the_file(tmp_path, arguments, env, note):
    path = demonstrate(tmp_path / "x.hdf5", env_args=json.dumps(arguments))
    recording = read(path)
    assert recording.env_spec == env and (note is None or note in " ".join(recording.notes))
    assert read(path, env="Mine-v0").env_spec == "Mine-v0"


def test_keys_are_chosen_and_ordered(tmp_path):
    path = demonstrate(tmp_path / "x.hdf5")
    with h5py.File(path, "a") as file:
        for part in (f"data/demo_{number}/{name}/eef" for number in (0, 10) for name in ("obs", "next_obs")):
            file[part][:] = -file[part][:]
    chosen = load(DataOptions(str(path), columns=ColumnOptions(observation=("object", "eef"))), use_cache=False)
    assert chosen.obs.tolist() == [[i, i, -i] for i in range(7)]
    assert "observations are, in this order: object (2), eef (1)" in " ".join(chosen.report.notes)
    one = read(path, columns=ColumnOptions(observation=("e*",)))
    assert one.observations.tolist() == [[-i] for i in (0, 1, 2, 4, 5)] and one.finals.tolist() == [[-3], [-6]]
    assert "keys of the observations that were not chosen: object" in one.notes


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"observation": ("eeff",)}, r"demo_0, obs: --columns.observation eeff: .*found: eef, object.*mean eef"),
        ({"observation": ("agentview_image",)}, "found: eef, object"),
        ({"observation": ("eef", "e*")}, r"--columns.observation eef e\* names a key twice"),
        ({"observation": ("eef",), "reward": "score"}, "--columns.observation alone is told"),
    ],
)
def test_keys_that_are_not_there_are_refused(tmp_path, columns, message):
    with pytest.raises(InputError, match=rf"^x.hdf5: .*{message}|^x.hdf5: {message}"):
        read(demonstrate(tmp_path / "x.hdf5"), columns=ColumnOptions(**columns))


def test_files_whose_arrays_have_no_names_of_their_own_take_no_columns(tmp_path):
    with pytest.raises(InputError, match="x.h5: is no table, and --columns names"):
        read(dump(tmp_path / "x.h5"), columns=ColumnOptions(observation=("a",)))


def test_subsets_are_named(tmp_path):
    path = demonstrate(tmp_path / "x.hdf5")
    with h5py.File(path, "a") as file:
        file["mask/train"] = [b"demo_0"]
    assert "subsets (mask/) are not used: train" in " ".join(read(path).notes)


def test_images_alone_are_refused(tmp_path):
    path = demonstrate(tmp_path / "x.hdf5")
    with h5py.File(path, "a") as file:
        for key in ("eef", "object"):
            del file[f"data/demo_0/obs/{key}"]
    with pytest.raises(InputError, match="demo_0, obs: no key has rows of numbers"):
        read(path)


def dump(path, actions=np.float32, **extra):
    """As d3rlpy 2 dumps two episodes of 3 and 2 steps, the first of them terminated."""
    with h5py.File(path, "w") as file:
        file["columns"] = ["observations", "actions", "rewards", "terminated"]
        file["num_episodes"], file["version"] = 2, "2.1"
        for number, steps in enumerate((3, 2)):
            file[f"observations_{number}"] = 10 * number + np.arange(steps * 2, dtype=np.float32).reshape(steps, 2)
            file[f"actions_{number}"] = np.arange(steps)[:, None].astype(actions)
            file[f"rewards_{number}"] = np.arange(steps, dtype=np.float32)[:, None]
            file[f"terminated_{number}"] = number == 0
            for name, values in extra.items():
                file[f"{name}_{number}"] = values
    return path


def test_episodes_of_d3rlpy_have_no_final_observation(tmp_path):
    path = dump(tmp_path / "cartpole_v1.h5", embeddings=np.zeros(3))
    recording = read(path, env="Mine-v0")
    assert recording.observations.tolist() == [[0, 1], [2, 3], [4, 5], [10, 11], [12, 13]]
    assert recording.lengths.tolist() == [3, 2] and not recording.has_final.any()
    assert recording.terminations.tolist() == [False, False, True, False, False]
    assert recording.env_spec == "Mine-v0" and recording.notes == ["fields that were not read: embeddings"]
    report = load(DataOptions(str(path)), use_cache=False).report
    assert (report.used, report.no_successor, report.terminal_episodes, report.unflagged_ends) == (4, 1, 1, 1)


def test_its_integers_are_choices(tmp_path):
    data = load(DataOptions(str(dump(tmp_path / "x.h5", np.int32))), use_cache=False)
    assert data.action_space.n == 3 and data.action.tolist() == [0, 1, 2, 0, 0, 1, 0]
