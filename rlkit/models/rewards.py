"""Regressions that say how sure they are: a mean and a spread for every input, and how many spreads make a bound.

Inputs x [B, D] and targets y [B] are standardised by the caller. We do not know which of these regressions the
semi-pessimistic paper uses; sizes and schedules are our own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlkit import networks, optim
from rlkit.losses import masked_mean
from rlkit.optim import Net
from rlkit.types import Array, Discrete, Key, Metrics, Spec, State, Stats

CHUNK = 4096  # inputs that are predicted at once
UNBOUNDED = 1e6  # spreads that stand for an infinite bound, so that everything stays finite


def _poisson_distribution() -> tuple[float, ...]:
    """P(count <= n) of Poisson(1) for n = 0 to 5."""
    probabilities = [math.exp(-1) / math.factorial(n) for n in range(6)]
    distribution = np.cumsum(probabilities)
    return tuple(distribution.tolist())


_POISSON = _poisson_distribution()


class Labels(NamedTuple):
    """Targets to learn from."""

    x: Array  # [B, D]
    y: Array  # [B]
    weight: Array  # [B] 0 where a target does not count: it is held out, or there is no label
    row: Array  # [B] int32, number of the row in the data, so that a resample treats it alike in every batch


class Estimator(Protocol):
    """A frozen dataclass of hyper-parameters and pure functions of a state, like a Learner."""

    def draw(self, key: Key, count: Array) -> tuple[Array, Array]:
        """Which of ``count`` labels make a batch: numbers [B] from 0, and [B] bool, which of those exist."""

    def init(self, key: Key, width: int) -> State:
        """The state at step 0 for inputs of ``width`` numbers."""

    def update(self, state: State, labels: Labels) -> tuple[State, Metrics]:
        """One step towards the labels."""

    def predict(self, state: State, x: Array) -> tuple[Array, Array]:
        """Mean and spread [M] of inputs [M, D]."""


def input_moments(spec: Spec, stats: Stats) -> tuple[Array, Array]:
    """Mean and standard deviation [D] of observation and action. Discrete actions are one-hot and not standardised."""
    if isinstance(spec.action, Discrete):
        action_mean = jnp.zeros(spec.action.n)
        action_std = jnp.ones(spec.action.n)
    else:
        action_mean = stats.action_mean
        action_std = stats.action_std
    mean = jnp.concatenate([stats.obs_mean, action_mean])
    std = jnp.concatenate([stats.obs_std, action_std])
    return mean, jnp.where(std > 0, std, 1.0)


def inputs(spec: Spec, mean: Array, std: Array, obs: Array, action: Array) -> Array:
    """[B, D] what a model sees of steps: observation and action, standardised by ``mean`` and ``std``."""
    if isinstance(spec.action, Discrete):
        action = jax.nn.one_hot(action, spec.action.n)
    x = jnp.concatenate([obs, action], -1)
    return (x - mean[None]) / std[None]


class HeldOut(NamedTuple):
    """Scores of the held-out labels, the smallest first; the places after them hold infinity.

    To count how many scores are at most one of them, take that one from this array. The same score computed a second
    time may differ in its last bit, and then rounding decides what is counted.
    """

    score: Array  # [N]
    count: Array  # [], how many are held out

    @classmethod
    def of(cls, scores: Array, held: Array) -> HeldOut:
        """Of all scores [N] those that are ``held``."""
        held_scores = jnp.where(held, scores, jnp.inf)
        return cls(jnp.sort(held_scores), held.sum())

    def conformal(self, delta: float) -> Array:
        """The ceil((n + 1)(1 - delta))-th smallest of the n scores (split conformal prediction, Vovk et al. 2005).

        A further score, exchangeable with them, is at most this with probability 1 - delta. UNBOUNDED where n is too
        small for that."""
        rank = (self.count + 1) * (1 - delta)
        rank = jnp.ceil(rank - 1e-3)  # 20 * 0.95 is a little above 19
        rank = rank.astype(jnp.int32)
        index = jnp.minimum(rank, len(self.score)) - 1
        score = jnp.minimum(self.score[index], UNBOUNDED)
        return jnp.where(rank <= self.count, score, UNBOUNDED)

    def share_up_to(self, c: Array) -> Array:
        """The share of the scores that are at most ``c``; 0 where there is none."""
        is_score = jnp.arange(len(self.score)) < self.count
        return masked_mean(self.score <= c, is_score)


class EnsembleState(NamedTuple):
    """Members, their frozen priors with the factor [K] that gives each unit spread, and the key of the resamples."""

    net: Net
    prior: Any
    gain: Array
    key: Array


@dataclass(frozen=True)
class Ensemble:
    """``members`` networks, each plus a frozen random one (Osband et al. 2018, arXiv 1806.03335), so that they disagree
    where there are no labels.

    bootstrap: each weighs every label by its own Poisson(1) draw, the online bootstrap. gaussian: each has a variance
    too and is fitted by its likelihood; the spread is that of the means alone."""

    members: int
    widths: tuple[int, ...]
    prior_scale: float
    bootstrap: bool
    gaussian: bool
    learning_rate: float
    batch_size: int

    def draw(self, key: Key, count: Array) -> tuple[Array, Array]:
        """Labels drawn with replacement."""
        number = jax.random.randint(key, (self.batch_size,), 0, count)
        exists = jnp.ones(self.batch_size, bool)
        return number, exists

    def init(self, key: Key, width: int) -> EnsembleState:
        """Priors are scaled to unit standard deviation over standard normal inputs."""
        net_key, prior_key, probe_key, resample_key = jax.random.split(key, 4)
        probe = jax.random.normal(probe_key, (256, width))
        prior = self._prior.init(prior_key, probe)
        prior_output = self._prior.apply(prior, probe).squeeze(-1)
        params = self._net.init(net_key, probe)
        return EnsembleState(
            net=optim.init(params, self._optimiser),
            prior=prior,
            gain=1 / prior_output.std(1),
            key=jax.random.key_data(resample_key),
        )

    def update(self, state: EnsembleState, labels: Labels) -> tuple[EnsembleState, Metrics]:
        """One step of every member down its own weighted loss."""
        resample = self._resample(state, labels.row)
        weight = labels.weight[None] * resample

        def loss(params):
            mean, log_variance = self._outputs(params, state, labels.x)
            error = (mean - labels.y[None]) ** 2
            if self.gaussian:
                error = 0.5 * (error * jnp.exp(-log_variance) + log_variance)
            total_weight = jnp.maximum(weight.sum(1), 1)
            weighted_error = (weight * error).sum(1)
            member_loss = weighted_error / total_weight
            return member_loss.sum(), {"reward/loss": member_loss.mean()}

        net, metrics = optim.descend(loss, state.net, self._optimiser)
        return state._replace(net=net), metrics

    def predict(self, state: EnsembleState, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation over the members."""

        def predict_one(x):
            one_row = x[None]
            means, _ = self._outputs(state.net.params, state, one_row)
            means = means[:, 0]
            return means.mean(), means.std()

        return jax.lax.map(predict_one, x, batch_size=CHUNK)

    def _outputs(self, params: Any, state: EnsembleState, x: Array) -> tuple[Array, Array]:
        """Means and log variances [K, B]."""
        output = self._net.apply(params, x)
        prior = self._prior.apply(state.prior, x).squeeze(-1)
        gain = state.gain[:, None]
        mean = output[..., 0] + self.prior_scale * gain * prior
        log_variance = output[..., -1]
        log_variance = jnp.clip(log_variance, -10, 5)
        return mean, log_variance

    def _resample(self, state: EnsembleState, row: Array) -> Array:
        """How often each member has each label, [K, B] or [1, B]."""
        if not self.bootstrap:
            return jnp.ones((1, len(row)))

        def uniform(member_key, row):
            key = jax.random.fold_in(member_key, row)
            return jax.random.uniform(key)

        key = jax.random.wrap_key_data(state.key)
        member_keys = jax.random.split(key, self.members)
        over_rows = jax.vmap(uniform, in_axes=(None, 0))
        over_members = jax.vmap(over_rows, in_axes=(0, None))
        draw = over_members(member_keys, row)[..., None]
        # the Poisson count is how many values of its distribution the uniform draw is above
        distribution = jnp.array(_POISSON).reshape(1, 1, -1)
        count = (draw > distribution).sum(-1)
        return count.astype(jnp.float32)

    @property
    def _net(self) -> networks.Ensemble:
        out = 2 if self.gaussian else 1
        return networks.Ensemble(self.members, self.widths, out, out_bound=3e-3)

    @property
    def _prior(self) -> networks.Ensemble:
        out_bound = 1 / math.sqrt(self.widths[-1])
        return networks.Ensemble(self.members, self.widths, 1, out_bound)

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)


@dataclass(frozen=True)
class Quantile:
    """One network for the median and for the ``level`` quantile below it; the spread is the gap between them.

    With the conformal factor the bound is a quantile corrected on held-out labels (as in Romano et al. 2019, arXiv
    1905.03222, whose correction is a shift instead). It does not know how far an input is from the labels."""

    level: float
    widths: tuple[int, ...]
    learning_rate: float
    batch_size: int

    def draw(self, key: Key, count: Array) -> tuple[Array, Array]:
        """Labels drawn with replacement."""
        number = jax.random.randint(key, (self.batch_size,), 0, count)
        exists = jnp.ones(self.batch_size, bool)
        return number, exists

    def init(self, key: Key, width: int) -> Net:
        """Both quantiles start near each other."""
        params = self._net.init(key, jnp.zeros(width))
        return optim.init(params, self._optimiser)

    def update(self, state: Net, labels: Labels) -> tuple[Net, Metrics]:
        """One step down the sum of the two pinball losses."""

        def loss(params):
            median, gap = self._outputs(params, labels.x)
            quantile = median - gap
            median_loss = pinball(labels.y - median, 0.5)
            quantile_loss = pinball(labels.y - quantile, self.level)
            errors = median_loss + quantile_loss
            total_weight = jnp.maximum(labels.weight.sum(), 1)
            loss = (labels.weight * errors).sum() / total_weight
            return loss, {"reward/loss": loss}

        return optim.descend(loss, state, self._optimiser)

    def predict(self, state: Net, x: Array) -> tuple[Array, Array]:
        """Median, and its distance to the lower quantile."""

        def predict_one(x):
            return self._outputs(state.params, x)

        return jax.lax.map(predict_one, x, batch_size=CHUNK)

    def _outputs(self, params: Any, x: Array) -> tuple[Array, Array]:
        """Median, and its distance to the lower quantile."""
        output = self._net.apply(params, x)
        median = output[..., 0]
        gap = jax.nn.softplus(output[..., 1])
        return median, gap

    @property
    def _net(self) -> networks.MLP:
        return networks.MLP(self.widths, out=2, out_bound=3e-3)

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)


def pinball(error: Array, level: float) -> Array:
    """max(level error, (level - 1) error): its mean over samples - estimate is least at their ``level`` quantile."""
    return jnp.maximum(level * error, (level - 1) * error)


@dataclass(frozen=True)
class GaussianProcess:
    """Exact regression with the kernel signal^2 exp(-|x - x'|^2 / (2 length^2)), prior mean 0 and noise^2 on the
    diagonal (Rasmussen and Williams 2006, algorithm 2.1).

    For up to ``limit`` labels; of more, ``limit`` at even distances."""

    length: float
    noise: float
    signal: float = 1.0
    limit: int = 2000

    def draw(self, key: Key, count: Array) -> tuple[Array, Array]:
        """All labels."""
        number = jnp.arange(self.limit)
        distance = count / self.limit
        spaced = jnp.floor(number * distance).astype(jnp.int32)
        first = jnp.minimum(number, count - 1)
        chosen = jnp.where(count > self.limit, spaced, first)
        return chosen, number < count

    def init(self, key: Key, width: int) -> Labels:
        """No label yet."""
        return Labels(
            x=jnp.zeros((self.limit, width)),
            y=jnp.zeros(self.limit),
            weight=jnp.zeros(self.limit),
            row=jnp.zeros(self.limit, jnp.int32),
        )

    def update(self, state: Labels, labels: Labels) -> tuple[Labels, Metrics]:
        """Remember the labels: they are the model."""
        _, alpha = self._fit(labels)
        residual = alpha * self.noise**2  # y - mean at the labels
        total_weight = jnp.maximum(labels.weight.sum(), 1)
        error = labels.weight * residual**2
        loss = error.sum() / total_weight
        return labels, {"reward/loss": loss}

    def predict(self, state: Labels, x: Array) -> tuple[Array, Array]:
        """Posterior mean and standard deviation of the function, without the noise."""
        factor, alpha = self._fit(state)

        def predict_one(x):
            kernel = self._kernel(x[None], state.x)[0]
            kernel = kernel * state.weight
            mean = kernel @ alpha
            explained = jax.scipy.linalg.solve_triangular(factor, kernel, lower=True)
            variance = self.signal**2 - (explained**2).sum()
            return mean, jnp.sqrt(jnp.maximum(variance, 1e-12))

        return jax.lax.map(predict_one, x, batch_size=CHUNK)

    def _fit(self, labels: Labels) -> tuple[Array, Array]:
        """The Cholesky factor [n, n], and K^-1 y [n]. Labels without weight have no effect on the others."""
        pair_weight = labels.weight[:, None] * labels.weight[None]
        identity = jnp.eye(len(labels.y))
        noise = self.noise**2 * identity
        kernel = self._kernel(labels.x, labels.x)
        kernel = kernel * pair_weight + noise
        factor = jnp.linalg.cholesky(kernel)
        y = labels.y * labels.weight
        alpha = jax.scipy.linalg.cho_solve((factor, True), y)
        return factor, alpha

    def _kernel(self, a: Array, b: Array) -> Array:
        """[P, D], [Q, D] -> [P, Q]."""
        squared = squared_distance(a, b)
        return self.signal**2 * jnp.exp(-squared / (2 * self.length**2))


def squared_distance(a: Array, b: Array) -> Array:
    """[P, D], [Q, D] -> [P, Q]."""
    product = jnp.matmul(a, b.T, precision="highest")
    a_squared = (a**2).sum(1)[:, None]
    b_squared = (b**2).sum(1)[None]
    return jnp.maximum(a_squared + b_squared - 2 * product, 0)


def far(x: Array, near: Array, held: Array, asked: Array, key: Key) -> Array:
    """Share of the ``asked`` rows [N] that are further from all ``near`` rows than 95 % of the ``held`` rows are.

    The distance is that between inputs. It is estimated on at most 512 asked, 2048 near and 512 held rows. 0 where none
    is held out. "Further" means by more than rounding: inputs that repeat are at distance 0 from each other, and the
    errors of float32 about 0 must not decide.
    """
    near_key, held_key, asked_key = jax.random.split(key, 3)
    near_rows, near_valid = _pick(near, 2048, near_key)

    def distance(mask, key):
        rows, valid = _pick(mask, 512, key)
        squared = squared_distance(x[rows], x[near_rows])
        squared = jnp.where(near_valid[None], squared, jnp.inf)
        return squared.min(1), valid

    held_distance, held_valid = distance(held, held_key)
    held_distance = jnp.where(held_valid, held_distance, jnp.nan)
    limit = jnp.nanquantile(held_distance, 0.95)
    asked_distance, asked_valid = distance(asked, asked_key)
    rounding = 1e-4 * x.shape[1]  # of squared distances of standardised inputs, each of which is about its width
    return masked_mean(asked_distance > limit + rounding, asked_valid)


def _pick(mask: Array, count: int, key: Key) -> tuple[Array, Array]:
    """At most ``count`` rows of ``mask``, drawn without replacement, and which of those are in it."""
    draw = jax.random.uniform(key, mask.shape)
    order = jnp.where(mask, draw, -1)
    count = min(count, len(mask))
    _, rows = jax.lax.top_k(order, count)
    return rows, mask[rows]
