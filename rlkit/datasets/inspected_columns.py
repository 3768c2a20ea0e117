"""What looks wrong in single columns of the observations (see inspection.py): digits that float32 loses, actions among
them, their sizes, columns that do not vary, clocks that do not go evenly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from rlkit.datasets.blocks import blocks
from rlkit.datasets.episodes import DataWarning, Episodes

SAMPLE = 20_000  # steps whose moments are taken, where no number is large
ENOUGH = 100  # steps; in fewer, a correlation or an even spacing may be chance
SAME = 0.999  # correlation from which an observation is taken to be the action
NEARLY_CONSTANT = 1e-4  # spread of a column, relative to its size, that a network does not see
LARGE = 1e3  # size of a column that networks take badly; usual inputs are about 1
UNEVEN_SIZES = 1e4  # ratio of the largest spread of a column to the smallest
SMALLEST_SPREAD = 1e-6  # what varies less is rounding, and no reason to compare sizes
SMALLEST_CHANGE = 1e-6  # what changes less from a step to the next is rounding, and no loss
LOST = 0.05  # share of a column's changes that float32 may lose
UNEVEN_STEPS = 0.01  # share of the steps whose time differs from the usual one by more than half of it
MOST_CHOICES = 64  # of a discrete action, each of which is compared with the observations
LISTED = 5  # columns that a sentence names


def inspect(episodes: Episodes, stored: np.ndarray, is_step: np.ndarray, t: np.ndarray) -> list[DataWarning]:
    """What looks wrong in the columns.

    stored: [N, O] observations of the N steps as the source stores them, or [N, 0]. is_step: [R]. t: [N].
    """
    names = _words(episodes.names.observation, episodes.obs.shape[1])
    moments = _moments(episodes, _looked_at(episodes, is_step))
    lost = dict(_lost_digits(stored, t, moments, names))
    return [
        *lost.values(),
        *_leaks(moments, episodes, names),
        *_sizes(moments, names, set(lost)),
        *_constants(moments, episodes, names, set(lost)),
        *_clocks(stored, t, names),
    ]


def _words(names: Sequence[str], number: int) -> list[str]:
    """What sentences call each of a number of components: its name, or its place. A file may name it as it likes, and
    the sentence goes to a terminal."""
    words = [str(place) for place in range(number)]
    for place, name in enumerate(names):
        if name.isprintable():
            words[place] = name
    return words


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


def _lost_digits(
    stored: np.ndarray, t: np.ndarray, moments: _Moments, names: Sequence[str]
) -> Iterator[tuple[int, DataWarning]]:
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
                f"observation {names[column]} loses digits in float32: {distinct:,} distinct values become {left:,}; "
                "subtract a number near them, such as the first of each episode, or leave the column out",
            ),
        )


def _leaks(moments: _Moments, episodes: Episodes, names: Sequence[str]) -> Iterator[DataWarning]:
    if moments.count < ENOUGH:
        return
    size = np.abs(moments.correlation)
    for column in np.flatnonzero((size > SAME).any(1)).tolist():
        component = int(size[column].argmax())
        which = ""
        if isinstance(episodes.action_space, Box) and size.shape[1] > 1:
            which = f" component {_words(episodes.names.action, size.shape[1])[component]} of"
        value = moments.correlation[column, component]
        yield DataWarning(
            "leak",
            True,
            f"observation {names[column]} is{which} the action of the same step (correlation {value:.4f}): a policy "
            "that acts does not know it yet; leave the column out, or move it to the next step",
        )


def _sizes(moments: _Moments, names: Sequence[str], known: set[int]) -> Iterator[DataWarning]:
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
            f"{_named(large, names)} {verb} far from 1 in size (observation {names[example]}: about "
            f"{size[example]:.2g}), which networks take badly; {advice}",
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
            f"observation {names[smallest]} varies by {spread.min():.2g} and observation {names[largest]} by "
            f"{spread.max():.2g}: a network hardly sees the smaller one; {advice}",
        )


def _constants(moments: _Moments, episodes: Episodes, names: Sequence[str], known: set[int]) -> Iterator[DataWarning]:
    """known: columns that something else is said of."""
    if moments.count < 2:
        return
    constant = _same_everywhere(episodes.obs, np.flatnonzero(moments.std == 0)).tolist()
    if constant:
        verb = _verb(constant, "is the same number", "are each the same number")
        pronoun = _verb(constant, "it tells", "they tell")
        sentence = f"{_named(constant, names)} {verb} at every step: {pronoun} an agent nothing"
        yield DataWarning("constant", False, sentence)
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
            f"{_named(nearly, names)} {verb} (observation {names[example]}: {mean:.6g}, give or take {std:.2g})",
        )


def _same_everywhere(obs: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Those of the ``columns`` that are one number in all rows."""
    for part in blocks(len(obs), obs.shape[1]):
        if not columns.size:
            break
        is_same = (obs[part, columns] == obs[0, columns]).all(0)
        columns = columns[is_same]
    return columns


def _named(columns: Sequence[int], names: Sequence[str]) -> str:
    """ "observation 3", "observations 3 and 7", or the first few and how many more."""
    if len(columns) == 1:
        return f"observation {names[columns[0]]}"
    *first, last = [names[column] for column in columns[:LISTED]]
    listed = f"{', '.join(first)} and {last}"
    more = len(columns) - LISTED
    if more > 0:
        listed = f"{', '.join([*first, last])} and {more} more"
    return f"observations {listed}"


def _verb(columns: Sequence[int], singular: str, plural: str) -> str:
    return singular if len(columns) == 1 else plural


def _clocks(stored: np.ndarray, t: np.ndarray, names: Sequence[str]) -> Iterator[DataWarning]:
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
        phrase = uneven(stored[:, column], t)
        if phrase:
            sentence = f"observation {names[column]} rises at every step, as a clock does, but {phrase}"
            yield DataWarning("time", False, sentence)


def uneven(values: np.ndarray, t: np.ndarray) -> str:
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
