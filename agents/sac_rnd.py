"""SAC-RND: offline SAC kept near the data by a random-network-distillation bonus instead of a critic ensemble.

Nikulin, Kurenkov, Tarasov, Kolesnikov: Anti-Exploration by Random Network Distillation, ICML 2023, arXiv 2301.13616.
Official code: tinkoff-ai/sac-rnd (JAX); the defaults are its settings for Gym-MuJoCo.

Two stages. ``rnd`` trains a predictor of a frozen random prior on the data's (state, action) pairs; their squared
distance, divided by its running standard deviation over that stage, is the bonus b(s, a). ``sac`` is SAC with
beta * b subtracted from the critic's target and from the actor's objective. What makes the bonus descendable by the
actor is conditioning: the action is the feature, the state modulates it (bilinear first layer in the predictor, FiLM
before the last layer in the prior). As in the official code, the bonus's gradient takes the prior's output for a
constant (`prior_gradient`); it is this gradient under which concatenation fails.

Online the betas fall linearly, and the predictor goes on learning, from what the agent does too: else what it comes to
do would be penalised for ever. Nothing is published on SAC-RND online; that the penalty falls to a half is ReBRAC's
way (Tarasov et al. 2023). The bonus's unit stays that of the stage ``rnd``.

Deviations from the official code: the bilinear layer is one matrix product on the outer product of its inputs (same
function); both heads of the policy are one layer; "gated" gates with the context, where the code feeds the feature
to both; networks are not evaluated on random actions for the sake of a metric.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agents.sac import SAC
from rlkit import networks, optim
from rlkit.buffer import Buffer
from rlkit.online import Online, continued
from rlkit.optim import Net
from rlkit.ranges import Count, Discount, Finite, LearningRate, Positive, Range, TargetShare, Weight, Widths
from rlkit.types import Array, Key, Metrics, Preset, Spec, Stage, Stats, Transitions

Conditioning = Literal[
    "gated",
    "concat_first", "concat_last", "concat_full",
    "bilinear_first", "bilinear_last", "bilinear_full",
    "film_first", "film_last", "film_full",
]  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of SAC-RND."""

    beta: Weight = 1.0
    """Weight of the bonus in the actor's loss. It must be comparable to the differences of Q that it has to beat: sweep
    0.1 to 25."""
    critic_beta: Weight | None = None
    """Weight of the bonus in the critic's target; the same as beta if not given."""
    beta_left: Annotated[float, Range("[0, 1]")] = 0.5
    """Share of both betas to which they fall in an online stage."""
    widths: Widths = (256, 256, 256)
    """Hidden layers of the actor and of each critic."""
    critics: Count = 2
    """Critics; the smallest of their values counts."""
    critic_layer_norm: bool = True
    """LayerNorm after each ReLU of the critics."""
    gamma: Discount = 0.99
    """Discount per step."""
    tau: TargetShare = 0.005
    """Share of the online critics that the target critics take over at each update."""
    actor_learning_rate: LearningRate = 1e-3
    """Adam's step size for the actor."""
    critic_learning_rate: LearningRate = 1e-3
    """Adam's step size for the critics."""
    alpha_learning_rate: LearningRate = 1e-3
    """Adam's step size for the logarithm of the temperature."""
    initial_alpha: Positive = 1.0
    """Temperature at the start."""
    target_entropy: Finite | None = None
    """Entropy that the temperature is steered to; minus the number of action dimensions if not given."""
    batch_size: Count = 1024
    """Steps in a batch, in both stages."""
    rnd_steps: Count = 1000
    """Updates of the predictor before SAC begins."""
    rnd_learning_rate: LearningRate = 3e-4
    """Adam's step size for the predictor."""
    rnd_width: Count = 256
    """Width of the three hidden layers of the prior and of the predictor."""
    rnd_embedding: Count = 32
    """Dimensions of the prior's output."""
    predictor: Conditioning = "bilinear_first"
    """How the context enters the trained predictor."""
    prior: Conditioning = "film_last"
    """How the context enters the frozen prior."""
    action_is_feature: bool = True
    """Whether the action is the feature and the state its context (the official `switch_features`), or the reverse."""
    prior_gradient: bool = False
    """Whether the bonus's gradient passes through the prior too; the official code's passes the predictor alone."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        """RND pre-training, then SAC."""
        spec.require_bounded_action("sac-rnd")
        rnd = RND(self)
        sac = SACRND(self, spec, rnd=rnd)
        return (Stage("rnd", rnd, self.rnd_steps), Stage("sac", sac, steps))

    def online(self, spec: Spec, stages: tuple[Stage, ...], online: Online) -> tuple[Stage, ...]:
        """SAC with betas that fall from where the stage before left them, and with a bonus that is learnt further."""
        _, before = stages[-1].learner.shares
        shares = (before, before * self.beta_left)
        updates = online.rounds * online.updates
        return (continued(stages[-1], online, shares=shares, updates=updates),)


class RNDState(NamedTuple):
    """The bonus: networks, input moments, and the running moments of the raw error."""

    predictor: Net
    prior: Any
    stats: Stats
    mean: Array
    var: Array
    count: Array


@dataclass(frozen=True)
class RND:
    """Learner of stage 1: distil the frozen prior into the predictor."""

    config: Config
    needs: tuple[str, ...] = ()

    def init(self, key: Key, prev: None, stats: Stats) -> RNDState:
        """Two random networks, each with its own conditioning."""
        predictor_key, prior_key = jax.random.split(key)
        feature, context = self._inputs(stats, stats.obs_mean[None], stats.action_mean[None])
        predictor = self._predictor.init(predictor_key, feature, context)
        return RNDState(
            predictor=optim.init(predictor, self._optimiser),
            prior=self._prior.init(prior_key, feature, context),
            stats=stats,
            mean=jnp.zeros(()),
            var=jnp.zeros(()),
            count=jnp.full((), 1e-4),
        )

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        return buffer.transitions(key, self.config.batch_size, self.config.gamma)

    def update(self, state: RNDState, batch: Transitions, key: Key, step: Array) -> tuple[RNDState, Metrics]:
        """One step of the predictor, and Welford's update of the error's moments (Chan et al. 1979)."""
        state, error = self.distil(state, batch)
        n = self.config.batch_size
        m = state.count
        delta = error.mean() - state.mean
        mean = state.mean + delta * n / (m + n)
        var = (state.var * m + error.var() * n + delta**2 * m * n / (m + n)) / (m + n)
        state = state._replace(mean=mean, var=var, count=m + n)
        metrics = {"rnd/loss": error.mean(), "rnd/bonus": error.mean() / jnp.sqrt(var)}
        return state, metrics

    def distil(self, state: RNDState, batch: Transitions) -> tuple[RNDState, Array]:
        """One step of the predictor, and the raw error [B] before it."""

        def loss(params):
            error = self.error(params, state.prior, state.stats, batch.obs, batch.action)
            return error.mean(), error

        predictor, error = optim.descend(loss, state.predictor, self._optimiser)
        return state._replace(predictor=predictor), error

    def bonus(self, state: RNDState, obs: Array, action: Array) -> Array:
        """b(s, a) [B]: the raw error over its running standard deviation; the mean is not subtracted."""
        error = self.error(state.predictor.params, state.prior, state.stats, obs, action)
        return error / jnp.sqrt(state.var)

    def error(self, predictor: Any, prior: Any, stats: Stats, obs: Array, action: Array) -> Array:
        """e(s, a) [B]: squared distance of the embeddings, summed over their dimensions.

        Unless `prior_gradient`, its derivative in the action is not that of the number returned (official code, RND).
        """
        feature, context = self._inputs(stats, obs, action)
        prediction = self._predictor.apply(predictor, feature, context)
        target = self._prior.apply(prior, feature, context)
        if not self.config.prior_gradient:
            target = jax.lax.stop_gradient(target)
        return ((prediction - target) ** 2).sum(-1)

    def _inputs(self, stats: Stats, obs: Array, action: Array) -> tuple[Array, Array]:
        """Feature and context of the networks."""
        # without the z-score the bonus is blind to dimensions of small range
        obs = (obs - stats.obs_mean[None]) / (stats.obs_std[None] + 1e-8)
        action = (action - stats.action_mean[None]) / (stats.action_std[None] + 1e-8)
        if self.config.action_is_feature:
            return action, obs
        return obs, action

    @property
    def _predictor(self) -> networks.ConditionedMLP:
        return self._network(self.config.predictor)

    @property
    def _prior(self) -> networks.ConditionedMLP:
        return self._network(self.config.prior)

    def _network(self, conditioning: str) -> networks.ConditionedMLP:
        return networks.ConditionedMLP(conditioning, self.config.rnd_width, out=self.config.rnd_embedding)

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.rnd_learning_rate)


class SACRNDState(NamedTuple):
    """SAC's state and the bonus."""

    actor: Net
    critic: Net
    target: Any
    log_alpha: Net
    rnd: RNDState


@dataclass(frozen=True, kw_only=True)
class SACRND(SAC):
    """Learner of stage 2: SAC with the frozen bonus. Online, where ``updates`` are counted, its weight falls and the
    bonus is learnt further."""

    rnd: RND
    shares: tuple[float, float] = (1.0, 1.0)  # of both betas at the first and at the last update
    updates: int = 0  # of an online stage
    share: Array | float = 1.0  # of both betas in the update that is being made

    @property
    def intrinsic_reward(self) -> float:
        """SAC's, and the bonus, whose unit is its standard deviation over the data."""
        return super().intrinsic_reward + self._critic_beta

    def init(self, key: Key, prev: RNDState, stats: Stats) -> SACRNDState:
        """SAC's state, and the bonus that the stage before has learnt."""
        sac_state = super().init(key, None, stats)
        return SACRNDState(*sac_state, rnd=prev)

    def update(self, state: SACRNDState, batch: Transitions, key: Key, step: Array) -> tuple[SACRNDState, Metrics]:
        """SAC's update; online one step of the predictor too, on the same batch."""
        if not self.updates:
            return super().update(state, batch, key, step)
        share = self.share_at(step)
        weighted = replace(self, share=share, updates=0)
        state, metrics = weighted.update(state, batch, key, step)
        rnd, error = self.rnd.distil(state.rnd, batch)
        state = state._replace(rnd=rnd)
        return state, metrics | {"rnd/loss": error.mean(), "rnd/beta": self.config.beta * share}

    def share_at(self, step: Array) -> Array:
        """Share of both betas at an update of the online stage."""
        first, last = self.shares
        progress = step / max(self.updates - 1, 1)
        return first + (last - first) * progress

    def actor_loss(
        self, params: Any, state: SACRNDState, alpha: Array, batch: Transitions, key: Key
    ) -> tuple[Array, Metrics]:
        """mean[alpha log pi(a|s) + beta b(s, a) - min_i Q_i(s, a)], a ~ pi (paper, eq. 7)."""
        mean, log_std = self._actor.apply(params, batch.obs)
        action, log_prob = networks.tanh_normal_sample(mean, log_std, key)
        bonus = self.rnd.bonus(state.rnd, batch.obs, action)
        q = self._q(state.critic.params, batch.obs, action).min(0)
        beta = self.config.beta * self.share
        loss = (alpha * log_prob + beta * bonus - q).mean()
        metrics = {
            "actor/loss": loss,
            "actor/entropy": -log_prob.mean(),
            "actor/bonus": bonus.mean(),
            "actor/q": q.mean(),
            "actor/distance": ((action - batch.action) ** 2).mean(),
        }
        return loss, metrics

    def target_value(self, state: SACRNDState, alpha: Array, batch: Transitions, key: Key) -> Array:
        """y = r + discount [min_i Q'_i(s', a') - alpha log pi(a'|s') - beta b(s', a')], a' ~ pi (paper, eq. 8)."""
        mean, log_std = self._actor.apply(state.actor.params, batch.next_obs)
        action, log_prob = networks.tanh_normal_sample(mean, log_std, key)
        q = self._q(state.target, batch.next_obs, action).min(0)
        bonus = self.rnd.bonus(state.rnd, batch.next_obs, action)
        beta = self._critic_beta * self.share
        value = q - alpha * log_prob - beta * bonus
        return batch.reward + batch.discount * value

    @property
    def _critic_beta(self) -> float:
        if self.config.critic_beta is None:
            return self.config.beta
        return self.config.critic_beta


_GYM = (
    "tinkoff-ai/sac-rnd, configs/sac-rnd: batch 1024, learning rates 1e-3, 1000 RND updates, 3M updates. "
    "beta: recalled from the paper's appendix and not verified; the official configs sweep 0.001 to 25"
)
_ANTMAZE = (
    "tinkoff-ai/sac-rnd, configs/sac-rnd/antmaze: batch 256, learning rates 3e-4, gamma 0.999, reward x 100, 4M "
    "updates. betas: the middle of the official sweep (actor 0.5 to 1.5, critic 0.001 to 0.1), not a published best"
)
_ADROIT = (
    "betas: the best of the re-run in ReBRAC (Tarasov et al. 2023, arXiv 2305.09836). That paper's Adroit batch 256 "
    "and learning rate 3e-4 are taken over for SAC-RND, which is not verified"
)
_PENDULUM = (
    "this project, for the embedded dataset: small networks that train in minutes on two cores; "
    "beta chosen from 0.3, 1, 3 and 10 on seeds that are not evaluated"
)

# dataset -> beta
_GYM_BETAS = {
    "halfcheetah/random": 0.1,
    "halfcheetah/medium": 0.3,
    "halfcheetah/expert": 6.0,
    "halfcheetah/medium-expert": 0.1,
    "halfcheetah/medium-replay": 0.1,
    "halfcheetah/full-replay": 1.0,
    "hopper/random": 5.0,
    "hopper/medium": 25.0,
    "hopper/expert": 20.0,
    "hopper/medium-expert": 15.0,
    "hopper/medium-replay": 8.0,
    "hopper/full-replay": 3.0,
    "walker2d/random": 1.0,
    "walker2d/medium": 8.0,
    "walker2d/expert": 4.0,
    "walker2d/medium-expert": 25.0,
    "walker2d/medium-replay": 8.0,
    "walker2d/full-replay": 3.0,
}
# dataset -> (beta, critic_beta)
_ADROIT_BETAS = {
    "pen/human": (1.0, 10.0),
    "pen/cloned": (2.5, 0.01),
    "pen/expert": (10.0, 5.0),
    "door/human": (5.0, 0.01),
    "door/cloned": (5.0, 1.0),
    "door/expert": (10.0, 10.0),
    "hammer/human": (10.0, 0.01),
    "hammer/cloned": (1.0, 1.0),
    "hammer/expert": (2.5, 10.0),
    "relocate/human": (5.0, 0.01),
    "relocate/cloned": (5.0, 1.0),
    "relocate/expert": (10.0, 10.0),
}
_SLOW = {"batch_size": 256, "actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4, "alpha_learning_rate": 3e-4}

PRESETS = {
    "pendulum": Preset(Config(beta=0.3, widths=(64, 64), batch_size=256, rnd_width=64), 6_000, _PENDULUM),
    "antmaze": Preset(
        Config(beta=1.0, critic_beta=0.01, gamma=0.999, **_SLOW), 4_000_000, _ANTMAZE, {"reward_scale": 100.0}
    ),
}
for _name, _beta in _GYM_BETAS.items():
    PRESETS[_name] = Preset(Config(beta=_beta), 3_000_000, _GYM)
for _name, (_beta, _critic_beta) in _ADROIT_BETAS.items():
    _config = Config(beta=_beta, critic_beta=_critic_beta, **_SLOW)
    PRESETS[_name] = Preset(_config, 1_000_000, _ADROIT)
