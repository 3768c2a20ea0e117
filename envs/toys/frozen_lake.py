"""A lake of thin ice that is slippery: a walk of which a third goes where it should.

    python -m envs.toys.frozen_lake --out DIR

After FrozenLake of OpenAI Gym (Brockman et al. 2016, arXiv 1606.01540), whose 4 x 4 map, actions, slips and time limit
these are: a step goes in the chosen direction or in one of the two across, a third each; at the edge it stays where it
is. A hole ends the episode with nothing, the goal with 1. So a policy's return is how often it arrives, which is
computed here and not estimated (`success`).

The observation is the number of the place; agents see it flattened, one-hot [16]. The recorded episodes are those of
the best policy, which is replaced by a random action with probability EPSILON at each step; episode i follows from
(seed, i) alone.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import gymnasium
import numpy as np

from envs.recording import rollout, store
from envs.toys.icu_sepsis import MDP, Tabular

ENV = "SlipperyLake-v0"
DATASET = "slippery-lake/mixed-v0"
LAKE = ("SFFF", "FHFH", "FFFH", "HFFG")  # start, frozen, hole, goal
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))  # left, down, right, up; those across are the neighbours in this order
STEPS = 100
EPSILON = 0.4
EPISODES = 100
SEED = 0


@functools.cache
def lake() -> MDP:
    """The transition table, and the recorded policy of probabilities [16, 4]."""
    size = len(LAKE)
    places = "".join(LAKE)
    transition = np.zeros((len(places), len(MOVES), len(places)))
    for place in range(len(places)):
        for action in range(len(MOVES)):
            for slip in (-1, 0, 1):
                row, column = MOVES[(action + slip) % len(MOVES)]
                there = _moved(place // size, row, size) * size + _moved(place % size, column, size)
                transition[place, action, there] += 1 / 3
    kind = np.array(list(places))
    reward = (kind == "G").astype(np.float64)
    start = (kind == "S").astype(np.float64)
    terminal = np.isin(kind, ("H", "G"))
    shape = transition.shape[:2]
    mdp = MDP(transition, reward, start, terminal, np.full(shape, 1 / shape[1]))
    return mdp._replace(clinician=EPSILON * mdp.uniform() + (1 - EPSILON) * mdp.optimal())


def _moved(place: int, step: int, size: int) -> int:
    """Along one side of the lake, which nobody leaves."""
    return min(max(place + step, 0), size - 1)


def success(policy: np.ndarray, mdp: MDP | None = None) -> float:
    """Probability that ``policy``, [16, 4] or one for each step [STEPS, 16, 4], arrives within STEPS steps."""
    mdp = mdp or lake()
    at_step = np.broadcast_to(policy, (STEPS, *mdp.transition.shape[:2]))
    there = mdp.start
    arrived = 0.0
    for actions in at_step:
        going = np.where(mdp.terminal, 0.0, there)
        there = np.einsum("s,sa,san->n", going, actions, mdp.transition)
        arrived += there @ mdp.reward
    return float(arrived)


def slippery_lake() -> gymnasium.Env:
    """The registered environment, without its time limit."""
    return Tabular(lake())


def record(episodes: int = EPISODES, seed: int = SEED) -> list[dict[str, np.ndarray]]:
    """``episodes`` episodes of the policy that is random with probability EPSILON and else the best one."""
    env = gymnasium.make(ENV)
    policy = lake().clinician

    def behaviour(rng: np.random.Generator, place: int) -> int:
        return int(rng.choice(len(MOVES), p=policy[place]))

    recorded = []
    for number in range(episodes):
        rng = np.random.default_rng([seed, number])
        start = int(rng.integers(2**31))
        recorded.append(rollout(env, functools.partial(behaviour, rng), start))
    return recorded


def references() -> tuple[float, float]:
    """How often uniform actions and the best policy arrive, which count as 0 and 100."""
    mdp = lake()
    return success(mdp.uniform()), success(mdp.optimal())


def write(out: Path, episodes: int = EPISODES) -> None:
    """Record the dataset and store it under the Minari root ``out``."""
    store(
        out,
        DATASET,
        gymnasium.make(ENV),
        record(episodes),
        seed=None,
        references=references(),
        command="python -m envs.toys.frozen_lake",
        description=f"Walks over a slippery lake by the best policy, random with probability {EPSILON}.",
    )


if ENV not in gymnasium.registry:  # as when this module is the command
    gymnasium.register(ENV, "envs.toys.frozen_lake:slippery_lake", max_episode_steps=STEPS)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Record walks over the slippery lake.")
    parser.add_argument("--out", type=Path, required=True, help="root folder of Minari datasets to write into")
    write(parser.parse_args().out)
