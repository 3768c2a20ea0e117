"""Worlds of one step whose data have several modes for one observation, where a policy with a single mode fails."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from agents import bc, dql, fql, idql
from rlkit.datasets import Episodes
from rlkit.training import loop
from rlkit.training.sharding import make_mesh
from rlkit.types import Array, Box, Spec

from .bandits import one_step
from .toy import Data, Toy, Trained, Variant, prepare, train

ROWS = 8192
SPREAD = 0.05  # standard deviation of the recorded actions around a mode
RADIUS = 0.25  # of a mode
DRAWS = 4096
ACTION = Box((2,), (-1.0,) * 2, (1.0,) * 2)


def _drawn(trained: Trained, obs: np.ndarray) -> np.ndarray:
    """[S, DRAWS, A] actions for each of the observations ``obs`` [S, O]."""
    agent, state = trained.agent, trained.state

    @jax.jit
    def act(obs, keys):
        def one(obs, key):
            return agent.act(state, obs, key, greedy=True)[0][0]

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(obs, keys)

    keys = jax.random.split(jax.random.key(1), DRAWS)
    return np.asarray(act(jnp.asarray(obs, jnp.float32), keys))


def _train_with(value: Callable[[Array, Array], Array], config, data: Data, steps: int, seed: int) -> Trained:
    """Training in which both critics are ``value(obs, action)`` [B] for good, so that the policy alone is judged."""
    stage = config.stages(data.spec, steps)[-1]
    fields = {field.name: getattr(stage.learner, field.name) for field in dataclasses.fields(stage.learner)}
    learner = _told(type(stage.learner), value)(**fields)
    told = dataclasses.replace(stage, learner=learner)
    mesh = make_mesh(1, jax.devices()[:1])
    *_, end = loop.fit((told,), data.buffer, data.moments, (seed,), log_every=steps, mesh=mesh)
    state = jax.tree.map(lambda leaf: leaf[0], end.state)
    metrics = {name: float(value[0]) for name, value in end.metrics.items()}
    return Trained(learner, state, metrics)


@functools.cache
def _told(kind: type, value: Callable[[Array, Array], Array]) -> type:
    """The learner ``kind`` with critics that know."""

    class Told(kind):
        def _q(self, params, obs, action):
            known = value(obs, action)
            return jnp.stack([known, known])

    return Told


# ---- two modes, the better one rare, and a critic that promises something between and beside them

PROMISE_SPEC = Spec(Box((2,), (0.0,) * 2, (1.0,) * 2), ACTION, 1)
MODE = 0.5  # the modes are at -+ this in the first action dimension
PROMISE_STEPS = 4000


@functools.cache
def two_modes() -> Episodes:
    """In the first state 70 % of the actions are near the left mode and 30 % near the right, in the second one half."""
    rng = np.random.default_rng(0)
    state = rng.integers(0, 2, ROWS)
    share_right = np.where(state == 0, 0.3, 0.5)
    side = np.where(rng.random(ROWS) < share_right, MODE, -MODE)
    action = np.stack([side, np.zeros(ROWS)], 1) + SPREAD * rng.normal(size=(ROWS, 2))
    action = action.astype(np.float32)
    return one_step(np.eye(2)[state], action, two_modes_reward(state, action))


def two_modes_reward(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """1 at the right mode, 0.3 at the left one in the first state and 1 in the second, -1 elsewhere."""
    centre = np.array([MODE, 0.0])
    right = np.linalg.norm(action - centre, axis=-1) < RADIUS
    left = np.linalg.norm(action + centre, axis=-1) < RADIUS
    at_left = np.where(state == 0, 0.3, 1.0)
    return np.where(right, 1.0, np.where(left, at_left, -1.0))


def promise(obs: Array, action: Array) -> Array:
    """A critic that points to the right mode in the first state, and a little away from the data in the other
    dimension."""
    x, y = action[..., 0], action[..., 1]
    return 0.5 - 0.5 * obs[..., 0] * (x - MODE) ** 2 + 0.01 * y


@functools.cache
def _on_two_modes(config) -> Data:
    return prepare(two_modes(), PROMISE_SPEC, config)


@functools.cache
def _promised(config, seed: int) -> Trained:
    return _train_with(promise, config, _on_two_modes(config), PROMISE_STEPS, seed)


def promised_reward(config, seed: int) -> float:
    """True reward of the trained policy's actions, the mean over both states."""
    action = _drawn(_promised(config, seed), np.eye(2))
    return float(two_modes_reward(np.arange(2)[:, None], action).mean())


def closeness(config: fql.Config, seed: int) -> float:
    """Minus the mean squared distance between the policy's action and the flow's from the same noise."""
    trained = _promised(config, seed)
    params = trained.state.net.params
    obs = jnp.repeat(jnp.eye(2), DRAWS, 0)
    z = jax.random.normal(jax.random.key(1), (2 * DRAWS, 2))

    @jax.jit
    def distance(params):
        policy = trained.agent._actor.apply(params["policy"], obs, z)
        return ((policy - trained.agent.flow(params["flow"], obs, z)) ** 2).mean()

    return -float(distance(params))


# ---- four corners with noisy rewards, in one state; the critics are learnt

CORNERS = np.array([[-0.8, 0.8], [-0.8, -0.8], [0.8, 0.8], [0.8, -0.8]], np.float32)
CORNER_REWARDS = np.array([3.0, 0.0, 1.5, 5.0])
REWARD_SPREAD = 0.5
NEAR_CORNER = 0.35  # reaches from a corner of the modes to the corner of the bounds, where Q leads
CORNER_SPEC = Spec(Box((1,), (0.0,), (1.0,)), ACTION, 1)
CORNER_STEPS = 3000


@functools.cache
def corners() -> Episodes:
    """A quarter of the actions near each corner."""
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 4, ROWS)
    action = CORNERS[corner] + SPREAD * rng.normal(size=(ROWS, 2))
    reward = CORNER_REWARDS[corner] + REWARD_SPREAD * rng.normal(size=ROWS)
    return one_step(np.ones((ROWS, 1)), action.astype(np.float32), reward)


@functools.cache
def _on_corners(config) -> Data:
    return prepare(corners(), CORNER_SPEC, config)


def corner_shares(config, seed: int) -> np.ndarray:
    """[4] share of the trained policy's actions near each corner."""
    trained = train(config, _on_corners(config), CORNER_STEPS, seed)
    action = _drawn(trained, np.ones((1, 1)))[0]
    distance = np.linalg.norm(action[:, None] - CORNERS[None], axis=-1)
    return (distance < NEAR_CORNER).mean(0)


def best_corner(config, seed: int) -> float:
    """Share of the actions near the corner that pays most."""
    return float(corner_shares(config, seed)[3])


def best_of_corners(obs: Array, action: Array) -> Array:
    """A critic that prefers what is near the corner that pays most."""
    best = jnp.asarray(CORNERS[3]).reshape((1,) * (action.ndim - 1) + (2,))
    return -((action - best) ** 2).sum(-1)


@functools.cache
def _cloned_corners(config, seed: int) -> Trained:
    return _train_with(best_of_corners, config, _on_corners(config), CORNER_STEPS, seed)


def selected_corner(config: idql.Config, seed: int) -> float:
    """Share of the actions near that corner, where the critics are given. How many candidates there are plays no part
    in training."""
    trained = _cloned_corners(dataclasses.replace(config, candidates=1), seed)
    agent = dataclasses.replace(trained.agent, config=config)
    action = _drawn(trained._replace(agent=agent), np.ones((1, 1)))[0]
    return float((np.linalg.norm(action - CORNERS[3], axis=-1) < NEAR_CORNER).mean())


# ---- the methods


def _fql(alpha: float, **changes) -> fql.Config:
    settings = {"widths": (64, 64), "learning_rate": 1e-3} | changes
    return fql.Config(alpha=alpha, **settings)


def _idql(candidates: int, **changes) -> idql.Config:
    settings = {
        "widths": (64, 64), "flow_widths": (64, 64), "block_width": 64, "blocks": 1, "dropout": 0.0, "average": 0.01,
        "actor_learning_rate": 1e-3, "batch_size": 256,
    }  # fmt: skip
    return idql.Config(candidates=candidates, **settings | changes)


def _dql(eta: float) -> dql.Config:
    """Without candidates, so that the policy alone is judged."""
    return dql.Config(
        eta=eta, candidates=1, widths=(64, 64), actor_learning_rate=1e-3, critic_learning_rate=1e-3, average_after=0,
        batch_size=64,
    )  # fmt: skip


CLONE = bc.Config(widths=(64, 64), learning_rate=1e-3)

PROMISE = Toy(
    "modes: promise",
    "Reward in two states that know two modes, where the better one is rarer and the critic, which is given, promises "
    "a little more beside the data. A single mode falls between, and so does a policy that is distilled from one step "
    "of the flow.",
    promised_reward,
    (
        Variant("alpha = 0.1", "fql", _fql(0.1), at_least=0.8, reference=0.9),
        Variant("alpha = 10", "fql", _fql(10.0), at_most=0.7, reference=0.61),
        Variant(
            "alpha = 10, one Euler step", "fql", _fql(10.0, flow_steps=1), at_most=0.2, reference=-0.8, in_suite=False
        ),
        Variant("clone", "bc", CLONE, at_most=-0.9),
    ),
    seeds=2,
)
CLOSENESS = Toy(
    "modes: distillation",
    "Minus the mean squared distance between the policy's action and the flow's from the same noise: small where Q "
    "does not count, not so where Q leads.",
    closeness,
    (
        Variant("alpha = 10,000", "fql", _fql(1e4), at_least=-5e-3, reference=-1e-3, in_suite=False),
        Variant("alpha = 10", "fql", _fql(10.0), at_least=-1e-2),
        Variant("alpha = 0.1", "fql", _fql(0.1), at_most=-2e-2),
    ),
    seeds=2,
)
BEST_CORNER = Toy(
    "modes: corners",
    "Share of the actions near the corner that pays most, of four as frequent ones, with learnt critics. A clone with "
    "several modes takes each for a quarter, one with a single mode none.",
    best_corner,
    (
        Variant("alpha = 0.3", "fql", _fql(0.3), at_least=0.9, in_suite=False),
        Variant("alpha = 10,000", "fql", _fql(1e4), at_most=0.3, reference=0.25, in_suite=False),
        Variant("eta = 2.5", "dql", _dql(2.5), at_least=0.9, reference=0.9),
        Variant("eta = 0", "dql", _dql(0.0), at_most=0.3, reference=0.16),
        Variant("clone", "bc", CLONE, at_most=0.01),
    ),
    seeds=2,
)

SELECTION = Toy(
    "modes: selection",
    "Share of the actions near one of four corners that the critics, which are given, prefer: 1 - 0.75^N for the best "
    "of N draws of an exact clone.",
    selected_corner,
    (
        Variant("flow, best of 16", "idql", _idql(16, policy="flow"), at_least=0.9, reference=0.99),
        Variant("flow, best of 4", "idql", _idql(4, policy="flow"), at_least=0.5, reference=0.684),
        Variant("flow, one", "idql", _idql(1, policy="flow"), at_most=0.3, reference=0.25),
        Variant("diffusion, best of 16", "idql", _idql(16), at_least=0.8, reference=0.95, in_suite=False),
        Variant("diffusion, one", "idql", _idql(1), at_most=0.3, reference=0.17, in_suite=False),
    ),
    seeds=1,
)

TOYS = (PROMISE, CLOSENESS, BEST_CORNER, SELECTION)
