"""Sequence models with Gaussian answers: policies that are told a return or a future, and the encoder of futures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp

from rlkit.networks.policy import LOG_STD_MAX, LOG_STD_MIN
from rlkit.networks.sequence import Embedded
from rlkit.networks.transformer import Transformer, causal
from rlkit.types import Array


@dataclass(frozen=True)
class TransformerSize:
    """Blocks, heads of each, widths of a head and of the perceptron, share of activations that are dropped."""

    layers: int
    heads: int
    head_width: int
    mlp: int
    dropout: float

    @property
    def width(self) -> int:
        """Of a token."""
        return self.heads * self.head_width


class GaussianHead(nn.Module):
    """[..., I] -> mean and log standard deviation, [..., outputs] each: linear, orthogonal kernels, biases 0.

    bounds: of the log standard deviation, "squash" by tanh, as the policies have it, into [-5, 2]; "clip" to [-10, 2].
    """

    outputs: int
    bounds: Literal["squash", "clip"]

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        orthogonal = nn.initializers.orthogonal()
        mean = nn.Dense(self.outputs, kernel_init=orthogonal)(x)
        raw = nn.Dense(self.outputs, kernel_init=orthogonal)(x)
        if self.bounds == "clip":
            return mean, jnp.clip(raw, -10.0, 2.0)
        half = (LOG_STD_MAX - LOG_STD_MIN) / 2
        return mean, LOG_STD_MIN + half * (jnp.tanh(raw) + 1)


class Interleaved(nn.Module):
    """The tokens of each step one after the other, normalised, through a causal transformer."""

    size: TransformerSize

    @nn.compact
    def __call__(self, tokens: Sequence[Array], valid: Array | None, deterministic: bool) -> Array:
        """``tokens`` of a step in their order, [B, T, W] each -> [B, T, number of tokens, W].

        valid: [B, T] bool, the steps that others may see; None: all.
        """
        size = self.size
        batch, steps, width = tokens[0].shape
        x = jnp.stack(tokens, 2).reshape(batch, steps * len(tokens), width)
        x = nn.LayerNorm(epsilon=1e-5)(x)
        x = nn.Dropout(size.dropout)(x, deterministic)
        trunk = Transformer(size.layers, size.heads, size.head_width, size.mlp, size.dropout)
        x = trunk(x, causal(steps, len(tokens), valid=valid), deterministic)
        return x.reshape(batch, steps, len(tokens), width)


class StochasticDecisionTransformer(nn.Module):
    """Zheng, Zhang, Grover 2022, arXiv 2202.05607, section 4: tokens (return to go, observation, action) of each step;
    the Gaussian under the tanh is read at the observation's token.

    horizon: how many times of a step are embedded and added to its tokens, later ones counting as the last; None: no
    time is, and the order of the steps is known from what each token sees alone.
    """

    actions: int
    size: TransformerSize
    horizon: int | None = None
    per_step: ClassVar[int] = 3  # tokens

    @nn.compact
    def __call__(
        self, to_go: Array, obs: Array, action: Array, t: Array, deterministic: bool = True
    ) -> tuple[Array, Array]:
        """to_go [B, T], obs [B, T, O], action [B, T, A], t [B, T] int32 -> mean and log std, [B, T, A] each."""
        width = self.size.width
        of_to_go = Embedded(width)(to_go[..., None])
        of_obs = Embedded(width)(obs)
        of_action = Embedded(width)(action)
        tokens = [of_to_go, of_obs, of_action]
        if self.horizon is not None:
            times = nn.Embed(self.horizon, width, embedding_init=nn.initializers.normal(1.0))
            time = times(jnp.clip(t, 0, self.horizon - 1))
            tokens = [token + time for token in tokens]
        answers = Interleaved(self.size)(tokens, None, deterministic)
        return GaussianHead(self.actions, "squash")(answers[:, :, 1])


class FuturePolicy(nn.Module):
    """Xie et al. 2023 (PDT): tokens (observation, latent future, action) of each step; the Gaussian under the tanh is
    read at the latent's token. Prior and return head read the embeddings of observation and latent, not the answers.
    """

    actions: int
    size: TransformerSize

    def setup(self) -> None:
        self.of_obs = Embedded(self.size.width)
        self.of_latent = Embedded(self.size.width)
        self.of_action = Embedded(self.size.width)
        self.trunk = Interleaved(self.size)
        self.head = GaussianHead(self.actions, "squash")

    def __call__(
        self,
        obs: Array,
        latent: Array,
        action: Array,
        valid: Array | None = None,
        deterministic: bool = True,
        told: bool = True,
    ) -> tuple[Array, Array]:
        """obs [B, T, O], latent [B, T, Z], action [B, T, A] -> mean and log standard deviation, [B, T, A] each.

        valid: [B, T] bool, the steps that others may see; None: all. Unless ``told``, latents are embedded as zeros.
        """
        of_latent = self.of_latent(latent)
        if not told:
            of_latent = jnp.zeros_like(of_latent)
        answers = self.trunk([self.of_obs(obs), of_latent, self.of_action(action)], valid, deterministic)
        return self.head(answers[:, :, 1])

    def embed_obs(self, obs: Array) -> Array:
        """[..., O] -> [..., W]."""
        return self.of_obs(obs)

    def embed_latent(self, latent: Array) -> Array:
        """[..., Z] -> [..., W]."""
        return self.of_latent(latent)


class FutureEncoder(nn.Module):
    """Xie et al. 2023 (PDT): a Gaussian latent [Z] of what is seen from each step, tokens (observation, action)."""

    latent: int
    size: TransformerSize
    backwards: bool

    @nn.compact
    def __call__(self, obs: Array, action: Array, valid: Array, deterministic: bool = True) -> tuple[Array, Array]:
        """obs [B, T, O], action [B, T, A], valid [B, T] bool -> mean and log standard deviation, [B, T, Z] each.

        ``backwards``: a step sees itself and the valid ones after it, else those before it.
        """
        if self.backwards:
            obs = jnp.flip(obs, 1)
            action = jnp.flip(action, 1)
            valid = jnp.flip(valid, 1)
        width = self.size.width
        tokens = [Embedded(width)(obs), Embedded(width)(action)]
        answers = Interleaved(self.size)(tokens, valid, deterministic)
        mean, log_std = GaussianHead(self.latent, "clip")(answers[:, :, 1])
        if self.backwards:
            mean = jnp.flip(mean, 1)
            log_std = jnp.flip(log_std, 1)
        return mean, log_std
