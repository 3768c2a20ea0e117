"""How an agent without memory of its own sees an episode."""

from __future__ import annotations

import jax.numpy as jnp

from rlkit.types import Array, Percept, Spec, State


class Reactive:
    """`begin` and `observe` of an agent that acts on the latest observation alone: that is its memory, [O]."""

    spec: Spec

    def begin(self, state: State, goal: None) -> Array:
        """Nothing seen yet."""
        return jnp.zeros(self.spec.observation.shape)

    def observe(self, memory: Array, percept: Percept) -> Array:
        """Keep the observation."""
        return percept.obs
