"""OGBench .npz: rows are states, the last of a trajectory has no step."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
from gymnasium.spaces import Discrete

from rlkit.datasets import DataOptions, rows
from rlkit.datasets.formats import npz
from rlkit.types import InputError

# Two trajectories of 4 and 3 states: 3 and 2 steps.
OBSERVATIONS = np.array([[i, -i] for i in range(7)], np.float32)
STORED = {
    "observations": OBSERVATIONS,
    "actions": np.linspace(-0.5, 0.7, 7, dtype=np.float32)[:, None],
    "terminals": np.array([0, 0, 0, 1, 0, 0, 1], np.float32),
}
STEPS = [0, 1, 2, 4, 5]


def write(path, **changes):
    np.savez_compressed(path, **{name: values for name, values in (STORED | changes).items() if values is not None})
    return path


def read(path, env=None, infos=False):
    return npz.read(path, options=DataOptions(str(path), env=env), infos=infos)


def test_last_state_of_a_trajectory_is_its_final_observation(tmp_path):
    recording = read(write(tmp_path / "pointmaze-v0.npz", qpos=OBSERVATIONS))
    np.testing.assert_array_equal(recording.observations, OBSERVATIONS[STEPS])
    np.testing.assert_array_equal(recording.actions, STORED["actions"][STEPS])
    assert recording.rewards.tolist() == [0] * 5
    assert recording.lengths.tolist() == [3, 2]
    assert recording.finals.tolist() == [[3, -3], [6, -6]] and recording.has_final.all()
    assert not recording.terminations.any()
    assert recording.truncations.tolist() == [False, False, True, False, True]
    assert recording.env_spec is None and recording.infos == {}
    assert recording.notes[0] == "fields that were not read: qpos"
    assert "the file has no rewards: all are 0; read as OGBench's" in recording.notes[1] and len(recording.notes) == 2


def test_masks_end_an_episode_without_losing_a_step(tmp_path):
    """Complete at states 1 and 5, and at state 3, whose action led nowhere."""
    masks, rewards = np.array([1, 0, 1, 0, 1, 0, 1]), np.arange(7.0)
    recording = read(write(tmp_path / "x.npz", masks=masks, rewards=rewards), env="Mine-v0")
    np.testing.assert_array_equal(recording.observations, OBSERVATIONS[STEPS])
    assert recording.rewards.tolist() == STEPS
    assert recording.terminations.tolist() == [False, True, False, False, True]
    assert recording.truncations.tolist() == [False, False, True, False, False]
    assert recording.lengths.tolist() == [2, 1, 2]
    assert recording.finals.tolist() == [[2, -2], [3, -3], [6, -6]]
    assert recording.notes == ["2 trajectories make 3 episodes: split behind each step with masks 0"]
    assert recording.env_spec == "Mine-v0"


def test_infos_are_rows_of_steps(tmp_path):
    path = write(tmp_path / "x.npz", qpos=2 * OBSERVATIONS, odd=np.zeros(3), version=np.array("1"))
    recording = read(path, infos=True)
    np.testing.assert_array_equal(recording.infos["qpos"], 2 * OBSERVATIONS[STEPS])
    assert list(recording.infos) == ["qpos"]
    assert recording.notes[0] == "fields that were not read: odd, version"


def test_labels_say_which_rewards_are_known(tmp_path):
    labelled, rewards = np.array([1, 0, 1, 0, 0, 1, 0], np.uint8), np.array([1, np.nan, 3, 4, np.nan, 6, np.nan])
    path = write(tmp_path / "x.npz", rewards=rewards, labelled=labelled, masks=np.ones(7))
    recording = read(path, infos=True)
    assert recording.labelled.tolist() == [True, False, True, False, True] and recording.infos == {}
    assert rows.assemble(recording).reward[[0, 1, 2, 4, 5]].tolist() == [1, 0, 3, 0, 6]
    assert read(write(path, rewards=rewards, masks=np.ones(7))).labelled is None


def test_integers_are_choices(tmp_path):
    recording = read(write(tmp_path / "x.npz", actions=np.array([0, 1, 4, 9, 0, 0, 9])))
    assert recording.actions.tolist() == [0, 1, 4, 0, 0]  # the last states' actions do not count
    assert rows.assemble(recording).action_space == Discrete(5)


def test_unflagged_last_row_is_a_state(tmp_path):
    terminals = np.array([0, 0, 0, 1, 0, 0, 0])
    recording = read(write(tmp_path / "x.npz", terminals=terminals, rewards=np.ones(7), masks=np.ones(7)))
    assert recording.lengths.tolist() == [3, 2]
    assert "the last row carries no terminals flag" in recording.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminals": None}, "no field terminals .found: actions, observations"),
        ({"labelled": np.ones(7), "masks": np.ones(7)}, "has a field labelled but no rewards"),
        ({"actions": np.zeros((5, 1))}, "actions has 5 rows where observations has 7"),
        ({"terminals": np.array([0, 0, 0, 1, 1, 0, 1])}, r"trajectory 1 \(row 4\) is a single state"),
        ({"terminals": np.array([0, 0, 0, 0.5, 0, 0, 1])}, r"terminals\[3\] is 0.5; expected 0 or 1"),
        ({"valids": np.ones(7)}, "has a field valids"),
        ({"next_observations": OBSERVATIONS}, "has a field next_observations"),
        ({"observations": np.array(["a"] * 7)}, "observations is not an array of numbers"),
        ({name: values[:0] for name, values in STORED.items()}, "observations has no rows"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=rf"^x\.npz: .*{message}") as caught:
        read(write(tmp_path / "x.npz", **changes))
    assert "\n" not in str(caught.value)


class Payload:
    def __reduce__(self):
        return open, ("payload-was-run", "w")


def test_objects_are_refused_and_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "x.npz", actions=np.array([Payload()] * 7, object))
    with pytest.raises(InputError, match="actions holds Python objects"):
        read(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("bare.npy", pickle.dumps(Payload()))
    with pytest.raises(InputError):
        read(path, infos=True)
    assert not (tmp_path / "payload-was-run").exists()


def header(shape):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def replace(path, name, content):
    write(path, **{name: None})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", content)


def test_a_header_that_claims_more_than_is_stored_is_refused_before_allocation(tmp_path):
    path = tmp_path / "x.npz"
    replace(path, "actions", header((7, 10**12)) + bytes(28))
    with pytest.raises(InputError, match=r"actions claims shape \(7, 1000000000000\)"):
        read(path)


def test_a_zip_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    replace(path, "actions", header((7, 10**6)) + bytes(28 * 10**6))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr("rlkit.datasets.untrusted.fields.LIMIT", 10**7)
    with pytest.raises(InputError, match="unpacks to 0.0 GiB, more than"):
        read(path)


def test_damaged_files(tmp_path):
    path = write(tmp_path / "x.npz", observations=np.random.default_rng(0).normal(size=(7, 3000)))
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="x.npz: cannot be read as .npz"):
        read(path)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="x.npz: cannot be read as .npz"):
        read(path)
