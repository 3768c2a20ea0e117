"""Bodies in which a context modulates a feature stream: concatenation, gating, bilinear layers and FiLM.

These are the conditionings that SAC-RND compares (Nikulin et al. 2023, arXiv 2301.13616, section 5).
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from rlkit.networks.mlp import fan_in_uniform
from rlkit.types import Array

_LAYERS = {"first": (0,), "last": (2,), "full": (0, 1, 2)}
CONDITIONINGS = (
    "gated",
    "concat_first",
    "concat_last",
    "concat_full",
    "bilinear_first",
    "bilinear_last",
    "bilinear_full",
    "film_first",
    "film_last",
    "film_full",
)


class Dense(nn.Module):
    """A dense layer whose kernel and bias are both fan-in uniform."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = fan_in_uniform(x.shape[-1])
        return nn.Dense(self.width, kernel_init=init, bias_init=init)(x)


class Bilinear(nn.Module):
    """out_k = sum_ij x_i W_ijk z_j + b_k, as one matrix product on the outer product of x and z.

    The bound of the initial weights is 1/sqrt(width of x), as in ``torch.nn.Bilinear``.
    """

    width: int

    @nn.compact
    def __call__(self, x: Array, z: Array) -> Array:
        init = fan_in_uniform(x.shape[-1])
        outer = x[..., :, None] * z[..., None, :]
        outer = outer.reshape(*x.shape[:-1], x.shape[-1] * z.shape[-1])
        return nn.Dense(self.width, kernel_init=init, bias_init=init)(outer)


class ConditionedMLP(nn.Module):
    """Three ReLU layers of ``width`` and a linear output; feature [B, F] and context [B, C] -> [B, out].

    ``conditioning`` is one of CONDITIONINGS: how the context enters, and in which layers.
    """

    conditioning: str
    width: int
    out: int

    @nn.compact
    def __call__(self, feature: Array, context: Array) -> Array:
        if self.conditioning == "gated":
            x = self._gated(feature, context)
        else:
            x = self._conditioned(feature, context)
        return Dense(self.out)(x)

    def _gated(self, feature: Array, context: Array) -> Array:
        x = jnp.tanh(Dense(self.width)(feature))
        gate = nn.sigmoid(Dense(self.width)(context))
        x = x * gate
        for _ in range(2):
            x = nn.relu(Dense(self.width)(x))
        return x

    def _conditioned(self, feature: Array, context: Array) -> Array:
        kind, where = self.conditioning.split("_")
        x = feature
        for layer in range(3):
            if layer in _LAYERS[where]:
                x = self._modulated(kind, x, context)
            else:
                x = Dense(self.width)(x)
            x = nn.relu(x)
        return x

    def _modulated(self, kind: str, x: Array, context: Array) -> Array:
        """A layer into which the context enters, before its ReLU."""
        if kind == "concat":
            both = jnp.concatenate([x, context], -1)
            return Dense(self.width)(both)
        if kind == "bilinear":
            return Bilinear(self.width)(x, context)
        scale_and_shift = Dense(2 * self.width)(context)
        scale, shift = jnp.split(scale_and_shift, 2, -1)
        return scale * Dense(self.width)(x) + shift
