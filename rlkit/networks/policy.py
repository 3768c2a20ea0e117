"""Gaussian policies: squashed by tanh, as SAC has them, and without."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlkit.networks.layers import Dense, LayerNorm, Layers, Relu, dense
from rlkit.networks.mlp import XAVIER, fan_in_uniform, uniform
from rlkit.types import Array, Key

# Recorded actions often lie exactly on a bound, where the squashed density is infinite. They are moved inside here.
ACTION_LIMIT = 1 - 1e-6

LOG_STD_MIN = -5.0
LOG_STD_MAX = 2.0


class GaussianPolicy(nn.Module):
    """[..., O] -> mean and log standard deviation, [..., A] each, of the Gaussian (under the tanh, if there is one).

    Two linear heads on a ReLU body (EDAC's initialisation, see MLP); the log standard deviation is clipped. Without
    ``std_head`` it is a parameter that starts at 0, the same for every observation. ``xavier`` is as in MLP.
    """

    widths: tuple[int, ...]
    actions: int
    log_std_min: float = LOG_STD_MIN
    log_std_max: float = LOG_STD_MAX
    std_head: bool = True
    xavier: bool = False

    @nn.compact
    def __call__(self, obs: Array) -> tuple[Array, Array]:
        x = obs
        for width in self.widths:
            usual = (fan_in_uniform(x.shape[-1]), nn.initializers.constant(0.1))
            kernel, bias = XAVIER if self.xavier else usual
            layer = nn.Dense(width, kernel_init=kernel, bias_init=bias)
            x = nn.relu(layer(x))
        small = uniform(1e-3)
        kernel, bias = XAVIER if self.xavier else (small, small)
        if self.std_head:
            heads = nn.Dense(2 * self.actions, kernel_init=kernel, bias_init=bias)
            output = heads(x)
            mean, log_std = jnp.split(output, 2, axis=-1)
        else:
            head = nn.Dense(self.actions, kernel_init=kernel, bias_init=bias)
            mean = head(x)
            log_std = self.param("log_std", nn.initializers.zeros, (self.actions,))
            log_std = jnp.broadcast_to(log_std, mean.shape)
        log_std = jnp.clip(log_std, self.log_std_min, self.log_std_max)
        return mean, log_std

    def layers(self, params: Any) -> Layers:
        """The layers of the mean with ``params``, those of `init`."""
        arrays = params["params"]
        found: list[Dense | LayerNorm | Relu] = []
        for i in range(len(self.widths)):
            found += [dense(arrays[f"Dense_{i}"]), Relu()]
        last = dense(arrays[f"Dense_{len(self.widths)}"])
        kernel = last.kernel[:, : self.actions]  # the rest of the columns are the standard deviation's
        found.append(Dense(kernel, last.bias[: self.actions]))
        return tuple(found)


def tanh_normal_sample(mean: Array, log_std: Array, key: Key) -> tuple[Array, Array]:
    """A reparameterised action [B, A] = tanh(u), u ~ N(mean, std), and its log-density [B]."""
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    std = jnp.exp(log_std)
    u = mean + std * noise
    action = jnp.tanh(u)
    log_density = _squashed_log_density(noise, log_std, u)
    return action, log_density


def tanh_normal_log_prob(mean: Array, log_std: Array, action: Array) -> Array:
    """Log-density [B] of recorded actions [B, A], clamped to +-(1 - 1e-6)."""
    clamped = jnp.clip(action, -ACTION_LIMIT, ACTION_LIMIT)
    u = jnp.arctanh(clamped)
    distance = u - mean
    noise = distance * jnp.exp(-log_std)
    return _squashed_log_density(noise, log_std, u)


def normal_sample(mean: Array, log_std: Array, key: Key) -> Array:
    """A reparameterised action [..., A] ~ N(mean, std), clipped to [-1, 1]."""
    std = jnp.exp(log_std)
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    action = mean + std * noise
    return jnp.clip(action, -1, 1)


def normal_log_prob(mean: Array, log_std: Array, action: Array) -> Array:
    """Log-density [...] of actions [..., A] under N(mean, std), without regard to any bounds."""
    distance = action - mean
    noise = distance * jnp.exp(-log_std)
    return _log_density(noise, log_std).sum(-1)


def _log_density(noise: Array, log_std: Array) -> Array:
    """log N(mean + std noise; mean, std) of each element."""
    constant = 0.5 * math.log(2 * math.pi)
    return -0.5 * noise**2 - log_std - constant


def _squashed_log_density(noise: Array, log_std: Array, u: Array) -> Array:
    """Log-density [...] of tanh(u), u = mean + std noise."""
    # log(1 - tanh(u)^2), which underflows as written, is 2 (log 2 - u - softplus(-2u))
    difference = math.log(2) - u
    log_derivative = 2 * (difference - jax.nn.softplus(-2 * u))
    log_density = _log_density(noise, log_std) - log_derivative
    return log_density.sum(-1)
