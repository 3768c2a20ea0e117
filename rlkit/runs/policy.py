"""A trained policy, rebuilt from its run directory alone: no dataset and no environment is needed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.spaces import Discrete

from rlkit.acting import first_goal, is_reactive, unwrapped
from rlkit.datasets import Normaliser, spaces
from rlkit.datasets.spaces import BadValue
from rlkit.runs.observations import Observations
from rlkit.runs.record import Record, recorded_config
from rlkit.runs.restored import altered, restore
from rlkit.types import Agent, Array, InputError, Key, Memory, Percept, State


def load(
    run: str | Path,
    *,
    member: int | None = None,
    greedy: bool = True,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    agent: str | None = None,
) -> Policy:
    """The policy at the last checkpoint of a run directory.

    Args:
        run: the run directory.
        member: which of the run's seeds, from 0; None takes the first that did not diverge.
        greedy: whether the policy takes its likeliest action; else it samples, starting from ``seed``.
        config: settings of the agent to act with in place of the recorded ones, such as what it is asked for. They must
            leave the arrays of its state as they are.
        agent: ``module:Config``, for an agent in a module of your own.

    Returns:
        A Policy, which needs neither data nor environment.

    Raises:
        InputError: if the run has no such checkpoint, seed or setting, or if the seed diverged.
        RunError: if every seed diverged.

    Example:
        policy = rlkit.load("runs/hopper", config={"targets": (3000.0,)})
    """
    folder = Path(run)
    record = Record.read(folder)
    if member is not None and not 0 <= member < len(record.seeds):
        raise InputError(f"{folder} has {len(record.seeds)} seeds; member {member} is not one of them")
    trained_with = recorded_config(record, agent)
    acts_with = altered(trained_with, config or {})
    restored = restore(folder, record, acts_with)

    # --- one seed of those that did not diverge ---
    if member is None:
        row = 0
    elif member in restored.members:
        row = restored.members.index(member)
    else:
        rest = ", ".join(map(str, restored.members))
        raise InputError(f"{folder}: member {member} diverged in training; members that did not: {rest}")
    state = jax.tree.map(lambda leaf: leaf[row], restored.state)

    return Policy(
        restored.agent,
        state,
        Normaliser.from_json(record.normaliser),
        _space(record.data.observation_space, f"{folder}/run.json: observation_space"),
        _space(record.data.action_space, f"{folder}/run.json: action_space"),
        observation_names=record.data.names.observation,
        action_names=record.data.names.action,
        about={
            "agent": record.agent,
            "run": str(folder),
            "member": restored.members[row],
            "dataset": record.data.name,
            "steps": record.steps,
        },
        greedy=greedy,
        seed=seed,
    )


def _space(form: dict[str, Any], where: str) -> gymnasium.Space:
    try:
        return spaces.from_json(form)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not a space ({error})") from error


class Policy:
    """A policy for one environment: call `reset` at the start of each episode and `act` at each step.

    Args:
        agent: what acts.
        state: of one of its seeds.
        normaliser: between the environment's units and those of the agent.
        observation_space, action_space: the environment's.
        observation_names, action_names: of the numbers of an observation and of an action, where the data name them. An
            observation can then be given by these names, in any order.
        about: what ``repr`` says besides: the agent, its run and its data.
        greedy: whether the agent takes its likeliest action; else it samples, starting from ``seed``.
    """

    def __init__(
        self,
        agent: Agent,
        state: State,
        normaliser: Normaliser,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        *,
        observation_names: Sequence[str] = (),
        action_names: Sequence[str] = (),
        about: Mapping[str, Any] | None = None,
        greedy: bool = True,
        seed: int = 0,
    ):
        self._agent = agent
        self._state = state
        self._normaliser = normaliser
        self.observation_space = observation_space
        self.action_space = action_space
        self.observation_names = tuple(observation_names)
        self.action_names = tuple(action_names)
        self._observations = Observations(observation_space, observation_names)
        self._about = dict(about or {})
        self._greedy = greedy
        self.reset(seed=seed)

    def __repr__(self) -> str:
        facts = {name: repr(value) for name, value in self._about.items()}
        facts["observations"] = _on_one_line(self.observation_space)
        facts["actions"] = _on_one_line(self.action_space)
        if self.observation_names:
            facts["observation_names"] = list(self.observation_names)
        if self.action_names:
            facts["action_names"] = list(self.action_names)
        listed = ", ".join(f"{name}={value}" for name, value in facts.items())
        return f"Policy({listed})"

    # --- what it is made of ---

    @property
    def agent(self) -> Agent:
        """What acts."""
        return self._agent

    @property
    def state(self) -> State:
        """The agent's state."""
        return self._state

    @property
    def normaliser(self) -> Normaliser:
        """Between the environment's units and those of the agent."""
        return self._normaliser

    @property
    def about(self) -> Mapping[str, Any]:
        """What it is: the agent, its run and its data."""
        return self._about

    # --- an episode ---

    def reset(self, goal: Any = None, *, seed: int | None = None) -> None:
        """Begin an episode.

        Args:
            goal: what the agent is asked for, such as a return in the environment's units. None: the first of the
                agent's own goals.
            seed: where sampled actions start from anew, for an episode that can be played again. None: they go on.

        Raises:
            InputError: for a goal of another form or one that is not finite, or where the agent takes none.

        Example:
            policy.reset(goal=3000.0)
        """
        own = first_goal(self._agent)
        if goal is None:
            goal = own
        elif own is None:
            raise InputError("this agent takes no goal: call reset() without one")
        elif np.shape(goal) != np.shape(own):
            raise InputError(
                f"the goal has shape {np.shape(goal)}, but the agent's have {np.shape(own)}: give one such"
            )
        else:
            _check_finite(goal, "the goal")
        self._memory = self._agent.begin(self._state, goal)
        self._plan: list[np.ndarray] = []  # actions that are not taken yet
        self._t = 0  # steps of this episode
        if seed is not None:
            self._key = jax.random.key(seed)
            self._calls = 0  # of agent.act

    def fingerprint(self) -> str:
        """SHA-256 of the agent's state, bit by bit: it tells two policies of one run apart, as before and after more
        training."""
        total = hashlib.sha256()
        for leaf in jax.tree.leaves(self._state):
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            total.update(np.asarray(leaf).tobytes())
        return total.hexdigest()

    # --- acting ---

    def act(self, obs: Any, reward: float = 0.0) -> Any:
        """The action for ``obs``, both in the environment's own units.

        Args:
            obs: the environment's observation, unflattened; or, where the data name its numbers, a mapping or a row of
                a table that has each of these names and no other.
            reward: what the step before returned, ignored after a reset; only agents that track their return use it.

        Returns:
            A member of the action space: an array of its shape and dtype, or one integer for a Discrete space.

        Raises:
            InputError: for an observation of another width or other names, or one that is not finite.

        Example:
            action = policy.act({"heart_rate": 71.0, "pressure": 118.0})
        """
        seen_obs = self._seen(obs)

        # --- observe ---
        if self._t == 0:
            shown_reward = np.float32(0)
        else:
            _check_finite(reward, "the reward")
            shown_reward = self._normaliser.reward(np.float32(reward))
        percept = Percept(seen_obs, shown_reward, np.int32(self._t))
        self._memory = _observe(self._agent, self._state, self._memory, percept)
        self._t += 1

        # --- act: a plan is used up before the agent is asked for the next ---
        if not self._plan:
            actions, self._memory = _act(self._agent, self._greedy, self._state, self._memory, self._next_key())
            self._plan = list(np.asarray(actions))
        return self._in_action_space(self._plan.pop(0))

    def act_batch(self, observations: Any) -> np.ndarray:
        """The actions for N observations that have nothing to do with each other, in one compiled call.

        It leaves the episode that `act` is in as it is. Each N that is asked for is compiled once.

        Args:
            observations: N of them: a list of observations as `act` takes them, or [N, ...] as one array, for a Dict
                space as a mapping of arrays, or with names as a table or a mapping of columns [N].

        Returns:
            [N, ...] members of the action space.

        Raises:
            InputError: as `act` does, and for an agent whose actions depend on more than one observation.

        Example:
            actions = policy.act_batch(np.stack([obs, other_obs]))
        """
        if not is_reactive(self._agent):
            raise InputError(f"{self._name()} remembers its episode, so it takes no batch: reset and act for each one")
        obs = self._normaliser.obs(self._observations.batch(observations))
        plans = act_on_rows(self._agent, self._greedy, self._state, obs, self._next_key())
        if plans.shape[1] > 1:
            raise InputError(f"{self._name()} plans several actions at once, so it takes no batch: use act")
        return self._in_action_space(np.asarray(plans[:, 0]))

    # --- what the agent thinks of actions ---

    def probabilities(self, obs: Any) -> np.ndarray:
        """[n] float32 probabilities of the choices of a Discrete action space, from its first one on.

        Raises InputError as `act` does, and where the agent has no probabilities.

        Example:
            policy.probabilities(obs).argmax()
        """
        self._require_choices("probabilities")
        agent, state = self._asked("probabilities")
        return np.asarray(_ask(agent, "probabilities", state, self._seen(obs)))

    def q(self, obs: Any) -> np.ndarray:
        """[n] float32 Q of the choices of a Discrete action space, from its first one on; see `value`."""
        self._require_choices("q")
        agent, state = self._asked("value")
        return np.asarray(_ask_of_choices(agent, int(self.action_space.n), state, self._seen(obs)))

    def value(self, obs: Any, action: Any) -> float:
        """Q of one action: the discounted sum of the rewards to come as the agent learns from them, that is after
        --reward, --reward-scale and --reward-shift; of several critics the smallest.

        Raises InputError as `act` does, for an action that the action space does not hold, and where the agent has no
        Q.

        Example:
            policy.value(obs, policy.act(obs))
        """
        agent, state = self._asked("value")
        flat_action = self._flatten_action(action)
        return float(_ask(agent, "value", state, self._seen(obs), self._normaliser.action(flat_action)))

    def _asked(self, question: str) -> tuple[Agent, State]:
        """The agent that answers ``question``, and its state."""
        agent, state = unwrapped(self._agent, self._state)
        if not hasattr(agent, question):
            what = {"value": "Q", "probabilities": "probabilities"}[question]
            raise InputError(f"{self._name()} has no {what}: it can only act")
        return agent, state

    def _require_choices(self, question: str) -> None:
        if not isinstance(self.action_space, Discrete):
            raise InputError(f"{question}: the actions of this policy are amounts, not choices: ask for value")

    def _name(self) -> str:
        return str(self._about.get("agent", "this agent"))

    def _next_key(self) -> Key:
        key = jax.random.fold_in(self._key, self._calls)
        self._calls += 1
        return key

    # --- between the environment's values and the agent's arrays ---

    def _seen(self, obs: Any) -> np.ndarray:
        """[O] one observation as the agent sees it."""
        return self._normaliser.obs(self._observations.one(obs))

    def _flatten_action(self, action: Any) -> np.ndarray:
        """[A] float32, or [] for a Discrete space, in the environment's units. InputError if the space lacks it."""
        space = self.action_space
        one = np.asarray(action)[None]
        try:
            if isinstance(space, Discrete):
                return spaces.choices(space, one, "action")[0]
            flat = spaces.flatten(space, one, "action")[0]
        except BadValue as error:
            raise InputError(f"{error}") from None
        within = np.clip(flat, space.low.ravel(), space.high.ravel())
        if not np.allclose(within, flat, rtol=1e-5, atol=1e-6):
            raise InputError(f"action: {flat.tolist()} lies outside {_on_one_line(space)}")
        return flat

    def _in_action_space(self, action: np.ndarray) -> Any:
        """[..., A] in [-1, 1], or [...] choices from 0, as the action space holds them."""
        return spaces.members(self.action_space, np.asarray(self._normaliser.env_action(action)))


def _check_finite(value: Any, what: str) -> None:
    values = np.asarray(value, np.float32)
    wrong = np.argwhere(~np.isfinite(values))
    if not len(wrong):
        return
    where = wrong[0].tolist()
    element = f"element {where} of {what}" if where else what
    raise InputError(f"{element} is {values[tuple(where)]}: give a finite number")


def _on_one_line(space: gymnasium.Space) -> str:
    words = str(space).split()
    return " ".join(words)


@functools.partial(jax.jit, static_argnums=0)
def _observe(agent: Agent, state: State, memory: Memory, percept: Percept) -> Memory:
    return agent.observe(state, memory, percept)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _act(agent: Agent, greedy: bool, state: State, memory: Memory, key: Key) -> tuple[jax.Array, Memory]:
    return agent.act(state, memory, key, greedy=greedy)


@functools.partial(jax.jit, static_argnums=(0, 1))
def act_on_rows(agent: Agent, greedy: bool, state: State, observations: Array, key: Key) -> jax.Array:
    """[N, H, A] or [N, H] actions for ``observations`` [N, O], of an agent that acts on its latest one alone."""

    def act(obs: Array, key: Key) -> Array:
        percept = Percept(obs, jnp.float32(0), jnp.int32(0))
        memory = agent.begin(state, first_goal(agent))
        memory = agent.observe(state, memory, percept)
        actions, _ = agent.act(state, memory, key, greedy=greedy)
        return actions

    keys = jax.random.split(key, observations.shape[0])
    return jax.vmap(act)(observations, keys)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _ask(agent: Agent, question: str, state: State, *arguments: Array) -> jax.Array:
    return getattr(agent, question)(state, *arguments)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _ask_of_choices(agent: Agent, number: int, state: State, obs: Array) -> jax.Array:
    """[number] the agent's value of each choice."""
    return jax.vmap(agent.value, in_axes=(None, None, 0))(state, obs, jnp.arange(number))
