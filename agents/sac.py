"""SAC, the soft actor-critic, as an offline learner: the base of the methods that make it pessimistic.

Haarnoja et al.: Soft Actor-Critic Algorithms and Applications, 2018, arXiv 1812.05905 (twin critics, learned
temperature). Alone it follows its critics wherever they extrapolate; where data cover everything it is hard to beat.

Siblings replace single functions of the learner: the actor's loss, the critics' target, the critics' loss.

Deviations: initialisation and the clip of the log standard deviation are EDAC's (An et al. 2021), see rlkit.networks;
the critics see the new actor and the old temperature, the order of SAC-RND's official code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlkit import losses, networks, optim
from rlkit.acting import Reactive
from rlkit.buffer import Buffer
from rlkit.optim import Net
from rlkit.ranges import Count, Discount, Finite, LearningRate, Positive, TargetShare, Widths
from rlkit.types import Array, Key, Metrics, Preset, Spec, Stage, Stats, Transitions


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of SAC."""

    widths: Widths = (256, 256)
    """Hidden layers of the actor and of each critic."""
    critics: Count = 2
    """Critics; the smallest of their values counts."""
    critic_layer_norm: bool = False
    """LayerNorm after each ReLU of the critics."""
    gamma: Discount = 0.99
    """Discount per step."""
    tau: TargetShare = 0.005
    """Share of the online critics that the target critics take over at each update."""
    actor_learning_rate: LearningRate = 3e-4
    """Adam's step size for the actor."""
    critic_learning_rate: LearningRate = 3e-4
    """Adam's step size for the critics."""
    alpha_learning_rate: LearningRate = 3e-4
    """Adam's step size for the logarithm of the temperature."""
    initial_alpha: Positive = 1.0
    """Temperature at the start."""
    target_entropy: Finite | None = None
    """Entropy that the temperature is steered to; minus the number of action dimensions if not given."""
    batch_size: Count = 256
    """Steps in a batch."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        spec.require_bounded_action("sac")
        return (Stage("sac", SAC(self, spec), steps),)


class SACState(NamedTuple):
    """Networks, optimisers, the target critics and the temperature: all that acting and training need."""

    actor: Net
    critic: Net
    target: Any
    log_alpha: Net


@dataclass(frozen=True)
class SAC(Reactive):
    """Learner of SAC. ``config`` is Config or a sibling's with the same fields; states of siblings may have more."""

    config: Any
    spec: Spec
    needs: tuple[str, ...] = ()

    @property
    def intrinsic_reward(self) -> float:
        """Size of |alpha log pi| at a step.

        The log-density of one action dimension is at most about as large as the least log standard deviation."""
        dimensions = self.spec.action.shape[0]
        return self.config.initial_alpha * dimensions * abs(networks.LOG_STD_MIN)

    def init(self, key: Key, prev: None, stats: Stats) -> SACState:
        """Target critics start as copies of the critics."""
        actor_key, critic_key = jax.random.split(key)
        obs = stats.obs_mean[None]
        action = stats.action_mean[None]
        actor = self._actor.init(actor_key, obs)
        critic = self._critic.init(critic_key, obs, action)
        log_alpha = jnp.log(jnp.float32(self.config.initial_alpha))
        return SACState(
            actor=optim.init(actor, self._actor_optimiser),
            critic=optim.init(critic, self._critic_optimiser),
            target=optim.target_copy(critic),
            log_alpha=optim.init(log_alpha, self._alpha_optimiser),
        )

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        return buffer.transitions(key, self.config.batch_size, self.config.gamma)

    def update(self, state: SACState, batch: Transitions, key: Key, step: Array) -> tuple[SACState, Metrics]:
        """Update the actor, then the critics, which see the new actor and the old temperature."""
        alpha = jnp.exp(state.log_alpha.params)
        actor_key, critic_key = jax.random.split(key)
        state, actor_metrics = self.update_actor(state, alpha, batch, actor_key)
        state, critic_metrics = self.update_critic(state, alpha, batch, critic_key)
        return state, actor_metrics | critic_metrics

    def update_actor(self, state: SACState, alpha: Array, batch: Transitions, key: Key) -> tuple[SACState, Metrics]:
        """One step of the actor and one of the temperature."""

        def actor_loss(params):
            return self.actor_loss(params, state, alpha, batch, key)

        def alpha_loss(log_alpha):
            return self.alpha_loss(log_alpha, metrics["actor/entropy"])

        actor, metrics = optim.descend(actor_loss, state.actor, self._actor_optimiser)
        log_alpha, alpha_metrics = optim.descend(alpha_loss, state.log_alpha, self._alpha_optimiser)
        state = state._replace(actor=actor, log_alpha=log_alpha)
        return state, metrics | alpha_metrics

    def update_critic(self, state: SACState, alpha: Array, batch: Transitions, key: Key) -> tuple[SACState, Metrics]:
        """One step of the critics towards ``target_value``, then of the target critics towards the critics."""
        target_value = self.target_value(state, alpha, batch, key)

        def critic_loss(params):
            return self.critic_loss(params, target_value, batch)

        critic, metrics = optim.descend(critic_loss, state.critic, self._critic_optimiser)
        target = optim.polyak(state.target, critic.params, self.config.tau)
        state = state._replace(critic=critic, target=target)
        return state, metrics

    def actor_loss(
        self, params: Any, state: SACState, alpha: Array, batch: Transitions, key: Key
    ) -> tuple[Array, Metrics]:
        """mean[alpha log pi(a|s) - min_i Q_i(s, a)], a ~ pi (eq. 7)."""
        mean, log_std = self._actor.apply(params, batch.obs)
        action, log_prob = networks.tanh_normal_sample(mean, log_std, key)
        q = self._q(state.critic.params, batch.obs, action).min(0)
        loss = (alpha * log_prob - q).mean()
        metrics = {
            "actor/loss": loss,
            "actor/entropy": -log_prob.mean(),
            "actor/q": q.mean(),
            "actor/distance": ((action - batch.action) ** 2).mean(),
        }
        return loss, metrics

    def alpha_loss(self, log_alpha: Array, entropy: Array) -> tuple[Array, Metrics]:
        """exp(log alpha) (entropy - target entropy) (eq. 18)."""
        target_entropy = self.config.target_entropy
        if target_entropy is None:
            target_entropy = -float(self.spec.action.shape[0])
        alpha = jnp.exp(log_alpha)
        loss = alpha * (entropy - target_entropy)
        return loss, {"alpha/value": alpha}

    def target_value(self, state: SACState, alpha: Array, batch: Transitions, key: Key) -> Array:
        """y = r + discount [min_i Q'_i(s', a') - alpha log pi(a'|s')], a' ~ pi (eqs. 2 and 3)."""
        mean, log_std = self._actor.apply(state.actor.params, batch.next_obs)
        action, log_prob = networks.tanh_normal_sample(mean, log_std, key)
        q = self._q(state.target, batch.next_obs, action).min(0)
        value = q - alpha * log_prob
        return batch.reward + batch.discount * value

    def critic_loss(self, params: Any, target: Array, batch: Transitions) -> tuple[Array, Metrics]:
        """sum_i mean (Q_i(s, a) - y)^2 (eq. 5, without its half)."""
        q = self._q(params, batch.obs, batch.action)
        loss = losses.critic_error(q, target)
        return loss, {"critic/loss": loss, "critic/q": q.mean()}

    def act(self, state: SACState, memory: Array, key: Key, *, greedy: bool) -> tuple[Array, Array]:
        """One action: tanh of the mean if ``greedy``, else a sample."""
        mean, log_std = self._actor.apply(state.actor.params, memory)
        if greedy:
            action = jnp.tanh(mean)
        else:
            action, _ = networks.tanh_normal_sample(mean, log_std, key)
        return action[None], memory

    def _q(self, params: Any, obs: Array, action: Array) -> Array:
        """Every critic's value [N, ...] of ``obs`` and ``action``, whose leading axes are broadcast."""
        values = self._critic.apply(params, obs, action)
        return values.squeeze(-1)

    @property
    def _actor(self) -> networks.GaussianPolicy:
        return networks.GaussianPolicy(self.config.widths, actions=self.spec.action.shape[0])

    @property
    def _critic(self) -> networks.Ensemble:
        return networks.Ensemble(
            size=self.config.critics,
            widths=self.config.widths,
            out=1,
            out_bound=3e-3,
            layer_norm=self.config.critic_layer_norm,
        )

    @property
    def _actor_optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.actor_learning_rate)

    @property
    def _critic_optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.critic_learning_rate)

    @property
    def _alpha_optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.alpha_learning_rate)


PRESETS = {
    "pendulum": Preset(
        Config(widths=(64, 64), actor_learning_rate=1e-3, critic_learning_rate=1e-3, alpha_learning_rate=1e-3),
        6_000,
        "this project, for the embedded dataset: small networks that train in a minute or two on two cores",
    ),
    "d4rl": Preset(
        Config(),
        1_000_000,
        "the paper's appendix D: 2 x 256, Adam 3e-4, batch 256, tau 0.005; offline it is the baseline that fails "
        "where data are narrow",
    ),
}
