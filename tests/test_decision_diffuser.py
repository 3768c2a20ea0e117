"""Decision Diffuser: the network's size and its null condition, what is known of a plan, the algebra of conditions with
exact denoisers, the conditions of the data, and acting."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import decision_diffuser as dd
from envs.toys import walk
from rlkit import networks
from rlkit.buffer import Buffer, needs, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.diffusion.guidance import composed
from rlkit.diffusion.noise import Karras
from rlkit.diffusion.samplers import heun, sample
from rlkit.testing import random_episodes
from rlkit.types import InputError, Percept

SMALL = dd.Config(
    horizon=8,
    noise_levels=6,
    width=8,
    multipliers=(1,),
    inverse_widths=(8,),
    batch_size=4,
    history_len=3,
    termination_penalty=0.0,
    noise_scale=1.0,
    guidance=2.0,
)
LABELS = dataclasses.replace(SMALL, condition="label", labels=3, history_len=1)


def labelled(labels=3):
    """Random episodes whose returns are the numbers of labels, in turn."""
    episodes = random_episodes()
    for number, episode in enumerate(episodes):
        episode["rewards"] = np.zeros(20, np.float32)
        episode["rewards"][-1] = number % labels
    return episodes


def prepared(config, episodes, **options):
    """(learner, buffer, moments)."""
    data = from_episodes(episodes)
    normaliser = Normaliser.fit(data, DataOptions("test", **options))
    (stage,) = config.stages(spec(data, None, normaliser), 1)
    buffer = Buffer.from_episodes(data, normaliser, needs([stage]))
    return stage.learner, buffer, stats(buffer)


@functools.cache
def started(config, label=False):
    """(learner, state, buffer), of a state whose networks do not answer with zeros."""
    agent, buffer, moments = prepared(config, labelled() if label else random_episodes())
    state = jax.jit(agent.init, static_argnums=1)(jax.random.key(0), None, moments)
    return agent, state, buffer


# --- the network ---


@pytest.mark.parametrize(("width", "parameters"), [(11, 59_732_491), (17, 59_737_873)])
def test_parameters_at_the_papers_size(width, parameters):
    net = networks.TemporalUNet(128, (1, 4, 8))
    plan, one = jnp.zeros((1, 100, width)), jnp.zeros(1)
    shapes = jax.eval_shape(net.init, jax.random.key(0), plan, one, one[:, None], one > 0)
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes)) == parameters


@pytest.fixture(scope="module")
def unet():
    """(apply, parameters) of a small network, away from the start, where biases are small."""
    net = networks.TemporalUNet(8, (1, 2))
    plan, one = jnp.zeros((2, 8, 3)), jnp.ones(2)
    params = jax.jit(net.init)(jax.random.key(0), plan, one, jnp.ones((2, 2)), one > 0)
    params = jax.tree.map(lambda leaf: leaf + 0.3, params)
    return jax.jit(net.apply), params


def test_without_a_condition_the_answer_does_not_depend_on_it(unet):
    apply, params = unet
    plan = jax.random.normal(jax.random.key(1), (2, 8, 3))
    t, given = jnp.array([1.0, 4.0]), jnp.array([False, True])
    one = apply(params, plan, t, jnp.zeros((2, 2)), given)
    other = apply(params, plan, t, jnp.full((2, 2), 5.0), given)
    np.testing.assert_array_equal(one[0], other[0])
    assert np.abs(one[1] - other[1]).max() > 1e-3


# --- learning ---


def batch_of(agent, buffer, key=2):
    return agent.sample(buffer, jax.random.key(key))


def test_known_states_are_clean_and_are_not_learnt_from():
    """With all states but the last known the loss is that of the last one alone, and with a network that answers 0, the
    mean square of its noise."""
    config = dataclasses.replace(SMALL, history_len=1, next_state_weight=5.0)
    agent, state, buffer = started(config)
    params = jax.tree.map(jnp.zeros_like, state.net.params["planner"])
    plans = state.scaled(batch_of(agent, buffer).obs)
    key = jax.random.key(3)
    loss = jax.jit(agent.planner_loss)(params, plans, jnp.zeros((4, 1)), key)
    eps = np.asarray(jax.random.normal(jax.random.split(key, 4)[1], plans.shape))
    weights = np.array([0, 5, 1, 1, 1, 1, 1, 1])[None, :, None]
    np.testing.assert_allclose(loss, (weights * eps**2).mean(), rtol=1e-5)


def test_a_quarter_of_the_conditions_is_left_out():
    agent = dd.DecisionDiffuser(dataclasses.replace(SMALL, condition_dropout=0.25), None)
    assert abs(agent.given(jax.random.key(0), 10_000).mean() - 0.75) < 0.01


def test_the_inverse_model_learns_from_recorded_steps_alone():
    agent, state, buffer = started(SMALL)
    batch = batch_of(agent, buffer)
    mask = jnp.zeros((4, 8), bool).at[1, 2].set(True).at[3, 7].set(True)  # the last place has no successor here
    batch = batch._replace(mask=mask)
    plans = state.scaled(batch.obs)
    params = state.net.params["inverse"]
    answer = agent._inverse.apply(params, plans[1, 2], plans[1, 3])
    expected = ((answer - batch.action[1, 2]) ** 2).mean()
    np.testing.assert_allclose(agent.inverse_loss(params, plans, batch), expected, rtol=1e-5)
    unseen = batch._replace(seen=batch.seen.at[1, 3].set(False))
    assert agent.inverse_loss(params, plans, unseen) == 0


def test_the_average_is_the_parameters_until_it_starts_and_moves_now_and_then():
    config = dataclasses.replace(SMALL, ema_start=10, ema_every=5, ema_rate=0.1)
    agent = dd.DecisionDiffuser(config, None)
    moved = [float(agent._averaged(jnp.float32(0), jnp.float32(1), step)) for step in (0, 4, 5, 9, 10, 14, 15)]
    np.testing.assert_allclose(moved, [1, 0, 1, 0, 0.1, 0, 0.1])


# --- conditions ---


def test_a_return_is_told_with_its_discount_and_the_penalty_of_an_early_end():
    episodes = random_episodes(2, 3)
    for episode, end in zip(episodes, (True, False), strict=True):
        episode["rewards"] = np.array([1.0, 2.0, 3.0], np.float32)
        episode["terminations"] = np.array([False, False, end])
    config = dataclasses.replace(SMALL, return_discount=0.5, termination_penalty=8.0, return_scale=2.0)
    _, buffer, _ = prepared(config, episodes)
    told = np.asarray(buffer.extra["condition"])[:, 0]
    early, late = [1 + 1 + (3 - 8) / 4, 2 + (3 - 8) / 2, 3 - 8], [1 + 1 + 3 / 4, 2 + 3 / 2, 3]
    np.testing.assert_allclose(told[[0, 1, 2, 4, 5, 6]], np.array(early + late) / 2, rtol=1e-6)
    # the same in other units
    for changes in ({"reward_scale": 10.0}, {"reward_scale": -1.0}):
        _, other, _ = prepared(config, episodes, **changes)
        sign = np.sign(changes["reward_scale"])
        np.testing.assert_allclose(np.asarray(other.extra["condition"])[4:7, 0], sign * told[4:7], rtol=1e-5)
    # by the range of the data
    _, other, _ = prepared(dataclasses.replace(config, return_scale=None), episodes)
    by_range = np.asarray(other.extra["condition"])[:, 0]
    assert by_range.min() == 0 and by_range.max() == 1
    np.testing.assert_allclose(by_range[4] - by_range[6], (late[0] - late[2]) / 8.5, rtol=1e-5)


def test_labels_are_the_returns_of_episodes():
    for options in ({}, {"reward_scale": 2.0}):
        _, buffer, _ = prepared(LABELS, labelled(), **options)
        told = np.asarray(buffer.extra["condition"])
        assert told.shape == (6 * 21, 3)
        np.testing.assert_array_equal(told.reshape(6, 21, 3)[:, 0], np.eye(3)[[0, 1, 2, 0, 1, 2]])
        assert (told.reshape(6, 21, 3) == told.reshape(6, 21, 3)[:, :1]).all()


@pytest.mark.parametrize("episodes", [random_episodes(), labelled(4)])
def test_returns_that_are_no_labels_are_refused(episodes):
    with pytest.raises(InputError, match="decision-diffuser: an episode's return is .*, which is no label: .* 0 to 2"):
        prepared(LABELS, episodes)


def test_signs_of_what_is_asked():
    assert dd.signs("1", 3).tolist() == [0, 1, 0]
    assert dd.signs("0+2-1", 3).tolist() == [1, -1, 1]
    assert list(prepared(LABELS, labelled())[0].goals) == ["label 0", "label 1", "label 2"]
    for wrong in ("3", "0+", "a", "-1", "0 1"):
        with pytest.raises(InputError, match="decision-diffuser: --config.asked"):
            dataclasses.replace(LABELS, asked=(wrong,)).stages(spec(from_episodes(labelled()), None), 1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"horizon": 9, "multipliers": (1, 2)}, "horizon 9: must be a multiple of 2"),
        ({"history_len": 8}, "history-len 8: must be below the horizon"),
        ({"sampling_steps": 7}, "sampling-steps 7: there are 6 noise levels"),
        ({"warm_start": 7}, "warm-start 7: a plan has 6 denoising steps"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(changes, told):
    with pytest.raises(InputError, match=f"decision-diffuser: --config.{told}"):
        prepared(dataclasses.replace(SMALL, **changes), random_episodes())


def test_returns_and_labels_are_refused_where_rewards_are_shifted():
    for config in (LABELS, dataclasses.replace(SMALL, return_scale=1.0)):
        with pytest.raises(InputError, match=r"decision-diffuser: returns .* 1 x \+ 1"):
            prepared(config, labelled(), reward_shift=1.0)
    prepared(SMALL, random_episodes(), reward_shift=1.0)  # mapped by their range


# --- acting ---


@functools.partial(jax.jit, static_argnums=0)
def step(agent, state, memory, percept, key):
    memory = agent.observe(state, memory, percept)
    return agent.act(state, memory, key, greedy=True)


def played(config, steps=6):
    """Scaled observations of an episode, and the memory after each step."""
    agent, state, _ = started(SMALL)
    agent = dataclasses.replace(agent, config=config)
    memory = agent.begin(state, jnp.float32(0.9))
    seen, memories = [], []
    for t in range(steps):
        obs = jnp.array([0.1 * t, 1.0, -0.2 * t])
        seen.append(np.asarray(state.scaled(obs)))
        action, memory = step(agent, state, memory, Percept(obs, jnp.float32(0), jnp.int32(t)), jax.random.key(t))
        assert action.shape == (1, 2) and np.abs(action).max() <= 1
        memories.append(memory)
    return np.array(seen), memories


def test_what_is_of_acting_alone_leaves_the_state_as_it_is():
    """So that a run can be evaluated with other settings, and a checkpoint of it is read."""
    agent, state, buffer = started(SMALL)
    acting = {
        "targets": (0.1, 0.2),
        "guidance": 3.0,
        "sampler": "ddim",
        "sampling_steps": 2,
        "noise_scale": 0.0,
        "warm_start": 1,
        "history_len": 1,
    }
    for name, value in acting.items():
        other = dataclasses.replace(agent, config=dataclasses.replace(SMALL, **{name: value}))
        shapes = jax.eval_shape(lambda other=other: other.init(jax.random.key(0), None, stats(buffer)))
        assert jax.tree.map(lambda leaf: leaf.shape, shapes) == jax.tree.map(lambda leaf: leaf.shape, state), name
        assert other.needs == agent.needs


def test_a_plan_begins_with_what_was_seen_bit_for_bit():
    seen, memories = played(SMALL)
    for t, memory in enumerate(memories):
        first = max(t - 2, 0)
        known = t - first + 1
        np.testing.assert_array_equal(memory.plan[:known], seen[first : t + 1])
        assert np.abs(memory.plan).max() <= 1 and not (memory.plan[known] == memory.plan[known - 1]).all()


def test_a_warm_start_goes_on_from_the_last_plan_and_begins_as_every_plan():
    """Without noise a plan that is made from the one before stays nearer to it, on average, than one made anew."""
    warm = dataclasses.replace(SMALL, warm_start=1, sampler="ddim")
    _, memories = played(warm)
    later = [np.abs(b.plan[3:-1] - a.plan[4:]).mean() for a, b in zip(memories[3:], memories[4:], strict=False)]
    early = np.abs(memories[1].plan[2:] - memories[0].plan[2:]).mean()  # nothing has moved: the first state is the same
    _, anew = played(dataclasses.replace(warm, warm_start=None))
    others = [np.abs(b.plan[3:-1] - a.plan[4:]).mean() for a, b in zip(anew[3:], anew[4:], strict=False)]
    assert np.mean([*later, early]) < 0.5 * np.mean(others)
    # all steps: the same as from the beginning, whatever the plan before was
    agent, state, _ = started(SMALL)
    memory = memories[-1]._replace(t=jnp.int32(0))
    plans = []
    for config in (warm, dataclasses.replace(warm, warm_start=6)):
        acting = dataclasses.replace(agent, config=config)
        first = jax.jit(acting.plan)(state, memory, jax.random.key(0))
        second = jax.jit(acting.plan)(state, memory._replace(plan=jnp.zeros((8, 3))), jax.random.key(0))
        np.testing.assert_array_equal(first, second)
        plans.append(first)
    np.testing.assert_allclose(*plans, atol=1e-5)  # ddim without noise of its own: how the steps are cut plays no part


def test_the_algebra_of_conditions():
    """A label's sign is a number here: at a guidance of 1 it is that label's own guidance."""
    agent, state, _ = started(dataclasses.replace(LABELS, guidance=1.0), label=True)
    x = jax.random.normal(jax.random.key(4), (1, 8, 3))
    compiled = {}

    def guided(signs, guidance=1.0):
        if guidance not in compiled:
            of_scale = dataclasses.replace(agent, config=dataclasses.replace(agent.config, guidance=guidance))
            compiled[guidance] = jax.jit(lambda params, signs: of_scale._denoise(params, signs)(x, jnp.full(1, 0.5)))
        return np.asarray(compiled[guidance](state.net.params["planner"], jnp.array(signs, jnp.float32)))

    null = guided([0, 0, 0])
    first, second = guided([1, 0, 0]), guided([0, 1, 0])
    assert min(np.abs(first - null).max(), np.abs(first - second).max()) > 1e-4
    np.testing.assert_allclose(guided([1, 0, 0], 1.7), null + 1.7 * (first - null), atol=1e-5)
    np.testing.assert_allclose(guided([1, 1, 0], 1.7), null + 1.7 * (first - null) + 1.7 * (second - null), atol=1e-5)
    np.testing.assert_allclose(guided([1, -1, 0], 1.7), null + 1.7 * (first - null) - 1.7 * (second - null), atol=1e-5)
    np.testing.assert_allclose(guided([1.7, 0, 0]), guided([1, 0, 0], 1.7), atol=1e-5)  # the sum of the same condition
    np.testing.assert_array_equal(guided([0, 0, 0], 1.7), null)


# --- what composition does to a density: walks' ends in a disc and in a ring, with exact denoisers ---

BANDWIDTH = 0.05
LEVELS = Karras(high=20.0)
SAMPLES = 1000
CONSTRAINTS_MET = [
    # (weight of the disc, of the ring), share with both met, share in the disc
    ((0.0, 0.0), 0.386, None),
    ((1.0, 0.0), 0.446, None),
    ((0.0, 1.0), 0.293, None),
    ((1.0, 1.0), 0.719, None),
    ((1.2, 1.2), 0.787, None),
    ((1.4, 1.4), 0.845, None),
    ((2.0, 2.0), 0.932, None),
    ((3.0, 3.0), 0.981, None),
    ((1.5, -1.5), 0.043, 1.0),
]


def exact(points):
    """The mean of the data given x, where the data are ``points`` [N, 2] with normal noise of BANDWIDTH around each."""

    def denoise(x, t):
        _, sigma = LEVELS.at(t)
        variance = sigma[:, None] ** 2 + BANDWIDTH**2
        distance = ((x[:, None] - points[None]) ** 2).sum(-1)
        nearest = jax.nn.softmax(-distance / (2 * variance)) @ points
        return nearest + BANDWIDTH**2 / variance * (x - nearest)

    return denoise


@functools.cache
def constrained():
    """A jitted function from the weights of the disc and the ring to the ends that are drawn, [SAMPLES, 2]."""
    rng = np.random.default_rng(37)  # 500 points of each, whose shares agree with those of the table's
    disc, ring = (jnp.asarray(walk.end_points(rng, 500, label), jnp.float32) for label in (0, 1))
    null = exact(jnp.concatenate([disc, ring]))

    @jax.jit
    def ends(weights):
        denoise = composed(null, [exact(disc), exact(ring)], [weights[0], weights[1]])
        x = jax.random.normal(jax.random.key(0), (SAMPLES, 2))
        return sample(heun(), denoise, LEVELS, x, 24, jax.random.key(1))

    return ends


@pytest.mark.parametrize(("weights", "both", "in_disc"), CONSTRAINTS_MET)
def test_constraints_are_met_together_as_far_as_exact_denoisers_can(weights, both, in_disc):
    met = walk.meets(np.asarray(constrained()(jnp.array(weights))))
    assert met.all(-1).mean() == pytest.approx(both, abs=0.04)
    if in_disc is not None:
        assert met[:, 0].mean() == pytest.approx(in_disc, abs=0.04)
