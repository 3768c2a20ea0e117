"""Features of a time or a noise level, for networks that are told it."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp

from rlkit.types import Array


def sinusoidal(t: Array, width: int, longest: float = 10_000.0) -> Array:
    """[...] -> [..., width]: sines, then cosines, of ``t`` at width / 2 frequencies from 1 down to about 1 / longest
    (Vaswani et al. 2017, section 3.5). ``t`` counts steps: scale a time in [0, 1] up before."""
    half = width // 2
    frequency = jnp.exp(-math.log(longest) * jnp.arange(half) / max(half - 1, 1))
    angle = t[..., None] * _beside(frequency, t)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


class Fourier(nn.Module):
    """[...] -> [..., width]: cosines, then sines, of 2 pi t w with learnt frequencies w, which start as N(0, 0.2^2)."""

    width: int

    @nn.compact
    def __call__(self, t: Array) -> Array:
        frequency = self.param("frequency", nn.initializers.normal(0.2), (self.width // 2,))
        angle = 2 * math.pi * t[..., None] * _beside(frequency, t)
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)


def _beside(frequency: Array, t: Array) -> Array:
    """[1, ..., 1, F], to be multiplied with ``t`` [..., 1]."""
    return frequency.reshape((1,) * t.ndim + (-1,))
