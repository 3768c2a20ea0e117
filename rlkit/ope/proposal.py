"""A proposal beside what was done: which actions for which, where the two differ most, how those fared who were treated
as proposed, and what the model expects of recorded courses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Discrete

from rlkit.datasets import Episodes
from rlkit.ope import tabular
from rlkit.ope.fqe import Evaluation
from rlkit.ope.held import Held

QUANTILES = (0.2, 0.4, 0.6, 0.8, 0.95)  # of the recorded amounts, between which they are sorted into bins
STRONG = 0.95  # share of the recorded actions that lie below what counts as strong
MOST_GROUPS = 20
STEPS_IN_GROUP = 50  # that a group has on average, at least
FITTED_ROWS = 20_000  # rows from which the groups are found
SWEEPS = 25
MOST_NAMED = 4  # observations that describe a group


class Decision(NamedTuple):
    """One thing that is decided at each of N steps: a choice, or an amount. Its values are sorted into B bins.

    name: of the choice or amount. labels: [B] of the bins. given: [N] bin of what was done. proposed: [N, B]
    probability of each bin under the policy. strong: [B] bool, whether a bin lies above 95 % of what was done.
    """

    name: str
    labels: tuple[str, ...]
    given: np.ndarray
    proposed: np.ndarray
    strong: np.ndarray

    def confusion(self) -> np.ndarray:
        """[B, B] steps: what was given by row, what is proposed by column."""
        table = np.zeros((len(self.labels), len(self.labels)))
        np.add.at(table, self.given, self.proposed)
        return table


def decisions(held: Held, policy: np.ndarray) -> list[Decision]:
    """What is decided at each step, as recorded and as proposed. policy: [rows, n] probabilities or [rows, A] actions
    within [-1, 1], see rlkit.ope.judged."""
    episodes = held.episodes
    is_step = held.is_step
    space = episodes.action_space
    names = episodes.names.action
    if isinstance(space, Discrete):
        given = np.asarray(held.buffer.action)[is_step]
        labels = tuple(str(space.start + number) for number in range(int(space.n)))
        counts = np.bincount(given, minlength=len(labels))
        strong = _share_below(counts) >= STRONG
        name = names[0] if names else "choice"
        return [Decision(name, labels, given, np.asarray(policy)[is_step], strong)]
    recorded = np.asarray(episodes.action, np.float64)[is_step]
    proposed = np.asarray(held.normaliser.env_action(np.asarray(policy)[is_step]), np.float64)
    found = []
    for column in range(recorded.shape[1]):
        name = names[column] if names else f"action {column}"
        found.append(_amount(name, recorded[:, column], proposed[:, column]))
    return found


def _amount(name: str, recorded: np.ndarray, proposed: np.ndarray) -> Decision:
    """Amounts [N] in bins that are bounded by quantiles of the recorded ones; what lies on a bound belongs below it."""
    edges = np.unique(np.quantile(recorded, QUANTILES))
    texts = [f"{edge:.3g}" for edge in edges]
    labels = [f"up to {texts[0]}"]
    labels += [f"{low} to {high}" for low, high in zip(texts[:-1], texts[1:], strict=True)]
    labels.append(f"above {texts[-1]}")
    given = np.searchsorted(edges, recorded)
    bins = np.searchsorted(edges, proposed)
    counts = np.bincount(given, minlength=len(labels))
    strong = _share_below(counts) >= STRONG
    return Decision(name, tuple(labels), given, np.eye(len(labels))[bins], strong)


def _share_below(counts: np.ndarray) -> np.ndarray:
    """[B] share of the recorded actions in lower bins than each."""
    before = np.cumsum(counts) - counts
    return before / counts.sum()


def episode_of_step(episodes: Episodes, is_step: np.ndarray) -> np.ndarray:
    """[N] number of the episode of each step."""
    return (np.cumsum(np.asarray(episodes.t) == 0) - 1)[is_step]


# --- where the two differ ---


class Group(NamedTuple):
    """Steps in one state, or in states that are alike.

    description: of the state. patients, steps: how many were recorded there. given, proposed: for each decision the
    most frequent bin and its share. differs: share of the steps that would have been treated otherwise, at the least.
    as_proposed, otherwise: numbers of the patients who were treated as proposed in most of their steps there, and of
    the others.
    """

    description: str
    patients: int
    steps: int
    given: tuple[tuple[str, float], ...]
    proposed: tuple[tuple[str, float], ...]
    differs: float
    as_proposed: np.ndarray
    otherwise: np.ndarray


def differing(held: Held, choices: Sequence[Decision], most: int = 5) -> list[Group]:
    """The ``most`` groups of steps in which most patients' treatment would be another one, those first."""
    is_step = held.is_step
    number, are_states = _grouped(held)
    number = number[is_step]
    patient = episode_of_step(held.episodes, is_step)
    as_proposed = _as_proposed(choices)
    groups = []
    for one in np.unique(number):
        rows = np.flatnonzero(number == one)
        groups.append((one, rows, max(_distance(choice, rows) for choice in choices)))
    groups.sort(key=lambda group: -group[2] * len(group[1]))
    found = []
    for _, rows, distance in groups[:most]:
        if distance <= 0:
            break
        found.append(_group(held, choices, rows, distance, patient[rows], as_proposed[rows], are_states))
    return found


def _grouped(held: Held) -> tuple[np.ndarray, bool]:
    """[rows] the group of each row, and whether the groups are states that repeat."""
    number = tabular.number_states(held.episodes)
    if number is not None:
        return number, True
    return _clusters(np.asarray(held.buffer.obs), int(held.is_step.sum())), False


def _clusters(obs: np.ndarray, steps: int) -> np.ndarray:
    """[rows] the nearest of some centres, found by Lloyd's algorithm among standardised observations [rows, O]."""
    count = min(max(steps // STEPS_IN_GROUP, 1), MOST_GROUPS)
    rng = np.random.default_rng(0)
    sample = obs[rng.permutation(len(obs))[:FITTED_ROWS]].astype(np.float64)
    centres = sample[:count]
    for _ in range(SWEEPS):
        nearest = _nearest(sample, centres)
        moved = [sample[nearest == one].mean(0) if (nearest == one).any() else centres[one] for one in range(count)]
        centres = np.array(moved)
    return _nearest(obs, centres)


def _nearest(obs: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """|o - c|^2 = |o|^2 - 2 o c + |c|^2, of which the first does not tell centres apart."""
    return (-2 * obs @ centres.T + (centres**2).sum(1)).argmin(1)


def _distance(choice: Decision, rows: np.ndarray) -> float:
    """Total variation between what was given and what is proposed in these steps: the share that must change."""
    bins = len(choice.labels)
    given = np.bincount(choice.given[rows], minlength=bins) / len(rows)
    return float(np.abs(given - choice.proposed[rows].mean(0)).sum() / 2)


def _as_proposed(choices: Sequence[Decision]) -> np.ndarray:
    """[N] bool: whether a step was treated as is most likely proposed, in all that is decided."""
    same = [choice.given == choice.proposed.argmax(1) for choice in choices]
    return np.all(same, axis=0)


def _group(
    held: Held,
    choices: Sequence[Decision],
    rows: np.ndarray,
    distance: float,
    patient: np.ndarray,
    as_proposed: np.ndarray,
    are_states: bool,
) -> Group:
    numbers, place = np.unique(patient, return_inverse=True)
    share = np.bincount(place, as_proposed) / np.bincount(place)
    given = []
    proposed = []
    for choice in choices:
        counts = np.bincount(choice.given[rows], minlength=len(choice.labels)) / len(rows)
        chances = choice.proposed[rows].mean(0)
        given.append((choice.labels[counts.argmax()], float(counts.max())))
        proposed.append((choice.labels[chances.argmax()], float(chances.max())))
    return Group(
        _described(held, np.flatnonzero(held.is_step)[rows], are_states),
        patients=len(numbers),
        steps=len(rows),
        given=tuple(given),
        proposed=tuple(proposed),
        differs=distance,
        as_proposed=numbers[share > 0.5],
        otherwise=numbers[share <= 0.5],
    )


def _described(held: Held, rows: np.ndarray, are_states: bool) -> str:
    """The observations of a group in words: of a state all of them, else those that differ most from the mean."""
    episodes = held.episodes
    space = episodes.observation_space
    obs = np.asarray(episodes.obs)
    if isinstance(space, Discrete) and obs.shape[1] == space.n:
        return f"state {space.start + int(obs[rows[0]].argmax())}"
    names = observation_names(episodes)
    means = obs[rows].mean(0, dtype=np.float64)
    if are_states:
        return _enough([f"{name} {value:.4g}" for name, value in zip(names, means, strict=True)])
    usual = obs.mean(0, dtype=np.float64)
    spread = obs.std(0, dtype=np.float64)
    deviation = np.abs(means - usual) / np.where(spread > 0, spread, np.inf)
    order = np.argsort(-deviation, kind="stable")[:MOST_NAMED]
    texts = [f"{names[column]} about {means[column]:.3g} (all: {usual[column]:.3g})" for column in order]
    return ", ".join(texts)


def _enough(texts: Sequence[str]) -> str:
    listed = ", ".join(texts[:MOST_NAMED])
    return listed if len(texts) <= MOST_NAMED else f"{listed}, ..."


def observation_names(episodes: Episodes) -> list[str]:
    """[O] of the columns of an observation."""
    width = episodes.obs.shape[1]
    return list(episodes.names.observation) or [f"observation {column}" for column in range(width)]


# --- recorded courses, and what the model expects of them ---


class Course(NamedTuple):
    """One recorded patient of T steps, of whom the model expects more than came.

    number: of the episode, from 0. came: what was recorded. expected: [T] what the model says is to come from each step
    on under the proposal. rows: [T] of the steps in the episodes' arrays. steps: [T] their numbers among all steps.
    """

    number: int
    came: float
    expected: np.ndarray
    rows: np.ndarray
    steps: np.ndarray


def surprising(held: Held, policy: np.ndarray, found: Evaluation, gamma: float, most: int = 3) -> list[Course]:
    """The ``most`` recorded courses of which the model expected most beyond what came, those first.

    These are to be read by somebody who knows patients: either the proposal would have helped, or the model believes
    what is not so (trajectory inspection: Ji et al. 2021). Episodes that were cut short are left out, since what came
    of them is not known; with none that ended there is no course.
    """
    episodes = held.episodes
    starts = episodes.starts
    returns = held.returns(gamma)
    expected = found.predict(held.buffer.obs[starts], policy[starts])
    surprise = np.where(held.has_ended, expected - returns, -math.inf)
    chosen = [number for number in np.argsort(-surprise, kind="stable")[:most] if surprise[number] > 0]
    if not chosen:
        return []
    stops = np.append(starts[1:], len(episodes.t)) - 1
    rows = [np.arange(starts[number], stops[number]) for number in chosen]
    together = np.concatenate(rows)
    to_come = found.predict(held.buffer.obs[together], policy[together])
    step_of_row = np.cumsum(held.is_step) - 1
    courses = []
    begin = 0
    for number, own in zip(chosen, rows, strict=True):
        expected_here = to_come[begin : begin + len(own)]
        begin += len(own)
        courses.append(Course(int(number), float(returns[number]), expected_here, own, step_of_row[own]))
    return courses
