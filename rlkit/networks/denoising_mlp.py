"""Perceptrons that denoise an action: what Diffusion-QL and IDQL predict the noise with.

Both see an observation, a noised action and the number of its noise level.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlkit.networks.embeddings import Fourier, sinusoidal
from rlkit.networks.mlp import Joined, fan_in_uniform
from rlkit.types import Array

_XAVIER = nn.initializers.xavier_uniform()


class DenoisingMLP(nn.Module):
    """A Mish perceptron on observation, noised action and sinusoidal features of the level (Diffusion-QL: Wang et al.
    2023, appendix).

    Kernels and biases are fan-in uniform, PyTorch's default.
    """

    widths: tuple[int, ...]
    actions: int
    time_width: int = 16

    @nn.compact
    def __call__(self, obs: Array, action: Array, level: Array) -> Array:
        """[..., O], [..., A], [...] -> [..., A]; ``level`` counts from 0."""

        def dense(width: int, *parts: Array) -> Array:
            init = fan_in_uniform(sum(part.shape[-1] for part in parts))
            return Joined(width, init, init)(*parts)

        time = sinusoidal(level, self.time_width)
        time = jax.nn.mish(dense(2 * self.time_width, time))
        parts = (action, dense(self.time_width, time), obs)
        for width in self.widths:
            parts = (jax.nn.mish(dense(width, *parts)),)
        return dense(self.actions, *parts)


class ResidualDenoiser(nn.Module):
    """Residual blocks of dropout, LayerNorm and a perceptron four times as wide (IDQL: Hansen-Estruch et al. 2023,
    appendix), on observation, noised action and learnt Fourier features of the level."""

    width: int
    blocks: int
    actions: int
    dropout: float
    time_width: int = 64
    condition: int = 128

    @nn.compact
    def __call__(self, obs: Array, action: Array, level: Array, deterministic: bool = True) -> Array:
        """[..., O], [..., A], [...] -> [..., A]; ``level`` counts from 0. With dropout unless ``deterministic``."""
        time = Fourier(self.time_width)(level)
        time = jax.nn.mish(nn.Dense(self.condition, kernel_init=_XAVIER)(time))
        time = nn.Dense(self.condition, kernel_init=_XAVIER)(time)
        x = jnp.concatenate([action, obs, time], -1)
        x = nn.Dense(self.width, kernel_init=_XAVIER)(x)
        for _ in range(self.blocks):
            inner = nn.Dropout(self.dropout, deterministic=deterministic)(x)
            inner = nn.LayerNorm()(inner)
            inner = jax.nn.mish(nn.Dense(4 * self.width)(inner))
            x = x + nn.Dense(self.width)(inner)
        return nn.Dense(self.actions, kernel_init=_XAVIER)(jax.nn.mish(x))
