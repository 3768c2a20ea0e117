"""D4RL's layout of arrays, and the flat layout of d3rlpy 1.x. Files of several kinds hold it: hdf5.py, npz.py.

All fields have N rows, one per step, episodes end to end:

    observations [N, ...], actions [N, A] or [N], rewards [N], terminals [N]      always
    timeouts [N]             D4RL v1 and v2: the step hit the time limit
    next_observations [N]    D4RL v2 (Gym-MuJoCo): the observation that the step led to
    episode_terminals [N]    flat layout: the episode ends here, for whatever reason
    labelled [N]             of our own: the reward is known; where it is not, it may be NaN

[N, 1] stands for [N]. Source: d4rl/offline_env.py and d4rl/__init__.py (sequence_dataset), d3rlpy 1.x MDPDataset.dump.

Where an episode ends:
- `episode_terminals` alone counts where it exists. A terminal flag in mid-episode (a known fault of such files) goes
  into the Recording as it is, and rows.py refuses it by name.
- Otherwise at terminals and at timeouts. The row after either belongs to the next episode.
- Where next_observations[i] (in float32) is not observations[i + 1], an episode ends too.
- A file with neither (D4RL v0) ends episodes at terminals and at the time limit. That is the one of the environment
  which the file name suggests, if the widths of the data confirm it, or of the one that the user names. Without either
  the file is refused, since steps would lead from one episode into the next.
- At the last row.

The final observation of an episode is its last next_observations; a file without that field has none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlkit.datasets import episode_list
from rlkit.datasets.formats import d4rl_names
from rlkit.datasets.recording import Recording
from rlkit.datasets.untrusted import fields
from rlkit.types import InputError

REQUIRED = ("observations", "actions", "rewards", "terminals")
ENDS = ("timeouts", "next_observations", "episode_terminals")
OPTIONAL = (*ENDS, "labelled")
INFOS = "infos/"  # where the names of other columns begin


def recording(
    path: Path,
    arrays: dict[str, np.ndarray],
    *,
    env: str | None,
    infos: dict[str, np.ndarray],
    notes: list[str],
    discrete: bool | None = None,
) -> Recording:
    """The Recording of the fields above, whose numbers of rows agree.

    env: an environment id, in place of the one that the file name suggests. discrete: what the file says of its actions
    (True choices, False amounts). Raises InputError for fields that contradict each other or are no flags.
    """
    # --- where episodes end ---
    observations = arrays["observations"]
    successors = arrays.get("next_observations", observations)
    has_successors = "next_observations" in arrays
    if successors.shape != observations.shape:
        raise InputError(
            f"{path.name}: next_observations has shape {successors.shape} where observations has {observations.shape}; "
            "write the file again with the same shape"
        )
    origin = d4rl_names.origin(path.stem, env, observations, arrays["actions"])
    terminations = fields.flags(path, "terminals", arrays["terminals"])
    truncations = np.zeros_like(terminations)
    if "timeouts" in arrays:
        truncations = fields.flags(path, "timeouts", arrays["timeouts"])
    flagged = terminations | truncations
    is_end = _ends(path, arrays, flagged, origin.limit, env is not None, notes)
    ends = np.flatnonzero(is_end)

    # --- the other fields ---
    rewards = fields.column(path, "rewards", arrays["rewards"])
    labelled = None
    if "labelled" in arrays:
        labelled = fields.flags(path, "labelled", arrays["labelled"])
    choices = discrete
    if choices is None and d4rl_names.choices(origin.env) is not None:
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
        env_spec=origin.env,
        infos=infos,
        notes=[*notes, *origin.notes],
        labelled=labelled,
    )


def _ends(
    path: Path, arrays: dict[str, np.ndarray], flagged: np.ndarray, limit: int | None, env_given: bool, notes: list[str]
) -> np.ndarray:
    """[N] bool, true at the last step of every episode. ``flagged``: terminal or timeout. ``env_given``: by --env."""
    if "episode_terminals" in arrays:
        ends = fields.flags(path, "episode_terminals", arrays["episode_terminals"])
    elif "next_observations" in arrays:
        jumps = episode_list.jumps(arrays["observations"], arrays["next_observations"])
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
        names = ", ".join(ENDS)
        raise InputError(
            f"{path.name}: has none of {names}, and no time limit is known from its name and contents, so that nothing "
            "says where its episodes end; name the environment with --env, or add a field timeouts"
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
