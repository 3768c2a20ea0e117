"""Worlds that are stepped: the pendulum."""

from __future__ import annotations

import functools

import gymnasium
import jax

import envs
from agents import bc, sac, sac_rnd
from envs.toys import pendulum
from rlkit.datasets import DataOptions, Episodes, Normaliser, from_episodes, spec
from rlkit.evaluation.evaluate import Evaluator, score

from .toy import Toy, Trained, Variant, prepare, train

FIRST_START = 1_000_000  # seeds of the evaluation, which no recording here uses
EPISODES = 10


def evaluated(trained: Trained, episodes: Episodes, env_id: str) -> float:
    """Normalised score of the greedy policy: 0 for random actions, 100 for a controller that solves the task."""
    normaliser = Normaliser.fit(episodes, DataOptions(dataset="toy"))
    player = Evaluator(
        trained.agent, normaliser, functools.partial(envs.make, env_id), episodes=EPISODES, seed=FIRST_START
    )
    state = jax.tree.map(lambda leaf: leaf[None], trained.state)
    returns = player.run(state).returns
    player.close()
    return float(score(returns.mean(), envs.REFERENCES[env_id]))


@functools.cache
def mixed_swings() -> Episodes:
    """The embedded dataset: a weak swing-up, a brake and random torques take turns."""
    return from_episodes(pendulum.record(pendulum.EPISODES), action_space=gymnasium.make(pendulum.ENV).action_space)


def pendulum_score(config, seed: int) -> float:
    """Score after the pendulum preset's updates, or fewer where they are not needed."""
    episodes = mixed_swings()
    data = prepare(episodes, spec(episodes, None), config)
    return evaluated(train(config, data, PENDULUM_STEPS, seed), episodes, pendulum.ENV)


PENDULUM_STEPS = 4000
PENDULUM = Toy(
    "pendulum",
    "Score on the embedded dataset, whose own is 0: a weak swing-up, a brake and random torques. A clone hangs still. "
    "SAC passes too: this world does not show what pessimism is for.",
    pendulum_score,
    (
        Variant("preset", "sac-rnd", sac_rnd.PRESETS["pendulum"].config, at_least=80),
        Variant("preset", "bc", bc.PRESETS["pendulum"].config, at_most=20),
        Variant("preset", "sac", sac.PRESETS["pendulum"].config, at_least=80, in_suite=False),
    ),
)

TOYS = (PENDULUM,)
