"""The space of the actions: as the source names it, else as the user tells it, else as the data show it and a note
says."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from rlkit.datasets import spaces
from rlkit.datasets.options import UNTOLD, ActionOptions
from rlkit.datasets.recording import Recording
from rlkit.datasets.spaces import BadValue
from rlkit.types import InputError

NOTE = "the data do not describe their actions"
KIND = "action kind"
BOUNDS = "action bounds"


class Settled(NamedTuple):
    """A space, and what of it was derived from the data: KIND, BOUNDS."""

    space: Box | Discrete
    derived: tuple[str, ...]


def settle(recording: Recording, told: ActionOptions, notes: list[str]) -> Settled:
    """The space of the recording's actions. ``notes`` gets a sentence for what had to be taken from the data.

    Raises InputError where ``told`` contradicts the source or itself, or where the actions can be read in two ways and
    nobody says which; BadValue for an action that does not fit what is told.
    """
    if recording.action_space is not None:
        if told != UNTOLD:
            raise InputError(
                f"{recording.name}: the data describe their actions themselves ({recording.action_space}): leave "
                "--action out"
            )
        return Settled(recording.action_space, ())
    kind = _kind(recording, told)
    if kind == "discrete":
        space, complete = _choices(recording, told)
    else:
        space, complete = _amounts(recording, told)
    derived = []
    if told == UNTOLD:
        derived.append(KIND)
    if not complete:
        derived.append(BOUNDS)
        notes.append(note(space) + _unseen(recording, space, told))
    return Settled(space, tuple(derived))


def _kind(recording: Recording, told: ActionOptions) -> str:
    """continuous or discrete."""
    name = recording.name
    of_choices = told.choices is not None or told.first is not None
    of_amounts = bool(told.low or told.high)
    if of_choices and (of_amounts or told.kind == "continuous"):
        raise InputError(f"{name}: --action.choices and --action.first are of choices, the other --action of amounts")
    if of_amounts and told.kind == "discrete":
        raise InputError(f"{name}: --action.low and --action.high are of amounts, --action.kind discrete of choices")
    if told.kind:
        return told.kind
    if of_choices:
        return "discrete"
    if of_amounts:
        return "continuous"
    if recording.ambiguous:
        raise InputError(
            f"{name}: {recording.ambiguous}: say which they are with --action.kind discrete (choices) or --action.kind "
            "continuous (amounts)"
        )
    if recording.choices is None:
        return "discrete" if _are_integers(recording) else "continuous"
    return "discrete" if recording.choices else "continuous"


def _are_integers(recording: Recording) -> bool:
    """Whether every action is an integer. Raises InputError for several integers a step, which can be read in two
    ways."""
    values = spaces.numeric(recording.actions, "actions")
    if values.dtype.kind == "f":
        return False
    if values.size != len(values):
        width = values.size // len(values)
        raise InputError(
            f"{recording.name}: actions are {width} integers a step; several choices a step are not served; if they "
            "are amounts, say --action.kind continuous"
        )
    return True


def _choices(recording: Recording, told: ActionOptions) -> tuple[Discrete, bool]:
    """The space of choices, and whether it was told in full."""
    values = spaces.numeric(recording.actions, "actions")
    if values.size != len(values):
        width = values.size // len(values)
        raise BadValue("actions", f"{width} numbers wide, but a choice is one number", row=0)
    values = values.reshape(-1)
    if values.dtype.kind == "f":
        is_whole = values == np.floor(values)  # False for NaN
        is_whole &= np.isfinite(values)
        if not is_whole.all():
            row = int(is_whole.argmin())
            problem = f"{values[row]} is no whole number, and choices are; --action.kind continuous takes amounts"
            raise BadValue("actions", problem, row)
    first = told.first or 0
    least = int(values.min())
    if least < first:
        row = int(values.argmin())
        problem = f"{least} is below {first}, the number of the first choice; --action.first tells another"
        raise BadValue("actions", problem, row)
    needed = int(values.max()) - first + 1
    count = told.choices or needed
    if needed > count:
        row = int(values.argmax())
        problem = f"{int(values[row])} is beyond the last of {count} choices from {first}"
        if told.first is None and least > 0:
            problem += f"; if they count from {least}, say --action.first {least}"
        raise BadValue("actions", problem, row)
    return Discrete(count, start=first), told.choices is not None


def _amounts(recording: Recording, told: ActionOptions) -> tuple[Box, bool]:
    """The space of amounts, and whether it was told in full."""
    values = spaces.numeric(recording.actions, "actions")
    shape = values.shape[1:] or (1,)
    flat = spaces.flatten_box(Box(-np.inf, np.inf, shape), values, "actions")
    low = _bound(recording.name, "low", told.low, shape)
    high = _bound(recording.name, "high", told.high, shape)
    if low is None:
        low = np.array([column.min() for column in flat.T], np.float32).reshape(shape)
    if high is None:
        high = np.array([column.max() for column in flat.T], np.float32).reshape(shape)
    if (low > high).any():
        i = int((low > high).argmax())
        raise InputError(f"{recording.name}: component {i} of the actions has the bounds {low.flat[i]}, {high.flat[i]}")
    return Box(low, high, shape), bool(told.low and told.high)


def _bound(name: str, side: str, told: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray | None:
    """What the user told of one bound, as an array of ``shape``; None where they told nothing."""
    if not told:
        return None
    size = int(np.prod(shape))
    if len(told) not in (1, size):
        raise InputError(f"{name}: --action.{side} has {len(told)} numbers, and an action {size}: give 1 or {size}")
    numbers = np.broadcast_to(np.array(told, np.float32), (size,))
    return numbers.reshape(shape)


def _unseen(recording: Recording, space: Box | Discrete, told: ActionOptions) -> str:
    """That the first choices were never taken, which may be because choices count from another number."""
    if not isinstance(space, Discrete) or told.first is not None:
        return ""
    least = int(np.min(recording.actions))
    if least == space.start:
        return ""
    return f"; none below {least} was taken: if they count from {least}, say --action.first {least}"


def note(space: Box | Discrete) -> str:
    """What was taken from the data, and how to tell something else."""
    if isinstance(space, Discrete):
        last = space.start + space.n - 1
        taken = f"taken as {space.n} choices, {space.start} to {last}"
        cure = "--action.choices says how many there are, --action.kind continuous that they are amounts"
    else:
        taken = f"taken as amounts within the range of the data, {_range(space)}"
        cure = "--action.low and --action.high tell the bounds, --action.kind discrete that they are choices"
    return f"{NOTE}: {taken} ({cure})"


def _range(space: Box) -> str:
    """The bounds of the first components."""
    pairs = [f"[{low:.4g}, {high:.4g}]" for low, high in zip(space.low.flat, space.high.flat, strict=True)]
    if len(pairs) > 4:
        pairs = [*pairs[:4], "..."]
    return " ".join(pairs)


def count_on_bounds(action: np.ndarray, space: Box | Discrete) -> int:
    """Steps of ``action`` [N, A] with a component exactly on its bound; 0 for choices."""
    if isinstance(space, Discrete):
        return 0
    low = np.asarray(space.low, np.float32).ravel()
    high = np.asarray(space.high, np.float32).ravel()
    touches = np.zeros(len(action), bool)
    for i in range(len(low)):
        component = action[:, i]
        touches |= component == low[i]
        touches |= component == high[i]
    return int(touches.sum())
