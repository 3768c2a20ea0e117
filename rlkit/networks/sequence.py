"""Bodies of sequence models: what becomes a token, and where the answers are read."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from rlkit.networks.mlp import fan_in_uniform
from rlkit.networks.transformer import Flat, Transformer, causal
from rlkit.types import Array


class Embedded(nn.Module):
    """A linear embedding of numbers, [B, T, I] -> [B, T, width], initialised as PyTorch's linear layers are."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return Flat(self.width, kernel_init=fan_in_uniform(x.shape[-1]))(x)


class DecisionTransformer(nn.Module):
    """Chen et al. 2021, arXiv 2106.01345, section 3: tokens (return to go, observation, action) of each step, to which
    the step's time is added; the answer is read at the observation's token. No position is embedded but the time.

    horizon: steps of the longest episode; later times count as the last one. return_token: whether there is one;
    without it the model is a cloning one.
    """

    outputs: int
    horizon: int
    layers: int
    heads: int
    head_width: int
    mlp: int
    dropout: float
    return_token: bool = True
    band: int | None = None
    activation: Callable = nn.relu

    @nn.compact
    def __call__(
        self,
        to_go: Array,
        obs: Array,
        action: Array,
        t: Array,
        valid: Array | None = None,
        deterministic: bool = True,
    ) -> Array:
        """to_go [B, T], obs [B, T, O], action [B, T, A], t [B, T] int32 -> [B, T, outputs].

        valid: [B, T] bool, the steps that others may see; None: all. band: of how many steps, its own included, a token
        sees those before it; None: of all.
        """
        width = self.heads * self.head_width
        time = nn.Embed(self.horizon, width, embedding_init=nn.initializers.normal(1.0))(
            jnp.clip(t, 0, self.horizon - 1)
        )
        parts = [Embedded(width)(obs) + time, Embedded(width)(action) + time]
        if self.return_token:
            parts.insert(0, Embedded(width)(to_go[..., None]) + time)
        tokens = len(parts)
        batch, steps = t.shape
        x = jnp.stack(parts, 2).reshape(batch, steps * tokens, width)
        x = nn.Dropout(self.dropout)(nn.LayerNorm(epsilon=1e-5)(x), deterministic)
        trunk = Transformer(
            self.layers,
            self.heads,
            self.head_width,
            self.mlp,
            self.dropout,
            self.activation,
        )
        x = trunk(x, causal(steps, tokens, band=self.band, valid=valid), deterministic)
        at_obs = x.reshape(batch, steps, tokens, width)[:, :, tokens - 2]
        return Embedded(self.outputs)(at_obs)
