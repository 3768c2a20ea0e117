"""TD3+BC: TD3 whose actor also imitates the data's actions.

Fujimoto, Gu: A Minimalist Approach to Offline Reinforcement Learning, NeurIPS 2021, arXiv 2106.06860, on TD3 (Fujimoto
et al. 2018, arXiv 1802.09477). Official code: sfujim/TD3_BC (PyTorch); the defaults are its settings.

The actor's Q is divided by its own mean size, so that alpha weighs it against the imitation whatever the rewards'
scale. Actor and targets move at every second update, the critics at each.

Deviations from the official code: the actor moves at updates 0, 2, ... and not 1, 3, ...; hidden biases start at 0.1
and outputs small.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlkit import losses, networks, optim
from rlkit.acting import Reactive
from rlkit.buffer import Buffer
from rlkit.optim import Net
from rlkit.ranges import Count, Discount, LearningRate, TargetShare, Weight, Widths
from rlkit.types import Array, Key, Metrics, Preset, Spec, Stage, Stats, Transitions


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of TD3+BC."""

    alpha: Weight = 2.5
    """Weight of Q, normalised, against the imitation: 0 clones the data, large values are TD3."""
    widths: Widths = (256, 256)
    """Hidden layers of the actor and of each critic."""
    gamma: Discount = 0.99
    """Discount per step."""
    tau: TargetShare = 0.005
    """Share of the online networks that their targets take over whenever the actor moves."""
    policy_delay: Count = 2
    """Updates of the critics for one of the actor and the targets."""
    policy_noise: Weight = 0.2
    """Standard deviation of the noise on the target policy's actions."""
    noise_clip: Weight = 0.5
    """Largest size of that noise."""
    actor_learning_rate: LearningRate = 3e-4
    """Adam's step size for the actor."""
    critic_learning_rate: LearningRate = 3e-4
    """Adam's step size for the critics."""
    batch_size: Count = 256
    """Steps in a batch."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        spec.require_bounded_action("td3-bc")
        return (Stage("td3-bc", TD3BC(self, spec), steps),)


class TD3State(NamedTuple):
    """Networks and their optimisers, and a target of each network: all that acting and training need."""

    actor: Net
    critic: Net
    target_actor: Any
    target_critic: Any


@dataclass(frozen=True)
class TD3BC(Reactive):
    """Learner of TD3+BC."""

    config: Config
    spec: Spec
    needs: tuple[str, ...] = ()

    def init(self, key: Key, prev: None, stats: Stats) -> TD3State:
        """Targets start as copies of their networks."""
        actor_key, critic_key = jax.random.split(key)
        actor = self._actor.init(actor_key, stats.obs_mean)
        critic = self._critic.init(critic_key, stats.obs_mean, stats.action_mean)
        return TD3State(
            actor=optim.init(actor, self._actor_optimiser),
            critic=optim.init(critic, self._critic_optimiser),
            target_actor=optim.target_copy(actor),
            target_critic=optim.target_copy(critic),
        )

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        return buffer.transitions(key, self.config.batch_size, self.config.gamma)

    def update(self, state: TD3State, batch: Transitions, key: Key, step: Array) -> tuple[TD3State, Metrics]:
        """Update the critics; every ``policy_delay`` updates the actor, by the new critics, and all targets."""
        target_value = self.target_value(state, batch, key)

        def critic_loss(params):
            return self.critic_loss(params, target_value, batch)

        critic, critic_metrics = optim.descend(critic_loss, state.critic, self._critic_optimiser)
        moved = (state.actor, state.target_actor, state.target_critic)
        moved, actor_metrics = jax.lax.cond(
            step % self.config.policy_delay == 0,
            lambda: self.update_actor(*moved, critic.params, batch, step),
            lambda: (moved, self._zero_metrics(state.actor.params, critic.params, batch, step)),
        )
        actor, target_actor, target_critic = moved
        state = TD3State(actor, critic, target_actor, target_critic)
        return state, critic_metrics | actor_metrics

    def update_actor(
        self, actor: Net, target_actor: Any, target_critic: Any, critic: Any, batch: Transitions, step: Array
    ) -> tuple[tuple[Net, Any, Any], Metrics]:
        """One step of the actor and of both targets.

        Metrics are multiplied by the delay: their mean over all updates is then their mean over the actor's updates.
        """

        def actor_loss(params):
            return self.actor_loss(params, critic, batch, step)

        actor, metrics = optim.descend(actor_loss, actor, self._actor_optimiser)
        target_actor = optim.polyak(target_actor, actor.params, self.config.tau)
        target_critic = optim.polyak(target_critic, critic, self.config.tau)
        scaled = jax.tree.map(lambda metric: self.config.policy_delay * metric, metrics)
        return (actor, target_actor, target_critic), scaled

    def target_value(self, state: TD3State, batch: Transitions, key: Key) -> Array:
        """y = r + discount min_i Q'_i(s', clip(pi'(s') + noise)), noise ~ clip(N(0, policy_noise)) (TD3, eq. 14)."""
        action = self._next_action(state, batch, key)
        value = self._next_value(state, batch, action)
        return batch.reward + batch.discount * value

    def critic_loss(self, params: Any, target: Array, batch: Transitions) -> tuple[Array, Metrics]:
        """sum_i mean (Q_i(s, a) - y)^2 (TD3, algorithm 1)."""
        q = self._critic.apply(params, batch.obs, batch.action).squeeze(-1)
        loss = losses.critic_error(q, target)
        return loss, {"critic/loss": loss, "critic/q": q.mean()}

    def actor_loss(self, params: Any, critic: Any, batch: Transitions, step: Array) -> tuple[Array, Metrics]:
        """mean (pi(s) - a)^2 - lambda mean Q_1(s, pi(s)), lambda = alpha / mean |Q_1| (paper, eqs. 3 and 5). It is the
        same at each ``step``."""
        action = jnp.tanh(self._actor.apply(params, batch.obs))
        q = self._first_q(critic, batch.obs, action)
        q_size = jax.lax.stop_gradient(jnp.abs(q).mean())
        distance = ((action - batch.action) ** 2).mean()
        loss = distance - self.config.alpha * q.mean() / q_size
        metrics = {"actor/loss": loss, "actor/q": q.mean(), "actor/distance": distance}
        return loss, metrics

    def act(self, state: TD3State, memory: Array, key: Key, *, greedy: bool) -> tuple[Array, Array]:
        """One action; the policy is deterministic."""
        action = jnp.tanh(self._actor.apply(state.actor.params, memory))
        return action[None], memory

    def value(self, state: TD3State, obs: Array, action: Array) -> Array:
        """min_i Q_i(s, a) [] of one observation and one action."""
        return self._critic.apply(state.critic.params, obs, action).min()

    def network(self, state: TD3State) -> networks.Network:
        """The greedy policy as a list of layers."""
        return networks.Network(self._actor.layers(state.actor.params), "tanh")

    def _zero_metrics(self, actor: Any, critic: Any, batch: Transitions, step: Array) -> Metrics:
        """Metrics of an update that leaves the actor as it is."""
        _, shapes = jax.eval_shape(self.actor_loss, actor, critic, batch, step)
        return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)

    def _first_q(self, critic: Any, obs: Array, action: Array) -> Array:
        """Q_1 [B]. The other critic does not count in the actor's loss, so it is not evaluated."""
        first = jax.tree.map(lambda leaf: leaf[:1], critic)
        network = self._critic.clone(size=1)
        return network.apply(first, obs, action).squeeze((0, -1))

    def _next_action(self, state: TD3State, batch: Transitions, key: Key) -> Array:
        """The target policy's action at s' with clipped noise, [B, A]."""
        limit = self.config.noise_clip
        action = jnp.tanh(self._actor.apply(state.target_actor, batch.next_obs))
        noise = self.config.policy_noise * jax.random.normal(key, action.shape)
        noise = jnp.clip(noise, -limit, limit)
        return jnp.clip(action + noise, -1, 1)

    def _next_value(self, state: TD3State, batch: Transitions, action: Array) -> Array:
        """min_i Q'_i(s', action) [B]."""
        values = self._critic.apply(state.target_critic, batch.next_obs, action)
        return values.squeeze(-1).min(0)

    @property
    def _actor(self) -> networks.MLP:
        return networks.MLP(self.config.widths, out=self.spec.action.shape[0], out_bound=1e-3)

    @property
    def _critic(self) -> networks.Ensemble:
        return networks.Ensemble(size=2, widths=self.config.widths, out=1, out_bound=3e-3)

    @property
    def _actor_optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.actor_learning_rate)

    @property
    def _critic_optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.critic_learning_rate)


_OFFICIAL = "sfujim/TD3_BC, main.py: alpha 2.5, observations standardised, 1M updates, for every Gym-MuJoCo dataset"
_TUNED = (
    "DT6A/ReBRAC, configs/td3_bc: the best of a tuning (Tarasov et al. 2023, arXiv 2305.09836), 1M updates, "
    "observations as they are. It sums the squared error of the imitation over the action dimensions, where this loss "
    "takes the mean, so alpha = 1 / (its coefficient x action dimensions). Its actor follows the smaller critic, this "
    "one the first, as in the paper of TD3+BC"
)
_TABLE = _TUNED + (
    ". Coefficients 0.4 (hopper) and 0.05 (walker2d), where the paper's table has 0.1: the files were taken, since the "
    "authors' runs for their results (configs/sweeps/eval) read them"
)
_ANTMAZE = _TUNED + "; the critics' learning rate 5e-5 and reward x 100 are the tuning's too"
_PENDULUM = (
    "this project, for the embedded dataset: small networks; alpha 40 and not 10, on a seed that is not evaluated"
)

# dataset -> coefficient of the imitation
_GYM_COEFFICIENTS = {
    "halfcheetah/random": 0.001,
    "halfcheetah/medium": 0.01,
    "halfcheetah/expert": 0.4,
    "halfcheetah/medium-expert": 0.1,
    "halfcheetah/medium-replay": 0.05,
    "halfcheetah/full-replay": 0.01,
    "hopper/random": 0.4,
    "hopper/medium": 0.05,
    "hopper/expert": 0.1,
    "hopper/medium-expert": 0.4,
    "hopper/medium-replay": 0.4,
    "hopper/full-replay": 0.01,
    "walker2d/random": 0.001,
    "walker2d/medium": 0.4,
    "walker2d/expert": 0.05,
    "walker2d/medium-expert": 0.05,
    "walker2d/medium-replay": 0.1,
    "walker2d/full-replay": 0.1,
}
_ANTMAZE_COEFFICIENTS = {
    "antmaze/umaze": 0.4,
    "antmaze/umaze-diverse": 0.4,
    "antmaze/medium-play": 0.003,
    "antmaze/medium-diverse": 0.003,
    "antmaze/large-play": 0.003,
    "antmaze/large-diverse": 0.003,
}
_ACTIONS = {"halfcheetah": 6, "hopper": 3, "walker2d": 6, "antmaze": 8}  # dimensions of an action


def _alpha(dataset: str, coefficient: float) -> float:
    """Weight of Q against a mean over the action dimensions, from the weight of a sum over them against Q."""
    robot, _, _ = dataset.partition("/")
    return 1 / (coefficient * _ACTIONS[robot])


PRESETS = {
    "pendulum": Preset(
        Config(alpha=40.0, widths=(64, 64), actor_learning_rate=1e-3, critic_learning_rate=1e-3), 6_000, _PENDULUM
    ),
    "d4rl": Preset(Config(), 1_000_000, _OFFICIAL, {"normalise": "standard"}),
}
for _name, _coefficient in _GYM_COEFFICIENTS.items():
    _config = Config(alpha=_alpha(_name, _coefficient))
    PRESETS[_name] = Preset(_config, 1_000_000, _TUNED)
for _name in ("hopper/medium-expert", "walker2d/medium-expert"):
    PRESETS[_name] = dataclasses.replace(PRESETS[_name], source=_TABLE)
for _name, _coefficient in _ANTMAZE_COEFFICIENTS.items():
    _config = Config(alpha=_alpha(_name, _coefficient), critic_learning_rate=5e-5)
    _data = {"reward_scale": 100.0}
    PRESETS[_name] = Preset(_config, 1_000_000, _ANTMAZE, _data)
