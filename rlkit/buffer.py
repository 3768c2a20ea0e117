"""Buffer: the data in device memory, and the only place where batches are drawn.

Rows lie in the order of time, so the successor of row i is row i + 1 and observations are stored once: an episode of T
steps is T rows and one more for its final observation. ``index`` lists the rows that may be drawn. A row whose
successor was never recorded (a truncated episode of a file that keeps no final observation) stays in place, so that
windows over the episode are whole, but it is not listed.

A step whose reward is not known has reward 0. Only learners that say so, by needing the column ``labelled``, are given
such data; for them ``index`` lists the labelled rows first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlkit.datasets import blocks
from rlkit.datasets.episodes import HAS_ACTION, HAS_NEXT, LABELLED, TERMINAL
from rlkit.types import Array, Box, InputError, Key, Spec, Stage, Stats, Transitions

if TYPE_CHECKING:
    from rlkit.datasets import Episodes, Normaliser


class Buffer(NamedTuple):
    """N rows on the device, M of them drawable; 4 (O + A + 1) + 9 bytes a row for a continuous action."""

    obs: Array  # [N, O] float32
    action: Array  # [N, A] float32, or [N] int32
    reward: Array  # [N] float32
    t: Array  # [N] int32, steps since reset
    flags: Array  # [N] uint8, see rlkit.datasets.episodes
    index: Array  # [M] int32, rows that may be drawn, those whose reward is known first
    extra: dict[str, Array]  # columns that a learner `needs`, [N, ...]
    labels: Array | None = None  # [] int32, of how many rows in ``index`` the reward is known; None: of all
    drawn: Array | None = None  # [] int32, how many rows in ``index`` are drawn; None: all

    @classmethod
    def from_episodes(cls, episodes: Episodes, normaliser: Normaliser, needs: Sequence[str] = ()) -> Buffer:
        """Pass the rows through the data's door and put them on the default device.

        Raises InputError if no row can be drawn, a column in ``needs`` is unknown, or rewards are not known that nobody
        expects to be unknown.
        """
        flags = np.asarray(episodes.flags)
        drawable = episodes.drawable()
        if unknown := sorted({name for name in needs if name.partition("@")[0] not in COLUMNS}):
            raise InputError(f"unknown columns {unknown}; known: {sorted(COLUMNS)}")
        labelled = (flags & LABELLED) > 0
        known, rest = np.flatnonzero(drawable & labelled), np.flatnonzero(drawable & ~labelled)
        if rest.size and "labelled" not in needs:
            raise InputError(
                f"{episodes.name}: {rest.size:,} of {drawable.sum():,} steps have no reward label, and this agent "
                "needs one at every step: choose one that learns from unlabelled steps too"
            )
        if not known.size:
            raise InputError(f"{episodes.name}: no step that can be drawn has a reward label; label some")
        hidden = np.full(len(flags), np.nan, np.float32)
        if episodes.hidden is not None:
            hidden = blocks.through(normaliser.reward, episodes.hidden)
        reward = blocks.through(normaliser.reward, episodes.reward)
        reward[~labelled] = 0
        rows = cls(
            obs=_through(normaliser.obs, episodes.obs),
            action=blocks.through(normaliser.action, episodes.action),
            reward=reward,
            t=episodes.t,
            flags=flags,
            index=np.concatenate([known, rest], dtype=np.int32),
            extra={"hidden_reward": hidden},
            labels=np.int32(known.size) if "labelled" in needs else None,
        )
        rows = rows._replace(extra={name: _column(name, rows) for name in needs})
        return jax.device_put(rows)

    def only_labelled(self) -> Buffer:
        """The same rows, of which only those whose reward is known are drawn."""
        return self._replace(drawn=self.labels)

    def transitions(self, key: Key, batch_size: int, gamma: float) -> Transitions:
        """``batch_size`` rows drawn uniformly from ``index`` with replacement."""
        count = self.index.shape[0] if self.drawn is None else self.drawn
        rows = self.index[jax.random.randint(key, (batch_size,), 0, count)]
        terminal = (self.flags[rows] & TERMINAL) > 0
        return Transitions(
            obs=self.obs[rows],
            action=self.action[rows],
            reward=self.reward[rows],
            discount=jnp.where(terminal, 0.0, gamma),
            next_obs=self.obs[rows + 1],
            extra={name: column[rows] for name, column in self.extra.items()},
        )


def stats(buffer: Buffer) -> Stats:
    """Moments over the drawable rows, summed in float64 on the host."""
    mask = np.zeros(len(buffer.flags), bool)
    mask[np.asarray(buffer.index)] = True

    def moments(column: Array) -> tuple[np.ndarray, np.ndarray]:
        if column.ndim == 1:  # a discrete action has no moments
            return np.zeros(0, np.float32), np.zeros(0, np.float32)
        mean, std = blocks.moments(np.asarray(column), mask)
        return mean.astype(np.float32), std.astype(np.float32)

    return Stats(*moments(buffer.obs), *moments(buffer.action))


def _through(door: Callable[[np.ndarray], np.ndarray], column: np.ndarray) -> Array:
    """``door`` of every row of ``column`` [N, W] as float32 on the default device, filled in a block at a time."""
    rows, width = column.shape
    size = min(max(blocks.NUMBERS // width, 1), rows)
    filled = jnp.zeros((rows, width), jnp.float32)
    for start in range(0, rows, size):
        start = min(start, rows - size)  # the last block begins earlier, so that all are of one size
        filled = _fill(filled, door(column[start : start + size]), np.int32(start))
        blocks.forget(column)
    return filled


@functools.partial(jax.jit, donate_argnums=0)
def _fill(filled: Array, block: Array, start: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(filled, block, start, 0)


def needs(stages: Sequence[Stage]) -> list[str]:
    """The columns that the learners of ``stages`` need."""
    return sorted({column for stage in stages for column in stage.learner.needs})


def abstract(spec: Spec, rows: int, drawable: int, needs: Sequence[str]) -> Buffer:
    """Shapes and dtypes of the Buffer of ``rows`` rows, of which ``drawable`` may be drawn."""
    continuous = isinstance(spec.action, Box)
    action = np.zeros((2, *spec.action.shape), np.float32) if continuous else np.zeros(2, np.int32)
    values, steps = np.zeros(2, np.float32), np.arange(2, dtype=np.int32)
    flags = np.array([HAS_ACTION | HAS_NEXT | LABELLED, 0], np.uint8)
    tiny = Buffer(np.zeros((2, *spec.observation.shape), np.float32), action, values, steps, flags, steps[:1], {})
    tiny = tiny._replace(extra={"hidden_reward": values})
    tiny = tiny._replace(extra={name: _column(name, tiny) for name in needs})
    shapes = jax.tree.map(lambda column: jax.ShapeDtypeStruct((rows, *column.shape[1:]), column.dtype), tiny)
    return shapes._replace(
        index=jax.ShapeDtypeStruct((drawable,), np.int32),
        labels=jax.ShapeDtypeStruct((), np.int32) if "labelled" in needs else None,
    )


def _column(need: str, rows: Buffer) -> np.ndarray:
    """The column ``name`` or, discounted, ``name@gamma``: return_to_go@0.99."""
    name, _, gamma = need.partition("@")
    return COLUMNS[name](rows, float(gamma or 1))


def _return_to_go(rows: Buffer, gamma: float) -> np.ndarray:
    """[N] discounted sum of the rewards from each row to the end of its episode.

    It stops at a time limit as at a terminal: what would have come after is not guessed. So it is below the value of a
    truncated step where rewards are positive and above it where they are negative.
    """
    starts, result = np.flatnonzero(np.asarray(rows.t) == 0), np.zeros(len(rows.reward))
    row = np.append(starts[1:], len(result)) - 1  # from the last row of every episode towards its first
    tail = np.zeros(len(row))
    while row.size:
        tail = result[row] = rows.reward[row] + gamma * tail
        going = row > starts
        row, starts, tail = row[going] - 1, starts[going], tail[going]
    return result.astype(np.float32)


def _has_next_action(rows: Buffer, gamma: float) -> np.ndarray:
    """[N] 1 where the next row holds a step of the same episode, else 0: at the end of an episode, terminal or not."""
    here = (rows.flags & HAS_ACTION) > 0
    return (here & np.append(here[1:], False)).astype(np.float32)


def _next_action(rows: Buffer, gamma: float) -> np.ndarray:
    """[N, A] the action of the step after; 0 where there is none, see has_next_action."""
    following = np.concatenate([rows.action[1:], np.zeros_like(rows.action[:1])])
    there = _has_next_action(rows, gamma).astype(bool)
    following[~there] = 0
    return following


def _labelled(rows: Buffer, gamma: float) -> np.ndarray:
    """[N] bool: the row's reward is known. Who needs this column is given data in which some are not."""
    return (rows.flags & LABELLED) > 0


def _held_out(rows: Buffer, gamma: float) -> np.ndarray:
    """[N] bool: the row's label is held out, with its episode's: every fifth of the episodes that have labels, or the
    last of fewer; none of a single one."""
    starts, labelled = np.flatnonzero(np.asarray(rows.t) == 0), (rows.flags & LABELLED) > 0
    having = np.logical_or.reduceat(labelled, starts)
    number, count = np.cumsum(having) - 1, int(having.sum())
    held = having & ((number % 5 == 4) if count >= 5 else (number == count - 1) & (count > 1))
    return np.repeat(held, np.diff(starts, append=len(labelled))) & labelled


def _hidden_reward(rows: Buffer, gamma: float) -> np.ndarray:
    """[N] the reward that --label-share hid, as agents would see it, for diagnostics alone; NaN where it hid none."""
    return rows.extra["hidden_reward"]


def _row(rows: Buffer, gamma: float) -> np.ndarray:
    """[N] int32, the number of the row."""
    return np.arange(len(rows.flags), dtype=np.int32)


FROM_REWARDS = {"return_to_go"}  # columns that are wrong where rewards are not known when the data are loaded
# name -> f(rows with columns in NumPy and hidden_reward in extra, gamma) -> [N, ...]
COLUMNS: Mapping = {
    "labelled": _labelled,
    "held_out": _held_out,
    "hidden_reward": _hidden_reward,
    "row": _row,
    "return_to_go": _return_to_go,
    "next_action": _next_action,
    "has_next_action": _has_next_action,
}
