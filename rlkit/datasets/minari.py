"""Minari datasets (HDF5, Arrow and Parquet), read through the minari library.

The library's storage reader is used without ``load_dataset``, which refuses files of a later patch release, makes the
environment where a space is missing, and believes the counts in the metadata. Its reading takes nearly all the time of
a first load, whose parts are cheap beside it, so h5py is used only to count the episodes that a file really holds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rlkit.datasets import episode_list
from rlkit.datasets.recording import Recording
from rlkit.types import InputError


def read(path: Path, *, env: str | None, infos: bool, name: str | None = None) -> Recording:
    """Read the dataset in folder ``path`` (the one that holds ``data``). ``env`` replaces the environment it names.

    Raises InputError where the metadata and the file disagree, or either cannot be read.
    """
    from minari.dataset.minari_storage import MinariStorage

    data = path / "data"
    metadata = read_metadata(data)
    name = name or str(metadata.get("dataset_id", path.name))
    if missing := [key for key in ("observation_space", "action_space") if key not in metadata]:
        raise InputError(f"{name}: metadata.json names no {missing[0]}; add it in Minari's JSON form")
    try:
        storage = MinariStorage.read(data)
    except (AssertionError, ImportError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise InputError(f"{name}: cannot be opened: {_one_line(error)}") from error
    _check_episodes(name, data, metadata)
    recording = episode_list.read(
        name, _episodes(name, storage), storage.observation_space, storage.action_space, infos=infos
    )
    _check_steps(name, storage, metadata, recording.lengths)
    random, expert = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    recording.reference = (float(random), float(expert)) if None not in (random, expert) else None
    recording.env_spec = env or _env_spec(name, metadata)
    return recording


def read_metadata(data: Path) -> dict:
    """metadata.json as a dict with whole-number totals. Raises InputError."""
    path = data / "metadata.json"
    try:
        metadata = json.loads(path.read_text())
        totals = [metadata[key] for key in ("total_episodes", "total_steps")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a Minari metadata file: {_one_line(error)}") from error
    if not all(isinstance(total, int) for total in totals):
        raise InputError(f"{path}: total_episodes and total_steps must be whole numbers, not {totals}")
    return metadata


def download(dataset: str, root: Path) -> None:
    """Fetch a dataset from Minari's hub into ``root``; it appears there whole or not at all. Raises InputError.

    A process of its own: the library is told where to by its environment alone, and what it raises depends on the hub.
    """
    root.mkdir(parents=True, exist_ok=True)
    code = "import sys, minari; minari.download_dataset(sys.argv[1])"
    with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as folder:
        environ = {**os.environ, "MINARI_DATASETS_PATH": folder}
        done = subprocess.run([sys.executable, "-c", code, dataset], env=environ, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InputError(f"{dataset}: cannot be downloaded: {reason}")
        (root / dataset).parent.mkdir(parents=True, exist_ok=True)
        os.replace(Path(folder) / dataset, root / dataset)


def _episodes(name: str, storage) -> Iterator[dict]:
    """The library's episodes, its many exceptions turned into one."""
    episodes = iter(storage.get_episodes(range(storage.total_episodes)))
    number = 0
    while True:
        try:
            episode = next(episodes)
        except StopIteration:
            return
        except (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
            raise InputError(f"{name}: episode {number}: cannot be read: {_one_line(error)}") from error
        yield episode
        number += 1


def _check_episodes(name: str, data: Path, metadata: dict) -> None:
    """The episodes in the file must be as many as the metadata promise; the library stops at the promise."""
    if metadata.get("data_format", "hdf5") == "hdf5":
        import h5py

        try:
            with h5py.File(data / "main_data.hdf5", "r") as file:
                held = len(file)
        except OSError as error:
            raise InputError(f"{name}: main_data.hdf5 cannot be read: {_one_line(error)}") from error
    else:
        held = sum(entry.name.isdigit() and entry.is_dir() for entry in os.scandir(data))
    if held != metadata["total_episodes"]:
        promise = metadata["total_episodes"]
        raise InputError(f"{name}: metadata promise {promise} episodes, the file holds {held}; fetch or write it anew")


def _check_steps(name: str, storage, metadata: dict, lengths) -> None:
    """The steps read must be as many as promised: an Arrow episode with T observations loses its last step unseen."""
    held, promise = int(lengths.sum()), metadata["total_steps"]
    if held == promise and len(lengths) == metadata["total_episodes"]:
        return
    where = ""
    for number, own in enumerate(storage.get_episode_metadata(range(len(lengths)))):
        if own.get("total_steps", lengths[number]) != lengths[number]:
            steps = f"{lengths[number]} of its {own['total_steps']} steps"
            where = f" (episode {number}, observations: enough for {steps}; T + 1 are needed)"
            break
    raise InputError(f"{name}: metadata promise {promise} steps, the file holds {held}{where}")


def _env_spec(name: str, metadata: dict) -> str | None:
    """The environment meant for evaluation, else the one recorded in, without fields that gymnasium 1 has dropped."""
    from gymnasium.envs.registration import EnvSpec

    form = metadata.get("eval_env_spec") or metadata.get("env_spec")
    if form is None:
        return None
    known = {field.name for field in dataclasses.fields(EnvSpec) if field.init}
    try:
        return json.dumps({key: value for key, value in json.loads(form).items() if key in known})
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{name}: env_spec in metadata.json cannot be read: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
