"""Exact values of trained policies in ICU-Sepsis, beside those of uniform actions, the clinicians and the optimum.

    python train.py train bc --preset icu-sepsis --dataset icu-sepsis/clinician-v0 --seeds 3 --out runs/sepsis/bc
    python -m benchmarks.icu_sepsis runs/sepsis/bc

A value is the share of patients who survive (envs/icu_sepsis.py). "Greedy" asks the policy once in each of the 716
states; "sampled" is the policy as it acts without ``greedy``, its probabilities estimated from draws in each state.
The rows "counts" are what the data alone can give an exact method: an optimal policy of the MDP that the dataset's
transitions were counted into, in which an action that was tried less often than said earns nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from envs import icu_sepsis
from envs.icu_sepsis import MDP
from rlkit.datasets import DataOptions, Normaliser, load
from rlkit.datasets.episodes import HAS_ACTION
from rlkit.policy import restore
from rlkit.run import Record
from rlkit.statistics import estimate
from rlkit.types import Agent, Array, InputError, Key, Percept, State

DRAWS = 2000  # actions in each state: a probability is known to 0.01 at worst
LEAST = (1, 5, 20)  # tries of an action in a state


def actions(agent: Agent, normaliser: Normaliser, state: State, states: int, *, draws: int, greedy: bool) -> Array:
    """Actions [draws, states] of one seed's policy in every state, as at the start of an episode."""

    def act(obs: Array, key: Key) -> Array:
        memory = agent.observe(agent.begin(state, None), Percept(normaliser.obs(obs), jnp.float32(0), jnp.int32(0)))
        return normaliser.env_action(agent.act(state, memory, key, greedy=greedy)[0][0])

    keys = jax.random.split(jax.random.key(0), (states, draws))
    each = jax.vmap(jax.vmap(act, (None, 0)))  # the network sees a state once, not once a draw
    return each(jnp.eye(states), keys).T


def probabilities(drawn: np.ndarray, count: int) -> np.ndarray:
    """The policy [S, count]: how often each action is among ``drawn`` [draws, S]."""
    return (np.asarray(drawn)[..., None] == np.arange(count)).mean(0)


def values(folder: Path, mdp: MDP) -> tuple[list[float], list[float]]:
    """Values of the greedy and of the sampled policy of every seed of the run in ``folder`` that did not diverge."""
    record = Record.read(folder)
    if record.spec.observation.shape != mdp.start.shape:
        raise InputError(f"{folder} is not a run on {icu_sepsis.DATASET}")
    agent, states, members = restore(folder, record)
    normaliser, (number, count) = Normaliser.from_json(record.normaliser), mdp.clinician.shape
    found: tuple[list[float], list[float]] = [], []
    for row in range(len(members)):
        state = jax.tree.map(lambda leaf, row=row: leaf[row], states)
        for kind, draws, greedy in ((found[0], 1, True), (found[1], DRAWS, False)):
            drawn = actions(agent, normaliser, state, number, draws=draws, greedy=greedy)
            kind.append(mdp.value(probabilities(drawn, count)))
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


def show(folders: Sequence[Path], options: DataOptions) -> str:
    """The table in Markdown."""
    mdp = icu_sepsis.load()
    lines = ["| policy | value, greedy | value, sampled |", "|---|---|---|"]
    for name, policy in (("uniform", mdp.uniform()), ("clinicians", mdp.clinician), ("optimal", mdp.optimal())):
        lines.append(f"| {name} | | {mdp.value(policy):.4f} |")
    data = load(options)
    rows = np.flatnonzero(np.asarray(data.flags) & HAS_ACTION)
    state = np.asarray(data.obs).argmax(1)
    for least in LEAST:
        policy = counted(mdp, state[rows], np.asarray(data.action)[rows], state[rows + 1], least)
        lines.append(f"| counts, tried {least} times or more | {mdp.value(policy):.4f} | |")
    for folder in folders:
        record = Record.read(folder)
        cells = [estimate(np.array(kind)[:, None]) for kind in values(folder, mdp)]
        told = (f"{x.value:.4f} [{x.low:.4f}, {x.high:.4f}]" for x in cells)
        lines.append(f"| `{record.agent}`, {record.steps:,} updates | {' | '.join(told)} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help=f"run directories on {icu_sepsis.DATASET}")
    parser.add_argument("--data-root", type=Path, help="folder of Minari datasets")
    options = parser.parse_args()
    print(show(options.runs, DataOptions(icu_sepsis.DATASET, data_root=options.data_root)))


if __name__ == "__main__":
    main()
