"""Episodes held in memory, one object each: what a user's own Python hands us, and what Minari's reader yields."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict

from rlkit.datasets import spaces
from rlkit.datasets.recording import Recording
from rlkit.types import InputError

FIELDS = ("actions", "rewards", "terminations", "truncations", "labelled")
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
    columns: dict[str, list] = {field: [] for field in ("observations", "finals", *FIELDS)}
    kept: list[dict[str, np.ndarray]] = []
    for number, episode in enumerate(episodes):
        get = episode.get if isinstance(episode, Mapping) else functools.partial(_attribute, episode)
        parts = _fields(name, number, get)
        steps = len(parts["actions"])
        obs = _flat(name, number, steps, get("observations"), observation_space)
        parts["observations"] = obs[:-1]
        parts["finals"] = obs[-1:]
        for field, part in parts.items():
            _same_width(name, number, field, part, columns[field])
            columns[field].append(part)
        kept.append(_infos(get("infos"), steps) if infos else {})
    if not kept:
        raise InputError(f"{name}: holds no episode; check that the source is complete")
    notes: list[str] = []
    return Recording(
        name=name,
        lengths=np.array([len(rewards) for rewards in columns["rewards"]]),
        has_final=np.ones(len(kept), bool),
        observation_space=observation_space,
        action_space=action_space,
        infos=_join_infos(kept, notes),
        notes=notes,
        **{field: np.concatenate(parts) for field, parts in columns.items()},
    )


def _attribute(episode: Any, field: str) -> Any:
    return getattr(episode, field, None)


def _fields(name: str, episode: int, get: Callable[[str], Any]) -> dict[str, np.ndarray]:
    """The fields with a row per step."""
    parts = {field: _array(name, episode, field, get(field)) for field in ("actions", "rewards")}
    steps = len(parts["actions"])
    for field, default in DEFAULTS.items():
        given = get(field)
        parts[field] = default(steps, bool) if given is None else _array(name, episode, field, given)
    for field, part in parts.items():
        if len(part) != steps:
            raise InputError(f"{name}: episode {episode}, {field}: {len(part)} rows, but actions has {steps}")
    if steps == 0:
        raise InputError(f"{name}: episode {episode} has no step; remove it from the source")
    return parts


def _array(name: str, episode: int, field: str, values: Any) -> np.ndarray:
    """The field as an array of numbers with a row per step."""
    if values is None:
        raise InputError(f"{name}: episode {episode}, {field}: missing")
    try:
        values = np.asarray(values)
    except ValueError:  # ragged lists
        raise InputError(f"{name}: episode {episode}, {field}: rows differ in width") from None
    if values.ndim == 0 or values.dtype.kind not in "buif":
        raise InputError(f"{name}: episode {episode}, {field}: not an array of numbers with a row per step")
    return values


def _flat(name: str, episode: int, steps: int, values: Any, space: Space | None) -> np.ndarray:
    """Observations [T+1, ...]; those of a Dict space are flattened, [T+1, O] float32."""
    where = f"{name}: episode {episode}, "
    if isinstance(values, Mapping) and not isinstance(space, Dict):
        raise InputError(f"{where}observations: a mapping, but no Dict observation space is given")
    for field, leaf in _mapping_leaves(values, "observations"):
        rows = len(_array(name, episode, field, leaf))
        if rows != steps + 1:
            cure = "; keep the final observation of every episode" if rows == steps else ""
            raise InputError(f"{where}{field}: {rows} rows for {steps} steps, not {steps + 1}{cure}")
    if isinstance(space, Dict):
        try:
            return spaces.flatten(space, values, "observations")
        except spaces.BadValue as bad:
            index = "" if bad.row is None else f"index {bad.row}, "
            raise InputError(f"{where}{index}{bad}") from None
    values = _array(name, episode, "observations", values)
    if isinstance(space, Box) and values.shape[1:] != space.shape:
        shapes = f"shape {list(values.shape[1:])}, but the space has {list(space.shape)}"
        raise InputError(f"{where}index 0, observations: {shapes}")
    return values


def _mapping_leaves(values: Any, field: str) -> list[tuple[str, Any]]:
    if not isinstance(values, Mapping):
        return [(field, values)]
    return [leaf for key, sub in values.items() for leaf in _mapping_leaves(sub, f"{field}/{key}")]


def _same_width(name: str, episode: int, field: str, part: np.ndarray, before: list[np.ndarray]) -> None:
    if before and part.shape[1:] != before[0].shape[1:]:
        shapes = f"{list(part.shape[1:])}, but episode 0 has {list(before[0].shape[1:])}"
        field = "observations" if field == "finals" else field
        raise InputError(f"{name}: episode {episode}, index 0, {field}: shape {shapes}")


def _infos(values: Any, steps: int) -> dict[str, np.ndarray]:
    """Arrays [T, ...] of what came with each step: of T+1 rows the first belongs to reset. Text is left out."""
    infos = {}
    for field, leaf in _mapping_leaves(values or {}, "infos"):
        leaf = np.asarray(leaf)
        numeric = leaf.dtype.kind in "buif" and leaf.ndim > 0
        if numeric and len(leaf) in (steps, steps + 1):
            infos[field.removeprefix("infos/")] = leaf[-steps:]
    return infos


def _join_infos(kept: list[dict[str, np.ndarray]], notes: list[str]) -> dict[str, np.ndarray]:
    """[N, ...] of each info that every episode has in one shape; the others are noted."""
    joined = {}
    for field in sorted({field for infos in kept for field in infos}):
        parts = [infos[field] for infos in kept if field in infos]
        shapes = {part.shape[1:] for part in parts}
        if len(parts) == len(kept) and len(shapes) == 1:
            joined[field] = np.concatenate(parts)
        else:
            notes.append(f"infos/{field} is left out: not every episode has it in the same shape")
    return joined
