"""Worlds of one step: corners of the action square, a cliff past a corner, arms, and inputs far from the data."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from agents import awac, bc, discrete_cql, edac, iql, rebrac, sac_rnd, td3_bc
from agents.edac import diversity
from rlkit.datasets import Episodes, from_episodes
from rlkit.datasets.options import UNTOLD
from rlkit.types import Box, Discrete, Spec

from .toy import UNIT, Data, Toy, Trained, Variant, greedy, prepare, train

BATCH = 256
ROWS = 4096


def one_step(obs: np.ndarray, action: np.ndarray, reward: np.ndarray) -> Episodes:
    """Episodes of one step each, which end in a terminal state."""
    rows = zip(obs.astype(np.float32), action, reward.astype(np.float32), strict=True)
    terminal = np.array([True])
    episodes = []
    for one, choice, value in rows:
        observations = np.stack([one, one])
        episode = {"observations": observations, "actions": choice[None], "rewards": value[None]}
        episodes.append(episode | {"terminations": terminal})
    told = UNTOLD if action.dtype.kind in "iu" else UNIT
    return from_episodes(episodes, name="bandit", action=told)


# ---- four states in one-hot code, and one corner of the action square for each

CORNERS = np.array([[0.6, 0.6], [0.6, -0.6], [-0.6, 0.6], [-0.6, -0.6]], np.float32)
CORNER_SPEC = Spec(Box((4,), (0.0,) * 4, (1.0,) * 4), Box((2,), (-1.0,) * 2, (1.0,) * 2), 1)
SPREAD = 0.05  # standard deviation of the recorded actions
RADIUS = 0.25  # of a corner


def _near_corners(seed: int, good_share: float) -> tuple[np.ndarray, np.ndarray]:
    """States [N] and actions [N, 2] near the state's own corner, or near the opposite one."""
    rng = np.random.default_rng(seed)
    state = rng.integers(0, 4, ROWS)
    side = np.where(rng.random((ROWS, 1)) < good_share, 1, -1)
    action = CORNERS[state] * side + SPREAD * rng.normal(size=(ROWS, 2))
    return state, np.clip(action, -1, 1).astype(np.float32)


@functools.cache
def corners() -> Episodes:
    """Actions near each state's own corner; the reward does not matter."""
    state, action = _near_corners(seed=0, good_share=1.0)
    return one_step(np.eye(4)[state], action, action[:, 0])


def cliff_reward(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """1 in the good corner, rising outwards up to its edge; 0.3 in the opposite corner; -1 everywhere else."""
    good = CORNERS[state]
    offset = action - good
    outward = good / np.linalg.norm(good, axis=-1, keepdims=True)
    inside = np.linalg.norm(offset, axis=-1) < RADIUS
    poor = np.linalg.norm(action + good, axis=-1) < RADIUS
    return np.where(inside, 1 + 0.8 * (offset * outward).sum(-1), np.where(poor, 0.3, -1.0))


@functools.cache
def cliff() -> Episodes:
    """30 % of the actions in the good corner, 70 % in the poor one."""
    state, action = _near_corners(seed=1, good_share=0.3)
    return one_step(np.eye(4)[state], action, cliff_reward(state, action))


# ---- can the bonus be descended?

CONCATENATED = {"predictor": "concat_first", "prior": "concat_first", "action_is_feature": False}
STARTS = 100  # random actions for each state


@functools.cache
def _distilled(config: sac_rnd.Config, seed: int) -> Trained:
    return train(config, prepare(corners(), CORNER_SPEC, config), 1, seed, stages=1)


def _bonus(config: sac_rnd.Config, seed: int) -> tuple[sac_rnd.RND, sac_rnd.RNDState]:
    """The bonus after its stage, in whose training `prior_gradient` plays no part."""
    trained = _distilled(dataclasses.replace(config, prior_gradient=False), seed)
    return dataclasses.replace(trained.agent, config=config), trained.state


@functools.partial(jax.jit, static_argnums=0)
def _descend(rnd: sac_rnd.RND, state: sac_rnd.RNDState, states: jax.Array, start: jax.Array) -> jax.Array:
    """Where squashed actions [N, 2] end after 400 Adam steps down the bonus."""
    optimiser = optax.adam(0.03)

    def step(carry, _):
        raw, opt = carry
        gradient = jax.grad(lambda u: rnd.bonus(state, states, jnp.tanh(u)).sum())(raw)
        updates, opt = optimiser.update(gradient, opt)
        return (raw + updates, opt), None

    (end, _), _ = jax.lax.scan(step, (start, optimiser.init(start)), None, 400)
    return jnp.tanh(end)


def _bonus_world() -> tuple[jax.Array, jax.Array, jax.Array]:
    """States [N, 4], their corners [N, 2], and random actions [N, 2] before they are squashed."""
    states = jnp.repeat(jnp.eye(4), STARTS, 0)
    own = jnp.repeat(jnp.asarray(CORNERS), STARTS, 0)
    start = jnp.arctanh(jax.random.uniform(jax.random.key(9), own.shape, minval=-0.99, maxval=0.99))
    return states, own, start


def descended_share(config: sac_rnd.Config, seed: int) -> float:
    """Share of random actions that the bonus's gradient leads to within 0.25 of the data's corner."""
    rnd, state = _bonus(config, seed)
    states, own, start = _bonus_world()
    end = _descend(rnd, state, states, start)
    return float((jnp.linalg.norm(end - own, axis=-1) < RADIUS).mean())


def separation(config: sac_rnd.Config, seed: int) -> float:
    """Mean bonus of random actions over that of the data's corners."""
    rnd, state = _bonus(config, seed)
    states, own, start = _bonus_world()
    random, data = (rnd.bonus(state, states, action).mean() for action in (jnp.tanh(start), own))
    return float(random / data)


def _distil(**changes) -> sac_rnd.Config:
    settings = {"batch_size": BATCH, "rnd_width": 64, "rnd_learning_rate": 1e-3, "rnd_steps": 1500} | changes
    return sac_rnd.Config(**settings)


DESCENT = Toy(
    "bonus: descent",
    "Share of random actions that 400 Adam steps down SAC-RND's bonus lead to within 0.25 of the data's action. What "
    "fails with concatenation is the gradient, which by the official code leaves out the prior's.",
    descended_share,
    (
        Variant("FiLM prior, bilinear predictor", "sac-rnd", _distil(), at_least=0.75, reference=0.91),
        Variant("concatenation", "sac-rnd", _distil(**CONCATENATED), at_most=0.6, reference=0.38),
        Variant("concatenation, full gradient", "sac-rnd", _distil(**CONCATENATED, prior_gradient=True), at_least=0.9),
    ),
    seeds=5,
)
SEPARATION = Toy(
    "bonus: separation",
    "Mean bonus of random actions over that of the data's: both conditionings tell them apart, an untrained predictor "
    "does not.",
    separation,
    (
        Variant("FiLM prior, bilinear predictor", "sac-rnd", _distil(), at_least=500),
        Variant("concatenation", "sac-rnd", _distil(**CONCATENATED), at_least=500),
        Variant("not trained", "sac-rnd", _distil(rnd_steps=1), at_most=20),
    ),
    seeds=5,
)

# ---- a good corner whose reward rises outwards up to a cliff

CLIFF_STEPS = 3000


@functools.cache
def _on_the_cliff(config) -> Data:
    return prepare(cliff(), CORNER_SPEC, config)


def cliff_score(config, seed: int) -> float:
    """True reward of the greedy action, the mean over the four states."""
    trained = train(config, _on_the_cliff(config), CLIFF_STEPS, seed)
    action = greedy(trained.agent, trained.state, jnp.eye(4))
    return float(cliff_reward(np.arange(4), np.asarray(action)).mean())


_SHAPE = {"widths": (64, 64), "batch_size": BATCH}
_RATES = {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3}
_COLD = {"initial_alpha": 1e-3, "alpha_learning_rate": 0.0}


def _anti_explore(beta: float, **changes) -> sac_rnd.Config:
    settings = {"widths": (64, 64), "critic_layer_norm": False} | _COLD | _RATES | changes
    return _distil(beta=beta, **settings)


TD3_BC = td3_bc.Config(alpha=2.5, **_SHAPE, **_RATES)
CLIFF = Toy(
    "cliff",
    "True reward of the greedy action: 30 % of the data in a good corner (1, rising outwards up to its edge), 70 % in "
    "the opposite corner (0.3), -1 elsewhere. A clone falls between the corners, trust in the critic over the edge.",
    cliff_score,
    (
        Variant("FiLM and bilinear, beta = 100", "sac-rnd", _anti_explore(100.0), at_least=0.4, reference=0.71),
        Variant("beta = 0", "sac-rnd", _anti_explore(0.0), at_most=-0.9, reference=-1.0),
        Variant(
            "concatenation, beta = 100", "sac-rnd", _anti_explore(100.0, **CONCATENATED), at_most=0.3, reference=0.38,
            in_suite=False,
        ),
        Variant("clone", "bc", bc.Config(**_SHAPE, learning_rate=1e-3), at_most=-0.5, reference=-1.0),
        Variant("alpha = 2.5", "td3-bc", TD3_BC, at_least=0.6, reference=0.92, in_suite=False),
        Variant(
            "temperature 0.1", "awac", awac.Config(temperature=0.1, learning_rate=1e-3, **_SHAPE), at_least=0.6,
            in_suite=False,
        ),
        Variant(
            "beta = 10", "iql", iql.Config(expectile=0.9, beta=10.0, **_SHAPE, **_RATES), at_least=0.6,
            in_suite=False,
        ),
        Variant("beta = 0.2", "rebrac", rebrac.Config(actor_beta=0.2, **_SHAPE, **_RATES), at_least=0.6),
    ),
)  # fmt: skip

# ---- ensembles

DIVERSITY_STEPS = 300


def spread_of_gradients(config: edac.Config, seed: int) -> float:
    """Minus the mean diversity term: the summed cosines of all pairs of critics' action gradients, over N - 1."""
    trained = train(config, _on_the_cliff(config), DIVERSITY_STEPS, seed)
    state, action = _near_corners(seed=2, good_share=0.3)
    obs = jnp.asarray(np.eye(4, dtype=np.float32)[state[:BATCH]])

    def values(action):
        return trained.agent._q(trained.state.critic.params, obs, action)

    gradients = jax.jit(jax.jacrev(lambda action: values(action).sum(1)))(jnp.asarray(action[:BATCH]))
    return -float(diversity(gradients).mean())


DIVERSITY = Toy(
    "ensemble: diversity",
    "Minus the sum of the cosines of all pairs of the critics' action gradients, over N - 1: -N where all point the "
    "same way.",
    spread_of_gradients,
    (
        Variant("eta = 5", "edac", edac.Config(critics=4, eta=5.0, **_SHAPE, **_RATES), at_least=0.5),
        Variant("eta = 0", "edac", edac.Config(critics=4, eta=0.0, **_SHAPE, **_RATES), at_most=-1.0),
    ),
)

# ---- arms

ARM_SHARES, ARM_REWARDS = (0.6, 0.3, 0.08, 0.02), (0.0, 1.0, 0.5, 2.0)


@functools.cache
def arms() -> Episodes:
    """Four arms as often as the behaviour draws them; the rarest has the largest reward."""
    arm = np.repeat(np.arange(4), np.round(1000 * np.array(ARM_SHARES)).astype(int))
    return one_step(np.ones((len(arm), 1)), arm, np.array(ARM_REWARDS)[arm])


def margin_of_the_common_arm(config: discrete_cql.Config, seed: int) -> float:
    """Value of the best arm that the behaviour draws often, less that of the rarest."""
    spec = Spec(Box((1,), (-np.inf,), (np.inf,)), Discrete(4), 1)
    trained = train(config, prepare(arms(), spec, config), 6000, seed)
    # the target's values average over the batches' noise
    values = trained.agent._critic.apply(trained.state.target, jnp.ones(1))
    return float(values[1] - values[3])


def _table(cql_alpha: float) -> discrete_cql.Config:
    # the reference's loss has a half at the squared error, hence twice its weight
    return discrete_cql.Config(cql_alpha=2 * cql_alpha, widths=(), learning_rate=1e-3, batch_size=BATCH)


ARMS = Toy(
    "arms",
    "Q of the common good arm (share 0.3, reward 1) less Q of the rarest (share 0.02, reward 2), a value for each arm "
    "alone. The references are the loss's exact minimum.",
    margin_of_the_common_arm,
    (
        Variant("alpha = 0", "discrete-cql", _table(0.0), at_most=-0.9, reference=-1.0),
        Variant("alpha = 0.1", "discrete-cql", _table(0.1), at_least=0.15, reference=0.278, in_suite=False),
        Variant("alpha = 1", "discrete-cql", _table(1.0), at_least=1.4, reference=1.644),
    ),
)

# ---- expectiles


@functools.cache
def coin(share: float) -> Episodes:
    """One state; action 1 has reward 1 and is drawn with ``share``, action 0 has reward 0."""
    action = (np.arange(1000) < round(1000 * share)).astype(int)
    return one_step(np.ones((len(action), 1)), action, action.astype(np.float32))


def expectile_of(share: float, config: iql.Config, seed: int) -> float:
    """V of the one state."""
    spec = Spec(Box((1,), (-np.inf,), (np.inf,)), Discrete(2), 1)
    trained = train(config, prepare(coin(share), spec, config), 4000, seed)
    return float(trained.agent._v(trained.state.value.params, jnp.ones((1, 1)))[0])


def _expectile(share: float, expectile: float, exact: float) -> Toy:
    shape = {"widths": (), "batch_size": BATCH, "critic_learning_rate": 3e-3, "tau": 0.05}
    room = (exact - share) / 4  # of the way from the mean to the expectile
    return Toy(
        f"expectile {expectile} of {share}",
        f"IQL's V where the data's actions are worth 1 with probability {share}, else 0. By the closed form "
        f"t p / (t p + (1 - t)(1 - p)) the expectile is {exact}; expectile 0.5 gives the mean.",
        functools.partial(expectile_of, share),
        (
            Variant(
                f"expectile {expectile}", "iql", iql.Config(expectile=expectile, **shape),
                at_least=exact - room, reference=exact,
            ),
            Variant("expectile 0.5", "iql", iql.Config(expectile=0.5, **shape), at_most=share + room, reference=share),
        ),
    )  # fmt: skip


EXPECTILES = (_expectile(0.1, 0.9, 0.5), _expectile(0.5, 0.7, 0.7), _expectile(0.02, 0.9, 0.155))

# ---- far from the data

FAR_STEPS = 600


@functools.cache
def bumps() -> Episodes:
    """Rewards sin(3 x) + y a over the cube [-1, 1]^3 of observations (x, y) and actions a."""
    x = np.random.default_rng(0).uniform(-1, 1, (ROWS, 3)).astype(np.float32)
    return one_step(x[:, :2], x[:, 2:], np.sin(3 * x[:, 0]) + x[:, 1] * x[:, 2])


def boundedness(config: rebrac.Config, seed: int) -> float:
    """Largest |Q| over observations at radius 10, over that at radius 1000."""
    spec = Spec(Box((2,), (-np.inf,) * 2, (np.inf,) * 2), Box((1,), (-1.0,), (1.0,)), 1)
    trained = train(config, prepare(bumps(), spec, config), FAR_STEPS, seed)
    angle = jnp.linspace(0, 2 * jnp.pi, 256)
    circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)

    def largest(radius):
        q = trained.agent._critic.apply(trained.state.critic.params, radius * circle, jnp.zeros((256, 1)))
        return jnp.abs(q).max()

    return float(largest(10.0) / largest(1000.0))


FAR = Toy(
    "far: layer norm",
    "Largest |Q| at radius 10 over that at radius 1000, after a regression on [-1, 1]^3: 0.01 where a critic goes on "
    "rising, near 1 where LayerNorm bounds what it promises.",
    boundedness,
    (
        Variant("LayerNorm", "rebrac", rebrac.Config(**_SHAPE, **_RATES), at_least=1 / 1.2, reference=2.99 / 3.12),
        Variant(
            "no LayerNorm", "rebrac", rebrac.Config(critic_layer_norm=False, **_SHAPE, **_RATES),
            at_most=1 / 50, reference=13.6 / 1376,
        ),
    ),
    seeds=2,
)  # fmt: skip

TOYS = (DESCENT, SEPARATION, CLIFF, DIVERSITY, ARMS, *EXPECTILES, FAR)
