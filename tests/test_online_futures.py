"""PDT online: the return head first and alone, then all; episodes drawn in proportion to their returns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_online import Setting, on_host

from agents import pdt
from rlkit import ring
from rlkit.online import Online
from rlkit.testing import bits

CONFIG = pdt.Config(
    latent=2,
    layers=1,
    heads=1,
    head_width=4,
    mlp=8,
    context=3,
    acting_context=2,
    batch_size=4,
    warmup=2,
    candidates=8,
    pretrain_steps=1,
    head_updates=3,
)
HOW = Online(steps=5, unit="episode", updates=2, share=0.0, warmup=3)
PRETRAIN, REWARDS, HEAD, ONLINE = range(4)  # numbers of the stages
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def straight():
    """(setting, all that an uninterrupted training yields)."""
    setting = Setting(HOW, CONFIG, seeds=(3,))
    return setting, [on_host(point) for point in setting.fit()]


def of_stage(straight, number):
    return [point for point in straight[1] if point.stage == number]


def moved(points):
    """The networks that the updates between the first of ``points`` and the last have moved."""
    before, after = points[0].state.net.params, points[-1].state.net.params
    return {name for name in before if bits(before[name]) != bits(after[name])}


def test_the_head_learns_alone_from_the_warm_up_and_then_all_learn(straight):
    head, online = of_stage(straight, HEAD), of_stage(straight, ONLINE)
    assert [stage.name for stage in straight[0].stages] == ["pretrain", "pdt", "returns online", "pdt online"]
    assert [point.live.play.finished[0] for point in head] == [0, 3, 3, 3]
    assert moved(head) == {"returns"}
    assert [point.live.play.finished[0] for point in online] == [0, 1, 1, 2, 2]
    assert moved(online) == {"policy", "encoder", "prior", "returns"}
    written = [int(points[-1].live.replay.place.head[0]) for points in (head, online)]
    assert 3 * 4 <= written[0] < written[1], "the replay of the warm-up is kept"


def test_the_head_cannot_choose_before_it_has_learnt(straight):
    """Of many futures the pretrained policy follows the first that is drawn."""
    head, online = (straight[0].stages[number].learner for number in (HEAD, ONLINE))
    state = jax.tree.map(lambda leaf: leaf[0], of_stage(straight, ONLINE)[-1].state)
    obs, key = jnp.array([0.3, 1.0]), jax.random.key(0)
    mean, log_std = online._prior_of(state.net.params, obs[None])
    drawn = mean + jnp.exp(log_std) * jax.random.normal(key, (1, 2))
    np.testing.assert_allclose(head.choose(state, obs, key), drawn[0], rtol=1e-5)
    many = jnp.broadcast_to(obs, (8, 2))
    mean, log_std = online._prior_of(state.net.params, many)
    futures = mean + jnp.exp(log_std) * jax.random.normal(key, (8, 2))
    predicted, _ = online._returns_of(state.net.params, many, futures)
    chosen = online.choose(state, obs, key)
    np.testing.assert_allclose(chosen, futures[jnp.argmax(predicted[:, 0])], rtol=1e-5)


def test_episodes_are_drawn_in_proportion_to_what_their_returns_are_above_the_least(straight):
    """And each of their steps equally often. A ring's index has room that no row has taken yet."""
    learner = straight[0].stages[ONLINE].learner
    replay = ring.of_seed(of_stage(straight, ONLINE)[-1].live.replay, jnp.int32(0))
    weight = np.asarray(learner.weight(replay))
    listed = np.asarray(replay.index)[0]
    count, written = int(replay.place.drawn), int(replay.place.head)
    assert count < len(listed)
    episode = np.cumsum(np.asarray(replay.t)[0, :written] == 0) - 1  # of each row that was written
    rewards = np.asarray(replay.reward)[0, :written]
    rows = listed[:count]
    returns = np.array([rewards[episode == number].sum() for number in range(5)])
    lengths = np.array([(episode[rows] == number).sum() for number in range(5)])
    by_hand = ((returns - returns.min() + 1e-6) / lengths)[episode[rows]]
    np.testing.assert_allclose(weight[:count], by_hand, rtol=1e-4, atol=1e-8)
    drawn = np.asarray(replay.draw(jax.random.key(1), 4000, learner.weight(replay)))
    shares = np.bincount(episode[drawn], minlength=5) / 4000
    np.testing.assert_allclose(shares, (returns - returns.min()) / (returns - returns.min()).sum(), atol=0.03)


def test_without_a_warm_up_there_is_no_stage_of_the_head_alone():
    setting = Setting(Online(steps=2, unit="episode", updates=2, share=0.0), CONFIG)
    assert [(stage.name, stage.steps) for stage in setting.stages[2:]] == [("pdt online", 4)]
