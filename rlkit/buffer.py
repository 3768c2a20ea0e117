"""Buffer: the data in device memory, and the only place where batches are drawn.

Rows lie in the order of time, so the successor of row i is row i + 1 and observations are stored once: an episode of T
steps is T rows and one more for its final observation. ``index`` lists the rows that may be drawn. A row whose
successor was never recorded (a truncated episode of a file that keeps no final observation) stays in place, so that
windows over the episode are whole, but it is not listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlkit.datasets.episodes import HAS_ACTION, HAS_NEXT, TERMINAL
from rlkit.types import Array, InputError, Key, Stats, Transitions

if TYPE_CHECKING:
    from rlkit.datasets import Episodes, Normaliser


class Buffer(NamedTuple):
    """N rows on the device, M of them drawable; 4 (O + A + 1) + 9 bytes a row for a continuous action."""

    obs: Array  # [N, O] float32
    action: Array  # [N, A] float32, or [N] int32
    reward: Array  # [N] float32
    t: Array  # [N] int32, steps since reset
    flags: Array  # [N] uint8, see rlkit.datasets.episodes
    index: Array  # [M] int32, rows that may be drawn
    extra: dict[str, Array]  # columns that a learner `needs`, [N, ...]

    @classmethod
    def from_episodes(cls, episodes: Episodes, normaliser: Normaliser, needs: Sequence[str] = ()) -> Buffer:
        """Pass the rows through the data's door and put them on the default device.

        Raises InputError if no row can be drawn or a column in ``needs`` is unknown.
        """
        flags = np.asarray(episodes.flags)
        drawable = ((flags & HAS_ACTION) > 0) & ((flags & (HAS_NEXT | TERMINAL)) > 0)
        if not drawable.any():
            raise InputError(f"{episodes.name}: no step has a recorded successor or a terminal; nothing can be drawn")
        if unknown := sorted({name for name in needs if name.partition("@")[0] not in COLUMNS}):
            raise InputError(f"unknown columns {unknown}; known: {sorted(COLUMNS)}")
        reward = np.where(flags & HAS_ACTION, normaliser.reward(np.asarray(episodes.reward)), 0).astype(np.float32)
        rows = cls(
            obs=normaliser.obs(episodes.obs),
            action=normaliser.action(episodes.action),
            reward=reward,
            t=episodes.t,
            flags=flags,
            index=np.flatnonzero(drawable).astype(np.int32),
            extra={},
        )
        return jax.device_put(rows._replace(extra={name: _column(name, rows) for name in needs}))

    def transitions(self, key: Key, batch_size: int, gamma: float) -> Transitions:
        """``batch_size`` rows drawn uniformly from ``index`` with replacement."""
        rows = self.index[jax.random.randint(key, (batch_size,), 0, self.index.shape[0])]
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
    index = np.asarray(buffer.index)

    def moments(column: Array) -> tuple[np.ndarray, np.ndarray]:
        rows = np.asarray(column)[index]
        if rows.ndim == 1:  # a discrete action has no moments
            return np.zeros(0, np.float32), np.zeros(0, np.float32)
        return rows.mean(0, np.float64).astype(np.float32), rows.std(0, dtype=np.float64).astype(np.float32)

    return Stats(*moments(buffer.obs), *moments(buffer.action))


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


# name -> f(rows with columns in NumPy, gamma) -> [N, ...]
COLUMNS: Mapping = {
    "return_to_go": _return_to_go,
    "next_action": _next_action,
    "has_next_action": _has_next_action,
}
