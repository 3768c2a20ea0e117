"""From files to Episodes: Minari datasets in every format, finding them, and the cache."""

import json
import os
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import jax
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from rlkit.datasets import DataOptions, available, cache, load
from rlkit.datasets.episodes import HAS_ACTION, LABELLED
from rlkit.types import InputError

BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)
UNIT = spaces.Box(-1, 1, (1,), np.float32)
LENGTHS = (3, 1, 4)
COLUMNS = ("obs", "action", "reward", "t", "flags")


def buffers(lengths=LENGTHS, dtype=np.float32) -> list[EpisodeBuffer]:
    """Episodes with random values; the first ends in a terminal state, the others are truncated."""
    rng = np.random.default_rng(0)
    return [
        EpisodeBuffer(
            observations=rng.normal(size=(n + 1, 2)).astype(dtype),
            actions=rng.uniform(-1, 1, (n, 1)).astype(np.float32),
            rewards=rng.normal(size=n),
            terminations=(np.arange(n) == n - 1) & (i == 0),
            truncations=(np.arange(n) == n - 1) & (i > 0),
            infos={"inner": {"height": np.arange(n + 1.0)}, "name": ["x"] * (n + 1)},
        )
        for i, n in enumerate(lengths)
    ]


def build(root, dataset="toy/small-v0", episodes=None, observation_space=BOX, action_space=UNIT, **metadata) -> Path:
    """Write a Minari dataset through the minari package; returns its folder of data."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # minari asks for authors and the like
            minari.create_dataset_from_buffers(
                dataset,
                buffers() if episodes is None else episodes,
                observation_space=observation_space,
                action_space=action_space,
                **metadata,
            )
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before
    return root / dataset / "data"


def edit(data: Path, **changes) -> None:
    path = data / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def options(tmp_path):
    return DataOptions("toy/small-v0", data_root=tmp_path / "root", cache_dir=tmp_path / "cache")


def same(a, b) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in COLUMNS)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_every_format_gives_the_same_episodes(tmp_path, options, data_format):
    edit(build(tmp_path / "root", data_format=data_format), ref_min_score=1, ref_max_score=9)
    data = load(options)
    parts = buffers()
    steps = np.flatnonzero(data.flags)
    np.testing.assert_array_equal(data.obs, np.concatenate([part.observations for part in parts]))
    np.testing.assert_array_equal(data.action[steps], np.concatenate([part.actions for part in parts]))
    np.testing.assert_array_equal(data.reward[steps], np.float32(np.concatenate([part.rewards for part in parts])))
    assert data.t.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 4]
    assert (data.report.used, data.report.terminal_episodes, data.report.truncated_episodes) == (8, 1, 2)
    assert (data.name, data.reference, data.env_spec) == ("toy/small-v0", (1.0, 9.0), None)
    assert data.observation_space == BOX and data.action_space == UNIT
    build(tmp_path / "other")
    other = DataOptions("toy/small-v0", data_root=tmp_path / "other", cache_dir=options.cache_dir)
    assert load(other).fingerprint == data.fingerprint


def test_the_environment_is_named_by_the_data_or_by_the_user(tmp_path, options):
    old = {"id": "CartPole-v1", "max_episode_steps": 7, "apply_api_compatibility": False, "autoreset": False}
    data = build(tmp_path / "root")
    edit(data, env_spec=json.dumps(old))
    assert json.loads(load(options).env_spec) == {"id": "CartPole-v1", "max_episode_steps": 7}
    edit(data, eval_env_spec=json.dumps({"id": "CartPole-v0"}))
    assert json.loads(load(options).env_spec) == {"id": "CartPole-v0"}
    assert load(DataOptions(**{**vars(options), "env": "Other-v0"})).env_spec == "Other-v0"


def test_infos_come_only_when_asked_for(tmp_path, options):
    build(tmp_path / "root")
    assert load(options).infos == {}
    for _ in range(2):  # fresh, then from the cache
        infos = load(options, infos=True).infos
        assert {name: values.tolist() for name, values in infos.items()} == {"inner/height": [1, 2, 3, 1, 1, 2, 3, 4]}


def labelled(labels, rows):
    """The episodes with infos/labelled of T or T + 1 ``rows``, and no reward where it is false."""
    for episode, known in zip(buffers(), labels, strict=True):
        said = np.array(known if rows == "T" else [False, *known])
        rewards = np.where(known, episode.rewards, np.nan)
        yield EpisodeBuffer(**{**vars(episode), "rewards": rewards, "infos": {"labelled": said}})


@pytest.mark.parametrize("form", ["hdf5, T", "hdf5, T + 1", "arrow, T + 1", "parquet, T + 1"])
def test_infos_say_which_rewards_are_known(tmp_path, options, form):
    data_format, rows = form.split(", ")
    labels = [[True, False, True], [False], [True, False, False, True]]
    build(tmp_path / "root", episodes=list(labelled(labels, rows)), data_format=data_format)
    for _ in range(2):  # fresh, then from the cache
        data = load(options)
        step = np.asarray(data.flags) & HAS_ACTION > 0
        known = (np.asarray(data.flags) & LABELLED > 0)[step]
        assert known.tolist() == sum(labels, [])
        wanted = np.float32(np.concatenate([part.rewards for part in buffers()]))
        np.testing.assert_array_equal(data.reward[step], np.where(known, wanted, 0))
        assert "4 steps have no reward label" in " ".join(data.report.notes) and data.infos == {}


def test_dict_and_discrete_spaces(tmp_path, options):
    space = spaces.Dict({"b": BOX, "a": spaces.Discrete(3)})
    episodes = [
        EpisodeBuffer(
            observations={"b": np.arange(6.0, dtype=np.float32).reshape(3, 2), "a": np.array([2, 0, 1])},
            actions=np.array([1, 0]),
            rewards=np.ones(2),
            terminations=[False, False],
            truncations=[False, False],
        )
    ]
    build(tmp_path / "root", episodes=episodes, observation_space=space, action_space=spaces.Discrete(2))
    for _ in range(2):
        data = load(options)
        assert data.obs.tolist() == [[0, 0, 1, 0, 1], [1, 0, 0, 2, 3], [0, 1, 0, 4, 5]]
        assert data.action.tolist() == [1, 0, 0]
        assert (data.observation_space, data.action_space) == (space, spaces.Discrete(2))
        assert data.report.unflagged_ends == 1


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"total_episodes": 5}, ["promise 5 episodes", "holds 3"]),
        ({"total_episodes": 2}, ["promise 2 episodes", "holds 3"]),
        ({"total_steps": 800}, ["promise 800 steps", "holds 8"]),
        ({"total_steps": 7}, ["promise 7 steps", "holds 8"]),
        ({"total_steps": "many"}, ["whole numbers"]),
        ({"observation_space": 3}, ["observation_space in metadata.json cannot be read"]),
        ({"data_format": "tape"}, ["tape"]),
        ({"env_spec": "{"}, ["env_spec"]),
    ],
)
def test_metadata_that_lie_are_refused(tmp_path, options, data_format, changes, words):
    edit(build(tmp_path / "root", data_format=data_format), **changes)
    with pytest.raises(InputError) as error:
        load(options)
    for word in ["toy/small-v0", *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_missing_final_observation_is_refused(tmp_path, options, data_format):
    episodes = buffers()
    short = {"observations": np.zeros((5, 2), np.float32), "infos": None}
    episodes[1] = EpisodeBuffer(**{**vars(buffers((5,))[0]), **short})
    build(tmp_path / "root", episodes=episodes, data_format=data_format)
    with pytest.raises(InputError, match="toy/small-v0.*episode 1, observations"):
        load(options)


def test_damaged_files_are_refused(tmp_path, options):
    data = build(tmp_path / "root")
    with h5py.File(data / "main_data.hdf5", "a") as file:
        del file["episode_1/rewards"]
    with pytest.raises(InputError, match="toy/small-v0: episode 1, rewards: missing"):
        load(options)
    os.truncate(data / "main_data.hdf5", 3000)
    with pytest.raises(InputError, match="toy/small-v0: main_data.hdf5 cannot be read"):
        load(options)
    (data / "metadata.json").write_text("{")
    with pytest.raises(InputError, match="toy/small-v0.*metadata"):
        load(options)
    with pytest.warns(UserWarning, match="metadata"):
        assert available(options) == []


def test_a_link_to_nothing_is_refused(tmp_path, options):
    data = build(tmp_path / "root")
    (data / "main_data.hdf5").rename(data / "moved")
    (data / "main_data.hdf5").symlink_to(data / "gone")
    with pytest.raises(InputError, match="toy/small-v0: cannot be read: .*main_data.hdf5"):
        load(options)


def test_what_is_not_found_says_where_it_was_looked_for(tmp_path, options, monkeypatch):
    build(tmp_path / "root")
    build(tmp_path / "more", "toy/large-v0")
    with pytest.raises(InputError, match="toy/smal-v0: not found in .*root.*--download.*do you mean toy/small-v0"):
        load(DataOptions("toy/smal-v0", data_root=tmp_path / "root"), roots=[tmp_path / "more"])
    with pytest.raises(InputError, match="'toy/small' is neither a Minari id .* do you mean toy/small-v0"):
        load(DataOptions("toy/small", data_root=tmp_path / "root"))
    with pytest.raises(InputError, match="data.csv: no such file"):
        load(DataOptions("data.csv"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    rows = available(DataOptions("?"), roots=[tmp_path / "more", tmp_path / "root"])
    assert rows == [
        ("toy/large-v0", 3, 8, tmp_path / "more" / "toy/large-v0"),
        ("toy/small-v0", 3, 8, tmp_path / "root" / "toy/small-v0"),
    ]


def test_ids_cannot_lead_out_of_the_root(tmp_path, options):
    outside = build(tmp_path / "outside").parent
    for bad in ("../outside/toy/small-v0", "toy/../../outside/toy/small-v0"):
        with pytest.raises(InputError, match="neither a Minari id"):
            load(DataOptions(bad, data_root=tmp_path / "root"))
    (tmp_path / "root" / "toy").mkdir(parents=True)
    (tmp_path / "root" / "toy" / "small-v0").symlink_to(outside)
    with pytest.raises(InputError, match="leads out of"):
        load(options)


def test_a_folder_is_named_by_its_path(tmp_path, options, monkeypatch):
    data = build(tmp_path / "elsewhere")
    by_id = load(DataOptions("toy/small-v0", data_root=tmp_path / "elsewhere"), use_cache=False)
    monkeypatch.chdir(tmp_path)
    for name in (str(data.parent), "elsewhere/toy/small-v0"):
        by_path = load(DataOptions(name, data_root=tmp_path, cache_dir=options.cache_dir))
        assert by_path.fingerprint == by_id.fingerprint and by_path.name == "toy/small-v0"
    (data / "main_data.hdf5").rename(tmp_path / "moved.hdf5")
    (data / "main_data.hdf5").symlink_to(tmp_path / "moved.hdf5")
    with pytest.raises(InputError, match="leads out of"):
        load(DataOptions("elsewhere/toy/small-v0", cache_dir=options.cache_dir))


def test_spaces_that_are_not_served_are_refused_by_their_kind(tmp_path, options):
    data = build(tmp_path / "root")
    for key, kind in {"action_space": "MultiDiscrete", "observation_space": "Tuple"}.items():
        before = json.loads((data / "metadata.json").read_text())[key]
        edit(data, **{key: json.dumps({"type": kind, "subspaces": [], "nvec": [2, 3]})})
        with pytest.raises(
            InputError, match=f"toy/small-v0: {key} .* is of type '{kind}'; served are Box, Discrete and"
        ):
            load(options)
        edit(data, **{key: before})


def test_download_puts_the_dataset_into_the_root_whole(tmp_path, options, monkeypatch):
    build(tmp_path / "hub")
    stand_in = tmp_path / "path" / "minari.py"  # instead of the library, which would ask the net
    stand_in.parent.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(stand_in.parent))
    fetch = f"import os, shutil\ndef download_dataset(id):\n shutil.copytree({str(tmp_path / 'hub')!r}, "
    fetch += "os.environ['MINARI_DATASETS_PATH'], dirs_exist_ok=True)\n"
    asked = DataOptions(**{**vars(options), "download": True})
    stand_in.write_text(f"{fetch} raise ConnectionError('no way to the hub')")
    with pytest.raises(InputError, match="toy/small-v0: cannot be downloaded: ConnectionError: no way to the hub"):
        load(asked)
    assert list((tmp_path / "root").iterdir()) == []
    stand_in.write_text(fetch)
    assert load(asked).report.steps == 8
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["toy"]


def entry(options) -> Path:
    (folder,) = options.cache_dir.iterdir()
    return folder


def test_the_second_load_reads_the_cache_alone(tmp_path, options, monkeypatch):
    data = build(tmp_path / "root")
    first = load(options)
    before = sorted(tmp_path.glob("root/**/*"))

    def read_again(*_, **__):
        raise RuntimeError("the source is read")

    monkeypatch.setattr("rlkit.datasets.formats.minari.read", read_again)
    second = load(options)
    assert same(first, second) and first.fingerprint == second.fingerprint
    assert (first.report, first.observation_space) == (second.report, second.observation_space)
    assert sorted(tmp_path.glob("root/**/*")) == before
    with pytest.raises(ValueError):
        second.obs[0] = 0  # a read-only map
    os.utime(data / "main_data.hdf5", (1, 1))
    np.testing.assert_array_equal(jax.device_put(second.obs), first.obs)
    with pytest.raises(RuntimeError, match="the source is read"):  # it has changed
        load(options)


@pytest.mark.parametrize("name", [*(f"{column}.npy" for column in COLUMNS), "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "short", "flipped", "pickle"])
def test_a_damaged_entry_is_made_anew(tmp_path, options, name, damage):
    build(tmp_path / "root")
    load(options)
    first = load(options, use_cache=False)  # in memory: what was cached is a map of the file that is damaged here
    path = entry(options) / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(content[:-1])
    elif damage == "flipped":
        content[len(content) - 3] ^= 1
        path.write_bytes(content)
    else:
        with open(path, "wb") as file:
            np.save(file, np.array([Bomb()], object), allow_pickle=True)
    assert same(load(options), first)
    again = load(options)
    assert same(again, first) and not again.obs.flags.writeable
    assert [path.name for path in options.cache_dir.iterdir()] == [entry(options).name]  # no debris
    assert not Bomb.loaded


class Bomb:
    loaded: list = []

    def __reduce__(self):
        return Bomb.loaded.append, (1,)


def test_a_pickle_with_a_valid_checksum_is_not_loaded(tmp_path, options):
    build(tmp_path / "root")
    load(options)
    folder = entry(options)
    np.save(folder / "obs.npy", np.array([Bomb()], object), allow_pickle=True)
    form = json.loads((folder / "manifest.json").read_text())
    form.pop("crc")
    form["columns"]["obs"] = zlib.crc32((folder / "obs.npy").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({**form, "crc": zlib.crc32(json.dumps(form).encode())}))
    assert load(options).report.steps == 8
    assert not Bomb.loaded


def test_options_that_change_the_rows_have_their_own_entries(tmp_path, options):
    twice = EpisodeBuffer(**{**vars(buffers((3,))[0]), "terminations": np.array([False, True, True])})
    build(tmp_path / "root", episodes=[twice])
    repaired = DataOptions(**{**vars(options), "repair": ("ends",)})
    assert load(repaired).report.repaired == 1
    with pytest.raises(InputError, match="toy/small-v0: episode 0, index 1, terminations: .*--repair ends"):
        load(options)


def test_a_cache_that_cannot_be_written_is_only_a_warning(tmp_path, options, caplog):
    build(tmp_path / "root")
    options.cache_dir.write_text("a file where the folder should be")
    assert load(options).report.steps == 8
    assert "cannot write the cache" in caplog.text


def test_of_many_writers_one_wins_and_nothing_is_left_behind(tmp_path, options):
    build(tmp_path / "root")
    data = load(options)
    folder = tmp_path / "shared" / "entry"
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda _: cache.write(folder, data), range(24)):
            assert same(cache.read(folder), data)  # from the first write on there is a whole entry
    assert list(folder.parent.iterdir()) == [folder]
