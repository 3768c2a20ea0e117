"""Adaptive deep-brain stimulation, as small as it can be: a made-up patient, not fitted to anybody's recordings.

    python -m envs.toys.brain_stimulation --out DIR

The power of the beta band, which goes with the symptoms, and that of the gamma band follow AR(2) processes; a level of
stimulation from 0 to 4 lowers the one and raises the other at the next step:

    beta'  = 0.4 + 1.2 beta - 0.4 beta_before - 0.15 level + 0.25 noise       without stimulation 2 on average
    gamma' = 0.3 gamma + 0.3 gamma_before + 0.1 level + 0.1 noise
    reward = -beta^2 - 0.1 level + 0.2 noise

The observation is (beta, beta_before, gamma, gamma_before). A day is an episode of 100 steps, cut short, never ended.
The recorded days are of a clinic that tries things: five kinds take turns, a fixed level for the day, weaker and
stronger, a controller that reacts to beta alone and late, and levels at random. Rewards stand for ratings of symptoms,
which are dear: --label-share 0.1 hides those of nine days in ten. Day i follows from (seed, i) alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.recording import Policy, main, mean_return, rollouts, store

ENV = "BrainStimulation-v0"
DATASET = "brain-stimulation/mixed-v0"
DAYS = 200
STEPS = 100
SEED = 0
LEVELS = 5
KINDS = ("weak", "strong", "random", "late", "any")


class BrainStimulation(gymnasium.Env):
    """One day of the patient."""

    observation_space = Box(-np.inf, np.inf, (4,), np.float32)
    action_space = Discrete(LEVELS)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """A morning: beta near its level without stimulation."""
        super().reset(seed=seed)
        beta = 2 + 0.5 * self.np_random.normal(size=2)
        gamma = 0.2 * self.np_random.normal(size=2)
        self._state = np.concatenate([beta, gamma])
        return self._state.astype(np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """The reward is that of the power now; the level acts on the next."""
        beta, beta_before, gamma, gamma_before = self._state
        beta_noise, gamma_noise, reward_noise = self.np_random.normal(size=3)
        reward = -(beta**2) - 0.1 * action + 0.2 * reward_noise
        next_beta = _unstimulated(beta, beta_before) - 0.15 * action + 0.25 * beta_noise
        next_gamma = 0.3 * gamma + 0.3 * gamma_before + 0.1 * action + 0.1 * gamma_noise
        self._state = np.array([next_beta, beta, next_gamma, gamma])
        return self._state.astype(np.float32), float(reward), False, False, {}


def controller(obs: np.ndarray) -> int:
    """The level that brings the next beta nearest to 0: what a clinic that knew the equations would do."""
    beta, beta_before = obs[0], obs[1]
    level = round(_unstimulated(beta, beta_before) / 0.15)
    return int(np.clip(level, 0, LEVELS - 1))


def behaviour(kind: str, rng: np.random.Generator) -> Policy:
    """The recorded policy of one day."""
    weak = rng.integers(0, 2)
    strong = rng.integers(3, LEVELS)
    any_level = rng.integers(0, LEVELS)
    day_level = {"weak": weak, "strong": strong}.get(kind, any_level)

    def policy(obs: np.ndarray) -> int:
        if kind == "random" or rng.random() < 0.1:
            return int(rng.integers(0, LEVELS))
        if kind == "late":
            beta_before = obs[1]
            return 4 if beta_before > 1 else 0
        return int(day_level)

    return policy


def record(days: int, seed: int = SEED) -> list[dict[str, np.ndarray]]:
    """The first ``days`` days of the dataset; the kinds take turns."""
    env = gymnasium.make(ENV)
    policies = []
    for day in range(days):
        rng = np.random.default_rng([seed, day])
        policy = behaviour(KINDS[day % len(KINDS)], rng)
        policies.append(policy)
    return rollouts(env, policies, seed)


def references(days: int = 100) -> tuple[float, float]:
    """Mean returns of uniform levels and of the controller, over the same seeded days."""
    env = gymnasium.make(ENV)
    rng = np.random.default_rng(SEED)

    def uniform(obs: np.ndarray) -> int:
        return int(rng.integers(0, LEVELS))

    low = mean_return(env, uniform, days)
    high = mean_return(env, controller, days)
    return low, high


def write(out: Path, days: int = DAYS) -> None:
    """Record the dataset and store it under the Minari root ``out``."""
    store(
        out,
        DATASET,
        gymnasium.make(ENV),
        record(days),
        seed=SEED,
        references=references(),
        command="python -m envs.toys.brain_stimulation",
        description="Days of a made-up patient under fixed, late and random levels of stimulation in turn.",
    )


def _unstimulated(beta: float, beta_before: float) -> float:
    """The next beta without stimulation and noise."""
    return 0.4 + 1.2 * beta - 0.4 * beta_before


if ENV not in gymnasium.registry:  # as when this module is the command
    gymnasium.register(ENV, "envs.toys.brain_stimulation:BrainStimulation", max_episode_steps=STEPS)

if __name__ == "__main__":
    main("Record the brain-stimulation dataset.", write)
