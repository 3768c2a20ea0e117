"""Parameters with their optimiser state, one descent step, and slowly moving targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
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
    grads, metrics = jax.grad(loss, has_aux=True)(net.params)
    updates, opt = optimiser.update(grads, net.opt, net.params)
    return Net(optax.apply_updates(net.params, updates), opt), metrics


def polyak(target: Any, online: Any, tau: float) -> Any:
    """(1 - tau) target + tau online, leaf by leaf."""
    return jax.tree.map(lambda t, o: t + tau * (o - t), target, online)
