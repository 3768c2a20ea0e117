"""What an environment returns, held against gymnasium's interface.

Environments are other people's code. `check` takes a first reset and a first step before anything is trained, and says
in one line what is wrong and what to do. `read_reset` and `read_step` do the same at every later step, for an
evaluation (rlkit.evaluation.play) that must fail by itself and not end the training. They are called once for each
step of each environment, so they do no more than is needed to tell one number, one array and a flag from anything else.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from rlkit.datasets import spaces
from rlkit.types import InputError, raised

_FIVE = "gymnasium's step returns five values: obs, reward, terminated, truncated, info"
_OLD = f"{_FIVE}; where there was one flag `done`, a time limit sets truncated and any other end terminated"
# what Python says where an environment does not have gymnasium's interface -> what to do
_CURES = {
    "expected 5, got 4": f"step returned four values, as the old gym did: {_OLD}",
    "reset() got an unexpected keyword": "define reset(self, *, seed=None, options=None)",
    "reset() takes": "define reset(self, *, seed=None, options=None)",
}


class BadReturn(Exception):
    """An environment returned what gymnasium's interface does not allow. The message says what, and what to do."""


class Returned(NamedTuple):
    """What ``reset`` (without reward and flags) or ``step`` returned, checked."""

    obs: np.ndarray  # [O] float32, flattened as gymnasium flattens its space
    reward: float
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]


def check(env: gymnasium.Env, name: str, seed: int) -> list[str]:
    """Take one reset and one step of a sampled action.

    Args:
        env: the environment, in which an episode has begun afterwards.
        name: what messages call it.
        seed: of the reset, and of the action that is sampled.

    Returns:
        What is allowed but may be a mistake, a sentence each.

    Raises:
        InputError: one line, if a space is not served, if something raises, or for what gymnasium's interface does not
            allow.

    Example:
        check(gymnasium.make("Pendulum-v1"), "Pendulum-v1", seed=0)
    """
    where = f"environment {name}"
    observation_space, action_space = _spaces(env, where)
    spaces.check_supported(where, observation_space, action_space)
    doing = "reset"
    try:
        begun = env.reset(seed=seed)
        start = read_reset(begun, observation_space)
        sampling = copy.deepcopy(action_space)  # which may be shared by all environments of its class
        sampling.seed(seed)
        action = in_form(action_space, np.asarray(sampling.sample()))
        doing = "step"
        stepped = env.step(action)
        after = read_step(stepped, observation_space)
    except BadReturn as fault:
        raise InputError(f"{where}: {fault}") from fault
    except (Exception, SystemExit) as error:
        raise InputError(f"{where}: {doing} raised {raised(error)}{cure(error)}") from error

    # --- values ---
    obs_before, _ = begun
    obs_after = stepped[0]
    notes = []
    for doing, raw, flat in (("reset", obs_before, start.obs), ("step", obs_after, after.obs)):
        if not np.isfinite(flat).all():
            element = int(np.argmin(np.isfinite(flat)))
            raise InputError(f"{where}: observation element {element} is {flat[element]} after its first {doing}")
        _check_kinds(observation_space, raw, where)
        notes += _beyond_bounds(observation_space, raw, where)
    if not np.isfinite(after.reward):
        raise InputError(f"{where}: the reward of its first step is {after.reward}")
    return list(dict.fromkeys(notes))


def in_form(space: gymnasium.Space, action: np.ndarray) -> Any:
    """An action, a number or the numbers of an array, as an environment takes it: an int, or an array in the shape of
    its space that it may change."""
    if isinstance(space, Discrete):
        return int(action)
    return spaces.members(space, np.asarray(action))


def read_reset(returned: Any, space: gymnasium.Space) -> Returned:
    """What ``reset`` returned, with the observation flattened. Raises BadReturn."""
    obs, info = _of_reset(returned)
    return Returned(flatten(space, obs), 0.0, False, False, info)


def read_step(returned: Any, space: gymnasium.Space) -> Returned:
    """What ``step`` returned, with the observation flattened, and reward and flags as Python's. Raises BadReturn."""
    obs, reward, terminated, truncated, info = _of_step(returned)
    return Returned(flatten(space, obs), reward, terminated, truncated, info)


class Checked(gymnasium.Wrapper):
    """An environment that returns what gymnasium's interface asks for, with rewards and flags as Python's, or raises
    BadReturn. Its observations are passed on as they are."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """As the environment's."""
        return _of_reset(self.env.reset(seed=seed, options=options))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        """As the environment's."""
        return _of_step(self.env.step(action))


def _of_reset(returned: Any) -> tuple[Any, Any]:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise BadReturn(f"reset returned {_form(returned)}: gymnasium's reset returns two values, obs and info")
    obs, info = returned
    _check_info("reset", info)
    return obs, info


def _of_step(returned: Any) -> tuple[Any, float, bool, bool, Any]:
    if not isinstance(returned, tuple) or len(returned) != 5:
        is_old = isinstance(returned, tuple) and len(returned) == 4
        if is_old:
            raise BadReturn(_CURES["expected 5, got 4"])
        raise BadReturn(f"step returned {_form(returned)}: {_FIVE}")
    obs, reward, terminated, truncated, info = returned
    if type(reward) is not float:
        reward = _number(reward)
    if type(terminated) is not bool:
        terminated = _flag("terminated", terminated)
    if type(truncated) is not bool:
        truncated = _flag("truncated", truncated)
    _check_info("step", info)
    return obs, reward, terminated, truncated, info


def flatten(space: gymnasium.Space, obs: Any, field: str = "the observation") -> np.ndarray:
    """[O] float32 of one observation, in the order of gymnasium.spaces.flatten; a copy, since some environments return
    the same array at every step. Raises BadReturn where ``obs`` does not have the form of its space."""
    if isinstance(space, Box):
        values = np.asarray(obs)
        if values.shape != space.shape:
            raise BadReturn(f"{field} has the shape {list(values.shape)}, but its space has {list(space.shape)}")
        if values.dtype.kind not in "buif":
            raise BadReturn(f"{field} holds {values.dtype}, not numbers")
        return values.astype(np.float32).reshape(-1)
    if isinstance(space, Discrete):
        return _one_hot(space, obs, field)
    if not isinstance(space, Dict):
        raise BadReturn(f"{field} is in a {type(space).__name__} space, and only Box, Discrete and Dict are served")
    if not isinstance(obs, Mapping):
        raise BadReturn(f"{field} is {_form(obs)}, but its space is a Dict")
    parts = []
    for key, member in space.spaces.items():
        if key not in obs:
            raise BadReturn(f"{field} has no {key!r}, which its space names")
        parts.append(flatten(member, obs[key], f"{field}/{key}"))
    return np.concatenate(parts)


def cure(error: BaseException) -> str:
    """What to do about an exception that comes of an old interface, with a colon before it; else nothing."""
    text = str(error)
    for said, what_to_do in _CURES.items():
        if said in text:
            return f": {what_to_do}"
    return ""


# --- one value each ---


def _number(reward: Any) -> float:
    """A reward that is one number in whatever form, an array of one number too."""
    if isinstance(reward, float | np.floating):  # at most steps
        return float(reward)
    values = _array(reward)
    if values is None or values.size != 1 or values.dtype.kind not in "buif":
        raise BadReturn(f"the reward is {_form(reward)}, not one number: return a float")
    return float(values.item())


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, np.bool_):
        return bool(value)
    values = _array(value)
    if values is None or values.size != 1 or values.dtype.kind not in "buif" or values.item() not in (0, 1):
        raise BadReturn(f"{name} is {_form(value)}: return True or False")
    return bool(values.item())


def _check_info(method: str, info: Any) -> None:
    if not isinstance(info, Mapping):
        raise BadReturn(f"the info of {method} is {_form(info)}, not a mapping: return {{}} where there is nothing")


def _one_hot(space: Discrete, obs: Any, field: str) -> np.ndarray:
    values = _array(obs)
    low = int(space.start)
    high = low + int(space.n) - 1
    if values is None or values.size != 1 or values.dtype.kind not in "buif":
        raise BadReturn(f"{field} is {_form(obs)}, but its space is a Discrete: return one whole number")
    number = values.item()
    if not low <= number <= high or number != int(number):
        raise BadReturn(f"{field} is {number}, but its space has the whole numbers {low} to {high}")
    row = np.zeros(int(space.n), np.float32)
    row[int(number) - low] = 1
    return row


def _array(value: Any) -> np.ndarray | None:
    """``value`` as an array; None where it cannot be one."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        return None


def _form(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} values"
    if isinstance(value, np.ndarray) and value.size != 1:
        return f"an array of shape {list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"


# --- the first step alone ---


def _spaces(env: gymnasium.Env, where: str) -> tuple[gymnasium.Space, gymnasium.Space]:
    """The two spaces of ``env``. InputError where it has none."""
    found = []
    for name in ("observation_space", "action_space"):
        try:
            space = getattr(env, name, None)
        except Exception as error:
            raise InputError(f"{where}: its {name} raised {raised(error)}") from error
        if not isinstance(space, gymnasium.Space):
            kind = "a Box, a Discrete, or (for observations) a Dict of them"
            raise InputError(f"{where}: its {name} is {_form(space)}, not a gymnasium space: set it to {kind}")
        found.append(space)
    observation_space, action_space = found
    return observation_space, action_space


def _check_kinds(space: gymnasium.Space, obs: Any, where: str) -> None:
    """InputError for an observation with fractions in a space of whole numbers: the space does not tell what comes."""
    if isinstance(space, Dict):
        for key, member in space.spaces.items():
            _check_kinds(member, obs[key], f"{where}: {key}")
    elif isinstance(space, Box) and np.issubdtype(space.dtype, np.integer):
        values = np.asarray(obs)
        if (np.mod(values, 1) != 0).any():
            raise InputError(
                f"{where}: the observation has fractions ({values.dtype}), but its space is of {space.dtype}: "
                "declare the space with dtype float32"
            )


def _beyond_bounds(space: gymnasium.Space, obs: Any, where: str) -> list[str]:
    """A sentence for the first element of each Box that lies beyond its bounds."""
    if isinstance(space, Dict):
        sentences = []
        for key, member in space.spaces.items():
            sentences += _beyond_bounds(member, obs[key], f"{where}: {key}")
        return sentences
    if not isinstance(space, Box):
        return []
    values = np.asarray(obs, np.float64).ravel()
    low = space.low.astype(np.float64).ravel()
    high = space.high.astype(np.float64).ravel()
    slack = 1e-5 * (1 + np.abs(values))
    is_beyond = (values < low - slack) | (values > high + slack)
    if not is_beyond.any():
        return []
    element = int(np.argmax(is_beyond))
    bounds = f"{low[element]:g} to {high[element]:g}"
    return [f"{where}: observation element {element} lies beyond the bounds of its space, {bounds}; nothing is clipped"]
