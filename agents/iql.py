"""IQL: implicit Q-learning, which never asks the critics about an action that is not in the data.

Kostrikov, Nair, Levine: Offline Reinforcement Learning with Implicit Q-Learning, ICLR 2022, arXiv 2110.06169. Official
code: ikostrikov/implicit_q_learning (JAX); the defaults are its settings for Gym-MuJoCo.

V is an upper expectile of the target critics' values over the data's actions, Q regresses on r + gamma V(s'), and the
policy clones the data's actions with weights exp(beta (Q - V)). Continuous actions: a Gaussian around tanh(f(obs)) with
one standard deviation for all observations; discrete actions: a softmax, and critics with an output per action.

Deviations from the official code: the three losses all see the parameters at the start of the update, where the
official actor and critics see the new V (so that each network is evaluated once on each batch of inputs); hidden layers
start fan-in uniform and outputs small, not orthogonal.

Online the actor's step size stays at its first value, since the cosine has run out; nothing else changes. The official
code, where it goes online (configs/antmaze_finetune_config.py), has no cosine before that either.
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
from rlkit.online import Online, continued
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
    """Adam's step size for the actor at the start; it falls to 0 along a cosine over all offline updates."""
    critic_learning_rate: LearningRate = 3e-4
    """Adam's step size for the critics and V."""
    batch_size: Count = 256
    """Steps in a batch."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        if not isinstance(spec.action, Discrete):
            spec.require_bounded_action("iql")
        return (Stage("iql", IQL(self, spec, steps), steps),)

    def online(self, spec: Spec, stages: tuple[Stage, ...], online: Online) -> tuple[Stage, ...]:
        """It goes on with the step size of the start."""
        return (continued(stages[-1], online, steps=None),)


class IQLState(NamedTuple):
    """Networks, optimisers and the target critics: all that acting and training need."""

    actor: Net
    critic: Net
    target: Any
    value: Net


@dataclass(frozen=True)
class IQL(Reactive):
    """Learner of IQL. The actor's learning rate falls to 0 within ``steps`` updates; None: it stays."""

    config: Config
    spec: Spec
    steps: int | None
    needs: tuple[str, ...] = ()

    def init(self, key: Key, prev: None, stats: Stats) -> IQLState:
        """Target critics start as copies of the critics."""
        actor_key, critic_key, value_key = jax.random.split(key, 3)
        actor = self.init_actor(actor_key, stats)
        if self._discrete:
            critic = self._critic.init(critic_key, stats.obs_mean)
        else:
            critic = self._critic.init(critic_key, stats.obs_mean, stats.action_mean)
        value = self._value.init(value_key, stats.obs_mean)
        return IQLState(
            actor=optim.init(actor, self._actor_optimiser),
            critic=optim.init(critic, self._critic_optimiser),
            target=optim.target_copy(critic),
            value=optim.init(value, self._critic_optimiser),
        )

    def init_actor(self, key: Key, stats: Stats) -> Any:
        return self._actor.init(key, stats.obs_mean)

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        return buffer.transitions(key, self.config.batch_size, self.config.gamma)

    def update(self, state: IQLState, batch: Transitions, key: Key, step: Array) -> tuple[IQLState, Metrics]:
        """Update V, actor and critics, all from the parameters before this update, then the targets."""
        q = self._q(state.target, batch.obs, batch.action).min(0)
        next_value = self._v(state.value.params, batch.next_obs)
        target_value = batch.reward + batch.discount * next_value

        def value_loss(params):
            return self.value_loss(params, q, batch)

        def critic_loss(params):
            return self.critic_loss(params, target_value, batch)

        value, advantage = optim.descend(value_loss, state.value, self._critic_optimiser)
        actor, actor_metrics = self.update_actor(state.actor, advantage, batch, key)
        critic, critic_metrics = optim.descend(critic_loss, state.critic, self._critic_optimiser)
        target = optim.polyak(state.target, critic.params, self.config.tau)
        metrics = actor_metrics | critic_metrics
        metrics["value/loss"] = losses.expectile(advantage, self.config.expectile).mean()
        metrics["value/advantage"] = advantage.mean()
        return state._replace(actor=actor, critic=critic, target=target, value=value), metrics

    def update_actor(self, actor: Net, advantage: Array, batch: Transitions, key: Key) -> tuple[Net, Metrics]:
        """One step of the policy, given the advantages [B] of the recorded actions."""

        def actor_loss(params):
            return self.actor_loss(params, advantage, batch)

        return optim.descend(actor_loss, actor, self._actor_optimiser)

    def value_loss(self, params: Any, q: Array, batch: Transitions) -> tuple[Array, Array]:
        """mean L2^expectile(min_i Q'_i(s, a) - V(s)) (paper, eq. 5), and the advantages [B] in it."""
        advantage = q - self._v(params, batch.obs)
        loss = losses.expectile(advantage, self.config.expectile).mean()
        return loss, advantage

    def critic_loss(self, params: Any, target: Array, batch: Transitions) -> tuple[Array, Metrics]:
        """sum_i mean (Q_i(s, a) - r - discount V(s'))^2 (paper, eq. 6)."""
        q = self._q(params, batch.obs, batch.action)
        loss = losses.critic_error(q, target)
        return loss, {"critic/loss": loss, "critic/q": q.mean()}

    def actor_loss(self, params: Any, advantage: Array, batch: Transitions) -> tuple[Array, Metrics]:
        """-mean min(exp(beta (Q - V)), max_weight) log pi(a|s) (paper, eq. 7)."""
        log_prob = self._log_prob(params, batch)
        weight = losses.advantage_weight(advantage, self.config.beta, self.config.max_weight)
        loss = -(weight * log_prob).mean()
        metrics = {"actor/loss": loss, "actor/log_prob": log_prob.mean(), "actor/weight": weight.mean()}
        return loss, metrics

    def act(self, state: IQLState, memory: Array, key: Key, *, greedy: bool) -> tuple[Array, Array]:
        """One action: the mean or the likeliest if ``greedy``, else a sample, clipped to the bounds."""
        if self._discrete:
            logits = self._actor.apply(state.actor.params, memory)
            if greedy:
                action = jnp.argmax(logits)
            else:
                action = jax.random.categorical(key, logits)
            action = action.astype(jnp.int32)
        else:
            output, log_std = self._actor.apply(state.actor.params, memory)
            mean = jnp.tanh(output)
            if greedy:
                action = mean
            else:
                action = networks.normal_sample(mean, log_std, key)
        return action[None], memory

    def probabilities(self, state: IQLState, obs: Array) -> Array:
        """[n] of the choices, where actions are discrete."""
        return jax.nn.softmax(self._actor.apply(state.actor.params, obs))

    def network(self, state: IQLState) -> networks.Network:
        """The greedy policy as a list of layers."""
        head = "softmax" if self._discrete else "tanh"
        return networks.Network(self._actor.layers(state.actor.params), head)

    def value(self, state: IQLState, obs: Array, action: Array) -> Array:
        """min_i Q_i(s, a) [] of one observation and one action."""
        return self._q(state.critic.params, obs[None], action[None]).min()

    def _log_prob(self, params: Any, batch: Transitions) -> Array:
        """log pi(a|s) [B] of the recorded actions."""
        if self._discrete:
            logits = self._actor.apply(params, batch.obs)
            return -optax.softmax_cross_entropy_with_integer_labels(logits, batch.action)
        output, log_std = self._actor.apply(params, batch.obs)
        mean = jnp.tanh(output)
        return networks.normal_log_prob(mean, log_std, batch.action)

    def _q(self, params: Any, obs: Array, action: Array) -> Array:
        """Q_i(s, a) [critics, B]."""
        if self._discrete:
            values = self._critic.apply(params, obs)
            q = jnp.take_along_axis(values, action[None, :, None], -1)
        else:
            q = self._critic.apply(params, obs, action)
        return q.squeeze(-1)

    def _v(self, params: Any, obs: Array) -> Array:
        """V(s) [B]."""
        return self._value.apply(params, obs).squeeze(-1)

    @property
    def _discrete(self) -> bool:
        return isinstance(self.spec.action, Discrete)

    @property
    def _actor(self) -> networks.MLP | networks.GaussianPolicy:
        widths = self.config.widths
        if self._discrete:
            return networks.MLP(widths, out=self.spec.action.n, out_bound=1e-3)
        return networks.GaussianPolicy(widths, actions=self.spec.action.shape[0], std_head=False)

    @property
    def _critic(self) -> networks.Ensemble:
        """An output for every action where actions are discrete; else one, and the action is an input."""
        out = self.spec.action.n if self._discrete else 1
        return networks.Ensemble(size=2, widths=self.config.widths, out=out, out_bound=3e-3)

    @property
    def _value(self) -> networks.MLP:
        return networks.MLP(self.config.widths, out=1, out_bound=3e-3)

    @property
    def _actor_optimiser(self) -> optax.GradientTransformation:
        return optax.adam(optim.fall(self.config.actor_learning_rate, self.steps))

    @property
    def _critic_optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.critic_learning_rate)


_REBRAC = (
    "expectile and beta: the best for this dataset in the tuning of ReBRAC (Tarasov et al. 2023, arXiv 2305.09836). "
    "The rest: CORL, configs/offline/iql, 1M updates, observations standardised, "
)
_UNSCALED = _REBRAC + (
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

# dataset -> (beta, expectile)
_GYM_PAIRS = {
    "halfcheetah/random": (3.0, 0.95),
    "halfcheetah/medium": (3.0, 0.95),
    "halfcheetah/expert": (6.0, 0.9),
    "halfcheetah/medium-expert": (3.0, 0.7),
    "halfcheetah/medium-replay": (3.0, 0.95),
    "halfcheetah/full-replay": (1.0, 0.7),
    "hopper/random": (1.0, 0.95),
    "hopper/medium": (3.0, 0.7),
    "hopper/expert": (3.0, 0.5),
    "hopper/medium-expert": (6.0, 0.7),
    "hopper/medium-replay": (6.0, 0.7),
    "hopper/full-replay": (10.0, 0.9),
    "walker2d/random": (0.5, 0.9),
    "walker2d/medium": (6.0, 0.5),
    "walker2d/expert": (6.0, 0.9),
    "walker2d/medium-expert": (1.0, 0.5),
    "walker2d/medium-replay": (0.5, 0.7),
    "walker2d/full-replay": (1.0, 0.7),
}
_ANTMAZE_PAIRS = {
    "antmaze/umaze": (10.0, 0.7),
    "antmaze/umaze-diverse": (10.0, 0.95),
    "antmaze/medium-play": (6.0, 0.9),
    "antmaze/medium-diverse": (6.0, 0.9),
    "antmaze/large-play": (10.0, 0.9),
    "antmaze/large-diverse": (6.0, 0.9),
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
for _name, (_beta, _expectile) in _GYM_PAIRS.items():
    _config = Config(expectile=_expectile, beta=_beta)
    _data = {"normalise": "standard"}
    PRESETS[_name] = Preset(_config, 1_000_000, _UNSCALED, _data)
for _name in ("hopper/medium", "hopper/medium-replay"):
    _config = dataclasses.replace(PRESETS[_name].config, tau=0.001)
    _data = {"normalise": "standard", "reward": "return-range"}
    PRESETS[_name] = Preset(_config, 1_000_000, _SCALED, _data)
for _name, (_beta, _expectile) in _ANTMAZE_PAIRS.items():
    _config = Config(expectile=_expectile, beta=_beta)
    _data = {"normalise": "standard", "reward_shift": -1.0}
    PRESETS[_name] = Preset(_config, 1_000_000, _ANTMAZE, _data)
