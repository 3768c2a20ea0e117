"""Bandits of two arms for methods that are asked for a return: without luck, and with nothing but luck."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from agents import bc, dt
from rlkit.acting import first_goal
from rlkit.datasets import Episodes
from rlkit.types import Agent, Array, Box, Discrete, Key, Percept, Spec, State

from .bandits import one_step
from .toy import Data, Toy, Trained, Variant, prepare, train

SPEC = Spec(Box((1,), (-np.inf,), (np.inf,)), Discrete(2), 1)
EPISODES = 1000
STEPS = 1000
SAMPLES = 4000
LUCK = (0.1, 0.2, 0.3, 0.4)


@functools.cache
def arms(good: float, bad: float, share_good: float) -> Episodes:
    """Arm 1 pays 1 with probability ``good``, arm 0 with ``bad``; arm 1 is chosen with probability ``share_good``.

    As many episodes of each kind as are expected: the data's shares are exact.
    """
    action, reward = [], []
    for arm, share, pays in ((1, share_good, good), (0, 1 - share_good, bad)):
        number = round(EPISODES * share)
        action += [arm] * number
        reward += [1] * round(number * pays) + [0] * (number - round(number * pays))
    return one_step(np.zeros((EPISODES, 1)), np.array(action), np.array(reward))


@functools.partial(jax.jit, static_argnums=0)
def _sampled(agent: Agent, state: State, goal: float | None, keys: Array) -> Array:
    memory = agent.begin(state, goal)
    memory = agent.observe(state, memory, Percept(jnp.zeros(1), jnp.zeros(()), jnp.zeros((), jnp.int32)))

    def choose(key: Key) -> Array:
        return agent.act(state, memory, key, greedy=False)[0][0]

    return jax.vmap(choose)(keys).mean()


def share_of_arm_1(trained: Trained, asked: float) -> float:
    """How often the policy takes arm 1 when it is asked for a return, or asked for nothing if it takes no goal."""
    goal = None if first_goal(trained.agent) is None else asked
    return float(_sampled(trained.agent, trained.state, goal, jax.random.split(jax.random.key(1), SAMPLES)))


@functools.cache
def _without_luck(config) -> Data:
    return prepare(arms(good=1.0, bad=0.0, share_good=0.5), SPEC, config)


def arm_as_asked(config, seed: int) -> float:
    """The smaller of the shares of the arm that pays 1 when asked for 1, and of the other when asked for 0."""
    trained = train(config, _without_luck(config), STEPS, seed)
    return min(share_of_arm_1(trained, 1.0), 1 - share_of_arm_1(trained, 0.0))


@functools.cache
def _with_luck(p: float, config) -> Data:
    return prepare(arms(good=1 - p, bad=p, share_good=p), SPEC, config)


def lucky_reward(p: float, config, seed: int) -> float:
    """Mean reward of the policy that is asked for 1, where the better arm pays with probability 1 - p, the other with
    p, and the data choose the better one with probability p."""
    trained = train(config, _with_luck(p, config), STEPS, seed)
    share = share_of_arm_1(trained, 1.0)
    return share * (1 - p) + (1 - share) * p


def farthest_from_half(config, seed: int) -> float:
    """Minus the largest distance of `lucky_reward` from 0.5 over p."""
    return -max(abs(lucky_reward(p, config, seed) - 0.5) for p in LUCK)


_SIZE = {"layers": 1, "head_width": 32, "mlp": 64, "context": 1, "batch_size": 256, "dropout": 0.0, "warmup": 1}
ASKED = dt.Config(targets=(1.0, 0.0), learning_rate=3e-4, **_SIZE)
CLONE = dt.Config(return_token=False, learning_rate=3e-4, **_SIZE)
BC = bc.Config(widths=(32,), learning_rate=1e-3)

ARM = Toy(
    "asking: arms",
    "Two arms, drawn as often, pay 1 and 0. The smaller of two shares: of the arm that pays where 1 is asked for, of "
    "the other where 0 is.",
    arm_as_asked,
    (
        Variant("return token", "dt", ASKED, at_least=0.99, reference=1.0),
        Variant("no return token", "dt", CLONE, at_most=0.6, reference=0.5),
        Variant("clone", "bc", BC, at_most=0.6, reference=0.5),
    ),
)
HALF = Toy(
    "asking: luck",
    "The better arm pays 1 with probability 1 - p, the other with p, and the data choose the better one with "
    "probability p: as many lucky episodes of either. Minus how far the mean reward of the policy asked for 1 is from "
    "0.5, at worst over p = 0.1 to 0.4. More than 0.5 has seen what is luck; a clone has 2 p (1 - p).",
    farthest_from_half,
    (
        Variant("return token", "dt", ASKED, at_least=-0.06, reference=0.0),
        Variant("no return token", "dt", CLONE, at_most=-0.26, reference=-0.32),
        Variant("clone", "bc", BC, at_most=-0.26, reference=-0.32),
    ),
)

TOYS = (ARM, HALF)
