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
from rlkit.online import Online, continued
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
    least_mass: Annotated[float, Range("[0, 1)")] = 1e-2
    """Codes that the prior gives less than this are not chosen: little has trained their value, and among a hundred
    draws from the prior, as continuous latents are, they would be rare."""
    hold: Count = 1
    """Steps for which a latent is kept once it is chosen; 1: a new one at every step."""
    context: Count = 20
    """Steps of the past that the model sees, the present one included."""
    future: Count = 20
    """Steps after the present one that the posterior sees."""
    reader: Literal["transformer", "mlp"] = "transformer"
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
        if not isinstance(spec.action, Discrete):
            spec.require_bounded_action("doc")
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

    def online(self, spec: Spec, stages: tuple[Stage, ...], online: Online) -> tuple[Stage, ...]:
        """It goes on with the step size after the warm-up."""
        return (continued(stages[-1], online, steps=None),)


class DoCState(NamedTuple):
    """All networks, and what returns are measured by."""

    net: Net
    scale: Array  # [] what rewards and returns are divided by


class Memory(NamedTuple):
    """What an acting agent keeps."""

    steps: networks.Steps  # [K, ...] the last steps, the newest last; of those that have not been nothing is seen
    latent: Array  # [D] the one that is followed


@dataclass(frozen=True)
class DoC:
    """The learner, which acts on a memory of its own. steps: updates in all, for the decay of the step size;
    None: it stays."""

    config: Config
    spec: Spec
    steps: int | None
    needs: tuple[str, ...] = ("return_to_go",)

    @property
    def tokens(self) -> int:
        """Tokens of a window: the policy's, those of the prior before and after the action, and the posterior's."""
        return 3 * (4 * self.config.context + self.config.future)

    def init(self, key: Key, prev: None, stats: Stats) -> DoCState:
        """Untrained networks."""
        c = self.config
        window = _batch_of_one(self._no_steps(c.context + c.future))
        params = self._model.init(key, window, jnp.zeros((1, 1, c.latent_size)))
        size = jnp.abs(stats.returns).max()
        derived = jnp.where(size > 0, size, 1.0)
        scale = derived if c.return_scale is None else jnp.float32(c.return_scale)
        return DoCState(optim.init(params, self._optimiser), scale)

    def sample(self, buffer: Buffer, key: Key) -> Windows:
        """Windows around a present step: the past ends with it, the future is what follows."""
        before, after = self.config.context - 1, self.config.future
        return buffer.windows(key, self.config.batch_size, before, after, gamma=1.0)

    def update(self, state: DoCState, batch: Windows, key: Key, step: Array) -> tuple[DoCState, Metrics]:
        """One step down the sum of all losses."""
        offset_key, loss_key = jax.random.split(key)
        offset = jax.random.randint(offset_key, batch.mask.shape[:1], 0, self.config.hold)

        def loss(params: Any) -> tuple[Array, Metrics]:
            terms = self.losses(state._replace(net=params), batch, offset, loss_key)
            total = terms["policy/loss"] + terms["value/loss"]
            total += terms["prior/loss"] + terms["luck/loss"]
            return total, terms

        net, metrics = optim.descend(loss, state.net, self._optimiser)
        return state._replace(net=net), metrics

    def losses(self, state: DoCState, batch: Windows, offset: Array, key: Key) -> Metrics:
        """The terms of the loss, and how many nats the latents hold; ``state`` has parameters as its net.

        policy/loss: -log pi(a | past, z), for continuous actions the squared error; value/loss: (V(past, z) - R)^2 of
        the scaled return to go; both at the step ``offset`` [B] after the present one, at which z is still followed.
        """
        belief_key, latent_key, answer_key = jax.random.split(key, 3)
        window = self._as_steps(batch, state.scale)
        beliefs = self._train("beliefs", state, belief_key, window)
        latent, weight = self._expand(beliefs.posterior, latent_key)

        past = jax.tree.map(lambda leaf: _from(leaf, offset, self.config.context), window)
        answer, value = self._train("answers", state, answer_key, past, latent)
        now = offset + self.config.context - 1
        action = _from(batch.action, now, 1)
        to_go = _from(batch.extra["return_to_go"], now, 1) / state.scale
        is_step = _from(batch.mask, now, 1)[:, 0]

        imitation = (weight * self.error(answer, action)).sum(1)
        regression = (weight * (value - to_go) ** 2).sum(1)
        terms = {
            "policy/loss": losses.masked_mean(imitation, is_step),
            "value/loss": losses.masked_mean(regression, is_step),
        }
        return terms | self.information(beliefs, window)

    def information(self, beliefs: networks.Beliefs, window: networks.Steps) -> Metrics:
        """Nats in the latents of a batch, and what they cost.

        A learnt distribution follows the posterior at full weight; the posterior pays for what was not expected. The
        mean divergence from the best c(z | past, action) is I(z; future | past, action), and from any other it is more.
        """
        c = self.config
        posterior, marginal = beliefs.posterior, beliefs.marginal
        surprise = self.divergence(posterior, beliefs.prior).mean()
        price = self._learnt(posterior, beliefs.prior, c.prior_weight)
        if c.constraint == "bottleneck":
            luck = self.divergence(posterior, marginal).mean()
            luck_price = self._learnt(posterior, marginal, c.constraint_weight)
        else:
            past = networks.before_outcome(_first(window, c.context))
            log_q = jax.nn.log_softmax(posterior)
            luck = conditional_information(log_q, networks.flat(past))
            luck_price = c.constraint_weight * luck
        return {
            "prior/nats": surprise,
            "prior/loss": price,
            "luck/nats": luck,
            "luck/loss": luck_price,
        }

    def _train(self, method: str, state: DoCState, key: Key, *inputs: Any) -> Any:
        """The model's ``method`` with dropout; ``state`` has parameters as its net."""
        rngs = {"dropout": key}
        return self._model.apply(state.net, *inputs, deterministic=False, rngs=rngs, method=method)

    def _say(self, method: str, state: DoCState, *inputs: Any) -> Any:
        """The model's ``method`` as it acts."""
        return self._model.apply(state.net.params, *inputs, method=method)

    def _learnt(self, posterior: Array, expected: Array, weight: float) -> Array:
        """KL(q || p) that trains p alone, and ``weight`` times the same that moves q alone."""
        fit = self.divergence(jax.lax.stop_gradient(posterior), expected)
        pull = self.divergence(posterior, jax.lax.stop_gradient(expected))
        return (fit + weight * pull).mean()

    def divergence(self, posterior: Array, expected: Array) -> Array:
        """[B]: KL(q || p) of two distributions of latents, from their parameters [B, P] each."""
        if self.config.latent == "discrete":
            log_q = jax.nn.log_softmax(posterior)
            log_p = jax.nn.log_softmax(expected)
            return (jnp.exp(log_q) * (log_q - log_p)).sum(-1)
        mean, log_std = _gaussian(posterior)
        return losses.normal_kl(mean, log_std, *_gaussian(expected)).sum(-1)

    def error(self, answer: Array, action: Array) -> Array:
        """[B, N]: what is left to be imitated of actions [B, 1, ...] by each of N answers [B, N, ...]."""
        if isinstance(self.spec.action, Discrete):
            log_pi = jax.nn.log_softmax(answer)
            return -(log_pi * self._as_numbers(action)).sum(-1)
        return ((jnp.tanh(answer) - action) ** 2).mean(-1)

    def _expand(self, parameters: Array, key: Key) -> tuple[Array, Array]:
        """(latents [B, N, D], their weights [B, N]) over which an expectation is a sum: every code with its
        probability, or one draw with its gradient."""
        size = self.config.latent_size
        if self.config.latent == "discrete":
            probability = jax.nn.softmax(parameters)
            every_code = jnp.eye(size)
            return jnp.broadcast_to(every_code, (*probability.shape, size)), probability
        latent = _draw(parameters, key)
        return latent[:, None], jnp.ones((len(latent), 1))

    # --- acting ---

    @property
    def goals(self) -> Mapping[str, Any]:
        return {"": None}

    def begin(self, state: DoCState, goal: None) -> Memory:
        """An empty memory."""
        steps = self._no_steps(self.config.context)
        return Memory(steps, jnp.zeros(self.config.latent_size))

    def observe(self, state: DoCState, memory: Memory, percept: Percept) -> Memory:
        """Take in the reward of the last step, and the observation of the next one."""
        last = memory.steps
        received = last.reward.at[-1].set(percept.reward / state.scale)
        steps = networks.Steps(
            obs=_shifted(last.obs, percept.obs),
            action=_shifted(last.action, 0.0),
            reward=_shifted(received, 0.0),
            t=_shifted(last.t, percept.t),
            sees=_shifted(last.sees, True),
        )
        return memory._replace(steps=steps)

    def choose(self, state: DoCState, memory: Memory, key: Key) -> tuple[Array, Array]:
        """(the latent [D] of the largest value among the candidates, that value as a return []).

        The value is what the agent believes that it will earn from here on, in the rewards that it is trained on.
        """
        past = _batch_of_one(memory.steps)
        prior = self._say("prior", state, past)[0]
        latents, is_allowed = self._candidates(prior, key)
        _, value = self._say("answers", state, past, latents[None])
        promised = jnp.where(is_allowed, value[0], -jnp.inf)
        best = jnp.argmax(promised)
        return latents[best], promised[best] * state.scale

    def _candidates(self, prior: Array, key: Key) -> tuple[Array, Array]:
        """(latents [N, D], which of them may be chosen [N])."""
        c = self.config
        if c.latent == "discrete":
            mass = jax.nn.softmax(prior)
            least = jnp.minimum(c.least_mass, mass.max())
            return jnp.eye(c.latent_size), mass >= least
        repeated = jnp.repeat(prior[None], c.candidates, 0)
        return _draw(repeated, key), jnp.ones(c.candidates, bool)

    def act(self, state: DoCState, memory: Memory, key: Key, *, greedy: bool) -> tuple[Array, Memory]:
        """One action. The continuous policy is deterministic; the discrete one samples unless ``greedy``."""
        latent_key, action_key = jax.random.split(key)
        steps = memory.steps
        chosen, _ = self.choose(state, memory, latent_key)
        is_due = steps.t[-1] % self.config.hold == 0
        latent = jnp.where(is_due, chosen, memory.latent)
        answers, _ = self._say("answers", state, _batch_of_one(steps), latent[None, None])
        answer = answers[0, 0]
        if not isinstance(self.spec.action, Discrete):
            action = jnp.tanh(answer)
        elif greedy:
            action = jnp.argmax(answer).astype(jnp.int32)
        else:
            action = jax.random.categorical(action_key, answer).astype(jnp.int32)
        taken = steps.action.at[-1].set(self._as_numbers(action))
        return action[None], Memory(steps._replace(action=taken), latent)

    # --- what the networks read ---

    def _as_steps(self, batch: Windows, scale: Array) -> networks.Steps:
        sees = jnp.stack([batch.seen, batch.mask, batch.mask], -1)
        action = self._as_numbers(batch.action)
        return networks.Steps(batch.obs, action, batch.reward / scale, batch.t, sees)

    def _no_steps(self, length: int) -> networks.Steps:
        """[length, ...] steps of which nothing is seen."""
        return networks.Steps(
            obs=jnp.zeros((length, *self.spec.observation.shape)),
            action=jnp.zeros((length, self._actions)),
            reward=jnp.zeros(length),
            t=jnp.zeros(length, jnp.int32),
            sees=jnp.zeros((length, 3), bool),
        )

    def _as_numbers(self, action: Array) -> Array:
        """[..., A]: choices are one-hot."""
        if isinstance(self.spec.action, Discrete):
            return jax.nn.one_hot(action, self.spec.action.n)
        return action

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
        rate = optim.warm_up(c.learning_rate, c.warmup)
        if c.decay:
            rate = optim.warm_up_and_fall(c.learning_rate, c.warmup, self.steps)
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


def _draw(parameters: Array, key: Key) -> Array:
    """A latent [..., D] of each of the Gaussians [..., 2 D], with its gradient."""
    mean, log_std = _gaussian(parameters)
    noise = jax.random.normal(key, mean.shape)
    return mean + jnp.exp(log_std) * noise


def _from(column: Array, start: Array, length: int) -> Array:
    """``column`` [B, T, ...] at ``start`` [B] and after it, [B, length, ...]."""
    return jax.vmap(lambda row, first: jax.lax.dynamic_slice_in_dim(row, first, length))(column, start)


def _first(steps: networks.Steps, length: int) -> networks.Steps:
    """The first ``length`` steps of each piece."""
    return networks.Steps(*(part[:, :length] for part in steps))


def _batch_of_one(steps: networks.Steps) -> networks.Steps:
    """[K, ...] -> [1, K, ...]."""
    return networks.Steps(*(part[None] for part in steps))


def _shifted(window: Array, value: Array | float | bool) -> Array:
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
        4_000,
        _SMALL,
    ),
    "pendulum": Preset(
        Config(layers=2, head_width=32, mlp=64, widths=(64, 64), context=5, future=5, learning_rate=1e-3, warmup=300),
        3_000,
        _PENDULUM,
    ),
}
VARIANTS = ({"latent": "discrete", "constraint": "exact-mi", "reader": "mlp", "hold": 3},)
