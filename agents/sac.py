"""SAC, the soft actor-critic, as an offline learner: the base of the methods that make it pessimistic.

Haarnoja et al.: Soft Actor-Critic Algorithms and Applications, 2018, arXiv 1812.05905 (twin critics, learned
temperature). Alone it follows its critics wherever they extrapolate; where data cover the world it is hard to beat.

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

from rlkit import networks, optim
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
        """One stage."""
        spec.require_bounded_action("sac")
        return (Stage("sac", SAC(self, spec), steps),)


class SACState(NamedTuple):
    """Everything that acting and further training need."""

    actor: Net
    critic: Net
    target: Any
    log_alpha: Net


@dataclass(frozen=True)
class SAC(Reactive):
    """The learner. ``config`` is Config or a sibling's with the same fields; states of siblings may have more."""

    config: Any
    spec: Spec
    needs: tuple[str, ...] = ()

    @property
    def intrinsic_reward(self) -> float:
        """|alpha log pi| of a step: a dimension's log-density is at most about the size of the least log standard
        deviation."""
        return self.config.initial_alpha * self.spec.action.shape[0] * abs(networks.LOG_STD_MIN)

    def init(self, key: Key, prev: None, stats: Stats) -> SACState:
        """Target critics start as copies of the critics."""
        actor_key, critic_key = jax.random.split(key)
        obs, c = stats.obs_mean[None], self.config
        critic = self._critic.init(critic_key, obs, stats.action_mean[None])
        return SACState(
            actor=optim.init(self._actor.init(actor_key, obs), optax.adam(c.actor_learning_rate)),
            critic=optim.init(critic, optax.adam(c.critic_learning_rate)),
            target=jax.tree.map(jnp.copy, critic),  # a copy, since the state is donated
            log_alpha=optim.init(jnp.log(jnp.float32(c.initial_alpha)), optax.adam(c.alpha_learning_rate)),
        )

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        """Recorded steps."""
        return buffer.transitions(key, self.config.batch_size, self.config.gamma)

    def update(self, state: SACState, batch: Transitions, key: Key, step: Array) -> tuple[SACState, Metrics]:
        """Policy improvement, then policy evaluation: the critics see the new actor and the old temperature."""
        alpha, (actor_key, critic_key) = jnp.exp(state.log_alpha.params), jax.random.split(key)
        state, improvement = self.improve(state, alpha, batch, actor_key)
        state, evaluation = self.evaluate(state, alpha, batch, critic_key)
        return state, improvement | evaluation

    def improve(self, state: SACState, alpha: Array, batch: Transitions, key: Key) -> tuple[SACState, Metrics]:
        """One step of the actor and of the temperature."""
        c = self.config
        actor, metrics = optim.descend(
            lambda p: self.actor_loss(p, state, alpha, batch, key), state.actor, optax.adam(c.actor_learning_rate)
        )
        log_alpha, alpha_metrics = optim.descend(
            lambda p: self.alpha_loss(p, metrics["actor/entropy"]), state.log_alpha, optax.adam(c.alpha_learning_rate)
        )
        return state._replace(actor=actor, log_alpha=log_alpha), metrics | alpha_metrics

    def evaluate(self, state: SACState, alpha: Array, batch: Transitions, key: Key) -> tuple[SACState, Metrics]:
        """One step of the critics towards ``target_value``, and of the targets towards the critics."""
        c, target = self.config, self.target_value(state, alpha, batch, key)
        critic, metrics = optim.descend(
            lambda p: self.critic_loss(p, target, batch), state.critic, optax.adam(c.critic_learning_rate)
        )
        return state._replace(critic=critic, target=optim.polyak(state.target, critic.params, c.tau)), metrics

    def actor_loss(
        self, params: Any, state: SACState, alpha: Array, batch: Transitions, key: Key
    ) -> tuple[Array, Metrics]:
        """mean[alpha log pi(a|s) - min_i Q_i(s, a)], a ~ pi (eq. 7)."""
        action, log_prob = networks.tanh_normal_sample(*self._actor.apply(params, batch.obs), key)
        q = self._q(state.critic.params, batch.obs, action).min(0)
        loss = (alpha * log_prob - q).mean()
        return loss, {
            "actor/loss": loss,
            "actor/entropy": -log_prob.mean(),
            "actor/q": q.mean(),
            "actor/distance": ((action - batch.action) ** 2).mean(),
        }

    def alpha_loss(self, log_alpha: Array, entropy: Array) -> tuple[Array, Metrics]:
        """exp(log alpha) (entropy - target entropy) (eq. 18)."""
        wanted = self.config.target_entropy
        wanted = -float(self.spec.action.shape[0]) if wanted is None else wanted
        alpha = jnp.exp(log_alpha)
        return alpha * (entropy - wanted), {"alpha/value": alpha}

    def target_value(self, state: SACState, alpha: Array, batch: Transitions, key: Key) -> Array:
        """y = r + discount [min_i Q'_i(s', a') - alpha log pi(a'|s')], a' ~ pi (eqs. 2 and 3)."""
        action, log_prob = networks.tanh_normal_sample(*self._actor.apply(state.actor.params, batch.next_obs), key)
        value = self._q(state.target, batch.next_obs, action).min(0) - alpha * log_prob
        return batch.reward + batch.discount * value

    def critic_loss(self, params: Any, target: Array, batch: Transitions) -> tuple[Array, Metrics]:
        """sum_i mean (Q_i(s, a) - y)^2 (eq. 5, without its half)."""
        q = self._q(params, batch.obs, batch.action)
        loss = ((q - target[None]) ** 2).mean(1).sum(0)
        return loss, {"critic/loss": loss, "critic/q": q.mean()}

    def act(self, state: SACState, memory: Array, key: Key, *, greedy: bool) -> tuple[Array, Array]:
        """One action: the squashed mean if ``greedy``, else a sample."""
        mean, log_std = self._actor.apply(state.actor.params, memory)
        action = jnp.tanh(mean) if greedy else networks.tanh_normal_sample(mean, log_std, key)[0]
        return action[None], memory

    def _q(self, params: Any, obs: Array, action: Array) -> Array:
        """Every critic's value [N, ...] of ``obs`` and ``action``, whose leading axes are broadcast."""
        return self._critic.apply(params, obs, action).squeeze(-1)

    @property
    def _actor(self) -> networks.GaussianPolicy:
        return networks.GaussianPolicy(self.config.widths, self.spec.action.shape[0])

    @property
    def _critic(self) -> networks.Ensemble:
        c = self.config
        return networks.Ensemble(c.critics, c.widths, 1, out_bound=3e-3, layer_norm=c.critic_layer_norm)


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
