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
    """One step down the gradient of ``loss``.

    Args:
        loss: params -> (scalar, metrics or anything else that is made on the way). net: what moves. optimiser: the one
        that the net was made with.

    Returns:
        The net after the step, and the loss's metrics before it.

    Example:
        net = init(jnp.zeros(3), optax.sgd(0.1))
        net, metrics = descend(lambda params: ((params**2).sum(), {}), net, optax.sgd(0.1))
    """
    gradient = jax.grad(loss, has_aux=True)
    grads, metrics = gradient(net.params)
    return _step(grads, net, optimiser), metrics


def descend_in_chunks(
    loss: Callable[[Any, Any], tuple[Array, Metrics]],
    rows: Any,
    size: int,
    net: Net,
    optimiser: optax.GradientTransformation,
) -> tuple[Net, Metrics]:
    """The same step for ``loss(params, rows)``, which sees ``size`` of the rows at once.

    That needs less memory, and on a CPU less traffic to it. The loss and its metrics are means over ``rows`` [B, ...],
    and ``size`` divides B."""
    gradient = jax.grad(loss, has_aux=True)

    def to_chunks(leaf):
        """[B / size, size, ...]. Each of the devices that share the rows has as many rows of a chunk."""
        chunks = leaf.reshape(size, -1, *leaf.shape[1:])
        return jnp.moveaxis(chunks, 1, 0)

    def add_chunk(total, chunk):
        grads_and_metrics = gradient(net.params, chunk)
        return jax.tree.map(jnp.add, total, grads_and_metrics), None

    chunks = jax.tree.map(to_chunks, rows)
    first_leaf = jax.tree.leaves(chunks)[0]
    number = first_leaf.shape[0]
    first_chunk = jax.tree.map(lambda leaf: leaf[0], chunks)
    shapes = jax.eval_shape(gradient, net.params, first_chunk)
    zeros = jax.tree.map(_zeros, shapes)
    total, _ = jax.lax.scan(add_chunk, zeros, chunks)
    grads, metrics = jax.tree.map(lambda leaf: leaf / number, total)
    return _step(grads, net, optimiser), metrics


def _step(grads: Any, net: Net, optimiser: optax.GradientTransformation) -> Net:
    updates, opt = optimiser.update(grads, net.opt, net.params)
    params = optax.apply_updates(net.params, updates)
    return Net(params, opt)


def _zeros(shape: jax.ShapeDtypeStruct) -> Array:
    return jnp.zeros(shape.shape, shape.dtype)


def warm_up(rate: float, updates: int) -> optax.Schedule:
    """A step size that rises linearly to ``rate`` at the last of so many updates; the first has its share already."""
    return optax.linear_schedule(rate / updates, rate, updates - 1)


def fall(rate: float, updates: int | None) -> optax.Schedule:
    """Half a cosine from ``rate`` down to 0 after so many updates. None: it stays as it is.

    Both have the same state, so that an online stage can go on without the fall."""
    if updates is None:
        return optax.constant_schedule(rate)
    return optax.cosine_decay_schedule(rate, max(updates, 1))


def warm_up_and_fall(rate: float, warm: int, updates: int | None) -> optax.Schedule:
    """`warm_up` over ``warm`` updates, then half a cosine down to 0 at the last of ``updates``. None: no fall."""
    falling = None if updates is None else updates - warm
    return optax.join_schedules([warm_up(rate, warm), fall(rate, falling)], [warm])


def target_copy(params: Any) -> Any:
    """Parameters of a target network at the start: a copy, since the loop donates the state, and an array that is
    donated cannot stand in it twice."""
    return jax.tree.map(jnp.copy, params)


def polyak(target: Any, online: Any, tau: float) -> Any:
    """(1 - tau) target + tau online, leaf by leaf."""

    def move(target, online):
        return target + tau * (online - target)

    return jax.tree.map(move, target, online)


def ema_decay(step: Array, power: float, largest: float) -> Array:
    """1 - (1 + step)^-power, at most ``largest``: the share that an average keeps, which is 0 at first, so that it soon
    forgets where training began. An average moves by `polyak` with tau = 1 - this."""
    return jnp.minimum(1 - (1.0 + step) ** -power, largest)
