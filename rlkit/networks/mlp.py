"""Multi-layer perceptrons, and ensembles of them under one vmap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlkit.networks.layers import Dense, LayerNorm, Layers, Relu, dense
from rlkit.types import Array, InputError


def uniform(bound: float) -> Callable:
    """Initialiser U(-bound, bound)."""

    def initialise(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return initialise


def fan_in_uniform(fan_in: int) -> Callable:
    """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for the weights and biases of a dense layer."""
    return uniform(1 / math.sqrt(fan_in))


_BIAS = nn.initializers.constant(0.1)
XAVIER = (nn.initializers.xavier_uniform(), nn.initializers.zeros)  # of a layer's kernel and bias


class Joined(nn.Module):
    """A dense layer on an input that comes in ``parts``, [..., I_k] each, whose leading axes are broadcast.

    Parts with the same leading axes are concatenated. Else each part is multiplied with its own rows of the kernel, and
    the products are broadcast: a state that is valued with 30 actions takes one product, not 30, and the gradient of
    one part costs nothing for the others.
    """

    width: int
    kernel_init: Callable
    bias_init: Callable

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        ends = list(itertools.accumulate(part.shape[-1] for part in parts))
        dtype = parts[0].dtype
        kernel = self.param("kernel", self.kernel_init, (ends[-1], self.width), dtype)
        bias = self.param("bias", self.bias_init, (self.width,), dtype)
        leading_axes = {part.shape[:-1] for part in parts}
        if len(leading_axes) == 1:
            y = jnp.concatenate(parts, -1) @ kernel
        else:
            kernels = jnp.split(kernel, ends[:-1])
            y = sum(part @ rows for part, rows in zip(parts, kernels, strict=True))
        bias = bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return y + bias


class MLP(nn.Module):
    """Dense layers with ReLU (or another activation), an optional LayerNorm after each, and a linear output.

    Hidden kernels are fan-in uniform with a bias of 0.1 and the output is U(-out_bound, out_bound), the initialisation
    of EDAC (An et al. 2021) that SAC-RND and ReBRAC inherit. With ``xavier`` every kernel, that of the output too, is
    Xavier-uniform, and every bias 0. ``norm_first`` is a LayerNorm before each activation, as in RLPD (Ball et al.
    2023).
    """

    widths: tuple[int, ...]
    out: int
    out_bound: float
    layer_norm: bool = False
    activation: Callable = nn.relu
    norm_first: bool = False
    xavier: bool = False

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        """[..., I] -> [..., out]; an input may come in parts, see Joined."""
        for i, width in enumerate(self.widths):
            fan_in = sum(part.shape[-1] for part in parts)
            kernel_init, bias_init = XAVIER if self.xavier else (fan_in_uniform(fan_in), _BIAS)
            layer = Joined(width, kernel_init, bias_init, name=f"Dense_{i}")
            x = layer(*parts)
            if self.norm_first:
                x = nn.LayerNorm()(x)
            x = self.activation(x)
            if self.layer_norm:
                x = nn.LayerNorm()(x)
            parts = (x,)
        small = uniform(self.out_bound)
        kernel_init, bias_init = XAVIER if self.xavier else (small, small)
        output_layer = Joined(self.out, kernel_init, bias_init, name=f"Dense_{len(self.widths)}")
        return output_layer(*parts)

    def layers(self, params: Any) -> Layers:
        """The layers with ``params``, those of `init`. InputError for an activation that has no list of layers."""
        if self.activation is not nn.relu:
            raise InputError("only networks with ReLU can be written as a list of layers: choose --format stablehlo")
        arrays = params["params"]
        norms = itertools.count()
        found: list[Dense | LayerNorm | Relu] = []
        for i in range(len(self.widths)):
            found.append(dense(arrays[f"Dense_{i}"]))
            if self.norm_first:
                found.append(_norm(arrays[f"LayerNorm_{next(norms)}"]))
            found.append(Relu())
            if self.layer_norm:
                found.append(_norm(arrays[f"LayerNorm_{next(norms)}"]))
        found.append(dense(arrays[f"Dense_{len(self.widths)}"]))
        return tuple(found)


def _norm(params: Any) -> LayerNorm:
    return LayerNorm(params["scale"], params["bias"], nn.LayerNorm.epsilon)


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
    activation: Callable = nn.relu
    norm_first: bool = False
    xavier: bool = False

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        in_axes = None if self.shared else 0
        members_of = nn.vmap(MLP, {"params": 0}, {"params": True}, in_axes=in_axes, axis_size=self.size)
        members = members_of(
            self.widths, self.out, self.out_bound, self.layer_norm, self.activation, self.norm_first, self.xavier
        )
        return members(*parts)
