"""LeRobot's Parquet files, and data without rewards on their way to an agent that needs none."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import agents
from rlkit import buffer
from rlkit.buffer import Buffer
from rlkit.datasets import ColumnOptions, DataOptions, Normaliser, load, spec
from rlkit.datasets.episodes import HAS_ACTION, LABELLED, Names
from rlkit.datasets.formats import table
from rlkit.runs import registry
from rlkit.runs.record import Record
from rlkit.types import InputError

MOTORS = ["shoulder", "elbow"]


def frames(episode, states, actions, **more):
    steps = len(states)
    return {
        "observation.state": pa.array(states, pa.list_(pa.float32(), 2)),
        "action": pa.array(actions, pa.list_(pa.float32())),
        "episode_index": [episode] * steps,
        "frame_index": list(range(steps)),
        "timestamp": [0.1 * i for i in range(steps)],
        "index": list(range(steps)),
        "task_index": [0] * steps,
        **more,
    }


def dataset(folder, first=None, second=None):
    """Two episodes of two and three frames, a file each, and what is said of them."""
    paths = []
    for episode, (states, actions, more) in enumerate(
        [([[1, 2], [3, 4]], [[0.5], [0.25]], first), ([[5, 6], [7, 8], [9, 10]], [[-1], [0], [1]], second)]
    ):
        path = folder / "data" / "chunk-000" / f"episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table(frames(episode, states, actions, **(more or {}))), path)
        paths.append(path)
    (folder / "meta").mkdir()
    features = {"observation.state": {"names": {"motors": MOTORS}}, "action": {"names": ["grip"]}}
    info = {"codebase_version": "v2.1", "total_frames": 5, "features": features}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    (folder / "videos").mkdir()
    return paths


def read(paths, root=None, **columns):
    options = DataOptions(str(paths[0]), columns=ColumnOptions(**columns))
    info = None if root is None else root / "meta" / "info.json"
    return table.read(root or paths[0], options=options, infos=False, parts=paths, info=info)


def test_a_folder_is_read_with_its_names_and_trains_what_needs_no_reward(tmp_path):
    dataset(tmp_path)
    episodes = load(DataOptions(str(tmp_path), cache_dir=tmp_path / "cache"))
    assert episodes.obs.tolist() == [[1, 2], [3, 4], [3, 4], [5, 6], [7, 8], [9, 10], [9, 10]]
    assert episodes.action[:, 0].tolist() == [0.5, 0.25, 0, -1, 0, 1, 0]
    assert episodes.names == Names(("shoulder", "elbow"), ("grip",))
    flags = np.asarray(episodes.flags)
    assert not (flags & LABELLED).any() and (flags & HAS_ACTION).sum() == 5
    notes = " ".join(episodes.report.notes)
    assert "frames of LeRobot" in notes and "no reward is known" in notes and "timestamp, index, task_index" in notes
    assert not episodes.returns().size

    # --- to agents ---
    normaliser = Normaliser.fit(episodes, DataOptions("x"))
    told = spec(episodes, 100)
    cloning = registry.named(agents.REGISTRY["bc"].module).config().stages(told, 1)
    assert not buffer.uses_rewards(cloning)
    rows = Buffer.from_episodes(episodes, normaliser, uses_rewards=False)
    assert rows.index.tolist() == [0, 3, 4], "the last frame of an episode has no successor"
    with pytest.raises(InputError, match="no step has a known reward, and this agent learns from rewards"):
        Buffer.from_episodes(episodes, normaliser)
    with pytest.raises(InputError, match="return-range"):
        Normaliser.fit(episodes, DataOptions("x", reward="return-range"))


def test_who_learns_from_rewards(tmp_path):
    """All but the two that clone; a learner with a column made of rewards does, whatever it inherits."""
    import percent_bc

    dataset(tmp_path)
    told = spec(load(DataOptions(str(tmp_path)), use_cache=False), 100)
    without = set()
    for name, entry in agents.REGISTRY.items():
        try:
            stages = registry.named(entry.module).config().stages(told, 1)
        except InputError:  # another kind of action
            continue
        if not buffer.uses_rewards(stages):
            without.add(name)
    assert without == {"bc", "diffusion-policy"}
    assert buffer.uses_rewards(percent_bc.Config().stages(told, 1))


def test_one_file_is_one_table(tmp_path):
    recording = read(dataset(tmp_path)[1:])
    assert recording.observations.tolist() == [[5, 6], [7, 8], [9, 10]] and recording.lengths.tolist() == [3]
    assert recording.names == Names()


def test_many_episodes_in_one_file_are_the_same_as_a_file_each(tmp_path):
    paths = dataset(tmp_path)
    whole = tmp_path / "file-000.parquet"
    parquet.write_table(pa.concat_tables([parquet.read_table(path) for path in paths]), whole)
    one, two = read([whole]), read(paths)
    for field in ("observations", "actions", "lengths", "truncations"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))


def test_rewards_and_ends(tmp_path):
    """next.done ends a recording; it is a terminal state only where the user says so. Rewards may be integers."""
    first = {"next.reward": [0, 1], "next.done": [False, True]}
    second = {"next.reward": pa.array([0.0, 0.0, 0.5], pa.float32()), "next.done": [False, False, True]}
    paths = dataset(tmp_path, first, second)
    recording = read(paths, tmp_path)
    assert recording.rewards.tolist() == [0, 1, 0, 0, 0.5] and recording.labelled is None
    assert recording.truncations.tolist() == [False, True, False, False, True]
    assert not recording.terminations.any() and not recording.has_final.any()
    assert any("say --columns.terminated next.done" in note for note in recording.notes)
    recording = read(paths, tmp_path, terminated="next.done")
    assert recording.terminations.tolist() == [False, True, False, False, True] and not recording.truncations.any()
    assert not any("next.done" in note for note in recording.notes)


def test_both_states_are_the_observation(tmp_path):
    more = [{"observation.environment_state": pa.array([[float(n)]] * n)} for n in (2, 3)]
    recording = read(dataset(tmp_path, *more))
    assert recording.observations.tolist() == [[1, 2, 2], [3, 4, 2], [5, 6, 3], [7, 8, 3], [9, 10, 3]]
    recording = read(dataset(tmp_path / "again", *more), observation=("observation.state",))
    assert recording.observations.shape == (5, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root, paths: (root / "meta/info.json").write_text('{"total_frames": 6}'), "holds 5 frames where .* 6"),
        (lambda root, paths: (root / "meta/info.json").write_text("[" * 9000), "info.json: cannot be read as JSON"),
        (lambda root, paths: paths.pop(), "holds 2 frames where"),
    ],
)
def test_what_the_folder_says_of_itself_is_checked(tmp_path, change, message):
    paths = dataset(tmp_path)
    change(tmp_path, paths)
    with pytest.raises(InputError, match=message):
        read(paths, tmp_path)


def test_a_missing_frame_and_frames_of_pictures_alone_are_refused(tmp_path):
    (path, *_) = dataset(tmp_path)
    columns = frames(0, [[1, 2], [3, 4]], [[0.5], [0.25]])
    parquet.write_table(pa.table(columns | {"frame_index": [0, 2]}), path)
    with pytest.raises(InputError, match="row 1: episode 0: step 1 is missing before 2"):
        read([path])
    del columns["observation.state"]
    parquet.write_table(pa.table(columns), path)
    with pytest.raises(InputError, match="pictures are not read; name columns of numbers with --columns.observation"):
        read([path])


def test_names_that_are_not_of_the_columns_width_are_not_taken(tmp_path):
    paths = dataset(tmp_path)
    for names in (["shoulder"], {"a": ["x"], "b": ["y"]}, ["x", 1], None, "xy"):
        info = {"features": {"observation.state": {"names": names}, "action": []}}
        (tmp_path / "meta" / "info.json").write_text(json.dumps(info))
        assert read(paths, tmp_path).names == Names()


def test_the_command_trains_without_rewards_and_keeps_the_names(tmp_path, rlkit_command):
    lines = ["who,hour,pulse,bp,dose", "a,1.5,60,120,0.5", "a,2,61,121,0.25", "a,7,62,122,0", "a,8,63,123,0.5"]
    (tmp_path / "visits.csv").write_text("\n".join(lines))
    roles = "--columns.episode who --columns.step hour --columns.observation bp pulse --columns.action dose"
    words = [*roles.split(), "--columns.reward", "none", "--columns.terminated", "none"]
    run = tmp_path / "run"
    common = ["--dataset", tmp_path / "visits.csv", *words, "--steps", 2, "--eval-episodes", 0, "--out", run]
    code, _, err = rlkit_command("train", "bc", *common, "--config.widths", 4, "--config.batch-size", 8)
    assert code == 0, err
    record = Record.read(run)
    assert record.data.names == Names(("bp", "pulse"), ("dose",)) and np.isnan(record.data.mean_return.value)
    code, _, err = rlkit_command("train", "iql", *common[:-1], tmp_path / "other", "--dry-run")
    assert code == 2 and err.count("no step has a known reward, and this agent learns from rewards") == 1
