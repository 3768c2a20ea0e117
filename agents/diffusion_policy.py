"""Diffusion Policy: cloning by a denoising network that draws a piece of the future actions at once.

Chi, Feng, Du, Xu, Cousineau, Burchfiel, Song: Diffusion Policy: Visuomotor Policy Learning via Action Diffusion, RSS
2023, arXiv 2303.04137. Official code: real-stanford/diffusion_policy; the defaults are its settings for low-dimensional
observations.

The network sees the last K observations and denoises a chunk of ``horizon`` actions, the first of which belongs to the
first of these observations. To act, a chunk is drawn from noise, ``action_steps`` of it are taken from the present
step on, number K - 1, and then the next chunk is drawn (receding horizon). It clones: rewards are not read. Where the
data do two different things, it does one of them, while a regression does what lies between.

How a chunk is drawn (``sampler``, ``steps``) and how much of it is taken play no part in training, but for the ends of
episodes: they can be others in ``evaluate RUN --config.steps 5``. Actions in the data must be within [-1, 1], which
rlkit.datasets.Normaliser sees to; observations should be (``--normalise limits``, which the presets have).

The chunk's places before an episode's first step repeat its first action, and those behind its last step the last one;
zeros would be taken for actions. Of the places behind the end those are learnt from that could be taken, which are the
official code's, and every recorded step may be the present one; the official code leaves out the last ``horizon`` - K -
``action_steps`` + 1 of an episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlkit import losses, networks, optim
from rlkit.acting import slide
from rlkit.buffer import Buffer
from rlkit.diffusion import noise, prediction, samplers
from rlkit.online import Online, continued
from rlkit.optim import Net
from rlkit.ranges import Count, Fraction, LearningRate, Positive, Range, Weight, Widths
from rlkit.types import Array, InputError, Key, Metrics, Percept, Preset, Spec, Stage, Stats, Windows

SAMPLERS = {"ddpm": samplers.ddpm(), "ddim": samplers.ddim(), "dpm-solver++": samplers.dpm2m()}


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of Diffusion Policy."""

    obs_steps: Count = 2
    """Observations that the network sees, the present one included."""
    horizon: Count = 16
    """Actions in a chunk. The first belongs to the first observation that the network sees."""
    action_steps: Count = 8
    """Actions of a chunk that are taken, from the present step on."""
    levels: Count = 100
    """Noise levels of training."""
    sampler: Literal["ddpm", "ddim", "dpm-solver++"] = "ddpm"
    """How a chunk is drawn from noise. ddpm is made for as many steps as there are levels; the others do with few."""
    steps: Count = 100
    """Calls of the network for a chunk."""
    network: Literal["unet", "transformer"] = "unet"
    """What denoises."""
    channels: Widths = (256, 512, 1024)
    """Channels of the U-Net at each resolution; the chunk's steps are halved between two of them."""
    time_width: Count = 256
    """Features of the noise level that the U-Net is told."""
    layers: Count = 8
    """Blocks of the transformer."""
    heads: Count = 4
    """Attention heads of each block."""
    head_width: Count = 64
    """Width of a head; the width of a token is as many times that as there are heads."""
    dropout: Annotated[float, Range("[0, 1)")] = 0.3
    """Share of the transformer's activations that are dropped while training."""
    batch_size: Count = 256
    """Chunks in a batch."""
    learning_rate: LearningRate = 1e-4
    """AdamW's step size after the warm-up."""
    beta1: Fraction = 0.95
    """AdamW's decay of the gradient's average."""
    beta2: Fraction = 0.999
    """AdamW's decay of the average of the gradient's square."""
    weight_decay: Weight = 1e-6
    """AdamW's weight decay."""
    warmup: Count = 500
    """Updates over which the step size rises from 0."""
    decay: bool = False
    """Whether the step size then falls to 0 at the end, along half a cosine. The presets have it."""
    ema_power: Positive = 0.75
    """The average of the parameters, which acts, keeps 1 - (1 + k)^-power of itself at update k, counted from 0."""
    ema_largest: Annotated[float, Range("[0, 1)")] = 0.9999
    """The most that it keeps."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        """One stage. Raises InputError for unbounded or discrete actions, and for chunks that cannot be acted by."""
        spec.require_bounded_action("diffusion-policy")
        needed = self.obs_steps - 1 + self.action_steps
        if self.horizon < needed:
            raise InputError(
                f"diffusion-policy: --config.horizon {self.horizon} does not hold {self.action_steps} actions after "
                f"{self.obs_steps - 1} of the past: make it {needed} or more"
            )
        if self.action_steps > spec.horizon:
            raise InputError(
                f"diffusion-policy: --config.action-steps {self.action_steps}: the longest episode has {spec.horizon}"
            )
        if self.steps > self.levels:
            raise InputError(
                f"diffusion-policy: --config.steps {self.steps}: there are {self.levels} noise levels to visit"
            )
        if self.network == "transformer" and self.heads * self.head_width % 2:
            raise InputError("diffusion-policy: heads times head_width is the width of a token, which must be even")
        return (Stage("diffusion-policy", DiffusionPolicy(self, spec, steps), steps),)

    def online(self, spec: Spec, stages: tuple[Stage, ...], online: Online) -> tuple[Stage, ...]:
        """It goes on with the step size after the warm-up."""
        return (continued(stages[-1], online, updates=None),)


class DiffusionPolicyState(NamedTuple):
    """The network that learns, and the average of its parameters, which acts."""

    net: Net
    ema: Any


@dataclass(frozen=True)
class DiffusionPolicy:
    """The learner, which acts on its last observations. updates: of the stage, for the decay of the step size;
    None: it stays."""

    config: Config
    spec: Spec
    updates: int | None

    @property
    def tokens(self) -> int:
        """Steps of a chunk, and what a transformer looks at beside them."""
        beside = 1 + self.config.obs_steps if self.config.network == "transformer" else 0
        return self.config.horizon + beside

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @property
    def uses_rewards(self) -> bool:
        return False

    def init(self, key: Key, prev: None, stats: Stats) -> DiffusionPolicyState:
        """An untrained network, and a copy of it."""
        x = jnp.zeros((1, self.config.horizon, *self.spec.action.shape))
        obs = jnp.zeros((1, self.config.obs_steps, *self.spec.observation.shape))
        params = self._network.init(key, x, jnp.zeros(1), self._condition(obs))
        return DiffusionPolicyState(optim.init(params, self._optimiser), optim.target_copy(params))

    # --- training ---

    def sample(self, buffer: Buffer, key: Key) -> Windows:
        """Chunks around any step, which is number obs_steps - 1 of each."""
        c = self.config
        before = c.obs_steps - 1
        return buffer.windows(key, c.batch_size, before=before, after=c.horizon - 1 - before, gamma=1.0)

    def learnt(self, mask: Array) -> Array:
        """[B, T] bool: the places of chunks with the ``mask`` [B, T] that are learnt from, see above."""
        behind_present = jnp.arange(mask.shape[1]) >= self.config.obs_steps
        is_behind_end = ~mask & behind_present[None]
        behind_end = jnp.cumsum(is_behind_end, 1)
        return behind_end < self.config.action_steps

    def update(
        self, state: DiffusionPolicyState, batch: Windows, key: Key, step: Array
    ) -> tuple[DiffusionPolicyState, Metrics]:
        """One step down the squared error of the predicted noise (eq. 5), and the average after it."""
        c = self.config
        level_key, noise_key, dropout_key = jax.random.split(key, 3)
        t = self._noise.draw(level_key, (len(batch.action),))
        eps = jax.random.normal(noise_key, batch.action.shape)
        obs = batch.obs[:, : c.obs_steps]
        learnt = self.learnt(batch.mask)

        def loss(params: Any) -> tuple[Array, Metrics]:
            net = self._net(params, obs, dropout_key)
            error = prediction.denoising_error("noise", self._noise, net, batch.action, eps, t)
            value = losses.masked_mean(error.mean(-1), learnt)
            return value, {"policy/loss": value}

        net, metrics = optim.descend(loss, state.net, self._optimiser)
        kept = optim.ema_decay(step, c.ema_power, c.ema_largest)
        ema = optim.polyak(state.ema, net.params, 1 - kept)
        return DiffusionPolicyState(net, ema), metrics

    # --- acting ---

    @property
    def goals(self) -> Mapping[str, Any]:
        return {"": None}

    def begin(self, state: DiffusionPolicyState, goal: None) -> Array:
        """[K, O], no observations yet."""
        return jnp.zeros((self.config.obs_steps, *self.spec.observation.shape))

    def observe(self, state: DiffusionPolicyState, memory: Array, percept: Percept) -> Array:
        """The last K observations; the first one stands for those that have not been."""
        return slide(memory, percept.obs, percept.t)

    def plan(self, state: DiffusionPolicyState, memory: Array, key: Key) -> Array:
        """[T, A] a chunk that is drawn for the observations ``memory`` [K, O]."""
        noise_key, step_key = jax.random.split(key)
        x = jax.random.normal(noise_key, (1, self.config.horizon, *self.spec.action.shape))
        denoise = prediction.denoiser("noise", self._noise, self._net(state.ema, memory[None]))
        step = SAMPLERS[self.config.sampler]
        return samplers.sample(step, denoise, self._noise, x, self.config.steps, step_key, clip=1.0)[0]

    def act(self, state: DiffusionPolicyState, memory: Array, key: Key, *, greedy: bool) -> tuple[Array, Array]:
        """The next actions, from the present step's place on. They are drawn, ``greedy`` or not: of several things that
        the data do none is the one to do."""
        first = self.config.obs_steps - 1
        plan = self.plan(state, memory, key)
        return plan[first : first + self.config.action_steps], memory

    # --- what denoises ---

    def _net(self, params: Any, obs: Array, dropout_key: Key | None = None) -> prediction.Net:
        """(x [B, T, A], t [B]) -> the predicted noise [B, T, A], after the observations ``obs`` [B, K, O]."""
        condition = self._condition(obs)
        training = {}
        if dropout_key is not None and self.config.network == "transformer":
            training = {"deterministic": False, "rngs": {"dropout": dropout_key}}

        def net(x: Array, t: Array) -> Array:
            return self._network.apply(params, x, t * self.config.levels, condition, **training)

        return net

    def _condition(self, obs: Array) -> Array:
        """What the network takes of observations [B, K, O]: the transformer each by itself, the U-Net all as one."""
        return obs if self.config.network == "transformer" else obs.reshape(len(obs), -1)

    @property
    def _network(self) -> networks.UNet1D | networks.DenoisingTransformer:
        c = self.config
        (width,) = self.spec.action.shape
        if c.network == "transformer":
            return networks.DenoisingTransformer(width, c.layers, c.heads, c.head_width, c.dropout)
        return networks.UNet1D(width, c.channels, c.time_width)

    @property
    def _noise(self) -> noise.Discrete:
        return noise.Discrete("cosine", self.config.levels)

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        c = self.config
        rate = optim.warm_up(c.learning_rate, c.warmup)
        if c.decay:
            rate = optim.warm_up_and_fall(c.learning_rate, c.warmup, self.updates)
        return optax.adamw(rate, c.beta1, c.beta2, weight_decay=c.weight_decay)


_OFFICIAL = (
    "real-stanford/diffusion_policy, config/train_diffusion_unet_lowdim_workspace.yaml. Updates are this project's: "
    "the source counts 5000 epochs"
)
_OFFICIAL_TRANSFORMER = (
    "real-stanford/diffusion_policy, config/train_diffusion_transformer_lowdim_workspace.yaml, whose chunks are for "
    "Block Push. Updates are this project's; weight decay acts on biases too"
)
_SMALL = (
    "this project: what a core trains in six minutes, 64 channels at one resolution, short chunks, 10 steps of DDIM; "
    "not tuned"
)
_PENDULUM = "this project, for the embedded dataset: a small U-Net, few updates; not tuned"
_LIMITS = {"normalise": "limits"}
_FEW_STEPS = {"sampler": "ddim", "steps": 10, "time_width": 32, "learning_rate": 1e-3, "decay": True}

PRESETS = {
    "paper": Preset(Config(decay=True), 500_000, _OFFICIAL, _LIMITS),
    "transformer": Preset(
        Config(
            network="transformer",
            obs_steps=3,
            horizon=5,
            action_steps=1,
            beta1=0.9,
            beta2=0.95,
            weight_decay=1e-3,
            warmup=1000,
            decay=True,
        ),
        500_000,
        _OFFICIAL_TRANSFORMER,
        _LIMITS,
    ),
    "hopper/small": Preset(
        Config(channels=(64,), horizon=8, action_steps=2, batch_size=128, **_FEW_STEPS), 8_000, _SMALL, _LIMITS
    ),
    "pen/small": Preset(
        Config(channels=(64,), horizon=8, action_steps=4, batch_size=128, **_FEW_STEPS), 8_000, _SMALL, _LIMITS
    ),
    "pendulum": Preset(
        Config(channels=(16, 32), horizon=8, action_steps=4, batch_size=64, **_FEW_STEPS), 3_000, _PENDULUM, _LIMITS
    ),
}
VARIANTS = ({"network": "transformer"},)
