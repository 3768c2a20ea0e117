"""Acting for agents that need no code of their own for it: without memory, or as another agent does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from rlkit.types import Agent, Array, Key, Percept, Spec, State


def first_goal(agent: Agent) -> Any:
    """The goal of ``agent`` where the caller names none."""
    return next(iter(agent.goals.values()))


def collecting_goal(agent: Agent) -> Any:
    """The goal that ``agent`` is asked for while it collects: its property ``collecting_goal``, if it has one, else the
    goal that is its score."""
    if hasattr(agent, "collecting_goal"):
        return agent.collecting_goal
    return first_goal(agent)


def push(window: Array, value: Array, t: Array) -> Array:
    """``window`` [K, ...] of an episode's last K steps, the oldest first, with ``value`` [...] of step ``t`` added."""
    length = window.shape[0]
    moved = jnp.where(t < length, window, jnp.roll(window, -1, 0))
    return moved.at[jnp.minimum(t, length - 1)].set(value)


def slide(window: Array, value: Array, t: Array) -> Array:
    """``window`` [K, ...] of the last K values, the newest last, with ``value`` [...] of step ``t`` added. What is
    missing before an episode's first value is that value."""
    moved = jnp.roll(window, -1, 0).at[-1].set(value)
    return jnp.where(t == 0, jnp.broadcast_to(value[None], window.shape), moved)


class Reactive:
    """`begin` and `observe` of an agent that acts on the latest observation alone, which is its memory, [O]."""

    spec: Spec

    @property
    def goals(self) -> Mapping[str, Any]:
        return {"": None}

    def begin(self, state: State, goal: None) -> Array:
        return jnp.zeros(self.spec.observation.shape)

    def observe(self, state: State, memory: Array, percept: Percept) -> Array:
        return percept.obs


class AgentWrapper:
    """`begin`, `observe` and `act` of an agent that learns in its own way and acts as ``base`` does.

    Its state holds the base's state in the field ``base``."""

    base: Agent

    @property
    def goals(self) -> Mapping[str, Any]:
        return self.base.goals

    @property
    def intrinsic_reward(self) -> float:
        """The base's, or 0 where it adds nothing to the rewards."""
        return getattr(self.base, "intrinsic_reward", 0.0)

    def begin(self, state: Any, goal: Any) -> Any:
        return self.base.begin(state.base, goal)

    def observe(self, state: Any, memory: Any, percept: Percept) -> Any:
        return self.base.observe(state.base, memory, percept)

    def act(self, state: Any, memory: Any, key: Key, *, greedy: bool) -> tuple[Array, Any]:
        return self.base.act(state.base, memory, key, greedy=greedy)


def unwrapped(agent: Any, state: Any) -> tuple[Any, Any]:
    """The agent that acts where ``agent`` wraps another one, and its part of ``state``."""
    while isinstance(agent, AgentWrapper):
        agent = agent.base
        state = state.base
    return agent, state


def is_reactive(agent: Agent) -> bool:
    """Whether ``agent`` acts on the latest observation alone."""
    while isinstance(agent, AgentWrapper):
        agent = agent.base
    return isinstance(agent, Reactive) and type(agent).observe is Reactive.observe
