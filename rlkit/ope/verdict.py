"""A policy judged by held-out episodes: every estimator that the data allow, and why the others are not offered."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete

from rlkit import buffer as buffers
from rlkit.buffer import Buffer
from rlkit.datasets import DataOptions, Episodes, Normaliser
from rlkit.datasets.episodes import HAS_ACTION
from rlkit.evaluation import statistics
from rlkit.ope import fqe, importance, tabular
from rlkit.ope.fqe import Config, Evaluation
from rlkit.types import Spec, Stats

BEHAVIOUR = "behaviour_probability"  # column with the probability that a recorded action had
WIDTH = 80  # columns of a line
INDENT = "  "
NAME = 34  # columns of an estimator's name
TABULAR_REPLICATES = 100
CAVEAT = (
    "An interval is over the recorded episodes alone. It does not know what the data do not hold: actions that were "
    "hardly tried, and reasons for an action that no column tells."
)


class Held(NamedTuple):
    """Held-out episodes, as FQE learns from them."""

    episodes: Episodes
    buffer: Buffer  # with the column `episode`; rewards as recorded
    moments: Stats

    @property
    def cut_short(self) -> int:
        """Episodes that did not end in a terminal state."""
        return self.episodes.report.truncated_episodes


class Row(NamedTuple):
    """What one estimator says: a value with its interval, or, where it is not offered, why."""

    estimator: str
    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    refused: str = ""


class Verdict(NamedTuple):
    """What is known of one policy. title: its agent, form and run."""

    title: str
    fqe: Evaluation
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


class Judgement(NamedTuple):
    """What recorded episodes tell of one or several policies. Printed, it is what `rlkit judge` prints."""

    data: str  # name of the episodes
    held_out: bool  # whether they are none of the training
    verdicts: tuple[Verdict, ...]  # in the order of the runs
    observed: Row  # return of the recorded behaviour in the same episodes
    text: str

    def __str__(self) -> str:
        return self.text


def hold(episodes: Episodes, trained: Normaliser) -> Held:
    """The data as FQE learns from them. ``trained``: the Normaliser of the judged run.

    Actions are those of the run's own scale, rewards are as recorded, whatever transform training had, and observations
    are standardised anew, unless they are choices. Raises InputError where rewards are not known.
    """
    are_choices = isinstance(episodes.observation_space, Discrete | MultiDiscrete | MultiBinary)
    own = Normaliser.fit(episodes, DataOptions(episodes.name, normalise="none" if are_choices else "standard"))
    normaliser = own._replace(
        action_centre=trained.action_centre,
        action_half=trained.action_half,
        action_low=trained.action_low,
        action_high=trained.action_high,
        action_start=trained.action_start,
    )
    rows = Buffer.from_episodes(episodes, normaliser, ("episode",))
    return Held(episodes, rows, buffers.stats(rows))


def judge(
    held: Held,
    spec: Spec,
    policy: np.ndarray,
    config: Config,
    *,
    title: str,
    replicates: int = 20,
    seed: int = 0,
    updates: int | None = None,
) -> Verdict:
    """Everything that ``held`` tells of a policy.

    Args:
        held: the data. spec: what the agent was built for. policy: what it does at every row, see rlkit.ope.judged.
        config: of FQE. title: of the policy. replicates, seed, updates: as for rlkit.ope.fqe.evaluate.

    Returns:
        The Verdict, in the units of the recorded rewards.

    Raises:
        InputError: as rlkit.ope.fqe.evaluate does.

    Example:
        print(text([judge(held, spec, probabilities, Config(gamma=0.97), title="bc, greedy")], held, 0.97))
    """
    found = fqe.evaluate(
        held.buffer, held.moments, spec, policy, config, replicates=replicates, seed=seed, updates=updates
    )
    rows = [Row(f"FQE, {replicates} replicates", found.estimate, found.low, found.high)]
    notes = []
    needed = config.updates(int(np.max(held.episodes.t)))
    if found.updates < needed:
        notes.append(f"FQE made {found.updates:,} of the {needed:,} updates after which its start is forgotten")
    if not found.has_settled:
        notes.append(
            f"FQE has not settled: {found.halfway:.2f} after half of its {found.updates:,} updates, which differs by "
            "more than the interval is wide; --updates gives it more"
        )
    notes.append(f"alarms, no ranks: temporal differences of FQE are {found.error:.2g} (root mean square)")
    if held.buffer.action.ndim == 1:
        more_rows, more_notes = _of_choices(held, np.asarray(policy, np.float64), config.gamma, seed)
    else:
        more_rows = [Row("importance sampling", refused="actions are amounts, so a recorded one has no probability")]
        more_notes = [_distance(held, policy)]
    return Verdict(title, found, (*rows, *more_rows), (*notes, *more_notes))


def _of_choices(held: Held, policy: np.ndarray, gamma: float, seed: int) -> tuple[list[Row], list[str]]:
    """What counts and importance sampling say of a policy [R, n], and how far the data go with it."""
    episodes = held.episodes
    choices = np.asarray(held.buffer.action)
    is_step = (np.asarray(episodes.flags) & HAS_ACTION) > 0
    of_recorded = policy[np.arange(len(choices)), np.where(is_step, choices, 0)]
    notes = [_agreement(of_recorded[is_step])]
    rows = []
    number = tabular.number_states(episodes)
    fitted = None
    if number is None:
        notes.append("how often an action was tried in a state is not known: observations do not repeat")
    else:
        steps = tabular.table(episodes, number, choices, policy.shape[1])
        in_state = tabular.by_state(policy, number)
        rows.append(_counted(steps, in_state, gamma, seed))
        notes += _support(tabular.support(steps, in_state, int(np.max(episodes.t))))
        fitted = tabular.cross_fitted(steps, in_state, gamma, number, choices, np.asarray(held.buffer.extra["episode"]))

    # --- importance sampling ---
    behaviour = _behaviour(held, number, choices, policy.shape[1])
    if behaviour is None:
        why = f"the data have no column {BEHAVIOUR}, and observations do not repeat, so that actions could be counted"
        return [*rows, Row("importance sampling", refused=why)], notes
    ratios = importance.ratios(episodes, of_recorded, behaviour)
    why = importance.refusal(ratios.final(), behaviour[is_step])
    if why:
        return [*rows, Row("importance sampling", refused=why)], notes
    weights = importance.bootstrap_weights(len(ratios.start), seed)
    rows.append(_row("weighted importance sampling", importance.weighted(episodes, ratios, gamma, weights)))
    rows.append(_row("per-decision, weighted", importance.per_decision(episodes, ratios, gamma, weights)))
    if fitted is not None:
        robust = importance.doubly_robust(episodes, ratios, gamma, *fitted, weights)
        rows.append(_row("doubly robust", robust))
    notes.append("the intervals of importance sampling are a lower bound of its uncertainty")
    return rows, notes


def _agreement(of_recorded: np.ndarray) -> str:
    """How much of what was done the policy would do. of_recorded: [N] its probabilities of the recorded actions."""
    words = f"recorded actions have the probability {of_recorded.mean():.0%} on average"
    if (of_recorded > 0).all():
        words += f", and the log-likelihood {np.log(of_recorded).mean():.2f} each"
    return words


def _counted(steps: tabular.Table, policy: np.ndarray, gamma: float, seed: int) -> Row:
    """FQE in the world that was counted, as far as it goes."""
    weights = importance.bootstrap_weights(len(steps.first), seed, TABULAR_REPLICATES)
    return _row("FQE by counts, tried actions alone", tabular.replicates(steps, policy, gamma, weights))


def _row(estimator: str, values: np.ndarray) -> Row:
    """``values`` [1 + R]: the estimate, then the replicates."""
    value, replicates = values[0], values[1:]
    half = importance.WIDTH * replicates.std(ddof=1)
    return Row(estimator, float(value), float(value - half), float(value + half))


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
    episodes = held.episodes
    is_step = (np.asarray(episodes.flags) & HAS_ACTION) > 0
    recorded = episodes.infos.get(BEHAVIOUR)
    if recorded is not None and np.size(recorded) == is_step.sum():
        behaviour = np.ones(len(is_step))
        behaviour[is_step] = np.asarray(recorded, np.float64).ravel()
        return behaviour
    if number is None:
        return None
    pair = number * actions + np.where(is_step, choices, 0)
    counts = np.bincount(pair[is_step], minlength=(number.max() + 1) * actions)
    visits = np.bincount(number[is_step], minlength=number.max() + 1)
    return np.where(is_step, counts[pair] / np.maximum(visits[number], 1), 1.0)


def _distance(held: Held, policy: np.ndarray) -> str:
    """How far the policy's amounts are from the recorded ones, in the same observation."""
    is_step = (np.asarray(held.episodes.flags) & HAS_ACTION) > 0
    recorded = np.asarray(held.buffer.action)[is_step]
    distance = np.abs(policy[is_step] - recorded).mean()
    scatter = np.abs(recorded - recorded.mean(0)).mean()
    return (
        f"distance of its actions from the recorded ones: {distance:.2f} on average, where half the range is 1 (the "
        f"recorded ones are {scatter:.2f} from their own mean)"
    )


# --- in words ---


def text(verdicts: Sequence[Verdict], held: Held, gamma: float) -> str:
    """The verdicts, ranked by the lower end of FQE's interval, beside the behaviour's observed return, in lines of 80
    columns."""
    ranked = sorted(verdicts, key=lambda verdict: -verdict.fqe.low)
    observed = recorded_behaviour(held, gamma)
    lines = _filled(_estimand(held, gamma))
    lines += ["", f"{INDENT}{'':{NAME}}{'value':>12}  95 % interval"]
    for verdict in ranked:
        lines += _filled(verdict.title)
        for row in verdict.rows:
            lines += _line(row)
        for note in verdict.notes:
            lines += _filled(note, INDENT)
    lines += ["recorded behaviour", *_line(observed)]
    if held.cut_short:
        lines += _filled(
            f"{held.cut_short:,} of {len(held.episodes.starts):,} episodes were cut short: FQE goes on beyond the cut, "
            "observed and importance-sampled returns do not, so they are not compared with it",
            INDENT,
        )
    lines += ["", *_filled(_ranking(ranked, None if held.cut_short else observed)), *_filled(CAVEAT)]
    return "\n".join(lines)


def _estimand(held: Held, gamma: float) -> str:
    episodes = len(held.episodes.starts)
    steps = int(((np.asarray(held.episodes.flags) & HAS_ACTION) > 0).sum())
    discount = "not discounted" if gamma == 1 else f"discounted by {gamma:g} a step"
    return (
        f"value: mean over the first observations of {episodes:,} episodes ({steps:,} steps) of the rewards to come, "
        f"{discount}, without a time limit; rewards as recorded"
    )


def recorded_behaviour(held: Held, gamma: float) -> Row:
    """What was observed: the mean discounted return of the episodes as they were recorded."""
    returns = importance.discounted_returns(held.episodes, gamma)
    found = statistics.estimate(returns[None])
    return Row(f"observed, {len(returns):,} episodes", found.value, found.low, found.high)


def _line(row: Row) -> list[str]:
    name = f"{INDENT}{row.estimator:{NAME}}"
    if row.refused:
        return textwrap.wrap(
            f"{name} not offered: {row.refused}", WIDTH, subsequent_indent=2 * INDENT, break_on_hyphens=False
        )
    return [f"{name}{row.value:12.2f}  [{row.low:.2f}, {row.high:.2f}]"]


def _ranking(ranked: Sequence[Verdict], observed: Row | None) -> str:
    """Which policy is ahead, where the intervals tell."""
    best, *rest = ranked
    if not all(verdict.fqe.has_settled for verdict in ranked):
        return "FQE has not settled, so nothing is said of which policy is better."
    if observed is not None and observed.low > best.fqe.high:
        return "The recorded behaviour is better than every policy here: its interval lies above theirs."
    others = [verdict.title for verdict in rest if verdict.fqe.high >= best.fqe.low]
    if observed is not None and observed.high >= best.fqe.low:
        others.append("the recorded behaviour")
    if others:
        return f"Not distinguishable from {best.title}: {'; '.join(others)}."
    compared = [verdict.title for verdict in rest]
    if observed is not None:
        compared.append("the recorded behaviour")
    if not compared:
        return "There is nothing to compare the policy with."
    return f"{best.title} is ahead: its interval lies above that of {'; '.join(compared)}."


def _filled(sentence: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        sentence, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
