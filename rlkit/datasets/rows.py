"""From a Recording to Episodes: the one place where data of every source are checked, mended, counted and laid out.

A check that fails raises BadValue with the number of the step; `assemble` makes it the line that names the episode.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete

from rlkit.datasets import spaces
from rlkit.datasets.blocks import blocks
from rlkit.datasets.episodes import HAS_ACTION, HAS_NEXT, LABELLED, TERMINAL, Episodes, Report
from rlkit.datasets.recording import Recording
from rlkit.datasets.spaces import BadValue
from rlkit.types import InputError

# How far beyond its bound, relative to the bound, rounding may carry an action. Such actions are clipped and noted.
BOUND_TOLERANCE = 1e-5


class _Steps(NamedTuple):
    """The checked fields of N steps in E episodes."""

    obs: np.ndarray  # [N + E, O] float32, with the final observations in place
    action: np.ndarray  # [N, A] float32, or [N] int32
    reward: np.ndarray  # [N] float32
    terminal: np.ndarray  # [N] bool, true at the last step of an episode only
    labelled: np.ndarray  # [N] bool


def assemble(recording: Recording, *, repair: Sequence[str] = ()) -> Episodes:
    """Check, mend and lay out.

    Raises InputError, one line that names dataset, episode, index in the episode and field.
    """
    if len(recording.lengths) == 0:
        raise InputError(f"{recording.name}: holds no episode; check that the file is complete")
    if (recording.lengths <= 0).any():
        episode = int((recording.lengths <= 0).argmax())
        raise InputError(f"{recording.name}: episode {episode} has no step; remove it from the source")
    spaces.check_supported(recording.name, recording.observation_space, recording.action_space)
    try:
        return _assemble(recording, repair)
    except BadValue as bad:
        raise InputError(f"{recording.name}: {_place(recording, bad.row)}{bad}") from None


def _assemble(recording: Recording, repair: Sequence[str]) -> Episodes:
    notes = list(recording.notes)
    observation_space = recording.observation_space or _observation_space(recording, notes)
    action_space = recording.action_space or _action_space(recording, notes)
    obs = _observations(recording, observation_space)
    action, on_bounds = _actions(recording, action_space, notes)
    labelled = _labelled(recording, notes)
    reward = _rewards(recording, labelled)
    terminal, counts = _ends(recording, repair)
    columns = _lay_out(recording, _Steps(obs, action, reward, terminal, labelled))
    last = np.cumsum(recording.lengths) - 1
    no_successor = int((~recording.has_final & ~terminal[last]).sum())
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
        fingerprint=_digest(columns, observation_space, action_space),
        **columns,
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


def _place(recording: Recording, step: int | None) -> str:
    """Where step i of N is, as the beginning of a message; empty where no step is named."""
    if step is None:
        return ""
    ends = np.cumsum(recording.lengths)
    episode = int(np.searchsorted(ends, step, side="right"))
    start = int(recording.lengths[:episode].sum())
    return f"episode {episode}, index {step - start}, "


def _observations(recording: Recording, space: Space) -> np.ndarray:
    """Flat observations [N + E, O] float32: those of an episode's steps, then its final one, or its last again. They
    are made a block at a time, since the source's own may be a quarter as large (bytes) or twice (float64)."""
    if isinstance(space, Dict):  # a source flattens a Dict itself, since a Recording holds plain arrays
        space = Box(-np.inf, np.inf, (spaces.width(space),))
    values = spaces.numeric(recording.observations, "observations")
    lengths = np.asarray(recording.lengths, np.int64)
    place = np.arange(len(values)) + np.repeat(np.arange(len(lengths)), lengths)  # the row of each step
    rows = None
    for part in blocks(len(values), spaces.width(space)):
        try:
            flat = spaces.flatten(space, values[part], "observations")
        except BadValue:  # told once more of all rows, for the number of the row and the count of those like it
            spaces.flatten(space, values, "observations")
            raise
        if rows is None:
            rows = np.empty((len(values) + len(lengths), flat.shape[1]), np.float32)
        rows[place[part]] = flat
    ends = np.cumsum(lengths + 1) - 1
    rows[ends] = rows[ends - 1]
    recorded = np.flatnonzero(recording.has_final)
    if recorded.size:
        try:
            rows[ends[recorded]] = spaces.flatten(space, np.asarray(recording.finals)[recorded], "observations")
        except BadValue as bad:
            episode = int(recorded[bad.row or 0])
            raise InputError(
                f"{recording.name}: episode {episode}, index {recording.lengths[episode]}, {bad}"
            ) from None
    return rows


def _actions(recording: Recording, space: Space, notes: list[str]) -> tuple[np.ndarray, int]:
    """Actions, [N, A] float32 clipped to the bounds or [N] int32, and the number of steps on a bound."""
    if isinstance(space, Discrete):
        return spaces.choices(space, recording.actions, "actions"), 0
    action = spaces.flatten_box(space, recording.actions, "actions")
    low = np.asarray(space.low, np.float32).ravel()
    high = np.asarray(space.high, np.float32).ravel()
    if (_by_column(np.min, action) < low).any() or (_by_column(np.max, action) > high).any():
        action = _clip(action, low, high, notes)
    touching = [action[:, i] == bound[i] for bound in (low, high) for i in range(len(bound))]
    on_bounds = functools.reduce(np.logical_or, touching)
    return action, int(on_bounds.sum())


def _clip(action: np.ndarray, low: np.ndarray, high: np.ndarray, notes: list[str]) -> np.ndarray:
    """Actions within the bounds, if rounding alone has carried them beyond. Raises BadValue if it has not."""
    clipped = np.clip(action, low, high)
    distance = np.abs(action - clipped)
    size_of_low = np.where(np.isfinite(low), np.abs(low), 0)
    size_of_high = np.where(np.isfinite(high), np.abs(high), 0)
    far = np.argwhere(distance > BOUND_TOLERANCE * np.maximum(size_of_low, size_of_high))
    if far.size:
        row, column = far[0].tolist()
        bounds = f"[{low[column]}, {high[column]}]"
        steps = len(np.unique(far[:, 0]))
        problem = f"element {column} is {action[row, column]}, outside {bounds}; {steps} steps like it"
        raise BadValue("actions", problem, row)
    steps = int((distance > 0).any(1).sum())
    notes.append(f"{steps} steps had an action beyond its bound by rounding, and were clipped")
    return clipped


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
        count = int((~labelled).sum())
        notes.append(f"{count:,} steps have no reward label")
    return labelled


def _rewards(recording: Recording, labelled: np.ndarray) -> np.ndarray:
    """Rewards [N] float32, 0 where they are not ``labelled``, whatever the source holds there."""
    rewards = spaces.numeric(recording.rewards, "rewards")
    if not labelled.all():
        alongside = labelled.reshape(-1, *(1,) * (rewards.ndim - 1))
        rewards = np.where(alongside, rewards, 0)
    return spaces.flatten_box(Box(-np.inf, np.inf, ()), rewards, "rewards")[:, 0]


def _flags(recording: Recording, field: str) -> np.ndarray:
    """Flags [N] as a fresh bool array."""
    return spaces.choices(Discrete(2), getattr(recording, field), field).astype(bool)


def _ends(recording: Recording, repair: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
    """terminal [N] bool, true at the last step of an episode only, and the Report's counts of ends."""
    terminal = _flags(recording, "terminations")
    truncated = _flags(recording, "truncations")
    ended = terminal | truncated
    last = np.cumsum(recording.lengths) - 1
    before_last = last[recording.lengths > 1] - 1
    both = ended[before_last] & ended[before_last + 1]
    twice = before_last[both]  # steps whose flag is set again on the last step
    early = ended.copy()
    early[last] = False
    early[twice] = False

    def fault(step: int, problem: str) -> BadValue:
        return BadValue("terminations" if terminal[step] else "truncations", problem, step)

    if early.any():
        raise fault(int(early.argmax()), f"set before the end of the episode; {int(early.sum())} steps like it")
    if twice.size and "ends" not in repair:
        problem = f"set on the last two steps, as in {twice.size} episodes; --repair ends mends it, keeping the second"
        raise fault(int(twice[0]), problem)
    terminal[twice] = False
    truncated[twice] = False
    counts = {
        "terminal_episodes": int(terminal[last].sum()),
        "truncated_episodes": int((~terminal[last]).sum()),
        "unflagged_ends": int((~ended[last]).sum()),
        "both_flags": int((terminal & truncated).sum()),
        "repaired": len(twice),
    }
    return terminal, counts


def _lay_out(recording: Recording, values: _Steps) -> dict[str, np.ndarray]:
    """The columns of Episodes: every episode's steps, then its final observation, as ``obs`` is already."""
    lengths = np.asarray(recording.lengths, np.int64)
    ends = np.cumsum(lengths + 1) - 1  # row of each final observation
    rows = np.arange(len(values.obs))
    # the step of each row, at a final observation the one before; numpy gathers faster than it scatters
    steps = rows - np.repeat(np.arange(len(lengths)), lengths + 1)
    steps[ends] -= 1
    action = values.action.take(steps, 0)
    reward = values.reward.take(steps)
    action[ends] = 0
    reward[ends] = 0
    starts = np.repeat(ends - lengths, lengths + 1)
    flags = np.full(len(rows), HAS_ACTION | HAS_NEXT, np.uint8)
    flags += values.terminal.take(steps) * np.uint8(TERMINAL)
    flags += values.labelled.take(steps) * np.uint8(LABELLED)
    flags[ends[~recording.has_final] - 1] &= ~np.uint8(HAS_NEXT)
    flags[ends] = 0
    return {
        "obs": values.obs,
        "action": action,
        "reward": reward,
        "t": (rows - starts).astype(np.int32),
        "flags": flags,
    }


def _observation_space(recording: Recording, notes: list[str]) -> Box:
    """An unbounded Box of the data's shape."""
    notes.append(f"{spaces.UNNAMED_OBSERVATION}: taken as an unbounded Box")
    return Box(-np.inf, np.inf, np.shape(recording.observations)[1:] or (1,))


def _action_space(recording: Recording, notes: list[str]) -> Box | Discrete:
    """Discrete for whole numbers, else a Box: [-1, 1] where every action fits, else the data's range."""
    values = spaces.numeric(recording.actions, "actions")
    if values.dtype.kind in "bui" and values.size == len(values):
        least = values.min()
        if least < 0:
            raise BadValue("actions", f"{least} is below 0, and choices count from 0", int(values.argmin()))
        count = int(values.max()) + 1
        notes.append(f"{spaces.UNNAMED_ACTION}: taken as {count} choices")
        return Discrete(count)
    shape = values.shape[1:] or (1,)
    flat = spaces.flatten_box(Box(-np.inf, np.inf, shape), values, "actions")
    low = _by_column(np.min, flat).reshape(shape)
    high = _by_column(np.max, flat).reshape(shape)
    if (low >= -1).all() and (high <= 1).all():
        notes.append(f"{spaces.UNNAMED_ACTION}: bounds taken as [-1, 1]")
        return Box(-1, 1, shape)
    notes.append(f"{spaces.UNNAMED_ACTION}: bounds taken as the range of the data")
    return Box(low, high, shape)


def _digest(columns: dict[str, np.ndarray], *both: Space) -> str:
    """sha256 of the columns and spaces: the same for the same data, whatever file and format they lie in."""
    forms = [spaces.to_json(space) for space in both]
    digest = hashlib.sha256(json.dumps(forms).encode())
    for name, column in columns.items():
        digest.update(f"{name} {column.dtype} {column.shape}".encode())
        digest.update(memoryview(np.ascontiguousarray(column)).cast("B"))
    return digest.hexdigest()
