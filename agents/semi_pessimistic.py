"""Semi-pessimistic RL: where rewards are not known, a lower bound of them; then any method, without more pessimism.

Zhu, Zhou, Yao, Aminian, Rivasplata, Little, Li, Shi: Semi-pessimistic Reinforcement Learning, 2025, arXiv 2505.19002.
No official code is known. The idea, r_lcb(s, a) = r(s, a) - c sigma(s, a) on unlabelled steps and an ordinary method on
all of them, is the paper's; its estimator, networks and numbers are not known to us. What stands here for them
(estimators, the choice of c, the clip, what is relabelled) is derived and unverified.

Stage ``reward`` fits a model of the reward to the labels but a fifth of the labelled episodes; at its end all rows get
their reward, [N] in the state of each seed; the stages of ``base`` follow, with that reward in their batches. With
``rollout`` a stage ``dynamics`` goes between, and the base learns from rollouts of the two models. The reward's model
sees (s, a) alone: a reward that depends on s' is beyond it. The labels of one episode depend on each other, so that the
coverage that c is chosen for holds roughly.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple, Union

import jax.numpy as jnp

from agents import awac, cql, discrete_cql, edac, iql, rebrac, sac, td3_bc
from rlkit import columns
from rlkit.acting import Delegating
from rlkit.buffer import Buffer, needs
from rlkit.datasets.episodes import HAS_ACTION, LABELLED
from rlkit.losses import masked_mean
from rlkit.models import dynamics, rewards, rollouts
from rlkit.models.rewards import Estimator, Labels
from rlkit.ranges import Count, Fraction, LearningRate, Positive, Range, Weight, Whole, Widths
from rlkit.types import (
    Agent,
    Array,
    InputError,
    Key,
    Metrics,
    Preset,
    Spec,
    Stage,
    Stats,
    Transitions,
)


def _named(base: ModuleType) -> Any:
    """The base's Config, named like its agent on the command line; without tyro there is no command line."""
    try:
        from tyro.conf import subcommand
    except ModuleNotFoundError:
        return base.Config
    return Annotated[base.Config, subcommand(base.__name__.rpartition(".")[2].replace("_", "-"))]


BASES = (awac, cql, discrete_cql, edac, iql, rebrac, sac, td3_bc)
# what is named on the command line: config.base:NAME; no two have the same fields, which is how a record is read back
Base = Union[tuple(_named(base) for base in BASES)]  # noqa: UP007  (made from the list)


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
    c: Weight | None = None
    """Spreads that the bound is below the mean. If not given, as many as cover 1 - DELTA of the held-out labels."""
    delta: Fraction = 0.05
    """Share of rewards that may be below the bound."""
    estimator: Literal["bootstrap", "gaussian", "quantile", "gp"] = "bootstrap"
    """Reward model: an ensemble on bootstrap resamples; one with variance heads, for noisy rewards; quantiles, for
    skewed ones; or a Gaussian process, for up to 2000 labels in few dimensions."""
    members: Count = 10
    """Networks of an ensemble."""
    prior_scale: Weight = 1.0
    """Spread of the random functions that keep an ensemble's members apart where there are no labels, in standard
    deviations of the labelled rewards."""
    level: Fraction = 0.1
    """The lower quantile of the quantile model."""
    length: Positive = 1.0
    """Length scale of the Gaussian process, in standard deviations of the inputs."""
    noise: Positive = 0.1
    """Noise of the rewards in the Gaussian process, in their standard deviations."""
    model_widths: Widths = (256, 256)
    """Hidden layers of the reward model."""
    model_learning_rate: LearningRate = 1e-3
    """Adam's step size for the reward model."""
    model_batch_size: Count = 256
    """Labelled steps in a batch of the reward model, those held out included."""
    model_steps: Count = 5_000
    """Updates of the reward model; a Gaussian process takes one."""
    rollout: Whole = 0
    """Steps of the rollouts of a learnt model that the base learns from, 5 as a rule; 0 has it learn from the data."""
    real_share: Annotated[float, Range("[0, 1)")] = 0.05
    """Share of recorded steps in a batch beside the rollouts."""
    dynamics_members: Count = 5
    """Networks of the dynamics model."""
    dynamics_widths: Widths = (200, 200, 200, 200)
    """Hidden layers of the dynamics model."""
    dynamics_learning_rate: LearningRate = 1e-3
    """Adam's step size for the dynamics model."""
    dynamics_batch_size: Count = 256
    """Steps in a batch of the dynamics model."""
    dynamics_steps: Count = 10_000
    """Updates of the dynamics model."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        """The reward model, that of the dynamics where rollouts are asked for, then the base's stages."""
        stages = self.base.stages(spec, steps)
        wanted = [columns.stored(need) for stage in stages for need in stage.learner.needs]
        from_rewards = [column.name for column in wanted if column is not None and column.uses_rewards]
        if from_rewards:
            raise InputError(
                f"semi-pessimistic: the base needs {from_rewards[0]}, which is made of rewards that are not known yet "
                "when data are loaded: choose another base, or its settings without"
            )
        only = self.imputation == "labelled-only"
        model_steps = 1 if self.estimator == "gp" else self.model_steps
        after = Relabel(self, spec)
        if self.rollout:
            after, stages = Prepare(self, spec), self._model_based(spec, stages)
        model = Stage("reward", RewardModel(self, spec), model_steps, after)
        return model, *(dataclasses.replace(stage, learner=Relabelled(stage.learner, only)) for stage in stages)

    def _model_based(self, spec: Spec, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        """The dynamics, and the base on rollouts of them."""
        wanted = [need if isinstance(need, str) else need.name for need in needs(stages)]
        for wrong, told in (
            (wanted, f"rollouts have no {', '.join(wanted)}, which the base needs: choose another base"),
            (len(stages) > 1, "rollouts are for a base of one stage: choose another base"),
            (self.imputation == "labelled-only", "no step of a rollout is labelled: choose another imputation"),
            (self.estimator == "gp", "a Gaussian process is too slow for rollouts: choose another estimator"),
        ):
            if wrong:
                raise InputError(f"semi-pessimistic: {told}")
        model = dynamics.Ensemble(
            self.dynamics_members, self.dynamics_widths, spec.observation.shape[0], self.dynamics_learning_rate
        )
        learner = rollouts.DynamicsModel(model, spec, self.dynamics_batch_size)
        base = rollouts.Rollouts(
            stages[0].learner, model, Impute(self, spec), spec, self.rollout, self.real_share, self.base.gamma
        )
        return Stage("dynamics", learner, self.dynamics_steps), dataclasses.replace(stages[0], learner=base)

    @property
    def model(self) -> Estimator:
        """The reward model."""
        if self.estimator == "gp":
            return rewards.GaussianProcess(self.length, self.noise)
        shape = {"widths": self.model_widths, "learning_rate": self.model_learning_rate}
        shape["batch_size"] = self.model_batch_size
        if self.estimator == "quantile":
            return rewards.Quantile(self.level, **shape)
        gaussian = self.estimator == "gaussian"
        return rewards.Ensemble(
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
        """An untrained model."""
        mean, std = rewards.input_moments(self.spec, stats)
        return ModelState(self.config.model.init(key, len(mean)), mean, std)

    def sample(self, buffer: Buffer, key: Key) -> Batch:
        """Labelled steps."""
        number, there = self.config.model.draw(key, buffer.labels)
        row = buffer.index[number]
        mean, std = label_moments(buffer)
        weight = (there & ~buffer.extra["held_out"][row]).astype(jnp.float32)
        return Batch(buffer.obs[row], buffer.action[row], (buffer.reward[row] - mean) / std, weight, row)

    def update(self, state: ModelState, batch: Batch, key: Key, step: Array) -> tuple[ModelState, Metrics]:
        """One step of the estimator."""
        x = rewards.inputs(self.spec, state.mean, state.std, batch.obs, batch.action)
        labels = Labels(x, batch.reward, batch.weight, batch.row)
        estimator, metrics = self.config.model.update(state.estimator, labels)
        return state._replace(estimator=estimator), metrics


class Rewards(NamedTuple):
    """What the first stage is made into: the reward of every row, and what is known of it."""

    reward: Array  # [N]
    diagnostics: dict[str, Array]


class Imputer(NamedTuple):
    """What makes the reward of a step that has none: the model, the moments of the labels that it was fitted to, how
    many spreads the bound is below its mean, and the least labelled reward."""

    model: ModelState
    centre: Array
    scale: Array
    c: Array
    least: Array


@dataclass(frozen=True)
class Impute:
    """The imputed reward of any step."""

    config: Config
    spec: Spec

    def __call__(self, imputer: Imputer, obs: Array, action: Array) -> Array:
        """[B], never below the least labelled reward."""
        x = rewards.inputs(self.spec, imputer.model.mean, imputer.model.std, obs, action)
        return self.of(imputer, *self.predict(imputer.model, x, imputer.centre, imputer.scale))[1]

    def predict(self, model: ModelState, x: Array, centre: Array, scale: Array) -> tuple[Array, Array]:
        """Mean and spread [B] of the reward."""
        mean, spread = self.config.model.predict(model.estimator, x)
        return mean * scale + centre, jnp.maximum(spread * scale, 1e-6)

    def of(self, imputer: Imputer, mean: Array, spread: Array) -> tuple[Array, Array]:
        """The bound [B], and what is imputed."""
        bound = jnp.maximum(mean - imputer.c * spread, imputer.least)
        return bound, {
            "lower-bound": bound,
            "mean": jnp.maximum(mean, imputer.least),
            "minimum": jnp.full_like(mean, imputer.least),
        }.get(self.config.imputation, jnp.zeros_like(mean))


@dataclass(frozen=True)
class Relabel:
    """From the reward model to the rewards of all rows."""

    config: Config
    spec: Spec

    def __call__(self, state: ModelState, buffer: Buffer, key: Key) -> Rewards:
        """The imputed reward where none is known."""
        return self.both(state, buffer, key)[0]

    def both(self, state: ModelState, buffer: Buffer, key: Key) -> tuple[Rewards, Imputer]:
        """The rewards, and what imputed them."""
        config, labelled, held = self.config, (buffer.flags & LABELLED) > 0, buffer.extra["held_out"]
        impute, (centre, scale) = Impute(config, self.spec), label_moments(buffer)
        x = rewards.inputs(self.spec, state.mean, state.std, buffer.obs, buffer.action)
        mean, spread = impute.predict(state, x, centre, scale)
        held_out = rewards.HeldOut.of((mean - buffer.reward) / spread, held)
        c = jnp.float32(config.c or 0)
        if config.c is None:
            c = jnp.maximum(held_out.conformal(config.delta), 0)
        imputer = Imputer(state, centre, scale, c, jnp.where(labelled, buffer.reward, jnp.inf).min())
        bound, imputed = impute.of(imputer, mean, spread)
        known = labelled & (not config.relabel_labelled)
        step = (buffer.flags & HAS_ACTION) > 0
        reward = jnp.where(known, buffer.reward, jnp.where(step, imputed, 0))
        unlabelled = step & ~labelled
        diagnostics = {
            "label/c": c,
            "label/spread": masked_mean(spread, unlabelled),
            # the bound is not asked: where c is the score of a held-out label, that label lies on the bound, and
            # rounding would decide; nor need it be for rows that are clipped, since no label is below the least one
            "label/coverage": held_out.share_up_to(c),
            "label/far": rewards.far(x, labelled & ~held, held, unlabelled, key),
            **_against_truth(mean, bound, unlabelled, buffer.extra["hidden_reward"]),
        }
        return Rewards(reward, diagnostics), imputer


@dataclass(frozen=True)
class Prepare(Relabel):
    """Before rollouts: what imputes rewards is kept too, and the scale of the dynamics is found."""

    def __call__(self, state: ModelState, buffer: Buffer, key: Key) -> RelabelledState:
        """The state that the dynamics begin with."""
        rewards, imputer = self.both(state, buffer, key)
        return RelabelledState(rollouts.Known(imputer, dynamics.scale(buffer)), rewards)


class RelabelledState(NamedTuple):
    """The base's state, and the rewards that it learns from."""

    base: Any
    rewards: Rewards


@dataclass(frozen=True)
class Relabelled(Delegating):
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


def label_moments(buffer: Buffer) -> tuple[Array, Array]:
    """Mean and standard deviation of the labelled rewards that are not held out."""
    mask = ((buffer.flags & LABELLED) > 0) & ~buffer.extra["held_out"]
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


# settings that give other stages; the conformance suite runs over them too
VARIANTS = ({"rollout": 3},)

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
        iql.PRESETS["hopper/medium-replay"].data | {"label_share": 0.05, "label_from": "top-half"},
    ),
    "halfcheetah/medium-random": Preset(
        Config(base=iql.PRESETS["halfcheetah/medium"].config),
        20_000,
        _OWN + "The base's own preset for the medium data, to which random episodes were added; labels as for hopper",
        iql.PRESETS["halfcheetah/medium"].data | {"label_share": 0.05, "label_from": "top-half"},
    ),
}
