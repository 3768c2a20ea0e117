"""Worlds in which chance pays: bandits, a gamble beside a safe arm, and a coin that falls before the reward comes.

The recorded frequencies are the probabilities themselves, so that what is measured is the method and not the sample.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agents import bc, doc, dt
from rlkit.acting import first_goal
from rlkit.datasets import Episodes, from_episodes
from rlkit.types import Agent, Box, Discrete, Percept, Spec, State

from .bandits import one_step
from .toy import Data, Toy, Trained, Variant, prepare, train

UPDATES = 2500
DRAWS = 2000  # actions of each policy: their mean is known to 0.01 where the policy is undecided


class Deployed(NamedTuple):
    """A policy at the start of an episode in each of N states."""

    share: np.ndarray  # [N, A], how often each action is taken
    belief: np.ndarray  # [N], the return that the agent believes in; NaN for one that believes nothing


@functools.partial(jax.jit, static_argnums=0)
def _first_actions(agent: Agent, state: State, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(actions [N, DRAWS], beliefs [N]) of observations [N, O]."""

    def one(row: jax.Array) -> tuple[jax.Array, jax.Array]:
        percept = Percept(row, jnp.float32(0), jnp.int32(0))
        memory = agent.observe(state, agent.begin(state, first_goal(agent)), percept)
        sampled = jax.vmap(lambda key: agent.act(state, memory, key, greedy=False)[0][0])
        belief = agent.choose(state, memory, jax.random.key(0))[1] if hasattr(agent, "choose") else jnp.nan
        return sampled(jax.random.split(jax.random.key(1), DRAWS)), belief

    return jax.vmap(one)(obs)


def deployed(trained: Trained, obs: np.ndarray, actions: int) -> Deployed:
    """How the trained policy acts at the start of an episode with each observation of ``obs`` [N, O], and what it
    believes."""
    drawn, belief = _first_actions(trained.agent, trained.state, jnp.asarray(obs))
    share = (np.asarray(drawn)[..., None] == np.arange(actions)).mean(1)
    return Deployed(share, np.asarray(belief))


# ---- bandits whose reward is luck once the arm is chosen: one for each p, told apart by the observation

CHANCES = (0.1, 0.2, 0.3, 0.4)
OF_EACH = 400
BANDIT_SPEC = Spec(Box((4,), (0.0,) * 4, (1.0,) * 4), Discrete(2), 1)


@functools.cache
def bandits() -> Episodes:
    """Arm 0 pays with probability p and arm 1 with 1 - p; arm 1 is chosen with probability p. So both arms have as many
    lucky episodes."""
    rows = []
    for number, p in enumerate(CHANCES):
        for arm, chosen, pays in ((0, 1 - p, p), (1, p, 1 - p)):
            for reward, chance in ((1.0, pays), (0.0, 1 - pays)):
                rows += [(number, arm, reward)] * round(OF_EACH * chosen * chance)
    number, arm, reward = (np.array(column) for column in zip(*rows, strict=True))
    return one_step(np.eye(4)[number], arm.astype(np.int32), reward)


@functools.cache
def _on_bandits(config) -> Data:
    return prepare(bandits(), BANDIT_SPEC, config)


@functools.cache
def played_bandits(config, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(what the trained policy earns [4], what it believes [4]) for each of CHANCES."""
    trained = train(config, _on_bandits(config), UPDATES, seed)
    share, belief = deployed(trained, np.eye(4), 2)
    p = np.array(CHANCES)
    return share[:, 0] * p + share[:, 1] * (1 - p), belief


def bandit_regret(config, seed: int) -> float:
    """Reward less that of the better arm, at the worst of the four chances."""
    reward, _ = played_bandits(config, seed)
    return float((reward - (1 - np.array(CHANCES))).min())


def bandit_consistency(config, seed: int) -> float:
    """Minus the distance between belief and reward, at the worst of the four chances."""
    reward, belief = played_bandits(config, seed)
    return -float(np.abs(belief - reward).max())


# ---- a gamble that pays 10 with probability 0.1, beside a safe arm that pays 5

GAMBLE_SPEC = Spec(Box((1,), (0.0,), (1.0,)), Discrete(2), 1)


@functools.cache
def gamble() -> Episodes:
    """Uniform choices: of 400 gambles 40 pay, and 400 times the safe arm does."""
    arm = np.repeat([0, 1], 400).astype(np.int32)
    reward = np.concatenate([np.full(40, 10.0), np.zeros(360), np.full(400, 5.0)])
    return one_step(np.ones((800, 1)), arm, reward)


@functools.cache
def _played_gamble(config, seed: int) -> tuple[float, float]:
    trained = train(config, prepare(gamble(), GAMBLE_SPEC, config), UPDATES, seed)
    return _earned(trained, np.ones((1, 1)))


def _earned(trained: Trained, obs: np.ndarray) -> tuple[float, float]:
    """(what is earned, what is believed) where action 0 is the gamble and action 1 safe."""
    share, belief = deployed(trained, obs, 2)
    return float(share[0] @ [1.0, 5.0]), float(belief[0])


def gamble_return(config, seed: int) -> float:
    """What the trained policy earns."""
    return _played_gamble(config, seed)[0]


def gamble_consistency(config, seed: int) -> float:
    """Minus the distance between what it believes and what it earns."""
    earned, belief = _played_gamble(config, seed)
    return -abs(belief - earned)


# ---- the same in two steps: the coin is seen before the reward comes, which is no luck any more then

COIN_SPEC = Spec(Box((4,), (0.0,) * 4, (1.0,) * 4), Discrete(2), 2)
START, HEADS, TAILS, SAFE, END = range(5)  # what is observed; nothing at the end
PAYS = {HEADS: 10.0, TAILS: 0.0, SAFE: 5.0}


@functools.cache
def coin() -> Episodes:
    """The gamble leads to heads or tails, the safe arm to a place of its own; then either action ends the episode, with
    what the place pays."""
    observed = np.vstack([np.eye(4), np.zeros(4)]).astype(np.float32)
    episodes = []
    for first, place, number in ((0, HEADS, 20), (0, TAILS, 180), (1, SAFE, 200)):
        for k in range(number):
            episodes.append(
                {
                    "observations": observed[[START, place, END]],
                    "actions": np.array([first, k % 2], np.int32),
                    "rewards": np.array([0.0, PAYS[place]], np.float32),
                    "terminations": np.array([False, True]),
                }
            )
    return from_episodes(episodes, name="coin")


@functools.cache
def _played_coin(config, seed: int) -> tuple[float, float]:
    trained = train(config, prepare(coin(), COIN_SPEC, config), UPDATES, seed)
    return _earned(trained, np.eye(4)[:1])


def coin_return(config, seed: int) -> float:
    """What the trained policy earns."""
    return _played_coin(config, seed)[0]


def coin_consistency(config, seed: int) -> float:
    """Minus the distance between what it believes at the start and what it earns."""
    earned, belief = _played_coin(config, seed)
    return -abs(belief - earned)


# ---- the methods


def _doc(constraint: str, weight: float, **changes) -> doc.Config:
    settings = {
        "context": 1, "future": 1, "reader": "mlp", "latent": "discrete", "latent_size": 6, "widths": (32, 32),
        "prior_weight": 0.05, "batch_size": 256, "learning_rate": 5e-3, "decay": True, "warmup": 1, "clip": 10.0,
        "weight_decay": 0.0,
    }  # fmt: skip
    return doc.Config(constraint=constraint, constraint_weight=weight, **settings | changes)


def _dt(target: float) -> dt.Config:
    return dt.Config(
        targets=(target,), layers=1, head_width=32, mlp=64, context=1, batch_size=256, dropout=0.0,
        learning_rate=1e-3, warmup=1,
    )  # fmt: skip


EXACT = _doc("exact-mi", 5.0)
BOTTLENECK = _doc("bottleneck", 5.0)
FUTURE_VAE = _doc("exact-mi", 0.0)
CLONE = bc.Config(widths=(32, 32), batch_size=256, learning_rate=1e-3)

LUCKY_BANDITS = Toy(
    "luck bandits",
    "Reward less that of the better arm, the worst of four bandits. The arms are as often lucky in the data, so that "
    "the return says nothing of the arm.",
    bandit_regret,
    (
        Variant("exact, w = 5", "doc", EXACT, at_least=-0.01, reference=0.0),
        Variant("bottleneck, w = 5", "doc", BOTTLENECK, at_least=-0.01, in_suite=False),
        Variant("asks for 1", "dt", _dt(1.0), at_most=-0.32, reference=-0.4),
        Variant("clone", "bc", CLONE, at_most=-0.69, reference=-0.72),
    ),
    seeds=5,
)
BELIEF = Toy(
    "luck bandits: belief",
    "Minus the distance between the return that the agent believes in and the reward, the worst of four bandits.",
    bandit_consistency,
    (
        Variant("exact, w = 5", "doc", EXACT, at_least=-0.02),
        Variant("bottleneck, w = 5", "doc", BOTTLENECK, at_least=-0.02, in_suite=False),
        Variant("future VAE", "doc", FUTURE_VAE, at_most=-0.05),
    ),
    seeds=5,
)
GAMBLE = Toy(
    "gamble",
    "Return where a gamble pays 10 with probability 0.1 and a safe arm 5.",
    gamble_return,
    (
        Variant("exact, w = 5", "doc", EXACT, at_least=4.95, reference=5.0, in_suite=False),
        Variant("bottleneck, w = 5", "doc", BOTTLENECK, at_least=4.95),
        Variant("future VAE", "doc", FUTURE_VAE, at_most=1.1, reference=1.0),
        Variant("asks for 10", "dt", _dt(10.0), at_most=1.1, reference=1.0, in_suite=False),
        Variant("clone", "bc", CLONE, at_most=3.2, reference=3.0, in_suite=False),
    ),
    seeds=5,
)
GAMBLE_BELIEF = Toy(
    "gamble: belief",
    "Minus the distance between the return that the agent believes in and what it earns.",
    gamble_consistency,
    (
        Variant("exact, w = 5", "doc", EXACT, at_least=-0.1, reference=0.0, in_suite=False),
        Variant("bottleneck, w = 5", "doc", BOTTLENECK, at_least=-0.1),
        Variant("future VAE", "doc", FUTURE_VAE, at_most=-8.0, reference=-8.97),
    ),
    seeds=5,
)
COIN = Toy(
    "coin",
    "Return of the same gamble in two steps: the coin is observed first, the reward follows from it without luck. So "
    "the next observation is what latents must not tell.",
    coin_return,
    (
        Variant("exact, w = 5", "doc", EXACT, at_least=4.95, in_suite=False),
        Variant("bottleneck, w = 5", "doc", BOTTLENECK, at_least=4.95, in_suite=False),
        Variant("future VAE", "doc", FUTURE_VAE, at_most=1.1, in_suite=False),
    ),
    seeds=5,
)
COIN_BELIEF = Toy(
    "coin: belief",
    "Minus the distance between the return that the agent believes in at the start and what it earns.",
    coin_consistency,
    (
        Variant("exact, w = 5", "doc", EXACT, at_least=-0.1, in_suite=False),
        Variant("bottleneck, w = 5", "doc", BOTTLENECK, at_least=-0.1, in_suite=False),
        Variant("future VAE", "doc", FUTURE_VAE, at_most=-8.0, in_suite=False),
    ),
    seeds=5,
)

TOYS = (LUCKY_BANDITS, BELIEF, GAMBLE, GAMBLE_BELIEF, COIN, COIN_BELIEF)
