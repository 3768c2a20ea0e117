"""Bodies of policies that are told of the future by a latent variable: readers of episodes, and their heads."""

from __future__ import annotations

from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from rlkit.networks.mlp import MLP
from rlkit.networks.sequence import Embedded
from rlkit.networks.transformer import Transformer
from rlkit.types import Array

ReaderKind = Literal["transformer", "mlp"]


class Steps(NamedTuple):
    """Pieces of episodes as a reader gets them. ``sees`` says what it may see of each step: the observation, the
    action, the reward. Nothing that it does not see changes what it says."""

    obs: Array  # [B, T, O]
    action: Array  # [B, T, A], choices one-hot
    reward: Array  # [B, T]
    t: Array  # [B, T] int32, steps since reset
    sees: Array  # [B, T, 3] bool


def before_action(steps: Steps) -> Steps:
    """The same pieces without the last step's action and reward: what is known when that action is chosen."""
    return steps._replace(sees=steps.sees.at[:, -1, 1:].set(False))


def before_outcome(steps: Steps) -> Steps:
    """The same pieces without the last step's reward: what is known when its action has been chosen."""
    return steps._replace(sees=steps.sees.at[:, -1, 2].set(False))


def flat(steps: Steps) -> Array:
    """[B, T (O + A + 4)]: all that is seen and what is seen, as one row of numbers; the time is not among them."""
    sees = steps.sees.astype(jnp.float32)
    obs = steps.obs * sees[..., :1]
    action = steps.action * sees[..., 1:2]
    reward = steps.reward[..., None] * sees[..., 2:]
    rows = jnp.concatenate([obs, action, reward, sees], -1)
    return rows.reshape(len(rows), -1)


class Tokens(nn.Module):
    """Three tokens of each step, (observation, action, reward), to which the step's time is added.

    horizon: steps of the longest episode; later times count as the last one.
    """

    width: int
    horizon: int

    @nn.compact
    def __call__(self, steps: Steps) -> Array:
        """[B, 3 T, width]."""
        table = nn.Embed(self.horizon, self.width, embedding_init=nn.initializers.normal(1.0))
        time = table(jnp.clip(steps.t, 0, self.horizon - 1))
        obs = Embedded(self.width)(steps.obs) + time
        action = Embedded(self.width)(steps.action) + time
        reward = Embedded(self.width)(steps.reward[..., None]) + time
        tokens = jnp.stack([obs, action, reward], 2)
        batch, length = steps.t.shape
        return nn.LayerNorm(epsilon=1e-5)(tokens.reshape(batch, 3 * length, self.width))


class TransformerReader(nn.Module):
    """Every token looks at every one that may be seen; the answer is read at the observation of step number ``at``."""

    tokens: Tokens
    at: int
    layers: int
    heads: int
    head_width: int
    mlp: int
    dropout: float

    @nn.compact
    def __call__(self, steps: Steps, deterministic: bool) -> Array:
        """[B, width]."""
        x = nn.Dropout(self.dropout)(self.tokens(steps), deterministic)
        seen = steps.sees.reshape(len(x), -1)
        itself = jnp.eye(seen.shape[1], dtype=bool)
        visible = seen[:, None] | itself[None]
        trunk = Transformer(self.layers, self.heads, self.head_width, self.mlp, self.dropout)
        return trunk(x, visible, deterministic)[:, 3 * self.at]


class MLPReader(nn.Module):
    """A perceptron on all that is seen at once: for worlds of few steps, or whose observation is the state."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, steps: Steps, deterministic: bool) -> Array:
        """[B, last of widths]."""
        *hidden, last = self.widths
        features = MLP(tuple(hidden), last, last**-0.5)(flat(steps))
        return nn.relu(features)


class Beliefs(NamedTuple):
    """Parameters of distributions of the latent, [B, P] each, by what is known of the episode."""

    prior: Array  # the past
    marginal: Array  # the past and the action, but not what came of it
    posterior: Array  # the past and the future


class LatentFuture(nn.Module):
    """Three readers and their heads (Yang et al. 2023, section 4): the past's, for the policy and the value; the
    prior's, which says what latent to expect before the action and after it; and the future's.

    outputs: of the policy. parameters: of a distribution of latents. context: steps of the past, the present one
    included; of a window, the first so many. widths: hidden layers of the heads, and of the readers of kind "mlp".
    """

    outputs: int
    parameters: int
    horizon: int
    context: int
    reader: ReaderKind
    layers: int
    heads: int
    head_width: int
    mlp: int
    dropout: float
    widths: tuple[int, ...]

    def setup(self) -> None:
        if self.reader == "transformer":
            self.tokens = Tokens(self.heads * self.head_width, self.horizon)
        self.past_reader = self._new_reader()
        self.prior_reader = self._new_reader()
        self.future_reader = self._new_reader()
        self.prior_head = Embedded(self.parameters)
        self.marginal_head = Embedded(self.parameters)
        self.posterior_head = Embedded(self.parameters)
        bound = self.widths[-1] ** -0.5
        self.policy_head = MLP(self.widths, self.outputs, bound, activation=jnp.tanh)
        self.value_head = MLP(self.widths, 1, bound, activation=jnp.tanh)

    def _new_reader(self) -> nn.Module:
        if self.reader == "mlp":
            return MLPReader(self.widths)
        at = self.context - 1
        return TransformerReader(self.tokens, at, self.layers, self.heads, self.head_width, self.mlp, self.dropout)

    def __call__(self, window: Steps, latent: Array) -> None:
        """Nothing: it makes the parameters, for a ``window`` [1, T] and a ``latent`` [1, N, D]."""
        self.beliefs(window)
        self.answers(Steps(*(part[:, : self.context] for part in window)), latent)

    def prior(self, past: Steps, deterministic: bool = True) -> Array:
        """[B, P]: what latent is to be expected after ``past`` [B, K], whose last step is the present one."""
        return self.prior_head(self.prior_reader(before_action(past), deterministic))

    def beliefs(self, window: Steps, deterministic: bool = True) -> Beliefs:
        """[B, P] each, for a window [B, T] whose first K steps are the past."""
        past = Steps(*(part[:, : self.context] for part in window))
        prior = self.prior(past, deterministic)
        marginal = self.marginal_head(self.prior_reader(before_outcome(past), deterministic))
        posterior = self.posterior_head(self.future_reader(window, deterministic))
        return Beliefs(prior, marginal, posterior)

    def answers(self, past: Steps, latent: Array, deterministic: bool = True) -> tuple[Array, Array]:
        """(policy's outputs [B, N, outputs], values [B, N]) for each of N latents [B or 1, N, D]."""
        features = self.past_reader(before_action(past), deterministic)[:, None]
        return self.policy_head(features, latent), self.value_head(features, latent)[..., 0]
