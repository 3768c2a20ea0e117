"""Evaluation in live environments: all seeds and several environments in lock-step, one compiled policy.

Every environment is stepped by itself, in this process, and reset here when its episode ends; there is no vector
environment. Gymnasium's vector environments reset by themselves, in 1.x by default one call late: the call after the
last step ignores its action and returns the reset's observation with reward 0, which would be counted as a step
and shown to the agent as one. Here every call of ``step`` is a step, and an environment that has no episode left to
play is not called at all.

Nothing depends on how many environments run side by side: episode i starts from ``reset(seed=seed + i)``, and the
agent's key is folded from the number of the episode and the step. (A matrix product over more rows may round its last
digit differently.)
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from rlkit.datasets import Normaliser
from rlkit.types import Agent, Array, Memory, Percept, Spec, State, one_line


class EvaluationError(RuntimeError):
    """An environment or the policy failed. The message is one line that names seed, episode and step."""


class Evaluation(NamedTuple):
    """``returns`` [S, episodes] float64: raw rewards, summed without discount. ``lengths`` [S, episodes]: steps."""

    returns: np.ndarray
    lengths: np.ndarray


def score(returns: Any, reference: Sequence[Any]) -> Any:
    """Normalised score: 0 for random, 100 for an expert. ``reference`` begins with their mean returns."""
    low, high = reference[:2]
    return 100 * (np.asarray(returns, np.float64) - low) / (high - low)


def longest(spec: Spec) -> int:
    """Steps after which an episode counts as endless: ten times the longest one of the data and the environment."""
    return 10 * spec.horizon


class Evaluator:
    """Plays ``episodes`` episodes with each seed's greedy policy, through the run's normaliser.

    make_env: makes one environment, whose observations are flattened here. seed: episode i is reset with seed + i, for
    every seed of the run alike. goal: handed to ``agent.begin``. envs_per_seed: environments side by side, which
    changes the speed only; by default one for each episode, at most 20. longest: steps after which an episode that has
    not ended is an error.
    """

    def __init__(
        self,
        agent: Agent,
        normaliser: Normaliser,
        make_env: Callable[[], gymnasium.Env],
        *,
        episodes: int = 10,
        seed: int = 0,
        goal: Any = None,
        envs_per_seed: int | None = None,
        longest: float = math.inf,
    ):
        if episodes < 1:
            raise ValueError(f"episodes is {episodes}, but at least 1 is needed")
        self._agent, self._normaliser, self._make_env = agent, normaliser, make_env
        self._episodes, self._seed, self._goal = episodes, seed, goal
        self._longest = longest
        self._width = min(envs_per_seed or 20, episodes)
        self._envs: list[gymnasium.Env] = []

    def run(self, state: State, beat: Callable[[], None] = lambda: None) -> Evaluation:
        """Evaluate ``state``, which has a leading seed axis [S] on every leaf; it is neither changed nor donated.

        ``beat`` is called after every step. Raises EvaluationError if an environment raises, if an observation or a
        reward is not finite, or an action, or if an episode does not end.
        """
        device = jax.devices()[0]
        inputs = (state, self._goal, self._normaliser, np.uint32(self._seed))
        state, goal, normaliser, seed = jax.device_put(inputs, device)
        # put there like the rest: where begin uses no state, its result is bound to no device, and the second step,
        # whose memory is, would be compiled anew
        memory, plan = jax.device_put(_begin(self._agent, self._width, state, goal), device)
        fixed = _Fixed(normaliser, seed, state, memory)
        result = self._empty(jax.tree.leaves(state)[0].shape[0])
        lanes = self._lanes(result)
        try:
            for lane in lanes:
                lane.reset()
                beat()
            while any(lane.live for lane in lanes):
                seen = jax.device_put(_stack(lanes, self._width), device)
                action, memory, plan = _policy(self._agent, fixed, memory, plan, seen)
                actions = np.asarray(jax.device_get(action))
                for lane, chosen in zip(lanes, actions.reshape(len(lanes), *actions.shape[2:]), strict=True):
                    if lane.live:
                        lane.step(chosen)
                beat()
        except EvaluationError:
            self.close()  # what an environment does after it failed is not known: the next run makes new ones
            raise
        return result

    def close(self) -> None:
        """Close the environments; a further run makes new ones."""
        for env in self._envs:
            with contextlib.suppress(Exception):  # foreign code, which is not needed any more
                env.close()
        self._envs.clear()

    def _empty(self, seeds: int) -> Evaluation:
        shape = (seeds, self._episodes)
        return Evaluation(np.zeros(shape, np.float64), np.zeros(shape, np.int64))

    def _lanes(self, result: Evaluation) -> list[_Lane]:
        """Lanes of all seeds, those of a seed side by side; a seed's lanes share out its episodes as they get free."""
        seeds = len(result.returns)
        while len(self._envs) < seeds * self._width:
            self._envs.append(self._make_env())
        queues = [iter(range(self._episodes)) for _ in range(seeds)]
        pairs = ((member, env) for env, member in zip(self._envs, np.repeat(range(seeds), self._width), strict=False))
        return [_Lane(env, int(member), queues[member], self._seed, self._longest, result) for member, env in pairs]


class _Lane:
    """One environment, and where it stands in the episode that it plays. Idle (not live) once there is none left."""

    def __init__(
        self, env: gymnasium.Env, member: int, queue: Iterator[int], seed: int, longest: float, result: Evaluation
    ):
        self._env, self._member, self._queue, self._seed, self._result = env, member, queue, seed, result
        self._longest = longest
        self.live, self.episode, self.t, self.reward = True, 0, 0, 0.0
        self.obs: np.ndarray | None = None  # [O] float32

    def reset(self) -> None:
        """Start the next episode, or fall idle, which the policy sees as t = -1."""
        episode = next(self._queue, None)
        if episode is None:
            self.live, self.t = False, -1
            return
        self.episode, self.t, self.reward = episode, 0, 0.0
        obs, _ = self._call(self._env.reset, seed=self._seed + episode)
        self._perceive(obs, 0.0)

    def step(self, action: np.ndarray) -> None:
        """Take one action; at the end of the episode, go on to the next one."""
        if not np.isfinite(action).all():
            raise self._error(f"the policy's action is {action.tolist()}")
        space = self._env.action_space
        action = int(action) if isinstance(space, gymnasium.spaces.Discrete) else action.reshape(space.shape)
        obs, reward, terminated, truncated, _ = self._call(self._env.step, action)
        self.t += 1
        self._perceive(obs, float(reward))
        self._result.returns[self._member, self.episode] += self.reward
        if terminated or truncated:
            self._result.lengths[self._member, self.episode] = self.t
            self.reset()
        elif self.t >= self._longest:
            raise self._error("the episode does not end; give the environment a time limit")

    def _perceive(self, obs: Any, reward: float) -> None:
        self.obs = np.asarray(gymnasium.spaces.flatten(self._env.observation_space, obs), np.float32)
        self.reward = reward
        if not np.isfinite(self.obs).all():
            raise self._error(f"observation element {int(np.argmin(np.isfinite(self.obs)))} is not finite")
        if not np.isfinite(reward):
            raise self._error(f"the reward is {reward}")

    def _call(self, method: Callable, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Exception as error:  # an environment is foreign code, which may raise anything
            text = f"{type(error).__name__}: {one_line(error)}"
            raise self._error(f"the environment's {method.__name__} raised {text}") from error

    def _error(self, problem: str) -> EvaluationError:
        where = f"seed {self._member}, episode {self.episode} (reset with seed {self._seed + self.episode})"
        return EvaluationError(f"evaluation of {where}, step {self.t}: {problem}")


class _Seen(NamedTuple):
    """What the environments show, one array for each field."""

    obs: Array  # [S, E, O] raw
    reward: Array  # [S, E] raw
    t: Array  # [S, E], -1 for an idle lane
    episode: Array  # [S, E]


class _Fixed(NamedTuple):
    """What stays the same during an evaluation."""

    normaliser: Normaliser
    seed: Array  # [] of the agents' keys
    state: State  # [S, ...]
    begun: Memory  # [S, E, ...], of a new episode


def _stack(lanes: Sequence[_Lane], width: int) -> _Seen:
    shape = (len(lanes) // width, width)
    return _Seen(
        obs=np.stack([lane.obs for lane in lanes]).reshape(*shape, -1),
        reward=np.array([lane.reward for lane in lanes], np.float32).reshape(shape),
        t=np.array([lane.t for lane in lanes], np.int32).reshape(shape),
        episode=np.array([lane.episode for lane in lanes], np.int32).reshape(shape),
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _begin(agent: Agent, width: int, state: State, goal: Any) -> tuple[Memory, Array]:
    """The memory of a new episode [S, E, ...] and an empty plan [S, E, H, A]."""

    def begin(state: State) -> tuple[Memory, Array]:
        memory = agent.begin(state, goal)
        plan = jax.eval_shape(functools.partial(agent.act, greedy=True), state, memory, jax.random.key(0))[0]
        return memory, jnp.zeros(plan.shape, plan.dtype)

    def widen(leaf: Array) -> Array:
        # naming the dtype makes it a strong one, which the memory of later steps has too
        return jnp.array(jnp.repeat(jnp.expand_dims(leaf, 1), width, 1), leaf.dtype)

    return jax.tree.map(widen, jax.vmap(begin)(state))


@functools.partial(jax.jit, static_argnums=0)
def _policy(agent: Agent, fixed: _Fixed, memory: Memory, plan: Array, seen: _Seen) -> tuple[Array, Memory, Array]:
    """One step of every lane: observe, plan anew where the last plan is used up, and take the plan's next action.

    Returns the actions in the environment's units [S, E, A] (or [S, E]), the memory and the plan.
    """
    normaliser, horizon = fixed.normaliser, plan.shape[2]

    def observe(begun: Memory, memory: Memory, seen: _Seen) -> Memory:
        start = seen.t == 0
        reward = jnp.where(start, 0.0, normaliser.reward(seen.reward))
        return agent.observe(_where(start, begun, memory), Percept(normaliser.obs(seen.obs), reward, seen.t))

    def act(state: State, memory: Memory, plan: Array, seen: _Seen) -> tuple[Array, Memory]:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(fixed.seed), seen.episode), seen.t)
        return _where(seen.t % horizon == 0, agent.act(state, memory, key, greedy=True), (plan, memory))

    def keep(state: State, memory: Memory, plan: Array, seen: _Seen) -> tuple[Array, Memory]:
        return plan, memory

    memory = jax.vmap(jax.vmap(observe))(fixed.begun, memory, seen)
    act_all = jax.vmap(jax.vmap(act, (None, 0, 0, 0)))
    due = (seen.t % horizon == 0).any()
    plan, memory = jax.lax.cond(due, act_all, keep, fixed.state, memory, plan, seen)
    action = jax.vmap(jax.vmap(lambda plan, t: normaliser.env_action(plan[t % horizon])))(plan, seen.t)
    return action, memory, plan


def _where(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
