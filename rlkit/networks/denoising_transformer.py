"""A transformer that denoises a sequence of actions and looks at the noise level and at observations."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp

from rlkit.networks.embeddings import sinusoidal
from rlkit.networks.transformer import Attention, Flat, attention_weights, causal
from rlkit.networks.unet import mish
from rlkit.types import Array

_gelu = functools.partial(nn.gelu, approximate=False)


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to a memory (Vaswani et al. 2017, section 3.2)."""

    heads: int
    head_width: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array, memory: Array, visible: Array, deterministic: bool) -> Array:
        """x [B, T, D], memory [B, M, D], visible [1, T, M] bool -> [B, T, D]."""
        batch, tokens, width = x.shape
        inner = self.heads * self.head_width
        query = Flat(inner)(x)
        query = query.reshape(batch, tokens, self.heads, self.head_width)
        key_and_value = Flat(2 * inner)(memory)
        key_and_value = key_and_value.reshape(batch, -1, 2, self.heads, self.head_width)
        key, value = jnp.moveaxis(key_and_value, 2, 0)
        weights = attention_weights(query, key, visible)
        weights = nn.Dropout(self.dropout)(weights, deterministic)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        mixed = mixed.reshape(batch, tokens, inner)
        out = Flat(width)(mixed)
        return nn.Dropout(self.dropout)(out, deterministic)


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to the memory and a two-layer perceptron, each normalised before (pre-norm) and
    beside a residual connection."""

    heads: int
    head_width: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array, memory: Array, visible: Array, deterministic: bool) -> Array:
        """x [B, T, D], memory [B, M, D], visible [1, T, M] bool, which of the memory each token sees -> [B, T, D]."""
        width = x.shape[-1]
        drop = nn.Dropout(self.dropout)
        attend = Attention(self.heads, self.head_width, self.dropout)
        mixed, _ = attend(_norm()(x), causal(x.shape[1], 1), deterministic)
        x = x + mixed
        look = CrossAttention(self.heads, self.head_width, self.dropout)
        x = x + look(_norm()(x), memory, visible, deterministic)
        hidden = _gelu(Flat(4 * width)(_norm()(x)))
        hidden = drop(hidden, deterministic)
        return x + drop(Flat(width)(hidden), deterministic)


class DenoisingTransformer(nn.Module):
    """The transformer of Diffusion Policy (Chi et al. 2023, arXiv 2303.04137, section 3.1): tokens of actions see those
    before them, and in the memory the noise level and the observations up to their own step.

    The width of a token, heads * head_width, is even: the noise level's features are sines and cosines.
    """

    outputs: int
    layers: int
    heads: int
    head_width: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, t: Array, obs: Array, deterministic: bool = True) -> Array:
        """x [B, T, A], t [B] number of the noise level, obs [B, K, O] of the first K steps -> [B, T, outputs].

        Unless ``deterministic``, the random key "dropout" is needed.
        """
        width = self.heads * self.head_width

        # --- what is looked at ---
        level = sinusoidal(t, width)[:, None]
        memory = jnp.concatenate([level, Flat(width)(obs)], 1)
        memory = memory + self._positions("memory_position", memory)
        memory = Flat(width)(mish(Flat(4 * width)(memory)))
        # the level is seen by all, and observation k by the actions from step k on
        step = jnp.arange(x.shape[1])
        observed_at = jnp.arange(memory.shape[1]) - 1
        visible = step[:, None] >= observed_at[None]
        visible = visible[None]

        # --- the actions ---
        x = Flat(width)(x)
        x = x + self._positions("position", x)
        for _ in range(self.layers):
            x = DecoderBlock(self.heads, self.head_width, self.dropout)(x, memory, visible, deterministic)
        return Flat(self.outputs)(_norm()(x))

    def _positions(self, name: str, tokens: Array) -> Array:
        """[1, T, D], a learnt vector for each place."""
        return self.param(name, nn.initializers.normal(0.02), (1, *tokens.shape[1:]))


def _norm() -> nn.Module:
    return nn.LayerNorm(epsilon=1e-5)
