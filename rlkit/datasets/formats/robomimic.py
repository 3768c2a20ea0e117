"""robomimic's HDF5 files: one group per demonstration.

    data/demo_<number>/obs/<key> [T, ...]        each key of the observations
    data/demo_<number>/next_obs/<key> [T, ...]   what each step led to; may be absent
    data/demo_<number>/actions [T, A], rewards [T]
    data/demo_<number>/dones [T]                 the step ended the task; may be absent
    data/demo_<number> num_samples               attribute: T
    data total, env_args                         attributes: all steps; JSON with env_name and env_type
    mask/<name>                                  names of demonstrations: never read, all of them are used

The observation is all keys with one row of numbers per step, side by side in alphabetical order, or those that
--columns.observation names, in its order. Images and other keys of more axes are left out by name. `dones` says that
the episode should end with this step: it is terminal here. robomimic's own scripts set it at a success, at the end of
a demonstration, or at both, and a demonstration may go on after it: it is split there, no step is lost, and each keeps
its successor.
Source: the dataset pages of robomimic's documentation, and its scripts/dataset_states_to_obs.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import h5py
import numpy as np

from rlkit.datasets import episode_list
from rlkit.datasets.formats import table_roles
from rlkit.datasets.options import ColumnOptions, DataOptions
from rlkit.datasets.recording import Recording
from rlkit.datasets.untrusted import fields, h5
from rlkit.datasets.untrusted.fields import Budget
from rlkit.types import InputError, one_line

_DEMO = re.compile(r"demo_\d+")
_GYM = 2  # env_type of environments that Gym registers


class _Keys(NamedTuple):
    read: list[str]  # with one row of numbers per step, in the order of the observation
    stored: set[str]  # all


def matches(root: h5py.File) -> bool:
    """True if the file holds demonstrations."""
    if "data" not in root:
        return False
    data = h5.member(root, "data")
    return isinstance(data, h5py.Group) and any(_DEMO.fullmatch(name) for name in data)


def read(path: Path, *, options: DataOptions) -> Recording:
    """Read ``path``. options.env: an environment id, in place of the one that the file names. options.columns: the keys
    of the observation, in their order.

    Raises InputError, one line that names the demonstration and the field.
    """
    _check_columns(path, options.columns)
    notes: list[str] = []
    with h5.naming(path.name), h5py.File(path, "r") as root:
        data = h5.member(root, "data")
        demos = _demos(path, data)
        keys = _keys(path, data, demos[0], options.columns.observation, notes)
        with h5.naming(f"{path.name}: data, total"):
            total = h5.number(data, "total")
        _note_masks(root, notes)
        env = options.env or _environment(path, data, notes)
    episodes = _episodes(path, demos, keys)
    recording = episode_list.read(path.name, episodes, None, None, needs_final=False)
    steps = int(recording.lengths.sum())
    if total is not None and total != steps:
        raise InputError(f"{path.name}: promises {total} steps and holds {steps}; fetch or write it again")
    recording.env_spec = env
    recording.notes = [*notes, *recording.notes]
    if len(recording.lengths) > len(demos):
        pieces = f"{len(demos)} demonstrations make {len(recording.lengths)} episodes"
        recording.notes.append(f"{pieces}: split behind each step with dones 1")
    return recording


def _demos(path: Path, data: h5py.Group) -> list[str]:
    """The names of the demonstrations, in the order of their numbers."""
    others = [name for name in data if not _DEMO.fullmatch(name)]
    if others:
        raise InputError(
            f"{path.name}: data has members that are no demo_<number>: {fields.listed(sorted(others, key=str))}; "
            "remove them, or write the file again"
        )
    return sorted(data, key=lambda name: int(name.removeprefix("demo_")))


def _check_columns(path: Path, columns: ColumnOptions) -> None:
    """Raises InputError where something else than the keys of the observation was told."""
    if columns != ColumnOptions(observation=columns.observation):
        raise InputError(
            f"{path.name}: of demonstrations --columns.observation alone is told, the keys of the observation in their "
            "order; leave the others out"
        )


def _keys(path: Path, data: h5py.Group, demo: str, told: tuple[str, ...], notes: list[str]) -> _Keys:
    """The keys of a demonstration: those that were ``told``, in that order, or all, sorted. What is not read is
    noted."""
    where = f"{path.name}: {demo}"
    with h5.naming(f"{where}, obs"):
        group = _group(data, demo)
        if "obs" not in group:
            raise InputError(
                f"{where} has no obs: the file holds the simulator's states alone; make observations of them first, "
                "with robomimic's dataset_states_to_obs.py"
            )
        observations = _group(group, "obs")
        widths = {}
        left_out = []
        for key in sorted(observations):
            item = h5.member(observations, key)
            if isinstance(item, h5.DatasetID) and len(item.shape) <= 2 and item.dtype.kind in "biuf":
                widths[key] = item.shape[1] if len(item.shape) == 2 else 1
            else:
                shape = list(item.shape[1:]) if isinstance(item, h5.DatasetID) else "a group"
                left_out.append(f"{key} ({shape})")
    if left_out:
        notes.append(f"keys of the observations that are no rows of numbers were left out: {fields.listed(left_out)}")
    if not widths:
        raise InputError(f"{where}, obs: no key has rows of numbers; extract low-dimensional observations too")
    keys = list(widths)
    if told:
        keys = list(table_roles.named(f"{where}, obs", keys, "observation", told))
        if len(set(keys)) < len(keys):
            raise InputError(f"{path.name}: --columns.observation {' '.join(told)} names a key twice")
        unused = [key for key in widths if key not in keys]
        if unused:
            notes.append(f"keys of the observations that were not chosen: {fields.listed(unused)}")
    columns = fields.listed(f"{key} ({widths[key]})" for key in keys)
    notes.append(f"observations are, in this order: {columns}; an environment must give them in the same")
    return _Keys(keys, set(observations))


def _note_masks(root: h5py.File, notes: list[str]) -> None:
    if "mask" not in root:
        return
    masks = h5.member(root, "mask")
    if isinstance(masks, h5py.Group) and len(masks):
        names = fields.listed(sorted(masks))
        notes.append(f"all demonstrations are read: the file's subsets (mask/) are not used: {names}")


def _environment(path: Path, data: h5py.Group, notes: list[str]) -> str | None:
    """The environment of the file, if it is one that Gymnasium registers."""
    text = data.attrs.get("env_args")
    if text is None:
        notes.append("the file names no environment: name it with --env to evaluate")
        return None
    try:
        form = json.loads(text)
        name = form["env_name"]
        kind = form.get("env_type")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = one_line(error)
        raise InputError(f"{path.name}: data, env_args cannot be read: {reason}; write the file again") from error
    if kind == _GYM and isinstance(name, str) and name in gymnasium.registry:
        return name
    name = fields.listed([name])
    notes.append(f"recorded in {name}, which Gymnasium does not register: name an environment with --env to evaluate")
    return None


def _episodes(path: Path, demos: list[str], keys: _Keys) -> Iterator[dict[str, Any]]:
    """The pieces of each demonstration between steps with dones 1, as episode_list.read takes them."""
    budget = Budget(path.name)
    with h5.naming(path.name), h5py.File(path, "r") as root:
        data = h5.member(root, "data")
        for demo in demos:
            where = f"{path.name}: {demo}"
            yield from _pieces(where, _group(data, demo), keys, budget)


def _pieces(where: str, group: h5py.Group, keys: _Keys, budget: Budget) -> Iterator[dict[str, Any]]:
    # --- a row per step ---
    actions = h5.values(where, group, "actions", budget)
    rewards = h5.values(where, group, "rewards", budget)
    steps = len(actions)
    with h5.naming(f"{where}, num_samples"):
        promised = h5.number(group, "num_samples")
        if promised is not None and promised != steps:
            raise h5.Fault(f"{promised}, but actions has {steps} rows; fetch or write the file again")
    dones = np.zeros(steps, bool)
    if "dones" in group:
        stored = h5.values(where, group, "dones", budget)
        dones = episode_list.flags(where, "dones", stored)
    for field, values in {"rewards": rewards, "dones": dones}.items():
        if len(values) != steps:
            raise InputError(f"{where}, {field}: {len(values)} rows, but actions has {steps}")

    # --- states: one more than steps, where the last one was recorded ---
    states = _rows(where, group, "obs", keys, steps, budget)
    budget.plan(states.size)
    if "next_obs" in group:
        successors = _rows(where, group, "next_obs", keys, steps, budget)
        states = episode_list.with_final(where, "obs", states, successors, steps)

    # --- pieces ---
    ends = np.flatnonzero(dones) + 1
    first = 0
    for last in np.unique([*ends, steps]):
        yield {
            "observations": states[first : last + 1],
            "actions": actions[first:last],
            "rewards": rewards[first:last],
            "terminations": dones[first:last],
        }
        first = last


def _rows(where: str, group: h5py.Group, field: str, keys: _Keys, steps: int, budget: Budget) -> np.ndarray:
    """[T, O]: the keys side by side."""
    with h5.naming(f"{where}, {field}"):
        inner = _group(group, field)
        if set(inner) != keys.stored:
            raise h5.Fault(f"has the keys {fields.listed(sorted(inner))}, not those of the first demonstration's obs")
    columns = []
    for key in keys.read:
        values = h5.values(where, inner, f"{field}/{key}", budget)
        if len(values) != steps:
            raise InputError(f"{where}, {field}/{key}: {len(values)} rows, but actions has {steps}")
        columns.append(values.reshape(steps, math.prod(values.shape[1:])))
    return np.concatenate(columns, axis=1)


def _group(group: h5py.Group, name: str) -> h5py.Group:
    inner = h5.member(group, name)
    if not isinstance(inner, h5py.Group):
        raise h5.Fault(f"{name} is not a group")
    return inner
