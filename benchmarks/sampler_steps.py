"""What a sampler's steps cost and bring: one run of Diffusion Policy, evaluated with several samplers and steps.

    python train.py train diffusion-policy --dataset pen/expert-v0 --preset pen/small --out runs/pen
    python -m benchmarks.sampler_steps runs/pen --csv STEPS.csv --figure STEPS.png

Nothing is trained. Every row has the same episodes, from the same starts. Actions a second are those of one seed whose
policy draws chunks for LANES environments at once, on this machine, without the environments' own time.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import envs
from rlkit.acting import first_goal
from rlkit.evaluation.evaluate import score
from rlkit.evaluation.statistics import estimate
from rlkit.runs.record import Record, recorded_config
from rlkit.runs.restored import play, restore
from rlkit.types import Agent, Array, InputError, Key, Percept, State

SAMPLERS = ("ddim", "dpm-solver++")
STEPS = (5, 10, 20, 100)
LANES = 10
REPETITIONS = 5  # of the timing, of which the quickest counts
COLUMNS = (
    "sampler", "steps", "return", "return_low", "return_high", "score", "actions_per_second", "episodes", "seeds",
    "run_steps", "device",
)  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def _chunks(agent: Agent, state: State, obs: Array, keys: Key) -> Array:
    """[E, H, A] for observations [E, O] at the start of an episode."""

    def one(obs: Array, key: Key) -> Array:
        percept = Percept(obs, jnp.float32(0), jnp.int32(0))
        memory = agent.observe(state, agent.begin(state, first_goal(agent)), percept)
        return agent.act(state, memory, key, greedy=True)[0]

    return jax.vmap(one)(obs, keys)


def actions_per_second(agent: Agent, state: State) -> float:
    """Actions that are drawn in a second of wall-clock time, for LANES environments side by side."""
    obs = jnp.zeros((LANES, *agent.spec.observation.shape))
    keys = jax.random.split(jax.random.key(0), LANES)
    chunks = jax.block_until_ready(_chunks(agent, state, obs, keys))  # compiles
    seconds = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        jax.block_until_ready(_chunks(agent, state, obs, keys))
        seconds.append(time.perf_counter() - began)
    actions = chunks.shape[0] * chunks.shape[1]
    return actions / min(seconds)


def rows(folder: Path, steps: Sequence[int], episodes: int | None = None) -> Iterator[dict[str, str]]:
    """A row for each sampler and number of steps of the run in ``folder``, as soon as it is measured."""
    record = Record.read(folder)
    trained_with = recorded_config(record)
    fields = {field.name for field in dataclasses.fields(trained_with)}
    if not {"sampler", "steps"} <= fields:
        raise InputError(f"{folder} is a run of {record.agent}, which draws nothing in steps: name one that does")
    for sampler in SAMPLERS:
        for number in steps:
            config = dataclasses.replace(trained_with, sampler=sampler, steps=number)
            yield _row(folder, record, config, episodes)


def _row(folder: Path, record: Record, config: Any, episodes: int | None) -> dict[str, str]:
    restored = restore(folder, record, config)
    first = jax.tree.map(lambda leaf: leaf[0], restored.state)
    rate = actions_per_second(restored.agent, first)
    returns = next(iter(play(folder, record, envs.make, config, episodes).returns.values()))
    found = estimate(returns)
    reached = ""
    if record.reference is not None:
        reached = f"{score(found.value, (record.reference.random, record.reference.expert)):.2f}"
    seeds, episodes_played = returns.shape
    values = (
        config.sampler, config.steps, f"{found.value:.2f}", f"{found.low:.2f}", f"{found.high:.2f}", reached,
        f"{rate:.0f}", episodes_played, seeds, record.steps, jax.devices()[0].device_kind,
    )  # fmt: skip
    return dict(zip(COLUMNS, map(str, values), strict=True))


def write(path: Path, found: Sequence[dict[str, str]]) -> None:
    """The rows as a CSV."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


def draw(path: Path, found: Sequence[dict[str, str]]) -> None:
    """Returns with their intervals, and actions a second, against the number of steps, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.6), dpi=150, layout="constrained")
    returns, speed = figure.subplots(1, 2)
    for sampler in SAMPLERS:
        of_sampler = [row for row in found if row["sampler"] == sampler]
        steps = [int(row["steps"]) for row in of_sampler]
        mean, low, high = (_numbers(of_sampler, name) for name in ("return", "return_low", "return_high"))
        returns.errorbar(steps, mean, yerr=[mean - low, high - mean], capsize=3, marker="o", label=sampler)
        speed.plot(steps, _numbers(of_sampler, "actions_per_second"), marker="o", label=sampler)
    for axes, name in ((returns, "return"), (speed, "actions a second")):
        axes.set_xscale("log")
        axes.set_xlabel("calls of the network for a chunk")
        axes.set_ylabel(name)
        axes.legend(frameon=False)
    speed.set_yscale("log")
    figure.savefig(path)


def _numbers(found: Sequence[dict[str, str]], column: str) -> np.ndarray:
    return np.array([float(row[column]) for row in found])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="calls of the network for a chunk")
    parser.add_argument("--episodes", type=int, help="of each seed (default: as in training)")
    parser.add_argument("--csv", type=Path, required=True, help="the rows are written there")
    parser.add_argument("--figure", type=Path, help="a PNG is drawn there")
    options = parser.parse_args()
    found = []
    for row in rows(options.run, options.steps, options.episodes):
        found.append(row)
        write(options.csv, found)
        print(", ".join(f"{name} {value}" for name, value in row.items() if value), flush=True)
    if options.figure:
        draw(options.figure, found)


if __name__ == "__main__":
    main()
