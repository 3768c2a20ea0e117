"""A learnt model of the world's moves: what a step changes, how surely, and whether it ends the episode.

An ensemble of networks with a Gaussian each, fitted by its likelihood (PETS, Chua et al. 2018, arXiv 1805.12114), and
short rollouts branched off recorded observations (MBPO, Janner et al. 2019, arXiv 1906.08253). Inputs x [B, D] are
standardised by the caller. Ours: fixed bounds of the log variance, the head for terminals, and that no member is
preferred for its error on held-out steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlkit import networks, optim
from rlkit.buffer import Buffer
from rlkit.datasets.episodes import HAS_NEXT, TERMINAL
from rlkit.optim import Net
from rlkit.types import Array, Key, Metrics

LOG_VARIANCE = (-10.0, 1.0)  # bounds, of changes with unit variance


class Moves(NamedTuple):
    """Steps to learn from."""

    x: Array  # [B, D] observations and actions
    change: Array  # [B, O] next observation - observation, standardised
    terminal: Array  # [B] bool
    weight: Array  # [B] 0 where the next observation was not recorded, else 1


class Scale(NamedTuple):
    """What is known of the data beforehand: moments [O] of what a step changes, the range [O] of observations, and
    whether any step ends in a terminal state: if none does, none of a rollout may, however rarely it would."""

    mean: Array
    std: Array
    low: Array
    high: Array
    ends: Array  # [] bool


def scale(buffer: Buffer) -> Scale:
    """Moments over the steps whose successor was recorded; the standard deviation of what never changes is 1."""
    there = ((buffer.flags & HAS_NEXT) > 0)[:, None]
    change = jnp.roll(buffer.obs, -1, 0) - buffer.obs
    mean = jnp.where(there, change, 0).sum(0) / jnp.maximum(there.sum(), 1)
    variance = jnp.where(there, (change - mean[None]) ** 2, 0).sum(0) / jnp.maximum(there.sum(), 1)
    std = jnp.sqrt(variance)
    ends = ((buffer.flags & TERMINAL) > 0).any()
    return Scale(mean, jnp.where(std > 1e-6, std, 1.0), buffer.obs.min(0), buffer.obs.max(0), ends)


@dataclass(frozen=True)
class Ensemble:
    """``members`` networks that see the same batches and differ by where they started; observations of ``width``."""

    members: int
    widths: tuple[int, ...]
    width: int
    learning_rate: float

    def init(self, key: Key, x: Array) -> Net:
        """Members for inputs like ``x`` [D]."""
        return optim.init(self._net.init(key, x), self._optimiser)

    def update(self, net: Net, moves: Moves) -> tuple[Net, Metrics]:
        """One step of every member down its negative log-likelihood (PETS, section 4; per dimension and without its
        constant) and the cross-entropy of the terminals."""

        def loss(params: Any) -> tuple[Array, Metrics]:
            mean, log_variance, logit = self.predict(params, moves.x)
            error = (mean - moves.change[None]) ** 2
            weight = moves.weight[None] / jnp.maximum(moves.weight.sum(), 1)
            likelihood = (weight * 0.5 * (error * jnp.exp(-log_variance) + log_variance).mean(-1)).sum(1)
            ends = optax.sigmoid_binary_cross_entropy(logit, moves.terminal[None].astype(jnp.float32)).mean(1)
            return (likelihood + ends).sum(), {
                "dynamics/loss": likelihood.mean(),
                "dynamics/error": jnp.sqrt((weight * error.mean(-1)).sum(1)).mean(),
                "terminal/loss": ends.mean(),
            }

        return optim.descend(loss, net, self._optimiser)

    def predict(self, params: Any, x: Array) -> tuple[Array, Array, Array]:
        """Every member's mean and log variance [K, B, O] of the standardised change, and logit [K, B] of an end."""
        mean, raw, logit = jnp.split(self._net.apply(params, x), [self.width, 2 * self.width], -1)
        low, high = LOG_VARIANCE  # softly: a hard bound has no gradient for a member that was too sure
        return mean, low + jax.nn.softplus(high - jax.nn.softplus(high - raw) - low), logit.squeeze(-1)

    def sample(self, params: Any, x: Array, key: Key) -> tuple[Array, Array]:
        """A standardised change [B, O] and whether it ends the episode [B]: for each input the draw of a random
        member."""
        member_key, change_key, end_key = jax.random.split(key, 3)
        member = jax.random.randint(member_key, (len(x),), 0, self.members)
        mean, log_variance, logit = (y[member, jnp.arange(len(x))] for y in self.predict(params, x))
        change = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(change_key, mean.shape)
        return change, jax.random.uniform(end_key, logit.shape) < jax.nn.sigmoid(logit)

    @property
    def _net(self) -> networks.Ensemble:
        return networks.Ensemble(self.members, self.widths, 2 * self.width + 1, out_bound=3e-3)

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)


class Steps(NamedTuple):
    """H steps of M rollouts."""

    obs: Array  # [H, M, O]
    action: Array  # [H, M, A] or [H, M]
    next_obs: Array  # [H, M, O]
    terminal: Array  # [H, M] bool


def rollout(
    policy: Callable[[Array, Key], Array],
    step: Callable[[Array, Array, Key], tuple[Array, Array]],
    starts: Array,
    key: Key,
) -> Steps:
    """H steps from each of M starts: ``starts`` [H, M, O]. ``policy(obs, key)`` gives actions for [M, O], and
    ``step(obs, action, key)`` the next observations and which of them are terminal [M].

    Row m begins at starts[0, m], and where step h - 1 ended its episode, anew at starts[h, m].
    """

    def body(before: tuple[Array, Array], now: tuple[Array, Key]) -> tuple[tuple[Array, Array], Steps]:
        obs, policy_key, step_key = jnp.where(before[1][:, None], now[0], before[0]), *jax.random.split(now[1])
        action = policy(obs, policy_key)
        next_obs, terminal = step(obs, action, step_key)
        return (next_obs, terminal), Steps(obs, action, next_obs, terminal)

    first = starts[0], jnp.ones(starts.shape[1], bool)
    return jax.lax.scan(body, first, (starts, jax.random.split(key, len(starts))))[1]
