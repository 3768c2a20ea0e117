"""Bodies of sequence models: what becomes a token, and where the answers are read."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from rlkit.networks.mlp import fan_in_uniform
from rlkit.networks.transformer import Flat, Past, Transformer, causal
from rlkit.types import Array


class Embedded(nn.Module):
    """A linear embedding of numbers, [B, T, I] -> [B, T, width], initialised as PyTorch's linear layers are."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        bound = fan_in_uniform(x.shape[-1])
        return Flat(self.width, bound, bound)(x)


class DecisionTransformer(nn.Module):
    """Chen et al. 2021, arXiv 2106.01345, section 3: tokens (return to go, observation, action) of each step, to which
    the step's time is added; the answer is read at the observation's token. No position is embedded but the time.

    horizon: steps of the longest episode; later times count as the last one. return_token: whether there is one;
    without it the model is a cloning one, and ``to_go`` is not read. band: of how many steps, its own included, a token
    sees those before it; None: of all.
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

    def setup(self) -> None:
        width = self.heads * self.head_width
        self.time = nn.Embed(self.horizon, width, embedding_init=nn.initializers.normal(1.0))
        self.embed_to_go = Embedded(width)
        self.embed_obs = Embedded(width)
        self.embed_action = Embedded(width)
        self.norm = nn.LayerNorm(epsilon=1e-5)
        self.drop = nn.Dropout(self.dropout)
        self.trunk = Transformer(self.layers, self.heads, self.head_width, self.mlp, self.dropout, self.activation)
        self.head = Embedded(self.outputs)

    @property
    def per_step(self) -> int:
        """Tokens of a step."""
        return 3 if self.return_token else 2

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

        valid: [B, T] bool, the steps that others may see; None: all. Unless ``deterministic``, the random key "dropout"
        is needed.
        """
        batch, steps = t.shape
        x = self.drop(self._tokens(to_go, obs, action, t), deterministic)
        x = self.trunk(x, causal(steps, self.per_step, band=self.band, valid=valid), deterministic)
        at_obs = x.reshape(batch, steps, self.per_step, -1)[:, :, -2]
        return self.head(at_obs)

    def nothing_read(self, batch: int) -> Past:
        """What `extend` begins an episode with."""
        return Past.empty(self.layers, batch, self._kept, self.heads, self.head_width)

    def extend(self, past: Past, to_go: Array, obs: Array, action: Array, t: Array) -> tuple[Array, Past]:
        """One step of an episode of which ``past`` has been read, under the band; what `__call__` answers at step t of
        the whole episode.

        to_go [B], obs [B, O], t [B] int32 of the step, and the action [B, A] that was taken before it (anything at
        t == 0) -> [B, outputs], and the past of the next step.
        """
        # the tokens of two steps, of which those from the first one's action to the second one's observation are new
        twice = [jnp.stack([x, x], 1) for x in (to_go, obs, action)]
        tokens = self._tokens(*twice, jnp.stack([t - 1, t], 1))
        x = tokens[:, self.per_step - 1 : 2 * self.per_step - 1]
        x, own = self.trunk.extend(x, self._visible(t), past)
        return self.head(x[:, -1:])[:, 0], past.then(own).latest(self._kept)

    @property
    def _kept(self) -> int:
        # of the steps before: an action that was taken a step ago sees as far back as the band did then
        return self.per_step * self.band - 1

    def _visible(self, t: Array) -> Array:
        """[B, per_step, kept + per_step] bool, for the tokens of `extend`."""
        first = self.per_step * t[:, None, None] - 1
        query = first + jnp.arange(self.per_step)[None, :, None]
        key = first + jnp.arange(-self._kept, self.per_step)[None, None]
        within = query // self.per_step - key // self.per_step < self.band
        return (key >= 0) & (key <= query) & within

    def _tokens(self, to_go: Array, obs: Array, action: Array, t: Array) -> Array:
        """[B, T * per_step, D], normalised."""
        time = self.time(jnp.clip(t, 0, self.horizon - 1))
        parts = [self.embed_obs(obs) + time, self.embed_action(action) + time]
        if self.return_token:
            parts.insert(0, self.embed_to_go(to_go[..., None]) + time)
        x = jnp.stack(parts, 2)
        return self.norm(x.reshape(x.shape[0], -1, x.shape[-1]))
