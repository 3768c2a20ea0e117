"""What a denoising network predicts, and the data that its prediction stands for.

With x_t = alpha x0 + sigma eps, a network predicts one of KINDS:

- noise: eps (Ho et al. 2020);
- sample: x0;
- velocity: alpha eps - sigma x0 (Salimans & Ho 2022);
- flow: eps - x0 (Lipman et al. 2023, Liu et al. 2023);
- edm: (x0 - c_skip x_t) / c_out, from c_in x_t (Karras et al. 2022, section 5);
- uedm: x0 - c_skip x_t, from c_in x_t (Sun et al. 2025), for networks that are not told the time.

A network is a function ``net(x, t) -> out`` here; conditions and parameters are bound by the caller. x, x0, eps and out
are [B, ...], t is [B].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp

from rlkit.diffusion.noise import Noise, noised, spread
from rlkit.types import Array

Kind = Literal["noise", "sample", "velocity", "flow", "edm", "uedm"]
KINDS = ("noise", "sample", "velocity", "flow", "edm", "uedm")
Told = Literal["embed", "none"]
TOLD = ("embed", "none")
Net = Callable[[Array, Array], Array]
Denoise = Callable[[Array, Array], Array]

DATA_STD = 0.5  # the data's standard deviation that edm and uedm reckon with (Karras et al. 2022, table 1)
LEAST_ALPHA = 1e-6  # where nothing is left of the data, noise prediction says nothing of them


def _edm(noise: Noise, t: Array, like: Array) -> tuple[Array, Array, Array]:
    """c_in, c_skip and c_out (Karras et al. 2022, table 1), for any alpha: theirs is 1."""
    alpha, sigma = noise.at(t)
    alpha, sigma = spread(alpha, like), spread(sigma, like)
    data_variance = DATA_STD**2
    variance = alpha**2 * data_variance + sigma**2
    c_in = variance**-0.5
    c_skip = alpha * data_variance / variance
    c_out = sigma * DATA_STD * c_in
    return c_in, c_skip, c_out


def net_input(kind: Kind, noise: Noise, x: Array, t: Array) -> Array:
    """What the network reads of ``x``: c_in x for edm and uedm, and x itself for the others."""
    if kind in ("edm", "uedm"):
        c_in, _, _ = _edm(noise, t, x)
        return c_in * x
    return x


def told(rule: Told, t: Array) -> Array:
    """The time that the network reads: ``t`` ("embed"), or always 0 ("none": a network without noise conditioning).

    Such a network reads the noise level off x, so x must not be normalised before it. In few dimensions the level
    cannot be seen in x: the spread of t given x is about t / sqrt(2 d) in d dimensions (Sun et al. 2025).
    """
    return t if rule == "embed" else jnp.zeros_like(t)


def target(kind: Kind, noise: Noise, x0: Array, eps: Array, t: Array) -> Array:
    """What the network should put out for ``x0`` noised by ``eps``."""
    alpha, sigma = noise.at(t)
    alpha, sigma = spread(alpha, x0), spread(sigma, x0)
    if kind == "noise":
        return eps
    if kind == "sample":
        return x0
    if kind == "velocity":
        return alpha * eps - sigma * x0
    if kind == "flow":
        return eps - x0
    _, c_skip, c_out = _edm(noise, t, x0)
    residual = x0 - c_skip * (alpha * x0 + sigma * eps)
    return residual / c_out if kind == "edm" else residual


def weight(kind: Kind, noise: Noise, t: Array, *, flat: bool = True) -> Array:
    """Weight [B] of the squared error against `target`.

    It is 1: for the first four as in their papers, and EDM's (sigma^2 + s^2) / (sigma s)^2 is 1 in units of the target.
    For uedm the source leaves open whether it is 1 or, with ``flat`` off, EDM's number.
    """
    if flat or kind != "uedm":
        return jnp.ones_like(t)
    _, _, c_out = _edm(noise, t, t)
    return c_out**-2


def denoised(kind: Kind, noise: Noise, out: Array, x: Array, t: Array) -> Array:
    """The data x0 that the network's ``out`` stands for, given its ``x`` at ``t``."""
    alpha, sigma = noise.at(t)
    alpha, sigma = spread(alpha, x), spread(sigma, x)
    if kind == "noise":
        return (x - sigma * out) / jnp.maximum(alpha, LEAST_ALPHA)
    if kind == "sample":
        return out
    if kind == "velocity":
        return (alpha * x - sigma * out) / (alpha**2 + sigma**2)
    if kind == "flow":
        return (x - sigma * out) / (alpha + sigma)
    _, c_skip, c_out = _edm(noise, t, x)
    return c_skip * x + (c_out * out if kind == "edm" else out)


def denoiser(kind: Kind, noise: Noise, net: Net, rule: Told = "embed") -> Denoise:
    """The `Denoise` (x, t) -> x0 of a network, for samplers and guidance."""

    def denoise(x: Array, t: Array) -> Array:
        out = net(net_input(kind, noise, x, t), told(rule, t))
        return denoised(kind, noise, out, x, t)

    return denoise


def denoising_error(kind: Kind, noise: Noise, net: Net, x0: Array, eps: Array, t: Array, rule: Told = "embed") -> Array:
    """weight (net(x_t) - target)^2, [B, ...]: its mean is the training loss of every kind."""
    x = noised(noise, x0, eps, t)
    out = net(net_input(kind, noise, x, t), told(rule, t))
    error = out - target(kind, noise, x0, eps, t)
    return spread(weight(kind, noise, t), x0) * error**2
