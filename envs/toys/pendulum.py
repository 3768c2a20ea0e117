"""The default environment: gymnasium's Pendulum-v1 and the command that records its embedded dataset.

    python -m envs.toys.pendulum --out DIR

Three kinds of episodes take turns: a weak swing-up controller (a third of the motor's torque, so that most of the 200
steps go into swinging), a brake that takes the swing out again, and slow random torques. Cloning averages the first two
and hangs still; a critic can tell them apart, and find that more torque beats them all. The random third tries so many
torques that a critic without any pessimism succeeds too: this dataset shows the way from data to a score, not what
pessimism is worth. Episode i follows from (seed, i) alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np

from envs.recording import main, mean_return, rollouts, store

Policy = Callable[[np.ndarray], float]  # observation [3] -> torque

ENV = "Pendulum-v1"
DATASET = "pendulum/mixed-v0"
EPISODES = 45
SEED = 0
TORQUE = 2.0  # the motor's
WEAK = 0.7  # torque of the recorded swing-up
NOISE = 0.3  # standard deviation of the torque's noise in all three kinds
KINDS = ("swing-up", "brake", "random")


def swing_up(obs: np.ndarray, strength: float = TORQUE) -> float:
    """Torque of a controller that solves the task: pump energy until it is that of upright rest, PD near the top.

    With mass 1, length 1 and gravity 10 the energy is speed^2 / 6 + 5 cos(angle), 5 at upright rest, and it grows
    with speed * torque.
    """
    cosine, sine, speed = obs[0], obs[1], float(obs[2])
    angle = math.atan2(sine, cosine)
    if abs(angle) < 0.5 and abs(speed) < 3:
        return _clip(-10 * angle - 2 * speed, strength)
    energy = speed**2 / 6 + 5 * math.cos(angle)
    missing = 5 - energy
    direction = 1 if speed >= 0 else -1
    return _clip(2 * missing * direction, strength)


def behaviour(kind: str, rng: np.random.Generator) -> Policy:
    """The recorded policy of one episode."""
    drift = 0.0

    def policy(obs: np.ndarray) -> float:
        nonlocal drift
        drift = 0.9 * drift + 0.44 * rng.normal()  # of variance 1
        if kind == "swing-up":
            torque = swing_up(obs, WEAK)
        elif kind == "brake":
            torque = -float(obs[2])
        else:
            torque = 1.2 * drift
        torque = _clip(torque, TORQUE)
        noise = NOISE * rng.normal()
        return _clip(torque + noise, TORQUE)

    return policy


def pushing(policy: Policy) -> Callable[[np.ndarray], np.ndarray]:
    """The policy with its torque as an action [1]."""

    def act(obs: np.ndarray) -> np.ndarray:
        return np.array([policy(obs)], np.float32)

    return act


def record(episodes: int, seed: int = SEED) -> list[dict[str, np.ndarray]]:
    """The first ``episodes`` episodes of the dataset; the kinds take turns."""
    env = gymnasium.make(ENV)
    policies = []
    for i in range(episodes):
        rng = np.random.default_rng([seed, i])
        policy = behaviour(KINDS[i % len(KINDS)], rng)
        policies.append(pushing(policy))
    return rollouts(env, policies, seed)


def references(episodes: int = 100) -> tuple[float, float]:
    """Mean returns of uniform actions and of the swing-up controller, over the same seeded episodes."""
    env = gymnasium.make(ENV)
    rng = np.random.default_rng(SEED)

    def uniform(obs: np.ndarray) -> float:
        return rng.uniform(-TORQUE, TORQUE)

    low = mean_return(env, pushing(uniform), episodes)
    high = mean_return(env, pushing(swing_up), episodes)
    return low, high


def write(out: Path, episodes: int = EPISODES) -> None:
    """Record the dataset and store it under the Minari root ``out``. Minari refuses to overwrite."""
    store(
        out,
        DATASET,
        gymnasium.make(ENV),
        record(episodes),
        seed=SEED,
        references=references(),
        command="python -m envs.toys.pendulum",
        description="A weak swing-up controller, a brake and slow random torques in turn, all with noise.",
    )


def _clip(torque: float, limit: float) -> float:
    return min(max(torque, -limit), limit)


if __name__ == "__main__":
    main("Record the embedded pendulum dataset.", write)
