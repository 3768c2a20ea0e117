"""Gaussian policies: squashed by tanh, as SAC has them, and plain ones."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlkit.networks.mlp import fan_in_uniform, uniform
from rlkit.types import Array, Key

# Recorded actions often lie exactly on a bound, where the squashed density is infinite. This is the one place where
# they are pulled inside.
ACTION_LIMIT = 1 - 1e-6


LOG_STD_MIN = -5.0
LOG_STD_MAX = 2.0


class GaussianPolicy(nn.Module):
    """[..., O] -> mean and log standard deviation, [..., A] each, of the Gaussian (under the tanh, if there is one).

    Two linear heads on a ReLU body (EDAC's initialisation, see MLP); the log standard deviation is clipped. Without
    ``std_head`` it is a parameter that starts at 0, the same for every observation.
    """

    widths: tuple[int, ...]
    actions: int
    log_std_min: float = LOG_STD_MIN
    log_std_max: float = LOG_STD_MAX
    std_head: bool = True

    @nn.compact
    def __call__(self, obs: Array) -> tuple[Array, Array]:
        x = obs
        for width in self.widths:
            kernel, bias = fan_in_uniform(x.shape[-1]), nn.initializers.constant(0.1)
            x = nn.relu(nn.Dense(width, kernel_init=kernel, bias_init=bias)(x))
        outputs = 2 * self.actions if self.std_head else self.actions
        mean = nn.Dense(outputs, kernel_init=uniform(1e-3), bias_init=uniform(1e-3))(x)
        if self.std_head:
            mean, log_std = jnp.split(mean, 2, axis=-1)
        else:
            log_std = jnp.broadcast_to(self.param("log_std", nn.initializers.zeros, (self.actions,)), mean.shape)
        return mean, jnp.clip(log_std, self.log_std_min, self.log_std_max)


def tanh_normal_sample(mean: Array, log_std: Array, key: Key) -> tuple[Array, Array]:
    """A reparameterised action [B, A] = tanh(u), u ~ N(mean, std), and its log-density [B]."""
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    u = mean + jnp.exp(log_std) * noise
    return jnp.tanh(u), _log_density(noise, log_std, u)


def tanh_normal_log_prob(mean: Array, log_std: Array, action: Array) -> Array:
    """Log-density [B] of recorded actions [B, A], clamped to +-(1 - 1e-6)."""
    u = jnp.arctanh(jnp.clip(action, -ACTION_LIMIT, ACTION_LIMIT))
    return _log_density((u - mean) * jnp.exp(-log_std), log_std, u)


def normal_sample(mean: Array, log_std: Array, key: Key) -> Array:
    """A reparameterised action [..., A] ~ N(mean, std), clipped to [-1, 1]."""
    return jnp.clip(mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype), -1, 1)


def normal_log_prob(mean: Array, log_std: Array, action: Array) -> Array:
    """Log-density [...] of actions [..., A] under N(mean, std), without regard to any bounds."""
    return _normal((action - mean) * jnp.exp(-log_std), log_std).sum(-1)


def _normal(noise: Array, log_std: Array) -> Array:
    return -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)


def _log_density(noise: Array, log_std: Array, u: Array) -> Array:
    # log(1 - tanh(u)^2), which underflows as written, is 2 (log 2 - u - softplus(-2u))
    squash = 2 * (math.log(2) - u - jax.nn.softplus(-2 * u))
    return (_normal(noise, log_std) - squash).sum(-1)
