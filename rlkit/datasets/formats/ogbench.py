"""OGBench's layout of arrays, in .npz files (npz.py).

    observations [M, ...], actions [M, A], terminals [M]      always
    rewards [M], masks [M]                                    single-task data; goal-conditioned data have neither
    labelled [M]                                              of our own: the reward is known; if not, it may be NaN
    qpos, qvel, button_states [M, ...]                        read only when infos are asked for

A row is a state. `terminals` marks the last state of a trajectory, whose action led nowhere that was recorded: K rows
are K - 1 steps and a final observation. It says nothing of the task: every trajectory is cut by a time limit. `masks`
is 0 where the task is complete, so that the value of the next observation must not be used; trajectories go on after
it. Such a step is terminal here, and the trajectory is split after it: no step is lost, and each keeps its successor.
Source: ogbench/utils.py (load_dataset) and the README of OGBench, "Offline RL".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlkit.datasets.recording import Recording
from rlkit.datasets.untrusted import fields
from rlkit.types import InputError

REQUIRED = ("observations", "actions", "terminals")
OPTIONAL = ("rewards", "masks", "labelled")
INFOS = ""  # any other column


def recording(
    path: Path, arrays: dict[str, np.ndarray], *, env: str | None, infos: dict[str, np.ndarray], notes: list[str]
) -> Recording:
    """The Recording of the fields above, whose numbers of rows agree. env: an environment id; such a file names none.

    Raises InputError for fields that contradict each other or are no flags.
    """
    # --- steps: every row but the last of its trajectory ---
    last = fields.flags(path, "terminals", arrays["terminals"])
    if not last[-1]:
        notes.append("the last row carries no terminals flag: taken as the last state of its trajectory")
        last[-1] = True
    last_rows = np.flatnonzero(last)
    single_state = np.diff(last_rows, prepend=-1) == 1
    if single_state.any():
        k = int(single_state.argmax())
        raise InputError(
            f"{path.name}: trajectory {k} (row {last_rows[k]}) is a single state without a step; terminals must mark "
            "only the last row of a trajectory"
        )
    steps = np.flatnonzero(~last)

    # --- where episodes end ---
    done = np.zeros(len(steps), bool)
    if "masks" in arrays:
        masks = fields.flags(path, "masks", arrays["masks"])
        done = ~masks[steps]
    cut = last[steps + 1] & ~done
    ends = np.flatnonzero(cut | done)
    trajectories = len(last_rows)
    if len(ends) > trajectories:
        notes.append(f"{trajectories} trajectories make {len(ends)} episodes: split behind each step with masks 0")

    # --- the other fields ---
    rewards = _rewards(path, arrays, notes)
    labelled = None
    if "labelled" in arrays:
        labelled = fields.flags(path, "labelled", arrays["labelled"])[steps]
    observations = arrays["observations"]
    infos_of_steps = {}
    for name, values in infos.items():
        infos_of_steps[name] = values.take(steps, 0)
    return Recording(
        name=path.name,
        observations=observations.take(steps, 0),
        actions=arrays["actions"].take(steps, 0),
        rewards=rewards[steps],
        terminations=done,
        truncations=cut,
        lengths=np.diff(ends, prepend=-1),
        finals=observations[steps[ends] + 1],
        has_final=np.ones(len(ends), bool),
        env_spec=env,
        infos=infos_of_steps,
        notes=notes,
        labelled=labelled,
    )


def _rewards(path: Path, arrays: dict[str, np.ndarray], notes: list[str]) -> np.ndarray:
    """[M], all 0 where the file has none."""
    if "rewards" in arrays:
        return fields.column(path, "rewards", arrays["rewards"])
    if "labelled" in arrays:
        raise InputError(f"{path.name}: has a field labelled but no rewards; add them, or leave both out")
    notes.append(
        "the file has no rewards: all are 0; read as OGBench's goal-conditioned layout, where a row is a state and "
        "terminals marks the last of a trajectory, whose action is not used"
    )
    rows = len(arrays["observations"])
    return np.zeros(rows, np.float32)
