"""PDT: a transformer that learns without rewards to act towards a future, and then which futures pay.

Xie, Lin, Ye, Fu, Yang, Li: Future-conditioned Unsupervised Pretraining for Decision Transformer, ICML 2023. Official
code: fffffarmer/PDT; the defaults are its settings.

Two stages. ``pretrain`` sees no reward: an encoder makes a Gaussian latent z of what follows each step, the policy is
told z and imitates the action, and a prior learns from the observation which z there can be. ``pdt`` goes on with all
that and fits a return head f(R | s, z) to the data's return to go. To act, ``candidates`` futures are drawn from the
prior at every step and the one of the highest predicted return is followed; with one candidate it is the pretrained
policy, whatever the return head says. Nobody has to choose a return to ask for.

The KL terms are means over the latent's dimensions, not sums: with ``beta`` 1 a sum would be 16 times as heavy, and the
policy would learn to do without z. The prior learns from the posterior, which does not feel it: else the posterior
would move towards what the observation alone tells.

Online, where the official code learns from rewards alone, there are two further stages. In ``returns online`` the
pretrained policy collects some episodes, on whose returns the head alone is trained; in ``pdt online`` it collects an
episode with the best of its candidates, and then makes some updates on episodes that are drawn in proportion to their
returns. The data are not drawn from any more. As there: ``--steps 0 --online.steps N``, which leaves the data's returns
alone.

Deviations from the official code, see ``layout``: each step's future begins at the step after it and goes on to the end
of the window, read backwards; steps that nothing follows are not learnt from. What is collected before the head learns
is counted in episodes, there in steps (10,000); the replay keeps a million rows, there 1000 episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agents.odt import lamb, temperature_loss
from rlkit import losses, networks, optim
from rlkit.acting import push
from rlkit.buffer import Buffer
from rlkit.online import Online, continued
from rlkit.optim import Net
from rlkit.ranges import Count, Finite, LearningRate, Positive, Range, Weight, Whole
from rlkit.types import Array, InputError, Key, Metrics, Percept, Preset, Spec, Stage, Stats, Windows


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of PDT."""

    latent: Count = 16
    """Numbers that describe a future."""
    beta: Weight = 1.0
    """Weight of the KL divergence of the futures from N(0, 1), a mean over their dimensions."""
    pretrain_steps: Count = 50_000
    """Updates of the first stage, which sees no reward."""
    candidates: Count = 256
    """Futures that are drawn to act. 1: the pretrained policy."""
    pick: Count = 1
    """Which of them is followed: 1 is that of the highest predicted return, 2 the one after it."""
    return_scale: Positive | None = None
    """What returns are divided by. If not given, the largest size of the data's."""
    layout: Literal["next", "released"] = "next"
    """Of what the encoder sees: from the next step on, or the released code's, in which step j of the context sees the
    first j + 1 steps of the window behind the context."""
    learns: Literal["all", "all-but-prior", "returns"] = "all"
    """What the second stage goes on to learn: for ablations."""
    told: bool = True
    """Whether the policy is told the future; zeros stand there if not: for ablations."""
    context: Count = 20
    """Steps that the policy sees in training; as many follow, for the encoder."""
    acting_context: Count = 5
    """Steps that the policy sees when it acts."""
    layers: Count = 4
    """Blocks of each transformer."""
    heads: Count = 4
    """Attention heads of each block."""
    head_width: Count = 128
    """Width of a head; the width of a token is as many times that as there are heads."""
    mlp: Count = 2048
    """Hidden width of each block's perceptron."""
    dropout: Annotated[float, Range("[0, 1)")] = 0.1
    """Share of activations that are dropped while training."""
    batch_size: Count = 256
    """Windows in a batch."""
    learning_rate: LearningRate = 1e-4
    """LAMB's step size after the warm-up."""
    weight_decay: Weight = 5e-4
    """LAMB's weight decay."""
    warmup: Count = 10_000
    """Updates over which the step size rises from 0; the second stage goes on where the first one ends."""
    clip: Positive = 0.25
    """Largest norm of the gradient."""
    initial_temperature: Positive = 0.1
    """Weight of the entropy at the start."""
    temperature_learning_rate: LearningRate = 1e-4
    """Adam's step size for the logarithm of the temperature."""
    target_entropy: Finite | None = None
    """Entropy that the temperature is steered to; minus the number of action dimensions if not given."""
    head_updates: Whole = 1_500
    """Updates of the return head alone, after the first episodes that are collected (--online.warmup). 0: none."""
    head_learning_rate: LearningRate = 1e-3
    """Adam's step size in them."""

    ONLINE: ClassVar[Mapping[str, Any]] = {"unit": "episode", "updates": 300, "share": 0.0, "warmup": 20}

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        """Without rewards, then with them."""
        spec.require_bounded_action("pdt")
        if self.acting_context > self.context:
            raise InputError(
                f"pdt: --config.acting-context {self.acting_context}: the model is trained on {self.context} steps "
                "(--config.context) and knows no more"
            )
        if self.pick > self.candidates:
            raise InputError(f"pdt: pick {self.pick} of {self.candidates} candidates: pick one that is drawn")
        return (
            Stage("pretrain", PDT(self, spec, rewards=False), self.pretrain_steps),
            Stage("pdt", PDT(self, spec, rewards=True), steps),
        )

    def online(self, spec: Spec, stages: tuple[Stage, ...], online: Online) -> tuple[Stage, ...]:
        """The return head learns from the episodes of the warm-up, then all from what is collected."""
        if not (online.warmup and self.head_updates):
            return (continued(stages[-1], online, by_return=True),)
        # one round, and the same number of episodes as the stage after it has: its replay is kept
        before = replace(online, warmup=online.warmup - 1, every=1, updates=self.head_updates)
        head = ReturnHead(self, spec, rewards=True, by_return=True)
        after = continued(stages[-1], replace(online, warmup=0), by_return=True)
        return (
            Stage("returns online", head, self.head_updates, online=before, continues=True),
            replace(after, steps=online.rounds * online.updates),
        )


class PDTState(NamedTuple):
    """Everything that acting and further training need."""

    net: Net  # parameters of "policy", "encoder", "prior" and "returns"
    log_temperature: Net
    scale: Array  # [] what returns are divided by; 1 in the first stage, which sees none
    head_opt: Any  # of the optimiser that moves "returns" alone


class Memory(NamedTuple):
    """The last steps, the oldest first; steps that have not been are zeros behind the present one."""

    obs: Array  # [L, O]
    latent: Array  # [L, Z], the futures that were followed
    action: Array  # [L, A]
    t: Array  # [L] int32


class Terms(NamedTuple):
    """What the loss is made of, [] each."""

    likelihood: Array
    entropy: Array
    regulariser: Array
    prior: Array
    returns: Array


class Steps(NamedTuple):
    """A part of a batch of windows."""

    obs: Array  # [B, K, O]
    action: Array  # [B, K, A]
    valid: Array  # [B, K] bool: a recorded step


class Futures(NamedTuple):
    """The encoder's answer for each step of the context."""

    mean: Array  # [B, K, Z]
    log_std: Array  # [B, K, Z]
    mask: Array  # [B, K] bool: a step that is learnt from

    def draw(self, key: Key) -> Array:
        """[B, K, Z], reparameterised."""
        noise = jax.random.normal(key, self.mean.shape)
        return self.mean + jnp.exp(self.log_std) * noise


@dataclass(frozen=True)
class PDT:
    """The learner of both stages, which acts on a memory of its own. ``rewards``: of the second one. ``by_return``:
    episodes are drawn in proportion to how much their returns are above the least."""

    config: Config
    spec: Spec
    rewards: bool
    by_return: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of a window: the policy's, and the encoder's."""
        seen_ahead = 2 * self.config.context - 1 if self.config.layout == "next" else self.config.context
        return 3 * self.config.context + 2 * seen_ahead

    @property
    def needs(self) -> tuple[str, ...]:
        if self.by_return:
            return ("return_to_go", "episode_return", "episode_length")
        return ("return_to_go",) if self.rewards else ()

    def init(self, key: Key, prev: PDTState | None, stats: Stats) -> PDTState:
        """Untrained networks in the first stage; the second goes on with what the first one ends with."""
        c = self.config
        if prev is not None:
            return prev._replace(scale=self._return_scale(stats))
        policy_key, encoder_key, prior_key, returns_key = jax.random.split(key, 4)
        shape = (1, c.context)
        obs = jnp.zeros((*shape, *self.spec.observation.shape))
        action = jnp.zeros((*shape, *self.spec.action.shape))
        latent = jnp.zeros((*shape, c.latent))
        valid = jnp.ones(shape, bool)
        width = c.heads * c.head_width
        params = {
            "policy": self._policy.init(policy_key, obs, latent, action),
            "encoder": self._encoder.init(encoder_key, obs, action, valid),
            "prior": self._prior.init(prior_key, jnp.zeros((1, width))),
            "returns": self._returns.init(returns_key, jnp.zeros((1, 2 * width))),
        }
        log_temperature = jnp.log(jnp.float32(c.initial_temperature))
        return PDTState(
            net=optim.init(params, self._optimiser),
            log_temperature=optim.init(log_temperature, optax.adam(c.temperature_learning_rate)),
            scale=jnp.ones(()),
            head_opt=self._head_optimiser.init(params["returns"]),
        )

    def sample(self, buffer: Buffer, key: Key) -> Windows:
        """Windows whose context ends at any step, with as many steps behind it."""
        length = self.config.context
        weight = self.weight(buffer) if self.by_return else None
        rows = buffer.draw(key, self.config.batch_size, weight)
        return buffer.around(rows, before=length - 1, after=length, gamma=1.0)

    def weight(self, buffer: Buffer) -> Array:
        """[M] of each row that may be drawn: its episode's return less the least one, shared among its steps."""
        rows = buffer.gather(buffer.index, jnp.arange(buffer.index.shape[-1]))
        returns = buffer.gather(buffer.extra["episode_return"], rows)
        steps = buffer.gather(buffer.extra["episode_length"], rows)
        least = jnp.where(buffer.is_drawn, returns, jnp.inf).min()
        return (returns - least + 1e-6) / jnp.maximum(steps, 1)

    # --- learning ---

    def update(self, state: PDTState, batch: Windows, key: Key, step: Array) -> tuple[PDTState, Metrics]:
        """One step of the networks, then one of the temperature."""
        temperature = jnp.exp(state.log_temperature.params)
        net, metrics = optim.descend(
            lambda params: self.loss(params, state.scale, temperature, batch, key), state.net, self._optimiser
        )
        # no gradient is not enough to keep them: LAMB would still shrink them by its weight decay
        kept = {name: state.net.params[name] for name in self._held}
        net = net._replace(params=net.params | kept)
        log_temperature, more = optim.descend(
            lambda log: temperature_loss(log, metrics["policy/entropy"], self.config.target_entropy, self.spec),
            state.log_temperature,
            optax.adam(self.config.temperature_learning_rate),
        )
        return state._replace(net=net, log_temperature=log_temperature), metrics | more

    def loss(self, params: Any, scale: Array, temperature: Array, batch: Windows, key: Key) -> tuple[Array, Metrics]:
        """-likelihood - temperature H + beta KL(q || N(0, 1)) + KL(q || prior), and in the second stage the negative
        log-likelihood of the return to go."""
        held = {name: jax.lax.stop_gradient(params[name]) for name in self._held}
        terms = self.terms(params | held, scale, batch, key)
        imitation = -terms.likelihood - temperature * terms.entropy
        loss = imitation + self.config.beta * terms.regulariser + terms.prior
        metrics = {
            "policy/loss": imitation,
            "policy/likelihood": terms.likelihood,
            "policy/entropy": terms.entropy,
            "future/kl": terms.regulariser,
            "prior/kl": terms.prior,
        }
        if self.rewards:
            loss = loss + terms.returns
            metrics["returns/loss"] = terms.returns
        return loss, metrics

    def terms(self, params: Any, scale: Array, batch: Windows, key: Key) -> Terms:
        """The means over the steps that are learnt from."""
        encoder_key, latent_key, policy_key, action_key = jax.random.split(key, 4)
        context = self._context(batch)
        futures = self._futures(params, batch, encoder_key)
        latent = futures.draw(latent_key)
        policy = self._policy.apply(
            params["policy"],
            context.obs,
            latent,
            context.action,
            context.valid,
            deterministic=False,
            told=self.config.told,
            rngs={"dropout": policy_key},
        )
        log_prob = networks.tanh_normal_log_prob(*policy, context.action)
        _, drawn_log_prob = networks.tanh_normal_sample(*policy, action_key)
        zeros = jnp.zeros_like(futures.mean)
        from_standard = losses.normal_kl(futures.mean, futures.log_std, zeros, zeros)
        posterior = jax.lax.stop_gradient((futures.mean, futures.log_std))
        prior = self._prior_of(params, context.obs)
        from_prior = losses.normal_kl(*posterior, *prior)
        surprise = jnp.zeros(futures.mask.shape)
        if self.rewards:
            surprise = self._surprise(params, scale, batch, latent)
        return Terms(
            likelihood=losses.masked_mean(log_prob, futures.mask),
            entropy=-losses.masked_mean(drawn_log_prob, futures.mask),
            regulariser=losses.masked_mean(from_standard.mean(-1), futures.mask),
            prior=losses.masked_mean(from_prior.mean(-1), futures.mask),
            returns=losses.masked_mean(surprise, futures.mask),
        )

    def retold(self, params: Any, batch: Windows, key: Key) -> Array:
        """[B, K, A]: the policy's squashed means for the context of recorded windows, told the future that was."""
        encoder_key, latent_key = jax.random.split(key)
        context = self._context(batch)
        futures = self._futures(params, batch, encoder_key)
        mean, _ = self._policy.apply(
            params["policy"],
            context.obs,
            futures.draw(latent_key),
            context.action,
            context.valid,
            told=self.config.told,
        )
        return jnp.tanh(mean)

    def _surprise(self, params: Any, scale: Array, batch: Windows, latent: Array) -> Array:
        """[B, K]: -log f(R | s, z) of the scaled return to go of each step of the context."""
        predicted = self._returns_of(params, self._context(batch).obs, latent)
        to_go = batch.extra["return_to_go"][:, : self.config.context]
        return -networks.normal_log_prob(*predicted, to_go[..., None] / scale)

    def _context(self, batch: Windows) -> Steps:
        """The steps that the policy sees."""
        length = self.config.context
        return Steps(batch.obs[:, :length], batch.action[:, :length], batch.mask[:, :length])

    def _futures(self, params: Any, batch: Windows, key: Key) -> Futures:
        """What the encoder makes of what follows each step of the context."""
        length = self.config.context
        mask = batch.mask[:, :length]
        if self.config.layout == "next":
            future = Steps(batch.obs[:, 1:], batch.action[:, 1:], batch.mask[:, 1:])
            mask = mask & future.valid[:, :length]
        else:
            behind = Steps(batch.obs[:, length:], batch.action[:, length:], batch.mask[:, length:])
            future = _to_the_right(behind)
        mean, log_std = self._encoder.apply(
            params["encoder"],
            *future,
            deterministic=False,
            rngs={"dropout": key},
        )
        return Futures(mean[:, :length], log_std[:, :length], mask)

    def _prior_of(self, params: Any, obs: Array) -> tuple[Array, Array]:
        """Mean and log standard deviation [..., Z] of the futures of ``obs`` [..., O]."""
        embedded = self._policy.apply(params["policy"], obs, method="embed_obs")
        return self._prior.apply(params["prior"], jax.nn.relu(embedded))

    def _returns_of(self, params: Any, obs: Array, latent: Array) -> tuple[Array, Array]:
        """Mean and log standard deviation [..., 1] of the scaled return to go."""
        of_obs = self._policy.apply(params["policy"], obs, method="embed_obs")
        of_latent = self._policy.apply(params["policy"], latent, method="embed_latent")
        both = jnp.concatenate([of_obs, of_latent], -1)
        return self._returns.apply(params["returns"], jax.nn.relu(both))

    def _return_scale(self, stats: Stats) -> Array:
        """[] what returns are divided by."""
        if self.config.return_scale is not None:
            return jnp.float32(self.config.return_scale)
        size = jnp.abs(stats.returns).max()
        return jnp.where(size > 0, size, 1.0)

    @property
    def _held(self) -> tuple[str, ...]:
        """The networks that stay as they are."""
        if not self.rewards:
            return ("returns",)
        if self.config.learns == "all":
            return ()
        if self.config.learns == "all-but-prior":
            return ("prior",)
        return ("policy", "encoder", "prior")

    # --- acting ---

    @property
    def goals(self) -> Mapping[str, Any]:
        return {"": None}

    def begin(self, state: PDTState, goal: None) -> Memory:
        """An empty memory."""
        length = self.config.acting_context
        return Memory(
            obs=jnp.zeros((length, *self.spec.observation.shape)),
            latent=jnp.zeros((length, self.config.latent)),
            action=jnp.zeros((length, *self.spec.action.shape)),
            t=jnp.zeros(length, jnp.int32),
        )

    def observe(self, state: PDTState, memory: Memory, percept: Percept) -> Memory:
        """Take in the observation."""
        t = percept.t
        return Memory(
            obs=push(memory.obs, percept.obs, t),
            latent=push(memory.latent, jnp.zeros(self.config.latent), t),
            action=push(memory.action, jnp.zeros(self.spec.action.shape), t),
            t=push(memory.t, t, t),
        )

    def act(self, state: PDTState, memory: Memory, key: Key, *, greedy: bool) -> tuple[Array, Memory]:
        """Choose a future and act towards it: the squashed mean if ``greedy``, else a sample."""
        future_key, action_key = jax.random.split(key)
        now = jnp.minimum(memory.t.max(), self.config.acting_context - 1)
        future = self.choose(state, memory.obs[now], future_key)
        memory = memory._replace(latent=memory.latent.at[now].set(future))
        mean, log_std = self._policy.apply(
            state.net.params["policy"],
            memory.obs[None],
            memory.latent[None],
            memory.action[None],
            told=self.config.told,
        )
        mean, log_std = mean[0, now], log_std[0, now]
        if greedy:
            action = jnp.tanh(mean)
        else:
            action, _ = networks.tanh_normal_sample(mean, log_std, action_key)
        memory = memory._replace(action=memory.action.at[now].set(action))
        return action[None], memory

    def choose(self, state: PDTState, obs: Array, key: Key) -> Array:
        """[Z]: of the futures that the prior draws for ``obs`` [O], the one of the ``pick``-th highest return."""
        c, params = self.config, state.net.params
        number = self._candidates
        many = jnp.broadcast_to(obs, (number, *obs.shape))
        mean, log_std = self._prior_of(params, many)
        noise = jax.random.normal(key, mean.shape)
        latents = mean + jnp.exp(log_std) * noise
        if number == 1:
            return latents[0]
        predicted, _ = self._returns_of(params, many, latents)
        _, best = jax.lax.top_k(predicted[:, 0], c.pick)
        return latents[best[-1]]

    @property
    def _candidates(self) -> int:
        """Futures that are drawn to act."""
        return self.config.candidates if self.rewards else 1

    # --- networks ---

    @property
    def _size(self) -> networks.TransformerSize:
        c = self.config
        return networks.TransformerSize(c.layers, c.heads, c.head_width, c.mlp, c.dropout)

    @property
    def _policy(self) -> networks.FuturePolicy:
        return networks.FuturePolicy(self.spec.action.shape[0], self._size)

    @property
    def _encoder(self) -> networks.FutureEncoder:
        return networks.FutureEncoder(self.config.latent, self._size, backwards=self.config.layout == "next")

    @property
    def _prior(self) -> networks.GaussianHead:
        return networks.GaussianHead(self.config.latent, "clip")

    @property
    def _returns(self) -> networks.GaussianHead:
        return networks.GaussianHead(1, "clip")

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        return lamb(self.config)

    @property
    def _head_optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.head_learning_rate)


class ReturnHead(PDT):
    """The learner of the return head alone. It acts as the pretrained policy, since the head knows nothing yet."""

    def update(self, state: PDTState, batch: Windows, key: Key, step: Array) -> tuple[PDTState, Metrics]:
        """One step of the head up the likelihood of the returns to go, with the encoder's futures."""
        params = state.net.params
        encoder_key, latent_key = jax.random.split(key)
        futures = self._futures(params, batch, encoder_key)
        latent = futures.draw(latent_key)

        def loss(head: Any) -> tuple[Array, Metrics]:
            surprise = self._surprise(params | {"returns": head}, state.scale, batch, latent)
            value = losses.masked_mean(surprise, futures.mask)
            return value, {"returns/loss": value}

        head = Net(params["returns"], state.head_opt)
        head, metrics = optim.descend(loss, head, self._head_optimiser)
        net = state.net._replace(params=params | {"returns": head.params})
        return state._replace(net=net, head_opt=head.opt), metrics

    @property
    def _candidates(self) -> int:
        return 1


def _to_the_right(steps: Steps) -> Steps:
    """The valid steps, which stand on the left, moved to the right end."""
    length = steps.valid.shape[1]
    empty = length - steps.valid.sum(1, keepdims=True)
    place = (jnp.arange(length)[None] - empty) % length
    return Steps(
        obs=jnp.take_along_axis(steps.obs, place[..., None], 1),
        action=jnp.take_along_axis(steps.action, place[..., None], 1),
        valid=jnp.take_along_axis(steps.valid, place, 1),
    )


_PDT = (
    "fffffarmer/PDT, README.md and main.py, the same for every dataset; the length of the second stage, which is "
    "online there, is this project's"
)
_SMALL = "this project: what two cores train in ten minutes, few updates of smaller transformers"

PRESETS = {
    "pendulum": Preset(
        Config(
            pretrain_steps=2_000,
            layers=2,
            heads=2,
            head_width=32,
            mlp=128,
            learning_rate=3e-3,
            warmup=300,
            context=10,
            batch_size=64,
        ),
        1_000,
        "this project, for the embedded dataset",
    ),
    "paper": Preset(Config(return_scale=1000.0), 10_000, _PDT, {"normalise": "standard"}),
    "small": Preset(
        Config(
            return_scale=1000.0,
            pretrain_steps=6_000,
            layers=3,
            heads=1,
            head_width=64,
            mlp=256,
            learning_rate=3e-3,
            warmup=1_000,
            context=10,
            batch_size=64,
        ),
        2_000,
        _SMALL,
        {"normalise": "standard"},
    ),
}
