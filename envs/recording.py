"""Records episodes of scripted policies, to be stored as a Minari dataset (rlkit.datasets.writing)."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from rlkit.datasets import writing
from rlkit.datasets.writing import store

__all__ = ["Policy", "main", "mean_return", "rollout", "rollouts", "store"]

Policy = Callable[[Any], Any]  # an observation of the environment -> an action
FIRST_REFERENCE_SEED = 10_000


def rollout(env: gymnasium.Env, policy: Policy, seed: int) -> dict[str, np.ndarray]:
    """One episode of T steps: observations [T + 1, ...], actions [T, ...], rewards, terminations, truncations [T]."""
    return writing.rollout(env, lambda obs, reward: policy(obs), seed)


def rollouts(env: gymnasium.Env, policies: Iterable[Policy], seed: int) -> list[dict[str, np.ndarray]]:
    """One episode of each policy; that of number i begins from ``reset(seed=seed + i)``."""
    episodes = []
    for i, policy in enumerate(policies):
        episodes.append(rollout(env, policy, seed + i))
    return episodes


def mean_return(env: gymnasium.Env, policy: Policy, episodes: int) -> float:
    """Mean return over that many episodes, whose seeds are far from those of recordings."""
    returns = []
    for i in range(episodes):
        rows = rollout(env, policy, FIRST_REFERENCE_SEED + i)
        returns.append(rows["rewards"].sum())
    return float(np.mean(returns))


def main(description: str, write: Callable[[Path], None]) -> None:
    """The command of a module that records a dataset: ``write`` it under the folder that --out names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="root folder of Minari datasets to write into")
    options = parser.parse_args()
    write(options.out)
