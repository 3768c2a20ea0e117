"""A point, a block in its way, and a goal behind the block: the smallest maze with two ways round.

    python -m envs.toys.detour --out DIR

The square is [-1, 1] by [-1, 1]. The action is a velocity, the next position the position plus a tenth of it. A move
that would end in the block or outside of the square is not made. An episode has 64 steps, of which each pays 1 that
ends at the goal, so that a return says how quickly the point arrives.

Recorded are walks round the block, above it or below, each at a speed of its own. The mean of both ways leads into the
block. Episode i follows from (seed, i) alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from envs.recording import Policy, main, mean_return, rollouts, store

ENV = "Detour-v0"
DATASET = "detour/mixed-v0"
STEPS = 64
EPISODES = 400
SEED = 0
BLOCK = np.array([0.2, 0.6])  # half its width and height
GOAL = np.array([0.8, 0.0])
GOAL_RADIUS = 0.15
STEP = 0.1
NOISE = 0.2  # standard deviation of a recorded velocity


class Detour(gymnasium.Env):
    """One way to the goal."""

    observation_space = Box(-1.0, 1.0, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """On the left, near the middle of the block's height."""
        super().reset(seed=seed)
        self._position = self.np_random.uniform([-0.9, -0.3], [-0.7, 0.3])
        return self._position.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """The reward is 1 at the goal."""
        moved = self._position + STEP * np.clip(action, -1.0, 1.0)
        if is_free(moved):
            self._position = moved
        is_there = np.linalg.norm(self._position - GOAL) <= GOAL_RADIUS
        return self._position.astype(np.float32), float(is_there), False, False, {}


def is_free(position: np.ndarray) -> np.ndarray:
    """[..., 2] -> [...] bool: whether a point can be there."""
    in_block = (np.abs(position) < BLOCK).all(-1)
    in_square = (np.abs(position) <= 1.0).all(-1)
    return in_square & ~in_block


def behaviour(speed: float, side: float, rng: np.random.Generator | None = None) -> Policy:
    """The way round the block, above it (``side`` 1) or below it (-1), with noise if there is a generator."""

    def policy(obs: np.ndarray) -> np.ndarray:
        if obs[0] < -0.25:
            heading = np.array([-0.2, 0.8 * side])
        elif obs[0] < 0.25:
            heading = np.array([0.3, 0.8 * side])
        else:
            heading = GOAL
        left = heading - obs
        velocity = speed * left / max(np.linalg.norm(left), STEP)
        if rng is not None:
            velocity = velocity + NOISE * rng.normal(size=2)
        return np.clip(velocity, -1.0, 1.0).astype(np.float32)

    return policy


def record(episodes: int = EPISODES, seed: int = SEED) -> list[dict[str, np.ndarray]]:
    """The first ``episodes`` episodes of the dataset; the ways take turns."""
    policies = []
    for i in range(episodes):
        rng = np.random.default_rng([seed, i])
        speed = rng.uniform(0.4, 1.0)
        side = 1.0 if i % 2 else -1.0
        policies.append(behaviour(speed, side, rng))
    return rollouts(gymnasium.make(ENV), policies, seed)


def references(episodes: int = 100) -> tuple[float, float]:
    """Mean returns of uniform velocities and of the way above at full speed, over the same seeded episodes."""
    env = gymnasium.make(ENV)
    rng = np.random.default_rng(SEED)

    def uniform(obs: np.ndarray) -> np.ndarray:
        return rng.uniform(-1.0, 1.0, 2)

    low = mean_return(env, uniform, episodes)
    high = mean_return(env, behaviour(1.0, 1.0), episodes)
    return low, high


def write(out: Path, episodes: int = EPISODES) -> None:
    """Record the dataset and store it under the Minari root ``out``."""
    store(
        out,
        DATASET,
        gymnasium.make(ENV),
        record(episodes),
        seed=SEED,
        references=references(),
        command="python -m envs.toys.detour",
        description="Ways round a block, above it and below, at speeds from 0.4 to 1 of the largest.",
    )


if ENV not in gymnasium.registry:  # as when this module is the command
    gymnasium.register(ENV, "envs.toys.detour:Detour", max_episode_steps=STEPS)

if __name__ == "__main__":
    main("Record ways round a block.", write)
