"""Which numbers a setting may have: declared where its field is declared, checked here alone.

A field of a settings dataclass is annotated with a Range, or with one of the names below that stand for the common
ones: ``gamma: Discount = 0.99``, ``noise: Annotated[float, Range("(0, 2]")] = 0.2``. That holds for the Config of an
agent in a user's own file too, and for a Config inside a Config. The command line checks every option before anything
is read (`check_options`), `rlkit.training.loop.fit` what it is given from Python (`check`).

This module does not import jax, so that a command line can be answered before jax is loaded.
"""

from __future__ import annotations

import functools
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any

from rlkit.types import InputError


@dataclass(frozen=True)
class Range:
    """An interval as mathematics writes it: "[0, 1)" has 0 and lacks 1. NaN is in none, infinity where "inf]" says so.

    It applies to every number of a tuple, and not to None.
    """

    notation: str

    @functools.cached_property
    def bounds(self) -> tuple[float, float]:
        """(low, high)."""
        low, high = self.notation[1:-1].split(",")
        return float(low), float(high)

    def __contains__(self, value: float) -> bool:
        low, high = self.bounds
        above = value >= low if self.notation[0] == "[" else value > low
        below = value <= high if self.notation[-1] == "]" else value < high
        return above and below

    def __str__(self) -> str:
        """In words, after "must be": "at least 0 and below 1"."""
        low, high = self.bounds
        words = []
        if low > -math.inf:
            words.append(f"at least {low:.10g}" if self.notation[0] == "[" else f"above {low:.10g}")
        if high < math.inf:
            words.append(f"at most {high:.10g}" if self.notation[-1] == "]" else f"below {high:.10g}")
        elif self.notation[-1] == ")":
            words.append("finite")
        return " and ".join(words)


Count = Annotated[int, Range("[1, 2147483647]")]  # what is counted in an int32 on the device: steps, rows, units
Whole = Annotated[int, Range("[0, 2147483647]")]
Seed = Annotated[int, Range("[0, 4294967295]")]  # jax's and gymnasium's seeds have 32 bits
Widths = tuple[Count, ...]  # of hidden layers; none is a linear function
Discount = Annotated[float, Range("[0, 1]")]
TargetShare = Annotated[float, Range("(0, 1]")]  # of a Polyak average
LearningRate = Annotated[float, Range("[0, 1]")]  # 0 keeps a part as it is
Weight = Annotated[float, Range("[0, inf)")]  # of a term in a loss
Positive = Annotated[float, Range("(0, inf)")]
Fraction = Annotated[float, Range("(0, 1)")]
Finite = Annotated[float, Range("(-inf, inf)")]


def check(settings: Any, where: str) -> None:
    """Raises InputError, one line, for the first number in the dataclass ``settings``, or in one inside it, that is out
    of its range. ``where`` names the settings in the message."""
    for path, value, allowed in _outside(settings):
        raise InputError(f"{where}: {'.'.join(path)} {value}: must be {allowed}")


def check_options(options: Any) -> None:
    """As `check`, with the number's name on the command line: "--config.batch-size 0: must be at least 1"."""
    for path, value, allowed in _outside(options):
        raise InputError(f"--{'.'.join(path).replace('_', '-')} {value}: must be {allowed}")


def find(annotation: Any) -> Range | None:
    """The Range in an annotation: ``Count``, ``Count | None``, ``tuple[Count, ...]``."""
    for part in getattr(annotation, "__metadata__", ()):
        if isinstance(part, Range):
            return part
    found = (find(part) for part in typing.get_args(annotation))
    return next((allowed for allowed in found if allowed is not None), None)


def _outside(settings: Any) -> Iterator[tuple[tuple[str, ...], float, Range]]:
    """(path of field names, value, range) of every number that is out of its range."""
    for name, (allowed, shown) in _declared(type(settings)).items():
        value = getattr(settings, name)
        if is_dataclass(value):
            for path, number, inner in _outside(value):
                yield ((name, *path) if shown else path), number, inner
        elif allowed is not None:
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and number not in allowed:
                    yield (name,), number, allowed


@functools.cache
def _declared(kind: type) -> dict[str, tuple[Range | None, bool]]:
    """Field -> its Range, and whether its name is a part of its options' names (not with tyro's `arg(name="")`)."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except NameError:  # a learner whose annotations are for type checkers alone; a Config's can be read, or tyro fails
        hints = {}
    found = {}
    for field in fields(kind):
        hint = hints.get(field.name)
        names = [getattr(part, "name", None) for part in getattr(hint, "__metadata__", ())]
        found[field.name] = (find(hint), "" not in names)
    return found
