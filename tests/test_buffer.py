"""The buffer: rows, sampling, what a batch contains, how much memory it takes."""

import jax
import numpy as np
import pytest
from conftest import random_episodes

from rlkit.buffer import Buffer, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes
from rlkit.types import InputError


def build(episodes, needs=(), **options):
    data = from_episodes(episodes)
    return data, Buffer.from_episodes(data, Normaliser.fit(data, DataOptions(dataset="test", **options)), needs)


def numbered(lengths, terminal):
    """Observation [e, t], action e/10, reward t: every value says where it came from."""
    return [
        {
            "observations": np.stack([np.full(n + 1, e), np.arange(n + 1)], -1).astype(np.float32),
            "actions": np.full((n, 1), e / 10, np.float32),
            "rewards": np.arange(n, dtype=np.float32),
            "terminations": np.arange(n) == (n - 1 if terminal[e] else n),
        }
        for e, n in enumerate(lengths)
    ]


def test_nothing_leaks_across_episodes_and_only_terminals_cut_the_discount():
    _, buffer = build(numbered([3, 1, 4], [True, False, False]))
    batch = buffer.transitions(jax.random.key(0), 512, 0.9)
    obs, next_obs = np.asarray(batch.obs), np.asarray(batch.next_obs)
    np.testing.assert_array_equal(next_obs, obs + np.array([[0, 1]]))  # same episode, one step on
    np.testing.assert_allclose(batch.action[:, 0], obs[:, 0] / 10)
    np.testing.assert_array_equal(batch.reward, obs[:, 1])
    last_of_first = (obs[:, 0] == 0) & (obs[:, 1] == 2)
    assert last_of_first.any() and (obs[:, 0] == 1).any()
    np.testing.assert_allclose(batch.discount, np.where(last_of_first, 0, 0.9), rtol=1e-6)


def test_rows_are_drawn_uniformly():
    _, buffer = build(numbered([5, 1, 2], [False, False, True]))
    batch = buffer.transitions(jax.random.key(1), 8000, 1.0)
    _, counts = np.unique(np.asarray(batch.obs), axis=0, return_counts=True)
    assert len(counts) == 8  # every step, no final observation
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 24.3  # the 99.9 % quantile for 7 degrees of freedom


def test_a_step_without_a_recorded_successor_is_never_drawn_unless_terminal():
    data = from_episodes(numbered([3, 3], [True, False]))
    flags = data.flags.copy()
    flags[[2, 6]] &= ~np.uint8(2)  # both last steps lose HAS_NEXT; the first of them is terminal
    data = type(data)(**{**vars(data), "flags": flags})
    buffer = Buffer.from_episodes(data, Normaliser.fit(data, DataOptions(dataset="test")))
    assert np.asarray(buffer.index).tolist() == [0, 1, 2, 4, 5]


def test_return_to_go_stops_at_the_end_of_the_episode():
    data, buffer = build(numbered([3, 1, 4], [True, False, False]), needs=("return_to_go",))
    steps = np.asarray(data.flags & 1, bool)
    assert np.asarray(buffer.extra["return_to_go"])[steps].tolist() == [3, 3, 2, 0, 6, 6, 5, 3]
    batch = buffer.transitions(jax.random.key(0), 64, 1.0)
    assert set(batch.extra) == {"return_to_go"}
    for unknown in ("surprise", "surprise@0.9"):
        with pytest.raises(InputError, match=unknown):
            build(numbered([3], [True]), needs=(unknown,))


def test_return_to_go_is_discounted_and_bootstraps_nothing_at_a_time_limit():
    data, buffer = build(numbered([3, 1, 4], [True, False, False]), needs=("return_to_go@0.5", "return_to_go"))
    steps = np.asarray(data.flags & 1, bool)
    expected = [0 + 0.5 + 0.5, 1 + 1, 2, 0, 0 + 0.5 + 0.5 + 3 / 8, 1 + 1 + 3 / 4, 2 + 1.5, 3]
    assert np.asarray(buffer.extra["return_to_go@0.5"])[steps].tolist() == expected
    assert np.asarray(buffer.extra["return_to_go"])[steps].tolist() == [3, 3, 2, 0, 6, 6, 5, 3]
    _, scaled = build(numbered([3], [True]), needs=("return_to_go@0.5",), reward_scale=10.0, reward_shift=-5.0)
    assert np.asarray(scaled.extra["return_to_go@0.5"])[:3].tolist() == [-5 + 2.5 + 3.75, 5 + 7.5, 15]


def test_memory_is_at_most_a_tenth_more_than_the_bare_columns():
    episodes = [
        {
            "observations": np.zeros((1001, 11), np.float32),
            "actions": np.zeros((1000, 3), np.float32),
            "rewards": np.zeros(1000, np.float32),
        }
        for _ in range(10)
    ]
    _, buffer = build(episodes)
    used = sum(x.nbytes for x in jax.tree.leaves(buffer))
    assert used <= 1.1 * 10_000 * 4 * (11 + 3 + 1 + 2)


def test_moments_are_those_of_the_drawable_rows(discrete):
    episodes = random_episodes(discrete=discrete)
    _, buffer = build(episodes)
    moments = stats(buffer)
    obs = np.concatenate([e["observations"][:-1] for e in episodes]).astype(np.float64)
    np.testing.assert_allclose(moments.obs_mean, obs.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moments.obs_std, obs.std(0), rtol=1e-5)
    assert moments.action_mean.shape == ((0,) if discrete else (2,))
