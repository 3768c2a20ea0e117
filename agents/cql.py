"""CQL, conservative Q-learning, for continuous actions, and Cal-QL as its option ``calibrate``.

Kumar, Zhou, Tucker, Levine: Conservative Q-Learning for Offline Reinforcement Learning, NeurIPS 2020, arXiv 2006.04779:
CQL(H) on SAC, with or without the Lagrange multiplier. Nakamoto et al.: Cal-QL, NeurIPS 2023, arXiv 2303.05479: values
of the policy's actions are not pushed below the return that the data went on to. Code read: young-geng/CQL and its
descendants in CORL and nakamotoo/Cal-QL; the defaults are CORL's for Gym-MuJoCo.

The policy is evaluated once on each of s and s', not once for each candidate, and the critics' first layer multiplies
each state once, however many candidates it is valued with.

Deviations: initialisation and log standard deviation are SAC's here (CORL: orthogonal, with a learned offset); the
critics see the new actor and the old temperature. Cal-QL's returns stop at a time limit and bootstrap nothing, and a
trajectory that fails throughout is not given r / (1 - gamma), as the official code does in AntMaze.

Online the floor stays, as in the official code, so that episodes must end before they are learnt from; CORL has no
returns of collected steps, and drops it. The official run goes on with --online.unit episode --online.share 0.5, and
makes as many updates after an episode as that had steps: here --online.updates says how many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agents.sac import SAC
from rlkit import losses, networks, optim
from rlkit.online import Online, continued
from rlkit.optim import Net
from rlkit.ranges import Count, Discount, Finite, LearningRate, Positive, TargetShare, Weight, Widths
from rlkit.types import Array, InputError, Key, Metrics, Preset, Spec, Stage, Stats, Transitions


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of CQL and Cal-QL."""

    cql_alpha: Weight = 10.0
    """Weight of the conservative term beside the squared error (which has no half)."""
    calibrate: bool = False
    """Cal-QL: values of the policy's actions enter the conservative term no lower than the data's return to go."""
    lagrange_gap: Finite | None = None
    """Gap that a learned multiplier of cql_alpha, at most 1e6, steers the conservative term to; no multiplier if not
    given."""
    min_gap: Finite | None = None
    """Below this gap a state's conservative term has no gradient; unlimited if not given."""
    candidates: Count = 10
    """Actions in the conservative term from each of the uniform distribution, the policy at s and the policy at s'."""
    max_backup: bool = False
    """Back up the best of as many actions at s', rather than one."""
    backup_entropy: bool = False
    """Whether the backed-up value contains the policy's entropy."""
    widths: Widths = (256, 256, 256)
    """Hidden layers of the actor."""
    critic_widths: Widths = (256, 256, 256)
    """Hidden layers of each critic."""
    critics: Count = 2
    """Critics; the smallest of their values counts."""
    gamma: Discount = 0.99
    """Discount per step."""
    tau: TargetShare = 0.005
    """Share of the online critics that the target critics take over at each update."""
    actor_learning_rate: LearningRate = 3e-5
    """Adam's step size for the actor."""
    critic_learning_rate: LearningRate = 3e-4
    """Adam's step size for the critics and for the logarithm of the multiplier."""
    alpha_learning_rate: LearningRate = 3e-5
    """Adam's step size for the logarithm of the temperature."""
    initial_alpha: Positive = 1.0
    """Temperature at the start."""
    target_entropy: Finite | None = None
    """Entropy that the temperature is steered to; minus the number of action dimensions if not given."""
    batch_size: Count = 256
    """Steps in a batch."""
    chunk: Count | None = None
    """States whose candidates are valued at once: less memory, the same step. The whole batch if not given, which suits
    an accelerator; on a CPU 16 is faster."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        spec.require_bounded_action("cql")
        if self.chunk is not None and (self.chunk < 1 or self.batch_size % self.chunk):
            raise InputError(
                f"cql: a chunk of {self.chunk} does not divide a batch of {self.batch_size}: change either"
            )
        needs = (self.returns,) if self.calibrate else ()
        return (Stage("cql", CQL(self, spec, needs), steps),)

    def online(self, spec: Spec, stages: tuple[Stage, ...], online: Online) -> tuple[Stage, ...]:
        """The same learner. Raises InputError where the returns that calibration needs are not known."""
        if self.calibrate and online.unit != "episode":
            raise InputError(
                "cql: calibration needs the returns of collected steps, which are known when an episode has ended: "
                "give --online.unit episode"
            )
        return (continued(stages[-1], online),)

    @property
    def returns(self) -> str:
        """Name of the column that calibration reads."""
        return f"return_to_go@{self.gamma}"


class CQLState(NamedTuple):
    """SAC's state and the logarithm of the multiplier."""

    actor: Net
    critic: Net
    target: Any
    log_alpha: Net
    log_multiplier: Net


class Candidates(NamedTuple):
    """K actions for each state of a batch, over which the conservative term takes its soft maximum."""

    action: Array  # [K, B, A]
    log_density: Array  # [K, B], of the distribution that each was drawn from
    floor: Array | None  # [K, B], below which the values do not count; minus infinity for random actions


@dataclass(frozen=True)
class CQL(SAC):
    """SAC with the conservative term in the loss of its critics.

    ``policy`` and ``next_policy`` below are the actor's (mean, log standard deviation), [B, A] each, at s and at s'.
    """

    @property
    def intrinsic_reward(self) -> float:
        """SAC's where the entropy is backed up, else 0."""
        if not self.config.backup_entropy:
            return 0.0
        return super().intrinsic_reward

    def init(self, key: Key, prev: None, stats: Stats) -> CQLState:
        """SAC's state, and a multiplier of e."""
        log_multiplier = optim.init(jnp.ones(()), self._critic_optimiser)
        sac_state = super().init(key, None, stats)
        return CQLState(*sac_state, log_multiplier)

    def update_critic(self, state: CQLState, alpha: Array, batch: Transitions, key: Key) -> tuple[CQLState, Metrics]:
        """One step of the critics and their targets, and of the multiplier if there is one."""
        policy = self._actor.apply(state.actor.params, batch.obs)
        next_policy = self._actor.apply(state.actor.params, batch.next_obs)
        target_value = self.backup(state, alpha, batch, next_policy, key)
        candidates = self.draw_candidates(policy, next_policy, batch, key)
        weight = jnp.float32(self.config.cql_alpha)
        if self.config.lagrange_gap is not None:
            weight *= multiplier(state.log_multiplier.params)

        def critic_loss(params, rows):
            target_value, batch, candidates = rows
            return self.conservative_loss(params, target_value, batch, _swapped(candidates), weight)

        rows = (target_value, batch, _swapped(candidates))
        size = self.config.chunk or self.config.batch_size
        critic, metrics = optim.descend_in_chunks(critic_loss, rows, size, state.critic, self._critic_optimiser)
        target = optim.polyak(state.target, critic.params, self.config.tau)
        state = state._replace(critic=critic, target=target)
        if self.config.lagrange_gap is None:
            return state, metrics
        state, multiplier_metrics = self.update_multiplier(state, metrics["critic/gap"])
        return state, metrics | multiplier_metrics

    def update_multiplier(self, state: CQLState, gap: Array) -> tuple[CQLState, Metrics]:
        """One step of the multiplier; ``gap`` is the mean of the conservative term."""

        def multiplier_loss(log_multiplier):
            return self.multiplier_loss(log_multiplier, gap)

        log_multiplier, metrics = optim.descend(multiplier_loss, state.log_multiplier, self._critic_optimiser)
        return state._replace(log_multiplier=log_multiplier), metrics

    def backup(
        self, state: CQLState, alpha: Array, batch: Transitions, next_policy: tuple[Array, Array], key: Key
    ) -> Array:
        """y = r + discount max_a' min_i Q'_i(s', a') over one or more a' ~ pi(s'), less the entropy's
        alpha log pi(a'|s') where it is backed up."""
        count = self.config.candidates if self.config.max_backup else 1
        action, log_prob = _draw(next_policy, count, key)
        value = self._q(state.target, batch.next_obs[None], action).min(0)
        if self.config.backup_entropy:
            value = value - alpha * log_prob
        return batch.reward + batch.discount * value.max(0)

    def draw_candidates(
        self, policy: tuple[Array, Array], next_policy: tuple[Array, Array], batch: Transitions, key: Key
    ) -> Candidates:
        """Uniform actions, then the policy's at s, then its at s'; all are valued at s."""
        count = self.config.candidates
        uniform_key, policy_key, next_policy_key = jax.random.split(jax.random.fold_in(key, 1), 3)
        uniform = jax.random.uniform(uniform_key, (count, *batch.action.shape), minval=-1.0, maxval=1.0)
        uniform_density = jnp.full(uniform.shape[:2], -batch.action.shape[-1] * math.log(2))
        action, density = _draw(policy, count, policy_key)
        next_action, next_density = _draw(next_policy, count, next_policy_key)
        floor = None
        if self.config.calibrate:
            returns = batch.extra[self.config.returns]
            returns = jnp.broadcast_to(returns, (2 * count, *batch.reward.shape))
            floor = jnp.concatenate([jnp.full_like(uniform_density, -jnp.inf), returns])
        return Candidates(
            action=jnp.concatenate([uniform, action, next_action]),
            log_density=jnp.concatenate([uniform_density, density, next_density]),
            floor=floor,
        )

    def conservative_loss(
        self, params: Any, target: Array, batch: Transitions, candidates: Candidates, weight: Array
    ) -> tuple[Array, Metrics]:
        """sum_i mean (Q_i(s, a) - y)^2 + weight sum_i mean [log sum_k exp(Q_i(s, a_k)) / p(a_k) - Q_i(s, a)] (CQL eq. 4
        by importance sampling, appendix F; Cal-QL eq. 4.1 with the floor)."""
        q = self._q(params, batch.obs, batch.action)
        values = self._q(params, batch.obs[None], candidates.action)
        if candidates.floor is not None:
            values = jnp.maximum(values, candidates.floor[None])
        gap = jax.nn.logsumexp(values - candidates.log_density[None], axis=1) - q
        if self.config.min_gap is not None:
            gap = jnp.maximum(gap, self.config.min_gap)
        gap = gap.mean(1)
        loss = losses.critic_error(q, target) + weight * gap.sum(0)
        metrics = {"critic/loss": loss, "critic/q": q.mean(), "critic/gap": gap.mean()}
        return loss, metrics

    def multiplier_loss(self, log_multiplier: Array, gap: Array) -> tuple[Array, Metrics]:
        """-multiplier cql_alpha (gap - lagrange_gap), the mean over the critics (appendix F)."""
        value = multiplier(log_multiplier)
        loss = -value * self.config.cql_alpha * (gap - self.config.lagrange_gap)
        return loss, {"multiplier/value": value}

    @property
    def _critic(self) -> networks.Ensemble:
        return networks.Ensemble(self.config.critics, self.config.critic_widths, out=1, out_bound=3e-3)


def multiplier(log_multiplier: Array) -> Array:
    """exp(log multiplier), at most 1e6, as in young-geng/CQL and its descendants. There is no gradient beyond.

    The limit is on the logarithm: exp alone would overflow, and its gradient would be NaN."""
    return jnp.exp(jnp.minimum(log_multiplier, math.log(1e6)))


def _swapped(candidates: Candidates) -> Candidates:
    """Candidates with states before actions, or back again."""
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), candidates)


def _draw(policy: tuple[Array, Array], n: int, key: Key) -> tuple[Array, Array]:
    """``n`` actions [n, B, A] for each row of (mean, log_std), and their log-densities [n, B]."""
    mean, log_std = policy
    mean = jnp.broadcast_to(mean, (n, *mean.shape))
    log_std = jnp.broadcast_to(log_std, (n, *log_std.shape))
    return networks.tanh_normal_sample(mean, log_std, key)


_CORL = "CORL, algorithms/offline/cql.py and configs/offline/cql: 1M updates of 256"
_PENDULUM = "this project, for the embedded dataset: small networks, few updates; cql_alpha is not tuned"
_NORMALISED = {"normalise": "standard"}
_ANTMAZE = Config(
    cql_alpha=5.0,
    lagrange_gap=0.8,
    min_gap=-200.0,
    max_backup=True,
    critic_widths=(256,) * 5,
    actor_learning_rate=1e-4,
    alpha_learning_rate=1e-4,
)
_CAL_QL = Config(
    cql_alpha=5.0,
    calibrate=True,
    lagrange_gap=0.8,
    max_backup=True,
    widths=(256, 256),
    critic_widths=(256,) * 4,
    actor_learning_rate=1e-4,
    alpha_learning_rate=1e-4,
)
_SPARSE = {"reward_scale": 10.0, "reward_shift": -5.0}

PRESETS = {
    "pendulum": Preset(
        Config(
            cql_alpha=1.0,
            widths=(64, 64),
            critic_widths=(64, 64),
            actor_learning_rate=1e-3,
            critic_learning_rate=1e-3,
            alpha_learning_rate=1e-3,
        ),
        6_000,
        _PENDULUM,
    ),
    "u-turn": Preset(
        Config(
            cql_alpha=5.0,
            candidates=4,
            widths=(64, 64),
            critic_widths=(64, 64),
            gamma=0.95,
            tau=0.02,
            actor_learning_rate=1e-3,
            critic_learning_rate=1e-3,
            alpha_learning_rate=1e-3,
            batch_size=128,
            chunk=16,
        ),
        2_000,
        "this project, for envs.toys.u_turn: small networks. Weight and gamma: of four pairs the one with which CQL "
        "fell at the switch on seeds 0 and 1; on others it does not, see docs/online.md",
        {"reward_scale": 10.0},
    ),
    "gym": Preset(Config(), 1_000_000, f"{_CORL}, for every set but hopper/medium", _NORMALISED),
    "hopper/medium": Preset(Config(), 1_000_000, _CORL, _NORMALISED | {"reward": "return-range"}),
    "adroit": Preset(
        Config(cql_alpha=1.0, actor_learning_rate=1e-4, alpha_learning_rate=1e-4), 1_000_000, _CORL, _NORMALISED
    ),
    "maze2d": Preset(Config(lagrange_gap=5.0), 1_000_000, _CORL, _NORMALISED),
    "antmaze": Preset(_ANTMAZE, 1_000_000, f"{_CORL}; hard to reproduce, see CORL issue 14", _SPARSE),
    "antmaze-cal-ql": Preset(
        _CAL_QL,
        1_000_000,
        "nakamotoo/Cal-QL, scripts/run_antmaze.sh and JaxCQL/conservative_sac.py, offline phase: weight 5, gap 0.8, "
        "policy 2 x 256, critics 4 x 256, max-backup, no least gap. CORL has 3 x 256, 5 x 256 and a least gap of -200: "
        "the authors' own was taken",
        _SPARSE,
    ),
}
