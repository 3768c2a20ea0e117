"""A trained policy, rebuilt from its run directory alone: no dataset and no environment is needed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np

from rlkit.acting import first_goal
from rlkit.datasets import Normaliser, spaces
from rlkit.runs.record import Record, recorded_config
from rlkit.runs.restored import altered, restore
from rlkit.types import Agent, InputError, Key, Memory, Percept, State


def load(
    run: str | Path,
    *,
    member: int | None = None,
    greedy: bool = True,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    agent: str | None = None,
) -> Policy:
    """The policy at the last checkpoint of a run directory.

    Args:
        run: the run directory.
        member: which of the run's seeds, from 0; None takes the first that did not diverge.
        greedy: whether the policy takes its likeliest action; else it samples, starting from ``seed``.
        config: settings of the agent to act with in place of the recorded ones, such as what it is asked for. They must
            leave the arrays of its state as they are.
        agent: ``module:Config``, for an agent in a module of your own.

    Returns:
        A Policy, which needs neither data nor environment.

    Raises:
        InputError: if the run has no such checkpoint, seed or setting, or if the seed diverged.
        RunError: if every seed diverged.

    Example:
        policy = rlkit.load("runs/hopper", config={"targets": (3000.0,)})
    """
    folder = Path(run)
    record = Record.read(folder)
    if member is not None and not 0 <= member < len(record.seeds):
        raise InputError(f"{folder} has {len(record.seeds)} seeds; member {member} is not one of them")
    trained_with = recorded_config(record, agent)
    acts_with = altered(trained_with, config or {})
    restored = restore(folder, record, acts_with)

    # --- one seed of those that did not diverge ---
    if member is None:
        row = 0
    elif member in restored.members:
        row = restored.members.index(member)
    else:
        rest = ", ".join(map(str, restored.members))
        raise InputError(f"{folder}: member {member} diverged in training; members that did not: {rest}")
    state = jax.tree.map(lambda leaf: leaf[row], restored.state)

    normaliser = Normaliser.from_json(record.normaliser)
    space = _space(record.data.observation_space, f"{folder}/run.json: observation_space")
    return Policy(restored.agent, normaliser, space, state, greedy=greedy, seed=seed)


def _space(form: dict[str, Any], where: str) -> gymnasium.Space:
    try:
        return spaces.from_json(form)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not a space ({error})") from error


class Policy:
    """A policy for one environment: call `reset` at the start of each episode and `act` at each step."""

    def __init__(
        self,
        agent: Agent,
        normaliser: Normaliser,
        observation_space: gymnasium.Space,
        state: State,
        *,
        greedy: bool = True,
        seed: int = 0,
    ):
        self._agent = agent
        self._normaliser = normaliser
        self._space = observation_space
        self._state = state
        self._greedy = greedy
        self.reset(seed=seed)

    def reset(self, goal: Any = None, *, seed: int | None = None) -> None:
        """Begin an episode.

        Args:
            goal: what the agent is asked for, such as a return in the environment's units. None: the first of the
                agent's own goals.
            seed: where sampled actions start from anew, for an episode that can be played again. None: they go on.

        Raises:
            InputError: for a goal of another form, or where the agent takes none.

        Example:
            policy.reset(goal=3000.0)
        """
        own = first_goal(self._agent)
        if goal is None:
            goal = own
        elif own is None:
            raise InputError("this agent takes no goal: call reset() without one")
        elif np.shape(goal) != np.shape(own):
            raise InputError(
                f"the goal has shape {np.shape(goal)}, but the agent's have {np.shape(own)}: give one such"
            )
        self._memory = self._agent.begin(self._state, goal)
        self._plan: list[np.ndarray] = []  # actions that are not taken yet
        self._t = 0  # steps of this episode
        if seed is not None:
            self._key = jax.random.key(seed)
            self._calls = 0  # of agent.act

    def fingerprint(self) -> str:
        """SHA-256 of the agent's state, bit by bit: it tells two policies of one run apart, as before and after more
        training."""
        total = hashlib.sha256()
        for leaf in jax.tree.leaves(self._state):
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            total.update(np.asarray(leaf).tobytes())
        return total.hexdigest()

    def act(self, obs: Any, reward: float = 0.0) -> np.ndarray:
        """The action for ``obs``, both in the environment's own units.

        Args:
            obs: the environment's observation, unflattened.
            reward: what the step before returned, ignored after a reset; only agents that track their return use it.

        Returns:
            [A] float32 within the environment's bounds, or [] int32 for a Discrete action space.

        Raises:
            InputError: for an observation of another width.
        """
        flat = self._flat(obs)

        # --- observe ---
        if self._t == 0:
            shown_reward = np.float32(0)
        else:
            shown_reward = self._normaliser.reward(np.float32(reward))
        percept = Percept(self._normaliser.obs(flat), shown_reward, np.int32(self._t))
        self._memory = _observe(self._agent, self._state, self._memory, percept)
        self._t += 1

        # --- act: a plan is used up before the agent is asked for the next ---
        if not self._plan:
            key = jax.random.fold_in(self._key, self._calls)
            actions, self._memory = _act(self._agent, self._greedy, self._state, self._memory, key)
            self._plan = list(np.asarray(actions))
            self._calls += 1
        action = self._normaliser.env_action(self._plan.pop(0))
        return np.asarray(action)

    def _flat(self, obs: Any) -> np.ndarray:
        flat = np.asarray(gymnasium.spaces.flatten(self._space, obs), np.float32)
        width = gymnasium.spaces.flatdim(self._space)
        if flat.shape != (width,):
            raise InputError(f"the policy expects an observation of {width} numbers, not {flat.size}")
        return flat


@functools.partial(jax.jit, static_argnums=0)
def _observe(agent: Agent, state: State, memory: Memory, percept: Percept) -> Memory:
    return agent.observe(state, memory, percept)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _act(agent: Agent, greedy: bool, state: State, memory: Memory, key: Key) -> tuple[jax.Array, Memory]:
    return agent.act(state, memory, key, greedy=greedy)
