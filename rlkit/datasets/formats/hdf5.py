"""HDF5 files with one array per field: D4RL's layouts and the flat layout of d3rlpy 1.x.

All fields are at the root and have N rows, one per step, episodes end to end:

    observations [N, ...], actions [N, A] or [N], rewards [N], terminals [N]      always
    timeouts [N]             D4RL v1 and v2: the step hit the time limit
    next_observations [N]    D4RL v2 (Gym-MuJoCo): the observation that the step led to
    episode_terminals [N]    flat layout: the episode ends here, for whatever reason
    labelled [N]             of our own: the reward is known; where it is not, it may be NaN
    discrete_action []       flat layout: actions number choices
    infos/... [N, ...]       D4RL: read only when asked for
    metadata/...             D4RL: never read

[N, 1] stands for [N]. Source: d4rl/offline_env.py and d4rl/__init__.py (sequence_dataset), d3rlpy 1.x MDPDataset.dump.

Where an episode ends:
- `episode_terminals` alone counts where it exists. A terminal flag in mid-episode (a known fault of such files) goes
  into the Recording as it is, and rows.py refuses it by name.
- Otherwise at terminals and at timeouts. The row after either belongs to the next episode.
- Where next_observations[i] (in float32) is not observations[i + 1], an episode ends too.
- A file with neither (D4RL v0) ends episodes at terminals and at the time limit, which only the file name or the
  environment gives: without either the file is refused, since steps would lead from one episode into the next.
- At the last row.

The final observation of an episode is its last next_observations; a file without that field has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from rlkit.datasets.formats import d4rl_names
from rlkit.datasets.options import DataOptions
from rlkit.datasets.recording import Recording
from rlkit.datasets.untrusted import fields, h5
from rlkit.datasets.untrusted.fields import Budget
from rlkit.types import InputError, one_line

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_ENDS = ("timeouts", "next_observations", "episode_terminals")
_OPTIONAL = (*_ENDS, "labelled")
_SILENT = {"discrete_action", "version", "infos", "metadata"}  # known, and nothing is lost by leaving them


@dataclass
class _File:
    arrays: dict[str, np.ndarray]  # the fields above, N rows each
    discrete: bool | None  # discrete_action
    infos: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read(path: Path, *, options: DataOptions, infos: bool) -> Recording:
    """Read ``path``. options.env: an environment in place of the one of the file name. infos: read infos/... too.

    Raises InputError for a file that is damaged, lacks a field or has fields whose shapes disagree.
    """
    # --- where episodes end ---
    file = _load(path, infos)
    arrays = file.arrays
    notes = file.notes
    env = options.env
    known = d4rl_names.origin(path.stem, env)
    terminations = fields.flags(path, "terminals", arrays["terminals"])
    truncations = np.zeros_like(terminations)
    if "timeouts" in arrays:
        truncations = fields.flags(path, "timeouts", arrays["timeouts"])
    flagged = terminations | truncations
    is_end = _ends(path, arrays, flagged, known.limit, env is not None, notes)
    ends = np.flatnonzero(is_end)

    # --- the other fields ---
    observations = arrays["observations"]
    successors = arrays.get("next_observations", observations)
    has_successors = "next_observations" in arrays
    rewards = fields.column(path, "rewards", arrays["rewards"])
    labelled = None
    if "labelled" in arrays:
        labelled = fields.flags(path, "labelled", arrays["labelled"])
    choices = file.discrete
    if choices is None and d4rl_names.has_choices(known.env):
        choices = True
    return Recording(
        name=path.name,
        observations=observations,
        actions=arrays["actions"],
        rewards=rewards,
        terminations=terminations,
        truncations=truncations,
        lengths=np.diff(ends, prepend=-1),
        finals=successors[ends],
        has_final=np.full(len(ends), has_successors),
        choices=choices,
        env_spec=known.env,
        infos=file.infos,
        notes=[*notes, *known.notes],
        labelled=labelled,
    )


def _load(path: Path, infos: bool) -> _File:
    """The fields of ``path``, their shapes checked against each other."""
    fields.check_exists(path)
    try:
        with h5py.File(path, "r") as root:
            budget = Budget(path.name)
            items = _fields(path, root, budget)
            info_items = {}
            skipped = []
            if infos:
                rows = items["observations"].shape[0]
                info_items, skipped = _info_items(root, rows, budget)
            arrays = {}
            for name, item in items.items():
                arrays[name] = h5.read(item)
            file = _File(arrays, _discrete(path, root))
            for name, item in info_items.items():
                file.infos[name] = h5.read(item)
            unread = set(root) - set(items) - _SILENT
    except InputError:
        raise
    except h5.Fault as fault:
        raise InputError(f"{path.name}: infos or discrete_action: {fault}") from None
    except h5.DAMAGE as error:
        reason = one_line(error)
        raise InputError(f"{path.name}: cannot be read as HDF5 ({reason}); copy or download it again") from error
    if unread:
        names = fields.listed(sorted(unread, key=str))
        file.notes.append(f"fields that were not read: {names}")
    if skipped:
        names = fields.listed(sorted(skipped, key=str))
        file.notes.append(f"infos without one row of numbers per step were left out: {names}")
    return file


def _fields(path: Path, root: h5py.File, budget: Budget) -> dict[str, h5.DatasetID]:
    """The known fields of the file, checked for presence, kind and number of rows before anything is read."""
    if "episode_0" in root:
        raise InputError(f"{path.name}: holds Minari episodes; give the dataset's id and --data-root instead")
    fields.check_present(path, root, _REQUIRED)
    items = {}
    lengths = {}
    for name in (*_REQUIRED, *_OPTIONAL):
        if name not in root:
            continue
        try:
            item = h5.array(root, name, budget)
        except h5.Fault as fault:
            raise InputError(f"{path.name}: {name} is {fault}") from None
        items[name] = item
        lengths[name] = item.shape[0]
    fields.check_lengths(path, lengths)
    shape = items["observations"].shape
    budget.plan(math.prod(shape))
    if "next_observations" in items:
        next_shape = items["next_observations"].shape
        if next_shape != shape:
            raise InputError(
                f"{path.name}: next_observations has shape {next_shape} where observations has {shape}; write the file "
                "again with the same shape"
            )
    return items


def _info_items(root: h5py.File, rows: int, budget: Budget) -> tuple[dict[str, h5.DatasetID], list[str]]:
    """Arrays below infos/ by their path below it, and the names of those that are not one row of numbers per step."""
    if "infos" not in root:
        return {}, []
    infos = h5.member(root, "infos")
    if not isinstance(infos, h5py.Group):
        return {}, []
    return h5.arrays_below(infos, budget, (rows,))


def _discrete(path: Path, root: h5py.File) -> bool | None:
    """True if the file calls its actions choices, False if it calls them amounts; None if it says nothing."""
    if "discrete_action" not in root:
        return None
    item = h5.member(root, "discrete_action")
    if not isinstance(item, h5.DatasetID) or math.prod(item.shape) != 1 or item.dtype.kind not in "biuf":
        raise InputError(f"{path.name}: discrete_action is not one true or false; write it again or remove it")
    values = h5.read(item).ravel()
    return bool(values[0])


def _ends(
    path: Path, arrays: dict[str, np.ndarray], flagged: np.ndarray, limit: int | None, env_given: bool, notes: list[str]
) -> np.ndarray:
    """[N] bool, true at the last step of every episode. ``flagged``: terminal or timeout. ``env_given``: by --env."""
    if "episode_terminals" in arrays:
        ends = fields.flags(path, "episode_terminals", arrays["episode_terminals"])
    elif "next_observations" in arrays:
        # in float32, since the two may be stored in different widths
        recorded = arrays["next_observations"][:-1].astype(np.float32, copy=False)
        following = arrays["observations"][1:].astype(np.float32, copy=False)
        differs = recorded != following
        jumps = differs.reshape(len(differs), -1).any(axis=1)
        unflagged = jumps & ~flagged[:-1]
        count = int(unflagged.sum())
        if count:
            notes.append(f"episode ends without a flag, where next_observations is not the next observation: {count}")
        ends = flagged.copy()
        ends[:-1] |= jumps
    elif "timeouts" in arrays:
        ends = flagged.copy()
    else:
        ends = _limited(path, flagged, limit, env_given, notes)
    ends[-1] = True
    return ends


def _limited(path: Path, terminals: np.ndarray, limit: int | None, env_given: bool, notes: list[str]) -> np.ndarray:
    """Ends at terminals, and at every ``limit`` steps since the last one (D4RL v0)."""
    if limit is None and not env_given:
        names = ", ".join(_ENDS)
        raise InputError(
            f"{path.name}: has none of {names}, and its name gives no time limit, so that nothing says where its "
            "episodes end; name the environment with --env, or add a field timeouts"
        )
    if limit is None:
        notes.append("episodes end only at terminals: the file has no timeouts and the environment no known time limit")
        return terminals.copy()
    rows = np.arange(len(terminals))
    is_start = np.append(True, terminals[:-1])
    starts = np.maximum.accumulate(np.where(is_start, rows, 0))
    steps = rows - starts + 1
    at_limit = steps % limit == 0
    only_limit = at_limit & ~terminals
    count = int(only_limit.sum())
    notes.append(f"the file has no timeouts: episode ends taken from the time limit of {limit} steps: {count}")
    return terminals | at_limit
