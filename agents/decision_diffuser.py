"""Decision Diffuser: plans of states from a diffusion model that is told a condition, and the actions between them.

Ajay, Du, Gupta, Tenenbaum, Jaakkola, Agrawal: Is Conditional Generative Modeling all you need for Decision-Making?,
ICLR 2023, arXiv 2211.15657. Official code: anuragajay/decision-diffuser, which has the part on returns alone; the
defaults are its settings for Hopper medium-expert.

A diffusion model learns windows of states, and an inverse dynamics model which action leads from a state to the next.
To act, a plan is denoised whose first states are those that were seen, and the action is the one that leads to the
state after the present one. No value function is learnt: what is wanted is said by a condition. In training the
condition is left out now and then, so that its effect on the plan can be told, made stronger (``guidance``), added to
that of others and taken away (section 3.3).

There are two kinds of conditions. ``return``: what the rewards from the window's start to the end of its episode add up
to, discounted. ``label``: the number of a constraint or a skill, which the data carry as the return of an episode.

Deviations, see docs/diffusion_planning.md: states are scaled by their range, not by their distribution; beyond an
episode's end its final state is repeated; the inverse dynamics model does not learn from such steps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlkit import losses, networks, optim
from rlkit.acting import push
from rlkit.buffer import Buffer
from rlkit.columns import DISCOUNTED, STORED, Column
from rlkit.datasets.episodes import TERMINAL
from rlkit.diffusion import samplers
from rlkit.diffusion.noise import Discrete, noised
from rlkit.diffusion.prediction import denoiser
from rlkit.optim import Net
from rlkit.ranges import Count, Discount, Finite, LearningRate, Positive, Range, TargetShare, Weight, Whole, Widths
from rlkit.types import Array, InputError, Key, Metrics, Percept, Preset, Spec, Stage, Stats, Windows

SAMPLERS = {"ddpm": samplers.ddpm, "ddim": samplers.ddim}


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of Decision Diffuser. Those up to ``warm_start`` are of acting alone."""

    targets: tuple[Finite, ...] = (0.9,)
    """Returns to ask for when it is evaluated, as ``return_scale`` measures them; the first is the score."""
    asked: tuple[str, ...] = ()
    """Labels to ask for, the first being the score: "1" for label 1, "0+1" for both, "0-1" for label 0 without 1. If
    none is given, each label by itself."""
    guidance: Finite = 1.2
    """How strongly a plan follows its condition: 0 not at all, 1 as the data do."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """ddpm: with noise at every step. ddim: without."""
    sampling_steps: Count | None = None
    """Denoising steps of a plan; as many as there are noise levels if not given."""
    noise_scale: Weight = 0.5
    """Factor on the standard deviation of all noise when a plan is made."""
    warm_start: Count | None = None
    """Denoising steps of a plan that is made from the one before it; if not given, every plan begins with noise."""

    condition: Literal["return", "label"] = "return"
    """What the model is told. label: an episode's return is the number of its label."""
    labels: Count = 2
    """How many labels there are."""
    return_scale: Positive | None = None
    """What returns are divided by, in the environment's units. If not given, they are mapped to [0, 1] by their range
    in the data."""
    return_discount: Discount = 0.99
    """Discount of the return that is told."""
    termination_penalty: Weight = 100.0
    """Taken off the last reward of episodes that end in a terminal state, in the environment's units."""
    history_len: Count = 1
    """Last states that are written into a plan, the present one included."""
    horizon: Count = 100
    """States of a plan; a multiple of 2 for each level of the network but the first."""
    noise_levels: Count = 200
    """Noise levels of the cosine schedule."""
    condition_dropout: Annotated[float, Range("[0, 1]")] = 0.25
    """Share of windows for which the condition is left out in training."""
    next_state_weight: Weight = 1.0
    """Weight of the first state that is not known in the plan's loss."""
    width: Count = 128
    """Width of the U-Net's first level."""
    multipliers: Widths = (1, 4, 8)
    """Width of each level, in units of the first one's."""
    inverse_widths: Widths = (256, 256)
    """Hidden layers of the inverse dynamics model."""
    batch_size: Count = 64
    """Windows in a batch."""
    learning_rate: LearningRate = 2e-4
    """Adam's step size, of both models."""
    ema_rate: TargetShare = 0.005
    """Share of the new parameters in the average that acts."""
    ema_every: Count = 10
    """Updates between two steps of the average."""
    ema_start: Whole = 2_000
    """Updates before which the average is the parameters themselves."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        """One stage. Raises InputError where a plan cannot be made with these lengths, for labels that there are not,
        and where a condition would not be what the data say."""
        spec.require_bounded_action("decision-diffuser")
        multiple = networks.shortest_plan(len(self.multipliers))
        if self.horizon % multiple:
            raise InputError(
                f"decision-diffuser: --config.horizon {self.horizon}: must be a multiple of {multiple} for a network "
                f"of {len(self.multipliers)} levels"
            )
        if self.history_len >= self.horizon:
            raise InputError(
                f"decision-diffuser: --config.history-len {self.history_len}: must be below the horizon of "
                f"{self.horizon}, or nothing is left to plan"
            )
        self._require_steps()
        shifted = spec.reward_shift or not spec.reward_scale
        if shifted and (self.condition == "label" or self.return_scale is not None):
            raise InputError(
                f"decision-diffuser: returns in the environment's units are not known where rewards are "
                f"{spec.reward_scale:g} x + {spec.reward_shift:g}: leave --reward standard, --reward-shift and a "
                "--reward-scale of 0 away"
            )
        learner = DecisionDiffuser(self, spec)
        _ = learner.goals  # refuses labels that there are not
        return (Stage("decision-diffuser", learner, steps),)

    def _require_steps(self) -> None:
        if self.steps > self.noise_levels:
            raise InputError(
                f"decision-diffuser: --config.sampling-steps {self.steps}: there are {self.noise_levels} noise levels"
            )
        if self.warm_start is not None and self.warm_start > self.steps:
            raise InputError(
                f"decision-diffuser: --config.warm-start {self.warm_start}: a plan has {self.steps} denoising steps"
            )

    @property
    def steps(self) -> int:
        """Denoising steps of a plan that begins with noise."""
        return self.noise_levels if self.sampling_steps is None else self.sampling_steps

    @property
    def noise(self) -> Discrete:
        """The noise levels."""
        return Discrete("cosine", self.noise_levels)


# --- conditions ---


@dataclass(frozen=True)
class ReturnCondition:
    """[N, 1] the discounted return from each row to the end of its episode, with a penalty in episodes that end early.

    scale: what it is divided by. None: it is mapped to [0, 1] by its range in the data.
    """

    discount: float
    penalty: float
    scale: float | None

    def __call__(self, buffer: Buffer) -> np.ndarray:
        is_terminal = (np.asarray(buffer.flags) & TERMINAL) > 0
        reward = buffer.reward - self.penalty * is_terminal
        to_go = DISCOUNTED["return_to_go"](buffer._replace(reward=reward), self.discount)
        least = 0.0
        scale = self.scale
        if scale is None:
            least = to_go.min()
            scale = (to_go.max() - least) or 1.0
        told = (to_go - least) / scale
        return told.astype(np.float32)[:, None]


@dataclass(frozen=True)
class LabelCondition:
    """[N, labels] one-hot, the label of the row's episode: its return, divided by ``reward_scale``."""

    labels: int
    reward_scale: float

    def __call__(self, buffer: Buffer) -> np.ndarray:
        numbers = STORED["episode_return"].make(buffer) / self.reward_scale
        label = np.round(numbers).astype(np.int64)
        is_whole = np.abs(numbers - label) < 1e-3
        is_label = is_whole & (label >= 0) & (label < self.labels)
        if not is_label.all():
            wrong = numbers[~is_label][0]
            raise InputError(
                f"decision-diffuser: an episode's return is {wrong:g}, which is no label: with --config.condition "
                f"label it must be a whole number from 0 to {self.labels - 1} (--config.labels {self.labels})"
            )
        return np.eye(self.labels, dtype=np.float32)[label]


def signs(asked: str, labels: int) -> np.ndarray:
    """[labels] 1 where a label is asked for in ``asked``, such as "0+2-1", -1 where it is taken away, else 0."""
    if not re.fullmatch(r"\d+([+-]\d+)*", asked):
        raise InputError(f"decision-diffuser: --config.asked {asked}: write 1, 0+1 or 0-1, say")
    weights = np.zeros(labels, np.float32)
    for sign, number in re.findall(r"([+-]?)(\d+)", asked):
        if int(number) >= labels:
            raise InputError(f"decision-diffuser: --config.asked {asked}: labels are 0 to {labels - 1}")
        weights[int(number)] = -1.0 if sign == "-" else 1.0
    return weights


# --- the agent ---


class DiffuserState(NamedTuple):
    """Both models, and how states are scaled."""

    net: Net  # parameters of "planner" and "inverse"
    ema: Any  # moving average of the parameters, which acts
    centre: Array  # [O]
    half: Array  # [O] half the range of the data's states

    def scaled(self, obs: Array) -> Array:
        """[..., O] states as the models see them, in [-1, 1]."""
        axes = (1,) * (obs.ndim - 1) + (-1,)
        return (obs - self.centre.reshape(axes)) / self.half.reshape(axes)

    def unscaled(self, plan: Array) -> Array:
        """[..., O] planned states as the agent's observations are."""
        axes = (1,) * (plan.ndim - 1) + (-1,)
        return plan * self.half.reshape(axes) + self.centre.reshape(axes)


class Memory(NamedTuple):
    """What is asked for, the last states and the last plan. States are scaled."""

    goal: Array  # [] return, or [labels] signs
    obs: Array  # [K, O], the oldest first; zeros behind the present one
    t: Array  # [] int32
    plan: Array  # [H, O]


@dataclass(frozen=True)
class DecisionDiffuser:
    """The learner, which acts on the last states and its last plan."""

    config: Config
    spec: Spec

    @property
    def needs(self) -> tuple[Column, ...]:
        c, reward_scale = self.config, self.spec.reward_scale
        if c.condition == "label":
            make = LabelCondition(c.labels, reward_scale)
        else:
            scale = None if c.return_scale is None else c.return_scale * abs(reward_scale)
            make = ReturnCondition(c.return_discount, c.termination_penalty * abs(reward_scale), scale)
        return (Column("condition", make, uses_rewards=True),)

    def init(self, key: Key, prev: None, stats: Stats) -> DiffuserState:
        """Untrained models."""
        planner_key, inverse_key = jax.random.split(key)
        width = self.spec.observation.shape[0]
        plan, one = jnp.zeros((1, self.config.horizon, width)), jnp.zeros(1)
        told = jnp.zeros((1, self._condition_width))
        params = {
            "planner": self._planner.init(planner_key, plan, one, told, one > 0),
            "inverse": self._inverse.init(inverse_key, jnp.zeros((1, width)), jnp.zeros((1, width))),
        }
        half = (stats.obs_high - stats.obs_low) / 2
        return DiffuserState(
            net=optim.init(params, self._optimiser),
            ema=optim.target_copy(params),
            centre=jnp.asarray((stats.obs_high + stats.obs_low) / 2),
            half=jnp.where(half > 0, half, 1.0),
        )

    def sample(self, buffer: Buffer, key: Key) -> Windows:
        """Windows that begin at any step."""
        return buffer.windows(key, self.config.batch_size, before=0, after=self.config.horizon - 1, gamma=1.0)

    # --- learning ---

    def update(self, state: DiffuserState, batch: Windows, key: Key, step: Array) -> tuple[DiffuserState, Metrics]:
        """One step of both models, and of the average."""

        def loss(params: Any) -> tuple[Array, Metrics]:
            plans = state.scaled(batch.obs)
            planner = self.planner_loss(params["planner"], plans, batch.extra["condition"][:, 0], key)
            inverse = self.inverse_loss(params["inverse"], plans, batch)
            return planner + inverse, {"planner/loss": planner, "inverse/loss": inverse}

        net, metrics = optim.descend(loss, state.net, self._optimiser)
        return state._replace(net=net, ema=self._averaged(state.ema, net.params, step)), metrics

    def planner_loss(self, params: Any, plans: Array, condition: Array, key: Key) -> Array:
        """[] mean squared error of the noise that is predicted in ``plans`` [B, H, O], scaled (section 3.4).

        The first states of each are known, at least one and as many as there are when the agent acts.
        """
        c = self.config
        batch = plans.shape[0]
        t_key, noise_key, known_key, given_key = jax.random.split(key, 4)
        t = c.noise.draw(t_key, (batch,))
        eps = jax.random.normal(noise_key, plans.shape)
        known = jax.random.randint(known_key, (batch, 1), 1, c.history_len + 1)
        number = jnp.arange(c.horizon)[None]  # [1, H]
        is_known = number < known
        x = jnp.where(is_known[..., None], plans, noised(c.noise, plans, eps, t))
        given = self.given(given_key, batch)
        predicted = self._planner.apply(params, x, t * c.noise_levels, condition, given)
        weight = jnp.where(number == known, c.next_state_weight, 1.0)
        weight = jnp.where(is_known, 0.0, weight)
        error = (predicted - eps) ** 2
        return (weight[..., None] * error).mean()

    def given(self, key: Key, batch: int) -> Array:
        """[B] bool: the windows whose condition is not left out."""
        return jax.random.bernoulli(key, 1 - self.config.condition_dropout, (batch,))

    def inverse_loss(self, params: Any, plans: Array, batch: Windows) -> Array:
        """[] mean squared error of the action between two states, over recorded steps."""
        answer = self._inverse.apply(params, plans[:, :-1], plans[:, 1:])
        error = ((answer - batch.action[:, :-1]) ** 2).mean(-1)
        arrives = batch.mask[:, :-1] & batch.seen[:, 1:]
        return losses.masked_mean(error, arrives)

    def _averaged(self, ema: Any, params: Any, step: Array) -> Any:
        c = self.config

        def move(ema: Any) -> Any:
            share = jnp.where(step < c.ema_start, 1.0, c.ema_rate)
            return optim.polyak(ema, params, share)

        return jax.lax.cond(step % c.ema_every == 0, move, lambda ema: ema, ema)

    # --- acting ---

    @property
    def goals(self) -> Mapping[str, Any]:
        c = self.config
        if c.condition == "return":
            return {f"return {target:.10g}": float(target) for target in c.targets}
        asked = c.asked or tuple(str(label) for label in range(c.labels))
        return {f"label {text}": signs(text, c.labels) for text in asked}

    def begin(self, state: DiffuserState, goal: Any) -> Memory:
        """Nothing seen. ``goal``: a return as the config measures them, or [labels] signs, see `signs`."""
        c = self.config
        width = self.spec.observation.shape[0]
        return Memory(
            goal=jnp.asarray(goal, jnp.float32),
            obs=jnp.zeros((c.history_len, width)),
            t=jnp.zeros((), jnp.int32),
            plan=jnp.zeros((c.horizon, width)),
        )

    def observe(self, state: DiffuserState, memory: Memory, percept: Percept) -> Memory:
        """Take in the state."""
        obs = push(memory.obs, state.scaled(percept.obs), percept.t)
        return memory._replace(obs=obs, t=percept.t)

    def act(self, state: DiffuserState, memory: Memory, key: Key, *, greedy: bool) -> tuple[Array, Memory]:
        """The action that leads to the planned next state. Plans are drawn; ``greedy`` changes nothing."""
        plan = self.plan(state, memory, key)
        now = self._now(memory)
        action = self._inverse.apply(state.ema["inverse"], plan[now], plan[now + 1])
        return jnp.clip(action, -1.0, 1.0)[None], memory._replace(plan=plan)

    def plan(self, state: DiffuserState, memory: Memory, key: Key) -> Array:
        """[H, O] scaled states, of which those that were seen are the first (algorithm 1).

        From noise, or with ``warm_start``, from the second step on, from the last plan with noise of that many steps.
        """
        c = self.config
        start_key, again_key, first_key, last_key = jax.random.split(key, 4)
        shape = (1, c.horizon, memory.obs.shape[-1])
        is_known = jnp.arange(c.horizon) <= self._now(memory)
        seen = jnp.zeros(shape).at[0, : c.history_len].set(memory.obs)
        denoise = self._denoise(state.ema["planner"], memory.goal)

        def integrate(x: Array, times: Array, key: Key) -> Array:
            return samplers.integrate(
                SAMPLERS[c.sampler](),
                denoise,
                c.noise,
                x,
                times,
                key,
                clip=1.0,
                known=(is_known[None, :, None], seen),
                temperature=c.noise_scale,
            )

        times = c.noise.grid(c.steps)
        x = c.noise_scale * jax.random.normal(start_key, shape)
        if c.warm_start is None:
            return integrate(x, times, last_key)[0]

        # --- the steps that a warm start leaves out: a loop of no round, unless an episode begins in some lane ---
        left_out = c.steps - c.warm_start

        def one_step(number: Array, x: Array) -> Array:
            two = jax.lax.dynamic_slice(times, (number,), (2,))
            return integrate(x, two, jax.random.fold_in(first_key, number))

        begins = memory.t <= 0
        rounds = jnp.where(begins, left_out, 0)
        x = jax.lax.fori_loop(0, rounds, one_step, x)

        # --- the others ---
        eps = c.noise_scale * jax.random.normal(again_key, shape)
        last_plan = self._moved_on(memory)
        again = noised(c.noise, last_plan[None], eps, times[left_out][None])
        x = jnp.where(begins, x, again)
        return integrate(x, times[left_out:], last_key)[0]

    def _denoise(self, params: Any, goal: Array) -> samplers.Denoise:
        """(x, t) -> x0, guided by the condition, or by the sum of the labels' (eq. 9 and appendix J)."""
        c = self.config
        if c.condition == "return":
            conditions, weights = goal.reshape(1, 1), jnp.ones(1)
        else:
            conditions, weights = jnp.eye(c.labels), goal

        # of what is predicted with no condition and with each, in one call: null + guidance (conditions - null)
        nothing = jnp.zeros_like(conditions[:1])
        told = jnp.concatenate([nothing, conditions])
        given = jnp.arange(len(told)) > 0
        strength = c.guidance * weights
        of_null = 1 - strength.sum(keepdims=True)
        share = jnp.concatenate([of_null, strength])

        def net(x: Array, t: Array) -> Array:
            return self._planner.apply(params, x, t * c.noise_levels, told, given)

        predict = denoiser("noise", c.noise, net)

        def denoise(x: Array, t: Array) -> Array:
            xs = jnp.repeat(x, len(told), 0)
            ts = jnp.repeat(t, len(told))
            x0 = predict(xs, ts)
            return jnp.tensordot(share, x0, 1)[None]

        return denoise

    def _now(self, memory: Memory) -> Array:
        """[] the present state's place in a plan."""
        return jnp.minimum(memory.t, self.config.history_len - 1)

    def _moved_on(self, memory: Memory) -> Array:
        """[H, O] the last plan, moved as far as the known states have moved since."""
        plan = memory.plan
        shifted = jnp.concatenate([plan[1:], plan[-1:]])
        return jnp.where(memory.t < self.config.history_len, plan, shifted)

    # --- the networks ---

    @property
    def _condition_width(self) -> int:
        return self.config.labels if self.config.condition == "label" else 1

    @property
    def _planner(self) -> networks.TemporalUNet:
        return networks.TemporalUNet(self.config.width, self.config.multipliers)

    @property
    def _inverse(self) -> networks.MLP:
        return networks.MLP(self.config.inverse_widths, self.spec.action.shape[0], out_bound=1e-3)

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.learning_rate)


VARIANTS = ({"history_len": 2, "warm_start": 1, "sampling_steps": 3, "sampler": "ddim", "multipliers": (1,)},)

_OFFICIAL = (
    "anuragajay/decision-diffuser, code/config/locomotion_config.py: Hopper medium-expert, the one task that it has; "
    "batches of 32 whose gradients are added up in pairs"
)
_PAPER = (
    "arXiv 2211.15657, appendix B, for the locomotion tasks. Guidance is 1.2 to 1.8, which where is not said. Not "
    "stated: the discount, the average of the parameters, which are the official code's, and a penalty"
)
_OURS = "this project: what a core trains in a few minutes, few updates of a small network; not tuned"
_SMALL = Config(
    return_discount=1.0,
    noise_levels=50,
    sampling_steps=10,
    sampler="ddim",
    horizon=32,
    width=32,
    multipliers=(1, 2),
    batch_size=32,
    learning_rate=1e-3,
    ema_rate=0.05,
)

PRESETS = {
    "paper": Preset(
        Config(
            targets=(1.0,),
            noise_scale=0.5**0.5,
            termination_penalty=0.0,
            history_len=20,
            noise_levels=100,
            inverse_widths=(512, 512),
            batch_size=32,
        ),
        2_000_000,
        _PAPER,
    ),
    "official": Preset(Config(return_scale=400.0), 1_000_000, _OFFICIAL),
    "hopper/small": Preset(
        replace(_SMALL, return_discount=0.99, multipliers=(1, 2, 4), warm_start=3, ema_start=500), 3_000, _OURS
    ),
    "detour": Preset(replace(_SMALL, targets=(1.0, 0.5), termination_penalty=0.0, ema_start=500), 4_000, _OURS),
}
