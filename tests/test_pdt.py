"""PDT: which steps a future is made of, what learns from what, and how futures are chosen."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import pdt
from rlkit import networks
from rlkit.buffer import Buffer, needs, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.testing import bits, one_device, random_episodes
from rlkit.training.loop import fit
from rlkit.types import InputError, Percept

SMALL = pdt.Config(
    latent=3,
    layers=2,
    heads=2,
    head_width=4,
    mlp=16,
    context=4,
    acting_context=3,
    batch_size=8,
    dropout=0.0,
    warmup=1,
    candidates=16,
    pretrain_steps=3,
)
TRAINED = dataclasses.replace(SMALL, layers=1)  # compiles in less time
KEY = jax.random.key(0)


def prepare(config, data=None, steps=2, **options):
    """(stages, buffer, statistics) of ``config`` on ``data``."""
    data = data or from_episodes(random_episodes())
    normaliser = Normaliser.fit(data, DataOptions("toy", **options))
    stages = config.stages(spec(data, None, normaliser), steps)
    buffer = Buffer.from_episodes(data, normaliser, needs(stages))
    return stages, buffer, stats(buffer)


def first_state(config, **options):
    """(learner of the second stage, its state before any update, buffer)."""
    stages, buffer, moments = prepare(config, **options)
    state = stages[0].learner.init(KEY, None, moments)
    agent = stages[1].learner
    return agent, agent.init(KEY, state, moments), buffer


def test_parameters_at_the_papers_size():
    size = networks.TransformerSize(4, 4, 128, 2048, 0.1)
    obs, action, latent, valid = (jnp.zeros((1, 2, n)) for n in (11, 3, 16, 1))
    modules = {
        "policy": (networks.FuturePolicy(3, size), (obs, latent, action)),
        "encoder": (networks.FutureEncoder(16, size, backwards=True), (obs, action, valid[..., 0] == 0)),
        "prior": (networks.GaussianHead(16, "clip"), (jnp.zeros((1, 512)),)),
        "returns": (networks.GaussianHead(1, "clip"), (jnp.zeros((1, 1024)),)),
    }
    counts = {}
    for name, (module, inputs) in modules.items():
        params = jax.eval_shape(module.init, KEY, *inputs)
        counts[name] = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert counts == {"policy": 12_631_558, "encoder": 12_636_192, "prior": 16_416, "returns": 2_050}
    assert sum(counts.values()) == 25_286_216


# --- which steps a future is made of ---


def seen_by(agent, state, batch):
    """[K, 2 K] bool: on which steps of the window the future of each step of the context depends."""
    encode = jax.jit(agent._futures)
    futures = encode(state.net.params, batch, KEY)
    seen = np.zeros((agent.config.context, batch.mask.shape[1]), bool)
    for step in range(batch.mask.shape[1]):
        changed = batch._replace(obs=batch.obs.at[:, step].add(1.0))
        moved = np.abs(encode(state.net.params, changed, KEY).mean - futures.mean).max((0, 2))
        seen[:, step] = moved > 1e-6
    return seen


def windows(buffer, t, context=4):
    """The window whose context ends at step ``t`` of the first episode, which has 20 steps."""
    return buffer.around(jnp.array([t]), context - 1, context, 1.0)


def test_a_future_begins_at_the_next_step():
    agent, state, buffer = first_state(SMALL)
    step, other = np.arange(4)[:, None], np.arange(8)[None]
    np.testing.assert_array_equal(seen_by(agent, state, windows(buffer, 9)), other > step)
    # two steps follow the context's last one, what stands behind them is padding
    late = windows(buffer, 17)
    np.testing.assert_array_equal(seen_by(agent, state, late), (other > step) & (other < 6))
    assert agent._futures(state.net.params, late, KEY).mask.tolist() == [[True] * 4]
    # nothing follows the last step of the episode, nothing is before its first
    assert agent._futures(state.net.params, windows(buffer, 19), KEY).mask.tolist() == [[True, True, True, False]]
    assert agent._futures(state.net.params, windows(buffer, 1), KEY).mask.tolist() == [[False, False, True, True]]


def test_the_released_layout():
    """Step j sees the first j + 1 places behind the context, whose real steps stand at the right end."""
    agent, state, buffer = first_state(dataclasses.replace(SMALL, layout="released"))
    step, other = np.arange(4)[:, None], np.arange(8)[None]
    np.testing.assert_array_equal(seen_by(agent, state, windows(buffer, 9)), (other >= 4) & (other <= step + 4))
    seen = seen_by(agent, state, windows(buffer, 17))  # two steps follow: at the third and the fourth place
    np.testing.assert_array_equal(seen[2:, 4:6], [[True, False], [True, True]])
    assert not seen[:, :4].any() and not seen[:2, 4:6].any()
    assert agent._futures(state.net.params, windows(buffer, 19), KEY).mask.tolist() == [[True] * 4]


def test_what_stands_beyond_an_episode_changes_no_term():
    agent, state, buffer = first_state(SMALL)
    batch = buffer.around(jnp.array([1, 17]), 3, 4, 1.0)
    beyond = ~batch.mask[..., None]
    other = batch._replace(obs=batch.obs + beyond, action=jnp.where(beyond, 0.5, batch.action))
    terms_of = jax.jit(agent.terms)
    terms = [terms_of(state.net.params, state.scale, windows, KEY) for windows in (batch, other)]
    np.testing.assert_allclose(*terms, atol=1e-5)


# --- what learns from what ---


def test_the_terms_of_a_half_masked_batch_by_hand():
    agent, state, buffer = first_state(SMALL)
    params = state.net.params
    batch = buffer.around(jnp.array([1, 19]), 3, 4, 1.0)
    terms = agent.terms(params, state.scale, batch, KEY)
    futures = agent._futures(params, batch, KEY)
    mask = np.array([[False, False, True, True], [True, True, True, False]])
    np.testing.assert_array_equal(futures.mask, mask)

    mean, log_std = np.float64(futures.mean), np.float64(futures.log_std)
    divergence = 0.5 * (np.exp(2 * log_std) + mean**2 - 1) - log_std
    np.testing.assert_allclose(terms.regulariser, divergence.mean(-1)[mask].mean(), rtol=1e-5)

    prior_mean, prior_log_std = (np.float64(x) for x in agent._prior_of(params, batch.obs[:, :4]))
    ratio = (np.exp(2 * log_std) + (mean - prior_mean) ** 2) / np.exp(2 * prior_log_std)
    divergence = prior_log_std - log_std + 0.5 * (ratio - 1)
    np.testing.assert_allclose(terms.prior, divergence.mean(-1)[mask].mean(), rtol=1e-4)

    noise = jax.random.normal(jax.random.split(KEY, 4)[1], mean.shape)
    latent = futures.mean + jnp.exp(futures.log_std) * noise
    predicted, log_spread = (np.float64(x[..., 0]) for x in agent._returns_of(params, batch.obs[:, :4], latent))
    error = np.float64(batch.extra["return_to_go"][:, :4] / state.scale) - predicted
    surprise = 0.5 * (error / np.exp(log_spread)) ** 2 + log_spread + 0.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(terms.returns, surprise[mask].mean(), rtol=1e-4)


def test_the_priors_loss_is_none_of_the_encoders_business():
    agent, state, buffer = first_state(SMALL)
    batch = windows(buffer, 9)

    def gradient(term):
        def loss(params):
            return getattr(agent.terms(params, state.scale, batch, KEY), term)

        return jax.jit(jax.grad(loss))(state.net.params)

    of_prior = gradient("prior")
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_prior["encoder"]))
    assert all(leaf.any() for leaf in jax.tree.leaves(of_prior["prior"]))
    for term in ("likelihood", "regulariser", "returns"):
        assert any(leaf.any() for leaf in jax.tree.leaves(gradient(term)["encoder"])), term


def after(stages, buffer, moments):
    """The states of seed 0 at the end of each stage."""
    progress = fit(stages, buffer, moments, (0,), log_every=1, mesh=one_device())
    states = {}
    for point in progress:
        states[point.stage] = jax.tree.map(lambda leaf: np.asarray(leaf[0]), point.state)
    return [states[number] for number in range(len(stages))]


def test_the_first_stage_sees_no_reward():
    """Whatever is added to every reward, its bits are the same; those of the second stage are not."""
    stages, *data = prepare(TRAINED)
    _, *shifted_data = prepare(TRAINED, reward_shift=3.0)
    plain, shifted = after(stages, *data), after(stages, *shifted_data)
    assert bits(plain[0]) == bits(shifted[0])
    assert bits(plain[1].net.params["returns"]) != bits(shifted[1].net.params["returns"])


@pytest.mark.parametrize(
    ("learns", "moved"),
    [
        ("all", {"policy", "encoder", "prior", "returns"}),
        ("all-but-prior", {"policy", "encoder", "returns"}),
        ("returns", {"returns"}),
    ],
)
def test_a_network_that_is_held_keeps_its_bits(learns, moved):
    """LAMB's weight decay moves what has no gradient, too."""
    stages, buffer, moments = prepare(dataclasses.replace(TRAINED, learns=learns))
    start = stages[0].learner.init(KEY, None, moments).net.params
    pretrained, end = (state.net.params for state in after(stages, buffer, moments))
    names = set(start)
    assert {name for name in names if bits(pretrained[name]) != bits(end[name])} == moved
    untouched = dataclasses.replace(stages[0], steps=1)
    first = after((untouched,), buffer, moments)[0].net.params
    assert {name for name in names if bits(first[name]) == bits(pretrained[name])} == {"returns"}


def test_the_second_stage_goes_on_with_the_optimiser_and_has_the_returns_scale():
    stages, buffer, moments = prepare(TRAINED)
    (pretrained,) = after(stages[:1], buffer, moments)
    state = stages[1].learner.init(KEY, pretrained, moments)
    assert bits(state.net) == bits(pretrained.net)
    assert bits(state.log_temperature) == bits(pretrained.log_temperature)
    counts = [leaf for leaf in jax.tree.leaves(state.net.opt) if leaf.dtype == np.int32]
    assert counts and all(count == 3 for count in counts)
    np.testing.assert_allclose(state.scale, np.abs(moments.returns).max())
    given = prepare(dataclasses.replace(TRAINED, return_scale=50.0))[0][1].learner
    assert given.init(KEY, pretrained, moments).scale == 50


# --- acting ---


def observed(agent, state, steps):
    """The memories after each of ``steps`` actions."""
    memory, memories = agent.begin(state, None), []
    for t in range(steps):
        memory = agent.observe(state, memory, Percept(jnp.full(3, float(t)), jnp.float32(0), jnp.int32(t)))
        _, memory = agent.act(state, memory, jax.random.fold_in(KEY, t), greedy=True)
        memories.append(memory)
    return memories


def test_futures_that_were_followed_are_remembered():
    agent, state, _ = first_state(SMALL)
    memories = observed(agent, state, 5)
    assert memories[1].t.tolist() == [0, 1, 0] and not memories[1].latent[2].any()
    assert memories[4].t.tolist() == [2, 3, 4] and memories[4].obs[:, 0].tolist() == [2, 3, 4]
    followed = [memories[t].latent[min(t, 2)] for t in (2, 3, 4)]
    np.testing.assert_array_equal(memories[4].latent, np.stack(followed))
    assert len(np.unique(np.stack(followed), axis=0)) == 3
    # the action depends on the futures of the steps before
    memory = agent.observe(state, memories[1], Percept(jnp.full(3, 2.0), jnp.float32(0), jnp.int32(2)))
    action, _ = agent.act(state, memory, KEY, greedy=True)
    other, _ = agent.act(state, memory._replace(latent=memory.latent.at[0].add(1.0)), KEY, greedy=True)
    assert np.abs(action - other).max() > 1e-6


def test_the_best_of_the_candidates_is_followed():
    agent, state, _ = first_state(SMALL)
    obs, params = jnp.ones(3), state.net.params
    many = jnp.ones((16, 3))
    mean, log_std = agent._prior_of(params, many)
    drawn = mean + jnp.exp(log_std) * jax.random.normal(KEY, mean.shape)
    predicted, _ = agent._returns_of(params, many, drawn)
    order = np.argsort(-predicted[:, 0])
    for pick in (1, 2, 16):
        picking = dataclasses.replace(agent, config=dataclasses.replace(SMALL, pick=pick))
        np.testing.assert_allclose(picking.choose(state, obs, KEY), drawn[order[pick - 1]], atol=1e-6)


def test_with_one_candidate_it_is_the_pretrained_policy():
    config = dataclasses.replace(SMALL, candidates=1)
    stages, _, moments = prepare(config)
    state = stages[0].learner.init(KEY, None, moments)
    memory = stages[0].learner.observe(
        state, stages[0].learner.begin(state, None), Percept(jnp.ones(3), jnp.float32(0), jnp.int32(0))
    )
    actions = [stage.learner.act(state, memory, KEY, greedy=True)[0] for stage in stages]
    np.testing.assert_array_equal(*actions)


def test_a_policy_that_is_not_told_acts_the_same_whatever_the_future():
    obs, action, valid = jnp.ones((1, 2, 3)), jnp.zeros((1, 2, 2)), jnp.ones((1, 2), bool)
    for told in (True, False):
        agent, state, _ = first_state(dataclasses.replace(SMALL, told=told))
        params = state.net.params["policy"]
        answers = [
            agent._policy.apply(params, obs, jnp.full((1, 2, 3), z), action, valid, told=told)[0] for z in (0.0, 1.0)
        ]
        assert (np.abs(answers[0] - answers[1]).max() > 1e-4) == told


def test_what_it_cannot_serve_is_refused():
    with pytest.raises(InputError, match="pdt: --config.acting-context 99: the model is trained on"):
        prepare(dataclasses.replace(SMALL, acting_context=99))
    with pytest.raises(InputError, match="pdt: pick 17 of 16 candidates"):
        prepare(dataclasses.replace(SMALL, pick=17))
    with pytest.raises(InputError, match="pdt needs amounts as actions, and these are 3 choices"):
        prepare(SMALL, from_episodes(random_episodes(discrete=True)))
