"""Arrays in .npz files: whose layout they have is read off their contents."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from rlkit.datasets import DataOptions, load, rows
from rlkit.datasets.formats import npz
from rlkit.types import InputError

# Six steps: episodes of 2, 3 and 1, of which the first ends in a terminal state and the second at a time limit.
D4RL = {
    "observations": np.array([[i, -i] for i in range(6)], np.float32),
    "actions": np.linspace(-0.5, 0.5, 6, dtype=np.float32)[:, None],
    "rewards": np.arange(1.0, 7.0),
    "terminals": np.array([0, 1, 0, 0, 0, 1], bool),
    "timeouts": np.array([0, 0, 0, 0, 1, 0], bool),
}


def save(path, fields=D4RL, **changes):
    np.savez(path, **{name: values for name, values in (fields | changes).items() if values is not None})
    return path


def read(path, env=None, infos=False):
    return npz.read(path, options=DataOptions(str(path), env=env), infos=infos)


def test_arrays_of_d4rl_are_steps(tmp_path):
    """As OGBench's they would be two episodes, of 1 and 3 steps, and none of them terminal."""
    recording = read(save(tmp_path / "x.npz"))
    assert recording.lengths.tolist() == [2, 3, 1]
    np.testing.assert_array_equal(recording.terminations, D4RL["terminals"])
    np.testing.assert_array_equal(recording.truncations, D4RL["timeouts"])
    np.testing.assert_array_equal(recording.observations, D4RL["observations"])
    assert not recording.has_final.any()
    data = rows.assemble(recording)
    assert data.returns().tolist() == [3, 12, 6]
    assert (data.report.terminal_episodes, data.report.used, data.report.no_successor) == (2, 5, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"timeouts": None, "next_observations": D4RL["observations"] + [1, -1]},
        {"timeouts": None, "terminals": D4RL["terminals"] * 0, "episode_terminals": D4RL["terminals"]},
    ],
)
def test_they_are_the_episodes_of_the_same_arrays_in_hdf5(tmp_path, changes):
    save(tmp_path / "x.npz", **changes)
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name, values in (D4RL | changes).items():
            if values is not None:
                file[name] = values
    same = [load(DataOptions(str(tmp_path / name)), use_cache=False) for name in ("x.npz", "x.hdf5")]
    assert same[0].fingerprint == same[1].fingerprint


def test_infos_of_d4rl(tmp_path):
    path = save(tmp_path / "x.npz", **{"infos/qpos": D4RL["rewards"], "infos/short": [1], "metadata/a": "b"}, goal=[1])
    recording = read(path, infos=True)
    assert {name: values.tolist() for name, values in recording.infos.items()} == {"qpos": [1, 2, 3, 4, 5, 6]}
    assert recording.notes[0] == "fields that were not read: goal" and read(path).infos == {}


OGBENCH = {**D4RL, "timeouts": None, "rewards": None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timeouts": None}, "D4RL.*, add timeouts .*OGBench.*, add masks"),
        ({"masks": np.ones(6)}, "has masks .OGBench's. and timeouts .D4RL's."),
        ({**OGBENCH, "terminals": np.array([0, 1, 0, 0, 0, 0])}, "no rewards, and no terminals flag on its last row"),
        ({"valids": np.ones(6)}, "has a field valids .*OGBench's loader"),
        ({"masks": np.ones(6), "next_observations": D4RL["observations"]}, "has a field next_obs.*OGBench's loader"),
        ({**OGBENCH, "next_observations": D4RL["observations"]}, "has a field next_observations .*OGBench's loader"),
        ({"timeouts": None, "terminals": np.array([0, 1, 0, 0, 0, 0])}, "has none of timeouts"),
        ({"terminals": None}, "no field terminals"),
    ],
)
def test_fields_that_leave_two_readings_are_refused_with_both(tmp_path, changes, words):
    with pytest.raises(InputError, match=rf"^x\.npz: .*{words}"):
        read(save(tmp_path / "x.npz", **changes))


def test_a_name_of_d4rls_and_its_widths_tell_the_layout_too(tmp_path):
    """A terminal state on the very last row is no sign of OGBench's then."""
    fields = {"observations": np.zeros((6, 11)), "actions": np.zeros((6, 3)), "timeouts": None}
    recording = read(save(tmp_path / "hopper_medium.npz", **fields))
    assert recording.lengths.tolist() == [2, 4] and recording.env_spec == "Hopper-v4"
    with pytest.raises(InputError, match="add timeouts"):
        read(save(tmp_path / "hopper_medium.npz", timeouts=None))


# ---- one episode a file


def episode(steps, start=0):
    """Observation i is [start + i]; the last step is terminal."""
    return {
        "observations": start + np.arange(steps + 1.0)[:, None],
        "actions": np.full((steps, 1), 0.5),
        "rewards": np.ones(steps),
        "terminals": np.arange(steps) == steps - 1,
    }


def test_one_observation_more_than_actions_is_an_episode(tmp_path):
    told = {"obs": np.arange(4.0)[:, None], "action": np.zeros((3, 1)), "reward": np.ones(3), "truncated": [0, 0, 1]}
    recording = read(save(tmp_path / "x.npz", told), env="Mine-v0")
    assert recording.lengths.tolist() == [3] and recording.finals.tolist() == [[3]] and recording.has_final.all()
    assert recording.truncations.tolist() == [False, False, True] and not recording.terminations.any()
    assert recording.env_spec == "Mine-v0"


@pytest.mark.parametrize("name", ["episodes", "episodes/*.npz"])
def test_a_folder_or_a_pattern_of_episodes(tmp_path, name):
    """In the order of their numbers, whatever the number of digits, fresh and from the cache."""
    folder = tmp_path / "episodes"
    folder.mkdir()
    for number in (10, 9, 2):
        save(folder / f"episode_{number}.npz", episode(2, start=10 * number), note=["by hand"])
    save(
        folder / "episode_11.npz", episode(3, start=110), observations=np.arange(110.0, 113.0)[:, None], terminals=None
    )
    options = DataOptions(str(tmp_path / name), cache_dir=tmp_path / "cache")
    for _ in range(2):
        data = load(options)
        assert data.obs[:, 0].tolist() == [20, 21, 22, 90, 91, 92, 100, 101, 102, 110, 111, 112, 112]
        assert data.report.terminal_episodes == 3 and data.report.no_successor == 1
        assert "fields that were not read: note" in data.report.notes and data.name == options.dataset
    save(folder / "episode_12.npz", episode(1))
    assert load(options).report.episodes == 5


def test_episodes_in_a_list_are_those_of_their_folder(tmp_path):
    paths = [save(tmp_path / f"{number}.npz", episode(2, start=10 * number)) for number in range(3)]
    listed = load(DataOptions(tuple(map(str, paths))), use_cache=False)
    folder = load(DataOptions(str(tmp_path)), use_cache=False)
    for column in ("obs", "action", "reward", "t", "flags"):
        np.testing.assert_array_equal(getattr(listed, column), getattr(folder, column))


def test_a_pattern_of_one_file_is_not_the_cached_file(tmp_path):
    """The same file alone is D4RL's; behind a pattern it is one episode."""
    save(tmp_path / "one.npz")
    cache = tmp_path / "cache"
    assert load(DataOptions(str(tmp_path / "one.npz"), cache_dir=cache)).report.episodes == 3
    with pytest.raises(
        InputError, match=r"one.npz: terminals is set at row 1, before the last: .*more than one episode"
    ):
        load(DataOptions(str(tmp_path / "o*.npz"), cache_dir=cache))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"terminal_flags": np.zeros(2)}, "b.npz: unknown field 'terminal_flags'; call it terminals"),
        ({"dones": np.array([0.0, 0.5]), "terminals": None}, "episode 1, index 1, dones: 0.5"),
        ({"observations": np.zeros((3, 2))}, r"episode 1, index 0, observations: shape \[2\], but episode 0 has \[1\]"),
        ({"observations": np.zeros((4, 1))}, "episode 1, observations: 4 rows for 2 steps"),
        ({"actions": np.array([None, None])}, "b.npz: actions holds Python objects"),
        ({"actions": np.array(["a", "b"])}, "episode 1, actions: not an array of numbers"),
    ],
)
def test_what_is_wrong_with_an_episode_is_named(tmp_path, changes, words):
    save(tmp_path / "a.npz", episode(2))
    save(tmp_path / "b.npz", episode(2), **changes)
    with pytest.raises(InputError, match=words) as caught:
        load(DataOptions(str(tmp_path)), use_cache=False)
    assert "\n" not in str(caught.value)


def test_what_else_an_episode_recorded(tmp_path):
    extra = {"infos/speed": np.arange(2.0), "height": np.arange(3.0)}
    path = save(tmp_path / "a.npz", episode(2), **extra)
    recording = npz.read_episodes([path], name="a", options=DataOptions("a"), infos=True)
    assert {name: values.tolist() for name, values in recording.infos.items()} == {"height": [1, 2], "speed": [0, 1]}


def test_nothing_matches(tmp_path):
    with pytest.raises(InputError, match=r"part_\*.npz: no file is called so"):
        load(DataOptions(str(tmp_path / "part_*.npz")))
    with pytest.raises(InputError, match="neither data/ .* nor .npz files"):
        load(DataOptions(str(tmp_path)))
