"""AWAC: an actor-critic whose actor clones the data's actions, weighted by exp of their advantage.

Nair, Gupta, Dalal, Levine: AWAC: Accelerating Online Reinforcement Learning with Offline Datasets, 2020, arXiv
2006.09359. The defaults and the policy, a Gaussian with one standard deviation for all observations whose samples are
clipped to the bounds, are those of CORL (Tarasov et al. 2022, arXiv 2210.07105).

Deviation from CORL's code: the advantage is that of the critics before their step, so that each network is evaluated
once on each batch of inputs.
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
from rlkit.ranges import Count, Discount, LearningRate, Positive, TargetShare, Widths
from rlkit.types import Array, Key, Metrics, Preset, Spec, Stage, Stats, Transitions


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of AWAC."""

    temperature: Positive = 1 / 3
    """Lambda: the policy's weights are exp(advantage / temperature). Large values clone the data."""
    max_weight: Positive = 100.0
    """Largest weight of one step."""
    widths: Widths = (256, 256, 256)
    """Hidden layers of the actor and of each critic."""
    gamma: Discount = 0.99
    """Discount per step."""
    tau: TargetShare = 0.005
    """Share of the online critics that the target critics take over at each update."""
    learning_rate: LearningRate = 3e-4
    """Adam's step size for the actor and the critics."""
    batch_size: Count = 256
    """Steps in a batch."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        spec.require_bounded_action("awac")
        return (Stage("awac", AWAC(self, spec), steps),)


class AWACState(NamedTuple):
    """Networks, optimisers and the target critics: all that acting and training need."""

    actor: Net
    critic: Net
    target: Any


@dataclass(frozen=True)
class AWAC(Reactive):
    """Learner of AWAC."""

    config: Config
    spec: Spec
    needs: tuple[str, ...] = ()

    def init(self, key: Key, prev: None, stats: Stats) -> AWACState:
        """Target critics start as copies of the critics."""
        actor_key, critic_key = jax.random.split(key)
        actor = self._actor.init(actor_key, stats.obs_mean)
        critic = self._critic.init(critic_key, stats.obs_mean, stats.action_mean)
        return AWACState(
            actor=optim.init(actor, self._optimiser),
            critic=optim.init(critic, self._optimiser),
            target=optim.target_copy(critic),
        )

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        return buffer.transitions(key, self.config.batch_size, self.config.gamma)

    def update(self, state: AWACState, batch: Transitions, key: Key, step: Array) -> tuple[AWACState, Metrics]:
        """Update critics and actor, both from the parameters before this update, then the targets."""
        next_key, actor_key = jax.random.split(key)
        target_value = self.target_value(state, batch, next_key)

        def critic_loss(params):
            return self.critic_loss(params, target_value, batch)

        def actor_loss(params):
            return self.actor_loss(params, state.critic.params, q.min(0), batch, actor_key)

        critic, q = optim.descend(critic_loss, state.critic, self._optimiser)
        actor, metrics = optim.descend(actor_loss, state.actor, self._optimiser)
        target = optim.polyak(state.target, critic.params, self.config.tau)
        error = q - target_value[None]
        metrics["critic/loss"] = (error**2).mean(1).sum(0)
        metrics["critic/q"] = q.mean()
        return AWACState(actor, critic, target), metrics

    def target_value(self, state: AWACState, batch: Transitions, key: Key) -> Array:
        """y = r + discount min_i Q'_i(s', a'), a' ~ pi (paper, eq. 8)."""
        mean, log_std = self._actor.apply(state.actor.params, batch.next_obs)
        action = networks.normal_sample(mean, log_std, key)
        value = self._q(state.target, batch.next_obs, action).min(0)
        return batch.reward + batch.discount * value

    def critic_loss(self, params: Any, target: Array, batch: Transitions) -> tuple[Array, Array]:
        """sum_i mean (Q_i(s, a) - y)^2, and the values [2, B] in it."""
        q = self._q(params, batch.obs, batch.action)
        loss = losses.critic_error(q, target)
        return loss, q

    def actor_loss(self, params: Any, critic: Any, q: Array, batch: Transitions, key: Key) -> tuple[Array, Metrics]:
        """-mean min(exp((min_i Q_i(s, a) - min_i Q_i(s, a_pi)) / temperature), max_weight) log pi(a|s), a_pi ~ pi
        (paper, eq. 13, with one sample for the value)."""
        mean, log_std = self._actor.apply(params, batch.obs)
        fixed_mean = jax.lax.stop_gradient(mean)
        fixed_log_std = jax.lax.stop_gradient(log_std)
        policy_action = networks.normal_sample(fixed_mean, fixed_log_std, key)
        value = self._q(critic, batch.obs, policy_action).min(0)
        advantage = q - value
        beta = 1 / self.config.temperature
        weight = losses.advantage_weight(advantage, beta, self.config.max_weight)
        log_prob = networks.normal_log_prob(mean, log_std, batch.action)
        loss = -(weight * log_prob).mean()
        metrics = {
            "actor/loss": loss,
            "actor/log_prob": log_prob.mean(),
            "actor/advantage": advantage.mean(),
            "actor/weight": weight.mean(),
        }
        return loss, metrics

    def act(self, state: AWACState, memory: Array, key: Key, *, greedy: bool) -> tuple[Array, Array]:
        """One action: the mean if ``greedy``, else a sample; both are clipped to the bounds."""
        mean, log_std = self._actor.apply(state.actor.params, memory)
        if greedy:
            action = jnp.clip(mean, -1, 1)
        else:
            action = networks.normal_sample(mean, log_std, key)
        return action[None], memory

    def value(self, state: AWACState, obs: Array, action: Array) -> Array:
        """min_i Q_i(s, a) [] of one observation and one action."""
        return self._q(state.critic.params, obs, action).min()

    def network(self, state: AWACState) -> networks.Network:
        """The greedy policy as a list of layers."""
        return networks.Network(self._actor.layers(state.actor.params), "clip")

    def _q(self, params: Any, obs: Array, action: Array) -> Array:
        """Values [2, B] of both critics."""
        values = self._critic.apply(params, obs, action)
        return values.squeeze(-1)

    @property
    def _actor(self) -> networks.GaussianPolicy:
        return networks.GaussianPolicy(
            widths=self.config.widths,
            actions=self.spec.action.shape[0],
            log_std_min=-20.0,
            std_head=False,
        )

    @property
    def _critic(self) -> networks.Ensemble:
        return networks.Ensemble(size=2, widths=self.config.widths, out=1, out_bound=3e-3)

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.learning_rate)


_CORL = "CORL, configs/offline/awac: temperature {}, observations standardised, 1M updates"
_PENDULUM = "this project, for the embedded dataset: small networks, few updates"

_STANDARD = {"normalise": "standard"}
_ANTMAZE_DATA = {"normalise": "standard", "reward_shift": -1.0}

PRESETS = {
    "pendulum": Preset(Config(widths=(64, 64)), 5_000, _PENDULUM),
    "gym": Preset(Config(temperature=0.3333), 1_000_000, _CORL.format("0.3333"), _STANDARD),
    "adroit": Preset(Config(temperature=0.1), 1_000_000, _CORL.format("0.1"), _STANDARD),
    "antmaze": Preset(Config(temperature=0.1), 1_000_000, _CORL.format("0.1") + ", reward - 1", _ANTMAZE_DATA),
}
