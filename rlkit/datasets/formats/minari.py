"""Minari datasets: metadata.json here, the episodes in minari_hdf5.py and minari_arrow.py.

The minari library is used only to download. Its reading takes what the metadata say on trust, the number of episodes
and the code to import included, and hands damaged files to libraries that end the process over them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space

from rlkit.datasets import episode_list, spaces
from rlkit.datasets.options import DataOptions
from rlkit.datasets.recording import Recording
from rlkit.datasets.untrusted.fields import Budget, last_line
from rlkit.types import InputError, one_line

MOST_METADATA = 64 * 2**20  # bytes; bounds of images of 1000 x 1000 pixels take 40 MB
_READERS = {"hdf5": "minari_hdf5", "arrow": "minari_arrow", "parquet": "minari_arrow"}


def read(path: Path, *, options: DataOptions, infos: bool, name: str | None = None) -> Recording:
    """Read the dataset in folder ``path`` (the one that holds ``data``). ``options.env`` replaces the environment that
    it names.

    Raises InputError where the metadata and the file disagree, or either cannot be read.
    """
    data = path / "data"
    metadata = read_metadata(data)
    name = name or str(metadata.get("dataset_id", path.name))
    observation_space = _space(name, metadata, "observation_space")
    action_space = _space(name, metadata, "action_space")
    spaces.check_supported(name, observation_space, action_space)
    width = spaces.width(observation_space)
    Budget(name).plan(metadata["total_steps"] * width)
    data_format = metadata.get("data_format", "hdf5")
    if not isinstance(data_format, str) or data_format not in _READERS:
        formats = ", ".join(_READERS)
        raise InputError(f"{name}: data_format in metadata.json is {data_format!r}, not one of {formats}")
    reader = import_module(f"rlkit.datasets.formats.{_READERS[data_format]}")
    episodes = reader.read(
        name,
        data,
        observation_space,
        action_space,
        promised=metadata["total_episodes"],
        jpeg=bool(metadata.get("jpeg_encoding", True)),
        infos=infos,
    )
    counted = _counted(name, episodes)
    recording = episode_list.read(name, counted, observation_space, action_space, infos=infos)
    stored_steps = int(recording.lengths.sum())
    promised = metadata["total_steps"]
    if stored_steps != promised:
        raise InputError(f"{name}: metadata promise {promised} steps, the file holds {stored_steps}")
    recording.reference = _reference(name, metadata)
    recording.env_spec = options.env or _env_spec(name, metadata)
    return recording


def read_metadata(data: Path) -> dict:
    """metadata.json as a dict with whole-number totals. Raises InputError."""
    path = data / "metadata.json"
    try:
        size = path.stat().st_size
        if size > MOST_METADATA:
            raise ValueError(f"{size >> 20} MiB, more than {MOST_METADATA >> 20}")
        metadata = json.loads(path.read_text())
        totals = [metadata["total_episodes"], metadata["total_steps"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = one_line(error)
        raise InputError(f"{path}: not a Minari metadata file: {reason}") from error
    for total in totals:
        if type(total) is not int or total < 0:
            raise InputError(f"{path}: total_episodes and total_steps must be whole numbers, not {totals}")
    return metadata


def download(dataset: str, root: Path) -> None:
    """Fetch a dataset from Minari's hub into ``root``, where it appears whole or not at all. Raises InputError.

    The library runs in a process of its own, since an environment variable alone says where it writes, and what it
    raises depends on the hub.
    """
    root.mkdir(parents=True, exist_ok=True)
    code = "import sys, minari; minari.download_dataset(sys.argv[1])"
    with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as folder:
        environ = {**os.environ, "MINARI_DATASETS_PATH": folder}
        command = [sys.executable, "-c", code, dataset]
        done = subprocess.run(command, env=environ, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            reason = last_line(done.stderr)
            raise InputError(f"{dataset}: cannot be downloaded: {reason}")
        target = root / dataset
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(Path(folder) / dataset, target)


def _space(name: str, metadata: dict, key: str) -> Space:
    """A space, if it has as many bounds as its shape says: nothing of a declared size is allocated."""
    if key not in metadata:
        raise InputError(f"{name}: metadata.json names no {key}; add it in Minari's JSON form")
    try:
        form = json.loads(metadata[key])
        return spaces.from_json(form)
    except spaces.NotServed as problem:
        raise InputError(f"{name}: {key} in metadata.json is {problem}") from None
    except (AssertionError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        reason = one_line(error)
        raise InputError(f"{name}: {key} in metadata.json cannot be read: {reason}") from error


def _counted(name: str, episodes: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The episodes, if each has as many steps as its own metadata say: without this check an episode that lacks its
    final observation would silently lose its last step."""
    for number, episode in enumerate(episodes):
        where = f"{name}: episode {number}"
        steps = len(episode["rewards"])
        promised = episode.pop("total_steps")
        if promised is None:
            promised = steps
        if not isinstance(promised, int | np.integer):
            kind = type(promised).__name__
            raise InputError(f"{where}, total_steps: {kind}, not a whole number")
        if promised != steps:
            raise InputError(f"{where}, observations: enough for {steps} of its {promised} steps; T + 1 are needed")
        yield episode


def _reference(name: str, metadata: dict) -> tuple[float, float] | None:
    """The returns of a random and an expert policy, where the metadata give both."""
    scores = [metadata.get("ref_min_score"), metadata.get("ref_max_score")]
    if None in scores:
        return None
    for score in scores:
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise InputError(f"{name}: ref_min_score and ref_max_score in metadata.json are {scores}, not numbers")
    return float(scores[0]), float(scores[1])


def _env_spec(name: str, metadata: dict) -> str | None:
    """The environment meant for evaluation, else the one recorded in, without fields that gymnasium 1 has dropped."""
    from gymnasium.envs.registration import EnvSpec

    text = metadata.get("eval_env_spec") or metadata.get("env_spec")
    if text is None:
        return None
    known = {field.name for field in dataclasses.fields(EnvSpec) if field.init}
    form = {}
    try:
        for key, value in json.loads(text).items():
            if key in known:
                form[key] = value
        return json.dumps(form)
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        reason = one_line(error)
        raise InputError(f"{name}: env_spec in metadata.json cannot be read: {reason}") from error
