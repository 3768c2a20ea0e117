"""HDF5 files. Their contents, and never their names, show which layout they have:

    data/demo_<number>/...         robomimic (robomimic.py)
    num_episodes, actions_0, ...   d3rlpy 2 (d3rlpy.py)
    observations, actions, ...     one array per field at the root: D4RL, d3rlpy 1.x (d4rl.py)

The last may have more at the root:

    discrete_action []       d3rlpy 1.x: actions number choices
    infos/... [N, ...]       D4RL: read only when asked for
    metadata/...             D4RL: never read

Minari's HDF5 files belong to a folder with metadata (minari.py).
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np

from rlkit.datasets.formats import d3rlpy, d4rl, robomimic
from rlkit.datasets.options import ColumnOptions, DataOptions
from rlkit.datasets.recording import Recording
from rlkit.datasets.untrusted import fields, h5
from rlkit.datasets.untrusted.fields import Budget, Fault
from rlkit.types import InputError

_SILENT = {"discrete_action", "version", "infos", "metadata"}  # known, and nothing is lost by leaving them
_KNOWN = (
    "observations, actions, rewards and terminals at the root, the episodes end to end (D4RL); groups data/demo_0, ... "
    "(robomimic); num_episodes and actions_0, ... (d3rlpy 2); Minari's episode_0, ... in a folder that has data/ with "
    "metadata.json, named by that folder"
)


def read(path: Path, *, options: DataOptions, infos: bool) -> Recording:
    """Read ``path``. options.env: an environment in place of the one of the file. infos: read infos/... of D4RL too.

    Raises InputError for a file that is damaged, lacks a field or has fields whose shapes disagree.
    """
    fields.check_exists(path)
    with h5.naming(path.name), h5py.File(path, "r") as root:
        layout = _layout(path, root)
        if options.columns != ColumnOptions() and layout is not robomimic:
            raise InputError(
                f"{path.name}: is no table, and --columns names the columns of tables and robomimic's keys; "
                "leave it out"
            )
        if layout is d4rl:
            notes: list[str] = []
            arrays, info_arrays, discrete = _d4rl_arrays(path, root, infos, notes)
    if layout is d4rl:
        return d4rl.recording(path, arrays, env=options.env, infos=info_arrays, notes=notes, discrete=discrete)
    return layout.read(path, options=options)


def _layout(path: Path, root: h5py.File) -> ModuleType:
    """The module that knows what is in the file."""
    for layout in (robomimic, d3rlpy):
        if layout.matches(root):
            return layout
    if "observations" in root and "episode_0" not in root:
        return d4rl
    groups = [name for name in _groups(root) if name not in _SILENT]
    if not groups:
        return d4rl  # which names the fields that are missing
    with h5.naming(f"{path.name}: {groups[0]}"):
        inside = fields.listed(sorted(h5.member(root, groups[0]), key=str)) or "nothing"
    raise InputError(
        f"{path.name}: none of the known layouts: its root has {fields.listed(sorted(root, key=str))}, and the group "
        f"{groups[0]} has {inside}; known are {_KNOWN}; write one of these, or a .npz for each episode "
        "(docs/own_data.md)"
    )


def _groups(root: h5py.File) -> list[str]:
    """Names of the groups at the root. Links are not followed."""
    names = []
    for name in sorted(root, key=str):
        with contextlib.suppress(Fault):
            if isinstance(h5.member(root, name), h5py.Group):
                names.append(name)
    return names


def _d4rl_arrays(
    path: Path, root: h5py.File, infos: bool, notes: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], bool | None]:
    """The fields of D4RL's layout, those of infos/ where they are asked for, and what discrete_action says."""
    budget = Budget(path.name)
    find = partial(h5.array, root, budget=budget)
    items = fields.known(path, root, d4rl.REQUIRED, d4rl.OPTIONAL, find, budget)

    # --- further members of the root ---
    discrete = None
    if "discrete_action" in root:
        with h5.naming(f"{path.name}: discrete_action"):
            discrete = bool(h5.scalar(root, "discrete_action"))
    unread = set(root) - set(items) - _SILENT
    if unread:
        names = fields.listed(sorted(unread, key=str))
        notes.append(f"fields that were not read: {names}")
    info_items = {}
    if infos:
        with h5.naming(f"{path.name}: infos"):
            info_items, skipped = _info_items(root, items["observations"].shape[0], budget)
        if skipped:
            names = fields.listed(sorted(skipped, key=str))
            notes.append(f"infos without one row of numbers per step were left out: {names}")

    # --- values ---
    arrays = {name: h5.read(item) for name, item in items.items()}
    info_arrays = {name: h5.read(item) for name, item in info_items.items()}
    return arrays, info_arrays, discrete


def _info_items(root: h5py.File, rows: int, budget: Budget) -> tuple[dict[str, h5.DatasetID], list[str]]:
    """Arrays below infos/ by their path below it, and the names of those that are not one row of numbers per step."""
    if "infos" not in root:
        return {}, []
    infos = h5.member(root, "infos")
    if not isinstance(infos, h5py.Group):
        return {}, []
    return h5.arrays_below(infos, budget, (rows,))
