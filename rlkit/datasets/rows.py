"""The way from a Recording to Episodes: here the data of every source are checked, repaired, counted and laid out.

A check that fails raises BadValue with the number of the step; `assemble` makes it the line that names the episode.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete

from rlkit.datasets import action_space, inspection, spaces
from rlkit.datasets.blocks import blocks
from rlkit.datasets.episodes import HAS_ACTION, HAS_NEXT, LABELLED, TERMINAL, Episodes, Report
from rlkit.datasets.options import UNTOLD, ActionOptions
from rlkit.datasets.recording import Recording
from rlkit.datasets.spaces import BadValue
from rlkit.types import InputError

# How far beyond its bound, relative to the bound, rounding may carry an action. Such actions are clipped and noted.
BOUND_TOLERANCE = 1e-5
# How far beyond it, relative to the range, --repair bounds clips them.
REPAIR_TOLERANCE = 0.01


class _Steps(NamedTuple):
    """The checked fields of N steps in E episodes."""

    obs: np.ndarray  # [N + E, O] float32, with the final observations
    action: np.ndarray  # [N, A] float32, or [N] int32
    reward: np.ndarray  # [N] float32
    terminal: np.ndarray  # [N] bool, true at the last step of an episode only
    labelled: np.ndarray  # [N] bool


def assemble(recording: Recording, *, repair: Sequence[str] = (), action: ActionOptions = UNTOLD) -> Episodes:
    """Check, repair and lay out. ``action``: what the user tells of actions that the source does not describe.

    Raises InputError, one line that names dataset, episode, index in the episode and field.
    """
    name = recording.name
    if len(recording.lengths) == 0:
        raise InputError(f"{name}: holds no episode; check that the file is complete")
    empty = recording.lengths <= 0
    if empty.any():
        episode = int(empty.argmax())
        raise InputError(f"{name}: episode {episode} has no step; remove it from the source")
    spaces.check_supported(name, recording.observation_space, recording.action_space)
    try:
        return _assemble(recording, repair, action)
    except BadValue as bad:
        where = f"{name}: "
        if bad.row is not None:
            where += _where(recording, bad.row)
        raise InputError(f"{where}{bad}") from None


def _assemble(recording: Recording, repair: Sequence[str], told: ActionOptions) -> Episodes:
    # --- every field, checked ---
    notes = list(recording.notes)
    derived: tuple[str, ...] = ()
    observation_space = recording.observation_space
    if observation_space is None:
        shape = np.shape(recording.observations)[1:]
        observation_space = Box(-np.inf, np.inf, shape or (1,))
        notes.append(f"{spaces.UNNAMED_OBSERVATION}: taken as unbounded")
        derived = ("observation",)
    settled = action_space.settle(recording, told, notes)
    derived += settled.derived
    obs = _observations(recording, observation_space)
    action, clipped = _actions(recording, settled.space, repair, notes)
    on_bounds = 0
    if action_space.BOUNDS not in derived:  # on derived bounds are the actions that they were derived from
        on_bounds = action_space.count_on_bounds(action, settled.space)
    labelled = _labelled(recording, notes)
    reward = _rewards(recording, labelled)
    terminal, counts = _ends(recording, repair)
    counts["repaired"] += clipped

    # --- the columns, and how many rows can be drawn ---
    steps = _Steps(obs, action, reward, terminal, labelled)
    columns = _lay_out(recording, steps)
    last = np.cumsum(recording.lengths) - 1
    without_successor = ~recording.has_final & ~terminal[last]
    no_successor = int(without_successor.sum())
    report = Report(
        episodes=len(recording.lengths),
        steps=len(reward),
        used=len(reward) - no_successor,
        no_successor=no_successor,
        on_bounds=on_bounds,
        notes=tuple(notes),
        **counts,
    )
    episodes = Episodes(
        name=recording.name,
        fingerprint=_digest(columns, observation_space, settled.space),
        **columns,
        observation_space=observation_space,
        action_space=settled.space,
        env_spec=recording.env_spec,
        reference=recording.reference,
        report=report,
        infos=recording.infos,
        names=recording.names,
        derived=derived,
    )
    warnings = inspection.inspect(episodes, recording.observations)
    return dataclasses.replace(episodes, report=dataclasses.replace(report, warnings=warnings))


def _where(recording: Recording, step: int) -> str:
    """Episode and index of the step that is number ``step`` of all N, for a message."""
    ends = np.cumsum(recording.lengths)
    episode = int(np.searchsorted(ends, step, side="right"))
    start = int(recording.lengths[:episode].sum())
    return f"episode {episode}, index {step - start}, "


def _observations(recording: Recording, space: Space) -> np.ndarray:
    """Flat observations [N + E, O] float32: those of an episode's steps, then its final one, or its last again. They
    are made a block at a time, since the source's own may be a quarter as large (bytes) or twice (float64)."""
    if isinstance(space, Dict):  # its observations are flat already: a Recording holds arrays, and no mappings
        space = Box(-np.inf, np.inf, (spaces.width(space),))
    values = np.asarray(recording.observations)
    width = spaces.width(space)

    # --- observations of steps ---
    lengths = np.asarray(recording.lengths, np.int64)
    episodes = np.arange(len(lengths))
    episode_of_step = np.repeat(episodes, lengths)
    row_of_step = np.arange(len(values)) + episode_of_step
    rows = None
    for part in blocks(len(values), width):
        try:
            flat = spaces.flatten(space, values[part], "observations")
        except BadValue:  # repeated on all rows, so that the error names the row and counts those like it
            spaces.flatten(space, values, "observations")
            raise
        if rows is None:  # not made before the first block has been checked
            rows = np.empty((len(values) + len(lengths), width), np.float32)
        rows[row_of_step[part]] = flat

    # --- final observations ---
    ends = np.cumsum(lengths + 1) - 1
    rows[ends] = rows[ends - 1]
    recorded = np.flatnonzero(recording.has_final)
    if recorded.size:
        finals = np.asarray(recording.finals)[recorded]
        try:
            rows[ends[recorded]] = spaces.flatten(space, finals, "observations")
        except BadValue as bad:
            episode = int(recorded[bad.row or 0])
            index = recording.lengths[episode]
            raise InputError(f"{recording.name}: episode {episode}, index {index}, {bad}") from None
    return rows


def _actions(recording: Recording, space: Space, repair: Sequence[str], notes: list[str]) -> tuple[np.ndarray, int]:
    """Actions, [N, A] float32 clipped to the bounds or [N] int32, and the number of steps that ``repair`` changed."""
    if isinstance(space, Discrete):
        return spaces.choices(space, recording.actions, "actions"), 0
    repaired = 0
    action = spaces.flatten_box(space, recording.actions, "actions")
    low = np.asarray(space.low, np.float32).ravel()
    high = np.asarray(space.high, np.float32).ravel()
    least = _by_column(np.min, action)
    most = _by_column(np.max, action)
    if (least < low).any() or (most > high).any():
        action, repaired = _clip(action, low, high, repair, notes)
    return action, repaired


def _clip(
    action: np.ndarray, low: np.ndarray, high: np.ndarray, repair: Sequence[str], notes: list[str]
) -> tuple[np.ndarray, int]:
    """Actions within the bounds, if rounding alone has carried them beyond, or if they are a little beyond and
    ``repair`` has "bounds"; and the number of steps that it has changed. Raises BadValue for others."""
    clipped = np.clip(action, low, high)
    distance = np.abs(action - clipped)
    size_of_low = np.where(np.isfinite(low), np.abs(low), 0)
    size_of_high = np.where(np.isfinite(high), np.abs(high), 0)
    size = np.maximum(size_of_low, size_of_high)
    by_rounding = BOUND_TOLERANCE * size
    bounded = np.isfinite(low) & np.isfinite(high)
    extent = np.where(bounded, high - np.where(bounded, low, 0), size)
    by_repair = np.maximum(by_rounding, REPAIR_TOLERANCE * extent)
    far = distance > by_rounding
    too_far = distance > by_repair
    if too_far.any() or (far.any() and "bounds" not in repair):
        reported = too_far if too_far.any() else far
        raise _out_of_bounds(action, low, high, reported, repairable=not too_far.any())
    repaired = int(far.any(1).sum())
    rounded = int((distance > 0).any(1).sum()) - repaired
    if rounded:
        notes.append(f"{rounded} steps had an action beyond its bound by rounding, and were clipped")
    if repaired:
        beyond = np.divide(distance, extent, out=np.zeros_like(distance), where=extent > 0)
        most = float(beyond.max())
        notes.append(f"{repaired} steps had an action out of bounds by up to {most:.2%} of the range, and were clipped")
    return clipped, repaired


def _out_of_bounds(
    action: np.ndarray, low: np.ndarray, high: np.ndarray, far: np.ndarray, repairable: bool
) -> BadValue:
    """The refusal of actions that are out of bounds where ``far`` [N, A] is true."""
    row, column = np.argwhere(far)[0].tolist()
    value = action[row, column]
    bounds = f"[{low[column]}, {high[column]}]"
    steps = int(far.any(1).sum())
    problem = f"element {column} is {value}, outside {bounds}; {steps} steps like it"
    if repairable:
        return BadValue("actions", f"{problem}; --repair bounds clips them", row)
    advice = f"correct the actions or the bounds (--repair bounds clips up to {REPAIR_TOLERANCE:.0%} of the range)"
    return BadValue("actions", f"{problem}; {advice}", row)


def _by_column(extreme: Callable[[np.ndarray], Any], values: np.ndarray) -> np.ndarray:
    """The extreme of each column of [N, W]: numpy is many times slower over both axes at once, where W is small."""
    return np.array([extreme(column) for column in values.T])


def _labelled(recording: Recording, notes: list[str]) -> np.ndarray:
    """[N] bool: the reward is known."""
    if recording.labelled is None:
        return np.ones(len(recording.rewards), bool)
    labelled = _flags(recording, "labelled")
    if not labelled.all():
        count = int((~labelled).sum())
        notes.append(f"{count:,} steps have no reward label")
    return labelled


def _rewards(recording: Recording, labelled: np.ndarray) -> np.ndarray:
    """Rewards [N] float32, 0 where they are not ``labelled``, whatever the source holds for them."""
    rewards = recording.rewards
    if not labelled.all():
        rewards = spaces.numeric(rewards, "rewards")
        other_axes = (1,) * (rewards.ndim - 1)
        mask = labelled.reshape(-1, *other_axes)
        rewards = np.where(mask, rewards, 0)
    one_number = Box(-np.inf, np.inf, ())
    column = spaces.flatten_box(one_number, rewards, "rewards")
    return column[:, 0]


def _flags(recording: Recording, field: str) -> np.ndarray:
    """Flags [N] as a fresh bool array."""
    values = getattr(recording, field)
    return spaces.choices(Discrete(2), values, field).astype(bool)


def _ends(recording: Recording, repair: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
    """terminal [N] bool, true at the last step of an episode only, and the Report's counts of ends."""
    terminal = _flags(recording, "terminations")
    truncated = _flags(recording, "truncations")
    ended = terminal | truncated
    last = np.cumsum(recording.lengths) - 1
    last_of_long = last[recording.lengths > 1]
    both_set = ended[last_of_long - 1] & ended[last_of_long]
    twice = last_of_long[both_set] - 1  # steps whose flag is set again on the last step

    # --- flags before the end ---
    early = ended.copy()
    early[last] = False
    early[twice] = False
    if early.any():
        step = int(early.argmax())
        count = int(early.sum())
        problem = f"set before the end of the episode; {count} steps like it"
        raise BadValue(_flag_name(terminal, step), problem, step)
    if twice.size and "ends" not in repair:
        step = int(twice[0])
        problem = f"set on the last two steps, as in {twice.size} episodes; --repair ends keeps the second alone"
        raise BadValue(_flag_name(terminal, step), problem, step)
    terminal[twice] = False
    truncated[twice] = False

    # --- counts ---
    is_terminal = terminal[last]
    both = terminal & truncated
    counts = {
        "terminal_episodes": int(is_terminal.sum()),
        "truncated_episodes": int((~is_terminal).sum()),
        "unflagged_ends": int((~ended[last]).sum()),
        "both_flags": int(both.sum()),
        "repaired": len(twice),
    }
    return terminal, counts


def _flag_name(terminal: np.ndarray, step: int) -> str:
    """The field whose flag is set at a step."""
    if terminal[step]:
        return "terminations"
    return "truncations"


def _lay_out(recording: Recording, values: _Steps) -> dict[str, np.ndarray]:
    """The columns of Episodes: every episode's steps, then its final observation, as ``obs`` is already."""
    lengths = np.asarray(recording.lengths, np.int64)
    ends = np.cumsum(lengths + 1) - 1  # row of each final observation
    rows = np.arange(len(values.obs))
    # the step of each row, at a final observation the one before; numpy gathers faster than it scatters
    episodes = np.arange(len(lengths))
    episode_of_row = np.repeat(episodes, lengths + 1)
    steps = rows - episode_of_row
    steps[ends] -= 1
    action = values.action.take(steps, 0)
    reward = values.reward.take(steps)
    action[ends] = 0
    reward[ends] = 0
    starts = np.repeat(ends - lengths, lengths + 1)
    terminal = values.terminal.take(steps)
    labelled = values.labelled.take(steps)
    flags = np.full(len(rows), HAS_ACTION | HAS_NEXT, np.uint8)
    flags += terminal * np.uint8(TERMINAL)
    flags += labelled * np.uint8(LABELLED)
    without_final = ends[~recording.has_final]
    flags[without_final - 1] &= ~np.uint8(HAS_NEXT)
    flags[ends] = 0
    return {
        "obs": values.obs,
        "action": action,
        "reward": reward,
        "t": (rows - starts).astype(np.int32),
        "flags": flags,
    }


def _digest(columns: dict[str, np.ndarray], *both: Space) -> str:
    """sha256 of the columns and spaces: the same for the same data, whatever file and format they come from."""
    forms = [spaces.to_json(space) for space in both]
    digest = hashlib.sha256(json.dumps(forms).encode())
    for name, column in columns.items():
        label = f"{name} {column.dtype} {column.shape}"
        digest.update(label.encode())
        values = np.ascontiguousarray(column)
        digest.update(memoryview(values).cast("B"))
    return digest.hexdigest()
