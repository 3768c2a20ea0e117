"""Episodes that training never sees, set aside by ``--holdout`` for `rlkit judge`."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from rlkit.datasets.episodes import HAS_ACTION, HAS_NEXT, TERMINAL, Episodes
from rlkit.datasets.options import DataOptions
from rlkit.types import InputError


def training(episodes: Episodes, options: DataOptions) -> Episodes:
    """All episodes but those that ``options.holdout`` sets aside. InputError where none are left on one side."""
    if not options.holdout:
        return episodes
    is_held_out = _drawn(episodes, options)
    count = int(is_held_out.sum())
    number = len(is_held_out)
    if count in (0, number):
        raise InputError(
            f"{episodes.name}: --holdout {options.holdout:g} of {number} episodes is {count}: choose a share that "
            "leaves some on both sides"
        )
    return select(episodes, ~is_held_out, f"{count:,} are held out (--holdout {options.holdout:g})")


def held_out(whole: Episodes, options: DataOptions, trained_on: str) -> Episodes | None:
    """The episodes of ``whole`` that ``options.holdout`` set aside, if training had the rest: data with the fingerprint
    ``trained_on``. Else None."""
    is_held_out = _drawn(whole, options)
    if is_held_out.all() or not is_held_out.any():
        return None
    if select(whole, ~is_held_out, "").fingerprint != trained_on:
        return None
    return select(whole, is_held_out, "held out of training")


def _drawn(episodes: Episodes, options: DataOptions) -> np.ndarray:
    """[E] bool, which are set aside: drawn by ``options.holdout_seed``."""
    number = len(episodes.starts)
    generator = np.random.default_rng(options.holdout_seed)
    is_held_out = np.zeros(number, bool)
    is_held_out[generator.permutation(number)[: round(options.holdout * number)]] = True
    return is_held_out


def select(episodes: Episodes, is_kept: np.ndarray, note: str) -> Episodes:
    """The episodes for which ``is_kept`` [E] is true, in their order; ``note`` says which they are. What is counted of
    them is counted anew, but for what the source alone could tell."""
    starts = episodes.starts
    rows_of_each = np.diff(starts, append=len(episodes.flags))
    rows = np.repeat(is_kept, rows_of_each)
    numbers = np.flatnonzero(is_kept).tolist()
    steps = rows[(np.asarray(episodes.flags) & HAS_ACTION) > 0]
    flags = np.asarray(episodes.flags)[rows]

    # --- counts ---
    is_step = (flags & HAS_ACTION) > 0
    can_be_drawn = is_step & ((flags & (HAS_NEXT | TERMINAL)) > 0)
    terminal = int(((flags & TERMINAL) > 0).sum())
    report = dataclasses.replace(
        episodes.report,
        episodes=len(numbers),
        steps=int(is_step.sum()),
        used=int(can_be_drawn.sum()),
        no_successor=int((is_step & ~can_be_drawn).sum()),
        terminal_episodes=terminal,
        truncated_episodes=len(numbers) - terminal,
        notes=(*episodes.report.notes, f"{len(numbers):,} of {len(starts):,} episodes: {note}"),
    )
    print_of = hashlib.sha256(f"{episodes.fingerprint} {numbers}".encode())
    return dataclasses.replace(
        episodes,
        fingerprint=print_of.hexdigest(),
        obs=np.asarray(episodes.obs)[rows],
        action=np.asarray(episodes.action)[rows],
        reward=np.asarray(episodes.reward)[rows],
        t=np.asarray(episodes.t)[rows],
        flags=flags,
        report=report,
        infos={name: values[steps] for name, values in episodes.infos.items()},
        hidden=None if episodes.hidden is None else episodes.hidden[rows],
    )
