"""Guidance: a strong denoiser's estimate is moved away from a weak one's.

All of it has one scale: strong + (scale - 1) (strong - weak). At 1 it is the strong denoiser bit for bit, at 0 the weak
one, above 1 it goes beyond the strong one. Papers that write (1 + w) strong - w weak have scale = 1 + w. Since the
weights sum to 1, it is the same for estimates of the data, of the noise and of the velocity. Here all are of the data.

What the two denoisers are makes the method:

- classifier-free guidance: with the condition, and without (Ho & Salimans 2022): `classifier_free`, in one call;
- autoguidance: the network, and a smaller or less trained one, for the same condition (Karras et al. 2024);
- unconditional priors: a fine-tuned network with the condition, and the one that it was tuned from without
  (Phunyaphibarn et al. 2025, "Unconditional Priors Matter");
- negative preferences: a network of what is wanted, and one of what is not, the latter without condition
  ("Diffusion-NPO", 2025); in its simplest form one network with a high and with a low return for condition.

These are `guided`; both denoisers need the same noise levels and the same scaling of the data. Conditions, times and
steps that are perturbed are below, each with its source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from rlkit.diffusion.noise import Noise, spread
from rlkit.diffusion.prediction import Denoise
from rlkit.diffusion.samplers import Correct, Redrawn
from rlkit.types import Array, Key

Scale = float | Array | Callable[[Array], Array]
"""A number, one for each of B samples, or a function from the times [B] to such."""
Conditional = Callable[[Array, Array, Array], Array]
"""(x [B, ...], t [B], condition [B, ...]) -> x0 [B, ...]"""

NEAR_NOISE = 1e-3  # alpha below which two estimates of the noise are too alike for the angle between them to be seen


def beyond(strong: Array, weak: Array, scale: Scale, t: Array) -> Array:
    """strong + (scale - 1) (strong - weak), for estimates [B, ...] at the times t [B]."""
    factor = scale(t) if callable(scale) else jnp.asarray(scale)
    return strong + (spread(factor, strong) - 1) * (strong - weak)


def guided(strong: Denoise, weak: Denoise, scale: Scale) -> Denoise:
    """``strong`` moved away from ``weak``: the module's text says which methods this is."""

    def denoise(x: Array, t: Array) -> Array:
        return beyond(strong(x, t), weak(x, t), scale, t)

    return denoise


def classifier_free(denoise: Conditional, condition: Array, null: Array, scale: Scale) -> Denoise:
    """Classifier-free guidance with one call of 2 B rows (Ho & Salimans 2022, eq. 6, where w is scale - 1).

    ``condition`` and ``null``, the one that stands for no condition, are [B, ...].
    """

    def both(x: Array, t: Array) -> Array:
        rows = jnp.concatenate([x, x])
        conditions = jnp.concatenate([condition, null])
        x0 = denoise(rows, jnp.concatenate([t, t]), conditions)
        strong, weak = jnp.split(x0, 2)
        return beyond(strong, weak, scale, t)

    return both


def composed(null: Denoise, parts: Sequence[Denoise], weights: Sequence[float]) -> Denoise:
    """null + sum_i weight_i (part_i - null) (Ajay et al. 2023, "Decision Diffuser", eq. 9).

    A condition with a negative weight is avoided (appendix J there). With one part it is `guided`.
    """

    def denoise(x: Array, t: Array) -> Array:
        without = null(x, t)
        moves = [weight * (part(x, t) - without) for part, weight in zip(parts, weights, strict=True)]
        return without + sum(moves)

    return denoise


def interval(scale: float, low: float, high: float) -> Scale:
    """``scale`` at the times from ``low`` to ``high``, and 1, no guidance, at others (Kynkäänniemi et al. 2024).

    Where guidance at all noise levels would leave one mode of several, this keeps more of them.
    """
    return lambda t: jnp.where((t >= low) & (t <= high), scale, 1.0)


def tangential(strong: Array, weak: Array) -> Array:
    """``weak`` [B, ...] projected on the direction that it has most in common with ``strong`` (arXiv 2503.18137).

    The direction is the first right singular vector of the two rows, found by the 2 x 2 matrix of their inner products.
    Where they are orthogonal and equally long, and there is no first one, it is that of ``strong``.
    """
    shape = weak.shape
    strong, weak = (value.reshape(len(value), -1) for value in (strong, weak))
    across = (strong * weak).sum(1)
    longer = (strong**2).sum(1) - (weak**2).sum(1)
    angle = jnp.arctan2(2 * across, longer) / 2  # of the matrix's first eigenvector
    direction = jnp.cos(angle)[:, None] * strong + jnp.sin(angle)[:, None] * weak
    squared = (direction**2).sum(1, keepdims=True)
    share = (weak * direction).sum(1, keepdims=True) / jnp.maximum(squared, 1e-20)
    return (share * direction).reshape(shape)


def tcfg(strong: Denoise, weak: Denoise, scale: Scale, noise: Noise) -> Denoise:
    """`guided`, with the weak estimate of the noise made `tangential` to the strong one (TCFG, arXiv 2503.18137).

    The projection is of each sample as a whole. With few dimensions it takes much of the weak estimate away.
    """

    def denoise(x: Array, t: Array) -> Array:
        alpha, sigma = noise.at(t)
        seen = spread(alpha > NEAR_NOISE, x)
        alpha = jnp.where(seen, spread(alpha, x), 1.0)
        sigma = spread(sigma, x)
        strong_x0, weak_x0 = strong(x, t), weak(x, t)
        strong_eps = (x - alpha * strong_x0) / sigma
        weak_eps = (x - alpha * weak_x0) / sigma
        projected = (x - sigma * tangential(strong_eps, weak_eps)) / alpha
        return beyond(strong_x0, jnp.where(seen, projected, weak_x0), scale, t)

    return denoise


def cads(
    key: Key, condition: Array, t: Array, low: float = 0.6, high: float = 0.9, noise: float = 0.25, psi: float = 1.0
) -> Array:
    """``condition`` [B, D] made noisy at early times, for samples that differ more (CADS, Sadat et al. 2024).

    Args:
        t: [B]; the condition is as given up to the time ``low`` and nothing but noise from ``high`` on.
        noise: standard deviation of the noise.
        psi: in [0, 1], how far mean and standard deviation over D are brought back to those of the condition.

    Use it in a `Redrawn`, and on an embedding where the condition is one number:

        Redrawn(lambda key: guided(lambda x, t: net(x, t, cads(key, y, t)), null, 2.0))

    Which times decide about a sample depends on the schedule: on EDM's grid they are later than on the paper's.
    """
    kept = jnp.clip((high - t) / (high - low), 0.0, 1.0)[:, None]
    drawn = noise * jax.random.normal(key, condition.shape)
    noisy = jnp.sqrt(kept) * condition + jnp.sqrt(1 - kept) * drawn
    centred = noisy - noisy.mean(1, keepdims=True)
    ratio = condition.std(1, keepdims=True) / jnp.maximum(noisy.std(1, keepdims=True), 1e-6)
    rescaled = centred * ratio + condition.mean(1, keepdims=True)
    return jnp.where(kept == 1, condition, psi * rescaled + (1 - psi) * noisy)


def icg(denoise: Conditional, condition: Array, draw: Callable[[Key], Array], scale: Scale) -> Redrawn:
    """Guidance away from a random condition (ICG, Sadat et al. 2025), for networks that know no null condition.

    ``draw`` gives conditions like ``condition`` [B, ...], anew at each step: random ones of the data, or Gaussian ones.
    Where conditions select modes that do not overlap, it goes beyond the data.
    """

    def drawn(key: Key) -> Denoise:
        return classifier_free(denoise, condition, draw(key), scale)

    return Redrawn(drawn)


def tsg(
    denoise: Conditional,
    width: int,
    scale: Scale,
    noise: float = 1.0,
    power: float = 1.0,
    low: float = 0.0,
    high: float = 1.0,
) -> Redrawn:
    """Guidance away from the same network with a noisy time (TSG, Sadat et al. 2025), which needs no condition.

    ``denoise(x, t, shift)`` adds ``shift`` [B, width] to its embedding of the time. The shift is noise t^power times a
    normal number, from the time ``low`` to ``high``, and 0 elsewhere.
    """

    def drawn(key: Key) -> Denoise:
        def guided_by_time(x: Array, t: Array) -> Array:
            inside = (t >= low) & (t <= high)
            size = jnp.where(inside, noise * t**power, 0.0)
            shift = size[:, None] * jax.random.normal(key, (len(x), width))
            return classifier_free(denoise, jnp.zeros_like(shift), shift, scale)(x, t)

        return guided_by_time

    return Redrawn(drawn)


def energy(cost: Callable[[Array], Array], denoise: Denoise, rho: Callable[[Array], Array]) -> Correct:
    """A ``correct`` that lowers ``cost(x0)`` -> [B]: x - rho(t) dcost / dx_t after each step (FreeDoM, Yu et al. 2023).

    The gradient goes through the denoiser. With a constant ``rho`` this optimises: samples gather where the cost is
    least, narrower than the density exp(-cost) would have them. Gradients promise nothing: check the samples.
    """

    def correct(after: Array, before: Array, x0: Array, t: Array) -> Array:
        slope = jax.grad(lambda x: cost(denoise(x, t)).sum())(before)
        return after - spread(rho(t), after) * slope

    return correct
