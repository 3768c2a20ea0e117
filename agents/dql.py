"""Diffusion-QL: a diffusion that clones the data while the gradient of Q runs through all its steps.

Wang, Hunt, Zhou: Diffusion Policies as an Expressive Policy Class for Offline Reinforcement Learning, ICLR 2023, arXiv
2208.06193. Official code: Zhendong-Wang/Diffusion-Policies-for-Offline-RL (PyTorch); the defaults are its settings.

The policy's loss is that of its noise prediction, less eta times the value of the action that all its steps make from
noise. Q is divided by the other critic's mean size, so that eta does not depend on the rewards' scale. To act, many
actions are drawn, and one of them by the softmax of its value.

Deviations from the official code: the critics' hidden biases start at 0.1 and their outputs small. The official scores
are of checkpoints that were chosen after training, by the cloning loss or by the score itself; here the last one
counts.
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
from rlkit.diffusion import prediction, samplers
from rlkit.diffusion.noise import Discrete
from rlkit.optim import Net
from rlkit.ranges import Count, Discount, LearningRate, Positive, TargetShare, Weight, Whole, Widths
from rlkit.types import Array, Key, Metrics, Preset, Spec, Stage, Stats, Transitions


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of Diffusion-QL."""

    eta: Weight = 1.0
    """Weight of Q, normalised, against the cloning: 0 clones the data."""
    levels: Count = 5
    """Noise levels of the diffusion, and steps of its sampler."""
    max_q_backup: bool = False
    """Whether the target takes the largest value of several next actions, for each critic apart, not that of one."""
    backups: Count = 10
    """Next actions that are drawn for that."""
    candidates: Count = 50
    """Actions that are drawn to act. It plays no part in training."""
    temperature: Positive = 1.0
    """Of the softmax over the candidates' values, in the rewards' units: towards 0 the best is taken."""
    widths: Widths = (256, 256, 256)
    """Hidden layers of the policy and of each critic."""
    gamma: Discount = 0.99
    """Discount per step."""
    tau: TargetShare = 0.005
    """Share of the online critics that the target critics take over at each update."""
    average: TargetShare = 0.005
    """Share of the policy that the averaged one, which makes the targets, takes over whenever it moves."""
    average_every: Count = 5
    """Updates between two moves of the average."""
    average_after: Whole = 1000
    """Updates before its first move."""
    clip: Positive | None = None
    """Largest norm of either gradient."""
    actor_learning_rate: LearningRate = 3e-4
    """Adam's step size for the policy."""
    critic_learning_rate: LearningRate = 3e-4
    """Adam's step size for the critics."""
    batch_size: Count = 256
    """Steps in a batch."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        spec.require_bounded_action("dql")
        return (Stage("dql", DQL(self, spec), steps),)


class DQLState(NamedTuple):
    """Networks and optimisers, the target critics and the policy's average."""

    actor: Net
    critic: Net
    target: Any
    average: Any


@dataclass(frozen=True)
class DQL(Reactive):
    """Learner of Diffusion-QL."""

    config: Config
    spec: Spec
    needs: tuple[str, ...] = ()

    def init(self, key: Key, prev: None, stats: Stats) -> DQLState:
        """Targets and the average start as copies."""
        actor_key, critic_key = jax.random.split(key)
        actor = self._actor.init(actor_key, stats.obs_mean, stats.action_mean, jnp.zeros(()))
        critic = self._critic.init(critic_key, stats.obs_mean, stats.action_mean)
        return DQLState(
            actor=optim.init(actor, self._actor_optimiser),
            critic=optim.init(critic, self._critic_optimiser),
            target=optim.target_copy(critic),
            average=optim.target_copy(actor),
        )

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        return buffer.transitions(key, self.config.batch_size, self.config.gamma)

    def update(self, state: DQLState, batch: Transitions, key: Key, step: Array) -> tuple[DQLState, Metrics]:
        """Update the critics, then the policy by the new critics, then the targets and, at times, the average."""
        target_key, actor_key = jax.random.split(key)
        target_value = self.target_value(state, batch, target_key)

        def critic_loss(params):
            return self.critic_loss(params, target_value, batch)

        def actor_loss(params):
            return self.actor_loss(params, critic.params, batch, actor_key)

        critic, critic_metrics = optim.descend(critic_loss, state.critic, self._critic_optimiser)
        actor, actor_metrics = optim.descend(actor_loss, state.actor, self._actor_optimiser)
        target = optim.polyak(state.target, critic.params, self.config.tau)
        moves = (step % self.config.average_every == 0) & (step >= self.config.average_after)
        share = jnp.where(moves, self.config.average, 0.0)
        average = optim.polyak(state.average, actor.params, share)
        return DQLState(actor, critic, target, average), critic_metrics | actor_metrics

    def target_value(self, state: DQLState, batch: Transitions, key: Key) -> Array:
        """y [B] = r + discount min_i Q'_i(s', a'), a' the averaged policy's (paper, eq. 4); with ``max_q_backup`` the
        largest Q'_i of several a' each (section 5)."""
        number = self.config.backups if self.config.max_q_backup else 1
        obs = jnp.repeat(batch.next_obs, number, axis=0)
        action = self.draw(state.average, obs, key)
        q = self._q(state.target, obs, action)
        q_of_each = q.reshape(2, -1, number)
        value = q_of_each.max(-1).min(0)
        return batch.reward + batch.discount * value

    def critic_loss(self, params: Any, target: Array, batch: Transitions) -> tuple[Array, Metrics]:
        """sum_i mean (Q_i(s, a) - y)^2 (paper, eq. 4)."""
        q = self._q(params, batch.obs, batch.action)
        loss = losses.critic_error(q, target)
        return loss, {"critic/loss": loss, "critic/q": q.mean()}

    def actor_loss(self, params: Any, critic: Any, batch: Transitions, key: Key) -> tuple[Array, Metrics]:
        """mean |f(s, a_t, t) - eps|^2 - eta mean Q_i(s, a) / mean |Q_j(s, a)|, a the policy's, and (i, j) either order
        of the two critics by chance (paper, eq. 3)."""
        cloning_key, action_key, order_key = jax.random.split(key, 3)
        cloning = self.cloning_loss(params, batch, cloning_key)
        action = self.draw(params, batch.obs, action_key)
        q = self._q(critic, batch.obs, action)
        is_in_order = jax.random.bernoulli(order_key)
        followed, other = jnp.where(is_in_order, q, q[::-1])
        size = jax.lax.stop_gradient(jnp.abs(other).mean())
        led = -followed.mean() / size
        loss = cloning + self.config.eta * led
        return loss, {"actor/loss": loss, "actor/cloning": cloning, "actor/q": q.mean()}

    def cloning_loss(self, params: Any, batch: Transitions, key: Key) -> Array:
        """mean over batch and dimensions of |f(s, a_t, t) - eps|^2, a_t the action noised to a random t (paper, eq.
        2)."""
        time_key, noise_key = jax.random.split(key)
        t = self._noise.draw(time_key, batch.action.shape[:1])
        z = jax.random.normal(noise_key, batch.action.shape)
        net = self._net(params, batch.obs)
        error = prediction.denoising_error("noise", self._noise, net, batch.action, z, t)
        return error.mean()

    def act(self, state: DQLState, memory: Array, key: Key, *, greedy: bool) -> tuple[Array, Array]:
        """One of the candidates, in proportion to exp(min_i Q'_i / temperature), whether ``greedy`` or not."""
        draw_key, choice_key = jax.random.split(key)
        number = self.config.candidates
        obs = jnp.broadcast_to(memory, (number, *memory.shape))
        actions = self.draw(state.actor.params, obs, draw_key)
        q = self._q(state.target, obs, actions).min(0)
        logits = q / self.config.temperature
        chosen = jax.random.categorical(choice_key, logits)
        return actions[chosen][None], memory

    def draw(self, params: Any, obs: Array, key: Key) -> Array:
        """[B, A]: an action for each of ``obs`` [B, O], from noise by all steps; their estimates are clipped."""
        start_key, steps_key = jax.random.split(key)
        shape = (obs.shape[0], *self.spec.action.shape)
        z = jax.random.normal(start_key, shape)
        net = self._net(params, obs)
        denoise = prediction.denoiser("noise", self._noise, net)
        end = samplers.sample(
            samplers.ddpm(),
            denoise,
            self._noise,
            z,
            self.config.levels,
            steps_key,
            clip=1.0,
        )
        return jnp.clip(end, -1, 1)

    def _net(self, params: Any, obs: Array) -> prediction.Net:
        """The policy's network as a function of a noised action [B, A] and a time [B]."""

        def net(x: Array, t: Array) -> Array:
            return self._actor.apply(params, obs, x, t * self.config.levels - 1)

        return net

    def _q(self, params: Any, obs: Array, action: Array) -> Array:
        """Q_i(s, a) [2, B]."""
        return self._critic.apply(params, obs, action).squeeze(-1)

    @property
    def _noise(self) -> Discrete:
        return Discrete("vp", self.config.levels)

    @property
    def _actor(self) -> networks.DenoisingMLP:
        return networks.DenoisingMLP(self.config.widths, self.spec.action.shape[0])

    @property
    def _critic(self) -> networks.Ensemble:
        return networks.Ensemble(2, self.config.widths, out=1, out_bound=3e-3, activation=jax.nn.mish)

    @property
    def _actor_optimiser(self) -> optax.GradientTransformation:
        return self._clipped(self.config.actor_learning_rate)

    @property
    def _critic_optimiser(self) -> optax.GradientTransformation:
        return self._clipped(self.config.critic_learning_rate)

    def _clipped(self, learning_rate: float) -> optax.GradientTransformation:
        """Adam, behind the clip of the gradient's norm if there is one."""
        adam = optax.adam(learning_rate)
        if self.config.clip is None:
            return adam
        return optax.chain(optax.clip_by_global_norm(self.config.clip), adam)


_OFFICIAL = (
    "Zhendong-Wang/Diffusion-Policies-for-Offline-RL, main.py: learning rate, eta, max-Q backup, clip, reward and "
    "length of each dataset. Its choice of a checkpoint by the cloning loss is not taken over"
)
_SMALL = "this project: what a core trains in about six minutes, few updates of small networks; not tuned"
_PENDULUM = "this project, for the embedded dataset: small networks, few updates"

# dataset -> (eta, clip)
_GYM = {
    "halfcheetah/medium": (1.0, 9.0),
    "hopper/medium": (1.0, 9.0),
    "walker2d/medium": (1.0, 1.0),
    "halfcheetah/medium-replay": (1.0, 2.0),
    "hopper/medium-replay": (1.0, 4.0),
    "walker2d/medium-replay": (1.0, 4.0),
    "halfcheetah/medium-expert": (1.0, 7.0),
    "hopper/medium-expert": (1.0, 5.0),
    "walker2d/medium-expert": (1.0, 5.0),
}
# dataset -> (eta, clip, max_q_backup, actor's learning rate)
_ANTMAZE = {
    "antmaze/umaze": (0.5, 2.0, False, 3e-4),
    "antmaze/umaze-diverse": (2.0, 3.0, True, 3e-4),
    "antmaze/medium-play": (2.0, 2.0, True, 1e-3),
    "antmaze/medium-diverse": (3.0, 1.0, True, 3e-4),
    "antmaze/large-play": (4.5, 10.0, True, 3e-4),
    "antmaze/large-diverse": (3.5, 7.0, True, 3e-4),
}
_PEN = {"pen/human": (0.15, 7.0), "pen/cloned": (0.1, 8.0)}
_KITCHEN = {
    "kitchen/complete": (9.0, 250_000),
    "kitchen/partial": (10.0, 1_000_000),
    "kitchen/mixed": (10.0, 1_000_000),
}

PRESETS = {
    "pendulum": Preset(
        Config(
            eta=10.0,
            widths=(64, 64),
            candidates=10,
            actor_learning_rate=1e-3,
            critic_learning_rate=1e-3,
            average_after=0,
        ),
        6_000,
        _PENDULUM,
    ),
    "hopper/small": Preset(Config(clip=9.0, widths=(128, 128, 128)), 12_000, _SMALL),
}
for _name, (_eta, _clip) in _GYM.items():
    PRESETS[_name] = Preset(Config(eta=_eta, clip=_clip), 2_000_000, _OFFICIAL)
for _name, (_eta, _clip, _backup, _rate) in _ANTMAZE.items():
    _config = Config(eta=_eta, clip=_clip, max_q_backup=_backup, actor_learning_rate=_rate)
    PRESETS[_name] = Preset(_config, 1_000_000, _OFFICIAL, {"reward_scale": 4.0, "reward_shift": -2.0})
for _name, (_eta, _clip) in _PEN.items():
    _config = Config(eta=_eta, clip=_clip, actor_learning_rate=3e-5)
    PRESETS[_name] = Preset(_config, 1_000_000, _OFFICIAL, {"reward": "standard"})
for _name, (_clip, _steps) in _KITCHEN.items():
    PRESETS[_name] = Preset(Config(eta=0.005, clip=_clip), _steps, _OFFICIAL)

VARIANTS = ({"max_q_backup": True},)
