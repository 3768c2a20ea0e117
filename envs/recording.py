"""Records episodes of a scripted policy, and stores recorded episodes as a Minari dataset on disk."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

Policy = Callable[[Any], Any]  # an observation of the environment -> an action
FIRST_REFERENCE_SEED = 10_000


def rollout(env: gymnasium.Env, policy: Policy, seed: int) -> dict[str, np.ndarray]:
    """One episode of T steps: observations [T + 1, ...], actions [T, ...], rewards, terminations, truncations [T]."""
    obs, _ = env.reset(seed=seed)
    rows: dict[str, list] = {
        "observations": [obs],
        "actions": [],
        "rewards": [],
        "terminations": [],
        "truncations": [],
    }
    done = False
    while not done:
        action = policy(obs)
        obs, reward, terminated, truncated, _ = env.step(action)
        rows["observations"].append(obs)
        rows["actions"].append(action)
        rows["rewards"].append(reward)
        rows["terminations"].append(terminated)
        rows["truncations"].append(truncated)
        done = terminated or truncated
    return {name: np.asarray(column) for name, column in rows.items()}


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


def store(
    out: Path,
    dataset: str,
    env: gymnasium.Env,
    episodes: Sequence[Mapping[str, np.ndarray]],
    *,
    seed: int | None,
    references: tuple[float, float],
    command: str,
    description: str,
) -> None:
    """Store ``episodes`` under the Minari root ``out``. Minari refuses to overwrite.

    The i-th episode is stored as of seed ``seed`` + i, or of no seed if that is None."""
    import minari
    from minari.data_collector import EpisodeBuffer

    buffers = []
    for i, rows in enumerate(episodes):
        episode_seed = None if seed is None else seed + i
        buffers.append(EpisodeBuffer(id=i, seed=episode_seed, **rows))
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(out.resolve())  # the only way to tell minari where to write
    try:
        minari.create_dataset_from_buffers(
            dataset,
            buffers,
            env=env,
            eval_env=env,
            algorithm_name="scripted",
            author="rlkit-jax",
            author_email="",
            code_permalink=command,
            description=description,
            ref_min_score=references[0],
            ref_max_score=references[1],
            data_format="hdf5",
        )
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before
