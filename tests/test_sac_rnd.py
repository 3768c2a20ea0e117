"""SAC-RND: its losses by hand, and its limits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import bits

from agents.sac_rnd import RND, Config
from rlkit.networks import tanh_normal_sample
from rlkit.online import Online
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
    """(rnd learner, sac learner, their states) after two updates of the predictor; the targets are not the critics."""
    rnd_stage, sac_stage = SMALL.stages(SPEC, 10)
    rnd, sac = rnd_stage.learner, sac_stage.learner
    state = rnd.init(jax.random.key(0), None, STATS)
    for step in range(2):
        state, _ = rnd.update(state, batch(seed=step), jax.random.key(1), step)
    first = sac.init(jax.random.key(2), state, STATS)
    return rnd, sac, state, first._replace(target=jax.tree.map(lambda x: 3 * x, first.target))


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
    assert bits(start.prior) == bits(end.prior)
    after, _ = sac.update(state, batch(), jax.random.key(3), 0)
    assert bits(end) == bits(after.rnd)


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


def online_learner(before=1.0, left=0.25, updates=5):
    """The learner of an online stage of so many updates."""
    config = dataclasses.replace(SMALL, beta=2.0, critic_beta=0.5, beta_left=left)
    stages = config.stages(SPEC, 10)
    learner = dataclasses.replace(stages[-1].learner, shares=(1.0, before))
    stages = (stages[0], dataclasses.replace(stages[-1], learner=learner))
    (stage,) = config.online(SPEC, stages, Online(steps=updates))
    assert stage.continues and stage.steps == updates
    return stage.learner


def test_the_betas_fall_linearly_to_what_is_left_and_a_second_stage_goes_on_from_there():
    shares = [float(online_learner().share_at(jnp.int32(step))) for step in range(5)]
    np.testing.assert_allclose(shares, [1.0, 0.8125, 0.625, 0.4375, 0.25], rtol=1e-6)
    second = online_learner(before=0.25)
    np.testing.assert_allclose(second.share_at(jnp.int32(0)), 0.25, rtol=1e-6)
    np.testing.assert_allclose(second.share_at(jnp.int32(4)), 0.0625, rtol=1e-6)
    assert online_learner(updates=1).share_at(0) == 1


def test_online_the_losses_have_the_betas_of_their_update_and_the_predictor_learns(trained):
    """At the last update as SAC-RND with a quarter of the betas; the unit of the bonus and the prior stay."""
    _, _, end, state = trained
    learner = online_learner()
    data, key = batch(), jax.random.key(6)
    after, metrics = jax.jit(learner.update)(state, data, key, 4)
    quarter = with_beta(dataclasses.replace(learner, updates=0), 0.5, critic_beta=0.125)
    by_hand, _ = jax.jit(quarter.update)(state, data, key, 4)
    for name in ("actor", "critic", "target", "log_alpha"):
        for a, b in zip(jax.tree.leaves(getattr(after, name)), jax.tree.leaves(getattr(by_hand, name)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert metrics["rnd/beta"] == 0.5
    assert bits(after.rnd._replace(predictor=None)) == bits(end._replace(predictor=None))
    assert (learner.rnd.bonus(after.rnd, data.obs, data.action) < learner.rnd.bonus(end, data.obs, data.action)).all()
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_unbounded_actions_are_refused():
    unbounded = dataclasses.replace(SPEC, action=Box((2,), (-np.inf,) * 2, (np.inf,) * 2))
    with pytest.raises(InputError, match="bounded"):
        SMALL.stages(unbounded, 1)
