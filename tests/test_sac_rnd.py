"""SAC-RND: its losses by hand, its limits, and the toys on which the naive conditioning fails."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents.sac_rnd import RND, Config
from rlkit import loop
from rlkit.buffer import Buffer, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes
from rlkit.networks import tanh_normal_sample
from rlkit.sharding import make_mesh
from rlkit.types import Box, InputError, Spec, Stats, Transitions

SPEC = Spec(Box((3,), (-np.inf,) * 3, (np.inf,) * 3), Box((2,), (-1.0,) * 2, (1.0,) * 2), 10)
STATS = Stats(*(jnp.asarray(x) for x in ([0.5, 0, -1], [1.0, 2, 3], [0.1, -0.1], [0.5, 0.4])))
SMALL = Config(widths=(8, 8), rnd_width=8, rnd_embedding=4, batch_size=3)


def batch(rows=3, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    return Transitions(
        obs=jax.random.normal(keys[0], (rows, 3)),
        action=jnp.tanh(jax.random.normal(keys[1], (rows, 2))),
        reward=jnp.arange(rows, dtype=jnp.float32),
        discount=jnp.where(jnp.arange(rows) == 1, 0.0, 0.99),
        next_obs=jax.random.normal(keys[2], (rows, 3)),
        extra={},
    )


@pytest.fixture(scope="module")
def trained():
    """(config, rnd learner, sac learner, their states) after two updates of the predictor."""
    rnd_stage, sac_stage = SMALL.stages(SPEC, 10)
    rnd, sac = rnd_stage.learner, sac_stage.learner
    state = rnd.init(jax.random.key(0), None, STATS)
    for step in range(2):
        state, _ = rnd.update(state, batch(seed=step), jax.random.key(1), step)
    return rnd, sac, state, sac.init(jax.random.key(2), state, STATS)


def with_beta(sac, beta, critic_beta=None):
    return dataclasses.replace(sac, config=dataclasses.replace(sac.config, beta=beta, critic_beta=critic_beta))


def test_the_bonus_is_the_summed_square_over_the_running_deviation_of_the_stream(trained):
    rnd, _, end, _ = trained
    state, errors = rnd.init(jax.random.key(0), None, STATS), []
    for step in range(2):
        errors.append(
            rnd.error(state.predictor.params, state.prior, STATS, batch(seed=step).obs, batch(seed=step).action)
        )
        state, _ = rnd.update(state, batch(seed=step), jax.random.key(1), step)
    stream = np.concatenate(errors).astype(np.float64)
    # Welford's accumulation starts from a count of 1e-4 at zero, hence the tolerance
    np.testing.assert_allclose(end.var, stream.var(), rtol=1e-3)
    np.testing.assert_allclose(end.mean, stream.mean(), rtol=1e-3)
    obs = (batch().obs - STATS.obs_mean[None]) / STATS.obs_std[None]
    action = (batch().action - STATS.action_mean[None]) / STATS.action_std[None]
    prediction = rnd._network("bilinear_first").apply(end.predictor.params, action, obs)
    target = rnd._network("film_last").apply(end.prior, action, obs)
    by_hand = np.square(np.asarray(prediction - target)).sum(1) / np.sqrt(end.var)
    np.testing.assert_allclose(rnd.bonus(end, batch().obs, batch().action), by_hand, rtol=1e-5)


@pytest.mark.slow
def test_the_prior_never_moves_and_the_bonus_is_frozen_during_sac(trained):
    rnd, sac, end, state = trained
    start = rnd.init(jax.random.key(0), None, STATS)
    assert all(map(np.array_equal, jax.tree.leaves(start.prior), jax.tree.leaves(end.prior)))
    after, _ = sac.update(state, batch(), jax.random.key(3), 0)
    assert all(map(np.array_equal, jax.tree.leaves(end), jax.tree.leaves(after.rnd)))


def test_without_a_bonus_the_losses_are_those_of_plain_sac_bit_for_bit(trained):
    _, sac, _, state = trained
    plain, data, key, alpha = with_beta(sac, 0.0), batch(), jax.random.key(4), jnp.float32(0.7)
    action, log_prob = tanh_normal_sample(*sac._actor.apply(state.actor.params, data.obs), key)
    q = sac._critic.apply(state.critic.params, data.obs, action).squeeze(-1).min(0)
    assert plain.actor_loss(state.actor.params, state, alpha, data, key)[0] == (alpha * log_prob - q).mean()
    action, log_prob = tanh_normal_sample(*sac._actor.apply(state.actor.params, data.next_obs), key)
    q = sac._critic.apply(state.target, data.next_obs, action).squeeze(-1).min(0)
    target = data.reward + data.discount * (q - alpha * log_prob)
    assert np.array_equal(plain.target_value(state, alpha, data, key), target)
    assert target[1] == data.reward[1]  # terminal: nothing but the reward


def test_each_beta_weighs_the_bonus_in_its_own_place(trained):
    rnd, sac, end, state = trained
    data, key, alpha = batch(), jax.random.key(4), jnp.float32(0.7)
    none, some = with_beta(sac, 0.0), with_beta(sac, 2.0, critic_beta=0.5)
    action, _ = tanh_normal_sample(*sac._actor.apply(state.actor.params, data.obs), key)
    gap = some.actor_loss(state.actor.params, state, alpha, data, key)[0]
    gap -= none.actor_loss(state.actor.params, state, alpha, data, key)[0]
    np.testing.assert_allclose(gap, 2 * rnd.bonus(end, data.obs, action).mean(), rtol=1e-4)
    action, _ = tanh_normal_sample(*sac._actor.apply(state.actor.params, data.next_obs), key)
    gap = none.target_value(state, alpha, data, key)
    gap -= some.target_value(state, alpha, data, key)
    np.testing.assert_allclose(gap, 0.5 * data.discount * rnd.bonus(end, data.next_obs, action), rtol=1e-4, atol=1e-6)


def test_the_actor_feels_the_bonus(trained):
    _, sac, _, state = trained

    def gradient(beta):
        loss = with_beta(sac, beta).actor_loss
        return jax.grad(loss, has_aux=True)(state.actor.params, state, jnp.float32(0), batch(), jax.random.key(5))[0]

    difference = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), gradient(0.0), gradient(1.0))
    assert max(jax.tree.leaves(difference)) > 1e-4


def test_the_critics_see_the_new_actor_the_old_temperature_and_the_old_targets(trained):
    _, sac, _, state = trained
    after, metrics = sac.update(state, batch(), jax.random.key(6), 0)
    _, critic_key = jax.random.split(jax.random.key(6))
    old_alpha = jnp.exp(state.log_alpha.params)
    target = sac.target_value(state._replace(actor=after.actor), old_alpha, batch(), critic_key)
    loss, _ = sac.critic_loss(state.critic.params, target, batch())
    np.testing.assert_allclose(metrics["critic/loss"], loss, rtol=1e-5)
    stale = sac.target_value(state, jnp.exp(after.log_alpha.params), batch(), critic_key)
    assert not np.allclose(stale, target, rtol=1e-5)
    moved = jax.tree.map(lambda t, q: 0.995 * t + 0.005 * q, state.target, after.critic.params)
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(after.target), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_the_critic_loss_sums_over_critics_and_averages_over_rows(trained):
    _, sac, _, state = trained
    data, target = batch(), jnp.array([1.0, -2.0, 0.5])
    q = np.asarray(sac._critic.apply(state.critic.params, jnp.concatenate([data.obs, data.action], -1)))[..., 0]
    by_hand = sum(np.mean([(q[i, b] - target[b]) ** 2 for b in range(3)]) for i in range(2))
    np.testing.assert_allclose(sac.critic_loss(state.critic.params, target, data)[0], by_hand, rtol=1e-5)


@pytest.mark.parametrize("prior_gradient", [False, True])
def test_the_gradient_of_the_bonus_passes_through_the_prior_only_if_asked(trained, prior_gradient):
    rnd, _, end, _ = trained
    rnd = RND(dataclasses.replace(rnd.config, prior_gradient=prior_gradient))
    obs, start = rnd._inputs(STATS, batch().obs, batch().action)[1], batch().action

    def by_hand(action):
        feature, fixed = ((x - STATS.action_mean[None]) / STATS.action_std[None] for x in (action, start))
        prediction = rnd._network("bilinear_first").apply(end.predictor.params, feature, obs)
        target = rnd._network("film_last").apply(end.prior, feature if prior_gradient else fixed, obs)
        return (((prediction - target) ** 2).sum(-1) / jnp.sqrt(end.var)).sum()

    gradient = jax.grad(lambda action: rnd.bonus(end, batch().obs, action).sum())(start)
    np.testing.assert_allclose(gradient, jax.grad(by_hand)(start), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("entropy, direction", [(-5.0, 1), (3.0, -1)])
def test_the_temperature_rises_when_entropy_is_below_its_target(trained, entropy, direction):
    _, sac, _, _ = trained
    gradient = jax.grad(lambda p: sac.alpha_loss(p, jnp.float32(entropy))[0])(jnp.float32(0.3))
    np.testing.assert_allclose(gradient, np.exp(0.3) * (entropy + 2), rtol=1e-5)  # target: minus two dimensions
    assert np.sign(-gradient) == direction


def test_unbounded_actions_are_refused():
    unbounded = dataclasses.replace(SPEC, action=Box((2,), (-np.inf,) * 2, (np.inf,) * 2))
    with pytest.raises(InputError, match="bounded"):
        SMALL.stages(unbounded, 1)


# The toys: four states in one-hot code and one corner of the action square for each (card, section 10).
CORNERS = jnp.array([[0.6, 0.6], [0.6, -0.6], [-0.6, 0.6], [-0.6, -0.6]])
NAIVE = {"predictor": "concat_first", "prior": "concat_first", "action_is_feature": False}


def bandit(rows, corner_of, spread, reward_of, seed):
    """A buffer of one-step episodes (obs = state, terminal at once) and its statistics."""
    rng = np.random.default_rng(seed)
    state = rng.integers(0, 4, rows)
    centre = corner_of(rng, state)
    action = np.clip(centre + spread * rng.normal(size=(rows, 2)), -1, 1).astype(np.float32)
    one_hot = np.eye(4, dtype=np.float32)[state]
    reward = reward_of(state, action).astype(np.float32)
    episodes = [
        {
            "observations": np.stack([one_hot[i]] * 2),
            "actions": action[i : i + 1],
            "rewards": reward[i : i + 1],
            "terminations": np.array([True]),
        }
        for i in range(rows)
    ]
    data = from_episodes(episodes)
    buffer = Buffer.from_episodes(data, Normaliser.fit(data, DataOptions(dataset="bandit")))
    return buffer, stats(buffer)


def last(progress):
    *_, end = progress
    return end.state


@pytest.fixture(scope="module")
def descended():
    """name -> [share that arrives, bonus at the start, bonus on the data, bonus at the end] of toy A, [5] each."""
    buffer, moments = bandit(4096, lambda rng, s: np.asarray(CORNERS)[s], 0.05, lambda s, a: a[:, 0], seed=0)
    states, corners = jnp.repeat(jnp.eye(4), 100, 0), jnp.repeat(CORNERS, 100, 0)
    spec = dataclasses.replace(SPEC, observation=Box((4,), (0.0,) * 4, (1.0,) * 4))

    def descend(rnd, state, key):
        """400 Adam steps on 100 squashed actions for each state."""
        raw = jnp.arctanh(jax.random.uniform(key, (400, 2), minval=-0.99, maxval=0.99))
        optimiser = optax.adam(0.03)

        def step(carry, _):
            raw, opt = carry
            gradient = jax.grad(lambda u: rnd.bonus(state, states, jnp.tanh(u)).sum())(raw)
            updates, opt = optimiser.update(gradient, opt)
            return (raw + updates, opt), None

        (end, _), _ = jax.lax.scan(step, (raw, optimiser.init(raw)), None, 400)
        arrived = jnp.linalg.norm(jnp.tanh(end) - corners, axis=-1) < 0.25
        actions = (jnp.tanh(raw), corners, jnp.tanh(end))
        return [arrived.mean(), *(rnd.bonus(state, states, action).mean() for action in actions)]

    def run(*variants):
        """Train once, since the variants differ in the descent alone; then descend under each."""
        config = dataclasses.replace(
            variants[0], batch_size=256, rnd_width=64, rnd_learning_rate=1e-3, rnd_steps=1500, widths=(8,)
        )
        (stage, _) = config.stages(spec, 1)
        mesh = make_mesh(1, jax.devices()[:1])
        trained = last(loop.fit([stage], buffer, moments, range(5), log_every=1500, mesh=mesh))
        keys = jax.random.split(jax.random.key(9), 5)
        learners = [RND(dataclasses.replace(config, prior_gradient=v.prior_gradient)) for v in variants]
        return [np.asarray(jax.jit(jax.vmap(lambda s, k: descend(r, s, k)))(trained, keys)) for r in learners]  # noqa: B023

    naive, naive_full = run(Config(**NAIVE), Config(**NAIVE, prior_gradient=True))
    return {"film": run(Config())[0], "naive": naive, "naive, full gradient": naive_full}


@pytest.mark.learning
def test_toy_a_the_conditioned_bonus_leads_actions_to_the_data_and_the_concatenated_one_does_not(descended):
    """Card: 0.91 (0.81 to 0.98) of random actions end within 0.25 of the data's corner under FiLM and bilinear layers,
    0.38 (0.08 to 0.76) under concatenation; means of five seeds, since single seeds overlap."""
    film, naive = descended["film"][0], descended["naive"][0]
    assert film.mean() >= 0.75
    assert film.mean() - naive.mean() >= 0.2


@pytest.mark.learning
def test_toy_a_concatenation_fails_by_the_gradient_not_by_the_bonus(descended):
    """Both bonuses separate random actions from the data by more than 500 times (card), and the same concatenated one
    leads to the data once the gradient passes through the prior too."""
    for _, random, data, _ in (descended["film"], descended["naive"]):
        assert random.mean() > 500 * data.mean()
    assert descended["naive, full gradient"][0].mean() >= 0.9


@pytest.mark.learning
def test_toy_b_beta_must_match_the_scale_of_q(mesh):
    """Card: a cliff past the edge of the good corner. Q alone falls off (-1), beta = 100 stays on (0.71, the mean
    of three seeds; staying in support at random would give 0.51); with concatenation it does not always (0.38)."""
    radius = 0.25

    def reward_of(state, action):
        good = np.asarray(CORNERS)[state]
        offset, outward = action - good, good / np.linalg.norm(good, axis=-1, keepdims=True)
        inside = np.linalg.norm(offset, axis=-1) < radius
        poor = np.linalg.norm(action + good, axis=-1) < radius
        return np.where(inside, 1 + 0.8 * (offset * outward).sum(-1), np.where(poor, 0.3, -1.0))

    def corner_of(rng, state):
        return np.asarray(CORNERS)[state] * np.where(rng.random((len(state), 1)) < 0.3, 1, -1)

    buffer, moments = bandit(4096, corner_of, 0.05, reward_of, seed=1)
    spec = dataclasses.replace(SPEC, observation=Box((4,), (0.0,) * 4, (1.0,) * 4))

    def score(beta, **conditioning):
        config = Config(
            **conditioning, beta=beta, widths=(64, 64),
            batch_size=256, rnd_width=64, rnd_learning_rate=1e-3, rnd_steps=1500,
            initial_alpha=1e-3, alpha_learning_rate=0.0, critic_layer_norm=False,
        )  # fmt: skip
        stages = config.stages(spec, 3000)
        trained = last(loop.fit(stages, buffer, moments, (0, 1, 2), log_every=1500, mesh=mesh))
        act = jax.vmap(lambda s: jax.vmap(lambda o: stages[-1].learner.act(s, o, None, greedy=True)[0][0])(jnp.eye(4)))
        return np.array([reward_of(np.arange(4), np.asarray(a)).mean() for a in act(trained)])

    assert score(0.0).mean() == pytest.approx(-1, abs=0.05)
    conditioned, naive = score(100.0), score(100.0, **NAIVE)
    assert conditioned.mean() >= 0.6
    assert conditioned.mean() - naive.mean() >= 0.2
