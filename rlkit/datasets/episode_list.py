"""Episodes held in memory, one object each: what a user's own Python hands us, and what Minari's reader yields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Dict, Discrete

from rlkit.datasets import spaces
from rlkit.datasets.recording import Recording
from rlkit.types import InputError


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
    columns: dict[str, list] = {"observations": [], "finals": [], **{field: [] for field in FIELDS}}
    kept: list[dict[str, np.ndarray]] = []
    for number, episode in enumerate(episodes):
        get = episode.get if isinstance(episode, Mapping) else lambda field, of=episode: getattr(of, field, None)
        parts = {field: _array(name, number, field, get(field)) for field in ("actions", "rewards")}
        steps = len(parts["actions"])
        for flag in ("terminations", "truncations"):
            given = get(flag)
            parts[flag] = np.zeros(steps, bool) if given is None else _array(name, number, flag, given)
        given = get("labelled")
        parts["labelled"] = np.ones(steps, bool) if given is None else _array(name, number, "labelled", given)
        for field, part in parts.items():
            if len(part) != steps:
                raise InputError(f"{name}: episode {number}, {field}: {len(part)} rows, but actions has {steps}")
        if steps == 0:
            raise InputError(f"{name}: episode {number} has no step; remove it from the source")
        obs = _flat(name, number, steps, get("observations"), observation_space)
        for field, part in {**parts, "observations": obs[:-1], "finals": obs[-1:]}.items():
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


FIELDS = ("actions", "rewards", "terminations", "truncations", "labelled")


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

    def check(leaf: Any, field: str) -> None:
        rows = len(_array(name, episode, field, leaf))
        if rows != steps + 1:
            cure = "; keep the final observation of every episode" if rows == steps else ""
            raise InputError(
                f"{name}: episode {episode}, {field}: {rows} rows for {steps} steps, not {steps + 1}{cure}"
            )

    def fail(row: int | None, field: str, problem: str) -> NoReturn:
        raise InputError(f"{name}: episode {episode}, {'' if row is None else f'index {row}, '}{field}: {problem}")

    if isinstance(space, Dict):
        for field, leaf in _mapping_leaves(values, "observations"):
            check(leaf, field)
        return spaces.flatten(space, values, "observations", fail)
    if isinstance(values, Mapping):
        raise InputError(f"{name}: episode {episode}, observations: a mapping, but no Dict observation space is given")
    check(values, "observations")
    values = _array(name, episode, "observations", values)
    if space is not None and not isinstance(space, Discrete) and values.shape[1:] != space.shape:
        fail(0, "observations", f"shape {list(values.shape[1:])}, but the space has {list(space.shape)}")
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
    found = {}
    for field, leaf in _mapping_leaves(values or {}, "infos"):
        leaf = np.asarray(leaf)
        if leaf.dtype.kind in "buif" and leaf.ndim and len(leaf) in (steps, steps + 1):
            found[field.removeprefix("infos/")] = leaf[-steps:]
    return found


def _join_infos(kept: list[dict[str, np.ndarray]], notes: list[str]) -> dict[str, np.ndarray]:
    """[N, ...] of each info that every episode has in one shape; the others are noted."""
    joined = {}
    for field in sorted({field for infos in kept for field in infos}):
        parts = [infos[field] for infos in kept if field in infos]
        if len(parts) == len(kept) and len({part.shape[1:] for part in parts}) == 1:
            joined[field] = np.concatenate(parts)
        else:
            notes.append(f"infos/{field} is left out: not every episode has it in the same shape")
    return joined
