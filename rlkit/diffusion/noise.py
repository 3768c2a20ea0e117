"""How noisy data are at a time: x_t = alpha(t) x0 + sigma(t) eps, with data at t = 0 and noise at t = 1.

A `Noise` is a frozen dataclass without arrays, so that it can stand in a Config and be an argument of a jitted program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rlkit.ranges import Range
from rlkit.types import Array, InputError, Key

LARGEST_BETA = 0.999  # of the cosine schedule (Nichol & Dhariwal 2021, section 3.2), and for short linear ones


class Noise(Protocol):
    """A family of noise levels."""

    @property
    def prior_std(self) -> float:
        """Standard deviation of the noise that sampling begins with."""

    def at(self, t: Array) -> tuple[Array, Array]:
        """alpha and sigma at the times ``t`` [...], of its shape."""

    def draw(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Times to train at."""

    def grid(self, n: int) -> Array:
        """The times [n + 1] of a sampler with n steps, from noise to data."""


@dataclass(frozen=True)
class Discrete:
    """T noise levels with alpha^2 + sigma^2 = 1, at t = 1 / T, 2 / T, ..., 1.

    A sampler with fewer than T steps visits evenly spaced ones of them (DDIM, Song et al. 2021, section 4.2).
    """

    kind: Literal["linear", "cosine", "vp"] = "cosine"
    """The schedule of beta. linear: Ho et al. 2020, section 4, whose 1e-4 to 0.02 for T = 1000 are scaled by 1000 / T.
    cosine: Nichol & Dhariwal 2021, eq. 17. vp: the variance preserving SDE cut into T pieces (Xiao et al. 2022,
    appendix B), from 0.1 to 10, as Diffusion-QL and IDQL have it."""
    T: Annotated[int, Range("[1, inf)")] = 100
    """Number of noise levels."""
    prior_std = 1.0

    def betas(self) -> np.ndarray:
        """beta_1, ..., beta_T, the share of the variance that each step replaces by noise."""
        if self.kind == "linear":
            low, high = 0.1 / self.T, 20 / self.T
            return np.minimum(np.linspace(low, high, self.T), LARGEST_BETA)
        if self.kind == "cosine":
            u = (np.arange(self.T + 1) / self.T + 0.008) / 1.008
            kept = np.cos(u * math.pi / 2) ** 2
            return np.minimum(1 - kept[1:] / kept[:-1], LARGEST_BETA)
        low, high = 0.1, 10.0
        step = np.arange(1, self.T + 1)
        slope = (high - low) * (2 * step - 1) / 2
        return 1 - np.exp(-low / self.T - slope / self.T**2)

    def at(self, t: Array) -> tuple[Array, Array]:
        kept = np.cumprod(1 - self.betas())
        alpha_squared = np.concatenate([[1.0], kept])  # at steps 0, ..., T
        alphas = jnp.asarray(np.sqrt(alpha_squared), jnp.float32)
        sigmas = jnp.asarray(np.sqrt(1 - alpha_squared), jnp.float32)
        step = jnp.round(t * self.T).astype(jnp.int32)
        return alphas[step], sigmas[step]

    def draw(self, key: Key, shape: tuple[int, ...]) -> Array:
        return jax.random.randint(key, shape, 1, self.T + 1) / self.T

    def grid(self, n: int) -> Array:
        if not 1 <= n <= self.T:
            raise InputError(f"{n} sampling steps over {self.T} noise levels: ask for 1 to {self.T} steps")
        steps = np.round(np.linspace(self.T, 0, n + 1))
        return jnp.asarray(steps / self.T, jnp.float32)


@dataclass(frozen=True)
class LinearVP:
    """The variance preserving SDE with beta from 0.1 to 20, linear in t (Song et al. 2021, "Score-based", appendix B).

    Times are 0.001 to 1: there is nothing to learn below, where sigma is 0.01.
    """

    prior_std = 1.0
    low = 0.1
    high = 20.0
    least_t = 1e-3

    def at(self, t: Array) -> tuple[Array, Array]:
        log_alpha = -(self.high - self.low) * t**2 / 4 - self.low * t / 2
        return jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2 * log_alpha))

    def draw(self, key: Key, shape: tuple[int, ...]) -> Array:
        return jax.random.uniform(key, shape, minval=self.least_t)

    def grid(self, n: int) -> Array:
        return jnp.linspace(1.0, self.least_t, n + 1)


@dataclass(frozen=True)
class Karras:
    """Noise added to data that keep their scale (EDM, Karras et al. 2022, table 1): alpha = 1, sigma = high t^rho.

    In this time EDM's grid is evenly spaced, and a network can be told the time itself.
    """

    low: Annotated[float, Range("(0, inf)")] = 0.002
    """Last noise level of the grid before 0."""
    high: Annotated[float, Range("(0, inf)")] = 80.0
    """Noise level at which sampling begins."""
    rho: Annotated[float, Range("(0, inf)")] = 7.0
    """How much the grid crowds near the data."""
    log_mean: float = -1.2
    """Mean of ln sigma in training."""
    log_std: Annotated[float, Range("[0, inf)")] = 1.2
    """Standard deviation of ln sigma in training."""

    @property
    def prior_std(self) -> float:
        return self.high

    def time(self, sigma: Array) -> Array:
        """The time at which the noise level is ``sigma``."""
        return (sigma / self.high) ** (1 / self.rho)

    def at(self, t: Array) -> tuple[Array, Array]:
        return jnp.ones_like(t), self.high * t**self.rho

    def draw(self, key: Key, shape: tuple[int, ...]) -> Array:
        log_sigma = self.log_mean + self.log_std * jax.random.normal(key, shape)
        return self.time(jnp.clip(jnp.exp(log_sigma), self.low, self.high))

    def grid(self, n: int) -> Array:
        least = (self.low / self.high) ** (1 / self.rho)
        return jnp.concatenate([jnp.linspace(1.0, least, n), jnp.zeros(1)])


@dataclass(frozen=True)
class Straight:
    """The straight line between data and noise, alpha = 1 - t and sigma = t (rectified flow, Liu et al. 2023)."""

    prior_std = 1.0

    def at(self, t: Array) -> tuple[Array, Array]:
        return 1 - t, t

    def draw(self, key: Key, shape: tuple[int, ...]) -> Array:
        return jax.random.uniform(key, shape)

    def grid(self, n: int) -> Array:
        return jnp.linspace(1.0, 0.0, n + 1)


def spread(value: Array, like: Array) -> Array:
    """``value`` [B], or a scalar, with axes of length 1 added behind to multiply ``like`` [B, ...]."""
    value = jnp.asarray(value)
    if value.ndim == 0:
        return value
    missing = like.ndim - value.ndim
    return value.reshape(value.shape + (1,) * missing)


def noised(noise: Noise, x0: Array, eps: Array, t: Array) -> Array:
    """x_t [B, ...] of the data ``x0`` [B, ...], the noise ``eps`` [B, ...] and the times ``t`` [B]."""
    alpha, sigma = noise.at(t)
    return spread(alpha, x0) * x0 + spread(sigma, x0) * eps
