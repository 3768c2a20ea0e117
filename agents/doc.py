"""Dichotomy of control: cloning by latent futures that hold what the actions decide, and nothing of the world's luck.

Yang, Schuurmans, Abbeel, Nachum: Dichotomy of Control: Separating What You Can Control from What You Cannot, ICLR 2023,
arXiv 2210.13435. Official code: google-research/google-research, dichotomy_of_control; the defaults are its sizes for
FrozenLake. Its losses are not followed where they depart from the paper's (docs/sequence.md).

A posterior q(z | past, future) describes what is going to happen, a policy pi(action | past, z) makes it happen, and a
value V(past, z) is the return that comes of it. If z held a lucky draw, asking for it would not bring the luck about.
So z must say nothing of the outcome that is not known from the past and the action,

    I(z; outcome | past, action) = 0,

which is paid for by ``constraint_weight`` for each nat. To act, latents are drawn from a prior p(z | past), the one of
the largest value is kept, and V is then what the policy earns. With ``constraint_weight`` 0 this is the future VAE, the
control: it believes in its luck.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlkit import losses, networks, optim
from rlkit.buffer import Buffer
from rlkit.networks import Beliefs, ReaderKind, Steps
from rlkit.optim import Net
from rlkit.ranges import Count, LearningRate, Positive, Range, Weight, Widths
from rlkit.types import Array, Discrete, InputError, Key, Metrics, Percept, Preset, Spec, Stage, Stats, Windows

LOG_STD_BOUNDS = (-5.0, 2.0)


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of dichotomy of control."""

    constraint: Literal["bottleneck", "exact-mi"] = "bottleneck"
    """How the information about luck is measured: against a learnt c(z | past, action), which bounds it from above; or
    exactly among the rows of a batch with the same past and action, for small discrete worlds."""
    constraint_weight: Weight = 1.0
    """Price of a nat of information about luck. 0: the future VAE."""
    prior_weight: Weight = 1.0
    """Price of a nat that the prior did not expect. The prior itself is trained whatever this is."""
    latent: Literal["gaussian", "discrete"] = "gaussian"
    """Kind of the latent: real numbers, or one of some codes."""
    latent_size: Count = 32
    """How many numbers a latent has, or how many codes there are."""
    candidates: Count = 100
    """Latents drawn from the prior to choose among; of discrete ones, all codes are looked at."""
    least_mass: Annotated[float, Range("[0, 1)")] = 1e-3
    """Codes that the prior gives less than this are not chosen: nobody has trained their value."""
    hold: Count = 1
    """Steps for which a latent is kept once it is chosen; 1: a new one at every step."""
    context: Count = 20
    """Steps of the past that the model sees, the present one included."""
    future: Count = 20
    """Steps after the present one that the posterior sees."""
    reader: ReaderKind = "transformer"
    """What reads past and future: transformers, or perceptrons that are not told the time."""
    layers: Count = 3
    """Blocks of each transformer."""
    heads: Count = 1
    """Attention heads of each block."""
    head_width: Count = 128
    """Width of a head; the width of a token is as many times that as there are heads."""
    mlp: Count = 512
    """Hidden width of each block's perceptron."""
    dropout: Annotated[float, Range("[0, 1)")] = 0.1
    """Share of the transformers' activations that are dropped while training."""
    widths: Annotated[Widths, "one or more"] = (256, 256)
    """Hidden layers of the policy's and the value's heads; of perceptrons that read, all layers."""
    return_scale: Positive | None = None
    """What rewards and returns are divided by. If not given, the largest size of the data's returns."""
    batch_size: Count = 64
    """Windows in a batch."""
    learning_rate: LearningRate = 1e-4
    """AdamW's step size after the warm-up."""
    decay: bool = False
    """Whether the step size falls to 0 by a cosine until the last update."""
    weight_decay: Weight = 1e-4
    """AdamW's weight decay."""
    warmup: Count = 1_000
    """Updates over which the step size rises from 0."""
    clip: Positive = 0.25
    """Largest norm of the gradient of each array of parameters."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        """One stage."""
        if not self.widths:
            raise InputError("doc: --config.widths is empty: give the heads one hidden layer at least")
        if self.hold > self.future + 1:
            raise InputError(f"doc: a latent held for {self.hold} steps needs --config.future {self.hold - 1} or more")
        if self.constraint == "exact-mi" and self.latent != "discrete":
            raise InputError(
                "doc: exact-mi counts codes: give --config.latent discrete, or --config.constraint bottleneck"
            )
        if self.constraint == "exact-mi" and not isinstance(spec.action, Discrete):
            raise InputError(
                "doc: exact-mi counts actions, and these are continuous: give --config.constraint bottleneck"
            )
        return (Stage("doc", DoC(self, spec, steps), steps),)


class DoCState(NamedTuple):
    """All networks, and what returns are measured by."""

    net: Net
    scale: Array  # [] what rewards and returns are divided by


class Memory(NamedTuple):
    """The last K steps, the newest last, and the latent that is followed. Steps that have not been have t = -1."""

    obs: Array  # [K, O]
    action: Array  # [K, A], choices one-hot
    reward: Array  # [K]
    t: Array  # [K] int32
    latent: Array  # [D]


@dataclass(frozen=True)
class DoC:
    """The learner, which acts on a memory of its own. steps: updates in all, for the decay of the step size."""

    config: Config
    spec: Spec
    steps: int
    needs: tuple[str, ...] = ("return_to_go",)

    def init(self, key: Key, prev: None, stats: Stats) -> DoCState:
        """Untrained networks."""
        length = self.config.context + self.config.future
        window = jax.tree.map(lambda leaf: jnp.zeros((1, length, *leaf.shape[1:]), leaf.dtype), self._no_steps(1))
        params = self._model.init(key, window, jnp.zeros((1, 1, self.config.latent_size)))
        size = jnp.abs(stats.returns).max()
        derived = jnp.where(size > 0, size, 1.0)
        scale = derived if self.config.return_scale is None else jnp.float32(self.config.return_scale)
        return DoCState(optim.init(params, self._optimiser), scale)

    def sample(self, buffer: Buffer, key: Key) -> Windows:
        """Windows around a present step: the past ends with it, the future is what follows."""
        before, after = self.config.context - 1, self.config.future
        return buffer.windows(key, self.config.batch_size, before, after, gamma=1.0)

    def update(self, state: DoCState, batch: Windows, key: Key, step: Array) -> tuple[DoCState, Metrics]:
        """One step down the sum of all losses."""
        offset_key, *keys = jax.random.split(key, 4)
        window = self._as_steps(batch, state.scale)
        offset = jax.random.randint(offset_key, (self.config.batch_size,), 0, self.config.hold)

        def loss(params: Any) -> tuple[Array, Metrics]:
            terms = self.losses(params, window, batch, batch.extra["return_to_go"] / state.scale, offset, keys)
            total = terms["policy/loss"] + terms["value/loss"] + terms.pop("prior/cost") + terms.pop("luck/cost")
            return total, terms

        net, metrics = optim.descend(loss, state.net, self._optimiser)
        return state._replace(net=net), metrics

    def losses(
        self, params: Any, window: Steps, batch: Windows, to_go: Array, offset: Array, keys: tuple[Key, Key, Key]
    ) -> Metrics:
        """The terms of the loss, and how many nats the latents hold.

        policy/loss: -log pi(a | past, z), for continuous actions the squared error; value/loss: (V(past, z) - R)^2 of
        the scaled return to go; both at the step ``offset`` [B] after the present one, at which z is still followed.
        """
        latent_key, belief_key, answer_key = keys
        beliefs = self._model.apply(params, window, deterministic=False, rngs={"dropout": belief_key}, method="beliefs")
        latent, weight = self._expand(beliefs.posterior, latent_key)
        past = jax.tree.map(lambda leaf: _from(leaf, offset, self.config.context), window)
        answer, value = self._model.apply(
            params, past, latent, deterministic=False, rngs={"dropout": answer_key}, method="answers"
        )
        present = offset + self.config.context - 1
        action, to_go, mask = (_from(column, present, 1) for column in (batch.action, to_go, batch.mask))
        imitation = (weight * self.error(answer, action)).sum(1)
        regression = (weight * (value - to_go) ** 2).sum(1)
        surprise, luck = self.information(beliefs, window)
        return {
            "policy/loss": losses.masked_mean(imitation, mask[:, 0]),
            "value/loss": losses.masked_mean(regression, mask[:, 0]),
            "prior/nats": self.divergence(beliefs.posterior, beliefs.prior).mean(),
            "prior/cost": surprise,
            "luck/nats": luck[0],
            "luck/cost": luck[1],
        }

    def information(self, beliefs: Beliefs, window: Steps) -> tuple[Array, tuple[Array, Array]]:
        """(cost of the prior, (nats of luck in the latents, their cost)), means over the batch.

        A learnt distribution follows the posterior at full weight; the posterior pays for what was not expected. The
        mean divergence from the best c(z | past, action) is I(z; future | past, action), and from any other it is more.
        """
        surprise = self._learnt(beliefs.posterior, beliefs.prior, self.config.prior_weight)
        if self.config.constraint == "bottleneck":
            luck = self.divergence(beliefs.posterior, beliefs.marginal).mean()
            return surprise, (luck, self._learnt(beliefs.posterior, beliefs.marginal, self.config.constraint_weight))
        past = Steps(*(part[:, : self.config.context] for part in window))
        luck = conditional_information(
            jax.nn.log_softmax(beliefs.posterior), networks.flat(networks.before_outcome(past))
        )
        return surprise, (luck, self.config.constraint_weight * luck)

    def _learnt(self, posterior: Array, expected: Array, weight: float) -> Array:
        """KL(q || p) that trains p alone, and ``weight`` times the same that moves q alone."""
        fit = self.divergence(jax.lax.stop_gradient(posterior), expected)
        pull = self.divergence(posterior, jax.lax.stop_gradient(expected))
        return (fit + weight * pull).mean()

    def divergence(self, posterior: Array, expected: Array) -> Array:
        """[B]: KL(q || p) of two distributions of latents, from their parameters [B, P] each."""
        if self.config.latent == "discrete":
            log_q, log_p = jax.nn.log_softmax(posterior), jax.nn.log_softmax(expected)
            return (jnp.exp(log_q) * (log_q - log_p)).sum(-1)
        (mean, log_std), (other, other_log_std) = _gaussian(posterior), _gaussian(expected)
        ratio = jnp.exp(2 * (log_std - other_log_std))
        distance = (mean - other) ** 2 * jnp.exp(-2 * other_log_std)
        return (other_log_std - log_std + 0.5 * (ratio + distance - 1)).sum(-1)

    def error(self, answer: Array, action: Array) -> Array:
        """[B, N]: what is left to be imitated of actions [B, 1, ...] by each of N answers [B, N, ...]."""
        if isinstance(self.spec.action, Discrete):
            return -(jax.nn.log_softmax(answer) * jax.nn.one_hot(action, self.spec.action.n)).sum(-1)
        return ((jnp.tanh(answer) - action) ** 2).mean(-1)

    def _expand(self, parameters: Array, key: Key) -> tuple[Array, Array]:
        """(latents [B, N, D], their weights [B, N]) over which an expectation is a sum: every code with its
        probability, or one draw with its gradient."""
        if self.config.latent == "discrete":
            probability = jax.nn.softmax(parameters)
            every_code = jnp.eye(self.config.latent_size)
            return jnp.broadcast_to(every_code, (*probability.shape, self.config.latent_size)), probability
        mean, log_std = _gaussian(parameters)
        latent = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
        return latent[:, None], jnp.ones((len(latent), 1))

    # --- acting ---

    @property
    def goals(self) -> Mapping[str, Any]:
        return {"": None}

    def begin(self, state: DoCState, goal: None) -> Memory:
        """An empty memory."""
        steps = self._no_steps(self.config.context)
        none_yet = jnp.full(self.config.context, -1, jnp.int32)
        return Memory(steps.obs, steps.action, steps.reward, none_yet, jnp.zeros(self.config.latent_size))

    def observe(self, state: DoCState, memory: Memory, percept: Percept) -> Memory:
        """Take in the reward of the last step, and the observation of the next one."""
        reward = memory.reward.at[-1].set(percept.reward / state.scale)
        return memory._replace(
            obs=_shifted(memory.obs, percept.obs),
            action=_shifted(memory.action, 0.0),
            reward=_shifted(reward, 0.0),
            t=_shifted(memory.t, percept.t),
        )

    def choose(self, state: DoCState, memory: Memory, key: Key) -> tuple[Array, Array]:
        """(the latent [D] of the largest value among the candidates, that value as a return []).

        The value is what the agent believes that it will earn from here on, in the rewards that it is trained on.
        """
        past = self._remembered(memory)
        prior = self._model.apply(state.net.params, past, method="prior")
        if self.config.latent == "discrete":
            latents = jnp.eye(self.config.latent_size)
            mass = jax.nn.softmax(prior[0])
            allowed = mass >= jnp.minimum(self.config.least_mass, mass.max())
        else:
            mean, log_std = _gaussian(prior)
            noise = jax.random.normal(key, (self.config.candidates, self.config.latent_size))
            latents = mean + jnp.exp(log_std) * noise
            allowed = jnp.ones(len(latents), bool)
        _, value = self._model.apply(state.net.params, past, latents[None], method="answers")
        promised = jnp.where(allowed, value[0], -jnp.inf)
        best = jnp.argmax(promised)
        return latents[best], promised[best] * state.scale

    def act(self, state: DoCState, memory: Memory, key: Key, *, greedy: bool) -> tuple[Array, Memory]:
        """One action. The continuous policy is deterministic; the discrete one samples unless ``greedy``."""
        latent_key, action_key = jax.random.split(key)
        chosen, _ = self.choose(state, memory, latent_key)
        is_due = memory.t[-1] % self.config.hold == 0
        latent = jnp.where(is_due, chosen, memory.latent)
        answer, _ = self._model.apply(state.net.params, self._remembered(memory), latent[None, None], method="answers")
        answer = answer[0, 0]
        if not isinstance(self.spec.action, Discrete):
            action = jnp.tanh(answer)
        elif greedy:
            action = jnp.argmax(answer).astype(jnp.int32)
        else:
            action = jax.random.categorical(action_key, answer).astype(jnp.int32)
        taken = memory.action.at[-1].set(self._as_numbers(action))
        return action[None], memory._replace(action=taken, latent=latent)

    # --- what the networks read ---

    def _as_steps(self, batch: Windows, scale: Array) -> Steps:
        sees = jnp.stack([batch.seen, batch.mask, batch.mask], -1)
        return Steps(batch.obs, self._as_numbers(batch.action), batch.reward / scale, batch.t, sees)

    def _remembered(self, memory: Memory) -> Steps:
        """The memory as a batch of one."""
        sees = jnp.repeat((memory.t >= 0)[:, None], 3, 1)
        steps = Steps(memory.obs, memory.action, memory.reward, memory.t, sees)
        return jax.tree.map(lambda leaf: leaf[None], steps)

    def _no_steps(self, length: int) -> Steps:
        """[length, ...] steps of which nothing is seen."""
        obs = jnp.zeros((length, *self.spec.observation.shape))
        action = jnp.zeros((length, self._actions))
        return Steps(obs, action, jnp.zeros(length), jnp.zeros(length, jnp.int32), jnp.zeros((length, 3), bool))

    def _as_numbers(self, action: Array) -> Array:
        """[..., A]: choices are one-hot."""
        return jax.nn.one_hot(action, self.spec.action.n) if isinstance(self.spec.action, Discrete) else action

    @property
    def _actions(self) -> int:
        action = self.spec.action
        return action.n if isinstance(action, Discrete) else action.shape[0]

    @property
    def _model(self) -> networks.LatentFuture:
        c = self.config
        return networks.LatentFuture(
            outputs=self._actions,
            parameters=c.latent_size if c.latent == "discrete" else 2 * c.latent_size,
            horizon=self.spec.horizon,
            context=c.context,
            reader=c.reader,
            layers=c.layers,
            heads=c.heads,
            head_width=c.head_width,
            mlp=c.mlp,
            dropout=c.dropout,
            widths=c.widths,
        )

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        c = self.config
        first = c.learning_rate / c.warmup  # of the first update already, as in the official code
        rate = optax.linear_schedule(first, c.learning_rate, c.warmup - 1)
        if c.decay:
            left = max(self.steps - c.warmup, 1)
            fall = optax.cosine_decay_schedule(c.learning_rate, left)
            rate = optax.join_schedules([rate, fall], [c.warmup])
        clip = optax.stateless(lambda gradients, params: jax.tree.map(self._clipped, gradients))
        return optax.chain(clip, optax.adamw(rate, weight_decay=c.weight_decay))

    def _clipped(self, gradient: Array) -> Array:
        """``gradient`` of one array, made shorter where its norm is above the largest allowed."""
        norm = jnp.sqrt((gradient**2).sum())
        return gradient * jnp.minimum(1.0, self.config.clip / jnp.maximum(norm, 1e-12))


def conditional_information(log_q: Array, condition: Array) -> Array:
    """[] I(z; the rest of a row | condition) in nats, of the batch taken as the world.

    That is the mean divergence of each row's codes, ``log_q`` [B, Z], from the mean of all rows whose ``condition``
    [B, D] is the same to the bit.
    """
    q = jnp.exp(log_q)
    same = (condition[:, None] == condition[None]).all(-1).astype(q.dtype)
    marginal = same @ q / same.sum(1, keepdims=True)
    return (q * (log_q - jnp.log(jnp.maximum(marginal, 1e-30)))).sum(-1).mean()


def _gaussian(parameters: Array) -> tuple[Array, Array]:
    """(mean, log standard deviation) of a diagonal Gaussian."""
    mean, log_std = jnp.split(parameters, 2, -1)
    return mean, jnp.clip(log_std, *LOG_STD_BOUNDS)


def _from(column: Array, start: Array, length: int) -> Array:
    """``column`` [B, T, ...] at ``start`` [B] and after it, [B, length, ...]."""
    return jax.vmap(lambda row, first: jax.lax.dynamic_slice_in_dim(row, first, length))(column, start)


def _shifted(window: Array, value: Array | float) -> Array:
    """``window`` [K, ...] without its oldest entry, and with ``value`` as the newest."""
    return jnp.roll(window, -1, 0).at[-1].set(value)


_OFFICIAL = (
    "google-research/google-research, dichotomy_of_control, FrozenLake: three transformers of 3 layers, width 128, "
    "32-dimensional Gaussian latents, context and future of 20 steps, AdamW 1e-4 with weight decay 1e-4, clip 0.25 an "
    "array, warm-up 1000, batch 64, 10k updates, both weights 1, 100 candidates"
)
_SMALL = "this project: codes, perceptrons that read one step and the next, few updates; not tuned"
_PENDULUM = "this project, for the embedded dataset: small transformers, short pieces; not tuned"

_TABULAR = {"context": 1, "future": 1, "reader": "mlp", "latent": "discrete", "clip": 10.0, "weight_decay": 0.0}
PRESETS = {
    "paper": Preset(Config(return_scale=1.0), 10_000, _OFFICIAL, {"normalise": "standard"}),
    "small": Preset(
        Config(
            **_TABULAR,
            constraint_weight=5.0,
            prior_weight=0.1,
            latent_size=8,
            widths=(64, 64),
            batch_size=256,
            learning_rate=3e-3,
            warmup=1,
            decay=True,
        ),
        2_000,
        _SMALL,
    ),
    "pendulum": Preset(
        Config(layers=2, head_width=32, mlp=64, widths=(64, 64), context=5, future=5, learning_rate=1e-3, warmup=300),
        3_000,
        _PENDULUM,
    ),
}
VARIANTS = (
    {"latent": "discrete"},
    {"latent": "discrete", "constraint": "exact-mi"},
    {"reader": "mlp"},
    {"hold": 3},
)
