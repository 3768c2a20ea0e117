"""The vocabulary of the toolkit: what data look like and what an agent is.

A newcomer meets these ideas and no more: Spec, Buffer, Transitions, Learner, Agent, Stage, Config (with its PRESETS)
and ``fit``. Shapes are written with B batch, E environments, O observation width, A action width, H actions per call,
N rows and S seeds.

This module does not import jax, so that a command line can be answered before jax is loaded.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rlkit.columns import Column
    from rlkit.online import Online

Array = Any  # jax.Array or numpy.ndarray
Key = Any  # a typed jax.random key
State = Any  # a learner's pytree of arrays
Memory = Any  # an acting agent's pytree of arrays, one per environment
Metrics = dict[str, Array]  # "net/quantity" -> scalar


class InputError(ValueError):
    """Something that a user gave is wrong. The message is one line: what, where, and what to do about it.

    The command line prints the message without a traceback and exits with code 2. Names that come from a file may hold
    any character, so characters that break the line or control the terminal are escaped.
    """

    def __init__(self, message: str) -> None:
        escaped = [c if c.isprintable() else ascii(c)[1:-1] for c in message]
        super().__init__("".join(escaped))


def too_long(path: Any) -> InputError:
    """What to raise for a path of which a part is longer than the file system takes."""
    return InputError(
        f"{str(path)[:60]}...: a part of this path is too long for the file system: choose a shorter name"
    )


class RunError(RuntimeError):
    """A run cannot go on: a full disk, a divergence. The message is one line: what, where, and what to do about it.

    What was saved before is whole. The command line prints the message without a traceback and exits with code 1.
    """


def one_line(error: BaseException) -> str:
    """A library's message as a part of ours: on one line, at most 300 characters, the error's type if it is empty."""
    words = str(error).split()
    message = " ".join(words)
    return message[:300] or type(error).__name__


def raised(error: BaseException) -> str:
    """What other people's code raised, as a part of our message: the type, the message, and the file and line it came
    from. Python names no line where the call itself failed."""
    text = f"{type(error).__name__}: {one_line(error)}"
    frames = traceback.extract_tb(error.__traceback__)
    if len(frames) < 2:  # the first is the line of ours that called
        return text
    place = frames[-1]
    return f"{text} ({Path(place.filename).name}, line {place.lineno})"


@dataclass(frozen=True)
class Box:
    """A continuous space as agents see it: ``shape`` and flat per-element bounds (infinite where unbounded)."""

    shape: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Discrete:
    """``n`` choices, numbered from 0."""

    n: int


@dataclass(frozen=True)
class Spec:
    """Spaces that an agent is built for, after normalisation (see rlkit.datasets.Normaliser).

    observation: always a flat Box [O]. action: a Box [A] within [-1, 1], or Discrete.
    horizon: steps of the longest episode in the data or the environment. An environment's reward reaches the agent as
    reward * reward_scale + reward_shift.
    """

    observation: Box
    action: Box | Discrete
    horizon: int
    reward_scale: float = 1.0
    reward_shift: float = 0.0

    def require_bounded_action(self, agent: str) -> None:
        """Raises InputError unless the action is a Box of which every element is bounded."""
        box = self.action
        if not isinstance(box, Box):
            raise InputError(
                f"{agent} needs amounts as actions, and these are {box.n} choices: choose another agent, or, if they "
                "are amounts, say --action.kind continuous"
            )
        bounded = set(box.low) == {-1.0} and set(box.high) == {1.0}
        if not bounded:
            raise InputError(
                f"{agent} needs bounded actions, and some of these have no bounds: choose another agent, or, if the "
                "data do not describe their actions, say --action.low and --action.high"
            )

    def require_choices(self, agent: str) -> None:
        """Raises InputError unless the action is a Discrete."""
        if not isinstance(self.action, Discrete):
            raise InputError(
                f"{agent} needs choices as actions, and these are {len(self.action.low)} amounts: choose another "
                "agent, or, if they are numbers of choices, say --action.kind discrete"
            )


class Transitions(NamedTuple):
    """A batch of B steps. ``discount`` is gamma, or 0 where the episode ended in a terminal state (Bellman backup
    target: reward + discount * V(next_obs)); a time limit ends an episode and leaves the discount alone."""

    obs: Array  # [B, O]
    action: Array  # [B, A] float32, or [B] int32 for Discrete
    reward: Array  # [B]
    discount: Array  # [B]
    next_obs: Array  # [B, O]
    extra: Mapping[str, Array]  # the columns that the learner `needs`, [B, ...]


class Windows(NamedTuple):
    """A batch of B pieces of episodes of T steps each, see rlkit.buffer.Buffer.windows.

    Places beyond an episode's ends repeat its nearest row. The masks leave them out: do not learn from them.
    """

    obs: Array  # [B, T, O]
    action: Array  # [B, T, A] float32, or [B, T] int32 for Discrete
    reward: Array  # [B, T]
    discount: Array  # [B, T], as in Transitions
    t: Array  # [B, T] int32, steps since reset
    mask: Array  # [B, T] bool: a recorded step
    seen: Array  # [B, T] bool: a recorded observation, a step's or an episode's final one
    extra: Mapping[str, Array]  # the columns that the learner `needs`, [B, T, ...]


class Percept(NamedTuple):
    """One environment's output at a step: the observation, the reward just received (0 at reset) and the number of
    steps since reset."""

    obs: Array  # [O]
    reward: Array  # []
    t: Array  # []


class Stats(NamedTuple):
    """Moments of the data as agents see them (after normalisation), over the rows that can be drawn; the least and the
    largest observations are those of all rows."""

    obs_mean: Array  # [O]
    obs_std: Array  # [O]
    action_mean: Array  # [A]; empty for Discrete
    action_std: Array  # [A]; empty for Discrete
    returns: Array | None = None  # [3] least, mean and largest undiscounted return of an episode
    obs_low: Array | None = None  # [O]
    obs_high: Array | None = None  # [O]


@runtime_checkable
class Learner(Protocol):
    """A frozen dataclass of hyper-parameters whose methods are pure functions of explicit state.

    It holds no array, is hashable (equal learners share one compilation) and mentions no device, no seed axis and no
    jit: the loop adds those. ``needs`` names extra columns (see rlkit.columns), or brings its own, that `sample` reads.
    Where a learner adds something to the rewards inside Q, an entropy or a penalty, a further property
    ``intrinsic_reward`` says how large that can be at a step (see rlkit.training.divergence). A learner of sequences
    says in a further property ``tokens`` how many its model reads at once, for ``--dry-run``. One that uses no rewards
    says so in a property ``uses_rewards``, which is False: it is given data whose rewards are not known.
    """

    @property
    def needs(self) -> tuple[str | Column, ...]: ...

    def init(self, key: Key, prev: State | None, stats: Stats) -> State:
        """The state at step 0. ``prev`` is the final state of the stage before, or the result of its ``after``. It is
        None in the first stage."""

    def sample(self, buffer: Any, key: Key) -> Any:
        """Draw one batch from a rlkit.buffer.Buffer."""

    def update(self, state: State, batch: Any, key: Key, step: Array) -> tuple[State, Metrics]:
        """One gradient step. ``step`` counts from 0 within the stage and has no seed axis."""


@runtime_checkable
class Agent(Learner, Protocol):
    """A Learner that can act. `begin`, `observe` and `act` see one environment; the evaluator adds the batch axes.

    Where an agent without memory has them, a policy also answers what its further methods tell of one observation [O]:
    ``value(state, obs, action)``, the Q [] of an action, [A] or a choice [] int32, and for discrete actions
    ``probabilities(state, obs)``, those [n] of the choices.
    One whose greedy policy is a list of layers gives it by ``network(state)``, a rlkit.networks.Network: it can then be
    exported for NumPy alone (rlkit.export).
    """

    @property
    def goals(self) -> Mapping[str, Any]:
        """The goals that an evaluation asks for, by the label under which it reports their returns.

        A goal is a return in the environment's units, a condition, or None for an agent without goals. All have the
        same shape. The returns for the first one are the score."""

    def begin(self, state: State, goal: Any) -> Memory:
        """Memory at the start of an episode in which the agent is asked for ``goal``, which has the form of `goals`."""

    def observe(self, state: State, memory: Memory, percept: Percept) -> Memory:
        """Memory after one percept. Called at reset and after every environment step."""

    def act(self, state: State, memory: Memory, key: Key, *, greedy: bool) -> tuple[Array, Memory]:
        """The next H actions, [H, A] (or [H] int32 for Discrete). Called again when all H are used."""


@dataclass(frozen=True)
class Stage:
    """``steps`` updates of one learner. An agent is a tuple of stages; the last one's learner is the Agent.

    Args:
        name: for log lines and messages. learner: what is trained. steps: updates. after: ``after(state, buffer, key)``
        runs once when the stage ends, for each seed apart, and its result initialises the next stage. It is a pure
        function and hashable, and two that do the same are equal. None: the next stage gets the final state. online:
        how the learner, which is an Agent then, collects steps in the environment while it trains. continues: the stage
        goes on with the final state of the one before, and initialises nothing.

    Example:
        Stage("bc", BC(config, spec), steps=100_000)
    """

    name: str
    learner: Learner
    steps: int
    after: Callable[[State, Any, Key], State] | None = None
    online: Online | None = None
    continues: bool = False


class Config(Protocol):
    """What agents/<name>.py exports as ``Config``: a frozen dataclass of every hyper-parameter.

    It may have a method ``online`` that says how it goes on online, and a class attribute ``ONLINE`` with the fields of
    rlkit.online.Online that its paper fixes (see rlkit.online)."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        """The stages for ``spec``; ``steps`` are those of the last stage. Raises InputError for a spec that the
        method cannot serve (a discrete action for a continuous method, say)."""


@dataclass(frozen=True)
class Preset:
    """Settings published for a dataset, with their source.

    config: an instance of the agent's Config. steps: updates of the last stage. data: fields of
    rlkit.datasets.DataOptions that differ from their defaults. source: where each number comes from, and what of it
    is unverified. online: fields of rlkit.online.Online that differ from the Config's, for those who go online.
    dataset: the one that the settings are for, by the name that --dataset takes. None: that which the preset's own name
    stands for (see rlkit.runs.registry), if it stands for one.
    """

    config: Any
    steps: int
    source: str
    data: Mapping[str, Any] = field(default_factory=dict)
    online: Mapping[str, Any] = field(default_factory=dict)
    dataset: str | None = None
