"""What the judged policy does at every row of the data, computed once, before anything is fitted."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlkit.acting import first_goal, is_reactive, unwrapped
from rlkit.datasets import Normaliser
from rlkit.types import Agent, Array, Discrete, InputError, Key, Percept, State

BLOCK = 4096  # rows that the policy is asked about at once


def actions_of(
    agent: Agent,
    state: State,
    normaliser: Normaliser,
    obs: np.ndarray,
    *,
    name: str = "this agent",
    greedy: bool = True,
    seed: int = 0,
) -> np.ndarray:
    """What a policy does where the data have been.

    Args:
        agent: what acts. state: of one of its seeds. normaliser: of its run. obs: [N, O] raw rows. name: of the agent,
        for messages. greedy: whether it takes its likeliest actions; else it samples, from ``seed`` on.

    Returns:
        For discrete actions [N, n] probabilities: of a greedy policy one-hot, of a sampled one those that the agent
        tells, or one-hot of one sample where it tells none. For others [N, A] actions within [-1, 1], one a row.

    Raises:
        InputError: for an agent that remembers its episode, or that plans several actions at once: what it does in a
        row does not follow from the row.

    Example:
        probabilities = actions_of(agent, state, normaliser, episodes.obs, greedy=False)
    """
    check_can_be_judged(agent, state, name)
    inner, _ = unwrapped(agent, state)
    is_discrete = isinstance(inner.spec.action, Discrete)
    asks_probabilities = is_discrete and not greedy and hasattr(inner, "probabilities")
    key = jax.random.key(seed)
    size = min(BLOCK, len(obs))
    parts = []
    for start in range(0, len(obs), size):
        first = min(start, len(obs) - size)  # the last block begins earlier, so that all have one shape
        block = normaliser.obs(np.asarray(obs[first : first + size]))
        if asks_probabilities:
            rows = _probabilities(agent, state, block)
        else:
            rows = _actions(agent, greedy, state, block, key, np.int32(first))
        parts.append(np.asarray(rows)[start - first :])
    acted = np.concatenate(parts)
    if is_discrete and not asks_probabilities:
        return np.eye(inner.spec.action.n, dtype=np.float32)[acted]
    return acted


def check_can_be_judged(agent: Agent, state: State, name: str) -> None:
    """InputError unless what ``agent`` does follows from one observation, one action at a time."""
    if not is_reactive(agent):
        raise InputError(
            f"{name} remembers its episode, so what it would do in a recorded step is not known: it can be judged in "
            "an environment alone (rlkit evaluate)"
        )
    inner, _ = unwrapped(agent, state)
    obs = jax.ShapeDtypeStruct((1, *inner.spec.observation.shape), np.float32)
    plan = jax.eval_shape(functools.partial(_plans, agent, True), state, obs, jax.random.key(0), np.int32(0))
    if plan.shape[1] > 1:
        raise InputError(
            f"{name} plans {plan.shape[1]} actions at once, so what it would do in a recorded step is not known: it "
            "can be judged in an environment alone (rlkit evaluate)"
        )


def _plans(agent: Agent, greedy: bool, state: State, obs: Array, key: Key, first: Array) -> Array:
    """[N, H, A] or [N, H] actions for rows of which the first has the number ``first``."""

    def act(number: Array, one_obs: Array) -> Array:
        memory = agent.begin(state, first_goal(agent))
        memory = agent.observe(state, memory, Percept(one_obs, jnp.float32(0), jnp.int32(0)))
        actions, _ = agent.act(state, memory, jax.random.fold_in(key, number), greedy=greedy)
        return actions

    return jax.vmap(act)(first + jnp.arange(len(obs)), obs)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _actions(agent: Agent, greedy: bool, state: State, obs: Array, key: Key, first: Array) -> Array:
    return _plans(agent, greedy, state, obs, key, first)[:, 0]


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(agent: Agent, state: State, obs: Array) -> Array:
    inner, inner_state = unwrapped(agent, state)
    return jax.vmap(inner.probabilities, in_axes=(None, 0))(inner_state, obs)
