"""Dichotomy of control: what each reader may see, information by hand, what is chosen, and what luck is worth."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import luck

from agents import doc
from benchmarks import doc_table
from envs.toys import frozen_lake
from rlkit.buffer import Buffer, needs, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.networks import Steps
from rlkit.testing import random_episodes
from rlkit.types import InputError, Percept

SMALL = doc.Config(
    layers=1, head_width=8, mlp=16, widths=(16,), context=3, future=3, latent_size=4, candidates=5, batch_size=8,
    dropout=0.0, warmup=1,
)  # fmt: skip
CODES = dataclasses.replace(SMALL, latent="discrete")


def first_state(config, discrete=True):
    """(agent, untrained state, buffer) on random episodes."""
    data = from_episodes(random_episodes(discrete=discrete))
    stages = config.stages(spec(data, None), 1)
    buffer = Buffer.from_episodes(data, Normaliser.fit(data, DataOptions("toy")), needs(stages))
    agent = stages[0].learner
    return agent, agent.init(jax.random.key(0), None, stats(buffer)), buffer


def windows(agent, buffer, rows):
    c = agent.config
    batch = buffer.around(jnp.asarray(rows), c.context - 1, c.future, 1.0)
    return batch, agent._as_steps(batch, jnp.float32(1.0))


# --- what is seen ---


def changed_where(agent, state, method, window, part, step, **keywords):
    """Whether the answer of ``method`` changes with ``part`` of the window's step number ``step``."""
    leaf = getattr(window, part)
    other = window._replace(**{part: leaf.at[:, step].add(1)})

    @jax.jit
    def answer(steps):
        out = agent._model.apply(state.net.params, steps, *keywords.values(), method=method)
        return out if keywords else out._asdict()

    before, after = jax.tree.map(np.asarray, (answer(window), answer(other)))
    return jax.tree.map(lambda a, b: not np.array_equal(a, b), before, after)


@pytest.mark.parametrize("reader", ["transformer", "mlp"])
def test_a_belief_sees_what_is_known_when_it_is_held(reader):
    """The prior the past; the marginal the action too; the posterior all of it."""
    agent, state, buffer = first_state(dataclasses.replace(SMALL, reader=reader))
    _, window = windows(agent, buffer, [5, 30])
    present = 2
    cases = (
        ("obs", present, True, True, True),
        ("reward", present - 1, True, True, True),
        ("action", present - 1, True, True, True),
        ("action", present, False, True, True),
        ("reward", present, False, False, True),
        ("obs", present + 1, False, False, True),
        ("reward", present + 3, False, False, True),
    )
    for part, step, prior, marginal, posterior in cases:
        found = changed_where(agent, state, "beliefs", window, part, step)
        assert found == {"prior": prior, "marginal": marginal, "posterior": posterior}, (part, step)


@pytest.mark.parametrize("reader", ["transformer", "mlp"])
def test_the_policy_and_the_value_see_the_past_and_the_latent_alone(reader):
    agent, state, buffer = first_state(dataclasses.replace(SMALL, reader=reader))
    _, window = windows(agent, buffer, [5, 30])
    past = Steps(*(part[:, :3] for part in window))
    latent = jnp.ones((2, 1, 4))
    for part, step, seen in (("obs", 2, True), ("reward", 1, True), ("action", 2, False), ("reward", 2, False)):
        found = changed_where(agent, state, "answers", past, part, step, latent=latent)
        assert found == (seen, seen), (part, step)


@pytest.mark.parametrize("reader", ["transformer", "mlp"])
def test_what_is_not_seen_changes_nothing(reader):
    """Before the first step and after the last there is nothing, whatever stands there."""
    agent, state, buffer = first_state(dataclasses.replace(SMALL, reader=reader))
    for row in (0, 19):
        _, window = windows(agent, buffer, [row])
        unseen = jnp.logical_not(window.sees)
        assert unseen.any()
        other = Steps(
            jnp.where(unseen[..., :1], 7.0, window.obs),
            jnp.where(unseen[..., 1:2], 7.0, window.action),
            jnp.where(unseen[..., 2], 7.0, window.reward),
            window.t,
            window.sees,
        )
        before = agent._model.apply(state.net.params, window, method="beliefs")
        after = agent._model.apply(state.net.params, other, method="beliefs")
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("reader", ["transformer", "mlp"])
def test_acting_reads_what_training_reads(reader):
    """The same episode played step by step and cut out of the buffer: the prior is the same."""
    agent, state, buffer = first_state(dataclasses.replace(SMALL, reader=reader))
    state = state._replace(scale=jnp.float32(1.0))
    memory = agent.begin(state, None)
    for t in range(6):
        reward = buffer.reward[t - 1] if t else jnp.float32(0)
        memory = agent.observe(state, memory, Percept(buffer.obs[t], reward, jnp.int32(t)))
        remembered = Steps(*(part[None] for part in memory.steps))
        _, window = windows(agent, buffer, [t])
        past = Steps(*(part[:, :3] for part in window))
        played = agent._model.apply(state.net.params, remembered, method="prior")
        recorded = agent._model.apply(state.net.params, past, method="prior")
        np.testing.assert_allclose(played, recorded, atol=1e-5)
        taken = memory.steps.action.at[-1].set(jax.nn.one_hot(buffer.action[t], 3))
        memory = memory._replace(steps=memory.steps._replace(action=taken))


# --- information ---


def test_information_about_luck_by_hand():
    """Two rows of the same condition with codes (1, 0) and (0, 1): each is log 2 away from their mean. A third row has
    a condition of its own, so that its code tells nothing."""
    sure = 30.0
    logits = jnp.array([[sure, 0.0], [0.0, sure], [sure, 0.0]])
    condition = jnp.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]])
    found = doc.conditional_information(jax.nn.log_softmax(logits), condition)
    np.testing.assert_allclose(found, 2 / 3 * np.log(2), rtol=1e-5)
    unlike = doc.conditional_information(jax.nn.log_softmax(logits), jnp.arange(3.0)[:, None])
    assert abs(float(unlike)) < 1e-6


def test_the_bottleneck_is_the_exact_information_at_the_best_marginal_and_more_at_any_other():
    agent, _, _ = first_state(CODES)
    logits = jax.random.normal(jax.random.key(3), (6, 4))
    condition = jnp.array([0.0, 0.0, 0.0, 0.0, 1.0, 1.0])[:, None]
    exact = doc.conditional_information(jax.nn.log_softmax(logits), condition)
    q = jax.nn.softmax(logits)
    best = jnp.concatenate([jnp.tile(q[:4].mean(0), (4, 1)), jnp.tile(q[4:].mean(0), (2, 1))])
    np.testing.assert_allclose(agent.divergence(logits, jnp.log(best)).mean(), exact, rtol=1e-5)
    assert float(agent.divergence(logits, jnp.zeros((6, 4))).mean()) > float(exact)


def test_divergence_of_gaussians_by_hand():
    """Of N(1, 1) from N(0, 2): log 2 + (1 + 1) / 8 - 1 / 2."""
    agent, _, _ = first_state(dataclasses.replace(SMALL, latent_size=1))
    one, other = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, np.log(2)]])
    np.testing.assert_allclose(agent.divergence(one, other), [np.log(2) + 0.25 - 0.5], rtol=1e-5)
    np.testing.assert_array_equal(agent.divergence(one, one), [0.0])


def test_the_posterior_pays_for_luck_and_nobody_else_does():
    """The gradient of the constraint's price moves the posterior; that of the fit moves the marginal, at any price."""
    agent, _, _ = first_state(CODES)
    q, c = jnp.array([[1.0, 0.0, 0.0, 0.0]]), jnp.array([[0.0, 2.0, 0.0, 0.0]])
    for weight in (0.0, 5.0):
        to_q, to_c = jax.grad(agent._learnt, (0, 1))(q, c, weight)
        np.testing.assert_allclose(to_c, jax.nn.softmax(c) - jax.nn.softmax(q), atol=1e-6)
        plain = jax.grad(lambda q: agent.divergence(q, c).mean())(q)
        np.testing.assert_allclose(to_q, weight * plain, atol=1e-6)


# --- what is learnt, and what is chosen ---


def test_a_held_latent_is_not_learnt_from_beyond_the_end():
    """The drawn step is an episode's last: one step on there is nothing to imitate."""
    agent, state, buffer = first_state(dataclasses.replace(CODES, hold=2))
    batch, _ = windows(agent, buffer, [19, 19])
    learning = state._replace(net=state.net.params)
    beyond, one, both = (
        agent.losses(learning, batch, jnp.array(offset), jax.random.key(0)) for offset in ([1, 1], [0, 1], [0, 0])
    )
    assert beyond["policy/loss"] == 0 and beyond["value/loss"] == 0
    np.testing.assert_allclose(one["policy/loss"], both["policy/loss"], rtol=1e-5)


def test_the_losses_of_codes_are_expectations_by_hand():
    agent, state, buffer = first_state(CODES)
    batch, window = windows(agent, buffer, [4])
    state = state._replace(scale=jnp.float32(1.0))
    learning = state._replace(net=state.net.params)
    terms = agent.losses(learning, batch, jnp.array([0]), jax.random.key(0))
    to_go = batch.extra["return_to_go"]
    past = Steps(*(part[:, :3] for part in window))
    q = jax.nn.softmax(agent._model.apply(state.net.params, window, method="beliefs").posterior)[0]
    answer, value = agent._model.apply(state.net.params, past, jnp.eye(4)[None], method="answers")
    log_prob = jax.nn.log_softmax(answer[0])[:, batch.action[0, 2]]
    np.testing.assert_allclose(terms["policy/loss"], -(q * log_prob).sum(), rtol=1e-5)
    np.testing.assert_allclose(terms["value/loss"], (q * (value[0] - to_go[0, 2]) ** 2).sum(), rtol=1e-5)


def with_head(state, name, bias):
    """The state with the output bias of a head's last layer replaced, and its kernel 0."""
    params = jax.tree.map(lambda leaf: leaf, state.net.params)
    head = params["params"][name]
    for layer in head.values():
        layer = layer if "kernel" in layer else layer["Dense_0"]
        layer["kernel"] = jnp.zeros_like(layer["kernel"])
        layer["bias"] = bias
    return state._replace(net=state.net._replace(params=params))


def test_a_code_that_the_prior_never_gives_is_not_chosen_however_good_it_seems():
    agent, state, buffer = first_state(CODES)
    percept = Percept(buffer.obs[0], jnp.float32(0), jnp.int32(0))
    memory = agent.observe(state, agent.begin(state, None), percept)
    latent, value = agent.choose(state, memory, jax.random.key(0))
    past = Steps(*(part[None] for part in memory.steps))
    _, values = agent._model.apply(state.net.params, past, jnp.eye(4)[None], method="answers")
    best = int(np.argmax(values[0]))
    assert int(jnp.argmax(latent)) == best
    np.testing.assert_allclose(value, values[0, best] * state.scale, rtol=1e-5)
    dead = with_head(state, "prior_head", jnp.zeros(4).at[best].set(-20.0))
    latent, value = agent.choose(dead, memory, jax.random.key(0))
    second = int(np.argsort(np.asarray(values[0]))[-2])
    assert int(jnp.argmax(latent)) == second
    np.testing.assert_allclose(value, values[0, second] * state.scale, rtol=1e-5)


def test_a_latent_is_followed_for_as_long_as_it_is_held():
    agent, state, buffer = first_state(dataclasses.replace(SMALL, hold=3))
    memory, followed = agent.begin(state, None), []
    for t in range(6):
        memory = agent.observe(state, memory, Percept(buffer.obs[t], jnp.float32(0), jnp.int32(t)))
        _, memory = agent.act(state, memory, jax.random.key(t), greedy=True)
        followed.append(np.asarray(memory.latent))
    same = [bool((a == b).all()) for a, b in zip(followed, followed[1:], strict=False)]
    assert same == [True, True, False, True, True]


def test_settings_that_contradict_each_other_are_refused_in_one_line():
    data = from_episodes(random_episodes())
    form = spec(data, None)
    for changes, message in (
        ({"constraint": "exact-mi"}, "doc: exact-mi counts codes"),
        ({"constraint": "exact-mi", "latent": "discrete"}, "doc: exact-mi counts actions"),
        ({"hold": 9}, "doc: a latent held for 9 steps needs --config.future 8 or more"),
        ({"widths": ()}, "doc: --config.widths is empty"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(SMALL, **changes).stages(form, 1)


def test_readers_and_heads_are_those_of_the_paper():
    """Three transformers of 3 layers and width 128, and two heads of 160 - 256 - 256."""
    data = from_episodes(random_episodes(discrete=True))
    agent = doc.PRESETS["paper"].config.stages(spec(data, None), 1)[0].learner
    shapes = jax.eval_shape(agent.init, jax.random.key(0), None, _moments())
    params = shapes.net.params["params"]
    size = {name: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    block = 4 * 128 * 128 + 4 * 128 + 2 * 128 * 512 + 512 + 128 + 4 * 128
    for reader in ("past_reader", "prior_reader", "future_reader"):
        assert size[reader] == 3 * block + 2 * 128
    head = 160 * 256 + 256 + 256 * 256 + 256
    assert size["policy_head"] == head + 256 * 3 + 3 and size["value_head"] == head + 256 + 1


def _moments():
    return stats(first_state(SMALL)[2])


# --- luck ---


@pytest.mark.slow
@pytest.mark.learning
def test_asking_for_luck_and_cloning_earn_what_the_frequencies_say():
    """Asking for 1 picks either arm half of the time; a clone earns 2 p (1 - p)."""
    p = np.array(luck.CHANCES)
    asked, _ = luck.played_bandits(luck._dt(1.0), 0)
    share = (asked - p) / (1 - 2 * p)
    assert ((share > 0.42) & (share < 0.58)).all()
    cloned, _ = luck.played_bandits(luck.CLONE, 0)
    np.testing.assert_allclose(cloned, 2 * p * (1 - p), atol=0.03)


# --- the slippery lake ---


def test_the_lake_by_hand():
    mdp = frozen_lake.lake()
    np.testing.assert_allclose(mdp.transition.sum(-1), 1.0)
    down_from_start = {0: 1 / 3, 1: 1 / 3, 4: 1 / 3}  # across are left, into the bank, and right
    assert {k: pytest.approx(v) for k, v in down_from_start.items()} == {
        int(k): mdp.transition[0, 1, k] for k in np.flatnonzero(mdp.transition[0, 1])
    }
    before_goal = mdp.transition[14, 2]
    np.testing.assert_allclose(before_goal[[10, 14, 15]], 1 / 3)
    always_right = np.tile(np.eye(4)[2], (16, 1))
    only_goal = mdp._replace(start=np.eye(16)[14])
    # each step arrives, goes up to place 10, or stays; from 10 right leads to the hole at 11, up to 6 or down to 14
    assert 1 / 3 < frozen_lake.success(always_right, only_goal) < 1
    assert frozen_lake.success(mdp.optimal()) == pytest.approx(frozen_lake.references()[1])
    assert frozen_lake.success(mdp.optimal()) > 0.7 > 0.05 > frozen_lake.success(mdp.uniform())


def test_success_is_what_played_episodes_come_to():
    """1500 recorded episodes of the recorded policy, of which the exact share is 0.0985: four standard errors."""
    exact = frozen_lake.success(frozen_lake.lake().clinician)
    returns = [episode["rewards"].sum() for episode in frozen_lake.record(1500)]
    assert abs(np.mean(returns) - exact) < 4 * np.sqrt(exact * (1 - exact) / 1500)


def test_the_table_has_all_its_rows_and_the_page_shows_it():
    page = (doc_table.TABLE.parents[2] / "docs" / "sequence.md").read_text()
    assert doc_table.rendered(doc_table.TABLE) in page
