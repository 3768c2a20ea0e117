"""Off-policy evaluation: worlds whose values are known, and the wrong ways that come to other values."""

from __future__ import annotations

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import ope_worlds as worlds
from benchmarks.ope import toy_ratios
from rlkit.acting import Reactive
from rlkit.buffer import Buffer, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.datasets.episodes import HAS_ACTION, LABELLED
from rlkit.ope import fqe, importance, judged, tabular, verdict
from rlkit.ope.fqe import FQE, Config, Fits, episode_weights
from rlkit.ope.held import hold, survival
from rlkit.ope.replicated import Replicated, weighted_mean
from rlkit.ope.tabular import Table
from rlkit.types import Box, Discrete, InputError, Spec, Stats, Transitions

NEEDS_PACKAGE = pytest.mark.skipif(importlib.util.find_spec("icu_sepsis") is None, reason="needs icu-sepsis")
NEEDS_OBP = pytest.mark.skipif(worlds.obp_folder() is None, reason="needs the files of obp")


# --- a walk between two ends, cut off after 20 steps: value 46.57 of a policy that keeps to the middle ---


def test_a_time_limit_is_no_end_and_a_terminal_state_is_one():
    walk = worlds.walk(0)
    policy = worlds.middle()

    def value(steps):
        return tabular.evaluate(steps, policy, worlds.WALK_GAMMA).estimate

    assert value(walk.steps) == pytest.approx(worlds.WALK_VALUE, abs=2.2)
    assert value(walk.ending_at_limits()) == pytest.approx(18.75, abs=0.7), "a limit as a terminal state"
    assert value(walk.never_ending()) == pytest.approx(100.0, abs=1e-3), "bootstrapping through terminal states"


def linear(steps, gamma, fits):
    """FQE whose Q is a table: linear in one-hot observations."""
    data = worlds.episodes_of(steps)
    buffer = Buffer.from_episodes(data, Normaliser.fit(data, DataOptions("walk")), ("episode",))
    number = np.asarray(buffer.obs).argmax(1)
    config = Config(widths=(), learning_rate=0.05, batch_size=128, tau=0.2, gamma=gamma)
    policy = worlds.middle()[number].astype(np.float32)
    return fqe.evaluate(buffer, stats(buffer), spec(data, None), policy, config, fits)


@pytest.fixture(scope="module")
def small_walk():
    return worlds.walk(1, episodes=200)


def test_the_learner_finds_what_the_table_has(small_walk):
    """With gamma 0.9 the three ways differ by less, and by enough: 9.4, 8.4 or so, and 10."""
    fits = Fits(replicates=2, updates=500)
    exact = tabular.evaluate(small_walk.steps, worlds.middle(), 0.9).estimate
    found = linear(small_walk.steps, 0.9, fits)
    assert found.value.estimate == pytest.approx(exact, abs=0.25)
    assert found.updates == 500 and found.value.replicates.shape == (2,) and found.weights.shape == (2, 200)
    assert found.value.low < found.value.estimate < found.value.high
    cut = linear(small_walk.ending_at_limits(), 0.9, fits)
    assert cut.value.estimate < exact - 0.5, "a limit as a terminal state"
    np.testing.assert_array_equal(cut.weights, found.weights, "a difference is one of the same replicates")
    through = linear(small_walk.never_ending(), 0.9, fits).value.estimate
    assert through > exact + 0.4, "bootstrapping through terminal states"
    again = np.eye(worlds.BINS, dtype=np.float32)[small_walk.steps.first]
    predicted = found.predict(jnp.asarray(again), worlds.middle()[small_walk.steps.first].astype(np.float32))
    assert predicted.mean() == pytest.approx(found.value.estimate, rel=1e-4)


def test_too_few_updates_have_not_settled(small_walk):
    found = linear(small_walk.steps, 0.9, Fits(replicates=2, updates=8))
    assert not found.has_settled and found.value.estimate < 5
    told = found._replace(value=Replicated(5.0, np.array([4.9, 5.1])), halfway=4.5)  # a standard deviation of 0.14
    assert told.has_settled and not told._replace(halfway=4.4).has_settled


# --- amounts, episodes that only a limit ends: a linear-Gaussian world, value -1.4012 ---


@pytest.mark.slow
@pytest.mark.learning
def test_amounts_and_a_limit_that_ends_nothing():
    """Taking the limit of 10 steps for an end gives -0.53, as the discounted values do that stop there."""
    data, policy = worlds.drifting(0)
    config = Config(widths=(32, 32), learning_rate=0.01, gamma=worlds.DRIFT_GAMMA)
    fits = Fits(replicates=2, updates=1500)

    def value(episodes):
        held = hold(episodes, Normaliser.fit(episodes, DataOptions("drifting")))
        return fqe.evaluate(held.buffer, held.moments, spec(data, None), policy, config, fits).value.estimate

    assert value(data) == pytest.approx(worlds.DRIFT_VALUE, abs=0.15)
    assert value(worlds.ending_at_limits(data)) == pytest.approx(-0.53, abs=0.15)


@pytest.mark.slow
@pytest.mark.learning
def test_a_pendulum_never_ends_though_its_recordings_do():
    """Taking the recordings' ends after 200 steps for the pendulum's makes the brake a third better than it is."""
    data = worlds.pendulum()
    truth = worlds.pendulum_value(worlds.brake, np.asarray(data.obs)[data.starts])
    acted = worlds.torques(worlds.brake, data.obs)
    config = Config(widths=(64, 64), gamma=worlds.PENDULUM_GAMMA)

    def value(episodes):
        held = hold(episodes, Normaliser.fit(episodes, DataOptions("pendulum")))
        fits = Fits(replicates=1, updates=8000)
        return fqe.evaluate(held.buffer, held.moments, spec(data, None), acted, config, fits).value.estimate

    assert truth == pytest.approx(-890.6, abs=0.1)
    assert value(data) == pytest.approx(truth, rel=0.05)
    assert value(worlds.ending_at_limits(data)) > 0.8 * truth


# --- the learner, by hand ---

BUILT_FOR = Spec(Box((2,), (-np.inf,) * 2, (np.inf,) * 2), Discrete(2), 5)


def batch(discount):
    return Transitions(
        obs=jnp.eye(2),
        action=jnp.array([0, 1]),
        reward=jnp.array([4.0, 4.0]),
        discount=jnp.array(discount),
        next_obs=jnp.eye(2)[::-1],
        extra={"episode": jnp.array([0, 1]), fqe.NEXT_POLICY: jnp.array([[0.25, 0.75], [1.0, 0.0]])},
    )


def hand(low=-100.0, high=100.0):
    """Q in units of 2: rows of the table are Q(s_0, .) = 2, 6 and Q(s_1, .) = 10, 20."""
    learner = FQE(Config(widths=()), BUILT_FOR, low, high, unit=2.0, episodes=2)
    params = {"params": {"Dense_0": {"kernel": jnp.array([[2.0, 6.0], [10.0, 20.0]]), "bias": jnp.zeros(2)}}}
    return learner, params


def test_the_backup_by_hand():
    learner, params = hand()
    # 4 / 2 + 0.5 (0.25 * 10 + 0.75 * 20), and 4 / 2 + 0.5 * 2
    np.testing.assert_allclose(learner.backup(params, batch([0.5, 0.5])), [10.75, 3.0])
    np.testing.assert_allclose(learner.backup(params, batch([0.0, 0.5])), [2.0, 3.0])
    clipped, params = hand(low=0.0, high=8.0)
    np.testing.assert_allclose(clipped.backup(params, batch([0.5, 0.5])), [4.0, 3.0])


def test_the_loss_weighs_episodes():
    learner, params = hand()
    loss, metrics = learner.critic_loss(params, jnp.array([3.0, 17.0]), jnp.array([2.0, 0.5]), batch([0.5, 0.5]))
    assert float(loss) == pytest.approx((2 * 1 + 0.5 * 9) / 2) and float(metrics["fqe/q"]) == 11


def test_an_episodes_weight_follows_from_the_replicate_and_its_number():
    weight = episode_weights(jax.random.key(0), 2000)
    np.testing.assert_allclose(episode_weights(jax.random.key(0), 5), weight[:5], rtol=1e-6)
    assert abs(float(weight.mean()) - 1) < 0.1 and abs(float(weight.std()) - 1) < 0.15
    assert not np.allclose(weight[:5], episode_weights(jax.random.key(1), 5))


def test_the_steps_of_an_episode_have_its_weight():
    """Of an episode that earns 0 and one that earns 1, whose Q is 0 at first, the second one's weight is the loss."""
    learner = FQE(Config(widths=(), gamma=0.0), BUILT_FOR, 0.0, 1.0, unit=1.0, episodes=2)
    rows = batch([0.0, 0.0])._replace(reward=jnp.array([0.0, 1.0]))
    state = learner.init(jax.random.key(3), None, Stats(*[np.zeros(2, np.float32)] * 4))
    _, metrics = jax.jit(learner.update)(state, rows, jax.random.key(0), 0)
    assert float(metrics["fqe/loss"]) == pytest.approx(float(state.weight[1]) / 2, rel=0.03)


def test_iterations_count_and_not_updates():
    assert Config(gamma=0.99).updates(20, 100) == 7000 and Config(gamma=0.99, tau=0.01).updates(20, 100) == 70_000
    assert Config(gamma=0.5).updates(20, 100) == 2000, "a gradient needs some"
    assert Config(gamma=1.0).updates(60, 100) == 4200, "without a discount the longest episode is the horizon"


def test_a_network_has_the_time_to_fit():
    assert Config(gamma=0.5).updates(20, 25_600) == 4000, "40 passes of 100 batches"
    assert Config(gamma=0.5).updates(20, 10**6) == 7000


def test_what_rewards_can_add_up_to():
    rewards = np.array([-1.0, 3.0])
    assert fqe.attainable(rewards, 100.0, ends=True) == (-100, 300)
    assert fqe.attainable(np.array([1.0, 3.0]), 100.0, ends=True) == (1, 300), "an episode may end at once"
    assert fqe.attainable(np.array([1.0, 3.0]), 100.0, ends=False) == (100, 300)


def test_without_a_discount_something_must_end():
    data = from_episodes([{"observations": np.eye(3, 2), "actions": [0, 1], "rewards": [1.0, 1.0]}] * 2)
    buffer = Buffer.from_episodes(data, Normaliser.fit(data, DataOptions("two")), ("episode",))
    with pytest.raises(InputError, match="--gamma 1: no episode ends"):
        fqe.evaluate(buffer, stats(buffer), spec(data, None), np.ones((6, 2)) / 2, Config(gamma=1.0))


# --- importance sampling, by hand ---


def two_episodes():
    """One of a single step that ends, and one of two steps that a limit cuts short."""
    return from_episodes(
        [
            {"observations": np.eye(2), "actions": [0], "rewards": [8.0], "terminations": [True]},
            {"observations": np.eye(3, 2), "actions": [1, 0], "rewards": [0.0, 2.0], "truncations": [False, True]},
        ]
    )


def test_where_behaviour_probabilities_come_from():
    data = two_episodes()
    choices = np.asarray(data.action)
    plain = hold(data, Normaliser.fit(data, DataOptions("two")))
    assert verdict._behaviour(plain, None, choices, 2) is None
    number = np.array([0, 1, 0, 0, 1])  # actions 0, 1 and 0 in state 0
    np.testing.assert_allclose(verdict._behaviour(plain, number, choices, 2), [2 / 3, 1, 1 / 3, 2 / 3, 1])
    told = plain._replace(episodes=dataclasses.replace(data, infos={verdict.BEHAVIOUR: np.array([0.4, 0.3, 0.1])}))
    np.testing.assert_allclose(verdict._behaviour(told, number, choices, 2), [0.4, 1, 0.3, 0.1, 1])


def ratios_of(data):
    """w = 2 at the end of the first episode, 1/2 and then 3 in the second."""
    policy = np.array([0.8, 0, 0.2, 0.6, 0])
    behaviour = np.array([0.4, 1, 0.4, 0.1, 1])
    return importance.ratios(data, policy, behaviour)


ONE = np.ones((1, 2))


def test_weighted_estimates_by_hand():
    data = two_episodes()
    steps = ratios_of(data)
    np.testing.assert_allclose(steps.final(), [2, 3])
    assert importance.weighted(data, steps, 0.5, ONE)[0] == pytest.approx((2 * 8 + 3 * 1) / 5)
    # t = 0: (2 * 8 + 0) / (2 + 1/2); t = 1: 0.5 * 3 * 2 / (2 + 3), where the first episode keeps its weight
    assert importance.per_decision(data, steps, 0.5, ONE)[0] == pytest.approx(6.4 + 0.6)
    doubled = np.array([[1.0, 2.0]])
    assert importance.weighted(data, steps, 0.5, doubled)[0] == pytest.approx((2 * 8 + 2 * 3 * 1) / 8)


def test_the_recorded_policy_has_the_mean_return():
    data = two_episodes()
    same = np.array([0.4, 1, 0.4, 0.1, 1])
    steps = importance.ratios(data, same, same)
    for estimator in (importance.weighted, importance.per_decision):
        assert estimator(data, steps, 1.0, ONE)[0] == pytest.approx((8 + 2) / 2)


def test_doubly_robust_by_hand_goes_on_past_a_limit():
    data = two_episodes()
    value = np.array([5.0, 99.0, 1.0, 3.0, 4.0])  # that of the first episode's last observation is never used
    q = np.array([6.0, 0, 2.0, 2.5, 0])
    first = 5 + 2 * (8 - 6)
    second = 1 + 0.5 * (0 + 0.5 * 3 - 2) + 0.5 * 3 * (2 + 0.5 * 4 - 2.5)
    found = importance.doubly_robust(data, ratios_of(data), 0.5, value, q, ONE)
    assert found[0] == pytest.approx((first + second) / 2)


@pytest.mark.parametrize(
    ("weight", "behaviour", "words"),
    [
        (np.ones(200), [0.5, 0.0], "1 recorded actions have a behaviour probability"),
        (np.ones(200), [0.5, np.nan], "1 recorded actions have a behaviour probability"),
        (np.ones(99), [0.5], "effective sample size 99 of 99"),
        (np.full(200, 0.7), [0.5], "mean weight 0.70"),
        (np.append(np.full(400, 0.9), 40.0), [0.5], "one episode has 10% of the weight"),
        (np.ones(200), [0.5, 1.0], ""),
    ],
)
def test_importance_sampling_is_refused_where_it_says_nothing(weight, behaviour, words):
    why = importance.refusal(weight, np.array(behaviour))
    assert words in why and bool(why) == bool(words)


# --- states that repeat ---


def test_probability_on_what_was_never_tried_goes_to_what_was():
    tried = np.array([[3.0, 1, 0], [0, 4, 0], [0, 0, 0]])
    policy = np.array([[0.2, 0.3, 0.5], [1.0, 0, 0], [0.1, 0.2, 0.7]])
    np.testing.assert_allclose(tabular.supported(policy, tried), [[0.4, 0.6, 0], [0, 1, 0], [0.1, 0.2, 0.7]])


def loop():
    """State 0 pays 1 and leads to state 1 (action 0, 4 times) or to the end (action 1, once); state 1 back to 0, twice,
    or to the end, twice, by action 0."""
    return Table(
        state=np.array([0, 0, 0, 0, 0, 1, 1, 1, 1]),
        action=np.array([0, 0, 0, 0, 1, 0, 0, 0, 0]),
        reward=np.array([1.0, 1, 1, 1, 5, 0, 0, 0, 0]),
        next_state=np.array([1, 1, 1, 1, 0, 0, 0, 0, 0]),
        terminal=np.array([0, 0, 0, 0, 1, 0, 0, 1, 1], bool),
        episode=np.array([0, 0, 1, 2, 3, 0, 0, 1, 2]),
        first=np.zeros(4, int),
        states=2,
        actions=2,
    )


def test_the_fit_by_hand():
    always = np.array([[1.0, 0], [1, 0]])
    found = tabular.evaluate(loop(), always, 1.0)
    assert found.estimate == pytest.approx(2.0)  # V0 = 1 + V1, V1 = V0 / 2
    never = np.array([[1.0, 0], [0, 1]])  # action 1 was never tried in state 1
    assert tabular.evaluate(loop(), never, 1.0).estimate == pytest.approx(2.0)
    assert tabular.evaluate(loop(), never, 1.0, untried=0.0).estimate == pytest.approx(1.0)
    heavier = np.array([1.0, 0, 0, 0])  # only the episode that went round: V1 = V0, V0 = 1 + gamma V1
    assert tabular.evaluate(loop(), always, 0.5, heavier).estimate == pytest.approx(4 / 3)
    even = np.full((2, 2), 0.5)
    values = tabular.evaluate(loop(), even, 0.9)
    np.testing.assert_allclose((even * values.q).sum(1), values.v, rtol=1e-9)


def test_support_is_counted_under_the_policys_own_visits():
    always = np.array([[1.0, 0], [1, 0]])
    found = tabular.support(loop(), always, longest=4)
    assert found.policy == 1 and found.recorded == 1, "nothing was tried five times"
    many = Table(*(np.tile(part, 2) if isinstance(part, np.ndarray) else part for part in loop()))
    many = many._replace(first=many.first[:4])
    found = tabular.support(many, always, longest=4)
    assert found.policy == 0 and found.recorded == pytest.approx(2 / 18) and found.endless < 1e-5
    rarely = np.array([[0.5, 0.5], [1, 0]])  # V0 = 1 + V1 / 2 visits, V1 = V0 / 2
    visits = np.array([4 / 3, 2 / 3])
    assert tabular.support(many, rarely, longest=50).policy == pytest.approx(visits[0] * 0.5 / visits.sum())


def test_doubly_robust_on_the_same_data_is_the_fit_itself():
    """Residuals of a mean average to 0, whatever the weights are, if each state has one weight: one step episodes."""
    rng = np.random.default_rng(0)
    state, action = rng.integers(0, 3, 400), rng.integers(0, 2, 400)
    episodes = []
    for s, a in zip(state, action, strict=True):
        rows = {"observations": np.eye(3)[[s, s]], "actions": [a], "rewards": [s + a * rng.normal()]}
        episodes.append(rows | {"terminations": [True]})
    data = from_episodes(episodes)
    number = tabular.number_states(data)
    choices = np.asarray(data.action)
    steps = tabular.table(data, number, choices, 2)
    policy = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    in_state = np.zeros((3, 2))
    in_state[number[data.starts]] = policy[state]
    fitted = tabular.evaluate(steps, in_state, 1.0)
    shares = steps.counts() / steps.counts().sum(1, keepdims=True)
    ratios = importance.ratios(data, in_state[number, choices], shares[number, choices])
    weights = np.ones((1, 400))
    robust = importance.doubly_robust(data, ratios, 1.0, fitted.v[number], fitted.q[number, choices], weights)
    assert robust[0] == pytest.approx(fitted.estimate)
    again = importance.doubly_robust(data, ratios, 1.0, np.zeros(800), np.zeros(800), weights)
    assert again[0] == pytest.approx(fitted.estimate), "with actions counted on the same data"


def test_observations_that_hardly_repeat_are_no_states():
    rng = np.random.default_rng(0)
    rows = {"observations": rng.normal(size=(41, 2)), "actions": np.zeros(40, int), "rewards": np.zeros(40)}
    assert tabular.number_states(from_episodes([rows])) is None
    rows["observations"] = np.tile([[1.0, 2.0], [3.0, 4.0]], (21, 1))[:41]
    assert tabular.number_states(from_episodes([rows])).tolist() == [0, 1] * 20 + [0]


def test_intervals_over_episodes_cover_the_truth_and_those_of_importance_sampling_do_not():
    """Of 300 sets of 100 episodes FQE's cover it in 94 %, of a policy far from the recorded one, and those of weighted
    importance sampling in a sixth or less (benchmarks/ope.csv). Of 20 at least 15 do, but for one time in 500; and of
    weighted importance sampling at most 9."""
    value = worlds.toy_value(worlds.FAR)
    assert value == pytest.approx(2.950, abs=0.005) and worlds.toy_value(worlds.NEAR) == pytest.approx(3.390, abs=0.005)
    covered = {"fitted": 0, "sampled": 0, "refused": 0}
    for seed in range(20):
        steps = worlds.toy(seed, 100)
        weights = importance.bootstrap_weights(100, seed, replicates=20)
        fitted = Replicated.of(tabular.replicates(steps, np.tile(worlds.FAR, (6, 1)), worlds.TOY_GAMMA, weights))
        data = worlds.episodes_of(steps)
        ratios = toy_ratios(data, worlds.FAR)
        sampled = Replicated.of(importance.weighted(data, ratios, worlds.TOY_GAMMA, weights))
        covered["fitted"] += fitted.low <= value <= fitted.high
        covered["sampled"] += sampled.low <= value <= sampled.high
        covered["refused"] += "effective sample size" in importance.refusal(ratios.final(), np.array([0.3]))
    assert covered["fitted"] >= 15 and covered["sampled"] <= 9 and covered["refused"] == 20


@NEEDS_PACKAGE
@pytest.mark.slow
def test_icu_sepsis():
    """The clinicians' own policy (true value 0.7818), half of it mixed with the optimal one (0.8231), and that one."""
    from envs.toys import icu_sepsis

    mdp = icu_sepsis.load()
    data = from_episodes(icu_sepsis.record(mdp, icu_sepsis.EPISODES))
    number = np.asarray(data.obs).ravel().astype(int)
    choices = np.asarray(data.action)
    steps = tabular.table(data, number, choices, 25)._replace(states=716)
    mixed = (mdp.clinician + mdp.optimal()) / 2
    known = mdp.clinician[number, choices]
    once = np.ones((1, 5000))
    is_step = (np.asarray(data.flags) & HAS_ACTION) > 0
    for policy, fitted, weighted, size in [
        (mdp.clinician, 0.7876, 0.7852, 5000),
        (mixed, 0.8322, 0.8243, 51.5),
        (mdp.optimal(), 0.792, 0.723, 20.8),
    ]:
        digits = 1e-4 if size != 20.8 else 1e-3
        assert tabular.evaluate(steps, policy, 1.0).estimate == pytest.approx(fitted, abs=digits)
        ratios = importance.ratios(data, policy[number, choices], known)
        assert importance.weighted(data, ratios, 1.0, once)[0] == pytest.approx(weighted, abs=digits)
        assert importance.effective_size(ratios.final()) == pytest.approx(size, abs=0.05)
        assert bool(importance.refusal(ratios.final(), known[is_step])) == (size < 100)

    # --- untried actions worth nothing, by the fit and by doubly robust estimates with it, whatever the weights ---
    wrong = tabular.evaluate(steps, mdp.clinician, 1.0, untried=0.0)
    assert wrong.estimate == pytest.approx(0.5874, abs=1e-4)
    counted = verdict._behaviour(hold(data, Normaliser.fit(data, DataOptions("icu"))), number, choices, 25)
    by_counts = importance.ratios(data, counted, counted)
    robust = importance.doubly_robust(data, by_counts, 1.0, wrong.v[number], wrong.q[number, choices], once)
    assert robust[0] == pytest.approx(wrong.estimate, abs=1e-4)

    # --- live episodes as the only divisor ---
    same = importance.ratios(data, known, known)
    assert importance.per_decision(data, same, 1.0, once)[0] == pytest.approx(0.7852, abs=1e-4)
    assert live_episodes_alone(data, same) == pytest.approx(7.474, abs=1e-3)


def live_episodes_alone(data, ratios):
    """Wrong: the weighted mean of each step's rewards among the episodes that are still going."""
    total = 0.0
    for t in range(ratios.length.max()):
        live = np.flatnonzero(ratios.length > t)
        weight = np.exp([ratios.log[start : start + t + 1].sum() for start in ratios.start[live]])
        total += (weight * np.asarray(data.reward)[ratios.start[live] + t]).sum() / weight.sum()
    return total


def test_dividing_by_live_episodes_alone_is_another_number():
    data = two_episodes()
    same = np.array([0.4, 1, 0.4, 0.1, 1])
    ratios = importance.ratios(data, same, same)
    assert live_episodes_alone(data, ratios) == pytest.approx(8 / 2 + 2 / 1)
    assert importance.per_decision(data, ratios, 1.0, ONE)[0] == pytest.approx((8 + 2) / 2)


@NEEDS_OBP
@pytest.mark.slow
def test_the_open_bandit_sample():
    """Clicks under Thompson sampling over those that were recorded, as the data's own quickstart has them."""
    sample = worlds.obp_sample(worlds.obp_folder())
    shown = len(sample.click)
    episodes = []
    one = np.zeros((2, 1), np.float32)
    for click in sample.click:
        episodes.append({"observations": one, "actions": [0], "rewards": [click], "terminations": [True]})
    data = from_episodes(episodes)
    probability = np.ones((2, 2 * shown))  # of the policy and of what was recorded, in the rows of steps
    probability[:, ::2] = sample.wanted, sample.shown
    ratios = importance.ratios(data, *probability)
    weight = ratios.final()
    assert (weight * sample.click).mean() / sample.click.mean() == pytest.approx(1.198126, abs=1e-6)
    weighted = importance.weighted(data, ratios, 1.0, np.ones((1, shown)))[0]
    assert weighted / sample.click.mean() == pytest.approx(1.2568, abs=1e-4)
    assert importance.effective_size(weight) == pytest.approx(1640, abs=1)
    assert weight.mean() == pytest.approx(0.953, abs=1e-3) and weight.max() == pytest.approx(19.6, abs=0.05)
    assert not importance.refusal(weight, sample.shown)


# --- differences on the same replicates ---


def test_a_difference_is_taken_replicate_by_replicate():
    """Luck that both have in common leaves the difference as it is, however wide the two intervals are."""
    luck = np.array([-3.0, 0, 1, 4])
    one = Replicated(2.5, 2.5 + luck + [0.1, -0.1, 0.1, -0.1])
    other = Replicated(2.0, 2.0 + luck)
    assert one.low < other.high, "the two overlap"
    found = one.minus(other)
    assert found.estimate == pytest.approx(0.5) and found.half == pytest.approx(
        3.182 * np.std([0.1, -0.1, 0.1, -0.1], ddof=1), rel=1e-3
    )
    assert found.low > 0


def test_a_mean_with_weights():
    found = weighted_mean(np.array([1.0, 3.0]), np.array([[1.0, 1.0], [3.0, 1.0]]))
    assert found.estimate == 2 and found.replicates.tolist() == [2.0, 1.5]


def test_every_estimator_is_compared_with_what_was_recorded_on_its_own_replicates():
    """The recorded policy, judged by counts and by weights near 1: most of what varies varies on both sides."""
    data = worlds.episodes_of(worlds.toy(0, 150))
    held = hold(data, Normaliser.fit(data, DataOptions("toy")))
    policy = np.tile(worlds.BEHAVIOUR, (len(data.t), 1)).astype(np.float32)
    found = verdict.judge(held, spec(data, None), policy, Config(widths=(), gamma=worlds.TOY_GAMMA), Fits(2, 0, 20))
    by_name = {row.estimator: row for row in found.rows}
    fitted = by_name["FQE, 2 replicates"]
    observed = held.replicated(worlds.TOY_GAMMA, found.fqe.weights)
    np.testing.assert_allclose(fitted.gain.replicates, fitted.value.replicates - observed.replicates)
    for name in ("FQE by counts, tried actions alone", "weighted importance sampling", "doubly robust"):
        row = by_name[name]
        assert row.gain.half < 0.7 * row.value.half and abs(row.gain.estimate) < row.gain.half + 0.1


# --- survival in place of the rewards ---


def patients():
    """Four episodes: two that end well, one that does not, one that was cut short."""
    ends = [(True, 1.0), (True, 15.0), (True, -15.0), (False, 15.0)]
    episodes = []
    for terminal, last in ends:
        rows = {"observations": np.zeros((4, 1)), "actions": [0, 1, 0], "rewards": [0.5, 20.0, last]}
        episodes.append(rows | {"terminations": [False, False, terminal]})
    return from_episodes(episodes)


def test_survival_is_what_the_last_reward_says():
    data = patients()
    found = survival(data, 1.0)
    assert found.reward.tolist() == [0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    assert (np.asarray(found.flags) & LABELLED).tolist() == (np.asarray(data.flags) & LABELLED).tolist()
    held = hold(data, Normaliser.fit(data, DataOptions("four")), survived=1.0)
    assert held.cut_short == 1 and held.has_ended.tolist() == [True, True, True, False]
    assert held.observed(1.0).value == pytest.approx(2 / 3), "of those whose end is known"
    assert held.replicated(1.0, np.ones((2, 4))) is None


@pytest.mark.parametrize("least", [-20.0, 16.0])
def test_a_bound_that_all_or_none_reach_says_nothing(least):
    with pytest.raises(InputError, match=r"(0|3) of the 3 episodes of .* \(they go from -15 to 15\)"):
        survival(patients(), least)


# --- the policy that is judged ---


class Chooses(Reactive):
    """Prefers choice 2 by 0.6, sees ``width`` numbers, and plans ``plan`` actions."""

    def __init__(self, plan=1, width=1):
        self.spec = Spec(Box((width,), (-np.inf,) * width, (np.inf,) * width), Discrete(3), 5)
        self.plan = plan

    def act(self, state, memory, key, *, greedy):
        one = jnp.where(greedy, 2, jax.random.categorical(key, jnp.log(self.probabilities(state, memory))))
        return jnp.broadcast_to(one.astype(jnp.int32), (self.plan,)), memory

    def probabilities(self, state, obs):
        return jnp.array([0.1, 0.3, 0.6])


class Remembers(Chooses):
    def observe(self, state, memory, percept):
        return memory + percept.obs


def test_what_the_policy_does_is_asked_once_for_every_row(monkeypatch):
    monkeypatch.setattr(judged, "BLOCK", 4)
    data = two_episodes()
    plain = Normaliser.fit(data, DataOptions("two"))
    agent = Chooses(width=2)
    greedy = judged.actions_of(agent, {}, plain, data.obs)
    np.testing.assert_array_equal(greedy, np.tile([0, 0, 1], (5, 1)))
    sampled = judged.actions_of(agent, {}, plain, data.obs, greedy=False)
    np.testing.assert_allclose(sampled, np.tile([0.1, 0.3, 0.6], (5, 1)), rtol=1e-6)


@pytest.mark.parametrize(
    ("agent", "words"), [(Remembers(), "mine remembers its episode"), (Chooses(plan=4), "mine plans 4 actions at once")]
)
def test_an_agent_whose_action_does_not_follow_from_the_row_is_refused(agent, words):
    with pytest.raises(InputError, match=words):
        judged.check_can_be_judged(agent, {}, "mine")


# --- the words ---

LUCK = np.linspace(-1, 1, 8)  # of the replicates, the same for all


def valued(estimate, *, shared=LUCK, own=0.02):
    """A value whose replicates share their luck but for ``own``, which alternates."""
    return Replicated(estimate, estimate + shared + own * np.resize([1, -1], 8))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"a": valued(3.0), verdict.RECORDED: valued(2.5, own=0)},
            "a is ahead: its difference from the recorded behaviour",
        ),
        ({"a": valued(3.0), "b": valued(2.5, own=0)}, "a is ahead: its difference from b has an interval above 0"),
        ({"b": valued(2.5, own=0), "a": valued(3.0)}, "a is ahead: its difference from b"),
        (
            {"a": valued(2.51), verdict.RECORDED: valued(2.5, own=0)},
            "No winner: the difference between a and the recorded",
        ),
        ({"a": valued(3), "b": valued(2.99, own=0), "c": valued(1)}, "No winner: the difference between a and b has"),
        ({"a": valued(0.0), verdict.RECORDED: valued(2.5, own=0)}, "The recorded behaviour is ahead"),
        ({"a": valued(3, shared=LUCK[::-1]), "b": valued(2.5)}, "No winner: the difference between a and b"),
        ({"a": valued(3.0)}, "nothing to compare"),
    ],
)
def test_no_winner_is_named_where_the_interval_of_the_difference_holds_0(values, words):
    assert words in verdict.winner(values)


def judged_as(title, value, moved=0.0):
    found = fqe.Evaluation(value, value.estimate - moved, 10, 0.1, np.ones((8, 4)), None, None)
    return verdict.Verdict(title, found, (verdict.Row("FQE, 8 replicates", value, value),), ())


def test_verdicts_are_ranked_by_the_lower_end_and_not_at_all_before_they_settle():
    data = patients()
    held = hold(data, Normaliser.fit(data, DataOptions("four")))
    wide, narrow = judged_as("wide", valued(3.0)), judged_as("narrow", valued(2.0, shared=LUCK / 100))
    text = verdict.text([wide, narrow], held, 0.9)
    assert text.index("narrow") < text.index("wide") and "+1.00  [" in text.replace("-1.00", "+1.00")
    assert "minus the recorded return" in text and "1 of 4 episodes were cut short" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    early = judged_as("early", valued(9.0))._replace(needed=2_000)
    assert "FQE made 10 of the 2,000 updates" in verdict.ranking([wide, early], held, 0.9)
    assert "is ahead" in verdict.ranking([wide, early._replace(needed=20)], held, 0.9)
    assert "FQE has not settled" in verdict.ranking([wide, judged_as("late", valued(2.0), moved=9.0)], held, 0.9)
