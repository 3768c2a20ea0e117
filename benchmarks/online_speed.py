"""Environment steps a second of online training, one update a step, beside a plain loop around the same update.

    taskset -c 0 python -m benchmarks.online_speed --rounds 5 --steps 1000 --csv benchmarks/online_speed.csv

The plain loop is what most online code is: a replay in NumPy arrays, a compiled function that acts, a compiled update
of a batch that is drawn on the host, one call of each for every step of the environment. Both take turns, round by
round, in one process; the ratio is of the rounds' medians. A third column is the update alone, in the compiled loop of
`fit` on the data, as what a step costs at least.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from agents import sac
from benchmarks.speed import identity
from benchmarks.table import write_rows
from rlkit import online
from rlkit.buffer import Buffer, needs, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.datasets.writing import rollout
from rlkit.online import Online
from rlkit.testing import one_device
from rlkit.training import loop
from rlkit.training.collect import Collector
from rlkit.types import Stage, Transitions

NEVER = 10**9
MEASURED = ("what", "env", "seconds a step, median", "rate over the plain loop's", "rounds", "steps a round")
MACHINE = ("date", "commit", "device", "versions")


class Setting:
    """SAC with its defaults, and random steps of an environment as the data."""

    def __init__(self, env_id: str):
        self.env_id = env_id
        env = gymnasium.make(env_id)
        env.action_space.seed(0)
        episodes = [rollout(env, lambda obs, reward: env.action_space.sample(), seed=i) for i in range(50)]
        data = from_episodes(episodes, action_space=env.action_space)
        self.normaliser = Normaliser.fit(data, DataOptions("random"))
        self.spec = spec(data, env.spec.max_episode_steps, self.normaliser)
        config = sac.Config()
        self.stages = online.stages(
            config, self.spec, 1, [Online(steps=NEVER, warmup=500, share=0.0, capacity=100_000)]
        )
        self.buffer = Buffer.from_episodes(data, self.normaliser, needs(self.stages))
        self.moments = stats(self.buffer)
        self.agent = self.stages[0].learner


def ours(setting: Setting, steps: int) -> Iterator[None]:
    """`fit`; goes on by ``steps`` at every step of the generator."""
    make = functools.partial(gymnasium.make, setting.env_id)
    collector = Collector((0,), setting.spec, setting.normaliser, make, one_device())
    progress = loop.fit(
        setting.stages, setting.buffer, setting.moments, (0,), log_every=steps, mesh=one_device(), collector=collector
    )
    for point in progress:
        if point.stage == 1 and point.step:
            yield


def updates_alone(setting: Setting, steps: int) -> Iterator[None]:
    """The same updates on the data, without an environment."""
    stage = Stage("sac", setting.agent, NEVER)
    for point in loop.fit(
        (stage,), setting.buffer, setting.moments, (0,), log_every=steps, mesh=one_device(), chunk_seconds=float("inf")
    ):
        if point.step:
            yield


def plain(setting: Setting, steps: int) -> Iterator[None]:
    """A loop in Python around a compiled policy and a compiled update."""
    agent, width, actions = setting.agent, setting.spec.observation.shape[0], setting.spec.action.shape[0]
    capacity, batch_size = 100_000, agent.config.batch_size
    obs_rows, next_rows = (np.zeros((capacity, width), np.float32) for _ in range(2))
    action_rows = np.zeros((capacity, actions), np.float32)
    reward_rows, discount_rows = (np.zeros(capacity, np.float32) for _ in range(2))

    @jax.jit
    def act(state, obs, key):
        return agent.act(state, obs, key, greedy=False)[0][0]

    update = jax.jit(agent.update, donate_argnums=0)
    rng, key = np.random.default_rng(0), jax.random.key(0)
    state = jax.jit(agent.init, static_argnums=1)(key, None, setting.moments)
    env = gymnasium.make(setting.env_id)
    obs, _ = env.reset(seed=0)
    number = 0
    while True:
        for _ in range(steps):
            collected = 1 if number >= 500 else 500
            for _ in range(collected):
                key, act_key = jax.random.split(key)
                action = np.asarray(act(state, np.float32(obs), act_key))
                following, reward, terminated, truncated, _ = env.step(setting.normaliser.env_action(action))
                row = number % capacity
                obs_rows[row], next_rows[row], action_rows[row] = obs, following, action
                reward_rows[row], discount_rows[row] = reward, 0.0 if terminated else agent.config.gamma
                number += 1
                obs = env.reset()[0] if terminated or truncated else following
            rows = rng.integers(0, min(number, capacity), batch_size)
            columns = (obs_rows, action_rows, reward_rows, discount_rows, next_rows)
            batch = Transitions(*(jnp.asarray(column[rows]) for column in columns), {})
            key, update_key = jax.random.split(key)
            state, _ = update(state, batch, update_key, np.int32(0))
        jax.block_until_ready(state)
        yield


LOOPS: dict[str, Callable[[Setting, int], Iterator[None]]] = {
    "fit": ours,
    "plain loop": plain,
    "updates alone": updates_alone,
}


def measure(env_id: str, rounds: int, steps: int) -> dict[str, float]:
    """Name of a loop -> median seconds of a step."""
    setting = Setting(env_id)
    running = {name: make(setting, steps) for name, make in LOOPS.items()}
    for generator in running.values():
        next(generator)  # compilation and the steps before the first update
    taken: dict[str, list[float]] = {name: [] for name in LOOPS}
    for _ in range(rounds):
        for name, generator in running.items():
            began = time.perf_counter()
            next(generator)
            taken[name].append((time.perf_counter() - began) / steps)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def main() -> None:
    """Print the table, and write it where --csv says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Hopper-v4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    medians = measure(options.env, options.rounds, options.steps)
    machine = identity()
    rows = []
    for name, seconds in medians.items():
        ratio = medians["plain loop"] / seconds
        print(f"{name:14} {1e3 * seconds:7.2f} ms a step, {ratio:.2f} x the plain loop's rate")
        values = (name, options.env, f"{seconds:.6f}", f"{ratio:.3f}", options.rounds, options.steps)
        rows.append(dict(zip(MEASURED, values, strict=True)) | machine)
    if options.csv is not None:
        write_rows(options.csv, rows, (*MEASURED, *MACHINE))


if __name__ == "__main__":
    main()
