"""Parameters with their optimiser state, one descent step, and slowly moving targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlkit.types import Array, Metrics


class Net(NamedTuple):
    """Parameters and the state of the optimiser that moves them. Target parameters are kept elsewhere: an optimiser
    must never see them."""

    params: Any
    opt: Any


def init(params: Any, optimiser: optax.GradientTransformation) -> Net:
    """A Net at step 0."""
    return Net(params, optimiser.init(params))


def descend(
    loss: Callable[[Any], tuple[Array, Metrics]], net: Net, optimiser: optax.GradientTransformation
) -> tuple[Net, Metrics]:
    """One step down the gradient of ``loss(params) -> (scalar, metrics)``."""
    return _step(*jax.grad(loss, has_aux=True)(net.params), net, optimiser)


def descend_in_chunks(
    loss: Callable[[Any, Any], tuple[Array, Metrics]],
    rows: Any,
    size: int,
    net: Net,
    optimiser: optax.GradientTransformation,
) -> tuple[Net, Metrics]:
    """The same step for ``loss(params, rows)``, a mean over ``rows`` [B, ...] like its metrics, of which ``size``, a
    divisor of B, are looked at at once: less memory, and on a CPU less traffic to it."""

    def chunks(x: Array) -> Array:  # [B / size, size, ...]; of each of the devices that share the rows, as many
        return jnp.moveaxis(x.reshape(size, -1, *x.shape[1:]), 1, 0)

    def add(total: Any, chunk: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(net.params, chunk)), None

    gradient, rows = jax.grad(loss, has_aux=True), jax.tree.map(chunks, rows)
    number = jax.tree.leaves(rows)[0].shape[0]
    shapes = jax.eval_shape(gradient, net.params, jax.tree.map(lambda x: x[0], rows))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, rows)
    return _step(*jax.tree.map(lambda x: x / number, total), net, optimiser)


def _step(grads: Any, metrics: Metrics, net: Net, optimiser: optax.GradientTransformation) -> tuple[Net, Metrics]:
    updates, opt = optimiser.update(grads, net.opt, net.params)
    return Net(optax.apply_updates(net.params, updates), opt), metrics


def polyak(target: Any, online: Any, tau: float) -> Any:
    """(1 - tau) target + tau online, leaf by leaf."""
    return jax.tree.map(lambda t, o: t + tau * (o - t), target, online)
