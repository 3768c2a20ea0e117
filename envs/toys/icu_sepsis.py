"""ICU-Sepsis: the treatment of sepsis in intensive care as a tabular MDP, with the clinicians' policy.

    python -m envs.toys.icu_sepsis --out DIR

Choudhary, Gupta, Thomas: ICU-Sepsis: A Benchmark MDP Built from Real Medical Data, RLC 2024, arXiv 2406.05646. 716
states are clusters of the patients of MIMIC-III, 25 actions are five doses of fluids times five of vasopressors. The
reward is 1 on arrival at survival and 0 elsewhere, undiscounted: a policy's value is the share of patients who survive.
Values are computed here, not estimated (`MDP.value`).

The numbers are read from the file of the package icu-sepsis, which is not imported: it imports the abandoned gym, and
its metadata drag in pandas and scikit-learn besides. Nothing in the file is a pickle.

An action that the clinicians took too rarely in a state is inadmissible there. As in the package's default (and the
paper), taking one moves the patient as the mean of the admissible ones does: the file's transitions hold that already,
so such actions need no treatment of their own and no policy gains by them. The observation is the number of the state,
as in the package; agents see it flattened, one-hot [716].

The recorded episodes are the clinicians': episode i follows from (seed, i) alone.
"""

from __future__ import annotations

import functools
import importlib.util
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

from envs.recording import main, rollouts, store
from rlkit.types import InputError, one_line

ENV = "ICUSepsis-v0"
DATASET = "icu-sepsis/clinician-v0"
EPISODES = 5000
STEPS = 500  # the package's limit; no policy comes near it
SEED = 0
DEATH, SURVIVAL, AFTER = 713, 714, 715  # states; the last follows both others and is never entered here
MISSING = "the package icu-sepsis is not installed: pip install --no-deps icu-sepsis (its file is read, not its code)"


class MDP(NamedTuple):
    """A problem of S states and A actions whose episodes end; returns are not discounted."""

    transition: np.ndarray  # [S, A, S] probabilities of the next state
    reward: np.ndarray  # [S] on arrival at a state
    start: np.ndarray  # [S] probabilities of the first state
    terminal: np.ndarray  # [S] bool
    clinician: np.ndarray  # [S, A] probabilities of the recorded policy; rows of terminal states do not matter

    def value(self, policy: np.ndarray) -> float:
        """Expected return of ``policy`` [S, A], probabilities of the actions, from the start: V = r + P V, solved.

        Raises InputError if a row outside the terminal states is no distribution, or if the policy need not end.
        """
        policy = np.asarray(policy, np.float64)
        self._check(policy)
        going = ~self.terminal
        count = going.sum()
        # --- of the states that are not terminal: values and expected steps to the end, both by one solution ---
        move = np.einsum("sa,sat->st", policy[going], self.transition[going])
        reward = move @ self.reward
        one_step = np.ones(count)
        equations = np.eye(count) - move[:, going]
        try:
            values, steps = np.linalg.solve(equations, np.stack([reward, one_step], 1)).T
        except np.linalg.LinAlgError:
            values = steps = np.full(count, np.nan)
        all_end = (steps >= 1 - 1e-6) & (steps < 1e9)  # rounding may hide a singular system
        if not all_end.all():
            raise InputError("the policy has no value: from some state its episodes need not end")
        # --- from the start ---
        terminal_value = self.start[self.terminal] @ self.reward[self.terminal]
        return float(self.start[going] @ values + terminal_value)

    def _check(self, policy: np.ndarray) -> None:
        """Raises InputError unless ``policy`` has a distribution over the actions in every state that does not end."""
        shape = self.transition.shape[:2]
        if policy.shape != shape:
            raise InputError(f"a policy has shape {list(shape)} here, not {list(policy.shape)}")
        negative = (policy < 0).any(1)
        adds_up = np.isclose(policy.sum(1), 1, atol=1e-6)
        wrong = ~self.terminal & (negative | ~adds_up)
        if wrong.any():
            raise InputError(f"policy in state {int(np.argmax(wrong))}: not a distribution over the actions")

    def optimal(self, tolerance: float = 1e-10) -> np.ndarray:
        """An optimal policy [S, A], one-hot, by value iteration until no value moves by more than ``tolerance``.

        Without a discount this needs rewards that are not negative, and an MDP in which every policy ends.
        """
        reward = self.transition @ self.reward
        values = np.zeros(len(self.start))
        change = np.inf
        while change > tolerance:
            returns = reward + self.transition @ values
            new_values = np.where(self.terminal, 0, returns.max(1))
            change = np.abs(new_values - values).max()
            values = new_values
        return deterministic(returns.argmax(1), returns.shape[1])

    def uniform(self) -> np.ndarray:
        """The policy [S, A] that takes every action alike."""
        shape = self.transition.shape[:2]
        return np.full(shape, 1 / shape[1])


class Tabular(gymnasium.Env):
    """Episodes in an MDP. Observation: the number of the state."""

    def __init__(self, mdp: MDP):
        self._mdp = mdp
        states, actions = mdp.transition.shape[:2]
        self.observation_space = Discrete(states)
        self.action_space = Discrete(actions)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict]:
        """A patient is admitted."""
        super().reset(seed=seed)
        self._state = self._draw(self._mdp.start)
        return self._state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        """Terminated at death and at survival."""
        self._state = self._draw(self._mdp.transition[self._state, action])
        reward = float(self._mdp.reward[self._state])
        terminated = bool(self._mdp.terminal[self._state])
        return self._state, reward, terminated, False, {}

    def _draw(self, probabilities: np.ndarray) -> int:
        number = self.np_random.choice(len(probabilities), p=probabilities)
        return int(number)


@functools.lru_cache(maxsize=1)
def load() -> MDP:
    """ICU-Sepsis, from the installed package's file. Raises InputError if it is missing or not what is expected."""
    package = importlib.util.find_spec("icu_sepsis")  # finds the folder and imports nothing
    if package is None or not package.submodule_search_locations:
        raise InputError(MISSING)
    folder = Path(package.submodule_search_locations[0])
    return read(folder / "envs" / "assets" / "dynamics.npz")


def read(path: Path) -> MDP:
    """The MDP in the file ``path`` (.npz of plain arrays). Raises InputError if it is not as version 2 has it."""
    states = AFTER + 1
    actions = 25
    try:
        with np.load(path, allow_pickle=False) as file:
            start = file["d_0"]
            clinician = file["expert_policy"]
            transition = file["tx_mat"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = one_line(error)
        raise InputError(f"{path}: cannot be read as ICU-Sepsis ({reason}): install icu-sepsis 2 again") from error
    _check_array(path, "d_0", start, (states,))
    _check_array(path, "expert_policy", clinician, (states, actions))
    _check_array(path, "tx_mat", transition, (states, actions, states))
    number = np.arange(states)
    return MDP(
        transition=transition,
        reward=(number == SURVIVAL).astype(np.float64),
        start=start,
        terminal=np.isin(number, (DEATH, SURVIVAL, AFTER)),
        clinician=clinician,
    )


def _check_array(path: Path, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises InputError unless ``array`` holds finite numbers in float64 and has that shape."""
    if array.shape != shape or array.dtype != np.float64 or not np.isfinite(array).all():
        raise InputError(f"{path}: {name} is not {list(shape)} finite numbers: install icu-sepsis 2 again")


def icu_sepsis() -> gymnasium.Env:
    """The registered environment, without its time limit."""
    return Tabular(load())


def deterministic(action: np.ndarray, actions: int) -> np.ndarray:
    """The policy [S, actions] that takes ``action`` [S]."""
    return np.eye(actions)[action]


def record(mdp: MDP, episodes: int, seed: int = SEED) -> list[dict[str, np.ndarray]]:
    """``episodes`` episodes of the clinicians' policy in ``mdp``."""
    env = gymnasium.wrappers.TimeLimit(Tabular(mdp), STEPS)
    actions = mdp.clinician.shape[1]
    policies = []
    for i in range(episodes):
        rng = np.random.default_rng([seed, i])
        policies.append(functools.partial(_clinician, mdp, actions, rng))
    return rollouts(env, policies, seed)


def _clinician(mdp: MDP, actions: int, rng: np.random.Generator, state: int) -> int:
    """An action of the clinicians' policy."""
    return int(rng.choice(actions, p=mdp.clinician[state]))


def references(mdp: MDP) -> tuple[float, float]:
    """Values of uniform actions and of an optimal policy, which count as 0 and 100."""
    low = mdp.value(mdp.uniform())
    high = mdp.value(mdp.optimal())
    return low, high


def write(out: Path, episodes: int = EPISODES) -> None:
    """Record the dataset and store it under the Minari root ``out``."""
    mdp = load()
    store(
        out,
        DATASET,
        gymnasium.make(ENV),
        record(mdp, episodes),
        seed=SEED,
        references=references(mdp),
        command="python -m envs.toys.icu_sepsis",
        description="Simulated patients of ICU-Sepsis, treated by the clinicians' policy.",
    )


if ENV not in gymnasium.registry:  # as when this module is the command
    gymnasium.register(ENV, "envs.toys.icu_sepsis:icu_sepsis", max_episode_steps=STEPS)

if __name__ == "__main__":
    main("Record the clinicians' episodes of ICU-Sepsis.", write)
