"""Ranges of numbers that a setting may have: declared at its field, and checked here alone.

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
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, NamedTuple

from rlkit.types import InputError

LARGEST_EXPONENT = 18  # of a number that is typed: 1e18, far beyond every range and quick to write out


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

    @property
    def has_low(self) -> bool:
        """Whether the lower bound is in the range."""
        return self.notation[0] == "["

    @property
    def has_high(self) -> bool:
        """Whether the upper bound is in the range."""
        return self.notation[-1] == "]"

    def __contains__(self, value: float) -> bool:
        low, high = self.bounds
        above = value >= low if self.has_low else value > low
        below = value <= high if self.has_high else value < high
        return above and below

    def __str__(self) -> str:
        """Words that follow "must be": "at least 0 and below 1"."""
        low, high = self.bounds
        words = []
        if low > -math.inf:
            comparison = "at least" if self.has_low else "above"
            words.append(f"{comparison} {low:.10g}")
        if high < math.inf:
            comparison = "at most" if self.has_high else "below"
            words.append(f"{comparison} {high:.10g}")
        elif not self.has_high:
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
    """Raises InputError, one line, for the first number that is out of its range in the dataclass ``settings`` or in a
    dataclass inside it. ``where`` names the settings in the message."""
    for path, value, allowed in _outside(settings):
        name = ".".join(path)
        raise InputError(f"{where}: {name} {value}: must be {allowed}")


def check_options(options: Any) -> None:
    """As `check`, with the number's name on the command line: "--config.batch-size 0: must be at least 1"."""
    for path, value, allowed in _outside(options):
        name = ".".join(path).replace("_", "-")
        raise InputError(f"--{name} {value}: must be {allowed}")


def find(annotation: Any) -> Range | None:
    """The Range in an annotation: ``Count``, ``Count | None``, ``tuple[Count, ...]``."""
    for part in getattr(annotation, "__metadata__", ()):
        if isinstance(part, Range):
            return part
    for part in typing.get_args(annotation):
        allowed = find(part)
        if allowed is not None:
            return allowed
    return None


class _Declared(NamedTuple):
    """What the declaration of a field says."""

    allowed: Range | None
    in_name: bool  # whether the field's name is a part of its options' names (not with tyro's `arg(name="")`)


def _outside(settings: Any) -> Iterator[tuple[tuple[str, ...], float, Range]]:
    """(path of field names, value, range) of every number that is out of its range."""
    for name, declared in _declared(type(settings)).items():
        value = getattr(settings, name)
        if is_dataclass(value):
            prefix = (name,) if declared.in_name else ()
            for path, number, allowed in _outside(value):
                yield (*prefix, *path), number, allowed
        elif declared.allowed is not None:
            numbers = value if isinstance(value, tuple) else (value,)
            for number in numbers:
                if number is not None and number not in declared.allowed:
                    yield (name,), number, declared.allowed


@functools.cache
def _declared(kind: type) -> dict[str, _Declared]:
    """Name -> declaration of every field of the dataclass ``kind``."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except NameError:  # a learner whose annotations are for type checkers alone; a Config's can be read, or tyro fails
        hints = {}
    declared = {}
    for field in fields(kind):
        hint = hints.get(field.name)
        metadata = getattr(hint, "__metadata__", ())
        option_names = [getattr(part, "name", None) for part in metadata]
        declared[field.name] = _Declared(find(hint), in_name="" not in option_names)
    return declared


def whole(text: str) -> int:
    """The whole number that a user typed: 1000000, 1_000_000 or 1e6. ValueError, with a sentence, for anything else."""
    try:
        value = Decimal(text if text.isascii() else "NaN")
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value.adjusted() > LARGEST_EXPONENT or value != value.to_integral_value():
        raise ValueError(f"{text!r} is not a whole number, such as 1000000, 1_000_000 or 1e6")
    return int(value)
