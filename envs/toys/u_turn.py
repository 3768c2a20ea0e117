"""Two corridors side by side, joined at their far ends: a small maze that pays at its goal alone.

    python -m envs.toys.u_turn --out DIR

The square is [-1, 1] by [-1, 1], with a wall from the middle of its lower edge upwards. The point begins at the lower
end of the left corridor; the goal is the lower end of the right one. The action is a velocity, the next position the
position plus a tenth of it; a move that would end in the wall or outside of the square is not made. The goal pays 1 and
ends the episode, which has 80 steps at most. The way takes some 40 steps at full speed.

Recorded are walks to places along the way, one after another, each at a speed of its own. Three in ten come to the goal
in time. Episode i follows from (seed, i) alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from envs.recording import Policy, main, mean_return, rollouts, store

ENV = "UTurn-v0"
DATASET = "u-turn/wander-v0"
STEPS = 80
EPISODES = 300
SEED = 0
WALL = np.array([0.2, 0.4])  # half its width, and how high it reaches
WAY = np.array([[-0.6, -0.8], [-0.6, 0.7], [0.6, 0.7], [0.6, -0.8]])  # the middle of the corridors, from end to end
GOAL_RADIUS = 0.2
STEP = 0.1
NOISE = 0.3  # standard deviation of a recorded velocity
AHEAD = 0.3  # how far along the way a walk looks

_LENGTHS = np.linalg.norm(np.diff(WAY, axis=0), axis=1)
_CORNERS = np.concatenate([[0.0], np.cumsum(_LENGTHS)])  # how far along the way they are
LENGTH = float(_CORNERS[-1])
FARTHEST = 1.1 * LENGTH  # that a walk aims at: what lies beyond the end is the goal


def place(along: float | np.ndarray) -> np.ndarray:
    """[...] -> [..., 2] the point so far along the way."""
    x = np.interp(along, _CORNERS, WAY[:, 0])
    y = np.interp(along, _CORNERS, WAY[:, 1])
    return np.stack([x, y], -1)


_ALONG = np.linspace(0.0, LENGTH, 200)
_PLACES = place(_ALONG)


class UTurn(gymnasium.Env):
    """Up one corridor and down the other."""

    observation_space = Box(-1.0, 1.0, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """At the lower end of the left corridor."""
        super().reset(seed=seed)
        self._position = WAY[0] + self.np_random.uniform(-0.1, 0.1, 2)
        return self._position.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """The reward is 1 at the goal, where the episode ends."""
        moved = self._position + STEP * np.clip(action, -1.0, 1.0)
        if is_free(moved):
            self._position = moved
        distance = np.linalg.norm(self._position - WAY[-1])
        is_there = bool(distance <= GOAL_RADIUS)
        return self._position.astype(np.float32), float(is_there), is_there, False, {}


def is_free(position: np.ndarray) -> np.ndarray:
    """[..., 2] -> [...] bool: whether a point can be there."""
    in_wall = (np.abs(position[..., 0]) < WALL[0]) & (position[..., 1] < WALL[1])
    in_square = (np.abs(position) <= 1.0).all(-1)
    return in_square & ~in_wall


def reached(position: np.ndarray) -> float:
    """How far along the way the nearest of its points is."""
    distance = np.linalg.norm(_PLACES - position, axis=1)
    nearest = distance.argmin()
    return float(_ALONG[nearest])


def towards(position: np.ndarray, aim: float, speed: float) -> np.ndarray:
    """[2] the velocity of a walk along the way to where it is ``aim`` long."""
    here = reached(position)
    ahead = np.clip(aim - here, -AHEAD, AHEAD)
    left = place(here + ahead) - position
    distance = np.linalg.norm(left)
    return speed * left / max(distance, STEP)


def direct(obs: np.ndarray) -> np.ndarray:
    """The shortest walk that keeps to the middle, at full speed."""
    velocity = towards(obs, LENGTH, 1.0)
    return np.clip(velocity, -1.0, 1.0).astype(np.float32)


def wander(rng: np.random.Generator) -> Policy:
    """Walks to places along the way, one after another."""
    speed = rng.uniform(0.5, 1.0)
    aim = rng.uniform(0.0, FARTHEST)

    def policy(obs: np.ndarray) -> np.ndarray:
        nonlocal aim
        if abs(reached(obs) - aim) < AHEAD:
            aim = rng.uniform(0.0, FARTHEST)
        noise = NOISE * rng.normal(size=2)
        velocity = towards(obs, aim, speed) + noise
        return np.clip(velocity, -1.0, 1.0).astype(np.float32)

    return policy


def record(episodes: int = EPISODES, seed: int = SEED) -> list[dict[str, np.ndarray]]:
    """The first ``episodes`` episodes of the dataset."""
    policies = [wander(np.random.default_rng([seed, i])) for i in range(episodes)]
    return rollouts(gymnasium.make(ENV), policies, seed)


def references(episodes: int = 100) -> tuple[float, float]:
    """Mean returns of uniform velocities and of the direct walk, over the same seeded episodes."""
    env = gymnasium.make(ENV)
    rng = np.random.default_rng(SEED)

    def uniform(obs: np.ndarray) -> np.ndarray:
        return rng.uniform(-1.0, 1.0, 2)

    low = mean_return(env, uniform, episodes)
    high = mean_return(env, direct, episodes)
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
        command="python -m envs.toys.u_turn",
        description="Walks to places along two joined corridors, at speeds from 0.5 to 1 of the largest.",
    )


if ENV not in gymnasium.registry:  # as when this module is the command
    gymnasium.register(ENV, "envs.toys.u_turn:UTurn", max_episode_steps=STEPS)

if __name__ == "__main__":
    main("Record walks in two joined corridors.", write)
