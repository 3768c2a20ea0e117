"""IDQL: the critics of IQL, and of many actions that a clone draws the one that they value most.

Hansen-Estruch, Kostrikov, Janner, Grudzien Kuba, Levine: IDQL: Implicit Q-Learning as an Actor-Critic Method with
Diffusion Policies, 2023, arXiv 2304.10573. Official code: philippe-eecs/IDQL (JAX); the defaults are its settings. With
``policy`` flow it is IFQL (Park et al. 2025, arXiv 2502.02538; official code: seohongpark/fql).

The policy clones the data, whatever the critics say: a diffusion of few steps, or a flow. Nothing is improved until it
acts. So how many candidates there are can be chosen after training.

Deviations from the official code: V, critics and policy see the parameters at the start of the update, and each takes
one step (IDQL's policy takes two for one of the critics); a flow's candidates are valued by the target critics, as a
diffusion's are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agents.iql import IQL
from rlkit import networks, optim
from rlkit.diffusion import prediction, samplers
from rlkit.diffusion.noise import Discrete, Noise, Straight
from rlkit.online import Online, continued
from rlkit.optim import Net
from rlkit.ranges import Count, Discount, Fraction, LearningRate, Range, TargetShare, Widths
from rlkit.types import Array, Key, Metrics, Preset, Spec, Stage, Stats, Transitions


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of IDQL and IFQL."""

    policy: Literal["diffusion", "flow"] = "diffusion"
    """How the data are cloned. diffusion: by a residual network that predicts the noise, with critics of ReLU layers.
    flow: by a perceptron that predicts the velocity, with critics of GELU and LayerNorm."""
    candidates: Count = 64
    """Actions that the policy draws when it acts, of which the target critics choose the best. It plays no part in
    training: 1 is the clone."""
    levels: Count = 5
    """Noise levels of the diffusion, and steps of its sampler."""
    flow_steps: Count = 10
    """Euler steps of the flow."""
    expectile: Fraction = 0.7
    """Expectile of Q over the data's actions that V is: 0.5 is their mean, towards 1 their best."""
    widths: Widths = (256, 256)
    """Hidden layers of each critic and of V."""
    flow_widths: Widths = (512, 512, 512, 512)
    """Hidden layers of the flow."""
    block_width: Count = 256
    """Width of the diffusion's residual blocks."""
    blocks: Count = 3
    """Residual blocks of the diffusion."""
    dropout: Annotated[float, Range("[0, 1)")] = 0.1
    """Share of activations that the blocks drop while training."""
    gamma: Discount = 0.99
    """Discount per step."""
    tau: TargetShare = 0.005
    """Share of the online critics that the target critics take over at each update."""
    average: TargetShare = 0.001
    """Share of the policy that the averaged one, which acts, takes over at each update; 1 is the policy itself."""
    decay: bool = True
    """Whether the policy's step size falls to 0 along a cosine over all updates."""
    actor_learning_rate: LearningRate = 3e-4
    """Adam's step size for the policy."""
    critic_learning_rate: LearningRate = 3e-4
    """Adam's step size for the critics and V."""
    batch_size: Count = 512
    """Steps in a batch."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        spec.require_bounded_action("idql")
        return (Stage("idql", IDQL(self, spec, steps), steps),)

    def online(self, spec: Spec, stages: tuple[Stage, ...], online: Online) -> tuple[Stage, ...]:
        """It goes on with the step size of the start."""
        return (continued(stages[-1], online, steps=None),)


class IDQLState(NamedTuple):
    """IQL's networks, of which the actor is the clone, and the clone's average."""

    actor: Net
    critic: Net
    target: Any
    value: Net
    average: Any


@dataclass(frozen=True)
class IDQL(IQL):
    """Learner of IDQL: IQL's with another policy."""

    config: Config
    network = None  # its policy denoises, and is no list of layers as IQL's is

    def init(self, key: Key, prev: None, stats: Stats) -> IDQLState:
        """Targets and the average start as copies."""
        state = super().init(key, prev, stats)
        return IDQLState(*state, optim.target_copy(state.actor.params))

    def init_actor(self, key: Key, stats: Stats) -> Any:
        return self._actor.init(key, stats.obs_mean, stats.action_mean, self._told(jnp.zeros(())))

    def update(self, state: IDQLState, batch: Transitions, key: Key, step: Array) -> tuple[IDQLState, Metrics]:
        """IQL's update, then the average moves."""
        state, metrics = super().update(state, batch, key, step)
        average = optim.polyak(state.average, state.actor.params, self.config.average)
        return state._replace(average=average), metrics

    def update_actor(self, actor: Net, advantage: Array, batch: Transitions, key: Key) -> tuple[Net, Metrics]:
        """One step of the clone, which does not see the advantages."""

        def loss(params):
            return self.cloning_loss(params, batch, key)

        return optim.descend(loss, actor, self._actor_optimiser)

    def cloning_loss(self, params: Any, batch: Transitions, key: Key) -> tuple[Array, Metrics]:
        """mean over the batch of |f(s, a_t, t) - target|^2, a_t the action noised to a random t: the noise (paper, eq.
        5), or a flow's velocity."""
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        t = self._noise.draw(time_key, batch.action.shape[:1])
        z = jax.random.normal(noise_key, batch.action.shape)
        net = self._net(params, batch.obs, dropout_key)
        error = prediction.denoising_error(self._kind, self._noise, net, batch.action, z, t)
        loss = error.sum(-1).mean()
        return loss, {"actor/loss": loss}

    def act(self, state: IDQLState, memory: Array, key: Key, *, greedy: bool) -> tuple[Array, Array]:
        """One action, the best of the candidates by min_i Q'_i (paper, algorithm 2), whether ``greedy`` or not."""
        obs = jnp.broadcast_to(memory, (self.config.candidates, *memory.shape))
        actions = self.draw(state.average, obs, key)
        q = self._q(state.target, obs, actions).min(0)
        best = actions[jnp.argmax(q)]
        return best[None], memory

    def draw(self, params: Any, obs: Array, key: Key) -> Array:
        """[B, A]: an action of the clone for each of ``obs`` [B, O]."""
        start_key, steps_key = jax.random.split(key)
        z = jax.random.normal(start_key, (obs.shape[0], *self.spec.action.shape))
        denoise = prediction.denoiser(self._kind, self._noise, self._net(params, obs))
        if self._is_flow:
            end = samplers.sample(samplers.euler(), denoise, self._noise, z, self.config.flow_steps, steps_key)
        else:
            end = samplers.sample(
                samplers.ddpm("beta"), denoise, self._noise, z, self.config.levels, steps_key, correct=_inside
            )
        return jnp.clip(end, -1, 1)

    def _net(self, params: Any, obs: Array, dropout_key: Key | None = None) -> prediction.Net:
        """The clone's network as a function of a noised action [B, A] and a time [B]; with dropout given a key."""

        def net(x: Array, t: Array) -> Array:
            if self._is_flow or dropout_key is None:
                return self._actor.apply(params, obs, x, self._told(t))
            rngs = {"dropout": dropout_key}
            return self._actor.apply(params, obs, x, self._told(t), deterministic=False, rngs=rngs)

        return net

    def _told(self, t: Array) -> Array:
        """What the network is told of the time ``t`` [...]: a flow the number itself [..., 1], a diffusion which level
        [...] it is, from 0."""
        return t[..., None] if self._is_flow else t * self.config.levels - 1

    @property
    def _is_flow(self) -> bool:
        return self.config.policy == "flow"

    @property
    def _kind(self) -> prediction.Kind:
        return "flow" if self._is_flow else "noise"

    @property
    def _noise(self) -> Noise:
        return Straight() if self._is_flow else Discrete("vp", self.config.levels)

    @property
    def _actor(self) -> networks.XavierMLP | networks.ResidualDenoiser:
        c, actions = self.config, self.spec.action.shape[0]
        if self._is_flow:
            return networks.XavierMLP(c.flow_widths, actions)
        return networks.ResidualDenoiser(c.block_width, c.blocks, actions, c.dropout)

    @property
    def _critic(self) -> networks.XavierEnsemble | networks.Ensemble:
        if self._is_flow:
            return networks.XavierEnsemble(2, self.config.widths, out=1, layer_norm=True)
        return super()._critic

    @property
    def _value(self) -> networks.XavierMLP | networks.MLP:
        if self._is_flow:
            return networks.XavierMLP(self.config.widths, out=1, layer_norm=True)
        return super()._value

    @property
    def _actor_optimiser(self) -> optax.GradientTransformation:
        if self.config.decay:
            return super()._actor_optimiser
        return optax.adam(self.config.actor_learning_rate)


def _inside(moved: Array, x: Array, x0: Array, t: Array) -> Array:
    """A sampler's step, kept within the bounds."""
    return jnp.clip(moved, -1, 1)


_OFFICIAL = (
    "philippe-eecs/IDQL, launcher/examples/train_ddpm_iql_offline.py, which sets them for all datasets of a kind: 3M "
    "updates, batch 512, 5 noise levels, 64 candidates (16 to 256 are tried)"
)
_IFQL = (
    "seohongpark/fql: IFQL with expectile 0.9, 4 x 512, batch 256 and 1M updates; candidates and discount from the "
    "paper's table 6 (arXiv 2502.02538)"
)
_SMALL = "this project: what a core trains in about six minutes, few updates of small networks; not tuned"
_PENDULUM = "this project, for the embedded dataset: small networks, few updates"

_FLOW = {
    "policy": "flow",
    "candidates": 32,
    "expectile": 0.9,
    "widths": (512, 512, 512, 512),
    "average": 1.0,
    "decay": False,
    "batch_size": 256,
}
_LITTLE = {"widths": (256, 256), "block_width": 128, "blocks": 2, "average": 0.005, "batch_size": 256}

PRESETS = {
    "pendulum": Preset(
        Config(
            expectile=0.9,
            widths=(64, 64),
            block_width=64,
            blocks=1,
            average=0.005,
            critic_learning_rate=1e-3,
            actor_learning_rate=1e-3,
            batch_size=256,
        ),
        6_000,
        _PENDULUM,
    ),
    "hopper/small": Preset(Config(**_LITTLE), 16_000, _SMALL, {"reward": "return-range"}),
    "pen/small": Preset(Config(**_LITTLE), 16_000, _SMALL),
    "gym": Preset(Config(), 3_000_000, _OFFICIAL, {"reward": "return-range"}),
    "antmaze": Preset(Config(expectile=0.9), 3_000_000, _OFFICIAL, {"reward_shift": -1.0}),
    "ifql": Preset(Config(**_FLOW), 1_000_000, _IFQL),
    "ifql/humanoidmaze": Preset(Config(**_FLOW, gamma=0.995), 1_000_000, _IFQL),
    "ifql/antsoccer": Preset(Config(**(_FLOW | {"candidates": 64}), gamma=0.995), 1_000_000, _IFQL),
}

VARIANTS = ({"policy": "flow"},)
