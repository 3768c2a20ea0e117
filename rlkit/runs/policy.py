"""A trained policy, rebuilt from its run directory alone: no dataset and no environment is needed."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

from rlkit import buffer
from rlkit.acting import first_goal
from rlkit.datasets import Normaliser, spaces
from rlkit.runs.checkpoint import Checkpoints
from rlkit.runs.run import Record, diverged, rebuild, recorded_config
from rlkit.training.loop import finite
from rlkit.training.sharding import make_mesh
from rlkit.types import Agent, InputError, Key, Memory, Percept, RunError, State, Stats


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
    settings = altered(recorded_config(record, agent), config or {})
    agent, states, members = restore(folder, record, settings)
    if member is not None and member not in members:
        rest = ", ".join(map(str, members))
        raise InputError(f"{folder}: member {member} diverged in training; members that did not: {rest}")
    row = 0 if member is None else members.index(member)
    state = jax.tree.map(lambda leaf: leaf[row], states)
    space = _space(record.data.observation_space, f"{folder}/run.json: observation_space")
    return Policy(agent, Normaliser.from_json(record.normaliser), space, state, greedy=greedy, seed=seed)


class Restored(NamedTuple):
    """A run's agent and the state of its seeds that did not diverge."""

    agent: Agent
    state: State  # [K] on every leaf, on the first device
    members: tuple[int, ...]  # [K], which of the run's seeds they are, from 0


def altered(config: Any, changes: Mapping[str, Any]) -> Any:
    """``config`` with other values of some fields. Raises InputError for a name that it does not have."""
    names = [field.name for field in dataclasses.fields(config)]
    for name in changes:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
            raise InputError(f"config has no setting {name!r}; did you mean {', '.join(near)}?")
    return dataclasses.replace(config, **changes)


def restore(folder: Path, record: Record, config: Any = None) -> Restored:
    """The agent of a run and its state at the last checkpoint, without the seeds that diverged by then or since.

    config: the agent's Config in place of the recorded one. Raises InputError if there is no checkpoint of the last
    stage, or if its arrays are not those of ``config``, RunError if every seed diverged.
    """
    stages = rebuild(record, config)
    if set(record.stats) != set(Stats._fields):
        raise InputError(f"{folder}/run.json: stats are {sorted(record.stats)}, expected {sorted(Stats._fields)}")
    stats = Stats(**{name: np.array(value, np.float32) for name, value in record.stats.items()})
    rows = buffer.abstract(record.spec, record.data.rows, record.data.steps, buffer.needs(stages))
    mesh = make_mesh(len(record.seeds), jax.devices()[:1])
    with Checkpoints(folder / "checkpoints", identity=record.identity()) as checkpoints:
        progress = checkpoints.last(stages, rows, stats, record.seeds, mesh)
    if progress is None or progress.stage != len(stages) - 1:
        raise InputError(f"{folder} has no checkpoint of its last stage yet: continue it with train --resume auto")
    members = _sound_members(folder, progress.state)
    state = progress.state
    if len(members) < len(record.seeds):
        state = jax.tree.map(lambda leaf: leaf[np.array(members)], state)
    return Restored(stages[-1].learner, state, members)


def _sound_members(folder: Path, state: State) -> tuple[int, ...]:
    # A run that was stopped between two lines of metrics may have saved a state that no line has judged yet.
    whole = np.flatnonzero(jax.device_get(finite(state, {})))
    lost = diverged(folder)
    members = tuple(int(member) for member in whole if member not in lost)
    if not members:
        raise RunError(f"{folder}: every seed of this run diverged in training, so it has no policy: train it anew")
    return members


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
        self._agent, self._normaliser, self._space, self._state = agent, normaliser, observation_space, state
        self._greedy, self._key, self._calls = greedy, jax.random.key(seed), 0
        self.reset()

    def reset(self, goal: Any = None) -> None:
        """Begin an episode.

        Args:
            goal: what the agent is asked for, such as a return in the environment's units. None: the first of the
                agent's own goals.

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
        self._plan: list[np.ndarray] = []
        self._t = 0

    def act(self, obs: Any, reward: float = 0.0) -> np.ndarray:
        """The action for ``obs``, both in the environment's own units.

        obs: the environment's observation, unflattened. reward: what the step before returned, ignored after a reset;
        only agents that track their return use it. Returns [A] float32 within the environment's bounds, or [] int32 for
        a Discrete action space. Raises InputError for an observation of another width.
        """
        flat = np.asarray(gymnasium.spaces.flatten(self._space, obs), np.float32)
        width = gymnasium.spaces.flatdim(self._space)
        if flat.shape != (width,):
            raise InputError(f"the policy expects an observation of {width} numbers, not {flat.size}")
        seen = self._normaliser.reward(np.float32(reward)) if self._t else np.float32(0)
        percept = Percept(self._normaliser.obs(flat), seen, np.int32(self._t))
        self._memory = _observe(self._agent, self._state, self._memory, percept)
        if not self._plan:
            key = jax.random.fold_in(self._key, self._calls)
            actions, self._memory = _act(self._agent, self._greedy, self._state, self._memory, key)
            self._plan = list(np.asarray(actions))
            self._calls += 1
        self._t += 1
        return np.asarray(self._normaliser.env_action(self._plan.pop(0)))


@functools.partial(jax.jit, static_argnums=0)
def _observe(agent: Agent, state: State, memory: Memory, percept: Percept) -> Memory:
    return agent.observe(state, memory, percept)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _act(agent: Agent, greedy: bool, state: State, memory: Memory, key: Key) -> tuple[jax.Array, Memory]:
    return agent.act(state, memory, key, greedy=greedy)
