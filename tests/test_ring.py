"""The ring against a Python list that holds the same rows, at every insert."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkit import ring
from rlkit.buffer import Buffer
from rlkit.datasets.episodes import HAS_ACTION, TERMINAL
from rlkit.ring import FINAL, STEP, TERMINAL_STEP, Rows
from rlkit.types import Box, Discrete, InputError, Spec

SPEC = Spec(Box((1,), (-np.inf,), (np.inf,)), Discrete(1000), 100)
CAPACITY = 20
BEFORE, AFTER = 2, 3


class Written:
    """Every row that was ever written, in order, with the number of its lane and of its episode."""

    def __init__(self, lanes, lengths):
        self.lanes = lanes
        self.rows = []
        self._lengths = lengths
        self._left = [next(lengths) for _ in range(lanes)]
        self._t = [0] * lanes
        self._episode = list(range(lanes))

    def tick(self):
        """One row of each lane: [(t, flags, lane, episode)]."""
        new = []
        for lane in range(self.lanes):
            t = self._t[lane]
            is_final = t == self._left[lane]
            is_terminal = t + 1 == self._left[lane] and self._episode[lane] % 2
            flags = FINAL if is_final else TERMINAL_STEP if is_terminal else STEP
            new.append((t, flags, lane, self._episode[lane]))
            self._t[lane] = 0 if is_final else t + 1
            if is_final:
                self._left[lane] = next(self._lengths)
                self._episode[lane] += self.lanes
        self.rows += new
        return new

    def kept(self):
        """Number of a row since the beginning -> the row, for those that the ring still holds."""
        first = max(len(self.rows) - CAPACITY, 0)
        return {number: self.rows[number] for number in range(first, len(self.rows))}

    def drawable(self):
        kept = self.kept()
        return [number for number, row in kept.items() if row[1] & HAS_ACTION and number + self.lanes < len(self.rows)]

    def window(self, number):
        """[(number of the row, or None)] of the places around row ``number``, as steps and as observations."""
        kept = self.kept()
        episode = kept[number][3]
        steps, seen = [], []
        for offset in range(-BEFORE, AFTER + 1):
            place = number + offset * self.lanes
            row = kept.get(place)
            is_same = row is not None and row[3] == episode
            steps.append(place if is_same and row[1] & HAS_ACTION else None)
            seen.append(place if is_same and (row[1] & HAS_ACTION or place - self.lanes in kept) else None)
        return steps, seen


def rows_of(new, first):
    """The rows as [1, K]: the observation and the action of each are its number since the beginning."""
    numbers = np.arange(first, first + len(new))
    return Rows(
        obs=numbers[None, :, None].astype(np.float32),
        action=numbers[None].astype(np.int32),
        reward=numbers[None].astype(np.float32),
        t=np.array([[row[0] for row in new]], np.int32),
        flags=np.array([[row[1] for row in new]], np.uint8),
        extra={},
    )


@jax.jit
def windows_of(replay, rows):
    one = ring.of_seed(replay, jnp.int32(0))
    return one.around(rows, BEFORE, AFTER, 1.0), one.take(rows, 0.9)


def listed(replay):
    """Rows in the queue of a ring of one seed, the oldest first."""
    place = replay.place
    numbers = (np.arange(int(place.drawn[0])) + int(place.first[0])) % CAPACITY
    return np.asarray(replay.index)[0, numbers]


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("lengths", ["four", "random"])
def test_the_ring_holds_what_a_list_does_at_every_tick(lanes, lengths):
    """Episodes of four steps, five rows, divide the capacity: then the oldest row's t always follows the newest's."""
    rng = np.random.default_rng(0)
    written = Written(lanes, iter(lambda: 4 if lengths == "four" else int(rng.integers(1, 9)), None))
    replay = jax.device_put(ring.empty(SPEC, ["has_next_action", "next_action"], 1, CAPACITY, lanes))
    for _ in range(90 // lanes):
        first = len(written.rows)
        new = written.tick()
        replay = ring.insert(replay, rows_of(new, first), np.array([lanes], np.int32))
        expected = written.drawable()
        assert [number % CAPACITY for number in expected] == listed(replay).tolist()
        assert int(replay.place.head[0]) == len(written.rows) % CAPACITY
        if not expected:
            continue
        rows = np.resize(np.array(expected, np.int32) % CAPACITY, CAPACITY)
        window, batch = jax.device_get(windows_of(replay, rows))
        for place, number in enumerate(expected):
            steps, seen = written.window(number)
            assert window.mask[place].tolist() == [step is not None for step in steps]
            assert window.seen[place].tolist() == [step is not None for step in seen]
            for offset, step in enumerate(steps):
                if step is not None:
                    assert window.action[place, offset] == step
            for offset, step in enumerate(seen):
                if step is not None:
                    assert window.obs[place, offset, 0] == step
            assert batch.obs[place, 0] == number and batch.next_obs[place, 0] == number + lanes
            is_terminal = (written.rows[number][1] & TERMINAL) > 0
            assert batch.discount[place] == np.float32(0 if is_terminal else 0.9)
            follows = written.rows[number + lanes][1] & HAS_ACTION > 0
            assert batch.extra["has_next_action"][place] == follows
            assert batch.extra["next_action"][place] == (number + lanes if follows else 0)


def filled(ticks=37, lanes=1):
    """(a ring that has gone round, the list)."""
    written = Written(lanes, iter(lambda: 4, None))
    replay = jax.device_put(ring.empty(SPEC, [], 1, CAPACITY, lanes))
    for _ in range(ticks):
        first = len(written.rows)
        replay = ring.insert(replay, rows_of(written.tick(), first), np.array([lanes], np.int32))
    return replay, written


def test_draws_are_uniform_over_what_can_be_drawn_after_going_round():
    replay, written = filled()
    expected = written.drawable()
    draws = 20_000
    rows = ring.of_seed(replay, jnp.int32(0)).draw(jax.random.key(0), draws)
    counts = np.bincount(np.asarray(rows), minlength=CAPACITY)
    share = counts[np.array(expected) % CAPACITY]
    assert share.sum() == draws
    squares = ((share - draws / len(expected)) ** 2).sum() * len(expected) / draws
    assert squares < 45  # of chi squared with 14 degrees of freedom, once in twenty thousand


def test_a_weighted_draw_follows_the_weights():
    replay, written = filled()
    one = ring.of_seed(replay, jnp.int32(0))
    wanted = written.drawable()[3]
    weight = (one.gather(one.index, jnp.arange(CAPACITY)) == wanted % CAPACITY).astype(jnp.float32)
    rows = one.draw(jax.random.key(0), 50, weight)
    assert set(np.asarray(rows).tolist()) == {wanted % CAPACITY}


def test_rings_of_several_seeds_are_each_as_if_alone_and_one_may_wait():
    alone, _ = filled(ticks=7)
    written = Written(1, iter(lambda: 4, None))
    both = jax.device_put(ring.empty(SPEC, [], 2, CAPACITY, 1))
    for _ in range(7):
        first = len(written.rows)
        rows = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), rows_of(written.tick(), first))
        both = ring.insert(both, rows, np.array([1, first < 3], np.int32))
    flat = functools.partial(jax.tree.map, lambda leaf: np.asarray(leaf)[:1])
    jax.tree.map(np.testing.assert_array_equal, flat(both), flat(alone))
    second = ring.of_seed(both, jnp.int32(1))
    assert int(second.count) == 2
    rows = second.draw(jax.random.key(1), 30)
    assert set(np.asarray(second.take(rows, 1.0).obs)[:, 0].tolist()) == {0.0, 1.0}


def test_an_insert_writes_in_place_and_compiles_once():
    replay = jax.device_put(ring.empty(SPEC, [], 1, 1000, 1))
    written = Written(1, iter(lambda: 4, None))
    ring.insert.clear_cache()
    places = set()
    for _ in range(3):
        first = len(written.rows)
        replay = ring.insert(replay, rows_of(written.tick(), first), np.array([1], np.int32))
        places.add(replay.obs.unsafe_buffer_pointer())
    assert len(places) == 1
    assert ring.insert._cache_size() == 1


@pytest.mark.parametrize("column", ["row", "held_out", "hidden_reward"])
def test_a_column_of_the_data_alone_is_refused_in_one_line(column):
    with pytest.raises(InputError, match=f"'{column}' is of the data alone"):
        ring.empty(SPEC, [column], 1, CAPACITY, 1)


def test_columns_that_follow_from_an_episode_are_kept():
    replay = ring.empty(SPEC, ["return_to_go@0.5", "episode_return", "labelled"], 2, CAPACITY, 1)
    shapes = {name: None if column is None else column.shape for name, column in replay.extra.items()}
    assert shapes == {"return_to_go@0.5": (2, CAPACITY), "episode_return": (2, CAPACITY), "labelled": None}


def test_the_data_read_as_before():
    """A Buffer without a place: a shift is a sum, and nothing goes round."""
    one = ring.one_episode(np.zeros((3, 1), np.float32), np.arange(2), np.ones(2, np.float32), is_terminal=True)
    assert isinstance(one, Buffer) and one.place is None
    assert one.shifted(np.array([1, 2]), 1).tolist() == [2, 3]
    assert one.count == 2
