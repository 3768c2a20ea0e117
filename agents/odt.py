"""Online decision transformer: a stochastic policy that is told the return to go, its entropy kept up.

Zheng, Zhang, Grover: Online Decision Transformer, ICML 2022, arXiv 2202.05607. Official code:
facebookresearch/online-dt; the defaults are its settings.

What a decision transformer needs to go on learning online: its policy is a squashed Normal that is fitted by
likelihood, and a temperature keeps its entropy near a target (-A, for A action dimensions), so that there is something
left to explore with. Each step is told the return to go of its own episode. Training sees windows of K steps; to act,
the model sees the last few alone. The state holds the optimisers and the temperature: training can go on from it.

Online it collects an episode, asked for more than it has seen (``exploring_target``), and then makes some updates on
episodes that it collected, each told the return that came, whatever was asked for. The replay begins with the best
episodes of the data, which are not drawn from otherwise.

Deviations from the official code: the entropy is averaged over the steps that are real, where the code has padding in
it, too; the temperature's part in the loss is the code's. LAMB is optax's, which clips no norm of its own. The replay
keeps as many rows as its first episodes have, where the code keeps as many episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agents.dt import DT, require_returns
from rlkit import losses, networks, optim
from rlkit.acting import first_goal
from rlkit.optim import Net
from rlkit.ranges import Count, Finite, LearningRate, Positive, Range, Weight
from rlkit.types import Array, InputError, Key, Metrics, Preset, Spec, Stage, Stats, Windows


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of the online decision transformer."""

    targets: tuple[Finite, ...] = ()
    """Returns to ask for when it is evaluated, in the environment's units; the first is the score. If none is given,
    the best of the data's."""
    exploring_target: Finite | None = None
    """Return to ask for while it collects, in the environment's units; the paper takes twice the target. If not given,
    the first of the targets."""
    return_scale: Positive | None = None
    """What returns are divided by, in the environment's units. If not given, the largest size of the data's."""
    context: Count = 20
    """Steps that the model sees in training."""
    acting_context: Count = 5
    """Steps that the model sees when it acts."""
    embed_time: bool = False
    """Whether a step's time is embedded and added to its tokens."""
    layers: Count = 4
    """Blocks of the transformer."""
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
    """Updates over which the step size rises from 0."""
    clip: Positive = 0.25
    """Largest norm of the gradient."""
    initial_temperature: Positive = 0.1
    """Weight of the entropy at the start."""
    temperature_learning_rate: LearningRate = 1e-4
    """Adam's step size for the logarithm of the temperature."""
    target_entropy: Finite | None = None
    """Entropy that the temperature is steered to; minus the number of action dimensions if not given."""

    ONLINE: ClassVar[Mapping[str, Any]] = {"unit": "episode", "updates": 300, "share": 0.0, "best": 1000}

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        """One stage."""
        spec.require_bounded_action("odt")
        require_returns("odt", spec)
        if self.acting_context > self.context:
            raise InputError(
                f"odt: --config.acting-context {self.acting_context}: the model is trained on {self.context} steps "
                "(--config.context) and knows no more"
            )
        return (Stage("odt", ODT(self, spec), steps),)


class ODTState(NamedTuple):
    """Everything that acting and further training need."""

    net: Net
    best: Array  # [] the data's largest return
    scale: Array  # [] what returns are divided by
    log_temperature: Net


class ODT(DT):
    """The learner, which samples windows, remembers and is asked as `DT` is."""

    config: Config

    def init(self, key: Key, prev: None, stats: Stats) -> ODTState:
        """An untrained transformer."""
        log_temperature = jnp.log(jnp.float32(self.config.initial_temperature))
        temperature = optim.init(log_temperature, optax.adam(self.config.temperature_learning_rate))
        return ODTState(**super().init(key, prev, stats)._asdict(), log_temperature=temperature)

    def update(self, state: ODTState, batch: Windows, key: Key, step: Array) -> tuple[ODTState, Metrics]:
        """One step of the policy, then one of the temperature."""
        temperature = jnp.exp(state.log_temperature.params)
        net, metrics = optim.descend(
            lambda params: self.policy_loss(params, state.scale, temperature, batch, key), state.net, self._optimiser
        )
        log_temperature, more = optim.descend(
            lambda log: temperature_loss(log, metrics["policy/entropy"], self.config.target_entropy, self.spec),
            state.log_temperature,
            optax.adam(self.config.temperature_learning_rate),
        )
        return state._replace(net=net, log_temperature=log_temperature), metrics | more

    def policy_loss(
        self, params: Any, scale: Array, temperature: Array, batch: Windows, key: Key
    ) -> tuple[Array, Metrics]:
        """mean[-log pi(a | context)] - temperature H, over the real steps (eqs. 4 and 5).

        H is -log pi of one action that is drawn at each step.
        """
        dropout_key, sample_key = jax.random.split(key)
        to_go = batch.extra["return_to_go"] / scale
        mean, log_std = self._model.apply(
            params, to_go, batch.obs, batch.action, batch.t, deterministic=False, rngs={"dropout": dropout_key}
        )
        log_prob = networks.tanh_normal_log_prob(mean, log_std, batch.action)
        likelihood = losses.masked_mean(log_prob, batch.mask)
        _, drawn_log_prob = networks.tanh_normal_sample(mean, log_std, sample_key)
        entropy = -losses.masked_mean(drawn_log_prob, batch.mask)
        loss = -likelihood - temperature * entropy
        return loss, {"policy/loss": loss, "policy/likelihood": likelihood, "policy/entropy": entropy}

    # --- acting, where it differs ---

    @property
    def collecting_goal(self) -> float:
        """What it is asked for while it collects."""
        if self.config.exploring_target is None:
            return first_goal(self)
        return float(self.config.exploring_target)

    @property
    def _remembered(self) -> int:
        return self.config.acting_context

    @property
    def _is_told(self) -> bool:
        return True

    def _choose(self, answer: tuple[Array, Array], key: Key, greedy: bool) -> Array:
        """The squashed mean if ``greedy``, else a sample."""
        mean, log_std = answer
        return jnp.tanh(mean) if greedy else networks.tanh_normal_sample(mean, log_std, key)[0]

    @property
    def _model(self) -> networks.StochasticDecisionTransformer:
        c = self.config
        size = networks.TransformerSize(c.layers, c.heads, c.head_width, c.mlp, c.dropout)
        horizon = self.spec.horizon if c.embed_time else None
        return networks.StochasticDecisionTransformer(self.spec.action.shape[0], size, horizon)

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        return lamb(self.config)


def temperature_loss(log_temperature: Array, entropy: Array, wanted: float | None, spec: Spec) -> tuple[Array, Metrics]:
    """temperature (H - target), eq. 6: it falls where the entropy is above its target, by default minus the number of
    action dimensions."""
    if wanted is None:
        wanted = -float(spec.action.shape[0])
    temperature = jnp.exp(log_temperature)
    return temperature * (entropy - wanted), {"temperature/value": temperature}


def lamb(config: Any) -> optax.GradientTransformation:
    """LAMB behind a clip, with the fields of a `Config`."""
    rate = optim.warm_up(config.learning_rate, config.warmup)
    update = optax.lamb(rate, eps=1e-8, weight_decay=config.weight_decay)
    return optax.chain(optax.clip_by_global_norm(config.clip), update)


_ODT = "facebookresearch/online-dt, main.py: its defaults, which are those of hopper-medium-v2; returns times 0.001"
_EDT = (
    "umkiyoung/EXplorativeDT, scripts/online_dt_baseline.sh, for medium and medium-replay data; all else as "
    "facebookresearch/online-dt has it for hopper"
)
_SMALL = "this project: what two cores train in ten minutes, few updates of a smaller transformer"
# world -> (updates, LAMB's step size, its weight decay, return that is asked for when it is evaluated, source). Twice
# that return is asked for while it collects.
_PAPER = {
    "hopper": (5_000, 1e-4, 5e-4, 3600.0, _ODT),
    "walker2d": (10_000, 1e-3, 1e-3, 5000.0, _EDT),
    "halfcheetah": (5_000, 1e-4, 5e-4, 6000.0, _EDT),
}

PRESETS = {
    "pendulum": Preset(
        Config(layers=2, heads=2, head_width=32, mlp=128, learning_rate=3e-3, warmup=300, context=10, batch_size=64),
        3_000,
        "this project, for the embedded dataset",
    ),
}
for _world, (_steps, _rate, _decay, _target, _source) in _PAPER.items():
    PRESETS[f"{_world}/paper"] = Preset(
        Config(
            targets=(_target,),
            exploring_target=2 * _target,
            return_scale=1000.0,
            learning_rate=_rate,
            weight_decay=_decay,
        ),
        _steps,
        _source,
        {"normalise": "standard"},
    )
    PRESETS[f"{_world}/small"] = Preset(
        Config(
            targets=(_target,),
            exploring_target=2 * _target,
            return_scale=1000.0,
            learning_rate=3e-3,
            warmup=1_000,
            context=10,
            layers=3,
            heads=1,
            head_width=64,
            mlp=256,
            batch_size=64,
        ),
        8_000,
        _SMALL,
        {"normalise": "standard"},
    )
