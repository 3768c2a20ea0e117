"""Scores of runs, read from their folders: rows of a table, learning curves, and the result of a finished run."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlkit import messages
from rlkit.evaluation import figures, tables
from rlkit.evaluation.evaluate import score
from rlkit.evaluation.figures import Asked, Curve
from rlkit.evaluation.statistics import Estimate, estimate, last_fifth
from rlkit.evaluation.tables import Row
from rlkit.runs import serialization
from rlkit.runs.record import Record
from rlkit.runs.run import Evaluated, diverged, evaluations_by_goal, final_metrics
from rlkit.types import RunError

ASKED = "returns.png"  # the figure of what was asked for and what came
WIDTH = 80  # columns of a line of text


def conclude(folder: Path, *, show: bool = True) -> None:
    """Write result.json and the figures from what the run in ``folder`` has logged, and print its table unless it is
    not to be shown."""
    record = Record.read(folder)
    by_goal = sound_evaluations(folder)
    rows = [data_row(record)]
    for goal, evaluated in by_goal.items():
        label = label_of(record.agent, goal)
        rows.append(run_row(label, record, evaluated))
    switch = switch_rows(record.agent, record, by_goal)
    result = _result(folder, record, rows, switch)
    try:
        serialization.write_json(folder / "result.json", result)
    except OSError as error:
        raise RunError(
            f"{folder}/result.json cannot be written ({error.strerror}): make room, and --resume auto writes it"
        ) from error
    if show:
        print(textwrap.fill(heading(record), WIDTH, break_on_hyphens=False))
        data, *goals = rows
        tables.show([data, *switch.values(), *goals])
    if not by_goal:
        return
    labels = [label_of(record.agent, goal) for goal in by_goal]
    records = [record] * len(labels)
    try:
        draw_curves(folder / "curve.png", labels, records, list(by_goal.values()))
        draw_asked(folder / ASKED, {record.agent: (record, last_returns(by_goal))})
    except (ImportError, OSError, RuntimeError, ValueError) as error:  # the run is done, with or without its pictures
        messages.tell(f"the figures could not be drawn: {error}")


def _result(folder: Path, record: Record, rows: Sequence[Row], switch: Mapping[str, Row]) -> dict[str, Any]:
    """The content of result.json. ``rows``: the data, then the goals that were evaluated. ``switch``: `switch_rows`."""
    data, *goals = rows
    result: dict[str, Any] = {
        "updates": sum(steps for _, steps in record.stages),
        "data": data._asdict(),
        "metrics": final_metrics(folder),
    }
    if not goals:
        return result
    first, *further = goals
    goal, sound = next(iter(sound_evaluations(folder).items()))
    *_, last = evaluations_by_goal(folder)[goal]
    result["run"] = first._asdict()
    late = _last_fifth(record, sound)
    result["run"]["late_returns"] = None if late is None else estimate(late)
    result["run"]["episode_returns"] = last.returns  # NaN for the seeds that diverged
    for name, row in switch.items():
        result[name] = row._asdict()
    if further:
        result["further_goals"] = [row._asdict() for row in further]
    return result


def sound_evaluations(folder: Path) -> dict[str, list[Evaluated]]:
    """Label of a goal -> its evaluations in the run in ``folder``, without the seeds that diverged.

    Left out are the seeds that training declared diverged and those without a finite return in the last evaluation. A
    goal for which no seed is left is left out too.
    """
    lost = list(diverged(folder))
    by_goal = {}
    for goal, evaluated in evaluations_by_goal(folder).items():
        last = evaluated[-1]
        is_sound = np.isfinite(last.returns).all(1)
        is_sound[lost] = False
        if not is_sound.any():
            continue
        by_goal[goal] = []
        for one in evaluated:
            kept = one._replace(
                returns=one.returns[is_sound], lengths=one.lengths[is_sound], success=one.success[is_sound]
            )
            by_goal[goal].append(kept)
    return by_goal


# --- words ---


def label_of(agent: str, goal: str) -> str:
    """Name of a row or a curve: the agent, and what it was asked for."""
    return f"{agent}, asked for {goal}" if goal else agent


def heading(record: Record) -> str:
    """Name of the dataset, and the returns that have the scores 0 and 100."""
    name = record.data.name
    reference = record.reference
    if reference is None:
        nothing = "nothing was evaluated" if record.evaluation is None else "no reference returns are known"
        why = record.unscored or nothing
        return f"{name}: no scores: {why}"
    low = f"{reference.random:.1f}"
    high = f"{reference.expert:.1f}"
    return f"{name}: score 0 is a return of {low}, 100 is {high} (source: {reference.source})"


# --- rows ---


def data_row(record: Record, label: str = "data") -> Row:
    """The line of the data that a run was trained on."""
    returns = record.data.mean_return
    scores = _scores(record, np.array(returns[:3]))
    if scores is None:
        return Row(label, returns)
    value, low, high = scores.tolist()
    return Row(label, returns, Estimate(value, low, high, returns.over))


def score_row(
    label: str, record: Record, returns: np.ndarray, success: np.ndarray, late: np.ndarray | None = None
) -> Row:
    """The line of a run.

    Args:
        label: its first cell; the number of seeds that diverged is added.
        record: the run's.
        returns: [S, episodes] of the S seeds that did not diverge.
        success: [S, episodes], 1 or 0; NaN where the environment does not tell.
        late: [S, episodes], means over the last fifth of training.
    """
    seeds = len(record.seeds)
    sound = len(returns)
    if sound < seeds:
        label = f"{label} ({seeds - sound} of {seeds} seeds diverged)"
    scores = _scores(record, returns)
    late_scores = None
    if late is not None:
        late_scores = _scores(record, late)
    return tables.row(label, returns, scores, late_scores, success)


def run_row(label: str, record: Record, evaluated: Sequence[Evaluated]) -> Row:
    """The line of a run's evaluations, those of one goal."""
    last = evaluated[-1]
    late = _last_fifth(record, evaluated)
    return score_row(label, record, last.returns, last.success, late)


def _last_fifth(record: Record, evaluated: Sequence[Evaluated]) -> np.ndarray | None:
    """Of the last stage, and of the evaluations from the starts of the last one: a run may have gone on with others.
    None where the run has not come to the last fifth of what it is to train."""
    end = evaluated[-1]
    if end.position.stage < len(record.stages) - 1:
        return None
    planned = record.stages[-1][1] if record.stages else None
    last = [one for one in evaluated if one.position.stage == end.position.stage and one.starts == end.starts]
    steps = [one.position.step for one in last]
    returns = [one.returns for one in last]
    return last_fifth(steps, returns, planned)


def switch_rows(name: str, record: Record, by_goal: Mapping[str, Sequence[Evaluated]]) -> dict[str, Row]:
    """The lines of a run that went online, for the goal that is its score: the last evaluation before it did, and the
    evaluation since whose mean return is the lowest. What came in the end is the run's own line.

    None where it did not go online, or was not evaluated on both sides.
    """
    if record.online_from is None or not by_goal:
        return {}
    goal, evaluated = next(iter(by_goal.items()))
    offline = [one for one in evaluated if one.position.stage < record.online_from]
    since = [one for one in evaluated if one.position.stage >= record.online_from]
    if not offline or not since:
        return {}
    lowest = min(since, key=lambda one: one.returns.mean())
    label = label_of(name, goal)
    after = lowest.position.updates - offline[-1].position.updates
    return {
        "before_online": score_row(f"{label}, before online", record, offline[-1].returns, offline[-1].success),
        "lowest_online": score_row(
            f"{label}, lowest online (after {after} updates)", record, lowest.returns, lowest.success
        ),
    }


def _scores(record: Record, returns: np.ndarray) -> np.ndarray | None:
    reference = record.reference
    if reference is None:
        return None
    return score(returns, (reference.random, reference.expert))


# --- curves ---


def draw_curves(
    path: Path, labels: Sequence[str], records: Sequence[Record], evaluated: Sequence[Sequence[Evaluated]]
) -> None:
    """Draw learning curves, from the first stage on that was evaluated, in a panel for each dataset: scores where every
    run on it has references for them, else returns."""
    by_dataset: dict[str, list[int]] = {}
    for number, record in enumerate(records):
        by_dataset.setdefault(record.data.name, []).append(number)
    panels = []
    for name, numbers in by_dataset.items():
        level = f"data ({name})" if len(by_dataset) == 1 else "data"
        of_dataset = [(labels[number], records[number], evaluated[number]) for number in numbers]
        panels.append(_curve_panel(name, level, of_dataset))
    figures.learning_curves(path, panels)


def _curve_panel(name: str, level: str, runs: Sequence[tuple[str, Record, Sequence[Evaluated]]]) -> figures.CurvePanel:
    """The curves on the dataset ``name``. level: label of the line at the mean of the data."""
    is_scored = all(record.reference for _, record, _ in runs)

    def scaled(record: Record, returns: Any) -> np.ndarray:
        if is_scored:
            return _scores(record, returns)
        return np.asarray(returns)

    curves = []
    for label, record, run in runs:
        earlier = run[0].position.updates - run[0].position.step  # of stages that were not evaluated
        steps = [one.position.updates - earlier for one in run]
        values = [scaled(record, one.returns) for one in run]
        switch = None
        if record.online_from is not None:
            offline = record.stages[: record.online_from]
            switch = sum(updates for _, updates in offline) - earlier
        curves.append(Curve(label, steps, values, switch))
    _, last, _ = runs[-1]
    ylabel = "normalised score" if is_scored else "return"
    levels = {level: float(scaled(last, last.data.mean_return.value))}
    return figures.CurvePanel(name, curves, ylabel, levels)


# --- what came of what was asked for ---


def last_returns(by_goal: Mapping[str, Sequence[Evaluated]]) -> dict[str, np.ndarray]:
    """Label of a goal -> the [S, episodes] returns of its last evaluation."""
    return {goal: evaluated[-1].returns for goal, evaluated in by_goal.items()}


def draw_asked(path: Path, runs: Mapping[str, tuple[Record, Mapping[str, np.ndarray]]]) -> bool:
    """Draw the returns that came against those that were asked for, where a run was asked for at least two; whether one
    was.

    runs: label -> (record, label of a goal -> [S, episodes] returns). A goal is a return if its label is a number. Runs
    that were asked for nothing are horizontal lines. Nothing is drawn where no run was asked for several returns.
    """
    asked = []
    levels = {}
    for label, (_, by_goal) in runs.items():
        targets = {goal: _number(goal) for goal in by_goal if _number(goal) is not None}
        if len(targets) > 1:
            returns = np.array([by_goal[goal] for goal in targets])
            asked.append(Asked(label, list(targets.values()), returns))
        elif "" in by_goal:
            levels[label] = float(by_goal[""].mean())
    if not asked:
        return False
    records = [record for record, _ in runs.values()]
    largest = {_largest_return(record) for record in records}
    best = largest.pop() if len(largest) == 1 else None
    names = dict.fromkeys(record.data.name for record in records)
    figures.asked_and_achieved(path, asked, title=", ".join(names), best=best, levels=levels)
    return True


def _number(goal: str) -> float | None:
    try:
        return float(goal)
    except ValueError:
        return None


def _largest_return(record: Record) -> float | None:
    """Of the data, in the environment's units; None where it does not follow from what agents see."""
    spec = record.spec
    returns = record.stats.get("returns")
    if returns is None or spec.reward_shift or not spec.reward_scale:
        return None
    least, _, largest = returns
    return max(least / spec.reward_scale, largest / spec.reward_scale)
