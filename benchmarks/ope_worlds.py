"""Worlds in which the value of a policy is known, and the recorded episodes by which it is judged.

`benchmarks.ope` measures in them what the estimators of rlkit/ope come to, and what wrong ways come to;
tests/test_ope.py holds some of it to be so.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np

from envs import DATASETS
from rlkit.datasets import DataOptions, Episodes, from_episodes, load
from rlkit.datasets.episodes import TERMINAL
from rlkit.ope.tabular import Table

# --- a walk between two ends that is cut off: +1 a step, and the policy keeps to the middle ---

BINS = 40
LIMIT = 20
WALK_GAMMA = 0.99
WALK_VALUE = 46.57


class Walk(NamedTuple):
    """The walk as a Table, and which of its N steps the limit cut off."""

    steps: Table
    last: np.ndarray  # [N] bool

    def ending_at_limits(self) -> Table:
        """Wrong: the steps with a time limit taken for a terminal state."""
        return self.steps._replace(terminal=self.steps.terminal | self.last)

    def never_ending(self) -> Table:
        """Wrong: the steps with terminal states that are gone through."""
        return self.steps._replace(terminal=np.zeros_like(self.last))


def walk(seed: int, episodes: int = 1000) -> Walk:
    """Steps of 0.15 to either side, evenly, with noise; terminal outside [-1, 1]; cut off after LIMIT steps."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(-0.2, 0.2, episodes)
    alive = np.arange(episodes)
    first = _in_bin(place)
    columns = []
    for t in range(LIMIT):
        here = place[alive]
        action = rng.integers(0, 2, len(alive))
        there = here + 0.15 * (2 * action - 1) + 0.1 * rng.normal(size=len(alive))
        ends = np.abs(there) > 1
        is_last = np.full(len(alive), t == LIMIT - 1)
        columns.append((_in_bin(here), action, _in_bin(there), ends, alive, is_last & ~ends))
        place[alive] = there
        alive = alive[~ends]
    state, action, next_state, ends, episode, last = map(np.concatenate, zip(*columns, strict=True))
    steps = Table(state, action, np.ones(len(state)), next_state, ends, episode, first, BINS, 2)
    return Walk(steps, last)


def middle() -> np.ndarray:
    """[BINS, 2] the policy: +1 with probability 0.6 left of 0, with 0.4 right of it."""
    right = np.where(np.arange(BINS) < BINS // 2, 0.6, 0.4)
    return np.stack([1 - right, right], 1)


def _in_bin(place: np.ndarray) -> np.ndarray:
    return np.clip(((place + 1) / 2 * BINS).astype(int), 0, BINS - 1)


def episodes_of(steps: Table) -> Episodes:
    """The steps of a Table as Episodes of one-hot observations."""
    order = np.lexsort((np.arange(len(steps.state)), steps.episode))
    borders = np.flatnonzero(np.diff(steps.episode[order])) + 1
    one_hot = np.eye(steps.states, dtype=np.float32)
    episodes = []
    for part in np.split(order, borders):
        visited = np.append(steps.state[part], steps.next_state[part[-1]])
        episodes.append(
            {
                "observations": one_hot[visited],
                "actions": steps.action[part],
                "rewards": steps.reward[part],
                "terminations": steps.terminal[part],
            }
        )
    return from_episodes(episodes, action_space=gymnasium.spaces.Discrete(steps.actions))


# --- amounts: a linear-Gaussian world whose episodes only a limit ends ---

DRIFT_GAMMA = 0.97
DRIFT_VALUE = -1.4012


def drifting(seed: int, episodes: int = 1000, steps: int = 10) -> tuple[Episodes, np.ndarray]:
    """Episodes of the recorded policy in its stationary law, and what the judged policy does, [rows, 1]."""
    rng = np.random.default_rng(seed)
    move = np.array([[1.0, 0.1], [0.0, 0.95]])
    place = np.zeros((episodes, 2))
    seen, acted, earned = [], [], []
    for _ in range(200 + steps):  # the first 200 to forget where it began
        action = place @ [-0.5, -0.5] + 0.5 * rng.normal(size=episodes)
        reward = -(place[:, 0] ** 2) - 0.1 * place[:, 1] ** 2 - 0.1 * action**2
        seen.append(place)
        acted.append(action)
        earned.append(reward)
        place = place @ move.T + np.outer(action, [0.0, 0.2]) + 0.05 * rng.normal(size=(episodes, 2))
    seen = np.stack([*seen[-steps:], place], 1)
    acted, earned = np.stack(acted[-steps:], 1), np.stack(earned[-steps:], 1)
    rows = [
        {"observations": o, "actions": a[:, None], "rewards": r} for o, a, r in zip(seen, acted, earned, strict=True)
    ]
    data = from_episodes(rows, action_space=gymnasium.spaces.Box(-np.inf, np.inf, (1,)))
    judged_action = data.obs @ [-1.5, -1.0] + 0.2 * rng.normal(size=len(data.obs))
    return data, judged_action[:, None].astype(np.float32)


def ending_at_limits(episodes: Episodes) -> Episodes:
    """Wrong: the episodes with every time limit taken for a terminal state."""
    flags = np.array(episodes.flags)
    last = np.append(episodes.starts[1:], len(flags)) - 2
    flags[last] |= TERMINAL
    return dataclasses.replace(episodes, flags=flags)


# --- six states, two actions: how often intervals cover ---

TOY_GAMMA = 0.95
TOY_END = 0.12  # probability that an episode ends after a step
BEHAVIOUR = np.array([0.7, 0.3])
NEAR = np.array([0.5, 0.5])  # value 3.390
FAR = np.array([0.1, 0.9])  # value 2.950


def _toy() -> tuple[np.ndarray, np.ndarray]:
    """Transitions [6, 2, 6] and mean rewards [6, 2]."""
    rng = np.random.default_rng(7)
    move = rng.dirichlet(np.full(6, 0.5), (6, 2))
    reward = rng.uniform(0, 1, (6, 2))
    return move, reward


def toy_value(policy: np.ndarray) -> float:
    """The value of a policy [2] that is the same in every state."""
    move, reward = _toy()
    system = np.eye(6) - TOY_GAMMA * (1 - TOY_END) * np.einsum("a,sat->st", policy, move)
    return float(np.linalg.solve(system, reward @ policy).mean())


def toy(seed: int, episodes: int) -> Table:
    """Episodes of the policy BEHAVIOUR that begin anywhere; rewards have the noise 0.3."""
    move, reward = _toy()
    rng = np.random.default_rng(seed)
    state = rng.integers(0, 6, episodes)
    first = state.copy()
    alive = np.arange(episodes)
    columns = []
    while len(alive):
        action = (rng.random(len(alive)) < BEHAVIOUR[1]).astype(int)
        gain = reward[state, action] + 0.3 * rng.normal(size=len(alive))
        sums = move[state, action].cumsum(1)
        following = np.minimum((sums < rng.random((len(alive), 1))).sum(1), 5)
        ends = rng.random(len(alive)) < TOY_END
        columns.append((state, action, gain, following, ends, alive))
        state, alive = following[~ends], alive[~ends]
    return Table(*map(np.concatenate, zip(*columns, strict=True)), first, 6, 2)


# --- the pendulum's recorded episodes, and what a controller is worth in it without an end ---

PENDULUM = "pendulum/mixed-v0"
PENDULUM_GAMMA = 0.99
PENDULUM_STEPS = 1500  # after which less than a millionth is to come


def pendulum() -> Episodes:
    return load(DataOptions(PENDULUM), roots=[DATASETS])


def torques(policy, obs: np.ndarray) -> np.ndarray:
    """[rows, 1] what a controller of envs/toys/pendulum.py does, as agents have it: within [-1, 1]."""
    return np.array([[policy(one) / 2.0] for one in obs], np.float32)


def brake(obs: np.ndarray) -> float:
    """Torque against the speed."""
    return float(min(max(-obs[2], -2.0), 2.0))


def pendulum_value(policy, starts: np.ndarray) -> float:
    """Discounted rewards of a controller from the observations ``starts`` [E, 3] on, the mean of them."""
    env = gymnasium.make("Pendulum-v1").unwrapped
    returns = []
    for cosine, sine, speed in starts:
        env.reset(seed=0)
        env.state = np.array([math.atan2(sine, cosine), speed])
        obs = np.array([cosine, sine, speed], np.float32)
        total = 0.0
        for t in range(PENDULUM_STEPS):
            obs, reward, *_ = env.step(np.array([policy(obs)], np.float32))
            total += PENDULUM_GAMMA**t * float(reward)
        returns.append(total)
    return float(np.mean(returns))


# --- the sample of the Open Bandit Dataset that the package obp carries: its files are read, its code is not ---

OBP_DRAWS = 100_000
OBP_ITEMS = 80
OBP_PLACES = 3


class Bandit(NamedTuple):
    """N shown items, of which some were clicked on: one-step episodes.

    click: [N]. shown: [N] probability with which it was shown. wanted: [N] that of the judged policy.
    """

    click: np.ndarray
    shown: np.ndarray
    wanted: np.ndarray


def obp_folder() -> Path | None:
    """Where the package is installed, None where it is not: pip install --no-deps obp==0.4.1."""
    package = importlib.util.find_spec("obp")  # finds the folder and imports nothing
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0])


def obp_sample(folder: Path) -> Bandit:
    """What was shown at random, and how likely Thompson sampling with the shop's prior would have shown it."""
    with (folder / "dataset/obd/random/all/all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    item = np.array([int(row["item_id"]) for row in rows])
    place = np.array([int(row["position"]) for row in rows]) - 1
    click = np.array([float(row["click"]) for row in rows])
    shown = np.array([float(row["propensity_score"]) for row in rows])
    alpha, beta = _prior((folder / "policy/conf/prior_bts.yaml").read_text())
    # the draws of obp's BernoulliTS(random_state=12345): one Beta number for each item, the largest first
    drawn = np.random.RandomState(12345).beta(alpha, beta, size=(OBP_DRAWS, OBP_ITEMS))
    best = np.argsort(drawn, axis=1)[:, ::-1][:, :OBP_PLACES]
    wanted = np.empty((OBP_ITEMS, OBP_PLACES))
    for number in range(OBP_PLACES):
        wanted[:, number] = np.bincount(best[:, number], minlength=OBP_ITEMS) / OBP_DRAWS
    return Bandit(click, shown, wanted[item, place])


def _prior(text: str) -> tuple[np.ndarray, np.ndarray]:
    """alpha and beta [items] of the campaign "all" in obp's YAML: two lists of numbers, an item a line."""
    lists: dict[str, list[float]] = {}
    campaign = name = ""
    for line in text.splitlines():
        word = line.strip()
        if word.startswith("- ") and campaign == "all":
            lists[name].append(float(word[2:]))
        elif word.endswith(":"):
            if line.startswith(" "):
                name = word[:-1]
                lists.setdefault(name, [])
            else:
                campaign = word[:-1]
    return np.array(lists["alpha"]), np.array(lists["beta"])
