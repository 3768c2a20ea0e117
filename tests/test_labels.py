"""Reward labels: where they are read from, what is refused, and which are hidden."""

import dataclasses

import h5py
import jax
import numpy as np
import pytest

from rlkit import buffer as buffers
from rlkit.buffer import Buffer
from rlkit.datasets import DataOptions, Normaliser, from_episodes, labels, load, spec
from rlkit.datasets.episodes import HAS_ACTION, LABELLED
from rlkit.types import InputError

EVERY = ("hidden_reward", "held_out", "labelled", "row")


def episodes(rewards, labelled=None):
    """One episode of each list of rewards; the observation is (episode, steps since reset)."""
    found = []
    for number, row in enumerate(rewards):
        steps = len(row)
        episode = {
            "observations": np.stack([np.full(steps + 1, number), np.arange(steps + 1)], 1).astype(np.float32),
            "actions": np.zeros((steps, 1), np.float32),
            "rewards": row,
        }
        found.append(episode if labelled is None else episode | {"labelled": labelled[number]})
    return found


def ten(length=2):
    """Ten episodes; the returns of the odd ones are the higher half, and grow."""
    return from_episodes(episodes([[float(i + 100 * (i % 2))] * length for i in range(10)]), name="ten")


def kept(data):
    """Numbers of the episodes that keep their rewards."""
    flags = np.asarray(data.flags)
    return np.unique(data.obs[(flags & LABELLED) > 0, 0]).astype(int).tolist()


def hide(data, share, way="random", seed=0):
    return labels.hide(data, DataOptions("none", label_share=share, label_from=way, label_seed=seed))


def test_an_unlabelled_reward_may_be_nan_and_is_stored_as_zero_and_a_labelled_one_may_not():
    rewards, labelled = [[1.0, np.nan], [np.nan, 4.0]], [[True, False], [False, True]]
    data = from_episodes(episodes(rewards, labelled), name="toy")
    assert data.reward.tolist() == [1, 0, 0, 0, 4, 0]
    assert (np.asarray(data.flags) & LABELLED).tolist() == [8, 0, 0, 0, 8, 0]
    assert "2 steps have no reward label" in " ".join(data.report.notes)
    with pytest.raises(InputError, match="toy: episode 1, index 0, rewards: .*nan"):
        from_episodes(episodes(rewards, [[True, False], [True, True]]), name="toy")
    none = from_episodes(episodes(rewards, [[False] * 2] * 2), name="toy")
    assert not none.reward.any() and not none.returns().size
    with pytest.raises(InputError, match="toy: no step has a known reward, and this agent learns from rewards"):
        Buffer.from_episodes(none, Normaliser.fit(none, DataOptions("none")))
    with pytest.raises(InputError, match="episode 0, labelled: 1 rows"):
        from_episodes(episodes(rewards, [[True], [True, True]]), name="toy")


def test_what_an_unlabelled_reward_says_makes_no_difference():
    labelled = [[True, False], [False, True]]
    one, other = (from_episodes(episodes([[1.0, x], [-x, 4.0]], labelled)) for x in (7.0, 1e30))
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("kind", ["csv", "hdf5"])
def test_files_name_their_labels(tmp_path, kind):
    path = tmp_path / f"data.{kind}"
    if kind == "csv":
        lines = ["a,0,0,0,1.5,0,true", "a,1,1,0,,0,false", "a,2,2,0,nan,0,0", "a,3,3,,,,", "b,0,4,0,2,1,1"]
        path.write_text("episode,step,observation,action,reward,terminated,labelled\n" + "\n".join(lines))
    else:
        with h5py.File(path, "w") as root:
            root["observations"], root["actions"] = np.arange(4.0)[:, None], np.zeros((4, 1))
            root["rewards"], root["labelled"] = [1.5, np.nan, np.nan, 2], [1, 0, 0, 1]
            root["terminals"], root["timeouts"] = [0, 0, 0, 1], [0, 0, 1, 0]
    data = load(DataOptions(str(path), cache_dir=tmp_path / "cache"))
    flags = np.asarray(data.flags)
    step = (flags & HAS_ACTION) > 0
    assert ((flags & LABELLED) > 0)[step].tolist() == [True, False, False, True]
    assert data.reward[step].tolist() == [1.5, 0, 0, 2]
    again = load(DataOptions(str(path), cache_dir=tmp_path / "cache"))  # from the cache
    np.testing.assert_array_equal(again.flags, flags)


def test_a_table_needs_the_reward_of_a_labelled_step(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("episode,step,observation,action,reward,terminated,labelled\na,0,0,0.5,,0,1\na,1,1,0.5,1,0,1\n")
    with pytest.raises(InputError, match="line 2: reward is missing and action is not"):
        load(DataOptions(str(path), cache_dir=tmp_path / "cache"))


def test_whole_episodes_keep_their_labels_as_many_as_asked_for():
    data = ten()
    assert kept(hide(data, 1.0)) == list(range(10))
    assert kept(hide(data, 0.3, "early")) == [0, 1, 2]
    assert kept(hide(data, 0.01, "early")) == [0], "at least one"
    assert kept(hide(data, 0.5, "top-half")) == [1, 3, 5, 7, 9]
    some = kept(hide(data, 0.2, "top-half"))
    assert len(some) == 2 and set(some) <= {1, 3, 5, 7, 9}
    draws = {tuple(kept(hide(data, 0.3, seed=seed))) for seed in range(20)}
    assert len(draws) > 5 and {len(draw) for draw in draws} == {3}
    assert kept(hide(data, 0.3, seed=4)) == kept(hide(data, 0.3, seed=4))


def test_what_is_hidden_is_set_aside_and_still_counts_for_the_returns_of_the_data():
    data = ten()
    less = hide(data, 0.3, "early")
    assert less.reward[:9].tolist() == data.reward[:9].tolist() and not less.reward[9:].any()
    assert np.isnan(less.hidden[:9]).all() and less.hidden[9:12].tolist()[:2] == [103, 103]
    assert np.isnan(less.hidden[11]), "a final observation has no reward"
    assert less.returns().tolist() == data.returns().tolist()
    assert dataclasses.replace(less, hidden=None).returns().tolist() == data.returns().tolist()[:3]
    assert "3 of 10 episodes keep their rewards" in less.report.notes[-1]


def test_episodes_of_which_a_reward_is_unknown_have_no_return_and_cannot_be_hidden_again():
    data = from_episodes(episodes([[1.0, 2.0], [3.0, 4.0]], [[True, True], [True, False]]))
    assert data.returns().tolist() == [3]
    assert kept(hide(data, 0.5)) == [0, 1] and hide(data, 0.5).returns().tolist() == [3]
    with pytest.raises(InputError, match="no episode is labelled throughout"):
        hide(from_episodes(episodes([[1.0, 2.0]], [[True, False]])), 0.5)


def test_the_better_half_cannot_keep_more_than_a_half():
    with pytest.raises(InputError, match="at most 0.5"):
        hide(ten(), 0.6, "top-half")


@pytest.mark.parametrize("way", ["standard", "return-range"])
def test_transforms_of_the_reward_see_labelled_rewards_alone(way):
    base = [[1.0, 2.0], [5.0, 3.0], [0.0, 0.0], [9.0, 9.0]]
    changed = [*base[:2], [7.0, -7.0], [100.0, 0.0]]
    options = DataOptions("none", reward=way, label_share=0.5, label_from="early")
    fitted = [Normaliser.fit(labels.hide(from_episodes(episodes(rows)), options), options) for rows in (base, changed)]
    for one, other in zip(*fitted, strict=True):
        np.testing.assert_array_equal(one, other)
    if way == "standard":
        assert fitted[0].reward_mean == np.float32(2.75)
    else:
        assert fitted[0].reward_scale == np.float32(1000 / 5)


def test_an_agent_that_reads_no_labels_is_refused_unlabelled_steps():
    data = hide(ten(), 0.3, "early")
    normaliser = Normaliser.fit(data, DataOptions("none"))
    with pytest.raises(InputError, match="ten: 14 of 20 steps have no reward label, .*choose one") as refusal:
        Buffer.from_episodes(data, normaliser)
    assert "\n" not in str(refusal.value)
    rows = Buffer.from_episodes(data, normaliser, EVERY)
    assert rows.labels == 6 and rows.index[:6].tolist() == [0, 1, 3, 4, 6, 7]
    assert sorted(rows.index.tolist()) == [i for i in range(30) if i % 3 < 2]
    assert not np.asarray(rows.reward)[9:].any()
    assert rows.extra["hidden_reward"][9] == 103 and np.isnan(rows.extra["hidden_reward"][0])
    assert rows.extra["row"].tolist() == list(range(30))
    seen = rows.only_labelled().transitions(jax.random.key(0), 2000, 0.9).obs[:, 0]
    assert np.bincount(np.asarray(seen, int)).tolist() == pytest.approx([667, 667, 667], abs=100)
    assert set(np.asarray(rows.transitions(jax.random.key(0), 2000, 0.9).obs[:, 0], int)) == set(range(10))


def test_with_every_row_labelled_the_same_batches_are_drawn():
    data = ten()
    normaliser = Normaliser.fit(data, DataOptions("none"))
    plain, rows = (Buffer.from_episodes(data, normaliser, names) for names in ((), EVERY))
    for buffer in (rows, rows.only_labelled()):
        batch, same = (b.transitions(jax.random.key(1), 64, 0.9)._replace(extra={}) for b in (plain, buffer))
        jax.tree.map(np.testing.assert_array_equal, batch, same)


@pytest.mark.parametrize(("number", "held"), [(1, []), (3, [2]), (5, [4]), (10, [4, 9])])
def test_every_fifth_labelled_episode_is_held_out(number, held):
    data = hide(ten(), number / 10, "early")
    rows = Buffer.from_episodes(data, Normaliser.fit(data, DataOptions("none")), EVERY)
    found = np.asarray(rows.extra["held_out"])
    assert np.unique(data.obs[found, 0]).astype(int).tolist() == held
    assert found.sum() == 2 * len(held), "steps, not final observations"


@pytest.mark.parametrize("names", [(), (*EVERY, "return_to_go@0.9", "next_action")])
def test_the_abstract_buffer_has_the_shapes_of_the_real_one(discrete, names):
    data = ten() if not discrete else from_episodes([e | {"actions": [0, 1]} for e in episodes([[1.0, 2.0]] * 10)])
    rows = Buffer.from_episodes(data, Normaliser.fit(data, DataOptions("none")), names)
    found = buffers.abstract(spec(data, None), len(data.flags), data.report.used, names)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), rows) == jax.tree.map(lambda x: (x.shape, x.dtype), found)


def test_data_on_which_a_lower_bound_is_known_to_fail_are_told():
    assert labels.advice(ten()) == [], "every step is labelled"
    sparse = hide(from_episodes(episodes([[0.0] * 50 + [1.0]] * 4)), 0.5)
    assert "sparse" in labels.advice(sparse)[0]
    alive = [e | {"terminations": np.arange(2) == 1} for e in episodes([[1.0, 2.0]] * 4)]
    assert "early end" in labels.advice(hide(from_episodes(alive), 0.5))[0]
    assert labels.advice(hide(ten(), 0.5)) == []
