"""What looks wrong in data that can be read: one sentence for each thing, and whether it is serious.

rows.py refuses data that cannot be right. What is told here may be right: a column that never changes, episodes that
are there twice, a clock whose digits are lost. `data check` prints every sentence, `train` the serious ones. They are
found once, when the data are first read, and kept in the cache with the counts of the Report.

The data are read a block at a time, so that no second copy of them is in memory; columns that look suspicious are then
read whole, one after another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from rlkit.datasets.blocks import blocks
from rlkit.datasets.episodes import HAS_ACTION, LABELLED, TERMINAL, DataWarning, Episodes

SAMPLE = 20_000  # steps whose moments are taken, where no number is large
ENOUGH = 100  # steps; in fewer, a correlation or an even spacing may be chance
SAME = 0.999  # correlation from which an observation is taken to be the action
NEARLY_CONSTANT = 1e-4  # spread of a column, relative to its size, that a network does not see
LARGE = 1e3  # size of a column that networks take badly; usual inputs are about 1
UNEVEN_SIZES = 1e4  # ratio of the largest spread of a column to the smallest
SMALLEST_SPREAD = 1e-6  # what varies less is rounding, and no reason to compare sizes
SMALLEST_CHANGE = 1e-6  # what changes less from a step to the next is rounding, and no loss
LOST = 0.05  # share of a column's changes that float32 may lose
REPEATED = 0.01  # share of the steps that lie in repeated episodes
ONE_STEP = 0.1  # share of the steps that are episodes of their own
ON_BOUNDS = 0.01  # share of the steps whose action is on a bound
UNEVEN_STEPS = 0.01  # share of the steps whose time differs from the usual one by more than half of it
MOST_CHOICES = 64  # of a discrete action, each of which is compared with the observations
NAMES_OF_TIME = {"date", "datetime", "t", "time", "time_stamp", "timestamp", "timestamps"}
LISTED = 5  # columns that a sentence names


def serious(warnings: Sequence[DataWarning], normalise: str = "none") -> list[str]:
    """The sentences that `train` says. ``normalise``: as in DataOptions; it mends columns of different size."""
    sentences = []
    for warning in warnings:
        is_mended = warning.check == "scale" and normalise != "none"
        if warning.serious and not is_mended:
            sentences.append(warning.sentence)
    return sentences


def inspect(episodes: Episodes, observations: np.ndarray) -> tuple[DataWarning, ...]:
    """What looks wrong in ``episodes``.

    observations: [N, ...] of their N steps as the source stores them, from which float32 was made. They are looked at
    where they have a number for each column of ``episodes.obs``.
    """
    flags = np.asarray(episodes.flags)
    is_step = (flags & HAS_ACTION) > 0
    t = np.asarray(episodes.t)[is_step]
    moments = _moments(episodes, _looked_at(episodes, is_step))
    stored = np.asarray(observations)
    stored = stored.reshape(len(stored), -1)
    if stored.shape[1] != episodes.obs.shape[1]:  # choices, each of which has become a column
        stored = stored[:, :0]
    lost = dict(_lost_digits(stored, t, moments))
    found = [
        *lost.values(),
        *_leaks(moments, episodes.action_space),
        *_sizes(moments, set(lost)),
        *_constants(episodes, moments, set(lost)),
        *_clocks(stored, t),
        *_named_times(episodes.infos, t),
        *_repeats(episodes, is_step),
        *_lengths(episodes),
        *_rewards(episodes, flags),
        *_on_bounds(episodes, is_step),
    ]
    return tuple(sorted(found, key=lambda warning: not warning.serious))


class _Moments(NamedTuple):
    """Of the steps that are looked at."""

    count: int
    mean: np.ndarray  # [O] of the observations
    std: np.ndarray  # [O]
    correlation: np.ndarray  # [O, A] with the actions of the same steps; 0 where one of them is constant

    @property
    def size(self) -> np.ndarray:
        """[O] root mean square."""
        return np.hypot(self.mean, self.std)


def _looked_at(episodes: Episodes, is_step: np.ndarray) -> np.ndarray:
    """Rows of the steps whose moments are taken: of many steps about SAMPLE, evenly spread; all where some number is
    so large that a few of its kind count."""
    steps = np.flatnonzero(is_step)
    stride = max(len(steps) // SAMPLE, 1)
    largest = max(-float(episodes.obs.min()), float(episodes.obs.max()))
    return steps if largest > LARGE else steps[::stride]


def _moments(episodes: Episodes, steps: np.ndarray) -> _Moments:
    """Sums are taken from the first row, so that a large mean costs no digits, and a constant column is exactly 0."""
    width = episodes.obs.shape[1]
    origin = np.asarray(episodes.obs[0], np.float64)
    first_action = _action_columns(episodes, steps[:1])[0]
    total = np.zeros(width)
    squares = np.zeros(width)
    action_total = np.zeros(len(first_action))
    action_squares = np.zeros(len(first_action))
    products = np.zeros((width, len(first_action)))
    for part in blocks(len(steps), 4 * width):  # smaller ones: they are copied, and become float64
        obs = episodes.obs[steps[part]] - origin
        action = _action_columns(episodes, steps[part]) - first_action
        total += obs.sum(0)
        squares += np.einsum("ij,ij->j", obs, obs)
        action_total += action.sum(0)
        action_squares += np.einsum("ij,ij->j", action, action)
        products += obs.T @ action
    count = len(steps)
    mean = total / count
    action_mean = action_total / count
    variance = np.maximum(squares / count - mean**2, 0)
    action_variance = np.maximum(action_squares / count - action_mean**2, 0)
    std = np.sqrt(variance)
    covariance = products / count - np.outer(mean, action_mean)
    spread = np.outer(std, np.sqrt(action_variance))
    correlation = np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0)
    return _Moments(count, origin + mean, std, correlation)


def _action_columns(episodes: Episodes, rows: np.ndarray) -> np.ndarray:
    """[rows, A] float64: a continuous action's components; a discrete one's number, and 1 or 0 for each choice."""
    action = np.asarray(episodes.action[rows])
    space = episodes.action_space
    if not isinstance(space, Discrete):
        return action.astype(np.float64)
    number = action[:, None].astype(np.float64)
    if not 2 < space.n <= MOST_CHOICES:
        return number
    choices = np.arange(space.start, space.start + space.n)
    return np.concatenate([number, number == choices], axis=1)


# --- columns of the observations ---


def _lost_digits(stored: np.ndarray, t: np.ndarray, moments: _Moments) -> Iterator[tuple[int, DataWarning]]:
    """(column, warning) where values that differ from one step to the next are one number in float32."""
    if stored.dtype.kind not in "iuf" or (stored.dtype.kind == "f" and stored.dtype.itemsize <= 4):
        return
    spacing = np.spacing(moments.size.astype(np.float32))
    coarse = spacing > SMALLEST_CHANGE * np.maximum(moments.std, 1)
    for column in np.flatnonzero(coarse[: stored.shape[1]]).tolist():
        values = stored[:, column].astype(np.float64)
        rounded = values.astype(np.float32)
        follows = t[1:] > 0
        changes = (np.abs(np.diff(values)) > SMALLEST_CHANGE) & follows
        lost = changes & (rounded[1:] == rounded[:-1])
        if lost.sum() <= LOST * changes.sum():
            continue
        distinct = len(np.unique(values))
        left = len(np.unique(rounded))
        yield (
            column,
            DataWarning(
                "digits",
                True,
                f"observation {column} loses digits in float32: {distinct:,} distinct values become {left:,}; subtract "
                "a number near them, such as the first of each episode, or leave the column out",
            ),
        )


def _leaks(moments: _Moments, space: Box | Discrete) -> Iterator[DataWarning]:
    if moments.count < ENOUGH:
        return
    size = np.abs(moments.correlation)
    for column in np.flatnonzero((size > SAME).any(1)).tolist():
        component = int(size[column].argmax())
        which = ""
        if isinstance(space, Box) and size.shape[1] > 1:
            which = f" component {component} of"
        value = moments.correlation[column, component]
        yield DataWarning(
            "leak",
            True,
            f"observation {column} is{which} the action of the same step (correlation {value:.4f}): a policy that acts "
            "does not know it yet; leave the column out, or move it to the next step",
        )


def _sizes(moments: _Moments, known: set[int]) -> Iterator[DataWarning]:
    """known: columns that something else is said of."""
    size = moments.size
    large = [column for column in np.flatnonzero(size > LARGE).tolist() if column not in known]
    advice = "--normalise standard brings all columns to one size"
    if large:
        example = large[0]
        verb = _verb(large, "is", "are")
        yield DataWarning(
            "scale",
            True,
            f"{_named(large)} {verb} far from 1 in size (observation {example}: about {size[example]:.2g}), which "
            f"networks take badly; {advice}",
        )
        return
    varying = moments.std > np.maximum(NEARLY_CONSTANT * size, SMALLEST_SPREAD)
    columns = [column for column in np.flatnonzero(varying).tolist() if column not in known]
    if not columns:
        return
    spread = moments.std[columns]
    smallest = columns[int(spread.argmin())]
    largest = columns[int(spread.argmax())]
    if spread.max() > UNEVEN_SIZES * spread.min():
        yield DataWarning(
            "scale",
            True,
            f"observation {smallest} varies by {spread.min():.2g} and observation {largest} by {spread.max():.2g}: a "
            f"network hardly sees the smaller one; {advice}",
        )


def _constants(episodes: Episodes, moments: _Moments, known: set[int]) -> Iterator[DataWarning]:
    """known: columns that something else is said of."""
    if moments.count < 2:
        return
    constant = _same_everywhere(episodes.obs, np.flatnonzero(moments.std == 0)).tolist()
    if constant:
        verb = _verb(constant, "is the same number", "are each the same number")
        pronoun = _verb(constant, "it tells", "they tell")
        yield DataWarning("constant", False, f"{_named(constant)} {verb} at every step: {pronoun} an agent nothing")
    is_nearly = (moments.std > 0) & (moments.std < NEARLY_CONSTANT * moments.size)
    nearly = [column for column in np.flatnonzero(is_nearly).tolist() if column not in known]
    if nearly:
        example = nearly[0]
        verb = _verb(nearly, "hardly varies", "hardly vary")
        mean = moments.mean[example]
        std = moments.std[example]
        yield DataWarning(
            "constant",
            False,
            f"{_named(nearly)} {verb} (observation {example}: {mean:.6g}, give or take {std:.2g})",
        )


def _same_everywhere(obs: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Those of the ``columns`` that are one number in all rows."""
    for part in blocks(len(obs), obs.shape[1]):
        if not columns.size:
            break
        is_same = (obs[part, columns] == obs[0, columns]).all(0)
        columns = columns[is_same]
    return columns


def _named(columns: Sequence[int]) -> str:
    """ "observation 3", "observations 3 and 7", or the first few and how many more."""
    if len(columns) == 1:
        return f"observation {columns[0]}"
    *first, last = map(str, columns[:LISTED])
    listed = f"{', '.join(first)} and {last}"
    more = len(columns) - LISTED
    if more > 0:
        listed = f"{', '.join([*first, last])} and {more} more"
    return f"observations {listed}"


def _verb(columns: Sequence[int], singular: str, plural: str) -> str:
    return singular if len(columns) == 1 else plural


# --- time ---


def _clocks(stored: np.ndarray, t: np.ndarray) -> Iterator[DataWarning]:
    """Observations that rise at every step of every episode, but not evenly."""
    follows = t[1:] > 0
    if follows.sum() < ENOUGH:
        return
    columns = np.arange(stored.shape[1])
    for part in blocks(len(follows), max(stored.shape[1], 1)):
        if not columns.size:
            return
        before = stored[part][:, columns]
        after = stored[part.start + 1 : part.stop + 1][:, columns]
        rises = (after > before) | ~follows[part, None]
        columns = columns[rises.all(0)]
    for column in columns.tolist():
        uneven = _uneven(stored[:, column], t)
        if uneven:
            yield DataWarning("time", False, f"observation {column} rises at every step, as a clock does, but {uneven}")


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
        uneven = _uneven(values, t)
        if uneven:
            yield DataWarning("time", False, f"infos/{name}: {uneven}")


def _uneven(values: np.ndarray, t: np.ndarray) -> str:
    """A phrase on the steps [N] from one time to the next in an episode; "" where they are even."""
    follows = t[1:] > 0
    steps = np.diff(values.astype(np.float64))[follows]
    usual = float(np.median(steps))
    other = np.abs(steps - usual) > 0.5 * abs(usual)
    share = float(other.mean())
    if share < UNEVEN_STEPS:
        return ""
    return (
        f"{share:.0%} of the steps take over half more or less than the usual {usual:g} (from {steps.min():g} to "
        f"{steps.max():g}); agents take all steps to last the same"
    )


# --- episodes ---


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
    rewards = np.asarray(episodes.reward)[known]
    if len(rewards) < 2 or (flags & TERMINAL).any():
        return
    value = rewards[0]
    if (rewards == value).all():
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
