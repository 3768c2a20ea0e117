"""The default world: gymnasium's Pendulum-v1 and the command that records its embedded dataset.

    python -m envs.toys.pendulum --out DIR

Three kinds of episodes take turns: a weak swing-up controller (a third of the motor's torque, so that most of the 200
steps go into swinging), a brake that takes the swing out again, and slow random torques. Cloning averages the first two
and hangs still; a critic can tell them apart, and find that more torque beats them all. The random third tries so many
torques that a critic without any pessimism succeeds too: this world shows the way from data to a score, not what
pessimism is worth. Episode i follows from (seed, i) alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np

from envs.recording import rollout, store

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
    angle, speed = math.atan2(obs[1], obs[0]), float(obs[2])
    if abs(angle) < 0.5 and abs(speed) < 3:
        return _clip(-10 * angle - 2 * speed, strength)
    missing = 5 - (speed**2 / 6 + 5 * math.cos(angle))
    return _clip(2 * missing * (1 if speed >= 0 else -1), strength)


def behaviour(kind: str, rng: np.random.Generator) -> Policy:
    """The recorded policy of one episode."""
    drift = 0.0

    def policy(obs: np.ndarray) -> float:
        nonlocal drift
        drift = 0.9 * drift + 0.44 * rng.normal()  # of variance 1
        torque = {"swing-up": swing_up(obs, WEAK), "brake": -float(obs[2]), "random": 1.2 * drift}[kind]
        return _clip(_clip(torque, TORQUE) + NOISE * rng.normal(), TORQUE)

    return policy


def pushing(policy: Policy) -> Callable[[np.ndarray], np.ndarray]:
    """The policy with its torque as an action [1]."""
    return lambda obs: np.array([policy(obs)], np.float32)


def record(episodes: int, seed: int = SEED) -> list[dict[str, np.ndarray]]:
    """The first ``episodes`` episodes of the dataset; the kinds take turns."""
    env = gymnasium.make(ENV)
    policies = [behaviour(KINDS[i % 3], np.random.default_rng([seed, i])) for i in range(episodes)]
    return [rollout(env, pushing(policy), seed + i) for i, policy in enumerate(policies)]


def references(episodes: int = 100) -> tuple[float, float]:
    """Mean returns of uniform actions and of the swing-up controller, over the same seeded episodes."""
    env, rng = gymnasium.make(ENV), np.random.default_rng(SEED)
    seeds = range(10_000, 10_000 + episodes)
    policies: tuple[Policy, ...] = (lambda obs: rng.uniform(-TORQUE, TORQUE), swing_up)
    low, high = (
        np.mean([rollout(env, pushing(policy), seed)["rewards"].sum() for seed in seeds]) for policy in policies
    )
    return float(low), float(high)


def write(out: Path, episodes: int = EPISODES) -> None:
    """Record the dataset and store it under the Minari root ``out``. Minari refuses to overwrite one that is there."""
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
    parser = argparse.ArgumentParser(description="Record the embedded pendulum dataset.")
    parser.add_argument("--out", type=Path, required=True, help="root folder of Minari datasets to write into")
    write(parser.parse_args().out)
