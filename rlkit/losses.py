"""Losses and weights that several methods share. Unless one says so it is elementwise, and the agents take the mean."""

from __future__ import annotations

import jax.numpy as jnp

from rlkit.types import Array


def expectile(error: Array, level: float) -> Array:
    """|level - 1(error < 0)| error^2 (Kostrikov et al. 2021, eq. 2), for error = sample - estimate.

    What minimises its mean is the ``level`` expectile of the samples: 0.5 their mean, towards 1 their largest.
    """
    return jnp.where(error < 0, 1 - level, level) * error**2


def masked_mean(values: Array, mask: Array) -> Array:
    """Mean of ``values`` over the cells in which ``mask``, of the same shape, is true; 0 where there is none."""
    return jnp.where(mask, values, 0).sum() / jnp.maximum(mask.sum(), 1)


def advantage_weight(advantage: Array, beta: float, limit: float) -> Array:
    """min(exp(beta advantage), limit), the weight of a recorded action in advantage-weighted regression."""
    return jnp.minimum(jnp.exp(beta * advantage), limit)


def normal_kl(mean: Array, log_std: Array, other_mean: Array, other_log_std: Array) -> Array:
    """KL divergence of N(mean, std) from N(other_mean, other_std), elementwise."""
    ratio = jnp.exp(2 * (log_std - other_log_std))
    distance = ((mean - other_mean) * jnp.exp(-other_log_std)) ** 2
    return other_log_std - log_std + 0.5 * (ratio + distance - 1)


def critic_error(q: Array, target: Array) -> Array:
    """sum_i mean (Q_i - y)^2, the squared error of an ensemble's values q [N, B] against one target y [B]."""
    error = q - target[None]
    return (error**2).mean(1).sum(0)
