"""The buffer: rows, sampling, what a batch contains, how much memory it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkit.buffer import Buffer, needs, stats
from rlkit.columns import Column
from rlkit.datasets import ActionOptions, DataOptions, Normaliser, from_episodes
from rlkit.testing import random_episodes
from rlkit.types import InputError


def build(episodes, needs=(), **options):
    is_discrete = episodes[0]["actions"].dtype.kind == "i"
    told = ActionOptions("discrete") if is_discrete else ActionOptions(low=(-1.0,), high=(1.0,))
    data = from_episodes(episodes, action=told)
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


def test_the_next_action_is_the_same_episodes_or_none():
    episodes = numbered([3, 1, 4], [True, False, False])
    for e, episode in enumerate(episodes):  # action [e, t] / 10
        episode["actions"] = np.stack([np.full(len(episode["rewards"]), e), episode["rewards"]], -1) / np.float32(10)
    _, buffer = build(episodes, needs=("next_action", "has_next_action"))
    batch = buffer.transitions(jax.random.key(0), 256, 0.9)
    there = np.asarray(batch.extra["has_next_action"])
    last = np.asarray(batch.obs[:, 1]) == np.array([2, 0, 3])[np.asarray(batch.obs[:, 0], int)]
    np.testing.assert_array_equal(there, ~last)  # terminal or cut, there is none
    wanted = np.asarray(batch.action) + np.array([[0, 0.1]], np.float32)
    np.testing.assert_allclose(batch.extra["next_action"], np.where(last[:, None], 0, wanted), rtol=1e-6)


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


def listed_windows(episodes, before, after):
    """What windows must be, by lists: for each step its (observations, actions, mask, seen)."""
    for e, episode in enumerate(episodes):
        steps = len(episode["rewards"])
        for t in range(steps):
            times = range(t - before, t + after + 1)
            obs = [[e, min(max(time, 0), steps)] for time in times]
            reward = [min(max(time, 0), steps - 1) for time in times]
            yield e, t, obs, reward, [0 <= time < steps for time in times], [0 <= time <= steps for time in times]


@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 3), (2, 0), (3, 6)])
def test_windows_repeat_the_edges_of_their_episode_and_say_so(before, after):
    episodes = numbered([3, 1, 4], [True, False, False])
    data, buffer = build(episodes, needs=("return_to_go", "has_next_action"))
    drawn = buffer.around(buffer.index, before, after, 0.9)
    expected = list(listed_windows(episodes, before, after))
    assert len(expected) == len(buffer.index)
    for row, (e, _, obs, reward, mask, seen) in enumerate(expected):
        assert drawn.obs[row].tolist() == obs
        assert drawn.reward[row].tolist() == reward
        assert drawn.mask[row].tolist() == mask
        assert drawn.seen[row].tolist() == seen
        assert drawn.t[row].tolist() == [time for _, time in obs]
        np.testing.assert_allclose(drawn.action[row, :, 0], np.full(len(obs), e / 10), rtol=1e-6)
        last = np.array(reward) == len(episodes[e]["rewards"]) - 1
        np.testing.assert_allclose(drawn.discount[row], np.where(last & (e == 0), 0, 0.9), rtol=1e-6)
        to_go = np.cumsum(episodes[e]["rewards"][::-1])[::-1]
        assert drawn.extra["return_to_go"][row].tolist() == to_go[reward].tolist()
        assert drawn.extra["has_next_action"][row].tolist() == (~last).tolist()


def test_a_final_observation_that_was_not_recorded_is_not_seen():
    data = from_episodes(numbered([3, 2], [False, False]))
    flags = data.flags.copy()
    flags[2] &= ~np.uint8(2)
    data = type(data)(**{**vars(data), "flags": flags})
    buffer = Buffer.from_episodes(data, Normaliser.fit(data, DataOptions(dataset="test")))
    drawn = buffer.around(jnp.array([0, 4]), 0, 3, 1.0)
    assert drawn.seen.tolist() == [[True, True, True, False], [True, True, True, False]]
    assert drawn.mask.tolist() == [[True, True, True, False], [True, True, False, False]]
    assert drawn.obs[0, 3].tolist() == [0, 2] and drawn.obs[1, 3].tolist() == [1, 2]


def test_a_window_with_no_neighbours_is_a_transition():
    _, buffer = build(numbered([3, 1, 4], [True, False, False]))
    alone, batch = buffer.windows(jax.random.key(5), 32, 0, 0, 0.9), buffer.transitions(jax.random.key(5), 32, 0.9)
    for name in ("obs", "action", "reward", "discount"):
        np.testing.assert_array_equal(getattr(alone, name)[:, 0], getattr(batch, name))


@pytest.mark.parametrize("most", [0, 1, 2, 3, 4, 7, 100])
def test_left_counts_the_steps_that_follow_in_the_episode(most):
    _, buffer = build(numbered([3, 1, 9], [True, False, False]))
    expected = [min(n - 1 - t, most) for n in (3, 1, 9) for t in range(n)]
    assert buffer.left(buffer.index, most).tolist() == expected


def test_a_weighted_draw_follows_the_weights_and_never_takes_a_row_of_weight_zero():
    _, buffer = build(numbered([5, 1, 2], [False, False, True]))
    weight = jnp.array([0.0, 1.0, 0.0, 2.0, 0.0, 5.0, 0.0, 0.0])
    rows = np.asarray(buffer.draw(jax.random.key(0), 8000, weight))
    allowed = np.asarray(buffer.index)[[1, 3, 5]]
    counts = np.array([(rows == row).sum() for row in allowed])
    assert counts.sum() == 8000
    assert ((counts - [1000, 2000, 5000]) ** 2 / [1000, 2000, 5000]).sum() < 13.8  # 99.9 %, 2 degrees of freedom


def test_rounding_gives_no_share_to_a_row_of_weight_zero():
    """Sums of many unequal numbers are rounded; the rows of weight 0 between them must not come to be drawn."""
    episodes = [dict(episode, rewards=episode["rewards"]) for episode in numbered([4000], [False])]
    _, buffer = build(episodes)
    weight = jax.random.uniform(jax.random.key(0), (4000,)) * jnp.where(jnp.arange(4000) % 2, 1e4, 0.0)
    rows = np.asarray(buffer.draw(jax.random.key(1), 200_000, weight))
    assert (rows % 2 == 1).all()
    below = np.asarray(weight)[rows]
    assert below.min() > 0


def best_half(buffer):
    starts = np.flatnonzero(np.asarray(buffer.t) == 0)
    returns = np.add.reduceat(np.asarray(buffer.reward), starts)
    return np.repeat(returns >= np.median(returns), np.diff(starts, append=len(buffer.flags))).astype(np.float32)


def test_a_learner_may_bring_a_column_of_its_own_and_draw_by_it():
    own = Column("best_half", best_half)
    data, buffer = build(numbered([3, 1, 4], [True, False, False]), needs=(own, "episode_return", "episode_length"))
    drawn = buffer.draw(jax.random.key(0), 500, buffer.extra["best_half"][buffer.index])
    batch = buffer.take(drawn, 1.0)
    assert set(np.asarray(batch.obs)[:, 0]) == {0, 2}  # returns 3, 0 and 6: the median is 3
    assert set(np.asarray(batch.extra["episode_return"])) == {3, 6}
    assert set(np.asarray(batch.extra["episode_length"])) == {3, 4}


def test_derived_columns_are_stored_nowhere():
    _, buffer = build(numbered([3], [True]), needs=("next_action", "has_next_action"))
    assert buffer.extra == {"next_action": None, "has_next_action": None}
    assert set(buffer.transitions(jax.random.key(0), 4, 1.0).extra) == {"next_action", "has_next_action"}
    assert needs([]) == []
