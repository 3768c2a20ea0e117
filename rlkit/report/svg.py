"""The marks of a drawing as SVG: axes with round numbers, rules, texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rlkit.report.markup import escaped

FONT = 11.0
LETTER = 0.62  # width of a letter as a share of the font's size: more than the mean of any usual font
LARGEST = 1e100  # beyond which a number is as good as infinite
UNITS = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"), (0.0, 1.0, ""))  # from which number on, unit, letter

Mark = tuple[float, str]  # of an axis: its place and its label


class Scale(NamedTuple):
    """Where the numbers from ``low`` to ``high`` lie: from ``start`` to ``stop``. Those beyond lie at the ends."""

    low: float
    high: float
    start: float
    stop: float
    is_logarithmic: bool = False

    def __call__(self, value: float) -> float:
        value = max(self.low, min(value, self.high))  # in this order NaN becomes the lower end
        low, high = self.low, self.high
        if self.is_logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / (high - low)
        return self.start + share * (self.stop - self.start)


# --- numbers on axes ---


def ticks(low: float, high: float, most: int) -> list[Mark]:
    """About ``most`` round numbers, 1, 2 or 5 times a power of ten apart, the first at most ``low`` and the last at
    least ``high``. Their labels are as long as it takes to tell them apart: 20k, 1.5M, 0.002, 3e-05."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    values = [number * step for number in range(first, max(last, first + 1) + 1)]
    largest = max(abs(values[0]), abs(values[-1]))
    return [(value, _label(value, step, largest)) for value in values]


def _label(value: float, step: float, largest: float) -> str:
    if value == 0:
        return "0"
    place = math.floor(math.log10(step) + 1e-9)  # of the last digit that differs
    if largest >= 1e12 or largest < 1e-3:
        digits = max(math.floor(math.log10(largest)) - place, 0)
        return f"{value:.{digits}e}"
    unit, letter = next((unit, letter) for least, unit, letter in UNITS if largest >= least)
    digits = max(round(math.log10(unit)) - place, 0)
    return f"{value / unit:.{digits}f}{letter}"


def ticks_within(low: float, high: float, most: int = 5) -> list[Mark]:
    """Those of `ticks` that lie between ``low`` and ``high``, but for rounding."""
    room = 1e-9 * (high - low)
    return [(value, label) for value, label in ticks(low, high, most) if low - room <= value <= high + room]


def whole(marks: Sequence[Mark]) -> list[Mark]:
    """Those of ``marks`` that are whole numbers."""
    return [(value, label.removesuffix(".0")) for value, label in marks if value == round(value)]


def finite(numbers: Iterable[float]) -> list[float]:
    """Those of ``numbers`` that can be drawn."""
    return [float(number) for number in numbers if abs(number) < LARGEST]


def spread(numbers: Sequence[float], is_logarithmic: bool = False) -> tuple[float, float]:
    """The least and the largest of ``numbers``, which are moved apart where they are one. ValueError for none."""
    if not numbers:
        raise ValueError("there is nothing to draw: no number is finite")
    low, high = min(numbers), max(numbers)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    if is_logarithmic:
        return low / 2, high * 2
    room = 0.1 * abs(low) or 1.0
    return low - room, high + room


# --- marks ---


def rule(x1: float, y1: float, x2: float, y2: float, kind: str, dash: str = "") -> str:
    """A straight line. kind: its classes in the style sheet."""
    return f'<line class="{kind}"{dashed(dash)} x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """A label. anchor: which part of it lies at ``x``: "start", "middle" or "end"."""
    return f'<text class="label" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escaped(words)}</text>'


def upright(x: float, y: float, words: str) -> str:
    """A label that is read from below, its middle at ``y``."""
    place = f"translate({x:.1f} {y:.1f}) rotate(-90)"
    return f'<text class="label" text-anchor="middle" transform="{place}">{escaped(words)}</text>'


def dot(x: float, y: float, radius: float, kind: str) -> str:
    return f'<circle class="{kind} dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>'


def dashed(dash: str) -> str:
    """The attribute that makes a line dashed."""
    return f' stroke-dasharray="{dash}"' if dash else ""


def width_of(words: str) -> float:
    """About how wide a label is drawn, rather too much."""
    return FONT * LETTER * len(words)


def svg(name: str, parts: Iterable[str], title: str, description: str, size: tuple[float, float]) -> str:
    """The element around the marks. name: makes its ids unique. title, description: for those who do not see it."""
    width, height = size
    head = (
        f'<svg role="img" aria-labelledby="{name}-title {name}-desc" viewBox="0 0 {width:g} {height:g}" '
        f'font-size="{FONT:g}">'
        f'<title id="{name}-title">{escaped(title)}</title><desc id="{name}-desc">{escaped(description)}</desc>'
    )
    return head + "".join(parts) + "</svg>"
