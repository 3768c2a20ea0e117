"""FQE: fitted Q evaluation, the value of a policy from recorded steps, with an interval over their episodes.

Le, Voloshin, Yue: Batch Policy Learning under Constraints, ICML 2019, arXiv 1903.08738 (algorithm 3). Q regresses on
r + gamma E_pi[Q'(s', a')], again and again, while the target Q' follows. The value is the mean of E_pi[Q(s0, a0)] over
the first observations of the episodes.

The interval is that of a bootstrap over episodes in which everything is fitted again (Hao et al. 2021, arXiv
2102.03607), in the form of Rubin (1981): a replicate does not leave episodes out, it weighs each by an Exp(1) number.
Replicates are the seeds of the training loop: they are trained side by side, as one program.

What goes wrong in silence elsewhere, and how it is kept from that here:

- A time limit is no end. ``discount`` is 0 at terminal states alone, and a step that a limit cut off is valued by the
  observation that followed it.
- The number of times that the target was replaced counts, not that of the updates: after K of them Q still knows
  nothing of a share gamma^K of the returns. `Config.updates` sees to K = updates x tau >= 7 / (1 - gamma).
- Rewards are those of the data. A shift of the rewards cannot be undone afterwards, since it is worth more the longer
  the policy's episodes last. Inside they are divided by the largest of them, which can.
- Targets are clipped to what the rewards of the data can add up to, so that no error feeds on itself.
- Every policy is judged by a Q of its own, which starts anew. A critic of its training likes what it has chosen.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlkit import networks, optim
from rlkit.buffer import Buffer
from rlkit.datasets.episodes import TERMINAL
from rlkit.ope.replicated import Replicated
from rlkit.optim import Net
from rlkit.ranges import Count, Discount, LearningRate, TargetShare, Widths
from rlkit.training.loop import fit
from rlkit.training.sharding import make_mesh
from rlkit.types import Array, Discrete, InputError, Key, Metrics, Spec, Stage, Stats, Transitions

NEXT_POLICY = "next_policy"  # the column that says what the policy does at the observation after a step
ITERATIONS = 7.0  # times that the target is replaced, in units of 1 / (1 - gamma): e^-7 of a return is missing then
LEAST_UPDATES = 2_000
SETTLED = 4.0
PASSES = (
    40  # times that each step is drawn, for a network to fit: a third of it left values 4 % short (docs/judging.md)
)
ENOUGH_UPDATES = 7_000  # beyond which nothing is added for that
CHUNK_SECONDS = 1.0  # an interrupt is answered so soon


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of FQE."""

    widths: Widths = (128, 128)
    """Hidden layers of Q."""
    learning_rate: LearningRate = 1e-3
    """Adam's step size."""
    batch_size: Count = 256
    """Steps in a batch."""
    tau: TargetShare = 0.1
    """Share of Q that the target takes over at each update."""
    gamma: Discount = 0.99
    """Discount per step."""

    def horizon(self, longest: int) -> float:
        """Steps over which rewards add up: 1 / (1 - gamma), without a discount those of the longest episode."""
        if self.gamma == 1:
            return float(longest)
        return 1 / (1 - self.gamma)

    def updates(self, longest: int, steps: int) -> int:
        """Updates after which the start of Q has been forgotten and a network has had the time to fit, for data of so
        many ``steps`` whose ``longest`` episode has so many."""
        iterations = ITERATIONS * self.horizon(longest)
        to_forget = math.ceil(iterations / self.tau)
        to_fit = min(math.ceil(PASSES * steps / self.batch_size), ENOUGH_UPDATES)
        return max(to_forget, to_fit, LEAST_UPDATES)


class FQEState(NamedTuple):
    """Q, its target, and what each of the E episodes weighs in this replicate."""

    critic: Net
    target: Any
    weight: Array  # [E]


@dataclass(frozen=True)
class FQE:
    """Learner of FQE. Its buffer has the column NEXT_POLICY besides those that it needs, see `with_policy`.

    low, high: the least and the largest sum of rewards that can be. unit: reward that Q has the value 1 for.
    episodes: how many there are.
    """

    config: Config
    spec: Spec
    low: float
    high: float
    unit: float
    episodes: int
    needs: tuple[str, ...] = ("episode",)

    def init(self, key: Key, prev: None, stats: Stats) -> FQEState:
        """The target starts as a copy of Q."""
        net_key, weight_key = jax.random.split(key)
        if self._is_discrete:
            params = self._critic.init(net_key, stats.obs_mean)
        else:
            params = self._critic.init(net_key, stats.obs_mean, stats.action_mean)
        critic = optim.init(params, self._optimiser)
        return FQEState(critic, optim.target_copy(params), episode_weights(weight_key, self.episodes))

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        return buffer.transitions(key, self.config.batch_size, self.config.gamma)

    def update(self, state: FQEState, batch: Transitions, key: Key, step: Array) -> tuple[FQEState, Metrics]:
        """Move Q towards the target's backup, then the target towards Q."""
        weight = state.weight[batch.extra["episode"]]
        backup = self.backup(state.target, batch)

        def loss(params):
            return self.critic_loss(params, backup, weight, batch)

        critic, metrics = optim.descend(loss, state.critic, self._optimiser)
        target = optim.polyak(state.target, critic.params, self.config.tau)
        return state._replace(critic=critic, target=target), metrics

    def backup(self, target: Any, batch: Transitions) -> Array:
        """r + discount E_pi[Q'(s', a')] [B], in units, clipped to what is attainable."""
        next_value = self.value(target, batch.next_obs, batch.extra[NEXT_POLICY])
        backup = batch.reward / self.unit + batch.discount * next_value
        return jnp.clip(backup, self.low / self.unit, self.high / self.unit)

    def critic_loss(self, params: Any, backup: Array, weight: Array, batch: Transitions) -> tuple[Array, Metrics]:
        """mean w (Q(s, a) - backup)^2, w [B] the weights of the steps' episodes."""
        if self._is_discrete:
            values = self._critic.apply(params, batch.obs)
            q = jnp.take_along_axis(values, batch.action[:, None], 1)[:, 0]
        else:
            q = self._critic.apply(params, batch.obs, batch.action)[:, 0]
        loss = (weight * (q - backup) ** 2).mean()
        return loss, {"fqe/loss": loss, "fqe/q": q.mean()}

    def value(self, params: Any, obs: Array, policy: Array) -> Array:
        """V [B] in units: sum_a pi(a|s) Q(s, a) for ``policy`` [B, n], else Q(s, pi(s)) for ``policy`` [B, A]."""
        if self._is_discrete:
            return (policy * self._critic.apply(params, obs)).sum(-1)
        return self._critic.apply(params, obs, policy)[:, 0]

    @property
    def _is_discrete(self) -> bool:
        return isinstance(self.spec.action, Discrete)

    @property
    def _critic(self) -> networks.MLP:
        out = self.spec.action.n if self._is_discrete else 1
        return networks.MLP(self.config.widths, out, out_bound=3e-3)

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.learning_rate)


def episode_weights(key: Key, episodes: int) -> Array:
    """[E] Exp(1) weights of ``episodes`` episodes: each follows from a replicate's ``key`` and the episode's number."""

    def weight(number: Array) -> Array:
        return jax.random.exponential(jax.random.fold_in(key, number))

    return jax.vmap(weight)(jnp.arange(episodes))


def attainable(rewards: np.ndarray, horizon: float, ends: bool) -> tuple[float, float]:
    """The least and the largest value: what the ``rewards`` [N] add up to over ``horizon`` steps. Where episodes may
    end before (``ends``), over one step at the least."""
    shortest = 1.0 if ends else horizon
    least = float(rewards.min())
    most = float(rewards.max())
    return min(least * shortest, least * horizon), max(most * shortest, most * horizon)


class Fits(NamedTuple):
    """How often Q is fitted, and for how long."""

    replicates: int = 20  # at least 2
    seed: int = 0  # of the first replicate; the others have the next ones
    updates: int | None = None  # of each; None: as many as `Config.updates` says


USUAL = Fits()


class Evaluation(NamedTuple):
    """What FQE says of a policy: R replicates, each with its own weights of the E episodes."""

    value: Replicated  # mean over the first observations of the episodes
    halfway: float  # the estimate after half of the updates
    updates: int
    error: float  # root mean squared temporal difference of the last updates
    weights: np.ndarray  # [R, E], the same for every policy that is judged by as many episodes with the same seeds
    learner: FQE
    state: FQEState  # [R] on every leaf

    @property
    def estimate(self) -> float:
        return self.value.estimate

    @property
    def low(self) -> float:
        return self.value.low

    @property
    def high(self) -> float:
        return self.value.high

    @property
    def has_settled(self) -> bool:
        """Whether the second half of the updates moved the estimate by at most SETTLED standard deviations of the
        replicates: with many of these that is the width of the interval, with few it does not grow as that does."""
        return abs(self.value.estimate - self.halfway) <= SETTLED * self.value.replicates.std(ddof=1)

    def predict(self, obs: Array, policy: np.ndarray) -> np.ndarray:
        """[K] what is to come from the observations [K, O], as the buffer has them, under ``policy`` [K, n] or [K, A]:
        mean over the replicates, in the units of the rewards."""
        values = jax.device_get(_values(self.learner, self.state, obs, jnp.asarray(policy)))
        return self.learner.unit * values.mean(0, dtype=np.float64)


def with_policy(buffer: Buffer, policy: np.ndarray) -> Buffer:
    """The buffer with what the policy does, [N, n] or [N, A] by row, at the observation after each step."""
    following = np.roll(policy, -1, axis=0)
    return buffer._replace(extra={**buffer.extra, NEXT_POLICY: jnp.asarray(following)})


def evaluate(
    buffer: Buffer,
    moments: Stats,
    spec: Spec,
    policy: np.ndarray,
    config: Config,
    fits: Fits = USUAL,
) -> Evaluation:
    """Judge a policy by the steps in ``buffer``.

    Args:
        buffer: the data, with the column ``episode``, recorded actions as the agent has them and rewards as recorded.
        moments: rlkit.buffer.stats of it. spec: what the agent was built for. policy: what it does at every row, from
        rlkit.ope.judged. config: of FQE. fits: how often and how long.

    Returns:
        An Evaluation in the units of the rewards.

    Raises:
        InputError: without a discount where no episode ends in a terminal state, since the rewards to come are endless.

    Example:
        result = evaluate(buffer, stats(buffer), spec, probabilities, Config(gamma=0.97))
        print(result.value.estimate, result.value.low, result.value.high)
    """
    # --- what the rewards can add up to ---
    rewards = np.asarray(buffer.reward)[np.asarray(buffer.index)]
    ends = bool((np.asarray(buffer.flags) & TERMINAL).any())
    longest = int(np.asarray(buffer.t).max())
    if config.gamma == 1 and not ends:
        raise InputError("--gamma 1: no episode ends in a terminal state, so the rewards to come are endless")
    low, high = attainable(rewards, config.horizon(longest), ends)
    unit = float(np.abs(rewards).max()) or 1.0

    # --- fit, and look at the first observations half-way and at the end ---
    updates = fits.updates or config.updates(longest, buffer.index.shape[0])
    starts = np.flatnonzero(np.asarray(buffer.t) == 0)
    learner = FQE(config, spec, low, high, unit, len(starts))
    first_obs = buffer.obs[starts]
    first_policy = jnp.asarray(policy[starts])
    mesh = make_mesh(fits.replicates, jax.devices()[:1])
    looks = []
    error = math.nan
    for progress in fit(
        (Stage("fqe", learner, updates),),
        with_policy(buffer, policy),
        moments,
        range(fits.seed, fits.seed + fits.replicates),
        log_every=math.ceil(updates / 2),
        mesh=mesh,
        chunk_seconds=CHUNK_SECONDS,
    ):
        if progress.metrics:
            state = progress.state
            looks.append(jax.device_get(_values(learner, state, first_obs, first_policy)))
            error = unit * math.sqrt(progress.metrics["fqe/loss"].mean())

    # --- the estimate, and how much it varies ---
    weights = np.asarray(jax.device_get(state.weight), np.float64)
    values = unit * looks[-1].astype(np.float64)
    by_replicate = (weights * values).sum(1) / weights.sum(1)
    return Evaluation(
        value=Replicated(float(values.mean()), by_replicate),
        halfway=unit * float(looks[0].mean(dtype=np.float64)),
        updates=updates,
        error=error,
        weights=weights,
        learner=learner,
        state=state,
    )


@functools.partial(jax.jit, static_argnums=0)
def _values(learner: FQE, state: FQEState, obs: Array, policy: Array) -> Array:
    """[R, K] the values in units, of every replicate."""
    return jax.lax.map(lambda one: learner.value(one.target, obs, policy), state)
