"""The default world: gymnasium's Pendulum-v1 and the command that records its embedded dataset.

    python -m envs.pendulum --out DIR

Three kinds of episodes take turns, each with Gaussian noise on the torque: a swing-up controller (energy pumping, then
PD at the top), a brake that takes energy out, and slow random torques. Cloning averages the pump and the brake
and gets nowhere, while a critic can tell them apart; the narrow noise leaves most actions of most states untried.
Everything follows from the seed: episode i depends on (seed, i) alone.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import gymnasium
import numpy as np

DATASET = "pendulum/mixed-v0"
ENV = "Pendulum-v1"
EPISODES = 90
SEED = 0


def swing_up(obs: np.ndarray, strength: float = 2.0) -> float:
    """Torque of a scripted expert: pump energy until the upright energy is reached, PD control near the top.

    Energy about the pivot is w^2 / 6 + 5 cos(angle) (gymnasium's constants), 5 at rest upright; its rate is w * torque.
    """
    angle, speed = math.atan2(obs[1], obs[0]), float(obs[2])
    if abs(angle) < 0.5 and abs(speed) < 3:
        return _clip(-10 * angle - 2 * speed, strength)
    missing = 5 - (speed**2 / 6 + 5 * math.cos(angle))
    return _clip(2 * missing * (1 if speed >= 0 else -1), strength)


def brake(obs: np.ndarray) -> float:
    """Torque against the motion, which ends in hanging still."""
    return _clip(-float(obs[2]), 2)


def _clip(torque: float, limit: float) -> float:
    return min(max(torque, -limit), limit)


def behaviour(kind: int, rng: np.random.Generator, noise: float = 0.3):
    """The policy of an episode: obs [3] -> torque in [-2, 2]. kind: 0 swing-up, 1 brake, 2 random."""
    drift = 0.0

    def policy(obs: np.ndarray) -> float:
        nonlocal drift
        drift = 0.9 * drift + 0.44 * rng.normal()
        torque = (swing_up(obs), brake(obs), 1.2 * drift)[kind]
        return _clip(torque + noise * rng.normal(), 2)

    return policy


def rollout(env: gymnasium.Env, policy, seed: int) -> dict:
    """One episode of T steps: observations [T + 1, 3], actions [T, 1], rewards, terminations, truncations [T]."""
    obs, _ = env.reset(seed=seed)
    rows = {"observations": [obs], "actions": [], "rewards": [], "terminations": [], "truncations": []}
    done = False
    while not done:
        action = np.array([policy(obs)], np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        for name, value in zip(rows, (obs, action, reward, terminated, truncated), strict=True):
            rows[name].append(value)
    return {name: np.asarray(rows[name]) for name in rows}


def record(episodes: int, seed: int = SEED) -> list[dict]:
    """The first ``episodes`` episodes of the dataset."""
    env = gymnasium.make(ENV)
    return [rollout(env, behaviour(i % 3, np.random.default_rng([seed, i])), seed + i) for i in range(episodes)]


def reference(policy, episodes: int = 100) -> float:
    """Mean return over seeded episodes."""
    env = gymnasium.make(ENV)
    return float(np.mean([rollout(env, policy, seed)["rewards"].sum() for seed in range(10_000, 10_000 + episodes)]))


def write(out: Path, episodes: int = EPISODES, seed: int = SEED) -> None:
    """Record and store as the Minari dataset DATASET under the root ``out``."""
    os.environ["MINARI_DATASETS_PATH"] = str(out.resolve())
    import minari
    from minari.data_collector import EpisodeBuffer

    rng = np.random.default_rng(seed)
    buffers = [EpisodeBuffer(id=i, seed=seed + i, **rows) for i, rows in enumerate(record(episodes, seed))]
    env = gymnasium.make(ENV)
    minari.create_dataset_from_buffers(
        DATASET,
        buffers,
        env=env,
        eval_env=env,
        algorithm_name="scripted",
        author="rlkit-jax",
        author_email="",
        code_permalink="envs/pendulum.py",
        description="swing-up, brake and random torques in turn",
        ref_min_score=reference(lambda obs: rng.uniform(-2, 2)),
        ref_max_score=reference(swing_up),
        data_format="hdf5",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Record the embedded pendulum dataset.")
    parser.add_argument("--out", type=Path, required=True, help="root folder of Minari datasets to write into")
    write(parser.parse_args().out)
