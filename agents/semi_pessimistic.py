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
from rlkit.acting import AgentWrapper
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
        self._check_columns(stages)
        after = Relabel(self, spec)
        if self.rollout:
            after = RelabelForRollouts(self, spec)
            stages = self._model_based(spec, stages)
        model_steps = 1 if self.estimator == "gp" else self.model_steps
        reward_stage = Stage("reward", RewardModel(self, spec), model_steps, after)
        only_labelled = self.imputation == "labelled-only"
        relabelled = []
        for stage in stages:
            learner = Relabelled(stage.learner, only_labelled)
            relabelled.append(dataclasses.replace(stage, learner=learner))
        return (reward_stage, *relabelled)

    def _check_columns(self, stages: tuple[Stage, ...]) -> None:
        """Raises InputError if the base needs a column that is made of rewards."""
        for need in needs(stages):
            column = columns.stored(need)
            if column is not None and column.uses_rewards:
                raise InputError(
                    f"semi-pessimistic: the base needs {column.name}, which is made of rewards that are not known yet "
                    "when data are loaded: choose another base, or its settings without"
                )

    def _model_based(self, spec: Spec, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        """The stage of the dynamics, and the base's on rollouts of them."""
        self._check_rollouts(stages)
        model = dynamics.Ensemble(
            members=self.dynamics_members,
            widths=self.dynamics_widths,
            width=spec.observation.shape[0],
            learning_rate=self.dynamics_learning_rate,
        )
        dynamics_learner = rollouts.DynamicsModel(model, spec, self.dynamics_batch_size)
        base_learner = rollouts.Rollouts(
            base=stages[0].learner,
            model=model,
            reward=Impute(self, spec),
            spec=spec,
            length=self.rollout,
            real_share=self.real_share,
            gamma=self.base.gamma,
        )
        dynamics_stage = Stage("dynamics", dynamics_learner, self.dynamics_steps)
        base_stage = dataclasses.replace(stages[0], learner=base_learner)
        return dynamics_stage, base_stage

    def _check_rollouts(self, stages: tuple[Stage, ...]) -> None:
        """Raises InputError if the base or the settings do not go with rollouts."""
        needed = [need if isinstance(need, str) else need.name for need in needs(stages)]
        if needed:
            reason = f"rollouts have no {', '.join(needed)}, which the base needs: choose another base"
        elif len(stages) > 1:
            reason = "rollouts are for a base of one stage: choose another base"
        elif self.imputation == "labelled-only":
            reason = "no step of a rollout is labelled: choose another imputation"
        elif self.estimator == "gp":
            reason = "a Gaussian process is too slow for rollouts: choose another estimator"
        else:
            return
        raise InputError(f"semi-pessimistic: {reason}")

    @property
    def model(self) -> Estimator:
        """The reward model."""
        if self.estimator == "gp":
            return rewards.GaussianProcess(self.length, self.noise)
        if self.estimator == "quantile":
            return rewards.Quantile(self.level, self.model_widths, self.model_learning_rate, self.model_batch_size)
        gaussian = self.estimator == "gaussian"
        return rewards.Ensemble(
            members=self.members,
            widths=self.model_widths,
            prior_scale=self.prior_scale,
            bootstrap=not gaussian,
            gaussian=gaussian,
            learning_rate=self.model_learning_rate,
            batch_size=self.model_batch_size,
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
    """Learner of the first stage, which fits the reward model to the labels."""

    config: Config
    spec: Spec
    needs: tuple[str, ...] = ("labelled", "held_out", "hidden_reward", "row")

    def init(self, key: Key, prev: None, stats: Stats) -> ModelState:
        mean, std = rewards.input_moments(self.spec, stats)
        estimator = self.config.model.init(key, len(mean))
        return ModelState(estimator, mean, std)

    def sample(self, buffer: Buffer, key: Key) -> Batch:
        """Labelled steps."""
        number, exists = self.config.model.draw(key, buffer.labels)
        row = buffer.index[number]
        mean, std = label_moments(buffer)
        counts = exists & ~buffer.extra["held_out"][row]
        return Batch(
            obs=buffer.obs[row],
            action=buffer.action[row],
            reward=(buffer.reward[row] - mean) / std,
            weight=counts.astype(jnp.float32),
            row=row,
        )

    def update(self, state: ModelState, batch: Batch, key: Key, step: Array) -> tuple[ModelState, Metrics]:
        """One step of the estimator."""
        x = rewards.inputs(self.spec, state.mean, state.std, batch.obs, batch.action)
        labels = Labels(x, batch.reward, batch.weight, batch.row)
        estimator, metrics = self.config.model.update(state.estimator, labels)
        return state._replace(estimator=estimator), metrics


class Rewards(NamedTuple):
    """Result of the first stage: the reward of every row, and metrics that say how good it is."""

    reward: Array  # [N]
    diagnostics: dict[str, Array]


class Imputer(NamedTuple):
    """What the reward of a step without one is made from.

    model: of the reward. centre, scale: moments of the labels that it was fitted to. c: how many spreads the bound is
    below the model's mean. least: the least labelled reward.
    """

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
        mean, spread = self.predict(imputer.model, x, imputer.centre, imputer.scale)
        _, imputed = self.of(imputer, mean, spread)
        return imputed

    def predict(self, model: ModelState, x: Array, centre: Array, scale: Array) -> tuple[Array, Array]:
        """Mean and spread [B] of the reward."""
        mean, spread = self.config.model.predict(model.estimator, x)
        return mean * scale + centre, jnp.maximum(spread * scale, 1e-6)

    def of(self, imputer: Imputer, mean: Array, spread: Array) -> tuple[Array, Array]:
        """The bound [B], and the imputed reward [B], for steps of that ``mean`` and ``spread``."""
        bound = jnp.maximum(mean - imputer.c * spread, imputer.least)
        imputation = self.config.imputation
        if imputation == "lower-bound":
            imputed = bound
        elif imputation == "mean":
            imputed = jnp.maximum(mean, imputer.least)
        elif imputation == "minimum":
            imputed = jnp.full_like(mean, imputer.least)
        else:
            imputed = jnp.zeros_like(mean)
        return bound, imputed


@dataclass(frozen=True)
class Relabel:
    """From the reward model to the rewards of all rows."""

    config: Config
    spec: Spec

    def __call__(self, state: ModelState, buffer: Buffer, key: Key) -> Rewards:
        """The rewards of all rows: the imputed one where none is known."""
        relabelled, _ = self.relabel(state, buffer, key)
        return relabelled

    def relabel(self, state: ModelState, buffer: Buffer, key: Key) -> tuple[Rewards, Imputer]:
        """The rewards of all rows, and what they were imputed from."""
        config = self.config
        impute = Impute(config, self.spec)
        labelled = (buffer.flags & LABELLED) > 0
        held_out = buffer.extra["held_out"]
        # --- the model's prediction for every row ---
        centre, scale = label_moments(buffer)
        x = rewards.inputs(self.spec, state.mean, state.std, buffer.obs, buffer.action)
        mean, spread = impute.predict(state, x, centre, scale)
        # --- how many spreads below the mean the bound is ---
        scores = rewards.HeldOut.of((mean - buffer.reward) / spread, held_out)
        if config.c is None:
            c = jnp.maximum(scores.conformal(config.delta), 0)
        else:
            c = jnp.float32(config.c)
        # --- the reward of every row ---
        least = jnp.where(labelled, buffer.reward, jnp.inf).min()
        imputer = Imputer(state, centre, scale, c, least)
        bound, imputed = impute.of(imputer, mean, spread)
        keeps_reward = labelled & (not config.relabel_labelled)
        is_step = (buffer.flags & HAS_ACTION) > 0
        reward = jnp.where(keeps_reward, buffer.reward, jnp.where(is_step, imputed, 0))
        # --- how good it is ---
        unlabelled = is_step & ~labelled
        diagnostics = {
            "label/c": c,
            "label/spread": masked_mean(spread, unlabelled),
            # Scores are compared, not rewards with the bound: where c is the score of a held-out label, that label lies
            # on the bound, and rounding would decide. Rows that are clipped count too: no label is below the least one.
            "label/coverage": scores.share_up_to(c),
            "label/far": rewards.far(x, labelled & ~held_out, held_out, unlabelled, key),
        }
        diagnostics |= _against_truth(mean, bound, unlabelled, buffer.extra["hidden_reward"])
        return Rewards(reward, diagnostics), imputer


@dataclass(frozen=True)
class RelabelForRollouts(Relabel):
    """Relabel, before rollouts: what the rewards were imputed from and the scale of the dynamics are kept too."""

    def __call__(self, state: ModelState, buffer: Buffer, key: Key) -> RelabelledState:
        """The state that the stage of the dynamics begins with."""
        relabelled, imputer = self.relabel(state, buffer, key)
        base = rollouts.RewardAndScale(imputer, dynamics.scale(buffer))
        return RelabelledState(base, relabelled)


class RelabelledState(NamedTuple):
    """The base's state, and the rewards that it learns from."""

    base: Any
    rewards: Rewards


@dataclass(frozen=True)
class Relabelled(AgentWrapper):
    """Learner that trains the base on the rewards of its state, in place of the data's."""

    base: Agent
    only_labelled: bool

    @property
    def needs(self) -> tuple[str, ...]:
        """The base's columns, and those that lead from a batch to its rewards."""
        return (*self.base.needs, "labelled", "row")

    def init(self, key: Key, prev: Rewards | RelabelledState, stats: Stats) -> RelabelledState:
        """The base's state. For the base's first stage there is no stage before."""
        if isinstance(prev, Rewards):
            base = self.base.init(key, None, stats)
            return RelabelledState(base, prev)
        base = self.base.init(key, prev.base, stats)
        return RelabelledState(base, prev.rewards)

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        """The base's batch."""
        if self.only_labelled:
            buffer = buffer.only_labelled()
        return self.base.sample(buffer, key)

    def update(
        self, state: RelabelledState, batch: Transitions, key: Key, step: Array
    ) -> tuple[RelabelledState, Metrics]:
        """The base's update on the relabelled batch."""
        reward = state.rewards.reward[batch.extra["row"]]
        base, metrics = self.base.update(state.base, batch._replace(reward=reward), key, step)
        return state._replace(base=base), metrics | state.rewards.diagnostics


def label_moments(buffer: Buffer) -> tuple[Array, Array]:
    """Mean and standard deviation of the labelled rewards that are not held out."""
    labelled = (buffer.flags & LABELLED) > 0
    mask = labelled & ~buffer.extra["held_out"]
    mean = masked_mean(buffer.reward, mask)
    std = jnp.sqrt(masked_mean((buffer.reward - mean) ** 2, mask))
    return mean, jnp.where(std > 1e-6, std, 1.0)


def _against_truth(mean: Array, bound: Array, unlabelled: Array, truth: Array) -> Metrics:
    """On the rows whose reward was hidden: their share, coverage of the bound and correlation of the mean, or 0."""
    known = unlabelled & ~jnp.isnan(truth)
    truth = jnp.where(known, truth, 0)
    mean_deviation = jnp.where(known, mean - masked_mean(mean, known), 0)
    truth_deviation = jnp.where(known, truth - masked_mean(truth, known), 0)
    covariance = (mean_deviation * truth_deviation).sum()
    spread = jnp.sqrt((mean_deviation**2).sum() * (truth_deviation**2).sum())
    return {
        "label/hidden": masked_mean(known, unlabelled),
        "label/hidden_coverage": masked_mean(truth >= bound, known),
        "label/hidden_correlation": covariance / jnp.maximum(spread, 1e-9),
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
