"""Observations as a user has them, an array, parts of a Dict space or named columns, as the numbers of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Dict

from rlkit.datasets import spaces
from rlkit.datasets.spaces import BadValue
from rlkit.types import InputError, one_line


class Observations:
    """Reads observations of ``space``.

    names: of its numbers, where the data have names. Observations can then be given by name, in any order: as mappings,
    rows of a table or tables.
    """

    def __init__(self, space: gymnasium.Space, names: Sequence[str] = ()):
        self._space = space
        self._names = list(names)

    def one(self, obs: Any) -> np.ndarray:
        """[O] float32 of one observation. InputError names the element that is wrong."""
        return self.batch(_batch_of_one(obs))[0]

    def batch(self, observations: Any) -> np.ndarray:
        """[N, O] float32 of N observations. InputError names the row and the element that are wrong."""
        try:
            if _are_mappings(observations):
                observations = _as_columns(observations)
            is_named = hasattr(observations, "keys") and not isinstance(self._space, Dict)
            values = self._in_order(observations) if is_named else observations
            return spaces.flatten(self._space, values, "observation")
        except BadValue as error:
            raise InputError(f"{error}{self._place(error)}: give finite numbers of the policy's own space") from None
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"observation: no array of numbers ({one_line(error)})") from None

    def _in_order(self, observations: Any) -> np.ndarray:
        """[N, O] of columns [N] that are given by name."""
        given = list(observations.keys())
        if not self._names:
            raise InputError(f"observation: the policy's data have no names, so {given[:3]} say nothing: give an array")
        missing = [name for name in self._names if name not in given]
        unknown = [name for name in given if name not in self._names]
        if missing or unknown:
            raise InputError(f"observation: missing {missing}, unknown {unknown}; the policy takes {self._names}")
        columns = [np.asarray(observations[name], np.float64) for name in self._names]
        return np.stack(columns, axis=-1)

    def _place(self, error: BadValue) -> str:
        """Name of the column, and the row unless it is the first."""
        name = f" ({self._names[error.column]})" if self._names and error.column is not None else ""
        row = f" in row {error.row}" if error.row else ""
        return f"{name}{row}"


def _batch_of_one(obs: Any) -> Any:
    """An observation with a leading axis, on each of its parts where it has some."""
    if hasattr(obs, "keys"):
        return {key: _batch_of_one(obs[key]) for key in obs.keys()}
    try:
        return np.asarray(obs)[None]
    except ValueError as error:
        hint = "env.reset() and env.step() return more than the observation"
        raise InputError(f"observation: no array of numbers ({one_line(error)}); {hint}") from None


def _are_mappings(observations: Any) -> bool:
    """Whether these are N observations one by one, each of them by its names."""
    return isinstance(observations, list | tuple) and len(observations) > 0 and hasattr(observations[0], "keys")


def _as_columns(rows: Sequence[Any]) -> dict[str, Any]:
    """N mappings as one mapping of columns [N, ...], and so for the mappings in them. InputError where their keys
    differ."""
    names = list(rows[0].keys())
    for number, row in enumerate(rows):
        if not hasattr(row, "keys"):
            raise InputError(
                f"observation: row {number} is a {type(row).__name__}, and row 0 a mapping: give all alike"
            )
        given = list(row.keys())
        if set(given) != set(names):
            raise InputError(f"observation: row {number} has {given}, and row 0 {names}: give each row the same names")
    columns: dict[str, Any] = {}
    for name in names:
        values = [row[name] for row in rows]
        columns[name] = _as_columns(values) if hasattr(values[0], "keys") else np.asarray(values)
    return columns
