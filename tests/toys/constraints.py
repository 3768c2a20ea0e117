"""Walks that end near the origin or away from it: a planner is asked for one, or for one without the other."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from agents import decision_diffuser
from envs.toys import walk
from rlkit.datasets import Episodes, from_episodes
from rlkit.types import Box, Percept, Spec

from .toy import UNIT, Toy, Trained, Variant, prepare, train

STEPS = 3  # of a walk; a longer one takes longer to learn and shows the same
EPISODES = 1000
UPDATES = 5000
PLANS = 400
SPEC = Spec(Box((2,), (-np.inf,) * 2, (np.inf,) * 2), Box((2,), (-1.0,) * 2, (1.0,) * 2), STEPS)
ACTING = ("guidance", "asked")  # settings that play no part in training


@functools.cache
def walks() -> Episodes:
    """Walks from the origin whose actions are the steps; an episode's return is the number of its constraint."""
    episodes = []
    is_last = np.arange(STEPS) == STEPS - 1
    for number in range(EPISODES):
        label = number % 2
        steps = walk.recorded_steps(np.random.default_rng([0, number]), label, STEPS)
        places = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])
        episodes.append(
            {
                "observations": places.astype(np.float32),
                "actions": steps.astype(np.float32),
                "rewards": np.where(is_last, label, 0.0).astype(np.float32),
                "truncations": is_last,
            }
        )
    return from_episodes(episodes, name="walks", action=UNIT)


@functools.cache
def _trained(config: decision_diffuser.Config, seed: int) -> Trained:
    return train(config, prepare(walks(), SPEC, config), UPDATES, seed)


@functools.cache
def met(config: decision_diffuser.Config, seed: int) -> dict[str, np.ndarray]:
    """What is asked for -> [PLANS, 2] bool: the constraints that the ends of plans from the origin meet."""
    defaults = {name: getattr(TRAINED, name) for name in ACTING}
    trained = _trained(dataclasses.replace(config, **defaults), seed)
    agent = dataclasses.replace(trained.agent, config=config)
    percept = Percept(jnp.zeros(2), jnp.float32(0), jnp.int32(0))

    @jax.jit
    def ends(goal: jax.Array, keys: jax.Array) -> jax.Array:
        def one(key: jax.Array) -> jax.Array:
            memory = agent.observe(trained.state, agent.begin(trained.state, goal), percept)
            return trained.state.unscaled(agent.plan(trained.state, memory, key))[-1]

        return jax.vmap(one)(keys)

    keys = jax.random.split(jax.random.key(seed), PLANS)
    return {label: walk.meets(np.asarray(ends(goal, keys))) for label, goal in agent.goals.items()}


def one_constraint(config: decision_diffuser.Config, seed: int) -> float:
    """Share of plans that meet the constraint that is asked for, of the one that is met less often."""
    found = met(config, seed)
    return float(min(found["label 0"][:, 0].mean(), found["label 1"][:, 1].mean()))


def both(config: decision_diffuser.Config, seed: int) -> float:
    """Share of plans that meet both constraints, where both are asked for."""
    return float(met(config, seed)["label 0+1"].all(1).mean())


def without(config: decision_diffuser.Config, seed: int) -> float:
    """Share of plans that end near and not away, where that is asked for."""
    found = met(config, seed)["label 0-1"]
    return float((found[:, 0] & ~found[:, 1]).mean())


TRAINED = decision_diffuser.Config(
    condition="label",
    asked=("0", "1", "0+1", "0-1"),
    horizon=STEPS + 1,
    sampler="ddim",  # the other one has too little variance in few steps
    sampling_steps=25,
    noise_levels=50,
    noise_scale=1.0,
    width=32,
    multipliers=(1, 2),
    inverse_widths=(64, 64),
    batch_size=256,
    learning_rate=2e-3,
    ema_rate=0.02,
    ema_start=1_000,
    termination_penalty=0.0,
    guidance=1.4,
)
UNGUIDED = dataclasses.replace(TRAINED, guidance=0.0)
QUICK = dataclasses.replace(TRAINED, batch_size=64, ema_rate=0.01)  # too little for both at once
_METHOD = "decision-diffuser"

ONE = Toy(
    "constraints: one",
    "Share of plans that meet the constraint that is asked for, of the one that is met less often.",
    one_constraint,
    (
        Variant("guidance 1.4", _METHOD, TRAINED, at_least=0.95, in_suite=False),
        Variant("batches of 64", _METHOD, QUICK, at_least=0.8, in_suite=False),
        Variant("not guided", _METHOD, dataclasses.replace(QUICK, guidance=0.0), at_most=0.75, in_suite=False),
    ),
    seeds=1,
)
BOTH = Toy(
    "constraints: both",
    "Share of plans that meet both constraints, where both are asked for; no walk was recorded for both. The reference "
    "is that of exact denoisers.",
    both,
    (
        Variant("guidance 1.4", _METHOD, TRAINED, at_least=0.6, reference=0.845, in_suite=False),
        Variant("not guided", _METHOD, UNGUIDED, at_most=0.45, reference=0.386, in_suite=False),
    ),
    seeds=1,
)
WITHOUT = Toy(
    "constraints: without",
    "Share of plans that end near and not away, where the first is asked for without the second. The reference is that "
    "of exact denoisers with a guidance of 1.5.",
    without,
    (
        Variant("guidance 1.4", _METHOD, TRAINED, at_least=0.9, reference=0.957, in_suite=False),
        Variant("batches of 64", _METHOD, QUICK, at_least=0.85, in_suite=False),
        Variant("not guided", _METHOD, dataclasses.replace(QUICK, guidance=0.0), at_most=0.5, in_suite=False),
    ),
    seeds=1,
)
TOYS = (ONE, BOTH, WITHOUT)
