"""Writing Minari datasets: episodes as they are played, stored all at once or a few at a time."""

from __future__ import annotations

import copy
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from rlkit.datasets.formats import minari as reader
from rlkit.types import InputError

Act = Callable[[Any, float], Any]  # (observation, reward of the step before) -> action, in the environment's units
Rows = dict[str, Any]  # of one episode, see `rollout`

COLLECTION = "rlkit_collection"  # key of metadata.json: what was collected, and how many episodes there are to be
OVERHEAD = 16 * 2**10  # bytes: more than an array takes in a file besides its values
PAUSE = 9.0  # times what the last write took: a growing dataset takes a tenth of the time for writing, at most


def rollout(env: gymnasium.Env, act: Act, seed: int, longest: int | None = None) -> Rows:
    """One episode, from ``reset(seed=seed)`` to its end, or to ``longest`` steps, where it is cut as truncated.

    Returns its T steps: observations [T + 1, ...] (of a Dict space a mapping of such, of a Tuple space a tuple),
    actions [T, ...], rewards, terminations and truncations [T]. Raises what the environment raises.
    """
    obs, _ = env.reset(seed=seed)
    # copies: some environments return the same array at every step, with other numbers in it
    observations = [copy.deepcopy(obs)]
    actions = []
    rewards = []
    terminations = []
    truncations = []
    reward = 0.0
    done = False
    while not done:
        action = act(obs, reward)
        obs, reward, terminated, truncated, _ = env.step(action)
        if len(rewards) + 1 == longest and not terminated:
            truncated = True
        observations.append(copy.deepcopy(obs))
        actions.append(copy.deepcopy(action))
        rewards.append(reward)
        terminations.append(terminated)
        truncations.append(truncated)
        done = terminated or truncated
    return {
        "observations": _stack(observations),
        "actions": _stack(actions),
        "rewards": np.asarray(rewards),
        "terminations": np.asarray(terminations),
        "truncations": np.asarray(truncations),
    }


def _stack(values: Sequence[Any]) -> Any:
    """Values of one space as arrays with a row for each, part by part."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _stack([value[key] for value in values]) for key in first}
    if isinstance(first, tuple):
        return tuple(_stack(part) for part in zip(*values, strict=True))
    return np.asarray(values)


def store(
    out: Path,
    dataset: str,
    env: gymnasium.Env,
    episodes: Sequence[Mapping[str, Any]],
    *,
    seed: int | None,
    references: tuple[float, float] | None,
    command: str,
    description: str,
    algorithm: str = "scripted",
    lossless: bool = False,
) -> None:
    """Store ``episodes`` under the Minari root ``out``. Minari refuses to overwrite.

    Args:
        out: the root; it is made if need be.
        dataset: id of the dataset.
        env: what was played; its spec is stored for evaluation too, where it has one.
        episodes: as `rollout` returns them. The i-th is stored as of seed ``seed`` + i, or of no seed if that is None.
        references: mean returns of a random and of an expert policy, if they are known.
        command: what made the dataset.
        description: a sentence on the policy.
        algorithm: name of the policy.
        lossless: keep pictures as they are, where Minari's own way is to compress them.
    """
    store_rows(
        out,
        dataset,
        episodes,
        env=env if env.spec else None,  # of one that was made without an id, the spaces alone are kept
        observation_space=env.observation_space,
        action_space=env.action_space,
        seed=seed,
        references=references,
        command=command,
        description=description,
        algorithm=algorithm,
        lossless=lossless,
    )


def store_rows(
    out: Path,
    dataset: str,
    episodes: Sequence[Mapping[str, Any]],
    *,
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    references: tuple[float, float] | None,
    command: str,
    description: str,
    algorithm: str,
    env: gymnasium.Env | None = None,
    seed: int | None = None,
    lossless: bool = False,
) -> None:
    """As `store`, of episodes that may have no environment: their spaces are given."""
    import minari

    low, high = references or (None, None)
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(out.resolve())  # the only way to tell minari where to write
    try:
        with warnings.catch_warnings():
            if env is None:
                warnings.simplefilter("ignore", UserWarning)  # Minari says that no environment is named
            minari.create_dataset_from_buffers(
                dataset,
                _buffers(episodes, 0, seed),
                env=env,
                eval_env=env,
                observation_space=observation_space,
                action_space=action_space,
                algorithm_name=algorithm,
                author="rlkit-jax",
                author_email="",
                code_permalink=command,
                description=description,
                ref_min_score=low,
                ref_max_score=high,
                data_format="hdf5",
                jpeg_encoding=not lossless,
            )
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before


def add_metadata(folder: Path, values: Mapping[str, Any]) -> None:
    """Add to the metadata of the Minari dataset in ``folder``."""
    import minari

    minari.MinariDataset(folder.resolve() / "data").storage.update_metadata(dict(values))


def _buffers(episodes: Sequence[Mapping[str, Any]], first: int, seed: int | None) -> list[Any]:
    """Minari's form of episodes, of which the first has the number ``first``."""
    from minari.data_collector import EpisodeBuffer

    buffers = []
    for i, rows in enumerate(episodes, first):
        episode_seed = None if seed is None else seed + i
        buffers.append(EpisodeBuffer(id=i, seed=episode_seed, **rows))
    return buffers


class GrowingDataset:
    """A Minari dataset to which episodes are added, and which is whole on the disk at every moment.

    HDF5 files that are written to when the process is killed are lost. So each write makes a new copy in a hidden
    folder, which then takes the place of the old one: by two renames, between which the name stands for nothing. A
    process that was killed there has left the old one in a hidden folder, from which the next GrowingDataset takes it
    back. One process at a time may write (`rlkit.runs.lock`).

    Args:
        root: the Minari root.
        dataset: id of the dataset.
        env: what is played.
        seed: of the first episode; that of number i is seed + i.
        collection: JSON values that say what is collected; they are stored beside the episodes.
        about: arguments of `store` that say the same in words.

    Returns:
        A GrowingDataset. ``episodes`` and ``steps`` count what is on the disk; ``collection`` is what the dataset there
        says, or what was given where there is none yet.

    Raises:
        InputError: if the dataset is there but was not written by this class, or cannot be read.
    """

    def __init__(
        self,
        root: Path,
        dataset: str,
        env: gymnasium.Env,
        seed: int,
        collection: Mapping[str, Any],
        about: Mapping[str, Any],
    ):
        self.folder = root / dataset
        folder = self.folder.resolve()  # Minari looks up relative paths twice
        self._data = folder / "data"
        self._old = folder / ".old"
        self._part = folder / ".part"
        self._root = folder / ".root"
        self._dataset = dataset
        self._env = env
        self._seed = seed
        self.collection = dict(collection)
        self._about = about
        self._pending: list[Rows] = []
        self._written = -np.inf  # when the last write ended
        self._took = 0.0  # seconds that it took
        self.episodes = 0
        self.steps = 0
        self._settle()
        if not isinstance(self.collection, dict):
            raise InputError(
                f"{self.folder} is there already, and `data collect` did not make it: choose another --name"
            )

    def _settle(self) -> None:
        """Put in order what an interrupted write left, of this process or of one that was killed, and read what is on
        the disk. Episodes that are there are not pending any more."""
        if self._old.is_dir() and not self._data.exists():
            os.replace(self._old, self._data)
        for folder in (self._old, self._part, self._root):
            shutil.rmtree(folder, ignore_errors=True)
        if not self._data.exists():
            if self.episodes:
                raise OSError(f"its {self.episodes} episodes were removed by somebody else")
            return
        metadata = reader.read_metadata(self._data)
        self.collection = metadata.get(COLLECTION)
        written = metadata["total_episodes"] - self.episodes
        del self._pending[:written]
        self.episodes += written
        self.steps = metadata["total_steps"]

    def add(self, rows: Rows) -> None:
        """Add an episode. It is written to the disk soon, by this call or a later one."""
        self._pending.append(rows)
        rested = time.monotonic() - self._written
        if rested >= PAUSE * self._took:
            self.write()

    def write(self) -> None:
        """Write what is not on the disk yet. Raises OSError where there is no room, or what was there is gone."""
        self._settle()
        if not self._pending:
            return
        begun = time.monotonic()
        self._check_room()
        self._make_part()
        for path in self._part.iterdir():
            _sync(path)
        if self._data.exists():
            os.replace(self._data, self._old)
        os.replace(self._part, self._data)
        self._settle()
        self._written = time.monotonic()
        self._took = self._written - begun

    def _check_room(self) -> None:
        """Raises OSError where the disk has no room for the next write: HDF5 ends the process over a full disk."""
        need = 0
        for path in self._data.glob("*"):
            need += path.stat().st_size
        for rows in self._pending:
            for array in arrays(rows):
                need += 2 * array.nbytes + OVERHEAD
        folder = self._data.parent
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if need > free:
            raise OSError(f"{need / 2**20:.1f} MiB are needed and {free / 2**20:.1f} are free")

    def _make_part(self) -> None:
        """The new form of the dataset: what is on the disk, and the episodes that are not."""
        import minari

        if self._data.exists():
            shutil.copytree(self._data, self._part)
            whole = minari.MinariDataset(self._part)
            whole.update_dataset_from_buffer(_buffers(self._pending, self.episodes, self._seed))
            return
        store(self._root, self._dataset, self._env, self._pending, seed=self._seed, lossless=True, **self._about)
        os.rename(self._root / self._dataset / "data", self._part)
        shutil.rmtree(self._root)
        minari.MinariDataset(self._part).storage.update_metadata({COLLECTION: self.collection})


def arrays(part: Any) -> Iterator[np.ndarray]:
    """The arrays of an episode, or of a part of it."""
    if isinstance(part, np.ndarray):
        yield part
        return
    members = part.values() if isinstance(part, Mapping) else part
    for member in members:
        yield from arrays(member)


def _sync(path: Path) -> None:
    """Have the file on the disk before its folder is renamed, so that a power cut finds one of both whole."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
