"""Gymnasium spaces as data: flattened as gymnasium flattens them, kept as JSON in Minari's form, and compared.

Box, Discrete and Dict (nested or not) of them are served; anything else is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete

from rlkit.types import InputError

# fail(row or None, field, problem) raises the InputError that names dataset, episode, index and field.
Fail = Callable[[int | None, str, str], NoReturn]

# First words of the notes of a Report whose source named no space; `check_env` then compares what the data do tell.
UNNAMED_OBSERVATION = "observation space not named by the source"
UNNAMED_ACTION = "action space not named by the source"


MOST_CHOICES = 2**16  # of a Discrete observation, which takes a column for each


def leaves(space: Space, field: str) -> list[tuple[str, Box | Discrete]]:
    """(field name, Box or Discrete) in the order in which gymnasium flattens them; other kinds raise InputError."""
    if isinstance(space, Dict):
        return [leaf for key, sub in space.spaces.items() for leaf in leaves(sub, f"{field}/{key}")]
    if isinstance(space, Box | Discrete):
        return [(field, space)]
    kind = type(space).__name__
    raise InputError(f"{field}: {kind} spaces are not supported; only Box, Discrete and Dict of them can be flattened")


def check_supported(name: str, observation_space: Space | None, action_space: Space | None) -> None:
    """Refuse by name what cannot be flattened, and actions that are neither Box nor Discrete. Raises InputError."""
    if observation_space is not None:
        leaves(observation_space, f"{name}: observations")
    if not isinstance(action_space, Box | Discrete | None):
        kind = type(action_space).__name__
        raise InputError(f"{name}: actions: {kind} spaces are not supported; only Box and Discrete are")


def width(space: Space) -> int:
    """Number of columns after flattening: a Discrete leaf takes n (one-hot), a Box its size."""
    return sum(int(leaf.n) if isinstance(leaf, Discrete) else math.prod(leaf.shape) for _, leaf in leaves(space, ""))


def flatten(space: Space, values: Any, field: str, fail: Fail) -> np.ndarray:
    """[N, width(space)] float32 of N values: an array [N, ...], or for a Dict space a mapping of such.

    Calls ``fail`` for a wrong width, a value that is no finite float32, or a choice out of range.
    """
    if not isinstance(space, Dict):
        return one_hot(space, values, field, fail) if isinstance(space, Discrete) else wide(space, values, field, fail)
    if not isinstance(values, Mapping):
        fail(None, field, "not a mapping, though the space is a Dict")
    if missing := [key for key in space.spaces if key not in values]:
        fail(None, f"{field}/{missing[0]}", "missing, though the space names it")
    columns = [flatten(sub, values[key], f"{field}/{key}", fail) for key, sub in space.spaces.items()]
    return np.concatenate(columns, axis=1)


def wide(space: Box, values: Any, field: str, fail: Fail) -> np.ndarray:
    """[N, size of the Box] float32, checked."""
    values = numeric(values, field, fail)
    size, given = math.prod(space.shape), math.prod(values.shape[1:])
    if not size:
        fail(None, field, f"has shape {list(values.shape)}, so no number in a row")
    if given != size:
        fail(0, field, f"{given} numbers wide, but the space has {size} (shape {list(space.shape)})")
    with np.errstate(over="ignore"):
        values = values.reshape(len(values), size).astype(np.float32, copy=False)
    finite = np.isfinite(values)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        fail(row, field, f"element {column} is {values[row, column]} in float32; {int((~finite).sum())} such values")
    return values


def choices(space: Discrete, values: Any, field: str, fail: Fail) -> np.ndarray:
    """[N] int32 in the space's own numbering, checked."""
    values = numeric(values, field, fail)
    if values.size != len(values):
        fail(0, field, f"{math.prod(values.shape[1:])} numbers wide, but a Discrete space has one")
    values = values.reshape(-1)
    low, high = int(space.start), int(space.start + space.n) - 1
    whole = np.mod(values, 1) == 0 if values.dtype.kind == "f" else np.ones(len(values), bool)
    bad = np.flatnonzero(~(whole & (values >= low) & (values <= high)))  # ~ so that NaN is bad
    if bad.size:
        fail(int(bad[0]), field, f"{values[bad[0]]} is not one of the whole numbers {low} to {high}")
    return values.astype(np.int32)


def one_hot(space: Discrete, values: Any, field: str, fail: Fail) -> np.ndarray:
    """[N, n] float32, as gymnasium flattens a Discrete."""
    chosen = choices(space, values, field, fail) - int(space.start)
    if int(space.n) > MOST_CHOICES:
        fail(None, field, f"{space.n} choices are too many to be one column each; at most {MOST_CHOICES} are served")
    rows = np.zeros((len(chosen), int(space.n)), np.float32)
    rows[np.arange(len(chosen)), chosen] = 1
    return rows


def numeric(values: Any, field: str, fail: Fail) -> np.ndarray:
    """The values as an array of numbers; anything else (objects, strings, complex numbers) fails."""
    values = np.asarray(values)
    if values.dtype.kind not in "buif":
        fail(None, field, f"holds {values.dtype}, not numbers")
    return values


def to_json(space: Space) -> dict:
    """Minari's JSON form of a space."""
    if isinstance(space, Dict):
        return {"type": "Dict", "subspaces": {key: to_json(sub) for key, sub in space.spaces.items()}}
    if isinstance(space, Discrete):
        return {"type": "Discrete", "dtype": str(space.dtype), "start": int(space.start), "n": int(space.n)}
    if isinstance(space, Box):
        bounds = {"low": space.low.tolist(), "high": space.high.tolist()}
        return {"type": "Box", "dtype": str(space.dtype), "shape": list(space.shape), **bounds}
    raise InputError(f"{type(space).__name__} spaces are not supported")


def from_json(form: Mapping) -> Space:
    """Inverse of `to_json`; raises KeyError or ValueError for anything else."""
    if form["type"] == "Dict":  # as pairs, or gymnasium would sort them
        return Dict([(key, from_json(sub)) for key, sub in form["subspaces"].items()])
    if form["type"] == "Discrete":
        return Discrete(form["n"], start=form["start"])
    if form["type"] == "Box":
        dtype = np.dtype(form["dtype"])
        low, high = (np.array(form[bound], dtype).reshape(form["shape"]) for bound in ("low", "high"))
        return Box(low, high, tuple(form["shape"]), dtype.type)
    raise ValueError(f"no space of type {form['type']!r}")


def difference(stored: Space, other: Space, field: str) -> list[str]:
    """What differs, one phrase each: kind, shape, bounds, choices, keys, integer against float."""
    if isinstance(stored, Dict) and isinstance(other, Dict):
        if list(stored.spaces) != list(other.spaces):
            return [f"{field} keys are {list(stored.spaces)}, the environment's {list(other.spaces)}"]
        pairs = ((key, stored.spaces[key], other.spaces[key]) for key in stored.spaces)
        return [phrase for key, a, b in pairs for phrase in difference(a, b, f"{field}/{key}")]
    if isinstance(stored, Discrete) and isinstance(other, Discrete):
        if (stored.n, stored.start) == (other.n, other.start):
            return []
        return [f"{field} has {stored.n} choices from {stored.start}, the environment's {other.n} from {other.start}"]
    if not (isinstance(stored, Box) and isinstance(other, Box)):
        return [f"{field} is a {type(stored).__name__}, the environment's a {type(other).__name__}"]
    if stored.shape != other.shape:
        return [f"{field} has shape {list(stored.shape)}, the environment's {list(other.shape)}"]
    found = []
    if np.issubdtype(stored.dtype, np.integer) != np.issubdtype(other.dtype, np.integer):
        found.append(f"{field} is {stored.dtype}, the environment's {other.dtype}")
    for bound in ("low", "high"):
        mine, theirs = (np.asarray(getattr(space, bound), np.float64).ravel() for space in (stored, other))
        apart = np.flatnonzero(~np.isclose(mine, theirs, rtol=1e-5, atol=1e-8))
        if apart.size:
            i = int(apart[0])
            found.append(f"{field} {bound}[{i}] is {mine[i]:g}, the environment's {theirs[i]:g}")
    return found


def misfit(derived: Space, other: Space, field: str, values: np.ndarray | None = None) -> list[str]:
    """What keeps data whose space is only derived from them out of another space: kind, shape, or, where ``values``
    [M, ...] are given, one that lies outside."""
    if type(derived) is not type(other) or (isinstance(derived, Box) and derived.shape != other.shape):
        return difference(derived, other, field)
    if values is None:
        return []
    if isinstance(other, Discrete):
        low, high = np.array([other.start]), np.array([other.start + other.n - 1])
    else:
        low, high = other.low.ravel() - 1e-5, other.high.ravel() + 1e-5
    least, most = (extreme.reshape(-1) for extreme in (values.min(0), values.max(0)))
    outside = np.flatnonzero((least < low) | (most > high))
    return [f"{field}[{i}] goes from {least[i]:g} to {most[i]:g}, beyond the environment's bounds" for i in outside[:1]]
