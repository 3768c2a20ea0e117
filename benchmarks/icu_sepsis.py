"""Exact values of trained policies in ICU-Sepsis, beside those of uniform actions, the clinicians and the optimum.

    python -m benchmarks.table run benchmarks/tables/icu_sepsis.toml --out runs/sepsis
    python -m benchmarks.icu_sepsis runs/sepsis/*/icu-sepsis/clinician-v0/*/ --csv VALUES.csv

The document of the results takes its table from the tracked file of values:

    python -m benchmarks.icu_sepsis --csv benchmarks/tables/icu_sepsis_values.csv --insert docs/discrete.md

A value is the share of patients who survive (envs/toys/icu_sepsis.py). "Greedy" asks the policy once in each of the 716
states; "sampled" is the policy as it acts without ``greedy``, its probabilities estimated from draws in each state.
The rows "counts" are what the data alone can give an exact method: an optimal policy of the MDP that the dataset's
transitions were counted into, in which an action that was tried less often than said earns nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import table
from envs.toys import icu_sepsis
from envs.toys.icu_sepsis import MDP
from rlkit.acting import first_goal
from rlkit.datasets import DataOptions, Normaliser, load
from rlkit.datasets.episodes import HAS_ACTION
from rlkit.evaluation.statistics import estimate
from rlkit.runs.record import Record
from rlkit.runs.restored import restore
from rlkit.types import Agent, Array, InputError, Key, Percept, State

DRAWS = 2000  # actions in each state: a probability is known to 0.01 at worst
COLUMNS = ("policy", "seed", "greedy", "sampled", "configuration")
LEAST = (1, 5, 20)  # tries of an action in a state


def actions(agent: Agent, normaliser: Normaliser, state: State, states: int, *, draws: int, greedy: bool) -> Array:
    """Actions [draws, states] of one seed's policy in every state, as at the start of an episode."""

    def act(obs: Array, key: Key) -> Array:
        percept = Percept(normaliser.obs(obs), jnp.float32(0), jnp.int32(0))
        memory = agent.observe(state, agent.begin(state, first_goal(agent)), percept)
        return normaliser.env_action(agent.act(state, memory, key, greedy=greedy)[0][0])

    keys = jax.random.split(jax.random.key(0), (states, draws))
    each = jax.vmap(jax.vmap(act, (None, 0)))  # the network sees a state once, not once a draw
    return each(jnp.eye(states), keys).T


def probabilities(drawn: np.ndarray, count: int) -> np.ndarray:
    """The policy [S, count]: how often each action is among ``drawn`` [draws, S]."""
    return (np.asarray(drawn)[..., None] == np.arange(count)).mean(0)


def values(folder: Path, mdp: MDP) -> list[tuple[int, float, float]]:
    """(seed, value of the greedy policy, value of the sampled one) of every seed of the run in ``folder`` that did not
    diverge."""
    record = Record.read(folder)
    if record.spec.observation.shape != mdp.start.shape:
        raise InputError(f"{folder} is not a run on {icu_sepsis.DATASET}")
    agent, states, members = restore(folder, record)
    normaliser, (number, count) = Normaliser.from_json(record.normaliser), mdp.clinician.shape
    found = []
    for row, member in enumerate(members):
        state = jax.tree.map(lambda leaf, row=row: leaf[row], states)
        both = []
        for draws, greedy in ((1, True), (DRAWS, False)):
            drawn = actions(agent, normaliser, state, number, draws=draws, greedy=greedy)
            both.append(mdp.value(probabilities(drawn, count)))
        found.append((record.seeds[member], *both))
    return found


def counted(mdp: MDP, state: np.ndarray, action: np.ndarray, after: np.ndarray, least: int) -> np.ndarray:
    """The policy [S, A] that is optimal in the MDP of counted steps (``state``, ``action``, ``after``), [N] each.

    Rewards are known. An action tried fewer than ``least`` times earns nothing; where all are, actions are uniform.
    """
    count = np.zeros(mdp.transition.shape)
    np.add.at(count, (state, action, after), 1)
    tries = count.sum(-1)
    transition = np.zeros_like(count)
    known = tries >= least
    transition[known] = count[known] / tries[known][:, None]
    policy = mdp._replace(transition=transition).optimal(1e-6)
    return np.where(known.any(1)[:, None], policy, mdp.uniform())


def measure(folders: Sequence[Path], options: DataOptions) -> list[dict[str, str]]:
    """The rows of the table, values as text. A policy without a seed is no trained one."""
    mdp = icu_sepsis.load()
    found = [
        _row("uniform", sampled=mdp.value(mdp.uniform())),
        _row("clinicians", sampled=mdp.value(mdp.clinician)),
        _row("optimal", sampled=mdp.value(mdp.optimal())),
    ]
    data = load(options)
    steps = np.flatnonzero(np.asarray(data.flags) & HAS_ACTION)
    state = np.asarray(data.obs).argmax(1)
    for least in LEAST:
        policy = counted(mdp, state[steps], np.asarray(data.action)[steps], state[steps + 1], least)
        found.append(_row(f"counts, tried {least} times or more", greedy=mdp.value(policy)))
    runs = [(Record.read(folder), folder) for folder in folders]
    for record, folder in sorted(runs, key=lambda run: (run[0].agent, run[0].steps)):
        name = f"`{record.agent}`, {record.steps:,} updates"
        for seed, greedy, sampled in values(folder, mdp):
            found.append(_row(name, str(seed), greedy, sampled, table.configuration(record)))
    return found


def _row(
    policy: str, seed: str = "", greedy: float | None = None, sampled: float | None = None, configuration: str = ""
) -> dict[str, str]:
    texts = ("" if value is None else f"{value:.6f}" for value in (greedy, sampled))
    return dict(zip(COLUMNS, (policy, seed, *texts, configuration), strict=True))


def render(rows: Sequence[Mapping[str, str]]) -> str:
    """The table in Markdown. Intervals are over the seeds alone: an exact value has no starts to vary with."""
    lines = ["| policy | value, greedy | value, sampled |", "|---|---|---|"]
    for name in dict.fromkeys(row["policy"] for row in rows):
        group = [row for row in rows if row["policy"] == name]
        if len({row["configuration"] for row in group}) > 1:
            raise InputError(f"{name}: rows of different configurations; measure the runs anew")
        lines.append(f"| {name} | {' | '.join(_cell(group, kind) for kind in ('greedy', 'sampled'))} |")
    return "\n".join(lines)


def _cell(group: Sequence[Mapping[str, str]], kind: str) -> str:
    found = [float(row[kind]) for row in group if row[kind]]
    if len(found) < 2:
        return f"{found[0]:.4f}" if found else "-"
    value = estimate(np.array(found)[:, None])
    return f"{value.value:.4f} [{value.low:.4f}, {value.high:.4f}] ({len(found)})"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("runs", type=Path, nargs="*", help=f"run directories on {icu_sepsis.DATASET}")
    parser.add_argument("--data-root", type=Path, help="folder of Minari datasets")
    parser.add_argument(
        "--csv", type=Path, help="the values, a row for each seed: to be written, or, without runs, read"
    )
    parser.add_argument("--insert", type=Path, metavar="DOCUMENT", help="write the table there, after its mark")
    options = parser.parse_args()
    if options.runs:
        found = measure(options.runs, DataOptions(icu_sepsis.DATASET, data_root=options.data_root))
        if options.csv:
            table.write_rows(options.csv, found, COLUMNS)
    elif options.csv:
        found = table.rows(options.csv, COLUMNS)
    else:
        parser.error("name runs to measure, or a file of values with --csv")
    print(render(found))
    if options.insert:
        text = options.insert.read_text()
        options.insert.write_text(table.insert(text, str(options.csv), render(found)))


if __name__ == "__main__":
    main()
