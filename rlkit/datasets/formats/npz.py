"""The .npz files of NumPy. Their contents, and never their names, show which layout they have:

    observations [T + 1, ...], actions [T, ...]              one episode; in a folder or glob of files [T, ...] too
    timeouts, next_observations or episode_terminals         D4RL's arrays (d4rl.py): a row is a step
    masks, or no rewards and a flag on the last row          OGBench's (ogbench.py): a row is a state

`terminals` marks a step that ended in a terminal state in D4RL's layout, the last state of a trajectory in OGBench's:
read as the other, episodes melt together. Where the fields leave both readings, the file is refused and the message
names the field that tells them apart.

The fields of an episode may have any of the names in episode_list.NAMES.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from rlkit.datasets import episode_list
from rlkit.datasets.formats import d4rl, d4rl_names, ogbench
from rlkit.datasets.options import DataOptions
from rlkit.datasets.recording import Recording
from rlkit.datasets.untrusted import fields, npz
from rlkit.datasets.untrusted.fields import Budget
from rlkit.types import InputError

_D4RL_ALONE = ("timeouts", "next_observations", "episode_terminals")
_CURE = (
    "if a row is a step and terminals marks terminal states (D4RL), add timeouts (0 where no time limit was hit); if a "
    "row is a state and terminals marks the last of a trajectory (OGBench), add masks (1 where the task goes on); if "
    "the file is one episode, name its folder or a pattern of files"
)


def read(path: Path, *, options: DataOptions, infos: bool) -> Recording:
    """Read ``path``. options.env: an environment in place of the one that its name suggests. infos: read the other
    columns too.

    Raises InputError for a file that is damaged or too big, lacks a field, has fields whose shapes disagree, or leaves
    two readings.
    """
    budget = Budget(path.name)
    with npz.opened(path, budget) as archive:
        is_episode = _is_episode(archive)
        if not is_episode:
            layout = _layout(path, archive)
            arrays, extra, notes = _read(path, archive, layout, budget, infos)
    if is_episode:
        return read_episodes([path], name=path.name, options=options, infos=infos)
    return layout.recording(path, arrays, env=options.env, infos=extra, notes=notes)


def read_episodes(paths: Sequence[Path], *, name: str, options: DataOptions, infos: bool) -> Recording:
    """Read files of one episode each, in the order given. ``name``: what messages call them together.

    Raises InputError for a file that is damaged, holds more than one episode, or differs from the others.
    """
    budget = Budget(name)
    unread: set[str] = set()
    episodes = (_episode(path, budget, infos, unread) for path in paths)
    recording = episode_list.read(name, episodes, None, None, infos=infos, needs_final=False)
    if unread:
        recording.notes.append(f"fields that were not read: {fields.listed(sorted(unread))}")
    recording.env_spec = options.env
    return recording


# ---- one file, many episodes


def _layout(path: Path, archive: npz.Archive) -> ModuleType:
    """d4rl or ogbench, as the fields show. Raises InputError where they leave both readings."""
    names = set(archive.names)
    rearranged = "valids" in names
    if "next_observations" in names:
        rearranged |= "masks" in names or "rewards" not in names
    if rearranged:
        field = "valids" if "valids" in names else "next_observations"
        raise InputError(
            f"{path.name}: has a field {field} and masks or no rewards, as what OGBench's loader returns, whose "
            "terminals are moved; give the original .npz (or, if a row is a step, rewards and timeouts and no masks)"
        )
    of_d4rl = [name for name in _D4RL_ALONE if name in names]
    if "masks" in names:
        if of_d4rl:
            raise InputError(
                f"{path.name}: has masks (OGBench's) and {', '.join(of_d4rl)} (D4RL's), which tell different layouts; "
                "leave masks out if a row is a step, the others if a row is a state"
            )
        return ogbench
    if of_d4rl:
        return d4rl
    if "terminals" not in names:  # refused by either, for the fields that it lacks
        return d4rl if "rewards" in names else ogbench
    last_row_is_flagged = _last_row_is_flagged(path, archive)
    if "rewards" not in names:
        if not last_row_is_flagged:
            raise InputError(
                f"{path.name}: has no rewards, and no terminals flag on its last row, which OGBench's files have; if a "
                "row is a step, add rewards and timeouts; if a row is a state, set terminals on the last row"
            )
        return ogbench
    if last_row_is_flagged and not _origin_is_known(path, archive):
        raise InputError(f"{path.name}: its fields do not tell where its episodes end: {_CURE}")
    return d4rl


def _last_row_is_flagged(path: Path, archive: npz.Archive) -> bool:
    """True in a file without rows too, which is refused for that afterwards."""
    terminals = _find(path, archive, "terminals").read()
    flags = fields.flags(path, "terminals", terminals)
    return bool(flags[-1:].all())


def _origin_is_known(path: Path, archive: npz.Archive) -> bool:
    """True if the file's name is one of D4RL's and the data have the widths of that environment."""
    if "observations" not in archive.names or "actions" not in archive.names:
        return False
    observations = _find(path, archive, "observations")
    actions = _find(path, archive, "actions").read()
    width = math.prod(observations.shape[1:])
    return d4rl_names.confirmed(path.stem, width, actions) is not None


def _find(path: Path, archive: npz.Archive, name: str) -> npz.Member:
    try:
        return archive.array(name)
    except fields.Fault as fault:
        raise InputError(f"{path.name}: {name} is {fault}") from None


def _read(
    path: Path, archive: npz.Archive, layout: ModuleType, budget: Budget, infos: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    """The fields of a layout, the other columns when asked for, and notes."""
    members = fields.known(path, archive.names, layout.REQUIRED, layout.OPTIONAL, archive.array, budget)
    others = [name for name in archive.names if name not in members]
    rows = members["observations"].shape[0]
    columns = {}
    for name in others:
        if not infos or not name.startswith(layout.INFOS):
            continue
        member = archive.member(name)
        if member.dtype.kind in "biuf" and member.shape[:1] == (rows,):
            columns[name] = member
    unread = [name for name in others if name not in columns and not name.startswith(("infos/", "metadata/"))]
    notes = []
    if unread:
        notes.append(f"fields that were not read: {fields.listed(sorted(unread))}")
    arrays = {name: member.read() for name, member in members.items()}
    extra = {name.removeprefix(layout.INFOS): member.read() for name, member in columns.items()}
    return arrays, extra, notes


# ---- one episode a file


def _is_episode(archive: npz.Archive) -> bool:
    """True if there is one observation more than there are actions."""
    rows = []
    for field in ("observations", "actions"):
        present = [name for name in episode_list.NAMES[field] if name in archive.names]
        if len(present) != 1:
            return False
        shape = archive.member(present[0]).shape
        if not shape:
            return False
        rows.append(shape[0])
    return rows[0] == rows[1] + 1


def _episode(path: Path, budget: Budget, infos: bool, unread: set[str]) -> dict[str, Any]:
    """The episode in a file, as episode_list.read takes it. ``unread`` gets the names of other fields."""
    episode: dict[str, Any] = {}
    others: dict[str, np.ndarray] = {}
    with npz.opened(path, budget) as archive:
        for name in archive.names:
            near = episode_list.near(name)
            if name in episode_list.KNOWN:
                if name in episode_list.NAMES["observations"]:
                    budget.plan(math.prod(archive.member(name).shape))
                episode[name] = archive.member(name).read()
            elif near:
                raise InputError(f"{path.name}: unknown field {name!r}; call it {near} if it is that, or leave it out")
            elif infos:
                others[name.removeprefix("infos/")] = archive.member(name).read()
            else:
                unread.add(name)
    _check_single(path, episode)
    if infos:
        episode["infos"] = others
    return episode


def _check_single(path: Path, episode: dict[str, np.ndarray]) -> None:
    """Raises InputError where an end is flagged before the last row."""
    for field in ("terminations", "truncations", "dones"):
        for name in episode_list.NAMES[field]:
            values = episode.get(name)
            if values is None or not values.ndim or values.dtype.kind not in "buif":
                continue
            early = values[:-1] != 0
            if early.any():
                row = int(early.argmax())
                raise InputError(
                    f"{path.name}: {name} is set at row {row}, before the last: the file holds more than one episode; "
                    "name it by itself"
                )
