"""Some of the episodes of a dataset: chosen by their numbers, or drawn for the parts of a split."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np

from rlkit.datasets import action_space
from rlkit.datasets.action_space import BOUNDS
from rlkit.datasets.episodes import HAS_ACTION, HAS_NEXT, TERMINAL, Episodes, Report
from rlkit.types import InputError


def select(episodes: Episodes, numbers: np.ndarray) -> Episodes:
    """The episodes with these ``numbers`` [E'], from 0, in their order; spaces and environment are those of all.

    What the source said of single flags (an end without one, one with both) is not known any more and counts as 0.
    """
    starts = episodes.starts
    stops = np.append(starts[1:], len(episodes.t))
    parts = [np.arange(starts[number], stops[number]) for number in numbers]
    rows = np.concatenate(parts)
    flags = np.asarray(episodes.flags)
    is_step = (flags & HAS_ACTION) > 0
    step_of_row = np.cumsum(is_step) - 1
    steps = step_of_row[rows][is_step[rows]]
    infos = {name: values[steps] for name, values in episodes.infos.items()}
    columns = {}
    for name in ("obs", "action", "reward", "t", "flags"):
        columns[name] = np.asarray(getattr(episodes, name))[rows]
    text = f"{episodes.fingerprint} {np.asarray(numbers).tolist()}"
    part = dataclasses.replace(
        episodes,
        **columns,
        infos=infos,
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
        hidden=None if episodes.hidden is None else episodes.hidden[rows],
    )
    return dataclasses.replace(part, report=_report(part, len(parts)))


def split(episodes: Episodes, shares: Mapping[str, float], seed: int) -> dict[str, Episodes]:
    """Parts of the episodes, drawn at random without replacement.

    Args:
        episodes: the data.
        shares: name of a part -> its share of the episodes; together 1.
        seed: of the draw.

    Returns:
        Name -> part, whose episodes keep their order.

    Raises:
        InputError: for shares that are not positive or do not add up to 1, or a part without an episode.

    Example:
        split(episodes, {"train": 0.9, "test": 0.1}, seed=0)["test"]
    """
    total = sum(shares.values())
    if min(shares.values()) <= 0 or abs(total - 1) > 1e-6:
        listed = ", ".join(f"{name}={share:g}" for name, share in shares.items())
        raise InputError(f"{listed}: shares are positive and add up to 1, not to {total:g}")
    number = len(episodes.starts)
    order = np.random.default_rng(seed).permutation(number)
    ends = np.rint(np.cumsum(list(shares.values())) * number).astype(int)
    parts = {}
    for name, drawn in zip(shares, np.split(order, ends[:-1]), strict=True):
        if not len(drawn):
            raise InputError(f"{name}={shares[name]:g}: of {number} episodes that is none; give it a larger share")
        parts[name] = select(episodes, np.sort(drawn))
    return parts


def _report(part: Episodes, count: int) -> Report:
    """The counts of a part of a dataset; notes and warnings are those of all."""
    flags = part.flags
    is_step = (flags & HAS_ACTION) > 0
    terminal = int(((flags & TERMINAL) > 0).sum())
    drawn = is_step & ((flags & (HAS_NEXT | TERMINAL)) > 0)
    on_bounds = 0
    if BOUNDS not in part.derived:
        on_bounds = action_space.count_on_bounds(part.action[is_step], part.action_space)
    return Report(
        episodes=count,
        steps=int(is_step.sum()),
        used=int(drawn.sum()),
        terminal_episodes=terminal,
        truncated_episodes=count - terminal,
        unflagged_ends=0,
        both_flags=0,
        no_successor=int(is_step.sum() - drawn.sum()),
        on_bounds=on_bounds,
        notes=part.report.notes,
        warnings=part.report.warnings,
    )
