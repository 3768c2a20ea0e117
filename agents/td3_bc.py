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

from rlkit import networks, optim
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
        """One stage."""
        spec.require_bounded_action("td3-bc")
        return (Stage("td3-bc", TD3BC(self, spec), steps),)


class TD3State(NamedTuple):
    """Everything that acting and further training need."""

    actor: Net
    critic: Net
    target_actor: Any
    target_critic: Any


@dataclass(frozen=True)
class TD3BC(Reactive):
    """The learner."""

    config: Config
    spec: Spec
    needs: tuple[str, ...] = ()

    def init(self, key: Key, prev: None, stats: Stats) -> TD3State:
        """Targets start as copies."""
        actor_key, critic_key = jax.random.split(key)
        actor = self._actor.init(actor_key, stats.obs_mean)
        critic = self._critic.init(critic_key, stats.obs_mean, stats.action_mean)
        return TD3State(
            actor=optim.init(actor, self._actor_optimiser),
            critic=optim.init(critic, self._critic_optimiser),
            target_actor=jax.tree.map(jnp.copy, actor),  # copies, since the state is donated
            target_critic=jax.tree.map(jnp.copy, critic),
        )

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        """Recorded steps."""
        return buffer.transitions(key, self.config.batch_size, self.config.gamma)

    def update(self, state: TD3State, batch: Transitions, key: Key, step: Array) -> tuple[TD3State, Metrics]:
        """Critics; then, every ``policy_delay`` updates, the actor against the new critics, and the targets."""
        target = self.target_value(state, batch, key)
        critic, critic_metrics = optim.descend(
            lambda p: self.critic_loss(p, target, batch), state.critic, self._critic_optimiser
        )
        moved = (state.actor, state.target_actor, state.target_critic)
        metrics = jax.eval_shape(lambda: self.actor_loss(state.actor.params, critic.params, batch)[1])
        moved, actor_metrics = jax.lax.cond(
            step % self.config.policy_delay == 0,
            lambda: self._move(*moved, critic.params, batch),
            lambda: (moved, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)),
        )
        actor, target_actor, target_critic = moved
        return TD3State(actor, critic, target_actor, target_critic), critic_metrics | actor_metrics

    def target_value(self, state: TD3State, batch: Transitions, key: Key) -> Array:
        """y = r + discount min_i Q'_i(s', clip(pi'(s') + noise)), noise ~ clip(N(0, policy_noise)) (TD3, eq. 14)."""
        return batch.reward + batch.discount * self._next_value(state, batch, self._next_action(state, batch, key))

    def critic_loss(self, params: Any, target: Array, batch: Transitions) -> tuple[Array, Metrics]:
        """sum_i mean (Q_i(s, a) - y)^2."""
        q = self._critic.apply(params, batch.obs, batch.action).squeeze(-1)
        loss = ((q - target[None]) ** 2).mean(1).sum(0)
        return loss, {"critic/loss": loss, "critic/q": q.mean()}

    def actor_loss(self, params: Any, critic: Any, batch: Transitions) -> tuple[Array, Metrics]:
        """mean (pi(s) - a)^2 - lambda mean Q_1(s, pi(s)), lambda = alpha / mean |Q_1| (paper, eqs. 3 and 5)."""
        action = jnp.tanh(self._actor.apply(params, batch.obs))
        first = jax.tree.map(lambda x: x[:1], critic)  # one critic counts, so only one is evaluated
        q = self._critic.clone(size=1).apply(first, batch.obs, action).squeeze((0, -1))
        distance = ((action - batch.action) ** 2).mean()
        loss = distance - self.config.alpha * q.mean() / jax.lax.stop_gradient(jnp.abs(q).mean())
        return loss, {"actor/loss": loss, "actor/q": q.mean(), "actor/distance": distance}

    def act(self, state: TD3State, memory: Array, key: Key, *, greedy: bool) -> tuple[Array, Array]:
        """One action; the policy is deterministic."""
        return jnp.tanh(self._actor.apply(state.actor.params, memory))[None], memory

    def _move(
        self, actor: Net, target_actor: Any, target_critic: Any, critic: Any, batch: Transitions
    ) -> tuple[tuple[Net, Any, Any], Metrics]:
        """One step of the actor and of the targets. The metrics are multiplied by the delay, so that their means over
        updates are those over the actor's."""
        c = self.config
        actor, metrics = optim.descend(lambda p: self.actor_loss(p, critic, batch), actor, self._actor_optimiser)
        targets = optim.polyak(target_actor, actor.params, c.tau), optim.polyak(target_critic, critic, c.tau)
        return (actor, *targets), jax.tree.map(lambda x: c.policy_delay * x, metrics)

    def _next_action(self, state: TD3State, batch: Transitions, key: Key) -> Array:
        action = jnp.tanh(self._actor.apply(state.target_actor, batch.next_obs))
        noise = self.config.policy_noise * jax.random.normal(key, action.shape)
        return jnp.clip(action + jnp.clip(noise, -self.config.noise_clip, self.config.noise_clip), -1, 1)

    def _next_value(self, state: TD3State, batch: Transitions, action: Array) -> Array:
        return self._critic.apply(state.target_critic, batch.next_obs, action).squeeze(-1).min(0)

    @property
    def _actor(self) -> networks.MLP:
        return networks.MLP(self.config.widths, self.spec.action.shape[0], out_bound=1e-3)

    @property
    def _critic(self) -> networks.Ensemble:
        return networks.Ensemble(2, self.config.widths, 1, out_bound=3e-3)

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

# coefficient of the imitation for random, medium, expert, medium-expert, medium-replay, full-replay
_KINDS = ("random", "medium", "expert", "medium-expert", "medium-replay", "full-replay")
_GYM_COEFFICIENTS = {
    "halfcheetah": (0.001, 0.01, 0.4, 0.1, 0.05, 0.01),
    "hopper": (0.4, 0.05, 0.1, 0.4, 0.4, 0.01),
    "walker2d": (0.001, 0.4, 0.05, 0.05, 0.1, 0.1),
}
_ANTMAZE_COEFFICIENTS = {
    "umaze": 0.4,
    "umaze-diverse": 0.4,
    "medium-play": 0.003,
    "medium-diverse": 0.003,
    "large-play": 0.003,
    "large-diverse": 0.003,
}
_ACTIONS = {"halfcheetah": 6, "hopper": 3, "walker2d": 6, "antmaze": 8}  # dimensions of an action


def _alpha(world: str, coefficient: float) -> float:
    """The weight of Q against a mean over action dimensions, from the weight of a sum over them against Q."""
    return 1 / (coefficient * _ACTIONS[world])


PRESETS = {
    "pendulum": Preset(
        Config(alpha=40.0, widths=(64, 64), actor_learning_rate=1e-3, critic_learning_rate=1e-3), 6_000, _PENDULUM
    ),
    "d4rl": Preset(Config(), 1_000_000, _OFFICIAL, {"normalise": "standard"}),
}
for _world, _coefficients in _GYM_COEFFICIENTS.items():
    for _kind, _coefficient in zip(_KINDS, _coefficients, strict=True):
        PRESETS[f"{_world}/{_kind}"] = Preset(Config(alpha=_alpha(_world, _coefficient)), 1_000_000, _TUNED)
for _name in ("hopper/medium-expert", "walker2d/medium-expert"):
    PRESETS[_name] = dataclasses.replace(PRESETS[_name], source=_TABLE)
for _kind, _coefficient in _ANTMAZE_COEFFICIENTS.items():
    PRESETS[f"antmaze/{_kind}"] = Preset(
        Config(alpha=_alpha("antmaze", _coefficient), critic_learning_rate=5e-5),
        1_000_000,
        _ANTMAZE,
        {"reward_scale": 100.0},
    )
