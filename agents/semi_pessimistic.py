"""Semi-pessimistic RL: where rewards are not known, a lower bound of them; then any method, without more pessimism.

Zhu, Zhou, Yao, Aminian, Rivasplata, Little, Li, Shi: Semi-pessimistic Reinforcement Learning, 2025, arXiv 2505.19002.
No official code is known. The idea, r_lcb(s, a) = r(s, a) - c sigma(s, a) on unlabelled steps and an ordinary method on
all of them, is the paper's; its estimator, networks and numbers are not known to us. What stands here for them
(estimators, the choice of c, the clip, what is relabelled) is derived and unverified.

Stage ``reward`` fits a model of the reward to the labels but a fifth of the labelled episodes; at its end all rows get
their reward, [N] in the state of each seed; the stages of ``base`` follow, with that reward in their batches. The model
sees (s, a) alone: a reward that depends on s' is beyond it. The labels of one episode depend on each other, so that the
coverage that c is chosen for holds roughly.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Union

import jax
import jax.numpy as jnp
import tyro

from agents import awac, cql, discrete_cql, edac, iql, rebrac, sac, td3_bc
from rlkit import uncertainty
from rlkit.buffer import FROM_REWARDS, Buffer
from rlkit.datasets.episodes import HAS_ACTION
from rlkit.types import (
    Agent,
    Array,
    Discrete,
    InputError,
    Key,
    Metrics,
    Percept,
    Preset,
    Spec,
    Stage,
    Stats,
    Transitions,
)
from rlkit.uncertainty import Estimator, Labels, masked_mean

BASES = (awac, cql, discrete_cql, edac, iql, rebrac, sac, td3_bc)
# what is named on the command line: config.base:NAME; no two have the same fields, which is how a record is read back
Base = Union[  # noqa: UP007  (made from the list)
    tuple(
        Annotated[base.Config, tyro.conf.subcommand(base.__name__.rpartition(".")[2].replace("_", "-"))]
        for base in BASES
    )
]


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of semi-pessimistic RL."""

    base: Base = iql.Config()
    """The method that learns from the relabelled data, with its own hyper-parameters."""
    imputation: Literal["lower-bound", "mean", "zero", "minimum", "labelled-only"] = "lower-bound"
    """Reward of unlabelled steps: the bound; the model's mean; 0 (UDS); the least labelled reward; or such steps are
    not drawn."""
    relabel_labelled: bool = False
    """Give labelled steps the bound (or the mean) too, rather than their recorded reward."""
    c: float | None = None
    """Spreads that the bound is below the mean. If not given, as many as cover 1 - DELTA of the held-out labels."""
    delta: float = 0.05
    """Share of rewards that may be below the bound."""
    estimator: Literal["bootstrap", "gaussian", "quantile", "gp"] = "bootstrap"
    """Reward model: an ensemble on bootstrap resamples; one with variance heads, for noisy rewards; quantiles, for
    skewed ones; or a Gaussian process, for up to 2000 labels in few dimensions."""
    members: int = 10
    """Networks of an ensemble."""
    prior_scale: float = 1.0
    """Spread of the random functions that keep an ensemble's members apart where there are no labels, in standard
    deviations of the labelled rewards."""
    level: float = 0.1
    """The lower quantile of the quantile model."""
    length: float = 1.0
    """Length scale of the Gaussian process, in standard deviations of the inputs."""
    noise: float = 0.1
    """Noise of the rewards in the Gaussian process, in their standard deviations."""
    model_widths: tuple[int, ...] = (256, 256)
    """Hidden layers of the reward model."""
    model_learning_rate: float = 1e-3
    """Adam's step size for the reward model."""
    model_batch_size: int = 256
    """Labelled steps in a batch of the reward model, those held out included."""
    model_steps: int = 5_000
    """Updates of the reward model; a Gaussian process takes one."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        """The reward model, then the base's stages."""
        stages = self.base.stages(spec, steps)
        columns = {name.partition("@")[0] for stage in stages for name in stage.learner.needs}
        if found := sorted(columns & FROM_REWARDS):
            raise InputError(
                f"semi-pessimistic: the base needs {found[0]}, which is made of rewards that are not known yet when "
                "data are loaded: choose another base, or its settings without"
            )
        only = self.imputation == "labelled-only"
        model_steps = 1 if self.estimator == "gp" else self.model_steps
        model = Stage("reward", RewardModel(self, spec), model_steps, Relabel(self, spec))
        return model, *(dataclasses.replace(stage, learner=Relabelled(stage.learner, only)) for stage in stages)

    @property
    def model(self) -> Estimator:
        """The reward model."""
        if self.estimator == "gp":
            return uncertainty.GaussianProcess(self.length, self.noise)
        shape = {"widths": self.model_widths, "learning_rate": self.model_learning_rate}
        shape["batch_size"] = self.model_batch_size
        if self.estimator == "quantile":
            return uncertainty.Quantile(self.level, **shape)
        gaussian = self.estimator == "gaussian"
        return uncertainty.Ensemble(
            self.members, prior_scale=self.prior_scale, bootstrap=not gaussian, gaussian=gaussian, **shape
        )


class Batch(NamedTuple):
    """Labelled steps, B of them; ``weight`` is 0 for those held out."""

    obs: Array  # [B, O]
    action: Array  # [B, A] or [B]
    reward: Array  # [B], standardised by the moments of the labels that are not held out
    weight: Array  # [B]
    row: Array  # [B] int32


class ModelState(NamedTuple):
    """The estimator's state, and the moments [D] that standardise its inputs."""

    estimator: Any
    mean: Array
    std: Array


@dataclass(frozen=True)
class RewardModel:
    """The learner of the first stage."""

    config: Config
    spec: Spec
    needs: tuple[str, ...] = ("labelled", "held_out", "hidden_reward", "row")

    def init(self, key: Key, prev: None, stats: Stats) -> ModelState:
        """An untrained model. Choices are given one by one as 0 and 1, and not standardised."""
        mean, std = stats.action_mean, stats.action_std
        if isinstance(self.spec.action, Discrete):
            mean, std = jnp.zeros(self.spec.action.n), jnp.ones(self.spec.action.n)
        mean, std = jnp.concatenate([stats.obs_mean, mean]), jnp.concatenate([stats.obs_std, std])
        return ModelState(self.config.model.init(key, len(mean)), mean, jnp.where(std > 0, std, 1.0))

    def sample(self, buffer: Buffer, key: Key) -> Batch:
        """Labelled steps."""
        number, there = self.config.model.draw(key, buffer.labels)
        row = buffer.index[number]
        mean, std = label_moments(buffer)
        weight = (there & ~buffer.extra["held_out"][row]).astype(jnp.float32)
        return Batch(buffer.obs[row], buffer.action[row], (buffer.reward[row] - mean) / std, weight, row)

    def update(self, state: ModelState, batch: Batch, key: Key, step: Array) -> tuple[ModelState, Metrics]:
        """One step of the estimator."""
        labels = Labels(inputs(self.spec, state, batch.obs, batch.action), batch.reward, batch.weight, batch.row)
        estimator, metrics = self.config.model.update(state.estimator, labels)
        return state._replace(estimator=estimator), metrics


class Rewards(NamedTuple):
    """What the first stage is made into: the reward of every row, and what is known of it."""

    reward: Array  # [N]
    diagnostics: dict[str, Array]


@dataclass(frozen=True)
class Relabel:
    """From the reward model to the rewards of all rows."""

    config: Config
    spec: Spec

    def __call__(self, state: ModelState, buffer: Buffer, key: Key) -> Rewards:
        """The imputed reward where none is known, never below the least that is."""
        config, labelled, held = self.config, buffer.extra["labelled"], buffer.extra["held_out"]
        x = inputs(self.spec, state, buffer.obs, buffer.action)
        mean, spread = config.model.predict(state.estimator, x)
        centre, scale = label_moments(buffer)
        mean, spread = mean * scale + centre, jnp.maximum(spread * scale, 1e-6)
        c = jnp.float32(config.c or 0)
        if config.c is None:
            c = jnp.maximum(uncertainty.conformal((mean - buffer.reward) / spread, held, config.delta), 0)
        least = jnp.where(labelled, buffer.reward, jnp.inf).min()
        bound = jnp.maximum(mean - c * spread, least)
        imputed = {
            "lower-bound": bound,
            "mean": jnp.maximum(mean, least),
            "minimum": jnp.full_like(mean, least),
        }.get(config.imputation, jnp.zeros_like(mean))
        known = labelled & (not config.relabel_labelled)
        step = (buffer.flags & HAS_ACTION) > 0
        reward = jnp.where(known, buffer.reward, jnp.where(step, imputed, 0))
        unlabelled = step & ~labelled
        diagnostics = {
            "label/c": c,
            "label/spread": masked_mean(spread, unlabelled),
            "label/coverage": masked_mean(buffer.reward >= bound, held),
            "label/far": uncertainty.far(x, labelled & ~held, held, unlabelled, key),
            **_against_truth(mean, bound, unlabelled, buffer.extra["hidden_reward"]),
        }
        return Rewards(reward, diagnostics)


class RelabelledState(NamedTuple):
    """The base's state, and the rewards that it learns from."""

    base: Any
    rewards: Rewards


@dataclass(frozen=True)
class Relabelled:
    """A learner of the base that sees the rewards of its state in place of the data's."""

    base: Agent
    only_labelled: bool

    @property
    def needs(self) -> tuple[str, ...]:
        """The base's, and what leads from a batch to its rewards."""
        return (*self.base.needs, "labelled", "row")

    def init(self, key: Key, prev: Rewards | RelabelledState, stats: Stats) -> RelabelledState:
        """The base's state; for its first stage there is none before."""
        first = isinstance(prev, Rewards)
        base = self.base.init(key, None if first else prev.base, stats)
        return RelabelledState(base, prev if first else prev.rewards)

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        """The base's batch."""
        return self.base.sample(buffer.only_labelled() if self.only_labelled else buffer, key)

    def update(
        self, state: RelabelledState, batch: Transitions, key: Key, step: Array
    ) -> tuple[RelabelledState, Metrics]:
        """The base's update on the relabelled batch."""
        batch = batch._replace(reward=state.rewards.reward[batch.extra["row"]])
        base, metrics = self.base.update(state.base, batch, key, step)
        return state._replace(base=base), metrics | state.rewards.diagnostics

    def begin(self, state: RelabelledState, goal: Any) -> Any:
        """The base's memory."""
        return self.base.begin(state.base, goal)

    def observe(self, memory: Any, percept: Percept) -> Any:
        """As the base does."""
        return self.base.observe(memory, percept)

    def act(self, state: RelabelledState, memory: Any, key: Key, *, greedy: bool) -> tuple[Array, Any]:
        """The base's action."""
        return self.base.act(state.base, memory, key, greedy=greedy)


def inputs(spec: Spec, state: ModelState, obs: Array, action: Array) -> Array:
    """[B, D] what the reward model sees of steps."""
    if isinstance(spec.action, Discrete):
        action = jax.nn.one_hot(action, spec.action.n)
    return (jnp.concatenate([obs, action], -1) - state.mean[None]) / state.std[None]


def label_moments(buffer: Buffer) -> tuple[Array, Array]:
    """Mean and standard deviation of the labelled rewards that are not held out."""
    mask = buffer.extra["labelled"] & ~buffer.extra["held_out"]
    mean = masked_mean(buffer.reward, mask)
    std = jnp.sqrt(masked_mean((buffer.reward - mean) ** 2, mask))
    return mean, jnp.where(std > 1e-6, std, 1.0)


def _against_truth(mean: Array, bound: Array, unlabelled: Array, truth: Array) -> Metrics:
    """On the rows whose reward was hidden: their share, coverage of the bound and correlation of the mean, or 0."""
    known = unlabelled & ~jnp.isnan(truth)
    truth = jnp.where(known, truth, 0)
    a, b = (jnp.where(known, x - masked_mean(x, known), 0) for x in (mean, truth))
    return {
        "label/hidden": masked_mean(known, unlabelled),
        "label/hidden_coverage": masked_mean(truth >= bound, known),
        "label/hidden_correlation": (a * b).sum() / jnp.maximum(jnp.sqrt((a**2).sum() * (b**2).sum()), 1e-9),
    }


_OWN = "this project; the paper's own settings are not known. "
PRESETS = {
    "pendulum": Preset(
        Config(base=iql.PRESETS["pendulum"].config, model_widths=(64, 64), model_steps=2_000),
        5_000,
        _OWN + "The embedded dataset with rewards in a fifth of its episodes",
        {"label_share": 0.2},
    ),
    "brain-stimulation": Preset(
        Config(model_steps=3_000),
        20_000,
        _OWN + "Rewards on a tenth of the days",
        {"label_share": 0.1},
    ),
    "hopper/medium-replay": Preset(
        Config(base=iql.PRESETS["hopper/medium-replay"].config),
        20_000,
        _OWN + "The base's own preset for the data; rewards in 5 % of the trajectories, of the better half",
        {"label_share": 0.05, "label_from": "top-half", "normalise": "standard", "reward": "return-range"},
    ),
}
