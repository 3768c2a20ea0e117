"""Buffer: the data in device memory, and the only place where batches are drawn.

    transitions(key, n, gamma)             = take(draw(key, n), gamma)                      steps, for flat learners
    windows(key, n, before, after, gamma)  = around(draw(key, n), before, after, gamma)     pieces of episodes

Rows lie in the order of time, so the successor of row i is row i + 1 and observations are stored once: an episode of T
steps is T rows and one more for its final observation. ``index`` lists the rows that may be drawn. A row whose
successor was never recorded (a truncated episode of a file that keeps no final observation) stays in place, so that
windows over the episode are whole, but it is not listed.

Windows and whole episodes are arithmetic on ``t``, the steps since reset: row + d belongs to the episode of row if and
only if its t is d more. There is no table of episodes.

The steps that an agent collects while it trains are kept in a Buffer too, which is a ring: see rlkit.ring.

A step whose reward is not known has reward 0. Only learners that say so are given such data: those that need the column
``labelled``, for which ``index`` lists the labelled rows first, and those that use no rewards (see `uses_rewards`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlkit import columns
from rlkit.columns import Column
from rlkit.datasets import blocks
from rlkit.datasets.episodes import HAS_ACTION, HAS_NEXT, LABELLED, TERMINAL
from rlkit.types import Array, Box, InputError, Key, Spec, Stage, Stats, Transitions, Windows

if TYPE_CHECKING:
    from rlkit.datasets import Episodes, Normaliser


class Place(NamedTuple):
    """Where a ring stands: int32, [S] each, or [] where the ring of one seed is read."""

    head: Array  # row that is written next, the oldest one once the ring is full
    first: Array  # number in ``index`` at which the rows that may be drawn begin; they go round
    drawn: Array  # how many rows may be drawn
    lanes: Array  # environments that write in turn: the step after row i is in row i + lanes
    seed: Array | None = None  # number of the seed that is read, where columns have a seed axis


class Buffer(NamedTuple):
    """N rows on the device, M of them drawable; 4 (O + A + 1) + 9 bytes a row for a continuous action.

    Those of a ring have a leading axis of S seeds in every column, see rlkit.ring."""

    obs: Array  # [N, O] float32
    action: Array  # [N, A] float32, or [N] int32
    reward: Array  # [N] float32
    t: Array  # [N] int32, steps since reset
    flags: Array  # [N] uint8, see rlkit.datasets.episodes
    index: Array  # [M] int32, rows that may be drawn, those whose reward is known first
    extra: dict[str, Array | None]  # columns that a learner `needs`, [N, ...]; None: derived, see rlkit.columns
    labels: Array | None = None  # [] int32, of how many rows in ``index`` the reward is known; None: of all
    drawn: Array | None = None  # [] int32, how many rows in ``index`` are drawn; None: all
    place: Place | None = None  # of a ring

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        normaliser: Normaliser,
        needs: Sequence[str | Column] = (),
        *,
        uses_rewards: bool = True,
    ) -> Buffer:
        """Normalise the rows and put them on the default device.

        Args:
            episodes: the data, from rlkit.datasets.load. normaliser: Normaliser.fit(episodes, options). needs: columns
            that the learners need, see `needs`. uses_rewards: whether a learner uses them, see `uses_rewards`.

        Returns:
            The Buffer, with those columns.

        Raises:
            InputError: no row can be drawn, a column is unknown, or some rewards are not known, a learner uses them,
            and none needs the column ``labelled``.

        Example:
            buffer = Buffer.from_episodes(episodes, normaliser, needs(stages), uses_rewards=uses_rewards(stages))
        """
        for need in needs:
            columns.stored(need)  # refuses an unknown name before anything is made
        flags = np.asarray(episodes.flags)
        labelled = (flags & LABELLED) > 0
        allow_unlabelled = "labelled" in needs
        if uses_rewards or allow_unlabelled:
            known, unknown = _drawable_rows(episodes, labelled, allow_unlabelled)
            index = np.concatenate([known, unknown], dtype=np.int32)
            labels = np.int32(known.size) if allow_unlabelled else None
        else:
            index = np.flatnonzero(episodes.drawable()).astype(np.int32)
            labels = None
        # --- rewards ---
        reward = blocks.through(normaliser.reward, episodes.reward)
        reward[~labelled] = 0
        if episodes.hidden is None:
            hidden_reward = np.full(len(flags), np.nan, np.float32)
        else:
            hidden_reward = blocks.through(normaliser.reward, episodes.hidden)
        # --- all columns ---
        rows = cls(
            obs=_on_device(normaliser.obs, episodes.obs),
            action=blocks.through(normaliser.action, episodes.action),
            reward=reward,
            t=episodes.t,
            flags=flags,
            index=index,
            extra={"hidden_reward": hidden_reward},
            labels=labels,
        )
        extra = columns.make(needs, rows)
        return jax.device_put(rows._replace(extra=extra))

    def only_labelled(self) -> Buffer:
        """The same rows, of which only those whose reward is known are drawn."""
        return self._replace(drawn=self.labels)

    # --- which rows ---

    def draw(self, key: Key, number: int, weight: Array | None = None) -> Array:
        """``number`` rows [number] that may be drawn, with replacement.

        weight: [M] not negative, of the rows in ``index``: a row is drawn in proportion to it, and never where it is 0.
        None: uniformly. A weighted draw adds up all weights each time: about 1 ms for a million rows.
        """
        if weight is None:
            number_in_index = jax.random.randint(key, (number,), 0, self.count)
            if self.place is not None:
                number_in_index = (self.place.first + number_in_index) % self._capacity
            return self.gather(self.index, number_in_index)
        weight = jnp.where(self.is_drawn, weight, 0.0)
        # rounding must not give a row of weight 0 a share of its own: it keeps the sum of the row before it
        sums = jnp.cumsum(weight)
        sums = jnp.where(weight > 0, sums, 0.0)
        sums = jax.lax.cummax(sums)
        total = sums[-1]
        below_total = jnp.nextafter(total, jnp.zeros_like(total))
        point = jax.random.uniform(key, (number,)) * total
        point = jnp.minimum(point, below_total)
        number_in_index = jnp.searchsorted(sums, point, side="right")
        return self.gather(self.index, number_in_index)

    @property
    def count(self) -> Array | int:
        """How many rows may be drawn."""
        if self.place is not None:
            return self.place.drawn
        if self.drawn is not None:
            return self.drawn
        return self.index.shape[0]

    @property
    def is_drawn(self) -> Array:
        """[M] bool: which of the rows in ``index`` may be drawn."""
        places = jnp.arange(self.index.shape[-1])
        if self.place is not None:
            places = (places - self.place.first) % self._capacity
        return places < self.count

    def left(self, rows: Array, most: int) -> Array:
        """[n] int32: how many steps follow each of ``rows`` in its episode, ``most`` at the most; by halving."""
        least = jnp.zeros_like(rows)  # steps that are known to follow
        exponent = max(most.bit_length() - 1, 0)
        span = 1 << exponent
        while span:
            further = least + span
            follows = (further <= most) & self._is_step(rows, further)
            least = jnp.where(follows, further, least)
            span //= 2
        return least

    # --- what the rows hold ---

    def gather(self, column: Array, rows: Array) -> Array:
        """``column`` at ``rows``, both of any shape. Rows beyond the last one read the last."""
        if self.place is not None and self.place.seed is not None:
            return column[self.place.seed, rows]
        return column[rows]

    def shifted(self, rows: Array, steps: Array | int) -> Array:
        """The rows that are ``steps`` further, both of any shape; of the same episode or not."""
        if self.place is None:
            return rows + steps
        return (rows + steps * self.place.lanes) % self._capacity

    @property
    def _capacity(self) -> int:
        """Rows of the ring."""
        return self.index.shape[-1]

    def take(self, rows: Array, gamma: float) -> Transitions:
        """The steps in ``rows`` [n] as a batch."""
        flags = self.gather(self.flags, rows)
        terminal = (flags & TERMINAL) > 0
        return Transitions(
            obs=self.gather(self.obs, rows),
            action=self.gather(self.action, rows),
            reward=self.gather(self.reward, rows),
            discount=jnp.where(terminal, 0.0, gamma),
            next_obs=self.gather(self.obs, self.shifted(rows, 1)),
            extra=self._extra(rows),
        )

    def around(self, rows: Array, before: int, after: int, gamma: float) -> Windows:
        """Each of ``rows`` [n], with ``before`` rows before it and ``after`` rows after it: T = before + 1 + after.

        Beyond the ends of the episode, actions and rewards repeat its first or last step and observations its first or
        final observation; the masks say so.
        """
        offset = jnp.arange(-before, after + 1)[None]  # [1, T]
        rows = rows[:, None]
        is_step = self._is_step(rows, offset)
        # a final observation that was not recorded is a copy of the one before: its step lacks HAS_NEXT
        row_before = jnp.maximum(self.shifted(rows, offset - 1), 0)
        flags_before = self.gather(self.flags, row_before)
        follows_step = (flags_before & HAS_NEXT) > 0
        is_seen = is_step | (self._is_same_episode(rows, offset) & follows_step)
        step_rows = self.shifted(rows, _clipped(offset, is_step))
        seen_rows = self.shifted(rows, _clipped(offset, is_seen))
        flags = self.gather(self.flags, step_rows)
        terminal = (flags & TERMINAL) > 0
        return Windows(
            obs=self.gather(self.obs, seen_rows),
            action=self.gather(self.action, step_rows),
            reward=self.gather(self.reward, step_rows),
            discount=jnp.where(terminal, 0.0, gamma),
            t=self.gather(self.t, seen_rows),
            mask=is_step,
            seen=is_seen,
            extra=self._extra(step_rows),
        )

    # --- batches ---

    def transitions(self, key: Key, batch_size: int, gamma: float) -> Transitions:
        """``batch_size`` steps drawn uniformly from ``index`` with replacement.

        Args:
            key: of jax.random. batch_size: B. gamma: discount per step, in [0, 1].

        Returns:
            Transitions of B steps, with the columns that the buffer was made with in ``extra``.

        Example:
            batch = buffer.transitions(jax.random.key(0), 256, gamma=0.99)
        """
        rows = self.draw(key, batch_size)
        return self.take(rows, gamma)

    def windows(self, key: Key, batch_size: int, before: int, after: int, gamma: float) -> Windows:
        """``batch_size`` windows around steps that are drawn uniformly from ``index`` with replacement.

        Args:
            key: of jax.random. batch_size: B. before, after: steps before and after the drawn one, which is number
            ``before`` of the T = before + 1 + after. gamma: discount per step.

        Returns:
            Windows of B times T steps.

        Example:
            batch = buffer.windows(jax.random.key(0), 64, before=0, after=19, gamma=1.0)  # a decision transformer's
        """
        rows = self.draw(key, batch_size)
        return self.around(rows, before, after, gamma)

    def _is_same_episode(self, rows: Array, offset: Array) -> Array:
        """Whether row + offset, which are broadcast, lies in the episode of row."""
        t = self.gather(self.t, rows) + offset
        other = self.shifted(rows, offset)
        if self.place is None:
            inside = (other >= 0) & (other < self.t.shape[0])
        else:
            inside = self._is_on_this_side(rows, offset)
        other = jnp.maximum(other, 0)
        other_t = self.gather(self.t, other)
        return inside & (t >= 0) & (other_t == t)

    def _is_on_this_side(self, rows: Array, offset: Array) -> Array:
        """Whether ``offset`` steps from a ring's row do not lead from its newest rows to its oldest.

        Their t alone may be that of one episode."""
        older = (rows - self.place.head) % self._capacity // self.place.lanes  # rows of the same lane
        in_a_lane = self._capacity // self.place.lanes
        return (offset >= -older) & (offset < in_a_lane - older)

    def _is_step(self, rows: Array, offset: Array) -> Array:
        """Whether row + offset, which are broadcast, is a step of the episode of row."""
        other = jnp.maximum(self.shifted(rows, offset), 0)
        flags = self.gather(self.flags, other)
        has_action = (flags & HAS_ACTION) > 0
        return self._is_same_episode(rows, offset) & has_action

    def _extra(self, rows: Array) -> dict[str, Array]:
        """The extra columns at ``rows``."""
        extra = {}
        for name, column in self.extra.items():
            if column is None:
                derive = columns.DERIVED[name]
                # The barrier keeps it apart from what the learner makes of it: XLA then compiles the learner's own
                # operations as it does for a stored column, and they give the same bits.
                extra[name] = jax.lax.optimization_barrier(derive(self, rows))
            else:
                extra[name] = self.gather(column, rows)
        return extra


def _drawable_rows(episodes: Episodes, labelled: np.ndarray, allow_unlabelled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows that may be drawn, those whose reward is known and the others. Raises InputError if there are none of the
    first, or some of the others without ``allow_unlabelled``."""
    drawable = episodes.drawable()
    known = np.flatnonzero(drawable & labelled)
    unknown = np.flatnonzero(drawable & ~labelled)
    if not known.size and not allow_unlabelled:
        raise InputError(
            f"{episodes.name}: no step has a known reward, and this agent learns from rewards: choose one that clones "
            "the data without them, or give the rewards"
        )
    if unknown.size and not allow_unlabelled:
        raise InputError(
            f"{episodes.name}: {unknown.size:,} of {drawable.sum():,} steps have no reward label, and this agent "
            "needs one at every step: choose one that learns from unlabelled steps too"
        )
    if not known.size:
        raise InputError(f"{episodes.name}: no step that can be drawn has a reward label; label some")
    return known, unknown


def _clipped(offset: Array, valid: Array) -> Array:
    """``offset`` [1, T], moved to the nearest that is ``valid`` [n, T]. Valid ones are neighbours. 0 where none is."""
    largest = jnp.abs(offset).max()
    far = offset.shape[1] + largest
    first = jnp.where(valid, offset, far)
    first = first.min(1, keepdims=True)
    last = jnp.where(valid, offset, -far)
    last = last.max(1, keepdims=True)
    has_valid = valid.any(1, keepdims=True)
    clipped = jnp.clip(offset, first, last)
    return jnp.where(has_valid, clipped, 0)


def stats(buffer: Buffer) -> Stats:
    """Moments over the drawable rows, summed in float64 on the host, and the range of the observations."""
    mask = np.zeros(len(buffer.flags), bool)
    drawable = np.asarray(buffer.index)
    mask[drawable] = True

    def moments(column):
        if column.ndim == 1:  # a discrete action has no moments
            empty = np.zeros(0, np.float32)
            return empty, empty
        mean, std = blocks.moments(np.asarray(column), mask)
        return mean.astype(np.float32), std.astype(np.float32)

    obs_mean, obs_std = moments(buffer.obs)
    action_mean, action_std = moments(buffer.action)
    starts = np.flatnonzero(np.asarray(buffer.t) == 0)
    returns = np.add.reduceat(np.asarray(buffer.reward, np.float64), starts)
    extremes = np.array([returns.min(), returns.mean(), returns.max()], np.float32)
    obs = np.asarray(buffer.obs)
    return Stats(obs_mean, obs_std, action_mean, action_std, extremes, obs.min(0), obs.max(0))


def _on_device(transform: Callable[[np.ndarray], np.ndarray], column: np.ndarray) -> Array:
    """``transform`` of every row of ``column`` [N, W], as float32 on the default device, filled block by block."""
    rows, width = column.shape
    size = max(blocks.NUMBERS // width, 1)
    size = min(size, rows)
    filled = jnp.zeros((rows, width), jnp.float32)
    for start in range(0, rows, size):
        start = min(start, rows - size)  # the last block begins earlier, so that all have one size
        block = transform(column[start : start + size])
        filled = _fill(filled, block, np.int32(start))
        blocks.forget(column)
    return filled


@functools.partial(jax.jit, donate_argnums=0)
def _fill(filled: Array, block: Array, start: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(filled, block, start, 0)


def needs(stages: Sequence[Stage]) -> list[str | Column]:
    """The columns that the learners of ``stages`` need."""

    def name(need: str | Column) -> str:
        return need.name if isinstance(need, Column) else need

    needed = set()
    for stage in stages:
        needed.update(stage.learner.needs)
    return sorted(needed, key=name)


def uses_rewards(stages: Sequence[Stage]) -> bool:
    """Whether a learner of ``stages`` uses rewards: all do but those whose property ``uses_rewards`` is False and that
    need no column that is made from rewards."""
    for stage in stages:
        if getattr(stage.learner, "uses_rewards", True):
            return True
        for need in stage.learner.needs:
            column = columns.stored(need)
            if column is not None and column.uses_rewards:
                return True
    return False


def abstract(spec: Spec, rows: int, drawable: int, needs: Sequence[str | Column]) -> Buffer:
    """Shapes and dtypes of the Buffer of ``rows`` rows, of which ``drawable`` may be drawn."""
    # --- a buffer of two rows, with all columns ---
    if isinstance(spec.action, Box):
        action = np.zeros((2, *spec.action.shape), np.float32)
    else:
        action = np.zeros(2, np.int32)
    reward = np.zeros(2, np.float32)
    tiny = Buffer(
        obs=np.zeros((2, *spec.observation.shape), np.float32),
        action=action,
        reward=reward,
        t=np.arange(2, dtype=np.int32),
        flags=np.array([HAS_ACTION | HAS_NEXT | LABELLED, 0], np.uint8),
        index=np.zeros(1, np.int32),
        extra={"hidden_reward": reward},
    )
    tiny = tiny._replace(extra=columns.make(needs, tiny))

    # --- its shapes, with the wanted number of rows ---
    def shape(column):
        return jax.ShapeDtypeStruct((rows, *column.shape[1:]), column.dtype)

    shapes = jax.tree.map(shape, tiny)
    index = jax.ShapeDtypeStruct((drawable,), np.int32)
    labels = None
    if "labelled" in needs:
        labels = jax.ShapeDtypeStruct((), np.int32)
    return shapes._replace(index=index, labels=labels)
