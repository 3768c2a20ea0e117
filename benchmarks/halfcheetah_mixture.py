"""Record uniform-random actions in the world of halfcheetah/medium-v0, and store them before that dataset's episodes.

    python -m benchmarks.halfcheetah_mixture --out $MINARI_DATASETS_PATH

The result is halfcheetah/medium-random-v0: by default 200 random episodes (seeds 0 to 199) of 1,000 steps, then the 200
episodes of the medium policy, as they are. The random part comes first, as in early training: ``--label-from early``
keeps the rewards of its episodes, and ``--label-from top-half`` those of the medium policy.
Environment, time limit and reference scores are those that halfcheetah/medium-v0 names, which is looked up in
``--data-root``, else in $MINARI_DATASETS_PATH, and read only. Needs MuJoCo.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np

import envs
from envs.recording import rollout, store
from rlkit.datasets import DataOptions, Episodes, load
from rlkit.datasets.episodes import HAS_ACTION, TERMINAL
from rlkit.types import InputError

SOURCE, DATASET = "halfcheetah/medium-v0", "halfcheetah/medium-random-v0"


def random_episodes(env: gymnasium.Env, steps: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Episodes of ``steps`` steps in all, of uniform actions; the i-th of seed ``seed`` + i. The last may be cut
    short."""
    space = env.action_space
    for number in range(steps):
        rng = np.random.default_rng([seed, number])
        rows = rollout(env, lambda obs, rng=rng: rng.uniform(space.low, space.high).astype(np.float32), seed + number)
        count = min(len(rows["rewards"]), steps)
        rows = {name: column[: count + (name == "observations")] for name, column in rows.items()}
        rows["truncations"][-1] |= not rows["terminations"][-1]
        yield rows | {"observations": rows["observations"].astype(np.float32)}
        steps -= count
        if not steps:
            return


def recorded_episodes(episodes: Episodes) -> Iterator[dict[str, np.ndarray]]:
    """The episodes of a dataset, as they were recorded."""
    flags = np.asarray(episodes.flags)
    for rows in np.split(np.arange(len(flags)), episodes.starts[1:]):
        steps = rows[(flags[rows] & HAS_ACTION) > 0]
        terminal, last = (flags[steps] & TERMINAL) > 0, steps == steps[-1]
        yield {
            "observations": np.asarray(episodes.obs[rows]),
            "actions": np.asarray(episodes.action[steps]),
            "rewards": np.asarray(episodes.reward[steps]),
            "terminations": terminal,
            "truncations": last & ~terminal,
        }


def write(out: Path, data_root: Path | None, steps: int | None, seed: int) -> None:
    """Store the mixture under the Minari root ``out``, with ``steps`` random steps, or as many as the source has.

    Raises InputError if the source is not there, ``steps`` is below 1 or the mixture is there already.
    """
    if steps is not None and steps < 1:
        raise InputError(f"--random-steps {steps}: must be at least 1")
    if (out / DATASET).exists():
        raise InputError(f"{out / DATASET}: is there already; remove it, or choose another --out")
    medium = load(DataOptions(SOURCE, data_root=data_root), use_cache=False)
    env = envs.make(medium.env_spec)
    store(
        out,
        DATASET,
        env,
        [*random_episodes(env, steps or medium.report.steps, seed), *recorded_episodes(medium)],
        seed=None,
        references=medium.reference,
        command="python -m benchmarks.halfcheetah_mixture",
        description=f"Uniform-random actions (from seed {seed} on), then the episodes of {SOURCE}.",
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="root folder of Minari datasets to write into")
    parser.add_argument("--data-root", type=Path, help=f"root folder that {SOURCE} lies in")
    parser.add_argument("--random-steps", type=int, help=f"random steps (default: as many as {SOURCE} has)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first random episode")
    options = parser.parse_args()
    try:
        write(options.out, options.data_root, options.random_steps, options.seed)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
