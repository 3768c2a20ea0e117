"""What looks wrong in data that can be read: one sentence for each thing, and whether it is serious.

rows.py refuses data that cannot be right. What is told here may be right: a column that never changes, episodes that
are there twice, a clock whose digits are lost. `data check` prints every sentence, `train` the serious ones. They are
found once, when the data are first read, and kept in the cache with the counts of the Report.

The data are read a block at a time, so that no second copy of them is in memory; columns that look suspicious are then
read whole, one after another. Single columns of the observations are looked at in inspected_columns.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from gymnasium.spaces import Box

from rlkit.datasets import inspected_columns
from rlkit.datasets.episodes import HAS_ACTION, LABELLED, TERMINAL, DataWarning, Episodes
from rlkit.datasets.inspected_columns import uneven

REPEATED = 0.01  # share of the steps that lie in repeated episodes
ONE_STEP = 0.1  # share of the steps that are episodes of their own
ON_BOUNDS = 0.01  # share of the steps whose action is on a bound
NAMES_OF_TIME = {"date", "datetime", "t", "time", "time_stamp", "timestamp", "timestamps"}


def serious(warnings: Sequence[DataWarning], normalise: str = "none") -> list[str]:
    """The sentences that `train` says. ``normalise``: as in DataOptions; it mends columns of different size."""
    sentences = []
    for warning in warnings:
        is_mended = warning.check == "scale" and normalise != "none"
        if warning.serious and not is_mended:
            sentences.append(warning.sentence)
    return sentences


def inspect(episodes: Episodes, observations: np.ndarray) -> tuple[DataWarning, ...]:
    """What looks wrong in ``episodes``, the serious first.

    observations: [N, ...] of their N steps as the source stores them, from which float32 was made. They are looked at
    where they have a number for each column of ``episodes.obs``.
    """
    flags = np.asarray(episodes.flags)
    is_step = (flags & HAS_ACTION) > 0
    t = np.asarray(episodes.t)[is_step]
    stored = np.asarray(observations)
    stored = stored.reshape(len(stored), -1)
    if stored.shape[1] != episodes.obs.shape[1]:  # choices, each of which has become a column
        stored = stored[:, :0]
    found = [
        *inspected_columns.inspect(episodes, stored, is_step, t),
        *_named_times(episodes.infos, t),
        *_repeats(episodes, is_step),
        *_lengths(episodes),
        *_rewards(episodes, flags),
        *_on_bounds(episodes, is_step),
    ]
    return tuple(sorted(found, key=lambda warning: not warning.serious))


def _named_times(infos: Mapping[str, np.ndarray], t: np.ndarray) -> Iterator[DataWarning]:
    """Times beside the observations, known by their names: those that fall, and those that rise unevenly."""
    follows = t[1:] > 0
    for name, values in infos.items():
        word = name.rsplit("/", 1)[-1].lower()
        if word not in NAMES_OF_TIME or np.size(values) != len(t) or not follows.any():
            continue
        if not name.isprintable():  # a file may name it as it likes, and the sentence goes to a terminal
            name = word
        values = np.asarray(values).reshape(-1)
        falls = int(((values[1:] < values[:-1]) & follows).sum())
        if falls:
            yield DataWarning(
                "time", True, f"infos/{name} falls within an episode at {falls:,} steps: are its rows in order?"
            )
            continue
        phrase = uneven(values, t)
        if phrase:
            yield DataWarning("time", False, f"infos/{name}: {phrase}")


def _repeats(episodes: Episodes, is_step: np.ndarray) -> Iterator[DataWarning]:
    """Episodes with the bytes of an earlier one. Only those that begin and end alike are compared in full."""
    starts = episodes.starts
    stops = np.append(starts[1:], len(is_step))
    # --- those that begin and end alike ---
    ends = np.stack([np.asarray(episodes.obs[starts]), np.asarray(episodes.obs[stops - 1])], 1)
    ends = ends.reshape(len(starts), -1)
    mixers = np.random.default_rng(0).integers(1, 2**63, ends.shape[1], np.uint64) | np.uint64(1)
    keys = (ends.view(np.uint32).astype(np.uint64) * mixers).sum(1)
    keys += (stops - starts).astype(np.uint64)
    _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
    # --- in full ---
    earlier: dict[bytes, int] = {}
    repeats = []
    for number in np.flatnonzero(counts[group] > 1).tolist():
        part = slice(starts[number], stops[number])
        digest = hashlib.blake2b(digest_size=16)
        for column in (episodes.obs, episodes.action, episodes.reward, episodes.flags):
            digest.update(np.ascontiguousarray(column[part]))
        first = earlier.setdefault(digest.digest(), number)
        if first != number:
            repeats.append((number, first))
    if not repeats:
        return
    number, first = repeats[0]
    steps = sum(int(stops[repeat] - starts[repeat]) - 1 for repeat, _ in repeats)
    share = steps / is_step.sum()
    # in a small world of states and choices episodes repeat by chance
    whole_numbers = bool((ends == np.round(ends)).all())
    verb = "repeats" if len(repeats) == 1 else "repeat"
    yield DataWarning(
        "repeats",
        bool(share >= REPEATED) and not whole_numbers,
        f"{len(repeats):,} of {len(starts):,} episodes {verb} an earlier one byte for byte (the first: episode "
        f"{number} is episode {first} again)",
    )


def _lengths(episodes: Episodes) -> Iterator[DataWarning]:
    report = episodes.report
    lengths = np.diff(np.append(episodes.starts, len(episodes.t))) - 1
    short = int((lengths == 1).sum())
    if not short or report.steps < 2:
        return
    verb = "has" if short == 1 else "have"
    yield DataWarning(
        "lengths",
        short >= ONE_STEP * report.steps,
        f"{short:,} of {report.episodes:,} episodes {verb} one step: what an action leads to is not learnt from them; "
        "do the ends of episodes stand where they should?",
    )


def _rewards(episodes: Episodes, flags: np.ndarray) -> Iterator[DataWarning]:
    """Where rewards are all alike and no terminal state ends them, every policy is as good as any other."""
    known = (flags & (HAS_ACTION | LABELLED)) == (HAS_ACTION | LABELLED)
    if known.sum() < 2 or (flags & TERMINAL).any():
        return
    value = episodes.reward[known.argmax()]
    if not ((episodes.reward != value) & known).any():
        yield DataWarning(
            "rewards",
            True,
            f"every reward is {value:g} and no episode ends in a terminal state: no policy is better than another; "
            "only cloning learns from such data",
        )


def _on_bounds(episodes: Episodes, is_step: np.ndarray) -> Iterator[DataWarning]:
    space = episodes.action_space
    steps = int(is_step.sum())
    share = episodes.report.on_bounds / steps
    if not isinstance(space, Box) or share < ON_BOUNDS:
        return
    low = np.asarray(space.low, np.float32).ravel()
    high = np.asarray(space.high, np.float32).ravel()
    counts = []
    for component in range(len(low)):
        values = np.asarray(episodes.action[:, component])
        touches = (values == low[component]) | (values == high[component])
        counts.append(int((touches & is_step).sum()))
    sentence = f"{share:.1%} of the steps have an action on a bound"
    if len(counts) > 1:
        most = int(np.argmax(counts))
        sentence += f", most often in component {most} ({counts[most] / steps:.1%})"
    yield DataWarning("bounds", False, sentence)
