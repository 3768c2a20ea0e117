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

from rlkit.datasets import h5, images
from rlkit.datasets.fields import Budget
from rlkit.types import InputError, one_line

_FLAT = ("rewards", "terminations", "truncations")


def read(
    name: str, data: Path, observation_space: Space, action_space: Space, *, promised: int, jpeg: bool, infos: bool
) -> Iterator[dict[str, Any]]:
    """The episodes in order, as episode_list.read takes them. ``promised``: how many there must be.

    Raises InputError, one line that names episode and field.
    """
    budget = Budget(name)
    where = f"{name}: main_data.hdf5"
    try:
        with h5py.File(data / "main_data.hdf5", "r") as file:
            if len(file) != promised:
                raise InputError(
                    f"{name}: metadata promise {promised} episodes, the file holds {len(file)}; fetch or write it anew"
                )
            for number in range(promised):
                where = f"{name}: episode {number}"
                group = h5.member(file, f"episode_{number}")
                if not isinstance(group, h5py.Group):
                    raise h5.Fault("not a group of arrays")
                observations = _column(where, group, "observations", observation_space, jpeg, budget)
                actions = _column(where, group, "actions", action_space, jpeg, budget)
                flat = {field: _array(where, group, field, budget) for field in _FLAT}
                yield {
                    "observations": observations,
                    "actions": actions,
                    **flat,
                    "labelled": _labelled(where, group, len(flat["rewards"]), budget),
                    "infos": _infos(where, group, budget) if infos else {},
                    "total_steps": group.attrs.get("total_steps"),
                }
    except h5.Fault as fault:
        raise InputError(f"{where}: {fault}") from None
    except h5.DAMAGE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} cannot be read: {one_line(error)}; fetch or write it anew") from error


def _array(where: str, group: h5py.Group, field: str, budget: Budget) -> np.ndarray:
    try:
        return h5.read(h5.array(group, field.rpartition("/")[2], budget))
    except h5.Fault as fault:
        raise InputError(f"{where}, {field}: {fault}") from None
    except h5.DAMAGE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}, {field}: cannot be read: {one_line(error)}") from error


def _column(where: str, group: h5py.Group, field: str, space: Space, jpeg: bool, budget: Budget) -> Any:
    """The rows of a space: an array, or for a Dict space a mapping of such."""
    key = field.rpartition("/")[2]
    if isinstance(space, Dict):
        inner = h5.member(group, key)
        if not isinstance(inner, h5py.Group):
            raise InputError(f"{where}, {field}: not a group, though the space is a Dict")
        return {part: _column(where, inner, f"{field}/{part}", sub, jpeg, budget) for part, sub in space.spaces.items()}
    if not (jpeg and images.is_image(space)):
        return _array(where, group, field, budget)
    return _images(f"{where}, {field}", h5.member(group, key), space, budget)


def _images(where: str, member: Any, space: Space, budget: Budget) -> np.ndarray:
    """[T, *shape of the space] of an array with a compressed image in each row."""
    item = h5py.Dataset(member) if isinstance(member, h5.DatasetID) else None
    if item is None or (item.dtype != np.uint8 and h5py.check_vlen_dtype(item.dtype) != np.uint8):
        raise InputError(f"{where}: no compressed images, though the space is one of images")
    budget.take(item.nbytes)
    frames = (frame.tobytes() for frame in item[()])
    return images.decode(where, frames, len(item), space.shape, budget)


def _labelled(where: str, group: h5py.Group, steps: int, budget: Budget) -> np.ndarray | None:
    """Which rewards are known, [T]; None where the file does not say. A link is looked for, and never followed."""
    links = group.id.links
    if not links.exists(b"infos") or links.get_info(b"infos").type != h5py.h5l.TYPE_HARD:
        return None
    infos = h5.member(group, "infos")
    if not isinstance(infos, h5py.Group) or not infos.id.links.exists(b"labelled"):
        return None
    labelled = _array(where, infos, "infos/labelled", budget)
    return labelled[1:] if len(labelled) == steps + 1 else labelled


def _infos(where: str, group: h5py.Group, budget: Budget) -> dict[str, np.ndarray]:
    """What has a row per step, or one more; the rest is left out."""
    if "infos" not in group:
        return {}
    try:
        steps = h5.array(group, "rewards", Budget(where)).shape[0]
        items, _ = h5.arrays_below(h5.member(group, "infos"), budget, (steps, steps + 1))
        return {field: h5.read(item) for field, item in items.items()}
    except h5.Fault as fault:
        raise InputError(f"{where}, infos: {fault}") from None
