"""Episodes held in memory, one object each: what a user's own Python gives us, and what readers of files yield."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete

from rlkit.datasets import spaces
from rlkit.datasets.recording import Recording
from rlkit.types import InputError

REQUIRED = ("actions", "rewards")
DEFAULTS = {"terminations": np.zeros, "truncations": np.zeros, "labelled": np.ones}
# What a field may be called: its name here first, then the names that other libraries have for it.
NAMES = {
    "observations": ("observations", "observation", "obs"),
    "next_observations": ("next_observations", "next_observation", "next_obs"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminations": ("terminations", "termination", "terminated", "terminals", "terminal"),
    "truncations": ("truncations", "truncation", "truncated", "timeouts", "timeout"),
    "dones": ("dones", "done"),
    "labelled": ("labelled",),
    "infos": ("infos", "info"),
}
KNOWN = {name for names in NAMES.values() for name in names}
_DONES_ALONE = "dones is read as: ended in a terminal state; give terminations and truncations if a time limit cut any"


def read(
    name: str,
    episodes: Iterable[Any],
    observation_space: Space | None,
    action_space: Space | None,
    infos: bool = False,
    needs_final: bool = True,
) -> Recording:
    """Lay episodes end to end.

    Each episode is a mapping or an object with observations [T+1, ...] (a mapping of such for a Dict space), actions
    [T, ...], rewards [T] and, both optional, terminations and truncations [T]; infos maps names to [T+1, ...] or
    [T, ...]; labelled [T], optional too, says which rewards are known. NAMES has other names that are understood.
    With next_observations [T, ...] there may be T observations: the last of the next ones is the final one. Without
    it, T observations are read unless ``needs_final``.

    Raises InputError for lengths or widths that disagree and for unknown keys, naming dataset, episode and field.
    """
    spaces.check_supported(name, observation_space, action_space)

    # --- the columns of every episode ---
    columns: dict[str, list[np.ndarray]] = {}
    for field in ("observations", "finals", *REQUIRED, *DEFAULTS):
        columns[field] = []
    infos_by_episode: list[dict[str, np.ndarray]] = []
    has_final = []
    notes: list[str] = []
    for number, episode in enumerate(episodes):
        where = f"{name}: episode {number}"
        values = _by_field(where, episode)
        parts = _step_fields(where, values, notes)
        steps = len(parts["actions"])
        observations = _observations(where, steps, values, observation_space, needs_final)
        has_final.append(len(observations) > steps)
        parts["observations"] = observations[:steps]
        parts["finals"] = observations[-1:]  # the last one again where the final one was not recorded
        for field, part in parts.items():
            _check_same_width(where, field, part, columns[field])
            columns[field].append(part)
        episode_infos = {}
        if infos:
            episode_infos = _infos(values.get("infos"), steps)
        infos_by_episode.append(episode_infos)
    if not infos_by_episode:
        raise InputError(f"{name}: holds no episode; check that the source is complete")

    # --- end to end ---
    lengths = [len(rewards) for rewards in columns["rewards"]]
    joined = {}
    for field, column in columns.items():
        joined[field] = np.concatenate(column)
    joined_infos = _join_infos(infos_by_episode, notes)
    return Recording(
        name=name,
        lengths=np.array(lengths),
        has_final=np.array(has_final),
        observation_space=observation_space,
        action_space=action_space,
        infos=joined_infos,
        notes=notes,
        **joined,
    )


def near(name: str) -> str | None:
    """The known name of a field that ``name`` is probably meant as, if it is not known itself."""
    if name in KNOWN:
        return None
    matches = difflib.get_close_matches(name, sorted(KNOWN), n=1, cutoff=0.7)
    return matches[0] if matches else None


def jumps(observations: np.ndarray, successors: np.ndarray) -> np.ndarray:
    """[N] bool: the successor of row i is not the observation of row i + 1, where there is one. Both are compared in
    float32, since they may be stored in different widths."""
    with np.errstate(over="ignore"):  # what is too large is refused later, where it is
        following = observations[1:].astype(np.float32, copy=False)
        recorded = successors[: len(following)].astype(np.float32, copy=False)
    other_axes = tuple(range(1, following.ndim))
    differs = recorded != following
    jump = differs.any(axis=other_axes)
    rows = np.flatnonzero(jump)
    both_nan = np.isnan(recorded[rows]) & np.isnan(following[rows])  # the same, for what is asked here
    jump[rows] = (differs[rows] & ~both_nan).any(axis=other_axes)
    return jump


def _by_field(where: str, episode: Any) -> dict[str, Any]:
    """What an episode has, by the first of a field's NAMES. Raises InputError for two names of one field, and for a
    mapping's key that is none of them. An object may have other attributes."""
    values = {}
    for field, names in NAMES.items():
        present = [name for name in names if _has(episode, name)]
        if len(present) > 1:
            raise InputError(f"{where}: {' and '.join(present)} are names of the same field; leave one of them out")
        if present:
            values[field] = _get(episode, present[0])
    if not isinstance(episode, Mapping):
        return values
    for key in episode:
        if key not in KNOWN:
            meant = near(str(key))
            question = f", do you mean {meant!r}?" if meant else ""
            known = ", ".join(NAMES)
            raise InputError(f"{where}: unknown key {key!r}{question} (known: {known}); put other columns under infos")
    return values


def _has(episode: Any, name: str) -> bool:
    value = _get(episode, name)
    return value is not None and not callable(value)


def _get(episode: Any, name: str) -> Any:
    """A member of a mapping or an attribute of an object; None where it is missing."""
    if isinstance(episode, Mapping):
        return episode.get(name)
    return getattr(episode, name, None)


def _step_fields(where: str, values: dict[str, Any], notes: list[str]) -> dict[str, np.ndarray]:
    """The fields with a row per step."""
    parts = {}
    for field in REQUIRED:
        parts[field] = _array(where, field, values.get(field))
    steps = len(parts["actions"])
    told = {}
    for field in ("terminations", "truncations", "dones", "labelled"):
        if field in values:
            told[field] = _per_step(where, field, values[field], steps)
    if "dones" in told:
        told = _split_dones(where, told, notes)
    for field, default in DEFAULTS.items():
        parts[field] = told.get(field, default(steps, bool))
    for field, part in parts.items():
        rows = len(part)
        if rows != steps:
            raise InputError(f"{where}, {field}: {rows} rows, but actions has {steps}")
    if steps == 0:
        raise InputError(f"{where} has no step; remove it from the source")
    return parts


def _per_step(where: str, field: str, values: Any, steps: int) -> np.ndarray:
    """Flags with a row per step. A single one of an end is that of the last step."""
    is_single = isinstance(values, bool | int | float) or getattr(values, "shape", None) == ()
    if is_single and field != "labelled":
        rows = np.zeros(steps, np.asarray(values).dtype)
        rows[-1:] = values
        values = rows
    return _array(where, field, values)


def _split_dones(where: str, told: dict[str, np.ndarray], notes: list[str]) -> dict[str, np.ndarray]:
    """The flags with terminations and truncations in place of dones, which says that an episode ended and not why."""
    rest = {field: values for field, values in told.items() if field != "dones"}
    done = flags(where, "dones", told["dones"])
    reasons = [field for field in ("terminations", "truncations") if field in rest]
    if not reasons:
        if _DONES_ALONE not in notes:
            notes.append(_DONES_ALONE)
        return rest | {"terminations": done}
    explained = np.zeros_like(done)
    for field in reasons:
        values = flags(where, field, rest[field])
        if len(values) != len(done):
            raise InputError(f"{where}, {field}: {len(values)} rows, but dones has {len(done)}")
        explained |= values
    if reasons == ["terminations"]:
        return rest | {"truncations": done & ~explained}
    if reasons == ["truncations"]:
        return rest | {"terminations": done & ~explained}
    wrong = done != explained
    if wrong.any():
        index = int(wrong.argmax())
        raise InputError(
            f"{where}, index {index}, dones: {int(done[index])}, but terminations and truncations say otherwise; keep "
            "the two and leave dones out"
        )
    return rest


def flags(where: str, field: str, values: np.ndarray) -> np.ndarray:
    """[T] bool of flags. Raises InputError with the index of one that is neither 0 nor 1."""
    try:
        return spaces.choices(Discrete(2), values, field).astype(bool)
    except spaces.BadValue as bad:
        place = "" if bad.row is None else f", index {bad.row}"
        raise InputError(f"{where}{place}, {bad}") from None


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


def _observations(where: str, steps: int, values: dict[str, Any], space: Space | None, needs_final: bool) -> np.ndarray:
    """Observations [T+1, ...], or [T, ...] where the final one was not recorded; those of a Dict space are flattened,
    [T+1, O] float32."""
    observations = values.get("observations")
    is_dict = isinstance(space, Dict)
    if isinstance(observations, Mapping) and not is_dict:
        raise InputError(f"{where}, observations: a mapping, but no Dict observation space is given")
    if "next_observations" in values:
        observations = with_final(where, "observations", observations, values["next_observations"], steps)
    for field, leaf in _mapping_leaves(observations, "observations"):
        array = _array(where, field, leaf)
        _check_rows(where, field, len(array), steps, needs_final)
    if is_dict:
        return _flatten(where, observations, space)
    observations = _array(where, "observations", observations)
    shape = observations.shape[1:]
    if isinstance(space, Box) and shape != space.shape:
        shapes = f"shape {list(shape)}, but the space has {list(space.shape)}"
        raise InputError(f"{where}, index 0, observations: {shapes}")
    return observations


def with_final(where: str, field: str, observations: Any, successors: Any, steps: int) -> Any:
    """Observations [T+1, ...] from those that steps acted on, [T, ...] or [T+1, ...], and those that each step led to,
    [T, ...], or mappings of such. Raises InputError where they are not those of one episode."""
    if isinstance(observations, Mapping):
        joined = {}
        for key, member in observations.items():
            following = successors.get(key) if isinstance(successors, Mapping) else None
            joined[key] = with_final(where, f"{field}/{key}", member, following, steps)
        return joined
    observations = _array(where, field, observations)
    successors = _array(where, f"next_{field}", successors)
    if len(observations) not in (steps, steps + 1) or len(successors) != steps:
        rows = f"{len(successors)} rows and {field} {len(observations)}"
        raise InputError(f"{where}, next_{field}: {rows} for {steps} steps; each step needs one")
    if successors.shape[1:] != observations.shape[1:]:
        shapes = f"shape {list(successors.shape[1:])}, but {field} has {list(observations.shape[1:])}"
        raise InputError(f"{where}, index 0, next_{field}: {shapes}")
    jump = jumps(observations, successors)
    if jump.any():
        index = int(jump.argmax())
        raise InputError(
            f"{where}, index {index}, next_{field}: not the observation of index {index + 1}; the steps of an episode "
            "must follow each other: begin another episode there, or mend the order"
        )
    return np.concatenate([observations[:steps], successors[-1:]])


def _check_rows(where: str, field: str, rows: int, steps: int, needs_final: bool) -> None:
    """Raises InputError unless there is an observation for every step and, where it is needed, a final one."""
    expected = steps + 1
    if rows == expected or (rows == steps and not needs_final):
        return
    problem = f"{rows} rows for {steps} steps, not {expected}"
    if rows == steps:
        problem += "; keep the final observation of every episode, or give next_observations"
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
