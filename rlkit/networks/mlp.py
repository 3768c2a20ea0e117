"""Multi-layer perceptrons, and ensembles of them under one vmap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlkit.types import Array


def uniform(bound: float) -> Callable:
    """Initialiser U(-bound, bound)."""
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def fan_in_uniform(fan_in: int) -> Callable:
    """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for the weights and biases of a dense layer."""
    return uniform(1 / math.sqrt(fan_in))


_BIAS = nn.initializers.constant(0.1)


class Joined(nn.Module):
    """A dense layer on an input that comes in ``parts``, [..., I_k] each, whose leading axes are broadcast.

    Parts with the same leading axes are concatenated. Else each meets its own rows of the kernel before anything is
    repeated, and the gradient of one costs nothing for the others: a state that is valued with 30 actions takes one
    product, not 30.
    """

    width: int
    kernel_init: Callable
    bias_init: Callable

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        ends = list(itertools.accumulate(part.shape[-1] for part in parts))
        kernel = self.param("kernel", self.kernel_init, (ends[-1], self.width), parts[0].dtype)
        bias = self.param("bias", self.bias_init, (self.width,), parts[0].dtype)
        if len({part.shape[:-1] for part in parts}) == 1:
            y = jnp.concatenate(parts, -1) @ kernel
        else:
            y = sum(part @ rows for part, rows in zip(parts, jnp.split(kernel, ends[:-1]), strict=True))
        return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


class MLP(nn.Module):
    """Dense layers with ReLU (or another activation), an optional LayerNorm after each, and a linear output.

    Hidden kernels are fan-in uniform with a bias of 0.1 and the output is U(-out_bound, out_bound), the initialisation
    of EDAC (An et al. 2021) that SAC-RND and ReBRAC inherit.
    """

    widths: tuple[int, ...]
    out: int
    out_bound: float
    layer_norm: bool = False
    activation: Callable = nn.relu

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        """[..., I] -> [..., out]; an input may come in parts, see Joined."""
        for i, width in enumerate(self.widths):
            fan_in = fan_in_uniform(sum(part.shape[-1] for part in parts))
            x = self.activation(Joined(width, fan_in, _BIAS, name=f"Dense_{i}")(*parts))
            parts = (nn.LayerNorm()(x) if self.layer_norm else x,)
        bound = uniform(self.out_bound)
        return Joined(self.out, bound, bound, name=f"Dense_{len(self.widths)}")(*parts)


class Ensemble(nn.Module):
    """``size`` members of one architecture with parameters of their own; [..., I] -> [size, ..., out].

    Unless ``shared``, each member has an input of its own, [size, ..., I]: the way to every member's own gradient.
    """

    size: int
    widths: tuple[int, ...]
    out: int
    out_bound: float
    layer_norm: bool = False
    shared: bool = True

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        in_axes = None if self.shared else 0
        members = nn.vmap(MLP, {"params": 0}, {"params": True}, in_axes=in_axes, axis_size=self.size)
        return members(self.widths, self.out, self.out_bound, self.layer_norm)(*parts)
