"""Stacks of four blocks: a planner that was told one pair of blocks of each is asked for several pairs at once."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from agents import decision_diffuser
from rlkit.datasets import Episodes, from_episodes
from rlkit.types import Box, Percept, Spec

from .toy import UNIT, Toy, Trained, Variant, prepare, train

BLOCKS = 4
PAIRS = tuple(itertools.permutations(range(BLOCKS), 2))  # label (i, j): block i is higher than block j
NOISE = 0.05  # standard deviation of a height; blocks are 1 apart
EPISODES = 4000
UPDATES = 6000
PLANS = 500
SPEC = Spec(Box((BLOCKS,), (-np.inf,) * BLOCKS, (np.inf,) * BLOCKS), Box((1,), (-1.0,), (1.0,)), 1)
ACTING = ("guidance", "asked")  # settings that play no part in training
TWO = ((1, 0), (2, 1))
WITHOUT = (3, 2)


@functools.cache
def stacks() -> Episodes:
    """One step, from no heights to those of a stack. An episode's return is the number of a pair that it meets."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(EPISODES):
        heights = rng.permutation(BLOCKS)
        met = [number for number, (i, j) in enumerate(PAIRS) if heights[i] > heights[j]]
        stack = heights + NOISE * rng.normal(size=BLOCKS)
        episodes.append(
            {
                "observations": np.stack([np.zeros(BLOCKS), stack]).astype(np.float32),
                "actions": np.zeros((1, 1), np.float32),
                "rewards": np.array([rng.choice(met)], np.float32),
                "truncations": np.array([True]),
            }
        )
    return from_episodes(episodes, name="stacks", action=UNIT)


@functools.cache
def _trained(config: decision_diffuser.Config, seed: int) -> Trained:
    return train(config, prepare(stacks(), SPEC, config), UPDATES, seed)


@functools.cache
def planned(config: decision_diffuser.Config, seed: int) -> dict[str, np.ndarray]:
    """What is asked for -> [PLANS, BLOCKS] heights in the last state of plans."""
    defaults = {name: getattr(TRAINED, name) for name in ACTING}
    trained = _trained(dataclasses.replace(config, **defaults), seed)
    agent = dataclasses.replace(trained.agent, config=config)
    percept = Percept(jnp.zeros(BLOCKS), jnp.float32(0), jnp.int32(0))

    @jax.jit
    def heights(goal: jax.Array, keys: jax.Array) -> jax.Array:
        def one(key: jax.Array) -> jax.Array:
            memory = agent.observe(trained.state, agent.begin(trained.state, goal), percept)
            return trained.state.unscaled(agent.plan(trained.state, memory, key))[-1]

        return jax.vmap(one)(keys)

    keys = jax.random.split(jax.random.key(seed), PLANS)
    return {label: np.asarray(heights(goal, keys)) for label, goal in agent.goals.items()}


def are_met(heights: np.ndarray, pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    """[N] bool: whether in each pair (i, j) block i is the higher one, for heights [N, BLOCKS]."""
    return np.all([heights[:, i] > heights[:, j] for i, j in pairs], 0)


def two(config: decision_diffuser.Config, seed: int) -> float:
    """Share of plans in which 1 is above 0, and 2 above 1, where both are asked for."""
    return float(are_met(planned(config, seed)[f"label {ASKED_TWO}"], TWO).mean())


def without(config: decision_diffuser.Config, seed: int) -> float:
    """Share of plans in which also 3 is not above 2, where that is taken away."""
    heights = planned(config, seed)[f"label {ASKED_WITHOUT}"]
    return float((are_met(heights, TWO) & ~are_met(heights, (WITHOUT,))).mean())


ASKED_TWO = "+".join(str(PAIRS.index(pair)) for pair in TWO)
ASKED_WITHOUT = f"{ASKED_TWO}-{PAIRS.index(WITHOUT)}"
TRAINED = decision_diffuser.Config(
    condition="label",
    labels=len(PAIRS),
    asked=(ASKED_TWO, ASKED_WITHOUT),
    horizon=4,
    sampler="ddim",
    sampling_steps=25,
    noise_levels=50,
    noise_scale=1.0,
    width=32,
    multipliers=(1, 2),
    inverse_widths=(8,),
    batch_size=256,
    learning_rate=2e-3,
    ema_rate=0.02,
    ema_start=1_000,
    termination_penalty=0.0,
    guidance=1.0,
)
UNGUIDED = dataclasses.replace(TRAINED, guidance=0.0)
_METHOD = "decision-diffuser"

TOYS = (
    Toy(
        "stacks: two pairs",
        "Share of plans in which block 1 is above 0 and 2 above 1, where both are asked for and one pair at a time was "
        "told. The references are those of exact denoisers.",
        two,
        (
            Variant("guidance 1", _METHOD, TRAINED, at_least=0.8, reference=0.949, in_suite=False),
            Variant("not guided", _METHOD, UNGUIDED, at_most=0.3, reference=1 / 6, in_suite=False),
        ),
        seeds=1,
    ),
    Toy(
        "stacks: without",
        "Share of plans in which block 1 is above 0, 2 above 1 and 3 not above 2, where the last pair is taken away. "
        "The references are those of exact denoisers.",
        without,
        (
            Variant("guidance 1", _METHOD, TRAINED, at_least=0.7, reference=0.672, in_suite=False),
            Variant("not guided", _METHOD, UNGUIDED, at_most=0.25, reference=1 / 8, in_suite=False),
        ),
        seeds=1,
    ),
)
