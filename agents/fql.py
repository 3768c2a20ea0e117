"""FQL: flow Q-learning, a policy of one step that is distilled from a flow of many and led by the critics.

Park, Li, Levine: Flow Q-Learning, ICML 2025, arXiv 2502.02538. Official code: seohongpark/fql (JAX). With chunks of
actions it is QC-FQL (Li, Zhou, Levine: Reinforcement Learning with Action Chunking, 2025, arXiv 2507.07969; official
code: ColinQiyangLi/qc). The defaults are the official settings.

A flow clones the data's actions, however many modes they have: a velocity field that leads from noise to actions in ten
Euler steps. The policy that acts learns to reach the same action in one step from the same noise, and to raise Q. So
the gradient of Q never runs through the flow's steps, and acting costs one call.

Times run as in rlkit.diffusion, from the data at 0 to noise at 1, where the official code has noise at 0: its velocity
is minus ours, and the network is told 1 - t.

Online it goes on as it is, with the same losses, on data and collected steps in proportion, as in the official code.
For runs that go online the paper (table 7) chooses some alphas anew, for both phases: 100 for humanoidmaze-medium, 30
for antsoccer-arena; of Adroit's cloned data 1000, and 10000 for relocate.

Deviations from the official code: recorded actions are not moved inside the bounds by 1e-5. Beyond the paper:
``candidates``, and ``ended`` windows that are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlkit import networks, optim
from rlkit.acting import Reactive
from rlkit.buffer import Buffer
from rlkit.diffusion import prediction, samplers
from rlkit.diffusion.noise import Straight
from rlkit.optim import Net
from rlkit.ranges import Count, Discount, LearningRate, TargetShare, Weight, Widths
from rlkit.types import Array, InputError, Key, Metrics, Preset, Spec, Stage, Stats, Windows


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of FQL."""

    alpha: Weight = 10.0
    """Weight of the distance to the flow's actions against Q, to suit the rewards' scale unless ``normalise_q``."""
    normalise_q: bool = False
    """Divide Q by its mean size in the policy's loss; then try an alpha of 0.03 to 10."""
    aggregate: Literal["mean", "min"] = "mean"
    """How the target critics' values become one in the Bellman target. The policy follows their mean always."""
    flow_steps: Count = 10
    """Euler steps of the flow that the policy is distilled from."""
    chunk: Count = 1
    """Actions that are chosen at once, valued together and taken one after the other."""
    ended: Literal["drop", "keep"] = "drop"
    """Chunks in which an episode ends before the last action. drop: nothing is learnt from them, as in the official
    code. keep: those that end in a terminal state are learnt from, with the policy's actions where none was taken."""
    candidates: Count = 1
    """Draws of the policy when it acts, of which the critics choose the best. It plays no part in training."""
    widths: Widths = (512, 512, 512, 512)
    """Hidden layers of the flow, of the policy and of each critic."""
    gamma: Discount = 0.99
    """Discount per step."""
    tau: TargetShare = 0.005
    """Share of the online critics that the target critics take over at each update."""
    learning_rate: LearningRate = 3e-4
    """Adam's step size."""
    batch_size: Count = 256
    """Steps in a batch."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        spec.require_bounded_action("fql")
        if self.chunk > spec.horizon:
            raise InputError(
                f"fql: --config.chunk {self.chunk}: the longest episode has {spec.horizon} steps, so that no chunk "
                "would be learnt from"
            )
        return (Stage("fql", FQL(self, spec), steps),)


class Chunks(NamedTuple):
    """A batch of B pieces of episodes of h actions, each with its h-step reward."""

    obs: Array  # [B, O]
    action: Array  # [B, h, A]
    taken: Array  # [B, h] bool: a recorded action, not one beyond the episode's end
    reward: Array  # [B] discounted sum
    discount: Array  # [B] gamma^h, or 0 where the episode ended in a terminal state
    next_obs: Array  # [B, O] after h steps
    usable: Array  # [B] bool: the critics learn from it


class FQLState(NamedTuple):
    """All networks under one optimiser, and the target critics."""

    net: Net  # params: {"critic", "flow", "policy"}
    target: Any


@dataclass(frozen=True)
class FQL(Reactive):
    """Learner of FQL and QC-FQL."""

    config: Config
    spec: Spec
    needs: tuple[str, ...] = ()

    def init(self, key: Key, prev: None, stats: Stats) -> FQLState:
        """Target critics start as copies of the critics."""
        critic_key, flow_key, policy_key = jax.random.split(key, 3)
        obs = stats.obs_mean
        chunk = jnp.zeros(self._width)
        params = {
            "critic": self._critic.init(critic_key, obs, chunk),
            "flow": self._actor.init(flow_key, obs, chunk, jnp.zeros(1)),
            "policy": self._actor.init(policy_key, obs, chunk),
        }
        return FQLState(optim.init(params, self._optimiser), optim.target_copy(params["critic"]))

    def sample(self, buffer: Buffer, key: Key) -> Chunks:
        c = self.config
        windows = buffer.windows(key, c.batch_size, before=0, after=c.chunk, gamma=c.gamma)
        return self.cut(windows)

    def cut(self, windows: Windows) -> Chunks:
        """The first h steps of windows of h + 1, as one step of the critics (QC, section 4.1)."""
        h = self.config.chunk
        taken = windows.mask[:, :h]
        powers = self.config.gamma ** jnp.arange(h)
        reward = jnp.where(taken, windows.reward[:, :h], 0.0) * powers[None]
        # beyond a terminal step its discount of 0 is repeated, beyond a time limit gamma is
        discount = windows.discount[:, :h].prod(1)
        is_whole = taken.all(1)
        is_terminal = discount == 0
        usable = is_whole & (windows.seen[:, h] | is_terminal)
        if self.config.ended == "keep":
            usable = usable | is_terminal
        return Chunks(
            obs=windows.obs[:, 0],
            action=windows.action[:, :h],
            taken=taken,
            reward=reward.sum(1),
            discount=discount,
            next_obs=windows.obs[:, h],
            usable=usable,
        )

    def update(self, state: FQLState, batch: Chunks, key: Key, step: Array) -> tuple[FQLState, Metrics]:
        """One step down the sum of all losses. The target critics move towards the critics as they were before it."""
        target_key, chunk_key, flow_key, policy_key = jax.random.split(key, 4)
        before = state.net.params
        target_value = self.target_value(state, batch, target_key)
        chunk = self.whole_chunk(before["policy"], batch, chunk_key)

        def loss(params):
            critic, critic_metrics = self.critic_loss(params["critic"], chunk, target_value, batch)
            flow, flow_metrics = self.flow_loss(params["flow"], batch, flow_key)
            policy, policy_metrics = self.policy_loss(params["policy"], before, batch, policy_key)
            return critic + flow + policy, critic_metrics | flow_metrics | policy_metrics

        net, metrics = optim.descend(loss, state.net, self._optimiser)
        target = optim.polyak(state.target, before["critic"], self.config.tau)
        return FQLState(net, target), metrics

    def target_value(self, state: FQLState, batch: Chunks, key: Key) -> Array:
        """y [B] = R + gamma^h agg_k Q'_k(s_h, pi(s_h, z)), z ~ N(0, I) (paper, eq. 7)."""
        action = self.draw(state.net.params["policy"], batch.next_obs, key)
        q = self._q(state.target, batch.next_obs, action)
        value = q.min(0) if self.config.aggregate == "min" else q.mean(0)
        return batch.reward + batch.discount * value

    def whole_chunk(self, policy: Any, batch: Chunks, key: Key) -> Array:
        """[B, h A]: the recorded chunks that the critics learn from.

        An action after a terminal step would have changed nothing. What stands there is what the critics are asked
        about later, the policy's own; zeros would leave the value of such chunks unknown.
        """
        recorded = _flat(batch.action)
        if self.config.ended == "drop":
            return recorded
        width = batch.action.shape[-1]
        taken = jnp.repeat(batch.taken, width, axis=1)
        return jnp.where(taken, recorded, self.draw(policy, batch.obs, key))

    def critic_loss(self, params: Any, chunk: Array, target: Array, batch: Chunks) -> tuple[Array, Metrics]:
        """mean over batch and critics of (Q_k(s, a) - y)^2, without the chunks that are not usable (paper, eq. 7)."""
        q = self._q(params, batch.obs, chunk)
        error = (q - target[None]) ** 2
        loss = jnp.where(batch.usable[None], error, 0.0).mean()
        return loss, {"critic/loss": loss, "critic/q": q.mean()}

    def flow_loss(self, params: Any, batch: Chunks, key: Key) -> tuple[Array, Metrics]:
        """mean |v(s, x_t, t) - (z - a)|^2 over batch and action dimensions, t ~ U(0, 1) (paper, eq. 6)."""
        time_key, noise_key = jax.random.split(key)
        action = _flat(batch.action)
        t = _NOISE.draw(time_key, action.shape[:1])
        z = jax.random.normal(noise_key, action.shape)
        velocity = self._velocity(params, batch.obs)
        error = prediction.denoising_error("flow", _NOISE, velocity, action, z, t)
        taken = jnp.repeat(batch.taken, batch.action.shape[-1], axis=1)
        loss = jnp.where(taken, error, 0.0).mean()
        return loss, {"flow/loss": loss}

    def policy_loss(self, params: Any, held: Any, batch: Chunks, key: Key) -> tuple[Array, Metrics]:
        """alpha mean |pi(s, z) - mu(s, z)|^2 - mean_k Q_k(s, pi(s, z)), mu the flow's action from the same noise z
        (paper, eqs. 8 and 10). ``held``: the parameters of flow and critics, which this loss does not move."""
        z = self._noise(batch.obs, key)
        action = self._actor.apply(params, batch.obs, z)
        of_the_flow = self.flow(held["flow"], batch.obs, z)
        distance = ((action - of_the_flow) ** 2).mean()
        clipped = jnp.clip(action, -1, 1)
        q = self._q(held["critic"], batch.obs, clipped).mean(0)
        led = -q.mean()
        if self.config.normalise_q:
            size = jnp.abs(q).mean()
            led = led / jax.lax.stop_gradient(size)
        loss = self.config.alpha * distance + led
        return loss, {"policy/loss": loss, "policy/distance": distance, "policy/q": q.mean()}

    def flow(self, params: Any, obs: Array, z: Array) -> Array:
        """mu(s, z) [B, h A]: where Euler's steps lead from the noise ``z``, clipped at the end."""

        velocity = self._velocity(params, obs)
        denoise = prediction.denoiser("flow", _NOISE, velocity)
        unused = jax.random.key(0)  # Euler's steps draw no noise
        end = samplers.sample(samplers.euler(), denoise, _NOISE, z, self.config.flow_steps, unused)
        return jnp.clip(end, -1, 1)

    def draw(self, policy: Any, obs: Array, key: Key) -> Array:
        """[B, h A]: the policy's action for each of ``obs`` [B, O], from noise of its own."""
        action = self._actor.apply(policy, obs, self._noise(obs, key))
        return jnp.clip(action, -1, 1)

    def act(self, state: FQLState, memory: Array, key: Key, *, greedy: bool) -> tuple[Array, Array]:
        """The next h actions, drawn whether ``greedy`` or not: the policy has no mean. Of several candidates, those
        that the critics value most on average."""
        params = state.net.params
        number = self.config.candidates
        obs = jnp.broadcast_to(memory, (number, *memory.shape))
        chunks = self.draw(params["policy"], obs, key)
        value = self._q(params["critic"], obs, chunks).mean(0)
        best = chunks[jnp.argmax(value)]
        return best.reshape(self.config.chunk, -1), memory

    def _noise(self, obs: Array, key: Key) -> Array:
        """[B, h A] ~ N(0, I)."""
        return jax.random.normal(key, (obs.shape[0], self._width))

    def _q(self, params: Any, obs: Array, chunk: Array) -> Array:
        """Q_k(s, a) [2, B]."""
        return self._critic.apply(params, obs, chunk).squeeze(-1)

    def _velocity(self, params: Any, obs: Array) -> prediction.Net:
        """v(s, x_t, t) [B, h A] as a function of x [B, h A] and t [B]."""

        def velocity(x: Array, t: Array) -> Array:
            return self._actor.apply(params, obs, x, t[:, None])

        return velocity

    @property
    def _width(self) -> int:
        """Numbers in a chunk."""
        return self.config.chunk * self.spec.action.shape[0]

    @property
    def _actor(self) -> networks.XavierMLP:
        """The body of the flow and of the policy."""
        return networks.XavierMLP(self.config.widths, self._width)

    @property
    def _critic(self) -> networks.XavierEnsemble:
        return networks.XavierEnsemble(2, self.config.widths, out=1, layer_norm=True)

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.learning_rate)


_NOISE = Straight()


def _flat(action: Array) -> Array:
    """[B, h, A] -> [B, h A]."""
    return action.reshape(action.shape[0], -1)


_OGBENCH = (
    "seohongpark/fql, README.md: alpha, gamma and the critics' aggregate, which it names for the default task and uses "
    "for all five of an environment; 1M updates, 4 x 512, batch 256, learning rate 3e-4, tau 0.005"
)
_D4RL = (
    "seohongpark/fql, README.md: alpha and the critics' aggregate, offline; 500k updates, the rest as for OGBench. The "
    "paper's table prints some of Adroit's alphas ten times smaller: the commands were taken"
)
_CHUNKS = (
    "ColinQiyangLi/qc, and the paper's table 4 (arXiv 2507.07969): alpha, chunks of 5 actions; 1M updates offline, "
    "gamma 0.99, the mean of the critics"
)
_SMALL = "this project: what a core trains in about six minutes, few updates of small networks; not tuned"
_PENDULUM = "this project, for the embedded dataset: small networks, few updates"

# environment and kind of data -> (alpha, gamma, aggregate)
_OGBENCH_SETTINGS = {
    "antmaze-large-navigate": (10.0, 0.99, "min"),
    "antmaze-giant-navigate": (10.0, 0.995, "min"),
    "humanoidmaze-medium-navigate": (30.0, 0.995, "mean"),
    "humanoidmaze-large-navigate": (30.0, 0.995, "mean"),
    "antsoccer-arena-navigate": (10.0, 0.995, "mean"),
    "cube-single-play": (300.0, 0.99, "mean"),
    "cube-double-play": (300.0, 0.99, "mean"),
    "scene-play": (300.0, 0.99, "mean"),
    "puzzle-3x3-play": (1000.0, 0.99, "mean"),
    "puzzle-4x4-play": (1000.0, 0.99, "mean"),
}
_CHUNK_ALPHAS = {
    "cube-double-play/chunks": 300.0,
    "cube-triple-play/chunks": 100.0,
    "cube-quadruple-play/chunks": 100.0,
}
_ANTMAZE_ALPHAS = {
    "antmaze/umaze": 10.0,
    "antmaze/umaze-diverse": 10.0,
    "antmaze/medium-play": 10.0,
    "antmaze/medium-diverse": 10.0,
    "antmaze/large-play": 3.0,
    "antmaze/large-diverse": 3.0,
}
_ADROIT_ALPHAS = {
    "pen/human": 10_000.0,
    "pen/cloned": 10_000.0,
    "pen/expert": 3_000.0,
    "door/human": 30_000.0,
    "door/cloned": 30_000.0,
    "door/expert": 30_000.0,
    "hammer/human": 30_000.0,
    "hammer/cloned": 10_000.0,
    "hammer/expert": 30_000.0,
    "relocate/human": 10_000.0,
    "relocate/cloned": 30_000.0,
    "relocate/expert": 30_000.0,
}

PRESETS = {
    "pendulum": Preset(
        Config(alpha=0.03, normalise_q=True, widths=(64, 64), learning_rate=1e-3),
        6_000,
        _PENDULUM,
    ),
    "hopper/small": Preset(Config(alpha=1.0, normalise_q=True, widths=(256, 256)), 16_000, _SMALL),
    "pen/small": Preset(
        Config(alpha=3.0, normalise_q=True, aggregate="min", widths=(256, 256)),
        16_000,
        _SMALL,
    ),
}
for _name, (_alpha, _gamma, _aggregate) in _OGBENCH_SETTINGS.items():
    _config = Config(alpha=_alpha, gamma=_gamma, aggregate=_aggregate)
    PRESETS[_name] = Preset(_config, 1_000_000, _OGBENCH)
for _name, _alpha in _CHUNK_ALPHAS.items():
    PRESETS[_name] = Preset(Config(alpha=_alpha, chunk=5), 1_000_000, _CHUNKS, online={"warmup": 5_000})
for _name, _alpha in _ANTMAZE_ALPHAS.items():
    PRESETS[_name] = Preset(Config(alpha=_alpha), 500_000, _D4RL, {"reward_shift": -1.0})
for _name, _alpha in _ADROIT_ALPHAS.items():
    PRESETS[_name] = Preset(Config(alpha=_alpha, aggregate="min"), 500_000, _D4RL)

VARIANTS = ({"chunk": 2, "ended": "keep"},)
