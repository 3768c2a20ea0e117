"""The HDF5 files of d3rlpy 2 (ReplayBuffer.dump): arrays at the root, numbered by episode.

    num_episodes []            how many there are
    observations_<k> [T, ...]  of the steps; the final observation of an episode is not stored
    actions_<k> [T, A] or [T, 1], rewards_<k> [T, 1]
    terminated_<k> []          the last step of the episode ended in a terminal state

The last step of an episode that was not terminated has no successor: it is kept and never drawn, as in d3rlpy.
Source: d3rlpy/dataset/io.py and components.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from rlkit.datasets import episode_list
from rlkit.datasets.options import DataOptions
from rlkit.datasets.recording import Recording
from rlkit.datasets.untrusted import fields, h5
from rlkit.datasets.untrusted.fields import Budget
from rlkit.types import InputError

_FIELDS = ("observations", "actions", "rewards", "terminated")
_SILENT = {"columns", "num_episodes", "version"}


def matches(root: h5py.File) -> bool:
    """True if the file holds numbered episodes and says how many."""
    return "num_episodes" in root and "actions_0" in root


def read(path: Path, *, options: DataOptions) -> Recording:
    """Read ``path``. options.env: an environment id; such a file names none.

    Raises InputError, one line that names the episode and the field.
    """
    with h5.naming(path.name), h5py.File(path, "r") as root:
        count = _count(path, root)
        unread = _unread(root)
    recording = episode_list.read(path.name, _episodes(path, count), None, None, needs_final=False)
    recording.env_spec = options.env
    if unread:
        recording.notes.append(f"fields that were not read: {fields.listed(unread)}")
    return recording


def _count(path: Path, root: h5py.File) -> int:
    """The number of episodes, if there are as many as the file says."""
    with h5.naming(f"{path.name}: num_episodes"):
        promised = h5.scalar(root, "num_episodes")
    stored = sum(1 for name in root if re.fullmatch(r"actions_\d+", name))
    if promised != stored:
        raise InputError(f"{path.name}: promises {promised} episodes and holds {stored}; fetch or write it again")
    return stored


def _unread(root: h5py.File) -> list[str]:
    """The names of further fields, without their numbers."""
    names = {re.sub(r"(_\d+)+$", "", name) for name in root}
    return sorted(names - set(_FIELDS) - _SILENT)


def _episodes(path: Path, count: int) -> Iterator[dict[str, Any]]:
    """The episodes in order, as episode_list.read takes them."""
    budget = Budget(path.name)
    with h5.naming(path.name), h5py.File(path, "r") as root:
        for number in range(count):
            where = f"{path.name}: episode {number}"
            if f"observations_{number}_0" in root:
                raise InputError(
                    f"{where}: observations are tuples of arrays, and one array is served; join them into one and dump "
                    "the episodes again"
                )
            arrays = {}
            for field in ("observations", "actions", "rewards"):
                arrays[field] = h5.values(where, root, f"{field}_{number}", budget)
            budget.plan(arrays["observations"].size)
            with h5.naming(f"{where}, terminated"):
                terminated = h5.scalar(root, f"terminated_{number}")
            yield {**arrays, "terminated": terminated}
