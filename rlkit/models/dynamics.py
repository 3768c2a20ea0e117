"""A learnt model of the dynamics: what a step changes, how sure that is, and whether it ends the episode.

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
    """What the data say before anything is learnt.

    mean, std: moments [O] of what a step changes. low, high: range [O] of the observations. ends: whether any step of
    the data ends in a terminal state; if none does, no step of a rollout may either.
    """

    mean: Array
    std: Array
    low: Array
    high: Array
    ends: Array  # [] bool


def scale(buffer: Buffer) -> Scale:
    """The Scale of all steps whose successor was recorded; the standard deviation of what never changes is 1."""
    has_next = (buffer.flags & HAS_NEXT) > 0
    has_next = has_next[:, None]
    count = jnp.maximum(has_next.sum(), 1)
    next_obs = jnp.roll(buffer.obs, -1, 0)
    change = next_obs - buffer.obs
    mean = jnp.where(has_next, change, 0).sum(0) / count
    squared = (change - mean[None]) ** 2
    variance = jnp.where(has_next, squared, 0).sum(0) / count
    std = jnp.sqrt(variance)
    is_terminal = (buffer.flags & TERMINAL) > 0
    return Scale(
        mean=mean,
        std=jnp.where(std > 1e-6, std, 1.0),
        low=buffer.obs.min(0),
        high=buffer.obs.max(0),
        ends=is_terminal.any(),
    )


@dataclass(frozen=True)
class Ensemble:
    """``members`` networks that see the same batches and differ by their initial parameters.

    width: numbers in an observation."""

    members: int
    widths: tuple[int, ...]
    width: int
    learning_rate: float

    def init(self, key: Key, x: Array) -> Net:
        """Members for inputs like ``x`` [D]."""
        params = self._net.init(key, x)
        return optim.init(params, self._optimiser)

    def update(self, net: Net, moves: Moves) -> tuple[Net, Metrics]:
        """One step of every member down `loss`."""

        def loss(params):
            return self.loss(params, moves)

        return optim.descend(loss, net, self._optimiser)

    def loss(self, params: Any, moves: Moves) -> tuple[Array, Metrics]:
        """Every member's negative log-likelihood (PETS, section 4; per dimension and without its constant), and the
        cross-entropy of the terminals."""
        mean, log_variance, logit = self.predict(params, moves.x)
        error = (mean - moves.change[None]) ** 2
        total_weight = jnp.maximum(moves.weight.sum(), 1)
        weight = moves.weight[None] / total_weight
        scaled_error = error * jnp.exp(-log_variance)
        step_loss = (scaled_error + log_variance).mean(-1)
        likelihood = (weight * 0.5 * step_loss).sum(1)
        terminal = moves.terminal[None].astype(jnp.float32)
        terminal_loss = optax.sigmoid_binary_cross_entropy(logit, terminal).mean(1)
        loss = (likelihood + terminal_loss).sum()
        squared_error = (weight * error.mean(-1)).sum(1)
        metrics = {
            "dynamics/loss": likelihood.mean(),
            "dynamics/error": jnp.sqrt(squared_error).mean(),
            "terminal/loss": terminal_loss.mean(),
        }
        return loss, metrics

    def predict(self, params: Any, x: Array) -> tuple[Array, Array, Array]:
        """Every member's mean and log variance [K, B, O] of the standardised change, and logit [K, B] of an end."""
        output = self._net.apply(params, x)
        mean_end = self.width
        raw_end = 2 * self.width
        mean, raw, logit = jnp.split(output, [mean_end, raw_end], -1)
        # soft bounds: a hard one has no gradient for a member that is beyond it
        low, high = LOG_VARIANCE
        bounded = high - jax.nn.softplus(high - raw)
        log_variance = low + jax.nn.softplus(bounded - low)
        return mean, log_variance, logit.squeeze(-1)

    def sample(self, params: Any, x: Array, key: Key) -> tuple[Array, Array]:
        """A standardised change [B, O] and whether it ends the episode [B], drawn from a random member per input."""
        member_key, change_key, end_key = jax.random.split(key, 3)
        size = len(x)
        row = jnp.arange(size)
        member = jax.random.randint(member_key, (size,), 0, self.members)
        means, log_variances, logits = self.predict(params, x)
        mean = means[member, row]
        std = jnp.exp(0.5 * log_variances[member, row])
        noise = jax.random.normal(change_key, mean.shape)
        change = mean + std * noise
        logit = logits[member, row]
        uniform = jax.random.uniform(end_key, logit.shape)
        ends = uniform < jax.nn.sigmoid(logit)
        return change, ends

    @property
    def _net(self) -> networks.Ensemble:
        out = 2 * self.width + 1  # mean, log variance, logit
        return networks.Ensemble(self.members, self.widths, out, out_bound=3e-3)

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

    Row m begins at starts[0, m]. Where step h - 1 ended its episode, a new one begins at starts[h, m].
    """

    def body(carry, inputs):
        obs, ended = carry
        start, key = inputs
        policy_key, step_key = jax.random.split(key)
        obs = jnp.where(ended[:, None], start, obs)
        action = policy(obs, policy_key)
        next_obs, terminal = step(obs, action, step_key)
        return (next_obs, terminal), Steps(obs, action, next_obs, terminal)

    all_ended = jnp.ones(starts.shape[1], bool)
    keys = jax.random.split(key, len(starts))
    carry = (starts[0], all_ended)
    inputs = (starts, keys)
    _, steps = jax.lax.scan(body, carry, inputs)
    return steps
