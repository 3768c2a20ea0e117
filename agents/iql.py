"""IQL: implicit Q-learning, which never asks the critics about an action that is not in the data.

Kostrikov, Nair, Levine: Offline Reinforcement Learning with Implicit Q-Learning, ICLR 2022, arXiv 2110.06169. Official
code: ikostrikov/implicit_q_learning (JAX); the defaults are its settings for Gym-MuJoCo.

V is an upper expectile of the target critics' values over the data's actions, Q regresses on r + gamma V(s'), and the
policy clones the data's actions with weights exp(beta (Q - V)). Continuous actions: a Gaussian around tanh(f(obs)) with
one standard deviation for all observations; discrete actions: a softmax, and critics with an output per action.

Deviations from the official code: the three losses all see the parameters at the start of the update, where the
official actor and critics see the new V (so that each network is evaluated once on each batch of inputs); hidden layers
start fan-in uniform and outputs small, not orthogonal.
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
from rlkit.ranges import Count, Discount, Fraction, LearningRate, Positive, TargetShare, Weight, Widths
from rlkit.types import Array, Discrete, Key, Metrics, Preset, Spec, Stage, Stats, Transitions


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of IQL."""

    expectile: Fraction = 0.7
    """Expectile of Q over the data's actions that V is: 0.5 is their mean, towards 1 their best."""
    beta: Weight = 3.0
    """Inverse temperature of the policy's weights exp(beta (Q - V)), to suit the rewards' scale: 0 clones the data."""
    max_weight: Positive = 100.0
    """Largest weight of one step."""
    widths: Widths = (256, 256)
    """Hidden layers of the actor, of each critic and of V."""
    gamma: Discount = 0.99
    """Discount per step."""
    tau: TargetShare = 0.005
    """Share of the online critics that the target critics take over at each update."""
    actor_learning_rate: LearningRate = 3e-4
    """Adam's step size for the actor at the start; it falls to 0 along a cosine over all updates."""
    critic_learning_rate: LearningRate = 3e-4
    """Adam's step size for the critics and V."""
    batch_size: Count = 256
    """Steps in a batch."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        """One stage."""
        if not isinstance(spec.action, Discrete):
            spec.require_bounded_action("iql")
        return (Stage("iql", IQL(self, spec, steps), steps),)


class IQLState(NamedTuple):
    """Everything that acting and further training need."""

    actor: Net
    critic: Net
    target: Any
    value: Net


@dataclass(frozen=True)
class IQL(Reactive):
    """The learner; ``steps`` is how many updates the actor's learning rate takes to fall to 0."""

    config: Config
    spec: Spec
    steps: int
    needs: tuple[str, ...] = ()

    def init(self, key: Key, prev: None, stats: Stats) -> IQLState:
        """Target critics start as copies of the critics."""
        actor_key, critic_key, value_key = jax.random.split(key, 3)
        obs = stats.obs_mean
        critic = self._critic.init(critic_key, *((obs,) if self._discrete else (obs, stats.action_mean)))
        return IQLState(
            actor=optim.init(self._actor.init(actor_key, obs), self._actor_optimiser),
            critic=optim.init(critic, self._critic_optimiser),
            target=jax.tree.map(jnp.copy, critic),  # a copy, since the state is donated
            value=optim.init(self._value.init(value_key, obs), self._critic_optimiser),
        )

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        """Recorded steps."""
        return buffer.transitions(key, self.config.batch_size, self.config.gamma)

    def update(self, state: IQLState, batch: Transitions, key: Key, step: Array) -> tuple[IQLState, Metrics]:
        """V, actor and critics from the same parameters, then the targets."""
        q = self._q(state.target, batch).min(0)
        target = batch.reward + batch.discount * self._v(state.value.params, batch.next_obs)
        value, advantage = optim.descend(lambda p: self.value_loss(p, q, batch), state.value, self._critic_optimiser)
        actor, actor_metrics = optim.descend(
            lambda p: self.actor_loss(p, advantage, batch), state.actor, self._actor_optimiser
        )
        critic, critic_metrics = optim.descend(
            lambda p: self.critic_loss(p, target, batch), state.critic, self._critic_optimiser
        )
        state = IQLState(actor, critic, optim.polyak(state.target, critic.params, self.config.tau), value)
        value_metrics = {
            "value/loss": losses.expectile(advantage, self.config.expectile).mean(),
            "value/advantage": advantage.mean(),
        }
        return state, actor_metrics | critic_metrics | value_metrics

    def value_loss(self, params: Any, q: Array, batch: Transitions) -> tuple[Array, Array]:
        """mean L2^expectile(min_i Q'_i(s, a) - V(s)) (paper, eq. 5), and the advantages [B] in it."""
        advantage = q - self._v(params, batch.obs)
        return losses.expectile(advantage, self.config.expectile).mean(), advantage

    def critic_loss(self, params: Any, target: Array, batch: Transitions) -> tuple[Array, Metrics]:
        """sum_i mean (Q_i(s, a) - r - discount V(s'))^2 (paper, eq. 6)."""
        q = self._q(params, batch)
        loss = ((q - target[None]) ** 2).mean(1).sum(0)
        return loss, {"critic/loss": loss, "critic/q": q.mean()}

    def actor_loss(self, params: Any, advantage: Array, batch: Transitions) -> tuple[Array, Metrics]:
        """-mean min(exp(beta (Q - V)), max_weight) log pi(a|s) (paper, eq. 7)."""
        c, output = self.config, self._actor.apply(params, batch.obs)
        if self._discrete:
            log_prob = -optax.softmax_cross_entropy_with_integer_labels(output, batch.action)
        else:
            mean, log_std = output
            log_prob = networks.normal_log_prob(jnp.tanh(mean), log_std, batch.action)
        weight = losses.advantage_weight(advantage, c.beta, c.max_weight)
        loss = -(weight * log_prob).mean()
        return loss, {"actor/loss": loss, "actor/log_prob": log_prob.mean(), "actor/weight": weight.mean()}

    def act(self, state: IQLState, memory: Array, key: Key, *, greedy: bool) -> tuple[Array, Array]:
        """One action: the mean or the likeliest if ``greedy``, else a sample, clipped to the bounds."""
        output = self._actor.apply(state.actor.params, memory)
        if self._discrete:
            action = jnp.argmax(output) if greedy else jax.random.categorical(key, output)
            return action.astype(jnp.int32)[None], memory
        mean, log_std = jnp.tanh(output[0]), output[1]
        return (mean if greedy else networks.normal_sample(mean, log_std, key))[None], memory

    def _q(self, params: Any, batch: Transitions) -> Array:
        """Q_i(s, a) [critics, B] of the recorded actions."""
        if not self._discrete:
            return self._critic.apply(params, batch.obs, batch.action).squeeze(-1)
        q = self._critic.apply(params, batch.obs)
        return jnp.take_along_axis(q, batch.action[None, :, None], -1).squeeze(-1)

    def _v(self, params: Any, obs: Array) -> Array:
        return self._value.apply(params, obs).squeeze(-1)

    @property
    def _discrete(self) -> bool:
        return isinstance(self.spec.action, Discrete)

    @property
    def _actor(self) -> networks.MLP | networks.GaussianPolicy:
        if self._discrete:
            return networks.MLP(self.config.widths, self.spec.action.n, out_bound=1e-3)
        return networks.GaussianPolicy(self.config.widths, self.spec.action.shape[0], std_head=False)

    @property
    def _critic(self) -> networks.Ensemble:
        return networks.Ensemble(2, self.config.widths, self.spec.action.n if self._discrete else 1, out_bound=3e-3)

    @property
    def _value(self) -> networks.MLP:
        return networks.MLP(self.config.widths, 1, out_bound=3e-3)

    @property
    def _actor_optimiser(self) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(self.config.actor_learning_rate, self.steps))

    @property
    def _critic_optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.critic_learning_rate)


_REBRAC = (
    "expectile and beta: the best for this dataset in the tuning of ReBRAC (Tarasov et al. 2023, arXiv 2305.09836). "
    "The rest: CORL, configs/offline/iql, 1M updates, observations standardised, "
)
_PLAIN = _REBRAC + (
    "rewards as they are. ikostrikov/implicit_q_learning scales them to a range of returns of 1000 and leaves "
    "observations alone; CORL was taken, since beta is tied to the scale of rewards and the tuning ran in PyTorch, "
    "most likely on CORL"
)
_SCALED = _REBRAC + (
    "rewards scaled to a range of returns of 1000 and tau 0.001, which CORL has for hopper/medium and "
    "hopper/medium-replay alone; its deterministic policy for these two is not taken over"
)
_ANTMAZE = _REBRAC + (
    "reward - 1, as in ikostrikov/implicit_q_learning too, which leaves observations alone; CORL was taken, as on "
    "Gym-MuJoCo"
)
_ADROIT = "CORL, configs/offline/iql: expectile 0.8, beta 3 for all of Adroit; its dropout is listed but not in effect"
_KITCHEN = "ikostrikov/implicit_q_learning: expectile 0.7, beta 0.5; without the official dropout of 0.1 on the actor"
_PENDULUM = "this project, for the embedded dataset: the defaults, few updates"
_CARTPOLE = "this project, for small sets of CartPole: small networks, few updates; not tuned"
_SEPSIS = (
    "this project, for one-hot observations: one narrow layer, few updates, no discount since the world has none; beta "
    "for returns up to 1, the better of 30 and 100 on seed 100"
)

# (beta, expectile) for random, medium, expert, medium-expert, medium-replay, full-replay
_KINDS = ("random", "medium", "expert", "medium-expert", "medium-replay", "full-replay")
_GYM_PAIRS = {
    "halfcheetah": ((3.0, 0.95), (3.0, 0.95), (6.0, 0.9), (3.0, 0.7), (3.0, 0.95), (1.0, 0.7)),
    "hopper": ((1.0, 0.95), (3.0, 0.7), (3.0, 0.5), (6.0, 0.7), (6.0, 0.7), (10.0, 0.9)),
    "walker2d": ((0.5, 0.9), (6.0, 0.5), (6.0, 0.9), (1.0, 0.5), (0.5, 0.7), (1.0, 0.7)),
}
_ANTMAZE_PAIRS = {
    "umaze": (10.0, 0.7),
    "umaze-diverse": (10.0, 0.95),
    "medium-play": (6.0, 0.9),
    "medium-diverse": (6.0, 0.9),
    "large-play": (10.0, 0.9),
    "large-diverse": (6.0, 0.9),
}

PRESETS = {
    "pendulum": Preset(Config(), 5_000, _PENDULUM),
    "cartpole": Preset(Config(widths=(64, 64), actor_learning_rate=1e-3, critic_learning_rate=1e-3), 5_000, _CARTPOLE),
    "icu-sepsis": Preset(
        Config(beta=30.0, widths=(64,), gamma=1.0, actor_learning_rate=1e-3, critic_learning_rate=1e-3), 5_000, _SEPSIS
    ),
    "adroit": Preset(Config(expectile=0.8), 1_000_000, _ADROIT, {"normalise": "standard"}),
    "kitchen": Preset(Config(beta=0.5), 1_000_000, _KITCHEN),
}
for _world, _pairs in _GYM_PAIRS.items():
    for _kind, (_beta, _expectile) in zip(_KINDS, _pairs, strict=True):
        _name, _config, _data = f"{_world}/{_kind}", Config(expectile=_expectile, beta=_beta), {"normalise": "standard"}
        PRESETS[_name] = Preset(_config, 1_000_000, _PLAIN, _data)
for _name in ("hopper/medium", "hopper/medium-replay"):
    _config, _data = dataclasses.replace(PRESETS[_name].config, tau=0.001), {"reward": "return-range"}
    PRESETS[_name] = Preset(_config, 1_000_000, _SCALED, PRESETS[_name].data | _data)
for _kind, (_beta, _expectile) in _ANTMAZE_PAIRS.items():
    PRESETS[f"antmaze/{_kind}"] = Preset(
        Config(expectile=_expectile, beta=_beta), 1_000_000, _ANTMAZE, {"normalise": "standard", "reward_shift": -1.0}
    )
