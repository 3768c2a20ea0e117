"""Several datasets as one: the episodes of each, end to end."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Discrete

from rlkit.datasets import action_space, environment, spaces
from rlkit.datasets.action_space import BOUNDS
from rlkit.datasets.environment import OBSERVATION
from rlkit.datasets.episodes import DataWarning, Episodes, Names, Report
from rlkit.types import InputError

COLUMNS = ("obs", "action", "reward", "t", "flags")


def join(parts: Sequence[Episodes]) -> Episodes:
    """The episodes of all ``parts``, in their order. One part is returned as it is.

    Spaces that some parts derived are those of a part that named them, or hold the actions of all. Where the parts name
    different environments or reference returns, the whole names none.

    Raises InputError that lists what differs: spaces, widths, kinds of action.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    observation = _observation_space(parts)
    action, derived = _action_space(parts)
    fitted = []
    for part in parts:
        same, differences = environment.fit(part, observation, action)
        if differences:
            listed = "; ".join(differences).replace("the environment's", "another part's")
            raise InputError(f"{part.name} and {first.name} cannot be joined: {listed}")
        fitted.append(same)

    columns = {}
    for name in COLUMNS:
        columns[name] = np.concatenate([getattr(part, name) for part in fitted])
    prints = "".join(part.fingerprint for part in fitted)
    notes: list[str] = []
    for note in _notes(parts, fitted):
        if note not in notes:
            notes.append(note)
    return Episodes(
        name=" + ".join(part.name for part in parts),
        fingerprint=hashlib.sha256(prints.encode()).hexdigest(),
        **columns,
        observation_space=observation,
        action_space=action,
        env_spec=_agreed([part.env_spec for part in parts], "environments", notes),
        reference=_agreed([part.reference for part in parts], "reference returns", notes),
        report=_report(fitted, notes),
        infos=_infos(fitted),
        derived=derived,
        names=_names(parts),
    )


def _names(parts: Sequence[Episodes]) -> Names:
    """Those of the parts that have names. Raises InputError where two parts have different ones."""
    named = [part for part in parts if part.names != Names()]
    for part in named:
        if part.names != named[0].names:
            raise InputError(
                f"{part.name} and {named[0].name} cannot be joined: their columns have different names; name them in "
                "the same order, or write them alike"
            )
    return named[0].names if named else Names()


def _observation_space(parts: Sequence[Episodes]) -> Space:
    """That of the first part that names its own, else of the first part."""
    for part in parts:
        if OBSERVATION not in part.derived:
            return part.observation_space
    return parts[0].observation_space


def _action_space(parts: Sequence[Episodes]) -> tuple[Box | Discrete, tuple[str, ...]]:
    """That of the first part that names its own, else one that holds the actions of all; and what is derived of both
    spaces."""
    derived = set(parts[0].derived)
    for part in parts:
        derived &= set(part.derived)
    in_order = tuple(name for name in parts[0].derived if name in derived)
    for part in parts:
        if BOUNDS not in part.derived:
            return part.action_space, in_order
    each = [part.action_space for part in parts]
    first = each[0]
    if all(isinstance(space, Discrete) for space in each):
        start = min(space.start for space in each)
        end = max(space.start + space.n for space in each)
        return Discrete(int(end - start), start=int(start)), in_order
    boxes = [space for space in each if isinstance(space, Box) and space.shape == first.shape]
    if len(boxes) < len(each):
        return first, in_order  # what differs is said by `fit`
    low = np.minimum.reduce([box.low for box in boxes])
    high = np.maximum.reduce([box.high for box in boxes])
    return Box(low, high, first.shape), in_order


def _notes(parts: Sequence[Episodes], fitted: Sequence[Episodes]) -> list[str]:
    """What is to be known of the parts, and of the whole where its spaces are derived."""
    notes = []
    if all(BOUNDS in part.derived for part in parts):
        notes.append(action_space.note(fitted[0].action_space))
    if all(OBSERVATION in part.derived for part in parts):
        notes += [note for note in parts[0].report.notes if note.startswith(spaces.UNNAMED_OBSERVATION)]
    for part in fitted:
        notes += part.report.notes
    return notes


def _agreed(values: Sequence[object], what: str, notes: list[str]) -> object:
    """What all parts name; None, with a note, where they name different ones."""
    if all(value == values[0] for value in values):
        return values[0]
    notes.append(f"the datasets name different {what}: none is taken")
    return None


def _report(parts: Sequence[Episodes], notes: Sequence[str]) -> Report:
    totals = {}
    for field in dataclasses.fields(Report):
        if field.name not in ("notes", "warnings"):
            totals[field.name] = sum(getattr(part.report, field.name) for part in parts)
    return Report(**totals, notes=tuple(notes), warnings=tuple(_warnings(parts)))


def _warnings(parts: Sequence[Episodes]) -> list[DataWarning]:
    """Those of the parts, the serious first, and one for each part that is there already."""
    warnings = []
    known = set()
    for part in parts:
        if part.fingerprint in known:
            warnings.append(DataWarning("repeats", True, f"{part.name} is there twice"))
            continue
        known.add(part.fingerprint)
        for warning in part.report.warnings:
            warnings.append(warning._replace(sentence=f"{part.name}: {warning.sentence}"))
    return sorted(warnings, key=lambda warning: not warning.serious)


def _infos(parts: Sequence[Episodes]) -> dict[str, np.ndarray]:
    """The infos that every part has in one shape."""
    infos = {}
    for name, values in parts[0].infos.items():
        columns = [part.infos.get(name) for part in parts]
        if all(column is not None and column.shape[1:] == values.shape[1:] for column in columns):
            infos[name] = np.concatenate(columns)
    return infos
