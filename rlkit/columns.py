"""Columns beside the rows of a Buffer, which a learner asks for by naming them in its ``needs``.

Derived columns (DERIVED) follow from the rows themselves and are computed for the rows of a batch: nothing is stored.
Stored columns (STORED) are made once, in NumPy, when the data are put on the device. A learner may also bring a stored
Column of its own: percent-BC, for one, marks the rows of the best episodes and draws those alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from rlkit.datasets.episodes import HAS_ACTION, LABELLED
from rlkit.types import Array, InputError

if TYPE_CHECKING:
    from rlkit.buffer import Buffer


@dataclass(frozen=True)
class Column:
    """A stored column.

    name: its key in ``Buffer.extra`` and in the ``extra`` of a batch. make(buffer) -> [N, ...]: computes it from a
    Buffer of NumPy arrays. uses_rewards: it is wrong where rewards are not known when the data are loaded.
    follows_from_episode: each row's value follows from its episode alone, so that it can be made for episodes that are
    collected too.
    """

    name: str
    make: Callable[[Buffer], np.ndarray]
    uses_rewards: bool = False
    follows_from_episode: bool = False


# --- derived columns: f(buffer, rows) -> [*rows.shape, ...] ---


def has_next_action(buffer: Buffer, rows: Array) -> Array:
    """1 where the next row holds a step of the same episode, else 0: at the end of an episode, terminal or not."""
    flags = buffer.gather(buffer.flags, rows)
    next_flags = buffer.gather(buffer.flags, buffer.shifted(rows, 1))
    is_step = (flags & HAS_ACTION) > 0
    next_is_step = (next_flags & HAS_ACTION) > 0
    return (is_step & next_is_step).astype(jnp.float32)


def next_action(buffer: Buffer, rows: Array) -> Array:
    """[..., A] (or [...]) the action of the step after; 0 where there is none, see `has_next_action`."""
    following = buffer.gather(buffer.action, buffer.shifted(rows, 1))
    exists = has_next_action(buffer, rows) > 0
    missing_axes = (1,) * (following.ndim - exists.ndim)
    exists = exists.reshape(exists.shape + missing_axes)
    return jnp.where(exists, following, jnp.zeros_like(following))


def labelled(buffer: Buffer, rows: Array) -> Array:
    """[...] bool, whether the row's reward is known. Only learners that need this column are given data in which some
    rewards are not known."""
    flags = buffer.gather(buffer.flags, rows)
    return (flags & LABELLED) > 0


DERIVED: Mapping[str, Callable[[Buffer, Array], Array]] = {
    "has_next_action": has_next_action,
    "next_action": next_action,
    "labelled": labelled,
}


# --- stored columns: f(buffer of NumPy arrays) -> [N, ...] ---


def _return_to_go(buffer: Buffer, gamma: float) -> np.ndarray:
    """[N] discounted sum of the rewards from each row to the end of its episode.

    The sum stops at a time limit as at a terminal: rewards after it are not guessed. So it is below the value of a
    truncated step where rewards are positive, and above it where they are negative.
    """
    starts = _starts(buffer)
    result = np.zeros(len(buffer.reward))
    # from the last row of every episode towards its first, all episodes at once
    row = np.append(starts[1:], len(result)) - 1
    tail = np.zeros(len(row))
    while row.size:
        tail = buffer.reward[row] + gamma * tail
        result[row] = tail
        goes_on = row > starts
        row = row[goes_on] - 1
        starts = starts[goes_on]
        tail = tail[goes_on]
    return result.astype(np.float32)


def _episode_return(buffer: Buffer) -> np.ndarray:
    """[N] undiscounted return of the episode that the row belongs to."""
    starts = _starts(buffer)
    reward = np.asarray(buffer.reward, np.float64)
    returns = np.add.reduceat(reward, starts)
    of_each_row = np.repeat(returns, _rows_of_each(buffer, starts))
    return of_each_row.astype(np.float32)


def _episode_length(buffer: Buffer) -> np.ndarray:
    """[N] int32, steps of the episode that the row belongs to."""
    starts = _starts(buffer)
    rows = _rows_of_each(buffer, starts)
    steps = rows - 1  # one row holds the final observation
    return np.repeat(steps, rows).astype(np.int32)


def _starts(buffer: Buffer) -> np.ndarray:
    """The first row of every episode."""
    return np.flatnonzero(np.asarray(buffer.t) == 0)


def _rows_of_each(buffer: Buffer, starts: np.ndarray) -> np.ndarray:
    """How many rows each episode has."""
    return np.diff(starts, append=len(buffer.flags))


def _episode(buffer: Buffer) -> np.ndarray:
    """[N] int32, the number of the episode that the row belongs to, from 0."""
    begins = np.asarray(buffer.t) == 0
    return (np.cumsum(begins) - 1).astype(np.int32)


def _held_out(buffer: Buffer) -> np.ndarray:
    """[N] bool: the row's label is held out.

    Labels are held out by episode: those of every fifth episode that has labels. Of fewer than five such episodes the
    last is held out, and none of a single one."""
    starts = _starts(buffer)
    known = (buffer.flags & LABELLED) > 0
    has_labels = np.logical_or.reduceat(known, starts)
    number = np.cumsum(has_labels) - 1
    count = int(has_labels.sum())
    if count >= 5:
        held_out = has_labels & (number % 5 == 4)
    elif count > 1:
        held_out = has_labels & (number == count - 1)
    else:
        held_out = np.zeros(len(starts), bool)
    of_each_row = np.repeat(held_out, _rows_of_each(buffer, starts))
    return of_each_row & known


def _hidden_reward(buffer: Buffer) -> np.ndarray:
    """[N] the reward that --label-share hid, as agents would see it; NaN where it hid none. For diagnostics alone."""
    return buffer.extra["hidden_reward"]


def _row(buffer: Buffer) -> np.ndarray:
    """[N] int32, the number of the row."""
    return np.arange(len(buffer.flags), dtype=np.int32)


STORED: Mapping[str, Column] = {
    column.name: column
    for column in (
        Column("episode", _episode),
        Column("episode_length", _episode_length, follows_from_episode=True),
        Column("episode_return", _episode_return, uses_rewards=True, follows_from_episode=True),
        Column("held_out", _held_out),
        Column("hidden_reward", _hidden_reward),
        Column("row", _row),
    )
}
DISCOUNTED = {"return_to_go": _return_to_go}  # named with a discount, return_to_go@0.99, or without: 1


def stored(need: str | Column) -> Column | None:
    """The stored column that a learner's ``need`` names; None for a derived one. InputError for an unknown name."""
    if isinstance(need, Column):
        return need
    if need in DERIVED:
        return None
    if need in STORED:
        return STORED[need]
    name, _, gamma = need.partition("@")
    if name in DISCOUNTED:
        make_column = functools.partial(DISCOUNTED[name], gamma=float(gamma or 1))
        return Column(need, make_column, uses_rewards=True, follows_from_episode=True)
    known = sorted([*DERIVED, *STORED, *DISCOUNTED])
    raise InputError(f"unknown column {need!r}; known: {', '.join(known)}")


def make(needs: Iterable[str | Column], buffer: Buffer) -> dict[str, np.ndarray | None]:
    """Name -> column [N, ...] for each of ``needs``; None marks a derived one, which is computed for each batch."""
    made: dict[str, np.ndarray | None] = {}
    for need in needs:
        column = stored(need)
        if column is None:
            made[need] = None
        else:
            made[column.name] = column.make(buffer)
    return made
