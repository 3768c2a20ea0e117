"""Which task an environment is, as far as scores depend on it: its id, its time limit, its arguments, its wrappers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit

from rlkit.types import InputError


class Task(NamedTuple):
    """What reference returns are measured in."""

    id: str  # of gymnasium's registry
    steps: int | None  # the time limit
    kwargs: dict[str, Any]  # arguments that are neither the registered ones nor the constructor's defaults
    wrappers: tuple[str, ...]  # names, without those that gymnasium.make itself adds

    @classmethod
    def of(cls, env: gymnasium.Env) -> Task | None:
        """The task of ``env``; None where it was not made by its id, so that nothing is known of it."""
        spec = env.spec
        if spec is None:
            return None
        usual = _defaults(env)
        registered = gymnasium.registry.get(spec.id)
        if registered is not None:
            usual |= registered.kwargs
        kwargs = {}
        for name, value in spec.kwargs.items():
            is_usual = name in usual and _same(usual[name], value)
            if name != "render_mode" and not is_usual:
                kwargs[name] = value
        wrappers = tuple(wrapper.name for wrapper in spec.additional_wrappers)
        return cls(spec.id, time_limit(env), kwargs, wrappers)


def time_limit(env: gymnasium.Env) -> int | None:
    """Steps after which the environment's wrappers, or its spec, end an episode; None where nothing says so."""
    limits = []
    if env.spec is not None and env.spec.max_episode_steps:
        limits.append(env.spec.max_episode_steps)
    layer = env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, TimeLimit):
            limits.append(layer._max_episode_steps)  # gymnasium has no public name for it
        layer = layer.env
    return min(limits, default=None)


def needed_time_limit(env: gymnasium.Env) -> int:
    """`time_limit` of an environment to collect steps in. InputError where it has none."""
    limit = time_limit(env)
    if limit is None:
        raise InputError(
            f"environment {name_of(env)} has no time limit, which online training needs: register it with "
            "max_episode_steps, or wrap it in gymnasium.wrappers.TimeLimit"
        )
    return limit


def name_of(env: gymnasium.Env) -> str:
    """What messages call an environment: its id, else its class."""
    return env.spec.id if env.spec else type(env.unwrapped).__name__


def unlike(env: gymnasium.Env, steps: int, kwargs: Sequence[Mapping[str, Any]]) -> str:
    """Why returns in ``env`` do not compare with those of a reference, in a few words; "" where they do.

    steps: the time limit of the reference. kwargs: the sets of arguments that it holds for.
    """
    task = Task.of(env)
    if task is None:
        return "it was not made by its id"
    if task.wrappers:
        return f"it is wrapped in {', '.join(task.wrappers)}"
    if task.steps != steps:
        limit = "any number of" if task.steps is None else f"at most {task.steps}"
        return f"its episodes have {limit} steps, those of the reference {steps}"
    if not any(_same(task.kwargs, one) for one in kwargs):
        those = " or ".join(_listed(one) for one in kwargs)
        return f"it is made with {_listed(task.kwargs)}, the reference with {those}"
    return ""


def _listed(kwargs: Mapping[str, Any]) -> str:
    arguments = [f"{name}={value!r}" for name, value in kwargs.items()]
    return ", ".join(arguments) or "its usual arguments"


def _defaults(env: gymnasium.Env) -> dict[str, Any]:
    """Values that the constructor's arguments have by default."""
    try:
        parameters = inspect.signature(type(env.unwrapped)).parameters
    except (TypeError, ValueError):  # a class that does not tell its arguments
        return {}
    return {name: parameter.default for name, parameter in parameters.items()}


def _same(one: Any, other: Any) -> bool:
    """Whether two arguments are equal, whether they come from JSON or from Python: a list there is a tuple here."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other)
