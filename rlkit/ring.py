"""The replay of an online stage: a Buffer whose rows go round, one ring for each seed.

Columns are [S, C, ...], so that an insert writes all rings in place, and a learner reads the ring of its seed by
gathers alone (`of_seed`): to slice a ring out for every chunk of updates would copy it.

A row may be drawn once its successor is written, as in the data: the newest row never, a final observation never. What
is written over is the oldest, in the order in which rows came to be drawn, so `index` is a queue.

Several environments of a seed (lanes) write in turn, a row each, so the successor of row i is row i + lanes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlkit import columns
from rlkit.buffer import Buffer, Place
from rlkit.columns import Column
from rlkit.datasets.episodes import HAS_ACTION, HAS_NEXT, LABELLED, TERMINAL
from rlkit.types import Array, Box, Discrete, InputError, Spec

STEP = HAS_ACTION | HAS_NEXT | LABELLED  # flags of a collected step
TERMINAL_STEP = STEP | TERMINAL
FINAL = 0  # of a final observation


class Rows(NamedTuple):
    """K new rows of each of S seeds, as agents see them."""

    obs: Array  # [S, K, O] float32
    action: Array  # [S, K, A] float32, or [S, K] int32
    reward: Array  # [S, K] float32
    t: Array  # [S, K] int32
    flags: Array  # [S, K] uint8
    extra: dict[str, Array]  # stored columns, [S, K, ...]


def stored_columns(needs: Sequence[str | Column]) -> list[str | Column]:
    """Those of ``needs`` that a ring must store, since they follow from whole episodes. Raises InputError for one that
    has no meaning for steps that are collected."""
    stored = []
    for need in needs:
        column = columns.stored(need)
        if column is None:
            continue
        if not column.follows_from_episode:
            raise InputError(
                f"the column {column.name!r} is of the data alone: a learner that needs it cannot learn online"
            )
        stored.append(need)
    return stored


def empty(spec: Spec, needs: Sequence[str | Column], seeds: int, capacity: int, lanes: int) -> Buffer:
    """Rings of ``capacity`` rows, a multiple of ``lanes``, that hold nothing, as NumPy arrays.

    Raises InputError for a column that a ring cannot have.
    """
    if isinstance(spec.action, Discrete):
        action_shape, action_dtype = (), np.int32
    else:
        action_shape, action_dtype = spec.action.shape, np.float32
    extra: dict[str, np.ndarray | None] = {}
    one_row = _one_row(spec)
    made = columns.make(stored_columns(needs), one_row)
    for need in needs:
        name = need.name if isinstance(need, Column) else need
        column = made.get(name)
        if column is not None:
            column = np.zeros((seeds, capacity, *column.shape[1:]), column.dtype)
        extra[name] = column

    def zeros(dtype: type) -> np.ndarray:
        return np.zeros((seeds, capacity), dtype)

    def place(value: int) -> np.ndarray:
        return np.full(seeds, value, np.int32)

    return Buffer(
        obs=np.zeros((seeds, capacity, *spec.observation.shape), np.float32),
        action=np.zeros((seeds, capacity, *action_shape), action_dtype),
        reward=zeros(np.float32),
        t=zeros(np.int32),
        flags=zeros(np.uint8),
        index=zeros(np.int32),
        extra=extra,
        place=Place(head=place(0), first=place(0), drawn=place(0), lanes=place(lanes)),
    )


def _one_row(spec: Spec) -> Buffer:
    """An episode of one step, of which columns are made for their shapes."""
    return one_episode(
        obs=np.zeros((2, *spec.observation.shape), np.float32),
        action=np.zeros((1, *spec.action.shape), np.float32) if isinstance(spec.action, Box) else np.zeros(1, np.int32),
        reward=np.zeros(1, np.float32),
        is_terminal=False,
    )


def one_episode(obs: np.ndarray, action: np.ndarray, reward: np.ndarray, is_terminal: bool) -> Buffer:
    """The rows of one episode of T steps, as NumPy arrays, without columns.

    Args:
        obs: [T + 1, O]. action: [T, A] or [T]. reward: [T]. is_terminal: whether it ended in a terminal state. All are
        as agents see them.
    """
    steps = len(reward)
    flags = np.full(steps + 1, STEP, np.uint8)
    flags[-1] = FINAL
    if is_terminal:
        flags[-2] = TERMINAL_STEP
    return Buffer(
        obs=obs,
        action=np.concatenate([action, np.zeros_like(action[:1])]),
        reward=np.append(reward, np.float32(0)),
        t=np.arange(steps + 1, dtype=np.int32),
        flags=flags,
        index=np.arange(steps, dtype=np.int32),
        extra={},
    )


def of_seed(ring: Buffer, seed: Array) -> Buffer:
    """The ring of seed number ``seed`` [], to be read. Its columns keep their seed axis."""
    here = jax.tree.map(lambda leaf: leaf[seed], ring.place)
    return ring._replace(place=here._replace(seed=seed))


@functools.partial(jax.jit, donate_argnums=0)
def insert(ring: Buffer, rows: Rows, count: Array) -> Buffer:
    """Write the first ``count`` [S] of ``rows`` into each ring, over its oldest ones. The rings are donated, and
    written in place. There must be room for at least twice as many rows."""
    return jax.vmap(_insert)(ring, rows, count)


def _insert(ring: Buffer, rows: Rows, count: Array) -> Buffer:
    """`insert` for one seed."""
    place = ring.place
    capacity = ring.index.shape[0]
    number = jnp.arange(rows.t.shape[0])
    is_new = number < count
    nowhere = capacity  # a write to there is dropped
    target = (place.head + number) % capacity

    # --- what is written over: the oldest rows, so those at the front of the queue ---
    was_drawn = is_new & _is_step(ring.flags[target])
    dropped = was_drawn.sum(dtype=jnp.int32)
    first = (place.first + dropped) % capacity
    drawn = place.drawn - dropped

    # --- the rows ---
    target = jnp.where(is_new, target, nowhere)

    def write(column: Array, new: Array) -> Array:
        return column.at[target].set(new, mode="drop")

    flags = write(ring.flags, rows.flags)
    t = write(ring.t, rows.t)
    extra = {}
    for name, column in ring.extra.items():
        extra[name] = None if column is None else write(column, rows.extra[name])

    # --- the rows before them can be drawn from now on ---
    before = (place.head + number - place.lanes) % capacity
    follows = t[before] + 1 == rows.t
    can_be_drawn = is_new & follows & _is_step(flags[before])
    at_end = place.first + place.drawn + jnp.cumsum(can_be_drawn) - 1
    at_end = jnp.where(can_be_drawn, at_end % capacity, nowhere)
    index = ring.index.at[at_end].set(before.astype(jnp.int32), mode="drop")
    drawn = drawn + can_be_drawn.sum(dtype=jnp.int32)

    head = (place.head + count) % capacity
    return ring._replace(
        obs=write(ring.obs, rows.obs),
        action=write(ring.action, rows.action),
        reward=write(ring.reward, rows.reward),
        t=t,
        flags=flags,
        index=index,
        extra=extra,
        place=place._replace(head=head, first=first, drawn=drawn),
    )


def _is_step(flags: Array) -> Array:
    """Whether a row is a step that can be drawn once its successor is written. Of the data, those without a recorded
    successor are not."""
    return ((flags & HAS_ACTION) > 0) & ((flags & (HAS_NEXT | TERMINAL)) > 0)
