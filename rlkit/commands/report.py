"""Scores of runs: the result and the figures of one, and ``rlkit report``, a table and figures of several."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlkit.commands import World
from rlkit.commands.options import ReportOptions
from rlkit.evaluation import tables
from rlkit.evaluation.evaluate import score
from rlkit.evaluation.statistics import Estimate, estimate, last_fifth
from rlkit.evaluation.tables import Asked, Curve, Row
from rlkit.runs import serialization
from rlkit.runs.run import Evaluated, Record, diverged, evaluations_by_goal, final_metrics
from rlkit.types import InputError, RunError

ASKED = "returns.png"  # the figure of what was asked for and what came


def run(options: ReportOptions, world: World) -> int:
    """Print one table of the runs, the data first; with ``--out`` write it and the figures there."""
    labels, records, found, last = [], [], [], {}
    run_records = [Record.read(folder) for folder in options.runs]
    for folder, record, label in zip(options.runs, run_records, _labels(options.runs, run_records), strict=True):
        by_goal = evaluations_by_goal(folder)
        if not by_goal:
            raise InputError(f"{folder} has no evaluations to report")
        last[label] = record, _last(by_goal, diverged(folder))
        for goal, every in by_goal.items():
            sound = _sound(every, diverged(folder))
            if not sound:
                raise InputError(f"{folder}: every seed diverged, so there is nothing to report")
            labels.append(label_of(label, goal))
            records.append(record)
            found.append(sound)
    data = {record.data.name: record for record in records}
    rows = [data_row(record, "data" if len(data) == 1 else f"data ({name})") for name, record in data.items()]
    rows += [_run_row(label, record, one) for label, record, one in zip(labels, records, found, strict=True)]
    headings = [heading(record) for record in data.values()]
    print(*headings, sep="\n")
    tables.show(rows)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        serialization.write_text(options.out / "table.txt", "\n".join([*headings, tables.table(rows), ""]))
        _draw(options.out / "curve.png", labels, records, found)
        draw_asked(options.out / ASKED, last)
    return 0


def conclude(folder: Path) -> None:
    """Write result.json and the figures from what the run in ``folder`` has logged, and print its table."""
    record, by_goal = Record.read(folder), evaluations_by_goal(folder)
    lost = diverged(folder)
    sound = {goal: _sound(every, lost) for goal, every in by_goal.items()}
    found = next(iter(sound.values()), [])
    data = data_row(record)
    result: dict[str, Any] = {"updates": sum(steps for _, steps in record.stages), "data": data._asdict()}
    result["metrics"] = final_metrics(folder)
    rows = [data]
    if found:
        rows += [_run_row(label_of(record.agent, goal), record, one) for goal, one in sound.items()]
        late = estimate(_last_fifth(found))
        episodes = next(iter(by_goal.values()))[-1].returns  # NaN for the seeds that diverged
        result |= {"run": {**rows[1]._asdict(), "late_returns": late, "episode_returns": episodes}}
        result |= {"further_goals": [row._asdict() for row in rows[2:]]} if len(rows) > 2 else {}
    try:
        serialization.write_json(folder / "result.json", result)
    except OSError as error:
        raise RunError(
            f"{folder}/result.json cannot be written ({error.strerror}): make room, and --resume auto writes it"
        ) from error
    print(heading(record))
    tables.show(rows)
    if found:
        try:
            labels = [label_of(record.agent, goal) for goal in sound]
            _draw(folder / "curve.png", labels, [record] * len(labels), list(sound.values()))
            draw_asked(folder / ASKED, {record.agent: (record, _last(by_goal, lost))})
        except (
            ImportError,
            OSError,
            RuntimeError,
            ValueError,
        ) as error:  # the run is done, with or without its picture
            print(f"rlkit: the figures could not be drawn: {error}", file=sys.stderr)


def _sound(found: Sequence[Evaluated], lost: set[int]) -> list[Evaluated]:
    """The evaluations without the seeds that diverged, those in ``lost`` or before the last one; none if all have."""
    if not found:
        return []
    sound = np.isfinite(found[-1].returns).all(1)
    sound[list(lost)] = False
    return [one._replace(returns=one.returns[sound], lengths=one.lengths[sound]) for one in found if sound.any()]


def _last(by_goal: Mapping[str, Sequence[Evaluated]], lost: set[int]) -> dict[str, np.ndarray]:
    """Label of a goal -> the [S, episodes] returns of the last evaluation, without the seeds that diverged."""
    return {goal: sound[-1].returns for goal, every in by_goal.items() if (sound := _sound(every, lost))}


def draw_asked(path: Path, runs: Mapping[str, tuple[Record, Mapping[str, np.ndarray]]]) -> None:
    """The returns that came against those that were asked for, where a run was asked for at least two.

    runs: label -> (record, label of a goal -> [S, episodes] returns). A goal is a return if its label is a number. Runs
    that were asked for nothing are horizontal lines. Nothing is drawn where no run was asked for several returns.
    """
    asked, levels = [], {}
    for label, (_, by_goal) in runs.items():
        targets = {goal: number for goal in by_goal if (number := _number(goal)) is not None}
        if len(targets) > 1:
            asked.append(Asked(label, list(targets.values()), np.array([by_goal[goal] for goal in targets])))
        elif "" in by_goal:
            levels[label] = float(by_goal[""].mean())
    if not asked:
        return
    records = [record for record, _ in runs.values()]
    best = {_largest_return(record) for record in records}
    title = ", ".join(dict.fromkeys(record.data.name for record in records))
    tables.asked_and_achieved(path, asked, title=title, best=best.pop() if len(best) == 1 else None, levels=levels)


def _number(goal: str) -> float | None:
    try:
        return float(goal)
    except ValueError:
        return None


def _largest_return(record: Record) -> float | None:
    """Of the data, in the environment's units; None where it does not follow from what agents see."""
    spec, returns = record.spec, record.stats.get("returns")
    if returns is None or spec.reward_shift or not spec.reward_scale:
        return None
    return max(float(value) / spec.reward_scale for value in (returns[0], returns[2]))


def label_of(agent: str, goal: str) -> str:
    """What a row or a curve is called: the agent, and what it was asked for."""
    return f"{agent}, asked for {goal}" if goal else agent


def heading(record: Record) -> str:
    """The dataset's name, and what its scores mean."""
    reference = record.reference
    if reference is None:
        return f"{record.data.name}: no reference returns are known, so there are no scores"
    low, high = f"{reference.random:.1f}", f"{reference.expert:.1f}"
    return f"{record.data.name}: score 0 is a return of {low}, 100 is {high} (source: {reference.source})"


def data_row(record: Record, label: str = "data") -> Row:
    """The line of the data that a run was trained on."""
    data = record.data
    scores = _scaled(record, data.mean_return)
    return Row(label, data.mean_return, scores)


def score_row(label: str, record: Record, returns: np.ndarray, late: np.ndarray | None = None) -> Row:
    """The line of [S, episodes] returns of the seeds that did not diverge; ``late`` are those over the last fifth of
    training."""
    seeds, sound = len(record.seeds), len(returns)
    label = label if sound == seeds else f"{label} ({seeds - sound} of {seeds} seeds diverged)"
    scores = _scores(record, returns)
    return tables.row(label, returns, scores, None if late is None or scores is None else _scores(record, late))


def _run_row(label: str, record: Record, found: Sequence[Evaluated]) -> Row:
    return score_row(label, record, found[-1].returns, _last_fifth(found))


def _last_fifth(found: Sequence[Evaluated]) -> np.ndarray:
    return last_fifth([evaluated.position.step for evaluated in found], [evaluated.returns for evaluated in found])


def _scores(record: Record, returns: np.ndarray) -> np.ndarray | None:
    reference = record.reference
    return None if reference is None else score(returns, (reference.random, reference.expert))


def _scaled(record: Record, returns: Estimate) -> Estimate | None:
    scores = _scores(record, np.array(returns[:3]))
    return None if scores is None else Estimate(*scores.tolist(), returns.over)


def _labels(folders: Sequence[Path], records: Sequence[Record]) -> list[str]:
    """The agents' names, with the folder where that alone does not tell the runs apart."""
    names = [record.agent for record in records]
    return [
        name if names.count(name) == 1 else f"{name} ({folder})" for name, folder in zip(names, folders, strict=True)
    ]


def _draw(path: Path, labels: Sequence[str], records: Sequence[Record], found: Sequence[Sequence[Evaluated]]) -> None:
    """Learning curves over the last stage: scores where every run has reference scores, else returns."""
    scored = all(record.reference for record in records)

    def shown(record: Record, returns: Any) -> np.ndarray:
        return _scores(record, returns) if scored else np.asarray(returns)

    curves = []
    for label, record, evaluated in zip(labels, records, found, strict=True):
        returns = np.array([one.returns for one in evaluated])
        curves.append(Curve(label, [one.position.step for one in evaluated], shown(record, returns)))
    levels = {f"data ({record.data.name})": float(shown(record, record.data.mean_return.value)) for record in records}
    title = ", ".join(dict.fromkeys(record.data.name for record in records))
    tables.learning_curve(path, curves, title=title, ylabel="normalised score" if scored else "return", levels=levels)
