"""From a Recording to Episodes: the one place where data of every source are checked, mended, counted and laid out."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete

from rlkit.datasets import spaces
from rlkit.datasets.blocks import blocks
from rlkit.datasets.episodes import HAS_ACTION, HAS_NEXT, LABELLED, TERMINAL, Episodes, Report
from rlkit.datasets.recording import Recording
from rlkit.types import InputError

# How far beyond its bound, relative to the bound, rounding may carry an action. Such actions are clipped and noted.
BOUND_TOLERANCE = 1e-5


def assemble(recording: Recording, *, repair: Sequence[str] = ()) -> Episodes:
    """Check, mend and lay out.

    Raises InputError, one line that names dataset, episode, index in the episode and field.
    """
    if len(recording.lengths) == 0:
        raise InputError(f"{recording.name}: holds no episode; check that the file is complete")
    if (empty := np.flatnonzero(recording.lengths <= 0)).size:
        raise InputError(f"{recording.name}: episode {empty[0]} has no step; remove it from the source")
    spaces.check_supported(recording.name, recording.observation_space, recording.action_space)
    notes = list(recording.notes)
    observation_space = recording.observation_space or _observation_space(recording, notes)
    action_space = recording.action_space or _action_space(recording, notes)
    obs = _observations(recording, observation_space)
    action, on_bounds = _actions(recording, action_space, notes)
    labelled = _labelled(recording, notes)
    reward = _rewards(recording, labelled)
    terminal, counts = _ends(recording, repair)
    rows = _lay_out(recording, obs, action, reward, terminal)
    rows["flags"][(rows["flags"] & HAS_ACTION) > 0] |= labelled * np.uint8(LABELLED)
    no_successor = int((~recording.has_final & ~terminal[np.cumsum(recording.lengths) - 1]).sum())
    report = Report(
        episodes=len(recording.lengths),
        steps=len(reward),
        used=len(reward) - no_successor,
        no_successor=no_successor,
        on_bounds=on_bounds,
        notes=tuple(notes),
        **counts,
    )
    return Episodes(
        name=recording.name,
        fingerprint=_digest(rows, observation_space, action_space),
        **rows,
        observation_space=observation_space,
        action_space=action_space,
        env_spec=recording.env_spec,
        reference=recording.reference,
        report=report,
        infos=recording.infos,
    )


def summary(report: Report) -> list[tuple[str, str]]:
    """(label, value) pairs for a table; notes come last, each under the label "note"."""
    labels = {
        "episodes": "episodes",
        "steps": "steps in the source",
        "used": "steps used",
        "no_successor": "steps not drawn: next observation not recorded",
        "terminal_episodes": "episodes ended by a terminal state",
        "truncated_episodes": "episodes cut short (time limit or end of recording)",
        "unflagged_ends": "episodes without an end flag, taken as cut short",
        "both_flags": "steps flagged terminal and truncated, taken as terminal",
        "on_bounds": "steps with an action exactly on a bound",
        "repaired": "steps changed by --repair",
    }
    counts = [(label, f"{getattr(report, field):,}") for field, label in labels.items()]
    return counts + [("note", note) for note in report.notes]


def fail_at(recording: Recording) -> spaces.Fail:
    """The function that raises the InputError for row i of [N] steps."""

    def fail(row: int | None, field: str, problem: str) -> NoReturn:
        where = ""
        if row is not None:
            episode = int(np.searchsorted(np.cumsum(recording.lengths), row, side="right"))
            where = f"episode {episode}, index {row - int(recording.lengths[:episode].sum())}, "
        raise InputError(f"{recording.name}: {where}{field}: {problem}")

    return fail


def _observations(recording: Recording, space: Space) -> np.ndarray:
    """Flat observations [N + E, O]: those of an episode's steps, then its final one, or its last again. They are made a
    block at a time, since the source's own may be a quarter as large (bytes) or twice (float64)."""
    kept = np.flatnonzero(recording.has_final)

    def fail_final(row: int | None, field: str, problem: str) -> NoReturn:
        episode = int(kept[row or 0])
        raise InputError(f"{recording.name}: episode {episode}, index {recording.lengths[episode]}, {field}: {problem}")

    if isinstance(space, Dict):  # a source flattens a Dict itself, since a Recording holds plain arrays
        space = Box(-np.inf, np.inf, (spaces.width(space),))
    values = spaces.numeric(recording.observations, "observations", fail_at(recording))
    lengths = np.asarray(recording.lengths, np.int64)
    place = np.arange(len(values)) + np.repeat(np.arange(len(lengths)), lengths)  # the row of each step
    rows = None
    for part in blocks(len(values), spaces.width(space)):
        try:
            flat = spaces.flatten(space, values[part], "observations", fail_at(recording))
        except InputError:  # told once more of all rows, for the number of the row and the count of those like it
            spaces.flatten(space, values, "observations", fail_at(recording))
            raise
        if rows is None:
            rows = np.empty((len(values) + len(lengths), flat.shape[1]), np.float32)
        rows[place[part]] = flat
    ends = np.cumsum(lengths + 1) - 1
    rows[ends] = rows[ends - 1]
    if kept.size:
        rows[ends[kept]] = spaces.flatten(space, np.asarray(recording.finals)[kept], "observations", fail_final)
    return rows


def _actions(recording: Recording, space: Space, notes: list[str]) -> tuple[np.ndarray, int]:
    """Actions, [N, A] float32 clipped to the bounds or [N] int32, and the number of steps on a bound."""
    fail = fail_at(recording)
    if isinstance(space, Discrete):
        return spaces.choices(space, recording.actions, "actions", fail), 0
    action = spaces.wide(space, recording.actions, "actions", fail)
    low, high = (np.asarray(bound, np.float32).ravel() for bound in (space.low, space.high))
    least, most = (_by_column(extreme, action) for extreme in (np.min, np.max))
    if (least < low).any() or (most > high).any():
        beyond = (action < low) | (action > high)
        clipped = np.clip(action, low, high)
        slack = BOUND_TOLERANCE * np.maximum(*(np.where(np.isfinite(b), np.abs(b), 0) for b in (low, high)))
        far = np.argwhere(np.abs(action - clipped) > slack)
        if far.size:
            row, column = (int(i) for i in far[0])
            bounds = f"[{low[column]}, {high[column]}]"
            steps = len(np.unique(far[:, 0]))
            fail(row, "actions", f"element {column} is {action[row, column]}, outside {bounds}; {steps} steps like it")
        notes.append(f"{int(beyond.any(1).sum())} steps had an action beyond its bound by rounding, and were clipped")
        action = clipped
    touching = [action[:, i] == bound[i] for bound in (low, high) for i in range(len(bound))]
    return action, int(functools.reduce(np.logical_or, touching).sum())


def _by_column(extreme: Callable[[np.ndarray], Any], values: np.ndarray) -> np.ndarray:
    """The extreme of each column of [N, W]: numpy is many times slower over both axes at once, where W is small."""
    return np.array([extreme(column) for column in values.T])


def _labelled(recording: Recording, notes: list[str]) -> np.ndarray:
    """[N] bool: the reward is known."""
    if recording.labelled is None:
        return np.ones(len(recording.rewards), bool)
    labelled = _flags(recording, "labelled")
    if not labelled.any():
        raise InputError(f"{recording.name}: labelled: no step is; at least some rewards must be known")
    if not labelled.all():
        notes.append(f"{int((~labelled).sum()):,} steps have no reward label")
    return labelled


def _rewards(recording: Recording, labelled: np.ndarray) -> np.ndarray:
    """Rewards [N] float32, 0 where they are not ``labelled``, whatever the source holds there."""
    rewards = spaces.numeric(recording.rewards, "rewards", fail_at(recording))
    if not labelled.all():
        rewards = np.where(labelled.reshape(-1, *(1,) * (rewards.ndim - 1)), rewards, 0)
    return spaces.wide(Box(-np.inf, np.inf, ()), rewards, "rewards", fail_at(recording))[:, 0]


def _flags(recording: Recording, field: str) -> np.ndarray:
    """Flags [N] as a fresh bool array."""
    fail = fail_at(recording)
    flags = spaces.choices(Discrete(2), getattr(recording, field), field, fail)
    return flags.astype(bool)


def _ends(recording: Recording, repair: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
    """terminal [N] bool, true at the last step of an episode only, and the Report's counts of ends."""
    terminal, truncated = (_flags(recording, field) for field in ("terminations", "truncations"))
    last = np.cumsum(recording.lengths) - 1
    ended = terminal | truncated
    twice = last[(recording.lengths > 1) & ended[last]] - 1
    twice = twice[ended[twice]]
    early = ended.copy()
    early[last] = False
    early[twice] = False
    if early.any():
        row = int(np.flatnonzero(early)[0])
        field = "terminations" if terminal[row] else "truncations"
        fail_at(recording)(row, field, f"set before the end of the episode; {int(early.sum())} steps like it")
    if twice.size and "ends" not in repair:
        field = "terminations" if terminal[twice[0]] else "truncations"
        problem = f"set on the last two steps, as in {twice.size} episodes; --repair ends mends it, keeping the second"
        fail_at(recording)(int(twice[0]), field, problem)
    terminal[twice] = truncated[twice] = False
    counts = {
        "terminal_episodes": int(terminal[last].sum()),
        "truncated_episodes": int((~terminal[last]).sum()),
        "unflagged_ends": int((~ended[last]).sum()),
        "both_flags": int((terminal & truncated).sum()),
        "repaired": len(twice),
    }
    return terminal, counts


def _lay_out(
    recording: Recording,
    obs: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    terminal: np.ndarray,
) -> dict[str, np.ndarray]:
    """The columns of Episodes: every episode's steps, then its final observation, as ``obs`` is already."""
    lengths = np.asarray(recording.lengths, np.int64)
    ends = np.cumsum(lengths + 1) - 1  # row of each final observation
    size = len(obs)
    # the step of each row, at a final observation the one before; numpy gathers faster than it scatters
    steps = np.arange(size) - np.repeat(np.arange(len(lengths)), lengths + 1)
    steps[ends] -= 1
    rows = {"obs": obs, "action": action.take(steps, 0), "reward": reward.take(steps)}
    rows["action"][ends] = rows["reward"][ends] = 0
    rows["t"] = (np.arange(size) - np.repeat(ends - lengths, lengths + 1)).astype(np.int32)
    flags = np.uint8(HAS_ACTION | HAS_NEXT) + terminal.take(steps) * np.uint8(TERMINAL)
    flags[ends[~recording.has_final] - 1] &= ~np.uint8(HAS_NEXT)
    flags[ends] = 0
    return {**rows, "flags": flags}


def _observation_space(recording: Recording, notes: list[str]) -> Box:
    """An unbounded Box of the data's shape."""
    notes.append(f"{spaces.UNNAMED_OBSERVATION}: taken as an unbounded Box")
    return Box(-np.inf, np.inf, np.shape(recording.observations)[1:] or (1,))


def _action_space(recording: Recording, notes: list[str]) -> Box | Discrete:
    """Discrete for whole numbers, else a Box: [-1, 1] where every action fits, else the data's range."""
    fail = fail_at(recording)
    values = spaces.numeric(recording.actions, "actions", fail)
    if values.dtype.kind in "bui" and values.size == len(values):
        if values.min() < 0:
            fail(int(np.argmin(values.reshape(-1))), "actions", f"{values.min()} is below 0, and choices count from 0")
        notes.append(f"{spaces.UNNAMED_ACTION}: taken as {int(values.max()) + 1} choices")
        return Discrete(int(values.max()) + 1)
    shape = values.shape[1:] or (1,)
    flat = spaces.wide(Box(-np.inf, np.inf, shape), values, "actions", fail)
    low, high = (_by_column(extreme, flat).reshape(shape) for extreme in (np.min, np.max))
    fits = bool((low >= -1).all() and (high <= 1).all())
    notes.append(f"{spaces.UNNAMED_ACTION}: bounds taken as {'[-1, 1]' if fits else 'the range of the data'}")
    return Box(-1, 1, shape) if fits else Box(low, high, shape)


def _digest(rows: dict[str, np.ndarray], *both: Space) -> str:
    """sha256 of the columns and spaces: the same for the same data, whatever file and format they lie in."""
    digest = hashlib.sha256(json.dumps([spaces.to_json(space) for space in both]).encode())
    for name, column in rows.items():
        digest.update(f"{name} {column.dtype} {column.shape}".encode())
        digest.update(memoryview(np.ascontiguousarray(column)).cast("B"))
    return digest.hexdigest()
