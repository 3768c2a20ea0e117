"""Multi-layer perceptrons, and ensembles of them under one vmap."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax

from rlkit.types import Array


def uniform(bound: float) -> Callable:
    """Initialiser U(-bound, bound)."""
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def fan_in_uniform(fan_in: int) -> Callable:
    """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for the weights and biases of a dense layer."""
    return uniform(1 / math.sqrt(fan_in))


_BIAS = nn.initializers.constant(0.1)


class MLP(nn.Module):
    """Dense layers with ReLU, an optional LayerNorm after each ReLU, and a linear output.

    Hidden kernels are fan-in uniform with a bias of 0.1 and the output is U(-out_bound, out_bound), the initialisation
    of EDAC (An et al. 2021) that SAC-RND and ReBRAC inherit.
    """

    widths: tuple[int, ...]
    out: int
    out_bound: float
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., I] -> [..., out]."""
        for width in self.widths:
            x = nn.relu(nn.Dense(width, kernel_init=fan_in_uniform(x.shape[-1]), bias_init=_BIAS)(x))
            if self.layer_norm:
                x = nn.LayerNorm()(x)
        bound = uniform(self.out_bound)
        return nn.Dense(self.out, kernel_init=bound, bias_init=bound)(x)


class Ensemble(nn.Module):
    """``size`` members of one architecture with parameters of their own; [..., I] -> [size, ..., out]."""

    size: int
    widths: tuple[int, ...]
    out: int
    out_bound: float
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        members = nn.vmap(MLP, {"params": 0}, {"params": True}, in_axes=None, axis_size=self.size)
        return members(self.widths, self.out, self.out_bound, self.layer_norm)(x)
