"""Draw the plans of a Decision Diffuser round the block of envs/toys/detour.py, one picture for each thing asked for.

python -m benchmarks.plan_picture runs/detour --out docs/detour_plans.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs.toys import detour
from rlkit.datasets import Normaliser
from rlkit.runs.record import Record
from rlkit.runs.restored import restore
from rlkit.types import Agent, Percept, State

PLANS = 12  # for each thing asked for
START = np.array([-0.8, 0.0])


def plans(agent: Agent, state: State, goal: Any, normaliser: Normaliser, number: int = PLANS) -> np.ndarray:
    """[number, H, 2] plans that are made at START, in the environment's units."""
    obs = normaliser.obs(START)
    percept = Percept(jnp.asarray(obs), jnp.float32(0), jnp.int32(0))

    @jax.jit
    @jax.vmap
    def draw(key: jax.Array) -> jax.Array:
        memory = agent.observe(state, agent.begin(state, goal), percept)
        return state.unscaled(agent.plan(state, memory, key))

    keys = jax.random.split(jax.random.key(0), number)
    drawn = np.asarray(draw(keys))
    return drawn * normaliser.obs_scale + normaliser.obs_mean


def draw(path: Path, by_goal: dict[str, np.ndarray]) -> None:
    """Write the picture."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle, Rectangle

    figure = Figure(figsize=(3.2 * len(by_goal), 3.4), dpi=100, layout="constrained")
    all_axes = figure.subplots(1, len(by_goal), squeeze=False)[0]
    for axes, (label, lines) in zip(all_axes, by_goal.items(), strict=True):
        corner, size = -detour.BLOCK, 2 * detour.BLOCK
        axes.add_patch(Rectangle(tuple(corner), *size, color="#6b6b6b"))
        axes.add_patch(Circle(tuple(detour.GOAL), detour.GOAL_RADIUS, color="#009E73", alpha=0.4))
        for line in lines:
            axes.plot(line[:, 0], line[:, 1], color="#0072B2", linewidth=0.8, marker=".", markersize=2)
        axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", title=label, xticks=(), yticks=())
    figure.savefig(path)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory of decision-diffuser on detour/mixed-v0")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    options = parser.parse_args()
    record = Record.read(options.run)
    restored = restore(options.run, record)
    state = jax.tree.map(lambda leaf: leaf[0], restored.state)
    normaliser = Normaliser.from_json(record.normaliser)
    by_goal = {}
    for label, goal in restored.agent.goals.items():
        by_goal[label] = plans(restored.agent, state, goal, normaliser)
    draw(options.out, by_goal)
    for label, lines in by_goal.items():
        share = detour.is_free(lines).mean()
        print(f"{label}: {share:.3f} of the planned positions are free")


if __name__ == "__main__":
    main()
