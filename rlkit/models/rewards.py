"""Regressions that say how sure they are: a mean and a spread for every input, and how many spreads make a bound.

Inputs x [B, D] and targets y [B] are standardised by the caller. Which of these the semi-pessimistic paper uses is not
known to us; sizes and schedules are our own.
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
_POISSON = tuple(np.cumsum([math.exp(-1) / math.factorial(n) for n in range(6)]).tolist())  # distribution of Poisson(1)


class Labels(NamedTuple):
    """Targets to learn from. ``weight`` is 0 where one does not count (held out, or no label at all)."""

    x: Array  # [B, D]
    y: Array  # [B]
    weight: Array  # [B]
    row: Array  # [B] int32, which of the data: a resample of the data treats it alike in every batch


class Estimator(Protocol):
    """A frozen dataclass of hyper-parameters and pure functions of a state, like a Learner."""

    def draw(self, key: Key, count: Array) -> tuple[Array, Array]:
        """Which of ``count`` labels make a batch: numbers [B] from 0, and [B] bool, which of those are there."""

    def init(self, key: Key, width: int) -> State:
        """The state at step 0 for inputs of ``width`` numbers."""

    def update(self, state: State, labels: Labels) -> tuple[State, Metrics]:
        """One step towards the labels."""

    def predict(self, state: State, x: Array) -> tuple[Array, Array]:
        """Mean and spread [M] of inputs [M, D]."""


def input_moments(spec: Spec, stats: Stats) -> tuple[Array, Array]:
    """Mean and standard deviation [D] of observation and action. Choices are given one by one as 0 and 1, and not
    standardised."""
    mean, std = stats.action_mean, stats.action_std
    if isinstance(spec.action, Discrete):
        mean, std = jnp.zeros(spec.action.n), jnp.ones(spec.action.n)
    mean, std = jnp.concatenate([stats.obs_mean, mean]), jnp.concatenate([stats.obs_std, std])
    return mean, jnp.where(std > 0, std, 1.0)


def inputs(spec: Spec, mean: Array, std: Array, obs: Array, action: Array) -> Array:
    """[B, D] what a model sees of steps, standardised by those moments."""
    if isinstance(spec.action, Discrete):
        action = jax.nn.one_hot(action, spec.action.n)
    return (jnp.concatenate([obs, action], -1) - mean[None]) / std[None]


class HeldOut(NamedTuple):
    """The scores of the held-out labels, least first; the other places hold infinity.

    Whoever asks how many scores are at most one of them must ask this array, from which that one was taken. The same
    score computed a second time may differ in its last bit, and then rounding decides what is counted.
    """

    score: Array  # [N]
    count: Array  # [], how many are held out

    @classmethod
    def of(cls, scores: Array, held: Array) -> HeldOut:
        """Of all scores [N] those that are ``held``."""
        return cls(jnp.sort(jnp.where(held, scores, jnp.inf)), held.sum())

    def conformal(self, delta: float) -> Array:
        """The ceil((n + 1)(1 - delta))-th smallest of the n scores (split conformal prediction, Vovk et al. 2005): a
        further score, exchangeable with them, is at most this with probability 1 - delta. UNBOUNDED where n is too
        small for that."""
        place = jnp.ceil((self.count + 1) * (1 - delta) - 1e-3).astype(jnp.int32)  # 20 * 0.95 is a little above 19
        score = self.score[jnp.minimum(place, len(self.score)) - 1]
        return jnp.where(place <= self.count, jnp.minimum(score, UNBOUNDED), UNBOUNDED)

    def share_up_to(self, c: Array) -> Array:
        """The share of the scores that are at most ``c``; 0 where there is none."""
        return masked_mean(self.score <= c, jnp.arange(len(self.score)) < self.count)


class EnsembleState(NamedTuple):
    """Members, their frozen priors with the factor [K] that gives each unit spread, and the key of the resamples."""

    net: Net
    prior: Any
    gain: Array
    key: Array


@dataclass(frozen=True)
class Ensemble:
    """``members`` networks, each plus a frozen random one (Osband et al. 2018, arXiv 1806.03335), so that they disagree
    where there are no labels. ``bootstrap``: each weighs every label by its own Poisson(1) draw, the online bootstrap.
    ``gaussian``: each has a variance too and is fitted by its likelihood; the spread is that of the means alone."""

    members: int
    widths: tuple[int, ...]
    prior_scale: float
    bootstrap: bool
    gaussian: bool
    learning_rate: float
    batch_size: int

    def draw(self, key: Key, count: Array) -> tuple[Array, Array]:
        """Labels drawn with replacement."""
        return jax.random.randint(key, (self.batch_size,), 0, count), jnp.ones(self.batch_size, bool)

    def init(self, key: Key, width: int) -> EnsembleState:
        """Priors are scaled to unit standard deviation over standard normal inputs."""
        net_key, prior_key, probe_key, resample = jax.random.split(key, 4)
        probe = jax.random.normal(probe_key, (256, width))
        prior = self._prior.init(prior_key, probe)
        gain = 1 / self._prior.apply(prior, probe).squeeze(-1).std(1)
        net = optim.init(self._net.init(net_key, probe), self._optimiser)
        return EnsembleState(net, prior, gain, jax.random.key_data(resample))

    def update(self, state: EnsembleState, labels: Labels) -> tuple[EnsembleState, Metrics]:
        """One step of every member down its own weighted loss."""
        weight = labels.weight[None] * self._resample(state, labels.row)

        def loss(params: Any) -> tuple[Array, Metrics]:
            mean, log_variance = self._outputs(params, state, labels.x)
            error = (mean - labels.y[None]) ** 2
            if self.gaussian:
                error = 0.5 * (error * jnp.exp(-log_variance) + log_variance)
            each = (weight * error).sum(1) / jnp.maximum(weight.sum(1), 1)
            return each.sum(), {"reward/loss": each.mean()}

        net, metrics = optim.descend(loss, state.net, self._optimiser)
        return state._replace(net=net), metrics

    def predict(self, state: EnsembleState, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation over the members."""

        def one(x: Array) -> tuple[Array, Array]:
            mean = self._outputs(state.net.params, state, x[None])[0][:, 0]
            return mean.mean(), mean.std()

        return jax.lax.map(one, x, batch_size=CHUNK)

    def _outputs(self, params: Any, state: EnsembleState, x: Array) -> tuple[Array, Array]:
        """Means and log variances [K, B]."""
        output = self._net.apply(params, x)
        prior = self._prior.apply(state.prior, x).squeeze(-1)
        mean = output[..., 0] + self.prior_scale * state.gain[:, None] * prior
        return mean, jnp.clip(output[..., -1], -10, 5)

    def _resample(self, state: EnsembleState, row: Array) -> Array:
        """How often each member has each label, [K, B] or [1, B]."""
        if not self.bootstrap:
            return jnp.ones((1, len(row)))
        keys = jax.random.split(jax.random.wrap_key_data(state.key), self.members)
        draw = jax.vmap(lambda key: jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row)))(row))(keys)
        return (draw[..., None] > jnp.array(_POISSON).reshape(1, 1, -1)).sum(-1).astype(jnp.float32)

    @property
    def _net(self) -> networks.Ensemble:
        return networks.Ensemble(self.members, self.widths, 2 if self.gaussian else 1, out_bound=3e-3)

    @property
    def _prior(self) -> networks.Ensemble:
        return networks.Ensemble(self.members, self.widths, 1, out_bound=1 / math.sqrt(self.widths[-1]))

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)


@dataclass(frozen=True)
class Quantile:
    """One network for the median and for the ``level`` quantile below it; the spread is the gap between them. With the
    conformal factor the bound is a quantile corrected on held-out labels (as in Romano et al. 2019, arXiv 1905.03222,
    whose correction is a shift instead). Knows nothing of how far an input is from the labels."""

    level: float
    widths: tuple[int, ...]
    learning_rate: float
    batch_size: int

    def draw(self, key: Key, count: Array) -> tuple[Array, Array]:
        """Labels drawn with replacement."""
        return jax.random.randint(key, (self.batch_size,), 0, count), jnp.ones(self.batch_size, bool)

    def init(self, key: Key, width: int) -> Net:
        """Both quantiles start near each other."""
        return optim.init(self._net.init(key, jnp.zeros(width)), self._optimiser)

    def update(self, state: Net, labels: Labels) -> tuple[Net, Metrics]:
        """One step down the sum of the two pinball losses."""

        def loss(params: Any) -> tuple[Array, Metrics]:
            median, gap = self._outputs(params, labels.x)
            each = pinball(labels.y - median, 0.5) + pinball(labels.y - (median - gap), self.level)
            value = (labels.weight * each).sum() / jnp.maximum(labels.weight.sum(), 1)
            return value, {"reward/loss": value}

        return optim.descend(loss, state, self._optimiser)

    def predict(self, state: Net, x: Array) -> tuple[Array, Array]:
        """Median, and its distance to the lower quantile."""
        return jax.lax.map(lambda x: self._outputs(state.params, x), x, batch_size=CHUNK)

    def _outputs(self, params: Any, x: Array) -> tuple[Array, Array]:
        output = self._net.apply(params, x)
        return output[..., 0], jax.nn.softplus(output[..., 1])

    @property
    def _net(self) -> networks.MLP:
        return networks.MLP(self.widths, 2, out_bound=3e-3)

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)


def pinball(error: Array, level: float) -> Array:
    """max(level error, (level - 1) error): its mean over samples - estimate is least at their ``level`` quantile."""
    return jnp.maximum(level * error, (level - 1) * error)


@dataclass(frozen=True)
class GaussianProcess:
    """Exact regression with the kernel signal^2 exp(-|x - x'|^2 / (2 length^2)) and noise^2 on the diagonal, prior mean
    0 (Rasmussen and Williams 2006, algorithm 2.1). For up to ``limit`` labels; of more, as many at even distances."""

    length: float
    noise: float
    signal: float = 1.0
    limit: int = 2000

    def draw(self, key: Key, count: Array) -> tuple[Array, Array]:
        """All labels."""
        number = jnp.arange(self.limit)
        spaced = jnp.floor(number * (count / self.limit)).astype(jnp.int32)
        return jnp.where(count > self.limit, spaced, jnp.minimum(number, count - 1)), number < count

    def init(self, key: Key, width: int) -> Labels:
        """No label yet."""
        n = self.limit
        return Labels(jnp.zeros((n, width)), jnp.zeros(n), jnp.zeros(n), jnp.zeros(n, jnp.int32))

    def update(self, state: Labels, labels: Labels) -> tuple[Labels, Metrics]:
        """Remember the labels: they are the model."""
        residual = self._fit(labels)[1] * self.noise**2  # y - mean at the labels
        count = jnp.maximum(labels.weight.sum(), 1)
        return labels, {"reward/loss": (labels.weight * residual**2).sum() / count}

    def predict(self, state: Labels, x: Array) -> tuple[Array, Array]:
        """Posterior mean and standard deviation of the function, without the noise."""
        factor, alpha = self._fit(state)

        def one(x: Array) -> tuple[Array, Array]:
            kernel = self._kernel(x[None], state.x)[0] * state.weight
            explained = jax.scipy.linalg.solve_triangular(factor, kernel, lower=True)
            return kernel @ alpha, jnp.sqrt(jnp.maximum(self.signal**2 - (explained**2).sum(), 1e-12))

        return jax.lax.map(one, x, batch_size=CHUNK)

    def _fit(self, labels: Labels) -> tuple[Array, Array]:
        """The Cholesky factor [n, n], and K^-1 y [n]; what has no weight is decoupled."""
        both = labels.weight[:, None] * labels.weight[None]
        kernel = self._kernel(labels.x, labels.x) * both + self.noise**2 * jnp.eye(len(labels.y))
        factor = jnp.linalg.cholesky(kernel)
        return factor, jax.scipy.linalg.cho_solve((factor, True), labels.y * labels.weight)

    def _kernel(self, a: Array, b: Array) -> Array:
        return self.signal**2 * jnp.exp(-squared_distance(a, b) / (2 * self.length**2))


def squared_distance(a: Array, b: Array) -> Array:
    """[P, D], [Q, D] -> [P, Q]."""
    product = jnp.matmul(a, b.T, precision="highest")
    return jnp.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * product, 0)


def far(x: Array, near: Array, held: Array, asked: Array, key: Key) -> Array:
    """Share of the ``asked`` rows [N] that are further from all ``near`` ones than 95 % of the ``held`` ones are, by
    the distance between inputs, estimated on at most 512, 2048 and 512 of them. 0 where none is held out.

    "Further" means by more than rounding: inputs that repeat are at distance 0 from each other, and what float32 makes
    of a 0 must not be told apart.
    """
    keys = jax.random.split(key, 3)
    near_rows, near_there = _pick(near, 2048, keys[0])

    def distance(mask: Array, key: Key) -> tuple[Array, Array]:
        rows, there = _pick(mask, 512, key)
        squared = squared_distance(x[rows], x[near_rows])
        return jnp.where(near_there[None], squared, jnp.inf).min(1), there

    own, own_there = distance(held, keys[1])
    limit = jnp.nanquantile(jnp.where(own_there, own, jnp.nan), 0.95)
    found, there = distance(asked, keys[2])
    rounding = 1e-4 * x.shape[1]  # of squared distances of standardised inputs, each of which is about its width
    return masked_mean(found > limit + rounding, there)


def _pick(mask: Array, count: int, key: Key) -> tuple[Array, Array]:
    """At most ``count`` rows of ``mask``, drawn without replacement, and which of those are in it."""
    rows = jax.lax.top_k(jnp.where(mask, jax.random.uniform(key, mask.shape), -1), min(count, len(mask)))[1]
    return rows, mask[rows]
