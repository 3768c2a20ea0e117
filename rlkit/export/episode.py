"""An episode as the run's own code plays it, and whether an exported program plays it alike in a process of its own."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from rlkit.acting import first_goal
from rlkit.export import agreement
from rlkit.runs.policy import Policy
from rlkit.types import Percept, RunError

STEPS = 20
TOLERANCE = 1e-3  # of half the range of an action, at later loads: another device rounds otherwise
PATIENCE = 1_200.0  # seconds for the process, which compiles
# Run with the folder as its argument. `load` plays the stored episode. Then the programs are given its first
# observations together, in batches of 2 and 7 environments, of which each must act as it does alone.
_ALONE = """
import sys

class OnlyJax:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"rlkit", "agents", "envs", "flax", "optax", "orbax", "gymnasium"}:
            raise ImportError(f"{name} cannot be imported here")

folder = sys.argv[1]
sys.meta_path.insert(0, OnlyJax())
sys.path.insert(0, folder)
import warnings
import jax
import numpy as np
import policy
import policy_jax

warnings.simplefilter("ignore")
acting = policy_jax.load(folder)
tensors = policy.read_tensors(policy.read_file(folder, acting.contract, "weights.safetensors"), folder)
rows = tensors["episode.observation"]
KEY = np.asarray(jax.random.key_data(jax.random.key(0)))

def first_plans(rows):
    size = len(rows)
    memory = {name: np.repeat(value, size, 0) for name, value in acting._initial.items()}
    reward, t = np.zeros(size, np.float32), np.zeros(size, np.int32)
    memory = acting._observe(acting._weights, memory, rows, reward, t)
    plans, _ = acting._act(acting._weights, memory, np.repeat(KEY[None], size, 0))
    return np.asarray(plans)

alone = np.concatenate([first_plans(rows[i : i + 1]) for i in range(7)])
half = 1 if acting.choices else acting._half
print(acting.largest_difference)
for size in (2, 7):
    print((np.abs(first_plans(rows[:size]) - alone[:size]) / half).max())
"""


class Episode(NamedTuple):
    """STEPS steps, with what the run's own code does at each."""

    observation: np.ndarray  # [STEPS, O] float32
    reward: np.ndarray  # [STEPS] float32
    output: np.ndarray  # [STEPS, A] float32 amounts in the environment's units, or [STEPS] int32 choices

    def tensors(self) -> dict[str, np.ndarray]:
        return {f"episode.{name}": value for name, value in self._asdict().items()}


def play(policy: Policy, rows: np.ndarray) -> Episode:
    """The actions of ``policy`` for the first STEPS of ``rows`` [N, O] and for rewards drawn at random."""
    observations = rows[:STEPS]
    rewards = np.random.default_rng(0).normal(size=STEPS).astype(np.float32)
    agent, normaliser = policy.agent, policy.normaliser
    observe = jax.jit(agent.observe)
    act = jax.jit(functools.partial(agent.act, greedy=True))
    memory = agent.begin(policy.state, first_goal(agent))
    key = jax.random.key(0)
    plan: list[np.ndarray] = []
    plans = 0
    outputs = []
    for t, (obs, reward) in enumerate(zip(observations, rewards, strict=True)):
        shown = normaliser.reward(reward) if t else np.float32(0)
        memory = observe(policy.state, memory, Percept(normaliser.obs(obs), shown, np.int32(t)))
        if not plan:
            actions, memory = act(policy.state, memory, jax.random.fold_in(key, plans))
            plans += 1
            plan = list(np.asarray(actions))
        outputs.append(np.asarray(normaliser.env_action(plan.pop(0))))
    return Episode(observations, rewards, np.stack(outputs))


def check_alone(folder: Path) -> float:
    """The largest difference between the programs in ``folder``, run without rlkit, and the run's own policy, as a
    share of half the range of an action. Raises RunError if they fail or if it is larger than agreement.TOLERANCE."""
    command = [sys.executable, "-B", "-P", "-c", _ALONE, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise RunError(
            f"the exported programs gave no actions within {PATIENCE:g} seconds; nothing was written"
        ) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RunError(f"the exported programs fail with jax alone ({lines[-1]}); nothing was written")
    largest = max(map(float, done.stdout.split()))
    if not largest <= agreement.TOLERANCE:
        raise RunError(
            f"the exported programs differ from the run's own policy by {largest:.2g} of half the range of an action, "
            f"{agreement.TOLERANCE:g} are allowed; nothing was written"
        )
    return largest
