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

UNNAMED_OBSERVATION = "the data do not describe their observations"  # first words of a note

MOST_CHOICES = 2**16  # of a Discrete observation, which takes a column for each


class NotServed(ValueError):
    """A space of a kind that is not served, as a phrase that goes after its name."""


class BadValue(Exception):
    """A field holds what its space does not allow, in ``row`` and ``column`` where they can be named. The caller that
    knows the dataset and the episode turns it into an InputError."""

    def __init__(self, field: str, problem: str, row: int | None = None, column: int | None = None) -> None:
        super().__init__(f"{field}: {problem}")
        self.row = row
        self.column = column


def leaves(space: Space, field: str) -> list[tuple[str, Box | Discrete]]:
    """(field name, Box or Discrete) in the order in which gymnasium flattens them; other kinds raise InputError."""
    if isinstance(space, Box | Discrete):
        return [(field, space)]
    if not isinstance(space, Dict):
        kind = type(space).__name__
        raise InputError(
            f"{field}: {kind} spaces are not supported; only Box, Discrete and Dict of them can be flattened"
        )
    named_leaves = []
    for key, member in space.spaces.items():
        named_leaves += leaves(member, f"{field}/{key}")
    return named_leaves


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
        if isinstance(leaf, Discrete):
            columns += int(leaf.n)
        else:
            columns += math.prod(leaf.shape)
    return columns


def flatten(space: Space, values: Any, field: str) -> np.ndarray:
    """[N, width(space)] float32 of N values: an array [N, ...], or for a Dict space a mapping of such.

    Raises BadValue for a wrong width, a value that is no finite float32, or a choice out of range.
    """
    if isinstance(space, Discrete):
        return one_hot(space, values, field)
    if isinstance(space, Box):
        return flatten_box(space, values, field)
    if not isinstance(values, Mapping):
        raise BadValue(field, f"not a mapping, though the space is a Dict of {', '.join(space.spaces)}")
    for key in space.spaces:
        if key not in values:
            raise BadValue(f"{field}/{key}", "missing, though the space names it")
    columns = []
    for key, member in space.spaces.items():
        flat = flatten(member, values[key], f"{field}/{key}")
        columns.append(flat)
    return np.concatenate(columns, axis=1)


def flatten_box(space: Box, values: Any, field: str) -> np.ndarray:
    """[N, size of the Box] float32. Raises BadValue."""
    values = numeric(values, field)
    size = math.prod(space.shape)
    stored_size = math.prod(values.shape[1:])
    if not size:
        shape = list(values.shape)
        raise BadValue(field, f"has shape {shape}, so no number in a row")
    if stored_size != size:
        shape = list(space.shape)
        problem = f"{stored_size} numbers wide, but the space has {size} (shape {shape})"
        raise BadValue(field, problem, row=0)
    rows = values.reshape(len(values), size)
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float32, copy=False)
    finite = np.isfinite(rows)
    if not finite.all():
        positions = np.argwhere(~finite)
        row, column = positions[0].tolist()
        value = rows[row, column]
        count = len(positions)
        problem = f"element {column} is {value} in float32; {count} such values"
        raise BadValue(field, problem, row, column)
    return rows


def choices(space: Discrete, values: Any, field: str) -> np.ndarray:
    """[N] int32 in the space's own numbering. Raises BadValue."""
    values = numeric(values, field)
    if values.size != len(values):
        stored_size = math.prod(values.shape[1:])
        raise BadValue(field, f"{stored_size} numbers wide, but a Discrete space has one", row=0)
    values = values.reshape(-1)
    low = int(space.start)
    high = low + int(space.n) - 1
    allowed = (values >= low) & (values <= high)  # False for NaN
    if values.dtype.kind == "f":
        whole = np.mod(values, 1) == 0
        allowed &= whole
    if not allowed.all():
        row = int(np.argmin(allowed))
        problem = f"{values[row]} is not one of the whole numbers {low} to {high}"
        raise BadValue(field, problem, row)
    return values.astype(np.int32)


def one_hot(space: Discrete, values: Any, field: str) -> np.ndarray:
    """[N, n] float32, as gymnasium flattens a Discrete. Raises BadValue."""
    start = int(space.start)
    count = int(space.n)
    chosen = choices(space, values, field) - start
    if count > MOST_CHOICES:
        problem = f"{count} choices are too many to be one column each; at most {MOST_CHOICES} are served"
        raise BadValue(field, problem)
    rows = np.zeros((len(chosen), count), np.float32)
    every_row = np.arange(len(chosen))
    rows[every_row, chosen] = 1
    return rows


def members(space: Box | Discrete, values: np.ndarray) -> Any:
    """Numbers [..., size of the Box], or choices [...], as the space holds them: of its shape and dtype, within bounds.

    float32 numbers may lie a little beyond the bounds of a float64 Box, and a Box of integers holds no others. One
    choice becomes a number, since environments take it as a key.
    """
    if isinstance(space, Discrete):
        return values.astype(space.dtype)[()]
    shape = (*values.shape[:-1], *space.shape)
    exact = values.astype(np.float64).reshape(shape)
    if np.issubdtype(space.dtype, np.integer):
        exact = np.rint(exact)
    within = np.clip(exact, space.low, space.high)
    return np.asarray(within, space.dtype)


def numeric(values: Any, field: str) -> np.ndarray:
    """The values as an array. Raises BadValue for anything but numbers: objects, strings, complex numbers."""
    values = np.asarray(values)
    if values.dtype.kind not in "buif":
        raise BadValue(field, f"holds {values.dtype}, not numbers")
    return values


def to_json(space: Space) -> dict:
    """Minari's JSON form of a space."""
    if isinstance(space, Dict):
        subspaces = {}
        for key, member in space.spaces.items():
            subspaces[key] = to_json(member)
        return {"type": "Dict", "subspaces": subspaces}
    form: dict[str, Any] = {"type": type(space).__name__}
    form["dtype"] = str(space.dtype)
    if isinstance(space, Discrete):
        form["start"] = int(space.start)
        form["n"] = int(space.n)
        return form
    if isinstance(space, Box):
        form["shape"] = list(space.shape)
        form["low"] = space.low.tolist()
        form["high"] = space.high.tolist()
        return form
    raise InputError(f"{type(space).__name__} spaces are not supported")


def from_json(form: Mapping) -> Space:
    """Inverse of `to_json`; raises NotServed for a space of another kind, KeyError or ValueError for anything else."""
    kind = form["type"]
    if kind == "Dict":
        members = []
        for key, member in form["subspaces"].items():
            space = from_json(member)
            members.append((key, space))
        return Dict(members)  # pairs keep their order, where gymnasium would sort the keys of a dict
    if kind == "Discrete":
        return Discrete(form["n"], start=form["start"])
    if kind == "Box":
        shape = tuple(form["shape"])
        dtype = np.dtype(form["dtype"])
        low = np.array(form["low"], dtype)
        high = np.array(form["high"], dtype)
        low = low.reshape(shape)
        high = high.reshape(shape)
        return Box(low, high, shape, dtype.type)
    raise NotServed(
        f"of type {str(kind)[:60]!r}; served are Box, Discrete and, for observations, Dict of them: store it as one"
    )


def difference(stored: Space, other: Space, field: str) -> list[str]:
    """Differences between two spaces, one phrase each: kind, shape, bounds, choices, keys, integer against float."""
    if isinstance(stored, Dict) and isinstance(other, Dict):
        return _dict_difference(stored, other, field)
    if isinstance(stored, Discrete) and isinstance(other, Discrete):
        return _discrete_difference(stored, other, field)
    if isinstance(stored, Box) and isinstance(other, Box):
        return _box_difference(stored, other, field)
    stored_kind = type(stored).__name__
    other_kind = type(other).__name__
    return [f"{field} is a {stored_kind}, the environment's a {other_kind}"]


def _dict_difference(stored: Dict, other: Dict, field: str) -> list[str]:
    stored_keys = list(stored.spaces)
    other_keys = list(other.spaces)
    if stored_keys != other_keys:
        return [f"{field} keys are {stored_keys}, the environment's {other_keys}"]
    phrases = []
    for key in stored_keys:
        stored_member = stored.spaces[key]
        other_member = other.spaces[key]
        phrases += difference(stored_member, other_member, f"{field}/{key}")
    return phrases


def _discrete_difference(stored: Discrete, other: Discrete, field: str) -> list[str]:
    stored_choices = f"{stored.n} choices from {stored.start}"
    other_choices = f"{other.n} from {other.start}"
    if stored.n == other.n and stored.start == other.start:
        return []
    return [f"{field} has {stored_choices}, the environment's {other_choices}"]


def _box_difference(stored: Box, other: Box, field: str) -> list[str]:
    if stored.shape != other.shape:
        stored_shape = list(stored.shape)
        other_shape = list(other.shape)
        return [f"{field} has shape {stored_shape}, the environment's {other_shape}"]
    phrases = []
    stored_as_integers = np.issubdtype(stored.dtype, np.integer)
    other_as_integers = np.issubdtype(other.dtype, np.integer)
    if stored_as_integers != other_as_integers:
        phrases.append(f"{field} is {stored.dtype}, the environment's {other.dtype}")
    phrases += _bound_difference(stored.low, other.low, f"{field} low")
    phrases += _bound_difference(stored.high, other.high, f"{field} high")
    return phrases


def _bound_difference(stored: np.ndarray, other: np.ndarray, name: str) -> list[str]:
    """The first component in which two bounds are further apart than rounding explains."""
    stored = stored.astype(np.float64).ravel()
    other = other.astype(np.float64).ravel()
    close = np.isclose(stored, other, rtol=1e-5, atol=1e-8)
    if close.all():
        return []
    i = int(np.argmin(close))
    return [f"{name}[{i}] is {stored[i]:g}, the environment's {other[i]:g}"]


def misfit(derived: Space, other: Space, field: str) -> list[str]:
    """Differences in kind and shape between two spaces, whatever their bounds."""
    if type(derived) is not type(other):
        return difference(derived, other, field)
    if isinstance(derived, Box) and derived.shape != other.shape:
        return difference(derived, other, field)
    return []
