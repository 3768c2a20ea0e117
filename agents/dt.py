"""Decision transformer: cloning of the actions that led to the return that is asked for.

Chen, Lu, Rajeswaran, Lee, Grover, Laskin, Abbeel, Srinivas, Mordatch: Decision Transformer: Reinforcement Learning via
Sequence Modeling, NeurIPS 2021, arXiv 2106.01345. Official code: kzl/decision-transformer; the defaults are its
settings for Gym-MuJoCo.

A causal transformer reads K steps of (return to go, observation, action) and says the next action. To act, it is told a
return; from there on the rewards received are subtracted. What chance gave is taken for what the actions did: where
rewards are noisy, asking for much does not bring it. Without the return's token (``return_token``) it is behaviour
cloning with a memory, the control of every table.

There are two ways to act. ``window`` reads the last K steps anew at every step, as in training. ``rolling`` reads each
step once and keeps the attention's keys and values; that is the same model only under a mask that lets every token see
as many steps in training as in acting (``band``), hence it is refused without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlkit import losses, networks, optim
from rlkit.acting import push
from rlkit.buffer import Buffer
from rlkit.optim import Net
from rlkit.ranges import Count, Finite, LearningRate, Positive, Range, Weight
from rlkit.types import Array, Discrete, InputError, Key, Metrics, Percept, Preset, Spec, Stage, Stats, Windows


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of the decision transformer."""

    targets: tuple[Finite, ...] = ()
    """Returns to ask for when it is evaluated, in the environment's units; the first is the score. If none is given,
    the best of the data's."""
    return_token: bool = True
    """Whether the model sees the return to go; without, it clones the data."""
    return_scale: Positive | None = None
    """What returns are divided by, in the environment's units. If not given, the largest size of the data's."""
    context: Count = 20
    """Steps in a window: of training, and of acting by windows."""
    band: Count | None = None
    """Steps that a token sees in each layer, its own included; if not given, all of the window up to it."""
    acting: Literal["window", "rolling"] = "window"
    """window: read the last steps anew at each step. rolling: read each step once and keep the attention's keys and
    values, which is quicker; needs a band that is narrower than the window."""
    layers: Count = 3
    """Blocks of the transformer."""
    heads: Count = 1
    """Attention heads of each block."""
    head_width: Count = 128
    """Width of a head; the width of a token is as many times that as there are heads."""
    mlp: Count = 512
    """Hidden width of each block's perceptron."""
    dropout: Annotated[float, Range("[0, 1)")] = 0.1
    """Share of activations that are dropped while training."""
    batch_size: Count = 64
    """Windows in a batch."""
    learning_rate: LearningRate = 1e-4
    """AdamW's step size after the warm-up."""
    weight_decay: Weight = 1e-4
    """AdamW's weight decay."""
    warmup: Count = 10_000
    """Updates over which the step size rises from 0."""
    clip: Positive = 0.25
    """Largest norm of the gradient."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        """One stage. Raises InputError where a return does not say what it is in the environment's units, or where
        acting would not be what was trained."""
        if not isinstance(spec.action, Discrete):
            spec.require_bounded_action("dt")
        if self.return_token:
            require_returns("dt", spec)
        if self.acting == "window":
            return (Stage("dt", DT(self, spec), steps),)
        if self.band is None or self.band >= self.context:
            raise InputError(
                "dt: --config.acting rolling needs a model that was trained with a --config.band below its "
                f"--config.context of {self.context}: use --config.acting window"
            )
        return (Stage("dt", RollingDT(self, spec), steps),)


def require_returns(agent: str, spec: Spec) -> None:
    """Raises InputError where the returns that are trained on do not say what they are in the environment's units."""
    if spec.reward_shift or not spec.reward_scale:
        raise InputError(
            f"{agent}: returns cannot be asked for where rewards are {spec.reward_scale:g} x + {spec.reward_shift:g}: "
            "leave --reward standard, --reward-shift and a --reward-scale of 0 away"
        )


BEST = float("nan")  # asks for the largest return of the data, which the state knows and a Config does not


class DTState(NamedTuple):
    """The transformer, and what returns are measured by."""

    net: Net
    best: Array  # [] the data's largest return
    scale: Array  # [] what returns are divided by


class Memory(NamedTuple):
    """The last K steps, the oldest first; steps that have not been are zeros behind the present one."""

    left: Array  # [] what is left of the return that was asked for
    to_go: Array  # [K]
    obs: Array  # [K, O]
    action: Array  # [K, A]
    t: Array  # [K] int32


class RollingMemory(NamedTuple):
    """The present step, and the keys and values of those before it."""

    left: Array  # [] what is left of the return that was asked for
    obs: Array  # [O]
    action: Array  # [A] the last that was taken
    t: Array  # [] int32
    past: networks.Past


@dataclass(frozen=True)
class DT:
    """The learner, which acts on the last K steps."""

    config: Config
    spec: Spec

    @property
    def tokens(self) -> int:
        """Tokens of a window."""
        return self.config.context * self._model.per_step

    @property
    def needs(self) -> tuple[str, ...]:
        return ("return_to_go",) if self._is_told else ()

    def init(self, key: Key, prev: None, stats: Stats) -> DTState:
        """An untrained transformer."""
        length = self.config.context
        to_go, t = jnp.zeros((1, length)), jnp.zeros((1, length), jnp.int32)
        obs = jnp.zeros((1, length, *self.spec.observation.shape))
        params = self._model.init(key, to_go, obs, self._as_numbers(self._no_action(1, length)), t)
        if self.config.return_scale is not None:
            scale = jnp.float32(self.config.return_scale * abs(self.spec.reward_scale))
        else:
            largest = jnp.abs(stats.returns).max()
            scale = jnp.where(largest > 0, largest, 1.0)
        return DTState(optim.init(params, self._optimiser), stats.returns[2], scale)

    def sample(self, buffer: Buffer, key: Key) -> Windows:
        """Windows that begin at any step, the valid part on the left."""
        return buffer.windows(key, self.config.batch_size, before=0, after=self.config.context - 1, gamma=1.0)

    def update(self, state: DTState, batch: Windows, key: Key, step: Array) -> tuple[DTState, Metrics]:
        """One step down the imitation loss."""
        to_go = batch.extra["return_to_go"] / state.scale if self.config.return_token else batch.reward

        def loss(params: Any) -> tuple[Array, Metrics]:
            action = self._as_numbers(batch.action)
            answer = self._model.apply(
                params, to_go, batch.obs, action, batch.t, deterministic=False, rngs={"dropout": key}
            )
            value = losses.masked_mean(self.error(answer, batch.action), batch.mask)
            return value, {"policy/loss": value}

        net, metrics = optim.descend(loss, state.net, self._optimiser)
        return state._replace(net=net), metrics

    def error(self, answer: Array, action: Array) -> Array:
        """[B, T]: the mean squared error of continuous actions, the cross-entropy of discrete ones."""
        if isinstance(self.spec.action, Discrete):
            return optax.softmax_cross_entropy_with_integer_labels(answer, action)
        return ((jnp.tanh(answer) - action) ** 2).mean(-1)

    # --- acting ---

    @property
    def goals(self) -> Mapping[str, Any]:
        if not self._is_told:
            return {"": None}
        if not self.config.targets:
            return {"best of the data": BEST}
        return {f"{target:.10g}": float(target) for target in self.config.targets}

    def begin(self, state: DTState, goal: Any) -> Memory:
        """An empty memory. ``goal``: a return in the environment's units; NaN stands for the data's best."""
        length = self._remembered
        obs = jnp.zeros((length, *self.spec.observation.shape))
        t = jnp.zeros(length, jnp.int32)
        return Memory(self._asked(state, goal), jnp.zeros(length), obs, self._no_action(length), t)

    def observe(self, state: DTState, memory: Memory, percept: Percept) -> Memory:
        """Subtract the reward from the return that is left, and take in the observation."""
        left = memory.left - percept.reward
        return Memory(
            left=left,
            to_go=push(memory.to_go, left, percept.t),
            obs=push(memory.obs, percept.obs, percept.t),
            action=push(memory.action, self._no_action(), percept.t),
            t=push(memory.t, percept.t, percept.t),
        )

    def act(self, state: DTState, memory: Memory, key: Key, *, greedy: bool) -> tuple[Array, Memory]:
        """One action. The continuous policy is deterministic; the discrete one samples unless ``greedy``."""
        now = jnp.minimum(memory.t.max(), self._remembered - 1)
        inputs = (memory.to_go / state.scale, memory.obs, self._as_numbers(memory.action), memory.t)
        answers = self._model.apply(state.net.params, *(x[None] for x in inputs))
        action = self._choose(jax.tree.map(lambda x: x[0, now], answers), key, greedy)
        return action[None], memory._replace(action=memory.action.at[now].set(action))

    @property
    def _remembered(self) -> int:
        """Steps that it sees when it acts."""
        return self.config.context

    @property
    def _is_told(self) -> bool:
        """Whether it sees the return to go."""
        return self.config.return_token

    def _asked(self, state: DTState, goal: Any) -> Array:
        """[] the return to go at the start, as the data's are measured."""
        if goal is None:
            return jnp.zeros(())
        return jnp.where(jnp.isnan(goal), state.best, goal * self.spec.reward_scale)

    def _choose(self, answer: Array, key: Key, greedy: bool) -> Array:
        if not isinstance(self.spec.action, Discrete):
            return jnp.tanh(answer)
        choice = jnp.argmax(answer) if greedy else jax.random.categorical(key, answer)
        return choice.astype(jnp.int32)

    def _no_action(self, *shape: int) -> Array:
        """What stands where no action has been taken yet; nothing sees it."""
        if isinstance(self.spec.action, Discrete):
            return jnp.zeros(shape, jnp.int32)
        return jnp.zeros((*shape, *self.spec.action.shape))

    def _as_numbers(self, action: Array) -> Array:
        """[..., A]: choices are one-hot."""
        return jax.nn.one_hot(action, self.spec.action.n) if isinstance(self.spec.action, Discrete) else action

    @property
    def _model(self) -> networks.DecisionTransformer:
        c, action = self.config, self.spec.action
        return networks.DecisionTransformer(
            action.n if isinstance(action, Discrete) else action.shape[0],
            self.spec.horizon,
            c.layers,
            c.heads,
            c.head_width,
            c.mlp,
            c.dropout,
            c.return_token,
            c.band,
        )

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        c = self.config
        rate = optim.warm_up(c.learning_rate, c.warmup)
        return optax.chain(optax.clip_by_global_norm(c.clip), optax.adamw(rate, weight_decay=c.weight_decay))


class RollingDT(DT):
    """The same learner, which reads each step once when it acts."""

    def begin(self, state: DTState, goal: Any) -> RollingMemory:
        """Nothing has been read. ``goal`` as `DT.begin` has it."""
        left, obs = self._asked(state, goal), jnp.zeros(self.spec.observation.shape)
        return RollingMemory(left, obs, self._no_action(), jnp.zeros((), jnp.int32), self._model.nothing_read(1))

    def observe(self, state: DTState, memory: RollingMemory, percept: Percept) -> RollingMemory:
        """Subtract the reward from the return that is left, and take in the observation."""
        return memory._replace(left=memory.left - percept.reward, obs=percept.obs, t=percept.t)

    def act(self, state: DTState, memory: RollingMemory, key: Key, *, greedy: bool) -> tuple[Array, RollingMemory]:
        """One action, as `DT.act`."""
        inputs = (memory.left / state.scale, memory.obs, self._as_numbers(memory.action), memory.t)
        one = (x[None] for x in inputs)
        answer, past = self._model.apply(state.net.params, memory.past, *one, method="extend")
        action = self._choose(answer[0], key, greedy)
        return action[None], memory._replace(action=action, past=past)


_KZL = (
    "kzl/decision-transformer, gym/experiment.py: K 20, batch 64, 3 layers of width 128, AdamW 1e-4 with weight decay "
    "1e-4, 10k updates of warm-up (the paper's table says 100k), 10 x 10k updates, returns divided by 1000; the first "
    "target is the score"
)
_SMALL = "this project: what a core trains in ten minutes, few updates of a smaller transformer; not tuned"
# world -> returns that the official code asks for
_TARGETS = {"hopper": (3600.0, 1800.0), "halfcheetah": (12000.0, 6000.0), "walker2d": (5000.0, 2500.0)}
_STANDARD = {"normalise": "standard"}

PRESETS = {
    "pendulum": Preset(
        Config(layers=2, head_width=64, mlp=128, learning_rate=1e-3, warmup=300, context=10),
        3_000,
        "this project, for the embedded dataset",
    ),
}
for _world, _targets in _TARGETS.items():
    _paper = Config(targets=_targets, return_scale=1000.0)
    _small = replace(_paper, context=10, layers=2, head_width=64, mlp=256, learning_rate=3e-4, warmup=1_000)
    PRESETS[f"{_world}/paper"] = Preset(_paper, 100_000, _KZL, _STANDARD)
    PRESETS[f"{_world}/small"] = Preset(_small, 12_000, _SMALL, _STANDARD)
