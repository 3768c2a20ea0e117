"""Playing: environments in lock-step, and the one compiled step in which all of their agents observe and act.

Every environment is stepped by itself, in this process, and reset here when its episode ends. Gymnasium's vector
environments are not used, because they reset by themselves, and by default (1.x) one call late: the call after the last
step ignores its action and returns the observation of the reset with reward 0. The agent would see that as a step, and
it would be counted as one. Here every call of ``step`` is a step, and an environment that has no episode left to play
is not called.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from rlkit.datasets import Normaliser
from rlkit.evaluation import interface
from rlkit.evaluation.interface import BadReturn, Returned
from rlkit.types import Agent, Array, Memory, Percept, State, raised


class EvaluationError(RuntimeError):
    """An environment or the policy failed. The message is one line that names seed, episode and step."""


class Lane:
    """One environment, and where it stands in the episode that it plays. Idle (not live) once there is none left.

    member: number of the run's seed whose agent acts here. goal: number of the goal that it is asked for.
    longest: steps after which an episode that has not ended is an error. doing: what for, for messages.

    Whatever the environment does wrong is an EvaluationError that names the place.
    """

    def __init__(self, env: gymnasium.Env, member: int, goal: int, longest: float, doing: str = "evaluation"):
        self.member = member
        self.goal = goal
        self._doing = doing
        self._env = env
        self._observation_space = env.observation_space
        self._action_space = env.action_space
        self._longest = longest
        self.live = True
        self.episode = 0
        self.start_seed = 0
        self.t = 0
        self.reward = 0.0
        self.total = 0.0  # of the episode so far
        self.success = math.nan  # what the environment said of it at the last step: 1, 0, or nothing (NaN)
        self.terminated = False  # whether it ended in a terminal state
        self.obs: np.ndarray | None = None  # [O] float32, as the environment has it

    def reset(self, episode: int, start_seed: int) -> None:
        """Begin episode number ``episode``, from the environment's ``reset(seed=start_seed)``."""
        self.episode = episode
        self.start_seed = start_seed
        self.t = 0
        self.total = 0.0
        self.success = math.nan
        self.terminated = False
        begun = self._call("reset", interface.read_reset, seed=start_seed)
        self._perceive(begun.obs, 0.0)

    def stop(self) -> None:
        """Fall idle, which the policy sees as t = -1."""
        self.live = False
        self.t = -1

    def step(self, action: np.ndarray) -> bool:
        """Take one action; whether the episode ended with it."""
        if not np.isfinite(action).all():
            raise self._error(f"the policy's action is {action.tolist()}")
        taken = interface.in_form(self._action_space, action)
        returned = self._call("step", interface.read_step, taken)
        self.t += 1
        self.success = _success(returned.info)
        self._perceive(returned.obs, returned.reward)
        self.total += self.reward
        self.terminated = returned.terminated
        if returned.terminated or returned.truncated:
            return True
        if self.t >= self._longest:
            raise self._error("the episode does not end; give the environment a time limit")
        return False

    def _perceive(self, obs: np.ndarray, reward: float) -> None:
        self.obs = obs
        self.reward = reward
        is_finite = np.isfinite(obs)
        if not is_finite.all():
            first = int(np.argmin(is_finite))
            raise self._error(f"observation element {first} is not finite")
        if not math.isfinite(reward):
            raise self._error(f"the reward is {reward}")

    def _call(self, method: str, read: Callable[..., Returned], *args: Any, **kwargs: Any) -> Returned:
        """What the environment's ``method`` returned, as ``read`` reads it."""
        try:
            returned = getattr(self._env, method)(*args, **kwargs)
            return read(returned, self._observation_space)
        except BadReturn as fault:
            raise self._error(str(fault)) from fault
        except (Exception, SystemExit) as error:  # an environment is other people's code, which may raise anything
            told = f"{raised(error)}{interface.cure(error)}"
            raise self._error(f"the environment's {method} raised {told}") from error

    def _error(self, problem: str) -> EvaluationError:
        where = f"seed {self.member}, episode {self.episode} (reset with seed {self.start_seed})"
        return EvaluationError(f"{self._doing} of {where}, step {self.t}: {problem}")


def another(make_env: Callable[[], gymnasium.Env], envs: Sequence[gymnasium.Env], doing: str = "evaluation") -> Any:
    """One more environment, beside ``envs``. EvaluationError where it cannot be made, or has other spaces than they."""
    try:
        env = make_env()
        spaces = (env.observation_space, env.action_space)
    except (Exception, SystemExit) as error:  # the first one could be made, which says nothing of twenty
        raise EvaluationError(f"{doing}: environment {len(envs)} cannot be made: {raised(error)}") from error
    if envs and spaces != (envs[0].observation_space, envs[0].action_space):
        raise EvaluationError(f"{doing}: environment {len(envs)} has other spaces than the first: make all alike")
    return env


def _success(info: Mapping[str, Any]) -> float:
    """``info["success"]`` of a step as 1 or 0; NaN where the environment gives none that is a single flag or number."""
    if "success" not in info:
        return math.nan
    try:
        told = np.asarray(info["success"])
    except (TypeError, ValueError, RuntimeError):  # rows of several lengths, a tensor on a device or with a gradient
        return math.nan
    if told.size != 1 or told.dtype.kind not in "buif" or math.isnan(told.item()):
        return math.nan
    return float(told.item() != 0)


class Seen(NamedTuple):
    """Observations of E lanes of each of S seeds, and where they stand in their episodes."""

    obs: Array  # [S, E, O] raw
    reward: Array  # [S, E] raw
    t: Array  # [S, E], -1 for an idle lane
    episode: Array  # [S, E]
    goal: Array  # [S, E], number of the goal


def show(lanes: Sequence[Lane], seeds: int) -> Seen:
    """Observations of the lanes, those of a seed side by side."""
    lanes_of_a_seed = len(lanes) // seeds
    shape = (seeds, lanes_of_a_seed)
    obs = np.stack([lane.obs for lane in lanes])
    reward = np.array([lane.reward for lane in lanes], np.float32)
    t = np.array([lane.t for lane in lanes], np.int32)
    episode = np.array([lane.episode for lane in lanes], np.int32)
    goal = np.array([lane.goal for lane in lanes], np.int32)
    return Seen(
        obs.reshape(*shape, -1),
        reward.reshape(shape),
        t.reshape(shape),
        episode.reshape(shape),
        goal.reshape(shape),
    )


class Acting(NamedTuple):
    """S agents that act: their states, what they are asked for, and how they see the environment."""

    state: State  # [S, ...]
    goals: Any  # [G, ...] on every leaf
    normaliser: Normaliser
    seeds: Array  # [S] uint32, of the agents' keys


class Played(NamedTuple):
    """Memories and plans of the agents of all lanes, which they keep from step to step."""

    memory: Memory  # [S, E, ...]
    plan: Array  # [S, E, H, A] or [S, E, H], actions that are not all taken yet


def stack_goals(goals: Sequence[Any]) -> Any:
    """Goals of one structure as arrays [G, ...]; None stays None."""

    def stack(*values: Any) -> np.ndarray:
        arrays = [np.asarray(value) for value in values]
        return np.stack(arrays)

    return jax.tree.map(stack, *goals)


@functools.partial(jax.jit, static_argnums=(0, 1))
def begin(agent: Agent, width: int, acting: Acting) -> Played:
    """Memory and an empty plan for ``width`` lanes of each seed."""

    def one_seed(state: State) -> Played:
        memory = agent.begin(state, _goal(acting.goals, 0))
        act = functools.partial(agent.act, greedy=True)
        plan, _ = jax.eval_shape(act, state, memory, jax.random.key(0))
        empty = jnp.zeros(plan.shape, plan.dtype)
        return Played(memory, empty)

    def widen(leaf: Array) -> Array:
        # with its dtype named, the array is not weakly typed, as that of later steps is not: else it compiles twice
        lane = jnp.expand_dims(leaf, 1)
        lanes = jnp.repeat(lane, width, 1)
        return jnp.array(lanes, leaf.dtype)

    one_lane = jax.vmap(one_seed)(acting.state)
    return jax.tree.map(widen, one_lane)


@functools.partial(jax.jit, static_argnums=(0, 1))
def step(agent: Agent, greedy: bool, acting: Acting, played: Played, seen: Seen) -> tuple[Array, Played]:
    """One step of every lane: observe, make a new plan where the last is used up, and take the plan's next action.

    Returns the actions in the environment's units, [S, E, A] or [S, E], and what the agents keep.
    """
    normaliser = acting.normaliser
    horizon = played.plan.shape[2]

    def observe(state: State, memory: Memory, seen: Seen) -> Memory:
        starts = seen.t == 0
        begun = agent.begin(state, _goal(acting.goals, seen.goal))
        reward = jnp.where(starts, 0.0, normaliser.reward(seen.reward))
        percept = Percept(normaliser.obs(seen.obs), reward, seen.t)
        memory = _where(starts, begun, memory)
        return agent.observe(state, memory, percept)

    def act(state: State, seed: Array, memory: Memory, plan: Array, seen: Seen) -> tuple[Array, Memory]:
        key = jax.random.key(seed)
        key = jax.random.fold_in(key, seen.episode)
        key = jax.random.fold_in(key, seen.t)
        planned = agent.act(state, memory, key, greedy=greedy)
        if horizon == 1:
            return planned
        is_used_up = seen.t % horizon == 0
        return _where(is_used_up, planned, (plan, memory))

    def keep(state: State, seeds: Array, memory: Memory, plan: Array, seen: Seen) -> tuple[Array, Memory]:
        return plan, memory

    def next_action(plan: Array, t: Array) -> Array:
        action = plan[t % horizon]
        return normaliser.env_action(action)

    state, seeds = acting.state, acting.seeds
    memory = _over_lanes(observe, 1)(state, played.memory, seen)
    if horizon == 1:
        plan, memory = _over_lanes(act, 2)(state, seeds, memory, played.plan, seen)
    else:
        is_due = (seen.t % horizon == 0).any()
        plan, memory = jax.lax.cond(is_due, _over_lanes(act, 2), keep, state, seeds, memory, played.plan, seen)
    action = jax.vmap(jax.vmap(next_action))(plan, seen.t)
    return action, Played(memory, plan)


def _over_lanes(function: Callable, shared: int) -> Callable:
    """``function(*shared, *of one lane)`` for all lanes [S, E, ...], whose first ``shared`` arguments are [S, ...]."""

    def one_seed(*arguments: Any) -> Any:
        one_lane = functools.partial(function, *arguments[:shared])
        return jax.vmap(one_lane)(*arguments[shared:])

    return jax.vmap(one_seed)


def _goal(goals: Any, number: Array | int) -> Any:
    return jax.tree.map(lambda values: values[number], goals)


def _where(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
