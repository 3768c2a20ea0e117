"""How an agent acts that has no memory of its own, and one that another agent acts for."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rlkit.types import Agent, Array, Key, Percept, Spec, State


class Reactive:
    """`begin` and `observe` of an agent that acts on the latest observation alone: that is its memory, [O]."""

    spec: Spec

    def begin(self, state: State, goal: None) -> Array:
        """Nothing seen yet."""
        return jnp.zeros(self.spec.observation.shape)

    def observe(self, memory: Array, percept: Percept) -> Array:
        """Keep the observation."""
        return percept.obs


class Delegating:
    """`begin`, `observe` and `act` of an agent that learns in its own way and acts as ``base`` does; its state has the
    base's as ``base``."""

    base: Agent

    @property
    def intrinsic_reward(self) -> float:
        """The base's, or 0 where it adds nothing to the rewards."""
        return getattr(self.base, "intrinsic_reward", 0.0)

    def begin(self, state: Any, goal: Any) -> Any:
        """The base's memory."""
        return self.base.begin(state.base, goal)

    def observe(self, memory: Any, percept: Percept) -> Any:
        """As the base does."""
        return self.base.observe(memory, percept)

    def act(self, state: Any, memory: Any, key: Key, *, greedy: bool) -> tuple[Array, Any]:
        """The base's action."""
        return self.base.act(state.base, memory, key, greedy=greedy)
