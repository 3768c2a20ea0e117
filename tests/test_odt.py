"""Online decision transformer, offline part: its likelihood and entropy by hand, the temperature, LAMB, and acting."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import odt
from rlkit import networks
from rlkit.buffer import Buffer, needs, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.testing import random_episodes
from rlkit.types import InputError, Percept, Windows

SMALL = odt.Config(
    layers=2, heads=2, head_width=4, mlp=16, context=4, acting_context=3, batch_size=8, dropout=0.0, warmup=1
)
KEY = jax.random.key(0)


def prepare(config, data, **options):
    """(agent, its first state, buffer) of ``config`` on ``data``."""
    normaliser = Normaliser.fit(data, DataOptions("toy", **options))
    stages = config.stages(spec(data, None, normaliser), 1)
    buffer = Buffer.from_episodes(data, normaliser, needs(stages))
    agent = stages[0].learner
    return agent, agent.init(KEY, None, stats(buffer)), buffer


def half_masked():
    """Two windows of four steps, of which two and one are real."""
    rng = np.random.default_rng(0)
    reward = jnp.asarray(rng.normal(size=(2, 4)), jnp.float32)
    return Windows(
        obs=jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32),
        action=jnp.asarray(rng.uniform(-0.9, 0.9, (2, 4, 2)), jnp.float32),
        reward=reward,
        discount=jnp.ones((2, 4)),
        t=jnp.tile(jnp.arange(4)[None], (2, 1)),
        mask=jnp.array([[True, True, False, False], [True, False, False, False]]),
        seen=jnp.ones((2, 4), bool),
        extra={"return_to_go": reward + 1},
    )


def log_density(u, mean, std):
    """[...] of tanh(u), u ~ N(mean, std): the textbook's change of variables, in float64."""
    normal = -0.5 * ((u - mean) / std) ** 2 - np.log(std) - 0.5 * math.log(2 * math.pi)
    return (normal - np.log1p(-(np.tanh(u) ** 2))).sum(-1)


def test_parameters_at_the_papers_size():
    size = networks.TransformerSize(4, 4, 128, 2048, 0.1)
    model = networks.StochasticDecisionTransformer(3, size)
    shapes = jnp.zeros((1, 2)), jnp.zeros((1, 2, 11)), jnp.zeros((1, 2, 3)), jnp.zeros((1, 2), jnp.int32)
    params = jax.eval_shape(model.init, KEY, *shapes)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == 12_623_878


def test_the_loss_of_a_half_masked_batch_by_hand():
    agent, state, _ = prepare(SMALL, from_episodes(random_episodes()))
    batch, key = half_masked(), jax.random.key(1)
    _, metrics = agent.update(state, batch, key, jnp.int32(0))

    to_go = batch.extra["return_to_go"] / state.scale
    mean, log_std = agent._model.apply(state.net.params, to_go, batch.obs, batch.action, batch.t)
    mean, std = np.float64(mean), np.exp(np.float64(log_std))
    real = np.asarray(batch.mask)
    likelihood = log_density(np.arctanh(np.float64(batch.action)), mean, std)[real].mean()
    noise = jax.random.normal(jax.random.split(key)[1], mean.shape)
    entropy = -log_density(mean + std * np.float64(noise), mean, std)[real].mean()

    np.testing.assert_allclose(metrics["policy/likelihood"], likelihood, rtol=1e-4)
    np.testing.assert_allclose(metrics["policy/entropy"], entropy, rtol=1e-4)
    np.testing.assert_allclose(metrics["policy/loss"], -likelihood - 0.1 * entropy, rtol=1e-4)
    np.testing.assert_allclose(metrics["temperature/value"], 0.1, rtol=1e-6)


def test_nothing_is_learnt_from_what_stands_beyond_an_episode():
    agent, state, _ = prepare(SMALL, from_episodes(random_episodes()))
    batch = half_masked()
    beyond = ~batch.mask[..., None]
    other = batch._replace(obs=batch.obs + beyond, action=jnp.where(beyond, 0.5, batch.action))
    gradients = []
    for windows in (batch, other):
        gradient = jax.grad(lambda p, w=windows: agent.policy_loss(p, state.scale, jnp.float32(0.1), w, KEY)[0])
        gradients.append(gradient(state.net.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *gradients)


@pytest.mark.parametrize(("above", "sign"), [(1.0, -1), (-1.0, 1)])
def test_the_temperature_falls_above_the_target_entropy_and_rises_below_it(above, sign):
    agent, state, _ = prepare(SMALL, from_episodes(random_episodes()))
    log_temperature = state.log_temperature.params

    def loss(log_temperature, entropy, wanted=None):
        return odt.temperature_loss(log_temperature, jnp.float32(entropy), wanted, agent.spec)[0]

    target = -2.0  # minus the number of action dimensions
    np.testing.assert_allclose(jax.grad(loss)(log_temperature, target + above), -sign * 0.1, rtol=1e-5)
    assert loss(log_temperature, target) == 0 and loss(log_temperature, 0.5, wanted=0.5) == 0


def test_lamb_moves_every_array_by_the_same_share_of_its_size():
    """Adam would move each number by the learning rate, whatever the array's size is."""
    config = dataclasses.replace(SMALL, learning_rate=1e-2, weight_decay=0.0)
    agent, state, _ = prepare(config, from_episodes(random_episodes()))
    batch = half_masked()
    moved, _ = agent.update(state, batch, KEY, jnp.int32(0))
    before, after = jax.tree.leaves(state.net.params), jax.tree.leaves(moved.net.params)
    shares = []
    for a, b in zip(before, after, strict=True):
        if a.any():  # biases begin at 0
            shares.append(np.linalg.norm(b - a) / np.linalg.norm(a))
    np.testing.assert_allclose(shares, np.full(22, 1e-2), rtol=1e-3)


@pytest.mark.parametrize("embed_time", [False, True])
def test_the_time_of_a_step_is_known_only_if_it_is_embedded(embed_time):
    agent, state, _ = prepare(dataclasses.replace(SMALL, embed_time=embed_time), from_episodes(random_episodes()))
    batch = half_masked()
    inputs = (batch.reward, batch.obs, batch.action)
    early, late = (agent._model.apply(state.net.params, *inputs, batch.t + start)[0] for start in (0, 5))
    assert (np.abs(early - late).max() > 1e-3) == embed_time


def test_an_answer_sees_nothing_that_comes_after_it():
    agent, state, _ = prepare(SMALL, from_episodes(random_episodes()))
    batch = half_masked()
    answer, _ = agent._model.apply(state.net.params, batch.reward, batch.obs, batch.action, batch.t)
    changed, _ = agent._model.apply(
        state.net.params,
        batch.reward.at[:, 3].add(1.0),
        batch.obs.at[:, 3].add(1.0),
        batch.action.at[:, 2:].add(1.0),
        batch.t,
    )
    np.testing.assert_allclose(changed[:, :3], answer[:, :3], atol=1e-6)
    assert np.abs(changed[:, 3] - answer[:, 3]).max() > 1e-4


# --- acting ---


def played(agent, state, goal, rewards, scale=1.0):
    """The memory and the greedy action after the last of ``rewards``; the observation is the step's number."""
    memory = agent.begin(state, jnp.float32(goal))
    for t, reward in enumerate([0.0, *rewards]):
        percept = Percept(jnp.full(3, float(t)), jnp.float32(reward * scale), jnp.int32(t))
        memory = agent.observe(state, memory, percept)
        action, memory = agent.act(state, memory, KEY, greedy=True)
    return memory, action[0]


def test_acting_sees_the_last_steps_and_the_return_that_is_left():
    episode = random_episodes(1, 3)[0] | {"rewards": np.array([1.0, 2.0, 3.0], np.float32)}
    agent, state, buffer = prepare(SMALL, from_episodes([episode]))
    assert buffer.extra["return_to_go"][:3].tolist() == [6, 5, 3]
    memory, _ = played(agent, state, 6.0, [1.0, 2.0])
    assert memory.to_go.tolist() == [6, 5, 3] and memory.t.tolist() == [0, 1, 2]
    memory, action = played(agent, state, 6.0, [1.0, 2.0, 3.0, 4.0])
    assert memory.to_go.tolist() == [3, 0, -4] and memory.t.tolist() == [2, 3, 4]
    assert memory.obs[:, 0].tolist() == [2, 3, 4]
    window = [x[None] for x in (memory.to_go / state.scale, memory.obs, memory.action, memory.t)]
    mean, _ = agent._model.apply(state.net.params, *window)
    np.testing.assert_allclose(action, np.tanh(mean[0, 2]), atol=1e-6)
    np.testing.assert_allclose(memory.action[2], action)
    assert played(agent, state, float("nan"), [])[0].left == 6  # the best of the data


def test_an_action_is_the_mean_or_a_sample():
    agent, state, _ = prepare(SMALL, from_episodes(random_episodes()))
    memory = agent.observe(state, agent.begin(state, jnp.float32(1.0)), Percept(jnp.ones(3), 0.0, jnp.int32(0)))
    keys = jax.random.split(KEY, 2)
    greedy = [np.asarray(agent.act(state, memory, key, greedy=True)[0]) for key in keys]
    sampled = [np.asarray(agent.act(state, memory, key, greedy=False)[0]) for key in keys]
    np.testing.assert_array_equal(*greedy)
    assert np.abs(sampled[0] - sampled[1]).max() > 1e-4


def test_a_target_is_in_the_environments_units_whatever_the_rewards_are_scaled_by():
    data = from_episodes(random_episodes())
    actions = []
    for scale in (1.0, 10.0):
        agent, state, _ = prepare(SMALL, data, reward_scale=scale)
        actions.append(played(agent, state, 3.0, [1.5], scale)[1])
    np.testing.assert_allclose(*actions, atol=1e-5)


def test_what_it_cannot_serve_is_refused():
    with pytest.raises(InputError, match="odt: --config.acting-context 5: the model is trained on 4 steps"):
        prepare(dataclasses.replace(SMALL, acting_context=5), from_episodes(random_episodes()))
    with pytest.raises(InputError, match="odt: returns cannot be asked for where rewards are 1 x \\+ 1"):
        prepare(SMALL, from_episodes(random_episodes()), reward_shift=1.0)
    with pytest.raises(InputError, match="odt needs amounts as actions, and these are 3 choices"):
        prepare(SMALL, from_episodes(random_episodes(discrete=True)))
