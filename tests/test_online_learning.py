"""SAC from scratch: it learns to swing a pendulum up from what it collects, not from an episode of random torques."""

import gymnasium
import jax
import numpy as np
import pytest

from agents import sac
from envs.recording import rollouts
from rlkit import online
from rlkit.buffer import Buffer, needs, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.online import Online
from rlkit.testing import final, of_seed, one_device
from rlkit.training import loop
from rlkit.training.collect import Collector

ENV = "Pendulum-v1"
STEPS = 4000
RATES = {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3, "alpha_learning_rate": 1e-3}
CONFIG = sac.Config(widths=(64, 64), batch_size=128, gamma=0.95, tau=0.02, **RATES)
SEED = 0


def make():
    return gymnasium.make(ENV)


def random_torque(rng):
    def policy(obs):
        return rng.uniform(-2.0, 2.0, 1).astype(np.float32)

    return policy


def returns(agent, state, normaliser, episodes=8):
    """[episodes] of the greedy policy."""

    @jax.jit
    def greedy(obs):
        action, _ = agent.act(state, obs, jax.random.key(0), greedy=True)
        return action[0]

    def policy(obs):
        return normaliser.env_action(np.asarray(greedy(normaliser.obs(obs))))

    played = rollouts(make(), [policy] * episodes, seed=1000)
    return np.array([episode["rewards"].sum() for episode in played])


def mean_return(share):
    """After training on batches of which the first ``share`` is an episode of random torques."""
    recorded = from_episodes(
        rollouts(make(), [random_torque(np.random.default_rng(SEED))], SEED), action_space=make().action_space
    )
    normaliser = Normaliser.fit(recorded, DataOptions("pendulum", reward_scale=0.1))
    data_spec = spec(recorded, 200, normaliser)
    stages = online.stages(CONFIG, data_spec, 0, [Online(steps=STEPS, share=share)])
    buffer = Buffer.from_episodes(recorded, normaliser, needs(stages))
    collector = Collector((SEED,), data_spec, normaliser, make, one_device())
    last = final(
        loop.fit(
            stages, buffer, stats(buffer), (SEED,), log_every=STEPS, mesh=one_device(), collector=collector
        )
    )  # fmt: skip
    return returns(stages[-1].learner, of_seed(last.state, 0), normaliser).mean()


@pytest.mark.slow
@pytest.mark.learning
@pytest.mark.parametrize("share, learns", [(0.0, True), (0.999, False)])
def test_what_is_collected_teaches_and_an_episode_of_random_torques_does_not(share, learns):
    """Of a batch of 128, none or all are the data's."""
    learnt = mean_return(share)
    assert learnt > -400 if learns else learnt < -800, learnt
