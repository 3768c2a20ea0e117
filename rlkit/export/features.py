"""Names and units of the numbers that a policy takes and gives: those of the data, or of a file of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, Discrete

from rlkit.datasets import spaces
from rlkit.export.loader import difference
from rlkit.types import InputError, one_line


class Named(NamedTuple):
    """Names, in order, and units; without names both are empty. A unit that nobody told is None."""

    names: tuple[str, ...] = ()
    units: tuple[str | None, ...] = ()
    source: str = "nobody"  # who told the names


class Features(NamedTuple):
    """What the numbers of an observation are called, and those of an action."""

    observation: Named
    action: Named


def of_run(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    observation_names: Sequence[str],
    action_names: Sequence[str],
    path: Path | None,
) -> Features:
    """The names that the data have, the keys of a Dict space, or those of the file at ``path``.

    Where both name them, the file must have the same names in the same order, and adds the units. Raises InputError
    with the first difference.
    """
    if observation_names:
        known = Named(tuple(observation_names), (None,) * len(observation_names), "the data")
    elif isinstance(observation_space, Dict):
        names = _keys(observation_space)
        known = Named(names, (None,) * len(names), "the keys of the observation space")
    else:
        known = Named()
    known_action = Named()
    if action_names:
        known_action = Named(tuple(action_names), (None,) * len(action_names), "the data")
    if path is None:
        return Features(known, known_action)

    # --- the file: a line for each number of an observation, then one for each of an action ---
    lines = _lines(path)
    width = spaces.width(observation_space)
    actions = 1 if isinstance(action_space, Discrete) else spaces.width(action_space)
    if len(lines) not in (width, width + actions):
        raise InputError(
            f"{path}: {len(lines)} names, but an observation has {width} numbers and an action {actions}: write a line "
            f"for each of the {width}, or of all {width + actions}"
        )
    told = _told(path, "observation", lines[:width], known)
    told_action = _told(path, "action", lines[width:], known_action) if lines[width:] else known_action
    return Features(told, told_action)


def bounds(space: gymnasium.Space) -> tuple[np.ndarray, np.ndarray]:
    """[O] float64 least and largest values that an observation space allows."""
    lows, highs = [], []
    for _, leaf in spaces.leaves(space, "observation"):
        if isinstance(leaf, Discrete):  # a column for each choice
            lows.append(np.zeros(int(leaf.n)))
            highs.append(np.ones(int(leaf.n)))
        else:
            lows.append(leaf.low.astype(np.float64).ravel())
            highs.append(leaf.high.astype(np.float64).ravel())
    return np.concatenate(lows), np.concatenate(highs)


def _keys(space: Dict) -> tuple[str, ...]:
    """The path of each number in a Dict space, in the order in which it is flattened: position[0], position[1],
    mode[2]. A part of one number has no index."""
    names = []
    for path, leaf in spaces.leaves(space, ""):
        key = path.removeprefix("/")
        size = spaces.width(leaf)
        names += [key] if size == 1 else [f"{key}[{i}]" for i in range(size)]
    return tuple(names)


def _lines(path: Path) -> list[tuple[str, str | None]]:
    """Name and unit of each line that is not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {one_line(error)}") from error
    found = []
    for line in text.splitlines():
        name, _, unit = line.partition(",")
        if name.strip():
            found.append((name.strip(), unit.strip() or None))
    return found


def _told(path: Path, what: str, lines: Sequence[tuple[str, str | None]], known: Named) -> Named:
    names = tuple(name for name, _ in lines)
    units = tuple(unit for _, unit in lines)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: {twice!r} names two numbers of the {what}: give each a name of its own")
    if known.names:
        found = difference(list(known.names), list(names))
        if found:
            raise InputError(f"{path}: {what}: {found}: write the names as {known.source} have them, in their order")
        return Named(names, units, known.source)
    return Named(names, units, path.name)
