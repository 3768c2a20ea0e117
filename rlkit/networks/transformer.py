"""A causal transformer over tokens that are embedded already; what the tokens are is the business of the bodies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlkit.types import Array

Norm = Literal["pre", "post"]


class Flat(nn.Module):
    """A dense layer on [B, T, I] that multiplies one matrix [B T, I]: on a CPU faster than a product for each of B."""

    width: int
    kernel_init: Callable = nn.initializers.normal(0.02)
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dense = nn.Dense(self.width, kernel_init=self.kernel_init, bias_init=self.bias_init)
        return dense(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.width)


class Past(NamedTuple):
    """What attention needs to know of tokens that were read before: P of them in L layers, the oldest first."""

    key: Array  # [L, B, P, heads, head_width]
    value: Array  # [L, B, P, heads, head_width]

    @classmethod
    def empty(cls, layers: int, batch: int, tokens: int, heads: int, head_width: int) -> Past:
        """Zeros, which nothing must see."""
        zeros = jnp.zeros((layers, batch, tokens, heads, head_width))
        return cls(zeros, zeros)

    def layer(self, number: int) -> Past:
        """That of one layer, [B, P, heads, head_width]."""
        return Past(self.key[number], self.value[number])

    def then(self, new: Past) -> Past:
        """The tokens of both, those of ``new`` behind."""
        return jax.tree.map(lambda old, young: jnp.concatenate([old, young], -3), self, new)

    def latest(self, tokens: int) -> Past:
        """The last ``tokens`` of them."""
        return jax.tree.map(lambda x: x[..., x.shape[-3] - tokens :, :, :], self)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2); softmax(q k / sqrt(head_width)) v."""

    heads: int
    head_width: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array, visible: Array, deterministic: bool, past: Past | None = None) -> tuple[Array, Past]:
        """[B, T, D] -> [B, T, D], and the keys and values of these tokens, [B, T, heads, head_width].

        visible: [B or 1, T, P + T] bool, which tokens (last axis), those of ``past`` first, each token sees.
        """
        batch, tokens, width = x.shape
        qkv = Flat(3 * self.heads * self.head_width)(x)
        query, key, value = jnp.moveaxis(qkv.reshape(batch, tokens, 3, self.heads, self.head_width), 2, 0)
        own = Past(key, value)
        seen = own if past is None else past.then(own)
        weights = nn.Dropout(self.dropout)(attention_weights(query, seen.key, visible), deterministic)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, seen.value)
        out = Flat(width)(mixed.reshape(batch, tokens, self.heads * self.head_width))
        return nn.Dropout(self.dropout)(out, deterministic), own


def attention_weights(query: Array, key: Array, visible: Array) -> Array:
    """softmax(q k / sqrt(head_width)) [B, heads, Q, K] of [B, Q, heads, head_width] and [B, K, heads, head_width].

    visible: [B or 1, Q, K] bool, which keys each query sees.
    """
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
    scores = jnp.where(visible[:, None], scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each beside a residual connection.

    ``pre`` normalises what goes into each (GPT-2), ``post`` the sum that comes out (GPT, Vaswani et al. 2017).
    """

    heads: int
    head_width: int
    mlp: int
    dropout: float
    activation: Callable
    norm: Norm

    @nn.compact
    def __call__(self, x: Array, visible: Array, deterministic: bool, past: Past | None = None) -> tuple[Array, Past]:
        """As Attention."""
        attention = Attention(self.heads, self.head_width, self.dropout)
        first, second = nn.LayerNorm(epsilon=1e-5), nn.LayerNorm(epsilon=1e-5)

        def perceptron(y: Array) -> Array:
            hidden = self.activation(Flat(self.mlp)(y))
            return nn.Dropout(self.dropout)(Flat(y.shape[-1])(hidden), deterministic)

        if self.norm == "pre":
            mixed, own = attention(first(x), visible, deterministic, past)
            x = x + mixed
            return x + perceptron(second(x)), own
        mixed, own = attention(x, visible, deterministic, past)
        x = first(x + mixed)
        return second(x + perceptron(x)), own


class Transformer(nn.Module):
    """``layers`` blocks, and after pre-norm ones a last LayerNorm. Tokens are [B, T, D]; D may be any width."""

    layers: int
    heads: int
    head_width: int
    mlp: int
    dropout: float = 0.0
    activation: Callable = nn.relu
    norm: Norm = "pre"

    def __call__(self, x: Array, visible: Array, deterministic: bool = True) -> Array:
        """[B, T, D] -> [B, T, D].

        visible: [B or 1, T, T] bool, which tokens (last axis) each token sees, see `causal`. Unless ``deterministic``,
        the random key "dropout" is needed.
        """
        return self.extend(x, visible, None, deterministic)[0]

    @nn.compact
    def extend(self, x: Array, visible: Array, past: Past | None, deterministic: bool = True) -> tuple[Array, Past]:
        """As `__call__` for tokens that follow those of ``past``; and the keys and values of the T tokens alone.

        visible: [B or 1, T, P + T] bool, which tokens (last axis), those of ``past`` first, each token sees.
        """
        added = []
        for number in range(self.layers):
            block = Block(self.heads, self.head_width, self.mlp, self.dropout, self.activation, self.norm)
            x, own = block(x, visible, deterministic, None if past is None else past.layer(number))
            added.append(own)
        if self.norm == "pre":
            x = nn.LayerNorm(epsilon=1e-5)(x)
        return x, jax.tree.map(lambda *layers: jnp.stack(layers), *added)


def causal(steps: int, per_step: int, *, band: int | None = None, valid: Array | None = None) -> Array:
    """[B or 1, T, T] bool, T = steps * per_step: a token sees itself and those before it.

    band: of how many steps, its own included; None: of all. valid: [B, steps] bool, the steps that others may see;
    None: all.
    """
    token = jnp.arange(steps * per_step)
    step = token // per_step
    visible = token[:, None] >= token[None]
    if band is not None:
        visible = visible & (step[:, None] - step[None] < band)
    visible = visible[None]
    if valid is not None:
        itself = jnp.eye(len(token), dtype=bool)[None]
        visible = visible & (jnp.repeat(valid, per_step, 1)[:, None] | itself)
    return visible
