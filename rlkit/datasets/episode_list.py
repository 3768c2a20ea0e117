"""Episodes held in memory, one object each: what a user's own Python gives us, and what Minari's readers yield."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict

from rlkit.datasets import spaces
from rlkit.datasets.recording import Recording
from rlkit.types import InputError

REQUIRED = ("actions", "rewards")
DEFAULTS = {"terminations": np.zeros, "truncations": np.zeros, "labelled": np.ones}


def read(
    name: str, episodes: Iterable[Any], observation_space: Space | None, action_space: Space | None, infos: bool = False
) -> Recording:
    """Lay episodes end to end.

    Each episode is a mapping or an object with observations [T+1, ...] (a mapping of such for a Dict space), actions
    [T, ...], rewards [T] and, both optional, terminations and truncations [T]; infos maps names to [T+1, ...] or
    [T, ...]; labelled [T], optional too, says which rewards are known. Raises InputError for lengths or widths that
    disagree, naming dataset, episode and field.
    """
    spaces.check_supported(name, observation_space, action_space)

    # --- the columns of every episode ---
    columns: dict[str, list[np.ndarray]] = {}
    for field in ("observations", "finals", *REQUIRED, *DEFAULTS):
        columns[field] = []
    infos_by_episode: list[dict[str, np.ndarray]] = []
    for number, episode in enumerate(episodes):
        where = f"{name}: episode {number}"
        parts = _step_fields(where, episode)
        steps = len(parts["actions"])
        observations = _observations(where, steps, _field(episode, "observations"), observation_space)
        parts["observations"] = observations[:-1]
        parts["finals"] = observations[-1:]
        for field, part in parts.items():
            _check_same_width(where, field, part, columns[field])
            columns[field].append(part)
        episode_infos = {}
        if infos:
            episode_infos = _infos(_field(episode, "infos"), steps)
        infos_by_episode.append(episode_infos)
    if not infos_by_episode:
        raise InputError(f"{name}: holds no episode; check that the source is complete")

    # --- end to end ---
    lengths = [len(rewards) for rewards in columns["rewards"]]
    has_final = np.ones(len(lengths), bool)
    joined = {}
    for field, column in columns.items():
        joined[field] = np.concatenate(column)
    notes: list[str] = []
    joined_infos = _join_infos(infos_by_episode, notes)
    return Recording(
        name=name,
        lengths=np.array(lengths),
        has_final=has_final,
        observation_space=observation_space,
        action_space=action_space,
        infos=joined_infos,
        notes=notes,
        **joined,
    )


def _field(episode: Any, field: str) -> Any:
    """A field of a mapping or of an object; None where it is missing."""
    if isinstance(episode, Mapping):
        return episode.get(field)
    return getattr(episode, field, None)


def _step_fields(where: str, episode: Any) -> dict[str, np.ndarray]:
    """The fields with a row per step."""
    parts = {}
    for field in REQUIRED:
        values = _field(episode, field)
        parts[field] = _array(where, field, values)
    steps = len(parts["actions"])
    for field, default in DEFAULTS.items():
        values = _field(episode, field)
        if values is None:
            values = default(steps, bool)
        parts[field] = _array(where, field, values)
    for field, part in parts.items():
        rows = len(part)
        if rows != steps:
            raise InputError(f"{where}, {field}: {rows} rows, but actions has {steps}")
    if steps == 0:
        raise InputError(f"{where} has no step; remove it from the source")
    return parts


def _array(where: str, field: str, values: Any) -> np.ndarray:
    """The field as an array of numbers with a row per step."""
    if values is None:
        raise InputError(f"{where}, {field}: missing")
    try:
        array = np.asarray(values)
    except ValueError:  # ragged lists
        raise InputError(f"{where}, {field}: rows differ in width") from None
    numeric = array.dtype.kind in "buif"
    if array.ndim == 0 or not numeric:
        raise InputError(f"{where}, {field}: not an array of numbers with a row per step")
    return array


def _observations(where: str, steps: int, values: Any, space: Space | None) -> np.ndarray:
    """Observations [T+1, ...]; those of a Dict space are flattened, [T+1, O] float32."""
    is_dict = isinstance(space, Dict)
    if isinstance(values, Mapping) and not is_dict:
        raise InputError(f"{where}, observations: a mapping, but no Dict observation space is given")
    for field, leaf in _mapping_leaves(values, "observations"):
        array = _array(where, field, leaf)
        _check_rows(where, field, len(array), steps)
    if is_dict:
        return _flatten(where, values, space)
    observations = _array(where, "observations", values)
    shape = observations.shape[1:]
    if isinstance(space, Box) and shape != space.shape:
        shapes = f"shape {list(shape)}, but the space has {list(space.shape)}"
        raise InputError(f"{where}, index 0, observations: {shapes}")
    return observations


def _check_rows(where: str, field: str, rows: int, steps: int) -> None:
    """Raises InputError unless there is an observation for every step and a final one."""
    expected = steps + 1
    if rows == expected:
        return
    problem = f"{rows} rows for {steps} steps, not {expected}"
    if rows == steps:
        problem += "; keep the final observation of every episode"
    raise InputError(f"{where}, {field}: {problem}")


def _flatten(where: str, values: Any, space: Dict) -> np.ndarray:
    """[T+1, O] float32 of a mapping of observations. Raises InputError with the index of the first wrong one."""
    try:
        return spaces.flatten(space, values, "observations")
    except spaces.BadValue as bad:
        if bad.row is not None:
            where = f"{where}, index {bad.row}"
        raise InputError(f"{where}, {bad}") from None


def _mapping_leaves(values: Any, field: str) -> list[tuple[str, Any]]:
    """(name with slashes, value) of whatever is no mapping in nested mappings."""
    if not isinstance(values, Mapping):
        return [(field, values)]
    named_leaves = []
    for key, member in values.items():
        named_leaves += _mapping_leaves(member, f"{field}/{key}")
    return named_leaves


def _check_same_width(where: str, field: str, part: np.ndarray, earlier: list[np.ndarray]) -> None:
    """Raises InputError where an episode's rows have another shape than those of the first episode."""
    if not earlier:
        return
    shape = list(part.shape[1:])
    first_shape = list(earlier[0].shape[1:])
    if shape != first_shape:
        if field == "finals":
            field = "observations"
        raise InputError(f"{where}, index 0, {field}: shape {shape}, but episode 0 has {first_shape}")


def _infos(values: Any, steps: int) -> dict[str, np.ndarray]:
    """Arrays [T, ...] of what came with each step: of T+1 rows the first belongs to reset. Text is left out."""
    infos = {}
    for field, leaf in _mapping_leaves(values or {}, "infos"):
        array = np.asarray(leaf)
        numeric = array.dtype.kind in "buif"
        if not numeric or array.ndim == 0:
            continue
        rows = len(array)
        if rows == steps or rows == steps + 1:
            name = field.removeprefix("infos/")
            infos[name] = array[-steps:]
    return infos


def _join_infos(infos_by_episode: list[dict[str, np.ndarray]], notes: list[str]) -> dict[str, np.ndarray]:
    """[N, ...] of each info that every episode has in one shape; the others are noted."""
    fields = set()
    for infos in infos_by_episode:
        fields.update(infos)
    joined = {}
    for field in sorted(fields):
        parts = [infos[field] for infos in infos_by_episode if field in infos]
        shapes = {part.shape[1:] for part in parts}
        in_every_episode = len(parts) == len(infos_by_episode)
        if in_every_episode and len(shapes) == 1:
            joined[field] = np.concatenate(parts)
        else:
            notes.append(f"infos/{field} is left out: not every episode has it in the same shape")
    return joined
