"""FQL: its losses by hand, what each of them moves, and its chunks of actions."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_iql import SPEC, STATS

from agents.fql import Chunks, Config
from rlkit.buffer import Buffer
from rlkit.datasets import ActionOptions, DataOptions, Normaliser, from_episodes
from rlkit.testing import bits
from rlkit.types import Box, Discrete, InputError, Percept, Spec

SMALL = Config(widths=(8, 8), batch_size=3, alpha=2.0, flow_steps=2, learning_rate=1e-2)
LEARNER = SMALL.stages(SPEC, 10)[0].learner
KEY = jax.random.key(5)


def with_config(**changes):
    return dataclasses.replace(LEARNER, config=dataclasses.replace(SMALL, **changes))


def start(learner=LEARNER):
    """A state whose targets are not the critics, and biases that are not 0."""
    state = jax.jit(learner.init)(jax.random.key(0), None, STATS)
    params = jax.tree.map(lambda leaf: leaf + 0.01, state.net.params)
    target = jax.tree.map(lambda leaf: 2 * leaf, state.target)
    return state._replace(net=state.net._replace(params=params), target=target)


def rows(h=1):
    """Three chunks; the last one ended in a terminal state."""
    keys = jax.random.split(jax.random.key(1), 3)
    return Chunks(
        obs=jax.random.normal(keys[0], (3, 3)),
        action=jnp.tanh(jax.random.normal(keys[1], (3, h, 2))),
        taken=jnp.ones((3, h), bool),
        reward=jnp.arange(3.0),
        discount=jnp.array([0.99, 0.99, 0.0]) ** h,
        next_obs=jax.random.normal(keys[2], (3, 3)),
        usable=jnp.ones(3, bool),
    )


@pytest.fixture(scope="module")
def updated():
    """(state, batch, state after an update, its metrics)."""
    state, batch = start(), rows()
    after, metrics = jax.jit(LEARNER.update)(state, batch, KEY, 0)
    return state, batch, after, metrics


def net(params, x, layer_norm=False):
    """A perceptron in NumPy: GELU in its tanh form, then LayerNorm."""
    layers = [params[f"Dense_{i}"] for i in range(3)]
    for number, layer in enumerate(layers):
        x = x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        if number == 2:
            return x
        x = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        if layer_norm:
            norm = params[f"LayerNorm_{number}"]
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = x * np.asarray(norm["scale"]) + np.asarray(norm["bias"])


def critics(params, *parts):
    """Q_k(s, a) [2, B] in NumPy."""
    x = np.concatenate(parts, -1)
    members = params["params"]["VmapXavierMLP_0"]
    first, second = (jax.tree.map(lambda leaf, k=k: leaf[k], members) for k in range(2))
    return np.stack([net(member, x, layer_norm=True)[:, 0] for member in (first, second)])


def keys_of(key):
    """Of target, chunk, flow and policy."""
    return jax.random.split(key, 4)


def test_parameters_at_the_papers_size():
    def count(config, observations, actions):
        spec = Spec(Box((observations,), (-1.0,) * observations, (1.0,) * observations), SPEC.action, 10)
        spec = dataclasses.replace(spec, action=Box((actions,), (-1.0,) * actions, (1.0,) * actions))
        moments = STATS._replace(obs_mean=jnp.zeros(observations))
        state = jax.eval_shape(config.stages(spec, 1)[0].learner.init, KEY, None, moments)
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves((state.net.params, state.target)))

    assert count(Config(), 46, 5) == 4_911_630
    assert count(Config(chunk=5), 46, 5) == 4_993_590


def test_kernels_are_xavier_uniform_and_biases_zero():
    learner = Config(widths=(512, 64)).stages(SPEC, 1)[0].learner
    params = jax.jit(learner.init)(KEY, None, STATS).net.params
    for body, inputs, outputs in (("flow", 6, 2), ("policy", 5, 2)):
        sizes = [inputs, 512, 64, outputs]
        for number, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            layer = params[body]["params"][f"Dense_{number}"]
            bound = math.sqrt(6 / (fan_in + fan_out))
            assert layer["kernel"].shape == (fan_in, fan_out)
            assert 0.9 * bound < jnp.abs(layer["kernel"]).max() <= bound
            assert not layer["bias"].any()
    names = set(params["critic"]["params"]["VmapXavierMLP_0"])
    assert {"LayerNorm_0", "LayerNorm_1"} < names
    assert not any(name.startswith("LayerNorm") for name in params["flow"]["params"])


def test_the_critics_by_hand(updated):
    state, batch, _, metrics = updated
    z = np.asarray(jax.random.normal(keys_of(KEY)[0], (3, 2)))
    policy = state.net.params["policy"]["params"]
    next_action = np.clip(net(policy, np.concatenate([batch.next_obs, z], -1)), -1, 1)
    targets = critics(state.target, batch.next_obs, next_action)
    y = np.asarray(batch.reward) + np.asarray(batch.discount) * targets.mean(0)
    assert y[2] == batch.reward[2]  # terminal: nothing but the reward
    q = critics(state.net.params["critic"], batch.obs, batch.action[:, 0])
    np.testing.assert_allclose(metrics["critic/loss"], ((q - y) ** 2).mean(), rtol=1e-4)
    smallest = with_config(aggregate="min").target_value(state, batch, keys_of(KEY)[0])
    np.testing.assert_allclose(smallest, batch.reward + batch.discount * targets.min(0), rtol=1e-4, atol=1e-5)


def test_the_flow_by_hand(updated):
    """The network sees a point between action and noise and must say noise less action."""
    state, batch, _, metrics = updated
    time_key, noise_key = jax.random.split(keys_of(KEY)[2])
    t = np.asarray(jax.random.uniform(time_key, (3,)))[:, None]
    z = np.asarray(jax.random.normal(noise_key, (3, 2)))
    action = np.asarray(batch.action[:, 0])
    x = (1 - t) * action + t * z
    velocity = net(state.net.params["flow"]["params"], np.concatenate([batch.obs, x, t], -1))
    np.testing.assert_allclose(metrics["flow/loss"], ((velocity - (z - action)) ** 2).mean(), rtol=1e-4)


def policy_terms(state, batch, steps=2):
    """(mean squared distance to the flow's action from the same noise, Q_k of the policy's action), in NumPy."""
    params = state.net.params
    z = np.asarray(jax.random.normal(keys_of(KEY)[3], (3, 2)))
    obs = np.asarray(batch.obs)
    x = z
    for step in range(steps):
        t = np.full((3, 1), 1 - step / steps)
        x = x - net(params["flow"]["params"], np.concatenate([obs, x, t], -1)) / steps
    action = net(params["policy"]["params"], np.concatenate([obs, z], -1))
    return ((action - np.clip(x, -1, 1)) ** 2).mean(), critics(params["critic"], obs, np.clip(action, -1, 1))


def test_the_policy_by_hand(updated):
    state, batch, _, metrics = updated
    distance, q = policy_terms(state, batch)
    np.testing.assert_allclose(metrics["policy/distance"], distance, rtol=1e-4)
    np.testing.assert_allclose(metrics["policy/loss"], 2 * distance - q.mean(), rtol=1e-4)
    _, normalised = with_config(normalise_q=True).policy_loss(
        state.net.params["policy"], state.net.params, batch, keys_of(KEY)[3]
    )
    by_hand = 2 * distance - q.mean() / np.abs(q.mean(0)).mean()
    np.testing.assert_allclose(normalised["policy/loss"], by_hand, rtol=1e-4)


def test_every_loss_moves_its_own_network_alone(updated):
    """The gradient of the distance into the flow is exactly 0, and so is that of Q into the critics: two states that
    differ in one network come to the same others, where these do not read it."""
    state, batch, after, _ = updated
    update = jax.jit(LEARNER.update)

    def changed(name):
        params = dict(state.net.params)
        params[name] = jax.tree.map(lambda leaf: leaf + 0.05, params[name])
        other, _ = update(state._replace(net=state.net._replace(params=params)), batch, KEY, 0)
        return {part for part in params if bits(other.net.params[part]) != bits(after.net.params[part])}

    assert changed("flow") == {"flow", "policy"}
    assert changed("critic") == {"critic", "policy"}
    assert changed("policy") == {"policy", "critic"}


def test_the_targets_follow_the_critics_of_the_step_before(updated):
    state, _, after, _ = updated
    expected = jax.tree.map(lambda t, o: 0.995 * t + 0.005 * o, state.target, state.net.params["critic"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.target, expected)


def test_the_best_of_the_candidates_is_taken():
    state, obs = start(), jnp.array([0.3, -1.0, 0.2])
    learner = with_config(candidates=64)
    actions = np.asarray(learner.act(state, obs, KEY, greedy=True)[0])
    drawn = learner.draw(state.net.params["policy"], jnp.tile(obs, (64, 1)), KEY)
    q = critics(state.net.params["critic"], np.tile(obs, (64, 1)), np.asarray(drawn)).mean(0)
    assert q.std() > 1e-3
    np.testing.assert_allclose(actions, drawn[q.argmax()][None])


# --- chunks ---

STEPS = 4
FAR = Spec(SPEC.observation, Box((1,), (-1.0,), (1.0,)), 10)


def seven_rows():
    """An episode of four steps that a time limit ends and one of three that ends in a terminal state. Step i of all
    has reward i + 1 and action i / 10."""
    episodes = []
    for first, steps, terminal in ((0, 4, False), (4, 3, True)):
        number = np.arange(first, first + steps, dtype=np.float32)
        last = np.arange(steps) == steps - 1
        episodes.append(
            {
                "observations": np.arange(first, first + steps + 1, dtype=np.float32)[:, None].repeat(3, 1),
                "actions": number[:, None] / 10,
                "rewards": number + 1,
                "terminations": last & terminal,
                "truncations": last & (not terminal),
            }
        )
    data = from_episodes(episodes, action=ActionOptions(low=(-1.0,), high=(1.0,)))
    return Buffer.from_episodes(data, Normaliser.fit(data, DataOptions("toy")))


def chunked(**changes):
    config = dataclasses.replace(SMALL, gamma=0.5, chunk=2, **changes)
    return config.stages(FAR, 1)[0].learner


def cut(**changes):
    """The chunks of all seven steps."""
    buffer = seven_rows()
    return chunked(**changes).cut(buffer.around(buffer.index, 0, 2, 0.5))


def test_chunks_by_hand():
    chunks = cut()
    # two steps from the first five and the sixth; only one is left at the end of either episode
    np.testing.assert_allclose(chunks.reward, [1 + 1, 2 + 1.5, 3 + 2, 4, 5 + 3, 6 + 3.5, 7])
    np.testing.assert_allclose(chunks.discount, [0.25, 0.25, 0.25, 0.25, 0.25, 0, 0])
    np.testing.assert_allclose(chunks.next_obs[:, 0], [2, 3, 4, 4, 6, 7, 7])
    assert chunks.usable.tolist() == [True, True, True, False, True, True, False]
    assert chunks.taken[:, 1].tolist() == [True, True, True, False, True, True, False]
    assert cut(ended="keep").usable.tolist() == [True, True, True, False, True, True, True]


def test_a_chunk_of_one_is_a_transition():
    buffer = seven_rows()
    learner = dataclasses.replace(chunked(), config=dataclasses.replace(SMALL, batch_size=64))
    chunks, batch = learner.sample(buffer, KEY), buffer.transitions(KEY, 64, 0.99)
    for ours, theirs in (
        (chunks.obs, batch.obs),
        (chunks.action[:, 0], batch.action),
        (chunks.reward, batch.reward),
        (chunks.discount, batch.discount),
        (chunks.next_obs, batch.next_obs),
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert chunks.usable.all() and chunks.taken.all()


def test_what_stands_beyond_an_end_is_not_learnt_from():
    """The flow is not asked for it, and the critics do not learn from the chunk. One that is kept has the policy's
    action there."""
    learner = with_config(chunk=2)
    state, batch = start(learner), rows(2)
    batch = batch._replace(taken=jnp.array([[True, True], [True, False], [True, False]]))
    batch = batch._replace(usable=jnp.array([True, False, False]))
    elsewhere = batch._replace(action=jnp.where(batch.taken[..., None], batch.action, -batch.action))
    update = jax.jit(learner.update)
    one, two = (update(state, data, KEY, 0)[0].net.params for data in (batch, elsewhere))
    assert bits(one["critic"]) == bits(two["critic"])
    untouched = update(state, batch._replace(taken=jnp.zeros((3, 2), bool)), KEY, 0)[0].net.params
    assert bits(untouched["flow"]) == bits(state.net.params["flow"]) != bits(one["flow"])
    keeping = with_config(chunk=2, ended="keep")
    policy = state.net.params["policy"]
    chunk = keeping.whole_chunk(policy, batch, KEY)
    drawn = keeping.draw(policy, batch.obs, KEY)
    np.testing.assert_array_equal(chunk[:, :2], batch.action[:, 0])
    np.testing.assert_array_equal(chunk[1:, 2:], drawn[1:, 2:])
    np.testing.assert_array_equal(chunk[0, 2:], batch.action[0, 1])


def test_a_plan_has_as_many_actions_as_a_chunk():
    learner = with_config(chunk=3)
    state = start(learner)
    memory = learner.observe(state, learner.begin(state, None), Percept(jnp.ones(3), 0.0, 0))
    plan, _ = learner.act(state, memory, KEY, greedy=True)
    drawn = learner.draw(state.net.params["policy"], jnp.ones((1, 3)), KEY)
    np.testing.assert_array_equal(plan, drawn.reshape(3, 2))


def test_a_chunk_that_is_longer_than_every_episode_is_refused():
    with pytest.raises(InputError, match="fql: --config.chunk 9: the longest episode has 8 steps"):
        dataclasses.replace(SMALL, chunk=9).stages(dataclasses.replace(SPEC, horizon=8), 1)


def test_discrete_actions_are_refused():
    with pytest.raises(InputError, match="fql .*continuous"):
        SMALL.stages(dataclasses.replace(SPEC, action=Discrete(2)), 1)
