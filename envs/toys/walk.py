"""A walk of 50 steps from the origin, for methods that are asked to meet a constraint, or two at once.

    python -m envs.toys.walk --out DIR

The next position is the position plus the action. After Ajay et al. 2023, appendix A (arXiv 2211.15657): each recorded
walk meets one constraint, which is its label: 0 to end at most 1 from the origin, 1 to end at least 0.7 from it. Their
ends lie evenly over the disc r <= 1 and over the ring 0.7 <= r <= 1.4; no walk was recorded to meet both constraints.

A recorded episode's return is the number of its label: the reward is 0 but at the last step, where it is that number.
The environment pays 1 for an end that meets both constraints, and 0 for any other. Episode i follows from (seed, i).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from envs.recording import main, mean_return, rollout, store

ENV = "PointWalk-v0"
DATASET = "point-walk/constraints-v0"
STEPS = 50
EPISODES = 1000
SEED = 0
LARGEST_STEP = 0.15  # along each axis
NOISE = 0.02  # standard deviation of a recorded action around the mean one of its walk
DISC = (0.0, 1.0)  # least and largest distance of recorded ends from the origin
RING = (0.7, 1.4)


class Walk(gymnasium.Env):
    """One walk."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-LARGEST_STEP, LARGEST_STEP, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """At the origin."""
        super().reset(seed=seed)
        self._position = np.zeros(2)
        self._steps = 0
        return self._position.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """The reward is 1 at the last step, if the walk ends where both constraints are met."""
        self._position = self._position + action
        self._steps += 1
        is_last = self._steps == STEPS
        reward = float(is_last and meets(self._position).all())
        return self._position.astype(np.float32), reward, False, False, {}


def meets(ends: np.ndarray) -> np.ndarray:
    """[..., 2] positions -> [..., 2] bool: whether each constraint is met."""
    distance = np.linalg.norm(ends, axis=-1)
    is_near = distance <= DISC[1]
    is_far = distance >= RING[0]
    return np.stack([is_near, is_far], -1)


def end_points(rng: np.random.Generator, number: int, label: int) -> np.ndarray:
    """[number, 2] evenly over the disc (label 0) or the ring (label 1)."""
    least, largest = (DISC, RING)[label]
    squared = rng.uniform(least**2, largest**2, number)
    angle = rng.uniform(0, 2 * np.pi, number)
    direction = np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.sqrt(squared)[:, None] * direction


def recorded_steps(rng: np.random.Generator, label: int, steps: int = STEPS) -> np.ndarray:
    """[steps, 2] actions of a walk that meets the constraint ``label``."""
    (end,) = end_points(rng, 1, label)
    spread = NOISE * np.sqrt(STEPS / steps)  # so that longer steps make no straighter walk
    noise = spread * rng.normal(size=(steps, 2))
    return end / steps + noise - noise.mean(0)


def record(episodes: int = EPISODES, seed: int = SEED) -> list[dict[str, np.ndarray]]:
    """The first ``episodes`` episodes of the dataset; the labels take turns."""
    env = gymnasium.make(ENV)
    recorded = []
    for i in range(episodes):
        label = i % 2
        rng = np.random.default_rng([seed, i])
        actions = recorded_steps(rng, label).astype(np.float32)
        in_turn = iter(actions)
        rows = rollout(env, lambda obs, in_turn=in_turn: next(in_turn), seed + i)
        rows["rewards"] = np.zeros(STEPS)
        rows["rewards"][-1] = label
        recorded.append(rows)
    return recorded


def references(episodes: int = 1000) -> tuple[float, float]:
    """How often walks of uniform actions end where both constraints are met, and 1."""
    rng = np.random.default_rng(SEED)

    def uniform(obs: np.ndarray) -> np.ndarray:
        return rng.uniform(-LARGEST_STEP, LARGEST_STEP, 2)

    return mean_return(gymnasium.make(ENV), uniform, episodes), 1.0


def write(out: Path, episodes: int = EPISODES) -> None:
    """Record the dataset and store it under the Minari root ``out``."""
    store(
        out,
        DATASET,
        gymnasium.make(ENV),
        record(episodes),
        seed=SEED,
        references=references(),
        command="python -m envs.toys.walk",
        description="Walks from the origin that end near it (return 0) or away from it (return 1).",
    )


if ENV not in gymnasium.registry:  # as when this module is the command
    gymnasium.register(ENV, "envs.toys.walk:Walk", max_episode_steps=STEPS)

if __name__ == "__main__":
    main("Record the walks that meet a constraint.", write)
