"""Whether data belong to an environment, or to the spaces of other data, and how they are brought into its form.

What a source or the user told of a space must agree with the other space. What was derived from the data only has to
fit into it, and the other space is taken: choices that were stored as floats or amounts that were stored as integers
become what they are there, a state's number becomes the columns of a Discrete observation.
"""

from __future__ import annotations

import dataclasses
import math

import gymnasium
import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Discrete

from rlkit.datasets import action_space, spaces
from rlkit.datasets.action_space import BOUNDS, KIND
from rlkit.datasets.episodes import HAS_ACTION, Episodes
from rlkit.types import InputError

OBSERVATION = "observation"  # in Episodes.derived
_ROUNDING = 1e-5  # how far beyond a bound an action may be; the Normaliser clips it


class _Misfit(Exception):
    """Why the data do not fit, as a phrase."""


def check_env(episodes: Episodes, env: gymnasium.Env) -> Episodes:
    """``episodes`` in the form of the environment: with its spaces, where the data did not name theirs.

    Raises InputError that lists what differs: kind, shape, bounds, integer against float.
    """
    name = env.spec.id if env.spec else type(env.unwrapped).__name__
    fitted, differences = fit(episodes, env.observation_space, env.action_space)
    if differences:
        listed = "; ".join(differences)
        raise InputError(f"{episodes.name} does not belong to environment {name}: {listed}")
    return fitted


def fit(episodes: Episodes, observation: Space, action: Space) -> tuple[Episodes, list[str]]:
    """``episodes`` with other spaces than their own where those are derived, and what keeps them from having them."""
    changes: dict[str, object] = {}
    differences = []
    notes = episodes.report.notes

    # --- observations ---
    if OBSERVATION in episodes.derived:
        try:
            obs = _observations(episodes.obs, observation)
            changes["obs"] = obs
            if obs.shape[1] != episodes.obs.shape[1]:  # a number has become a column for each choice
                changes["names"] = dataclasses.replace(episodes.names, observation=())
        except _Misfit as misfit:
            differences.append(str(misfit))
        changes["observation_space"] = observation
        notes = [note for note in notes if not note.startswith(spaces.UNNAMED_OBSERVATION)]
    else:
        differences += spaces.difference(episodes.observation_space, observation, "observation")

    # --- actions ---
    report = episodes.report
    if BOUNDS in episodes.derived:
        try:
            values = _actions(episodes, action)
        except _Misfit as misfit:
            differences.append(str(misfit))
        else:
            changes["action"] = values
            is_step = (np.asarray(episodes.flags) & HAS_ACTION) > 0
            on_bounds = action_space.count_on_bounds(values[is_step], action)
            report = dataclasses.replace(report, on_bounds=on_bounds)
        changes["action_space"] = action
        notes = [note for note in notes if not note.startswith(action_space.NOTE)]
    else:
        differences += spaces.difference(episodes.action_space, action, "action")

    if differences or not changes:
        return episodes, differences
    changes["report"] = dataclasses.replace(report, notes=tuple(notes))
    changes["derived"] = ()
    return dataclasses.replace(episodes, **changes), []


def _observations(obs: np.ndarray, space: Space) -> np.ndarray:
    """[R, width of the space] of rows that are flat already, or that have one number for each Discrete part."""
    stored = obs.shape[1]
    width = spaces.width(space)
    if stored == width:
        return obs
    leaves = spaces.leaves(space, "observation")
    widths = [1 if isinstance(leaf, Discrete) else math.prod(leaf.shape) for _, leaf in leaves]
    if stored != sum(widths):
        raise _Misfit(f"observation has {stored} numbers, the environment's {width}")
    columns = []
    start = 0
    for (field, leaf), numbers in zip(leaves, widths, strict=True):
        part = obs[:, start : start + numbers]
        start += numbers
        if isinstance(leaf, Discrete):
            try:
                part = spaces.one_hot(leaf, part, field)
            except spaces.BadValue as bad:
                raise _Misfit(str(bad)) from None
        columns.append(part)
    return np.concatenate(columns, axis=1)


def _actions(episodes: Episodes, space: Space) -> np.ndarray:
    """The actions [R] or [R, A] as ``space`` has them."""
    values = np.asarray(episodes.action)
    may_be_either = KIND in episodes.derived
    if isinstance(space, Discrete):
        if values.ndim == 1:
            _check_extent(episodes, values[:, None], np.array([space.start]), np.array([space.start + space.n - 1]))
            return values
        if may_be_either and values.shape[1] == 1:
            _check_extent(episodes, values, np.array([space.start]), np.array([space.start + space.n - 1]))
            numbers = np.floor(values[:, 0])
            if (numbers == values[:, 0]).all():
                return numbers.astype(np.int32)
        raise _Misfit(_other_kind(episodes, space))
    if not isinstance(space, Box):
        raise _Misfit(_other_kind(episodes, space))
    if values.ndim == 1:
        if not may_be_either:
            raise _Misfit(_other_kind(episodes, space))
        values = values[:, None].astype(np.float32)
    size = math.prod(space.shape)
    if values.shape[1] != size:
        raise _Misfit(f"action has {values.shape[1]} numbers, the environment's {size}")
    _check_extent(episodes, values, space.low.ravel() - _ROUNDING, space.high.ravel() + _ROUNDING)
    return values


def _other_kind(episodes: Episodes, space: Space) -> str:
    return f"action is a {type(episodes.action_space).__name__}, the environment's a {type(space).__name__}"


def _check_extent(episodes: Episodes, values: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Raises _Misfit if an action of ``values`` [R, A] lies outside."""
    is_step = (np.asarray(episodes.flags) & HAS_ACTION) > 0
    for i, column in enumerate(values.T):
        taken = column[is_step]
        least = taken.min()
        most = taken.max()
        if least < low[i] or most > high[i]:
            raise _Misfit(f"action[{i}] goes from {least:g} to {most:g}, beyond the environment's bounds")
