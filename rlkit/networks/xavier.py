"""Perceptrons as flow policies have them (Park et al. 2025): GELU, and Xavier-uniform kernels in every layer."""

from __future__ import annotations

import flax.linen as nn
import jax

from rlkit.networks.mlp import Joined
from rlkit.types import Array

_KERNEL = nn.initializers.xavier_uniform()
_BIAS = nn.initializers.zeros


class XavierMLP(nn.Module):
    """Dense layers with the tanh form of GELU, an optional LayerNorm after each, and a linear output.

    Kernels are Xavier-uniform and biases 0, those of the output too.
    """

    widths: tuple[int, ...]
    out: int
    layer_norm: bool = False

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        """[..., I] -> [..., out]; an input may come in parts, see Joined."""
        for i, width in enumerate(self.widths):
            layer = Joined(width, _KERNEL, _BIAS, name=f"Dense_{i}")
            x = jax.nn.gelu(layer(*parts))
            if self.layer_norm:
                x = nn.LayerNorm()(x)
            parts = (x,)
        output_layer = Joined(self.out, _KERNEL, _BIAS, name=f"Dense_{len(self.widths)}")
        return output_layer(*parts)


class XavierEnsemble(nn.Module):
    """``size`` members of one architecture with parameters of their own; [..., I] -> [size, ..., out]."""

    size: int
    widths: tuple[int, ...]
    out: int
    layer_norm: bool = False

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        members_of = nn.vmap(XavierMLP, {"params": 0}, {"params": True}, in_axes=None, axis_size=self.size)
        members = members_of(self.widths, self.out, self.layer_norm)
        return members(*parts)
