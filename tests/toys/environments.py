"""Worlds that are stepped: the pendulum, and days of brain stimulation."""

from __future__ import annotations

import functools

import gymnasium
import jax

import envs
from agents import bc, iql, sac, sac_rnd, semi_pessimistic
from envs.toys import brain_stimulation, pendulum
from rlkit.datasets import DataOptions, Episodes, Normaliser, from_episodes, labels, spec
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

# ---- days of stimulation, with ratings of few of them


@functools.cache
def days() -> Episodes:
    """Recorded days; the ratings of one in ten are known, all of them of the better half."""
    episodes = from_episodes(brain_stimulation.record(brain_stimulation.DAYS), name="brain stimulation")
    return labels.hide(episodes, DataOptions(dataset="toy", label_share=0.1, label_from="top-half"))


def stimulation_score(config, seed: int) -> float:
    """Score: 0 for levels at random, 100 for a controller that knows the equations. The data's is -84."""
    episodes = days()
    data = prepare(episodes, spec(episodes, None), config)
    return evaluated(train(config, data, STIMULATION_STEPS, seed), episodes, brain_stimulation.ENV)


STIMULATION_STEPS = 2000
_SMALL = {"widths": (64, 64), "batch_size": 128}
_IQL = iql.Config(actor_learning_rate=1e-3, critic_learning_rate=1e-3, tau=0.02, gamma=0.9, **_SMALL)
_RATED = semi_pessimistic.Config(_IQL, members=5, model_widths=(64, 64), model_steps=1000, model_batch_size=128)
STIMULATION = Toy(
    "brain stimulation",
    "Score from recorded days of fixed, late and random levels, a tenth of which is rated: 0 for levels at random, 100 "
    "for a controller that knows the equations. The data's is -84.",
    stimulation_score,
    (
        Variant("lower bound, IQL", "semi-pessimistic", _RATED, at_least=60),
        Variant("clone", "bc", bc.Config(learning_rate=1e-3, **_SMALL), at_most=20),
    ),
)

TOYS = (PENDULUM, STIMULATION)
