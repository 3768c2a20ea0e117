"""Gymnasium spaces as data: flattened as gymnasium flattens them, kept as JSON in Minari's form, and compared.

Box, Discrete and Dict (nested or not) of them are served; anything else is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete

from rlkit.types import InputError

# First words of the notes of a Report whose source named no space; `check_env` then compares what the data do tell.
UNNAMED_OBSERVATION = "observation space not named by the source"
UNNAMED_ACTION = "action space not named by the source"


MOST_CHOICES = 2**16  # of a Discrete observation, which takes a column for each


class BadValue(Exception):
    """A field holds what its space does not allow, in ``row`` where one row can be named. Who knows the dataset and the
    episode makes an InputError of it."""

    def __init__(self, field: str, problem: str, row: int | None = None) -> None:
        super().__init__(f"{field}: {problem}")
        self.row = row


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
    columns = 0
    for _, leaf in leaves(space, ""):
        columns += int(leaf.n) if isinstance(leaf, Discrete) else math.prod(leaf.shape)
    return columns


def flatten(space: Space, values: Any, field: str) -> np.ndarray:
    """[N, width(space)] float32 of N values: an array [N, ...], or for a Dict space a mapping of such.

    Raises BadValue for a wrong width, a value that is no finite float32, or a choice out of range.
    """
    if isinstance(space, Discrete):
        return one_hot(space, values, field)
    if isinstance(space, Box):
        return wide(space, values, field)
    if not isinstance(values, Mapping):
        raise BadValue(field, "not a mapping, though the space is a Dict")
    for key in space.spaces:
        if key not in values:
            raise BadValue(f"{field}/{key}", "missing, though the space names it")
    columns = [flatten(sub, values[key], f"{field}/{key}") for key, sub in space.spaces.items()]
    return np.concatenate(columns, axis=1)


def wide(space: Box, values: Any, field: str) -> np.ndarray:
    """[N, size of the Box] float32. Raises BadValue."""
    values = numeric(values, field)
    size = math.prod(space.shape)
    given = math.prod(values.shape[1:])
    if not size:
        raise BadValue(field, f"has shape {list(values.shape)}, so no number in a row")
    if given != size:
        problem = f"{given} numbers wide, but the space has {size} (shape {list(space.shape)})"
        raise BadValue(field, problem, row=0)
    rows = values.reshape(len(values), size)
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float32, copy=False)
    finite = np.isfinite(rows)
    if not finite.all():
        bad = np.argwhere(~finite)
        row, column = bad[0].tolist()
        count = len(bad)
        raise BadValue(field, f"element {column} is {rows[row, column]} in float32; {count} such values", row)
    return rows


def choices(space: Discrete, values: Any, field: str) -> np.ndarray:
    """[N] int32 in the space's own numbering. Raises BadValue."""
    values = numeric(values, field)
    if values.size != len(values):
        given = math.prod(values.shape[1:])
        raise BadValue(field, f"{given} numbers wide, but a Discrete space has one", row=0)
    values = values.reshape(-1)
    low = int(space.start)
    high = low + int(space.n) - 1
    allowed = (values >= low) & (values <= high)  # False for NaN
    if values.dtype.kind == "f":
        allowed &= np.mod(values, 1) == 0
    if not allowed.all():
        row = int(np.argmin(allowed))
        raise BadValue(field, f"{values[row]} is not one of the whole numbers {low} to {high}", row)
    return values.astype(np.int32)


def one_hot(space: Discrete, values: Any, field: str) -> np.ndarray:
    """[N, n] float32, as gymnasium flattens a Discrete. Raises BadValue."""
    chosen = choices(space, values, field) - int(space.start)
    if int(space.n) > MOST_CHOICES:
        problem = f"{space.n} choices are too many to be one column each; at most {MOST_CHOICES} are served"
        raise BadValue(field, problem)
    rows = np.zeros((len(chosen), int(space.n)), np.float32)
    rows[np.arange(len(chosen)), chosen] = 1
    return rows


def numeric(values: Any, field: str) -> np.ndarray:
    """The values as an array. Raises BadValue for anything but numbers: objects, strings, complex numbers."""
    values = np.asarray(values)
    if values.dtype.kind not in "buif":
        raise BadValue(field, f"holds {values.dtype}, not numbers")
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
        shape = tuple(form["shape"])
        dtype = np.dtype(form["dtype"])
        low = np.array(form["low"], dtype).reshape(shape)
        high = np.array(form["high"], dtype).reshape(shape)
        return Box(low, high, shape, dtype.type)
    raise ValueError(f"no space of type {form['type']!r}")


def difference(stored: Space, other: Space, field: str) -> list[str]:
    """What differs, one phrase each: kind, shape, bounds, choices, keys, integer against float."""
    kind = next((kind for kind in (Dict, Discrete, Box) if isinstance(stored, kind)), None)
    if kind is None or not isinstance(other, kind):
        return [f"{field} is a {type(stored).__name__}, the environment's a {type(other).__name__}"]
    return _DIFFERENCES[kind](stored, other, field)


def _dict_difference(stored: Dict, other: Dict, field: str) -> list[str]:
    if list(stored.spaces) != list(other.spaces):
        return [f"{field} keys are {list(stored.spaces)}, the environment's {list(other.spaces)}"]
    phrases = []
    for key, sub in stored.spaces.items():
        phrases += difference(sub, other.spaces[key], f"{field}/{key}")
    return phrases


def _discrete_difference(stored: Discrete, other: Discrete, field: str) -> list[str]:
    if (stored.n, stored.start) == (other.n, other.start):
        return []
    return [f"{field} has {stored.n} choices from {stored.start}, the environment's {other.n} from {other.start}"]


def _box_difference(stored: Box, other: Box, field: str) -> list[str]:
    if stored.shape != other.shape:
        return [f"{field} has shape {list(stored.shape)}, the environment's {list(other.shape)}"]
    phrases = []
    if np.issubdtype(stored.dtype, np.integer) != np.issubdtype(other.dtype, np.integer):
        phrases.append(f"{field} is {stored.dtype}, the environment's {other.dtype}")
    for bound in ("low", "high"):
        mine = getattr(stored, bound).astype(np.float64).ravel()
        theirs = getattr(other, bound).astype(np.float64).ravel()
        apart = np.flatnonzero(~np.isclose(mine, theirs, rtol=1e-5, atol=1e-8))
        if apart.size:
            i = int(apart[0])
            phrases.append(f"{field} {bound}[{i}] is {mine[i]:g}, the environment's {theirs[i]:g}")
    return phrases


_DIFFERENCES = {Dict: _dict_difference, Discrete: _discrete_difference, Box: _box_difference}


def misfit(derived: Space, other: Space, field: str, values: np.ndarray | None = None) -> list[str]:
    """What keeps data whose space is only derived from them out of another space: kind, shape, or, where ``values``
    [M, ...] are given, one that lies outside."""
    if type(derived) is not type(other) or (isinstance(derived, Box) and derived.shape != other.shape):
        return difference(derived, other, field)
    if values is None:
        return []
    if isinstance(other, Discrete):
        low = np.array([other.start])
        high = low + other.n - 1
    else:
        low = other.low.ravel() - 1e-5
        high = other.high.ravel() + 1e-5
    least = values.min(0).reshape(-1)
    most = values.max(0).reshape(-1)
    outside = np.flatnonzero((least < low) | (most > high))
    if not outside.size:
        return []
    i = int(outside[0])
    return [f"{field}[{i}] goes from {least[i]:g} to {most[i]:g}, beyond the environment's bounds"]
