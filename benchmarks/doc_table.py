"""What dichotomy of control, the future VAE, a decision transformer and a clone promise and do on the slippery lake.

    python -m benchmarks.doc_table                                      train all, over 5 sets of data; some minutes
    python -m benchmarks.doc_table --insert docs/sequence.md            the table in the document, from the tracked file

Each method is trained on the same five recordings of 100 episodes. "Estimated" is the return that the agent believes in
at the start, where it believes anything. "Realised" is the probability of arriving within the
time limit, computed from the transition table: of the policy as it samples, its probabilities counted from draws at
every place and step, and of its greedy actions. All methods see one step, so that a policy is a table. A row is written
as soon as it is there.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from agents import bc, doc, dt
from envs.toys import frozen_lake
from rlkit.acting import first_goal
from rlkit.buffer import Buffer, needs, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.training import loop
from rlkit.training.sharding import make_mesh
from rlkit.types import Agent, Percept, State

TABLE = Path(__file__).parent / "tables" / "doc_lake.csv"
COLUMNS = ("method", "agent", "data_seed", "updates", "estimated", "sampled", "greedy", "cpu_seconds")
SEEDS = 5
DRAWS = 100  # actions at every place and step
MARKS = ("<!-- doc table -->", "<!-- end of doc table -->")


class Method(NamedTuple):
    """A row of the table.

    agent: its name in the registry. timeless: whether the policy is the same at every step.
    """

    agent: str
    config: Any
    updates: int
    timeless: bool = True


_SMALL = doc.PRESETS["small"]
_VAE = dataclasses.replace(_SMALL.config, constraint_weight=0.0)
_DT = dt.Config(
    targets=(1.0,),
    layers=1,
    head_width=32,
    mlp=64,
    context=1,
    batch_size=256,
    dropout=0.0,
    learning_rate=1e-3,
    warmup=1,
)
METHODS = {
    "DoC": Method("doc", _SMALL.config, _SMALL.steps),
    "future VAE": Method("doc", _VAE, _SMALL.steps),
    "DT, asks for 1": Method("dt", _DT, 1_000, timeless=False),
    "BC": Method("bc", bc.Config(widths=(64, 64), learning_rate=1e-3), 1_000),
}


def trained(config: Any, updates: int, data_seed: int) -> tuple[Agent, State]:
    """The agent of ``config`` and its state after its updates on a recording."""
    world = gymnasium.make(frozen_lake.ENV)
    recorded = frozen_lake.record(frozen_lake.EPISODES, data_seed)
    spaces = {"observation_space": world.observation_space, "action_space": world.action_space}
    data = from_episodes(recorded, name="slippery lake", **spaces)
    normaliser = Normaliser.fit(data, DataOptions("lake"))
    stages = config.stages(spec(data, frozen_lake.STEPS), updates)
    buffer = Buffer.from_episodes(data, normaliser, needs(stages))
    mesh = make_mesh(1, jax.devices()[:1])
    *_, end = loop.fit(stages, buffer, stats(buffer), (data_seed,), log_every=updates, mesh=mesh)
    return stages[-1].learner, jax.tree.map(lambda leaf: leaf[0], end.state)


@functools.partial(jax.jit, static_argnums=(0, 2))
def tables(agent: Agent, state: State, steps: int) -> tuple[jax.Array, jax.Array]:
    """Probabilities [steps, 16, 4] of the sampled and of the greedy policy, at every step and place."""
    places = len(frozen_lake.lake().start)
    keys = jax.random.split(jax.random.key(0), DRAWS)

    def at(obs: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        memory = agent.observe(state, agent.begin(state, first_goal(agent)), Percept(obs, jnp.float32(0), t))
        drawn = jax.vmap(lambda key: agent.act(state, memory, key, greedy=False)[0][0])(keys)
        chosen = agent.act(state, memory, keys[0], greedy=True)[0][0]
        actions = len(frozen_lake.MOVES)
        return jax.nn.one_hot(drawn, actions).mean(0), jax.nn.one_hot(chosen, actions)

    at_places = jax.vmap(at, (0, None))
    return jax.vmap(at_places, (None, 0))(jnp.eye(places), jnp.arange(steps))


def estimated(agent: Agent, state: State) -> float | None:
    """The return that the agent believes in at the start; None for one that believes nothing."""
    if not hasattr(agent, "choose"):
        return None
    start = jnp.asarray(frozen_lake.lake().start, jnp.float32)
    memory = agent.observe(state, agent.begin(state, None), Percept(start, jnp.float32(0), jnp.int32(0)))
    return float(agent.choose(state, memory, jax.random.key(0))[1])


def rows() -> Iterator[dict[str, str]]:
    """The rows of the table, all methods on one recording before the next."""
    for data_seed in range(SEEDS):
        for name, method in METHODS.items():
            began = time.process_time()
            agent, state = trained(method.config, method.updates, data_seed)
            steps = 1 if method.timeless else frozen_lake.STEPS
            sampled, greedy = (frozen_lake.success(np.asarray(table)) for table in tables(agent, state, steps))
            belief = estimated(agent, state)
            values = ("" if belief is None else f"{belief:.4f}", f"{sampled:.4f}", f"{greedy:.4f}")
            seconds = f"{time.process_time() - began:.1f}"
            row = (name, method.agent, str(data_seed), str(method.updates), *values, seconds)
            yield dict(zip(COLUMNS, row, strict=True))


def write(found: list[dict[str, str]], path: Path) -> None:
    """The table so far."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


def rendered(path: Path, agent: str | None = None) -> str:
    """The means over the recordings, and each recording's values, as Markdown; of one ``agent`` alone if given."""
    with path.open(newline="") as stream:
        found = list(csv.DictReader(stream))
    lines = [
        "| method | estimated | realised, sampled | each | realised, greedy | each |",
        "|---|---|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        own = [row for row in found if row["method"] == name and agent in (None, method.agent)]
        if own:
            sampled, greedy = ([_mean(own, column), _each(own, column)] for column in ("sampled", "greedy"))
            cells = [name, _mean(own, "estimated"), *sampled, *greedy]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(found: list[dict[str, str]], column: str) -> str:
    values = [float(row[column]) for row in found if row[column]]
    return f"{np.mean(values):.2f}" if values else ""


def _each(found: list[dict[str, str]], column: str) -> str:
    return " ".join(f"{float(row[column]):.2f}" for row in found)


def insert(page: Path, path: Path) -> None:
    """Put the table between its marks in ``page``."""
    text = page.read_text()
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    page.write_text(f"{before}{MARKS[0]}\n{rendered(path)}\n{MARKS[1]}{after}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Estimated and realised success on the slippery lake.")
    parser.add_argument("--out", type=Path, default=TABLE, help="the file of values (default: %(default)s)")
    parser.add_argument(
        "--insert", type=Path, metavar="PAGE", help="put the table of that file into a page; train nothing"
    )
    options = parser.parse_args()
    if options.insert:
        insert(options.insert, options.out)
        return
    found = []
    for row in rows():
        found.append(row)
        write(found, options.out)
        print(", ".join(row.values()), flush=True)


if __name__ == "__main__":
    main()
