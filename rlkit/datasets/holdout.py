"""Episodes that training never sees, set aside by ``--holdout`` for `rlkit judge`."""

from __future__ import annotations

import dataclasses

import numpy as np

from rlkit.datasets.episodes import Episodes
from rlkit.datasets.options import DataOptions
from rlkit.datasets.selection import select
from rlkit.types import InputError


def training(episodes: Episodes, options: DataOptions) -> Episodes:
    """All episodes but those that ``options.holdout`` sets aside. InputError where none are left on one side."""
    if not options.holdout:
        return episodes
    held_out_numbers, rest = _drawn(episodes, options)
    count = len(held_out_numbers)
    number = len(episodes.starts)
    if count in (0, number):
        raise InputError(
            f"{episodes.name}: --holdout {options.holdout:g} of {number} episodes is {count}: choose a share that "
            "leaves some on both sides"
        )
    part = select(episodes, rest)
    note = f"{count:,} of {number:,} episodes are held out (--holdout {options.holdout:g}), and not counted here"
    return dataclasses.replace(part, report=dataclasses.replace(part.report, notes=(*part.report.notes, note)))


def held_out(whole: Episodes, options: DataOptions, trained_on: str) -> Episodes | None:
    """The episodes of ``whole`` that ``options.holdout`` set aside, if training had the rest: data with the fingerprint
    ``trained_on``. Else None."""
    numbers, rest = _drawn(whole, options)
    if not len(numbers) or not len(rest):
        return None
    if select(whole, rest).fingerprint != trained_on:
        return None
    return select(whole, numbers)


def _drawn(episodes: Episodes, options: DataOptions) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the episodes that are set aside, drawn by ``options.holdout_seed``, and of the rest."""
    number = len(episodes.starts)
    order = np.random.default_rng(options.holdout_seed).permutation(number)
    count = round(options.holdout * number)
    return np.sort(order[:count]), np.sort(order[count:])
