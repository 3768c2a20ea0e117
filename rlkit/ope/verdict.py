"""A policy judged by held-out episodes: every estimator that the data allow, and why the others are not offered."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlkit.evaluation.statistics import Estimate
from rlkit.ope import fqe, importance, tabular
from rlkit.ope.fqe import Config, Evaluation, Fits
from rlkit.ope.held import Held
from rlkit.ope.replicated import Replicated
from rlkit.types import Spec

BEHAVIOUR = "behaviour_probability"  # column with the probability that a recorded action had
WIDTH = 80  # columns of a line
INDENT = "  "
NAME = 34  # columns of an estimator's name
FORGOTTEN = 0.5  # share of the updates that FQE takes, below which no policy is called better
TABULAR_REPLICATES = 100
RECORDED = "the recorded behaviour"
CAVEAT = (
    "An interval is over the recorded episodes alone. It does not know what the data do not hold: actions that were "
    "hardly tried, and reasons for an action that no column tells."
)


class Row(NamedTuple):
    """What one estimator says: a value with its interval, or, where it is not offered, why."""

    estimator: str
    value: Replicated | None = None
    gain: Replicated | None = None  # the value minus the recorded return, where the two can be compared
    refused: str = ""


class Verdict(NamedTuple):
    """What is known of one policy. title: its agent, form and run. rows: FQE's first."""

    title: str
    fqe: Evaluation
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    needed: int = 0  # updates after which FQE has forgotten its start

    @property
    def gain(self) -> Replicated | None:
        """What FQE says minus the recorded return, on the same replicates; None where episodes were cut short."""
        return self.rows[0].gain


class Judgement(NamedTuple):
    """What recorded episodes tell of one or several policies. Printed, it is what `rlkit judge` prints."""

    data: str  # name of the episodes
    held_out: bool | None  # whether training saw none of them; None where that is not known
    verdicts: tuple[Verdict, ...]  # in the order of the runs
    observed: Estimate  # return of the recorded behaviour in the same episodes
    text: str

    def __str__(self) -> str:
        return self.text


def judge(
    held: Held, spec: Spec, policy: np.ndarray, config: Config, fits: Fits = fqe.USUAL, *, title: str = "the policy"
) -> Verdict:
    """Everything that ``held`` tells of a policy.

    Args:
        held: the data. spec: what the agent was built for. policy: what it does at every row, see rlkit.ope.judged.
        config: of FQE. fits: how often and how long it is fitted. title: of the policy.

    Returns:
        The Verdict, in the units of the recorded rewards.

    Raises:
        InputError: as rlkit.ope.fqe.evaluate does.

    Example:
        print(text([judge(held, spec, probabilities, Config(gamma=0.97), title="bc, greedy")], held, 0.97))
    """
    found = fqe.evaluate(held.buffer, held.moments, spec, policy, config, fits)
    rows = [_row(f"FQE, {fits.replicates} replicates", found.value, held, config.gamma, found.weights)]
    notes = []
    needed = config.updates(int(np.max(held.episodes.t)), held.buffer.index.shape[0])
    if found.updates < needed:
        notes.append(f"FQE made {found.updates:,} of the {needed:,} updates that it takes")
    if not found.has_settled:
        notes.append(
            f"FQE has not settled: {found.halfway:.2f} after half of its {found.updates:,} updates, which differs by "
            f"more than {fqe.SETTLED:g} standard deviations of the replicates; --updates gives it more"
        )
    notes.append(f"alarms, no ranks: temporal differences of FQE are {found.error:.2g} (root mean square)")
    if held.buffer.action.ndim == 1:
        more_rows, more_notes = _of_choices(held, np.asarray(policy, np.float64), config.gamma, fits.seed)
    else:
        more_rows = [Row("importance sampling", refused="actions are amounts, so a recorded one has no probability")]
        more_notes = [_distance(held, policy)]
    return Verdict(title, found, (*rows, *more_rows), (*notes, *more_notes), needed)


def _row(estimator: str, value: Replicated, held: Held, gamma: float, weights: np.ndarray) -> Row:
    """``value`` beside the recorded return with the same ``weights`` [R, E]."""
    observed = held.replicated(gamma, weights)
    gain = None if observed is None else value.minus(observed)
    return Row(estimator, value, gain)


def _of_choices(held: Held, policy: np.ndarray, gamma: float, seed: int) -> tuple[list[Row], list[str]]:
    """What counts and importance sampling say of a policy [R, n], and how far the data go with it."""
    episodes = held.episodes
    choices = np.asarray(held.buffer.action)
    of_recorded = policy[np.arange(len(choices)), np.where(held.is_step, choices, 0)]
    notes = [_agreement(of_recorded[held.is_step])]
    rows = []
    number = tabular.number_states(episodes)
    fitted = None
    if number is None:
        notes.append("how often an action was tried in a state is not known: observations do not repeat")
    else:
        steps = tabular.table(episodes, number, choices, policy.shape[1])
        in_state = tabular.by_state(policy, number)
        weights = importance.bootstrap_weights(len(steps.first), seed, TABULAR_REPLICATES)
        value = Replicated.of(tabular.replicates(steps, in_state, gamma, weights))
        rows.append(_row("FQE by counts, tried actions alone", value, held, gamma, weights[1:]))
        notes += _support(tabular.support(steps, in_state, int(np.max(episodes.t))))
        fitted = tabular.cross_fitted(steps, in_state, gamma, number, choices, np.asarray(held.buffer.extra["episode"]))

    # --- importance sampling ---
    behaviour = _behaviour(held, number, choices, policy.shape[1])
    if behaviour is None:
        why = f"the data have no column {BEHAVIOUR}, and observations do not repeat, so that actions could be counted"
        return [*rows, Row("importance sampling", refused=why)], notes
    ratios = importance.ratios(episodes, of_recorded, behaviour)
    why = importance.refusal(ratios.final(), behaviour[held.is_step])
    if why:
        return [*rows, Row("importance sampling", refused=why)], notes
    weights = importance.bootstrap_weights(len(ratios.start), seed)
    found = {
        "weighted importance sampling": importance.weighted(episodes, ratios, gamma, weights),
        "per-decision, weighted": importance.per_decision(episodes, ratios, gamma, weights),
    }
    if fitted is not None:
        found["doubly robust"] = importance.doubly_robust(episodes, ratios, gamma, *fitted, weights)
    for name, values in found.items():
        rows.append(_row(name, Replicated.of(values), held, gamma, weights[1:]))
    notes.append("the intervals of importance sampling are a lower bound of its uncertainty")
    return rows, notes


def _agreement(of_recorded: np.ndarray) -> str:
    """How much of what was done the policy would do. of_recorded: [N] its probabilities of the recorded actions."""
    words = f"recorded actions have the probability {of_recorded.mean():.0%} on average"
    if (of_recorded > 0).all():
        words += f", and the log-likelihood {np.log(of_recorded).mean():.2f} each"
    return words


def _support(found: tabular.Support) -> list[str]:
    notes = [
        f"actions tried fewer than {tabular.FEW} times in their state: {found.policy:.0%} of its steps "
        f"({found.recorded:.0%} of the recorded ones)"
    ]
    if found.endless > 0.01:
        notes.append(
            f"{found.endless:.0%} of its episodes do not end in the world that was counted, so it has no value there"
        )
    return notes


def _behaviour(held: Held, number: np.ndarray | None, choices: np.ndarray, actions: int) -> np.ndarray | None:
    """[R] probability that each recorded action had: of the column, else by counts in states that repeat; else None."""
    is_step = held.is_step
    told = held.episodes.infos.get(BEHAVIOUR)
    if told is not None and np.size(told) == is_step.sum():
        behaviour = np.ones(len(is_step))
        behaviour[is_step] = np.asarray(told, np.float64).ravel()
        return behaviour
    if number is None:
        return None
    pair = number * actions + np.where(is_step, choices, 0)
    counts = np.bincount(pair[is_step], minlength=(number.max() + 1) * actions)
    visits = np.bincount(number[is_step], minlength=number.max() + 1)
    return np.where(is_step, counts[pair] / np.maximum(visits[number], 1), 1.0)


def _distance(held: Held, policy: np.ndarray) -> str:
    """How far the policy's amounts are from the recorded ones, in the same observation."""
    taken = np.asarray(held.buffer.action)[held.is_step]
    distance = np.abs(policy[held.is_step] - taken).mean()
    scatter = np.abs(taken - taken.mean(0)).mean()
    return (
        f"distance of its actions from the recorded ones: {distance:.2f} on average, where half the range is 1 (the "
        f"recorded ones are {scatter:.2f} from their own mean)"
    )


# --- in words ---


def ranked(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts by the lower end of FQE's interval, the highest first."""
    return sorted(verdicts, key=lambda verdict: -verdict.fqe.value.low)


def text(verdicts: Sequence[Verdict], held: Held, gamma: float) -> str:
    """The verdicts, `ranked`, beside the behaviour's observed return and with the differences between them, in lines of
    80 columns."""
    in_order = ranked(verdicts)
    observed = held.observed(gamma)
    lines = _filled(estimand(held, gamma))
    lines += ["", f"{INDENT}{'':{NAME}}{'value':>12}  95 % interval"]
    for verdict in in_order:
        lines += _filled(verdict.title)
        for row in verdict.rows:
            lines += _lines(row)
        for note in verdict.notes:
            lines += _filled(note, INDENT)
    counted = len(held.episodes.starts) if held.survived is None else int(held.has_ended.sum())
    name = f"observed, {counted:,} episodes"
    lines += ["recorded behaviour", _line(name, observed.value, observed.low, observed.high)]
    if held.cut_short:
        lines += _filled(not_compared(held), INDENT)
    if len(in_order) > 1:
        lines += ["differences between them (FQE, the same replicates of the episodes)"]
        for one, other, difference in differences(in_order):
            lines += [*_filled(one, INDENT), *_filled(f"minus {other}", INDENT), _difference("", difference)]
    lines += ["", *_filled(ranking(in_order, held, gamma)), *_filled(CAVEAT)]
    return "\n".join(lines)


def differences(in_order: Sequence[Verdict]) -> list[tuple[str, str, Replicated]]:
    """Of every pair the title of the one, that of the other, and what FQE says of the one minus the other."""
    pairs = itertools.combinations(in_order, 2)
    return [(one.title, other.title, one.fqe.value.minus(other.fqe.value)) for one, other in pairs]


def estimand(held: Held, gamma: float) -> str:
    """What the values are, in a sentence."""
    episodes = len(held.episodes.starts)
    steps = int(held.is_step.sum())
    discount = "not discounted" if gamma == 1 else f"discounted by {gamma:g} a step"
    meaning = "the recorded rewards to come"
    if held.survived is not None:
        meaning = f"survival (1: the last reward of the episode is at least {held.survived:g}, 0: it is less)"
    return (
        f"value: mean over the first observations of {episodes:,} episodes ({steps:,} steps) of {meaning}, {discount}, "
        "without a time limit"
    )


def not_compared(held: Held) -> str:
    """Why a value is not compared with the recorded return."""
    return (
        f"{held.cut_short:,} of {len(held.episodes.starts):,} episodes were cut short: FQE goes on beyond the cut, "
        "observed and importance-sampled returns do not, so they are not compared with it"
    )


def ranking(in_order: Sequence[Verdict], held: Held, gamma: float) -> str:
    """Which policy is ahead, where the differences tell. in_order: as from `ranked`."""
    for verdict in in_order:
        if verdict.fqe.updates < FORGOTTEN * verdict.needed:
            return (
                f"FQE made {verdict.fqe.updates:,} of the {verdict.needed:,} updates after which its start is "
                "forgotten, so nothing is said of which policy is better."
            )
    if not all(verdict.fqe.has_settled for verdict in in_order):
        return "FQE has not settled, so nothing is said of which policy is better."
    values = {verdict.title: verdict.fqe.value for verdict in in_order}
    observed = held.replicated(gamma, in_order[0].fqe.weights)
    if observed is not None:
        values[RECORDED] = observed
    return winner(values)


def winner(values: Mapping[str, Replicated]) -> str:
    """Which of the ``values`` by name is ahead: the one whose difference from each of the others has an interval above
    0. All must have been made with the same weights of the episodes; where none is ahead, the first is named first."""
    if len(values) == 1:
        return "There is nothing to compare the policy with."
    beaten = {}
    for name, value in values.items():
        beaten[name] = {other for other in values if other != name and value.minus(values[other]).low > 0}
    for name, others in beaten.items():
        if len(others) == len(values) - 1:
            listed = "; ".join(other for other in values if other != name)
            return f"{_capital(name)} is ahead: its difference from {listed} has an interval above 0."
    first = next(name for name in values if not any(name in others for others in beaten.values()))
    alike = [name for name in values if name != first and name not in beaten[first]]
    return f"No winner: the difference between {first} and {'; '.join(alike)} has an interval with 0 in it."


def _capital(name: str) -> str:
    """The recorded behaviour as the beginning of a sentence; a run's title is left as it is."""
    return "The recorded behaviour" if name == RECORDED else name


def _lines(row: Row) -> list[str]:
    """What an estimator says, and below it the difference from what was recorded."""
    if row.value is None:
        name = f"{INDENT}{row.estimator:{NAME}}"
        return textwrap.wrap(
            f"{name} not offered: {row.refused}", WIDTH, subsequent_indent=2 * INDENT, break_on_hyphens=False
        )
    lines = [_line(row.estimator, row.value.estimate, row.value.low, row.value.high)]
    if row.gain is not None:
        lines.append(_difference("minus the recorded return", row.gain))
    return lines


def _line(name: str, value: float, low: float, high: float) -> str:
    return f"{INDENT}{name:{NAME}}{value:12.2f}  [{low:.2f}, {high:.2f}]"


def _difference(name: str, difference: Replicated) -> str:
    value, low, high = difference.estimate, difference.low, difference.high
    return f"{2 * INDENT}{name:{NAME - len(INDENT)}}{value:+12.2f}  [{low:+.2f}, {high:+.2f}]"


def _filled(sentence: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        sentence, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
