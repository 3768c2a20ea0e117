"""Minari's HDF5 form: data/main_data.hdf5 with a group ``episode_<k>`` per episode.

    observations [T+1, ...] (a group of such for a Dict space), actions, rewards, terminations, truncations [T, ...]
    infos/...               [T+1, ...] or [T, ...]: read only when asked for
    infos/labelled          of our own, [T+1] (the first belongs to reset) or [T]: the reward is known; where it is not,
                            it may be NaN

Images (see images.py) are one compressed frame per row. Source: minari/dataset/_storages/hdf5_storage.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import Space
from gymnasium.spaces import Dict

from rlkit.datasets.untrusted import h5, images
from rlkit.datasets.untrusted.fields import Budget
from rlkit.types import InputError

_FLAT = ("rewards", "terminations", "truncations")


def read(
    name: str, data: Path, observation_space: Space, action_space: Space, *, promised: int, jpeg: bool, infos: bool
) -> Iterator[dict[str, Any]]:
    """The episodes in order, as episode_list.read takes them. ``promised``: how many there must be.

    Raises InputError, one line that names episode and field.
    """
    budget = Budget(name)
    with h5.naming(f"{name}: main_data.hdf5"), h5py.File(data / "main_data.hdf5", "r") as file:
        stored_episodes = len(file)
        if stored_episodes != promised:
            problem = f"metadata promise {promised} episodes, the file holds {stored_episodes}"
            raise InputError(f"{name}: {problem}; fetch or write it again")
        for number in range(promised):
            where = f"{name}: episode {number}"
            with h5.naming(where):
                group = h5.member(file, f"episode_{number}")
                if not isinstance(group, h5py.Group):
                    raise h5.Fault("not a group of arrays")
                episode = {
                    "observations": _column(where, group, "observations", observation_space, jpeg, budget),
                    "actions": _column(where, group, "actions", action_space, jpeg, budget),
                }
                for field in _FLAT:
                    episode[field] = h5.values(where, group, field, budget)
                steps = len(episode["rewards"])
                episode["labelled"] = _labelled(where, group, steps, budget)
                if infos:
                    episode["infos"] = _infos(where, group, steps, budget)
                episode["total_steps"] = group.attrs.get("total_steps")
            yield episode


def _column(where: str, group: h5py.Group, field: str, space: Space, jpeg: bool, budget: Budget) -> Any:
    """The rows of a space: an array, or for a Dict space a mapping of such."""
    key = field.rpartition("/")[2]
    if isinstance(space, Dict):
        inner = h5.member(group, key)
        if not isinstance(inner, h5py.Group):
            raise InputError(f"{where}, {field}: not a group, though the space is a Dict")
        columns = {}
        for name, member in space.spaces.items():
            columns[name] = _column(where, inner, f"{field}/{name}", member, jpeg, budget)
        return columns
    if jpeg and images.is_image(space):
        item = h5.member(group, key)
        return _images(f"{where}, {field}", item, space, budget)
    return h5.values(where, group, field, budget)


def _images(where: str, item: Any, space: Space, budget: Budget) -> np.ndarray:
    """[T, *shape of the space] of an array with a compressed image in each row."""
    if not isinstance(item, h5.DatasetID) or not _holds_bytes(item.dtype):
        raise InputError(f"{where}: no compressed images, though the space is one of images")
    array = h5py.Dataset(item)
    budget.take(array.nbytes)
    frames = (frame.tobytes() for frame in array[()])
    return images.decode(where, frames, len(array), space.shape, budget)


def _holds_bytes(dtype: np.dtype) -> bool:
    """True if each row is bytes: of one length for all rows, or of its own."""
    return dtype == np.uint8 or h5py.check_vlen_dtype(dtype) == np.uint8


def _labelled(where: str, group: h5py.Group, steps: int, budget: Budget) -> np.ndarray | None:
    """Flags of the known rewards, [T]; None where the file has none. A link by name counts as absent."""
    links = group.id.links
    if not links.exists(b"infos") or links.get_info(b"infos").type != h5py.h5l.TYPE_HARD:
        return None
    infos = h5.member(group, "infos")
    if not isinstance(infos, h5py.Group) or not infos.id.links.exists(b"labelled"):
        return None
    labelled = h5.values(where, infos, "infos/labelled", budget)
    if len(labelled) == steps + 1:
        return labelled[1:]
    return labelled


def _infos(where: str, group: h5py.Group, steps: int, budget: Budget) -> dict[str, np.ndarray]:
    """Arrays with a row per step, or one more; the rest is left out."""
    if "infos" not in group:
        return {}
    values = {}
    with h5.naming(f"{where}, infos"):
        infos = h5.member(group, "infos")
        items, _ = h5.arrays_below(infos, budget, (steps, steps + 1))
        for field, item in items.items():
            values[field] = h5.read(item)
    return values
