"""A fork: one step at which two ways are open, and nothing but the future or the return tells which one was taken."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from agents import odt, pdt
from rlkit.acting import first_goal
from rlkit.datasets import Episodes, from_episodes
from rlkit.types import Box, Percept, Spec

from .toy import UNIT, Data, Toy, Trained, Variant, prepare, train

LENGTH = 8  # steps of an episode
EPISODES = 500
STARTS = 500  # of the measurement
START_SPREAD = 0.02
SPEC = Spec(Box((1,), (-np.inf,), (np.inf,)), Box((1,), (-1.0,), (1.0,)), LENGTH)


@functools.cache
def fork(sign: float) -> Episodes:
    """Half of the episodes go right at 0.5 a step, half left; all begin near 0. The return is ``sign`` times where an
    episode ends."""
    rng = np.random.default_rng(0)
    episodes = []
    for number in range(EPISODES):
        way = 1.0 if number % 2 else -1.0
        start = START_SPREAD * rng.normal()
        action = 0.5 * way + 0.05 * rng.normal(size=LENGTH)
        position = start + np.concatenate([[0.0], np.cumsum(action)])
        last = np.arange(LENGTH) == LENGTH - 1
        episodes.append(
            {
                "observations": position[:, None].astype(np.float32),
                "actions": action[:, None].astype(np.float32),
                "rewards": np.where(last, sign * position[-1], 0.0).astype(np.float32),
                "terminations": last,
            }
        )
    return from_episodes(episodes, name="fork", action=UNIT)


@functools.cache
def _on_the_fork(config, sign: float) -> Data:
    return prepare(fork(sign), SPEC, config)


@functools.cache
def _trained(config, sign: float, steps: int, seed: int, stages: int | None = None) -> Trained:
    return train(config, _on_the_fork(config, sign), steps, seed, stages)


def first_actions(trained: Trained) -> jax.Array:
    """[STARTS] the greedy actions at the fork."""
    agent, state = trained.agent, trained.state
    start_key, act_key = jax.random.split(jax.random.key(1))
    starts = START_SPREAD * jax.random.normal(start_key, (STARTS, 1))

    @jax.jit
    @jax.vmap
    def act(obs, key):
        percept = Percept(obs, jnp.float32(0), jnp.int32(0))
        memory = agent.observe(state, agent.begin(state, first_goal(agent)), percept)
        return agent.act(state, memory, key, greedy=True)[0][0, 0]

    return act(starts, jax.random.split(act_key, STARTS))


# ---- which future

PRETRAIN_STEPS, STEPS = 1200, 200


def _trained_pdt(config: pdt.Config, sign: float, seed: int) -> Trained:
    """How futures are chosen plays no part in training."""
    trained = _trained(dataclasses.replace(config, candidates=1), sign, STEPS, seed)
    return trained._replace(agent=dataclasses.replace(trained.agent, config=config))


def told_by_the_future(config: pdt.Config, seed: int) -> float:
    """Share of recorded episodes in which the pretrained policy, told their future, takes their way at the fork."""
    trained = _trained(config, 1.0, STEPS, seed, stages=1)
    agent, params = trained.agent, trained.state.net.params
    buffer = _on_the_fork(config, 1.0).buffer
    first = jnp.flatnonzero(buffer.t == 0)
    windows = buffer.around(first, config.context - 1, config.context, 1.0)
    key = jax.random.key(2)
    action = jax.jit(agent.retold)(params, windows, key)[:, -1]
    recorded = windows.action[:, config.context - 1]
    return float((jnp.sign(action) == jnp.sign(recorded)).mean())


def share_right(config: pdt.Config, seed: int) -> float:
    """Share of actions to the right at the fork, where ends on the right pay."""
    return float((first_actions(_trained_pdt(config, 1.0, seed)) > 0).mean())


def share_left(config: pdt.Config, seed: int) -> float:
    """Share of actions to the left at the fork, where ends on the left pay."""
    return float((first_actions(_trained_pdt(config, -1.0, seed)) < 0).mean())


_SIZE = {"context": 4, "acting_context": 4, "layers": 1, "heads": 2, "head_width": 16, "mlp": 64, "dropout": 0.0}
_RATE = {"batch_size": 32, "learning_rate": 1e-2, "warmup": 30}


def _pdt(**changes) -> pdt.Config:
    settings = {"pretrain_steps": PRETRAIN_STEPS} | _SIZE | _RATE | changes
    return pdt.Config(**settings)


TOLD = Toy(
    "fork, told the future",
    "Share of recorded episodes whose way at the fork the policy takes when it is told their future. With a KL weight "
    "of 1000 futures say nothing: where the policy is still right, it has seen the future elsewhere.",
    told_by_the_future,
    (
        Variant("beta = 1", "pdt", _pdt(), at_least=0.98, reference=1.0, in_suite=False),
        Variant("beta = 1000", "pdt", _pdt(beta=1000.0), at_most=0.65, reference=0.48, in_suite=False),
        Variant("not told", "pdt", _pdt(told=False), at_most=0.65, in_suite=False),
    ),
    suite_seed=2,
)
RIGHT = Toy(
    "fork, right",
    "Share of actions to the right at the fork, where ends on the right pay: the best of 256 futures, or any future "
    "that the prior draws.",
    share_right,
    (
        Variant("best of 256", "pdt", _pdt(), at_least=0.9, reference=0.95),
        Variant("from the prior", "pdt", _pdt(candidates=1), at_most=0.65, reference=0.55),
    ),
)
LEFT = Toy(
    "fork, left",
    "Share of actions to the left at the fork, where the rewards are those of the other toy times -1.",
    share_left,
    (
        Variant("best of 256", "pdt", _pdt(), at_least=0.9, in_suite=False),
        Variant("from the prior", "pdt", _pdt(candidates=1), at_most=0.65, in_suite=False),
    ),
)

# ---- which return


def asked_right(config: odt.Config, seed: int) -> float:
    """Share of actions to the right at the fork, where the return is the place of the end."""
    trained = _trained(dataclasses.replace(config, targets=()), 1.0, PRETRAIN_STEPS, seed)
    asking = dataclasses.replace(trained.agent, config=config)
    return float((first_actions(trained._replace(agent=asking)) > 0).mean())


def _odt(target: float) -> odt.Config:
    return odt.Config(targets=(target,), **_SIZE, **_RATE)


ASKED = Toy(
    "fork, asked",
    "Share of actions to the right at the fork, where an episode that goes right returns about 4 and the others -4, by "
    "a policy that is asked for one of these.",
    asked_right,
    (
        Variant("asked for 4", "odt", _odt(4.0), at_least=0.98),
        Variant("asked for -4", "odt", _odt(-4.0), at_most=0.02),
    ),
)

TOYS = (TOLD, RIGHT, LEFT, ASKED)
