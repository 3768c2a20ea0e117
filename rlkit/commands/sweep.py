"""``rlkit train AGENT --sweep config.beta=1,3,10``: a run for each value, a table and a figure of the score over it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from rlkit import buffer, messages, online
from rlkit.commands import Catalog, announce, dry_run, judge
from rlkit.commands import train as commands_train
from rlkit.commands.grid import Point, SweepOptions
from rlkit.commands.options import JudgeOptions, TrainOptions
from rlkit.commands.preparation import prepare
from rlkit.evaluation import figures, tables
from rlkit.evaluation.figures import Swept
from rlkit.evaluation.tables import Row
from rlkit.runs import registry, serialization
from rlkit.runs.job import Job
from rlkit.runs.lock import RunLock
from rlkit.runs.record import Record
from rlkit.runs.run import Run, claim, final_metrics, finished
from rlkit.runs.scores import conclude, data_row, heading, label_of, run_row, sound_evaluations
from rlkit.runs.stopping import Guard
from rlkit.runs.sweep import Member, Outcome, alone, groups, train
from rlkit.training.compilation import keep_compiled
from rlkit.types import InputError

FIGURE = "sweep.png"


def run(options: SweepOptions, catalog: Catalog) -> int:
    """Train a run for each point, in a folder of its own below ``--out``, and compare them. Returns the exit code.

    Raises InputError for what the user can correct, Stop if it is asked to end. A run that fails is told in one line,
    and the others go on.
    """
    wanted = options.train
    if wanted.wandb:
        raise InputError("--wandb does not go with --sweep: it follows one run at a time")
    root = wanted.out or commands_train.default_folder(wanted)
    folders = [root / point.label for point in options.points]
    keep_compiled()
    if wanted.dry_run:
        print(dry_run.describe(_jobs(options, catalog)[0]))
        labels = [point.label for point in options.points]
        print(f"\na sweep of {len(labels)} runs: {', '.join(labels)}; the figures above are those of the first")
        return 0
    if (root / "run.json").exists():
        raise InputError(f"{root} holds a run: choose another --out for the runs of a sweep")
    for folder in folders:
        claim(folder, wanted.resume)
    with ExitStack() as stack:
        locks = [stack.enter_context(RunLock(folder)) for folder in folders]

        def touch() -> None:
            for lock in locks:
                lock.touch()

        guard = stack.enter_context(Guard(wanted.time_limit, wanted.watchdog, touch))
        with commands_train.reading(wanted):
            jobs = _jobs(options, catalog)
        for job, point, folder in zip(jobs, options.points, folders, strict=True):
            commands_train.check_length(job, folder, point.config)
        print(announce.opening(jobs[0], root, wanted))
        members = []
        for job, point, folder in zip(jobs, options.points, folders, strict=True):
            opened = stack.enter_context(Run(folder, job.record, sums=job.sums))
            members.append(Member(point.label, job, opened))
        faults = _train(members, guard, wanted.q_limit)
        guard.enter("reporting")
        _compare(root, options, folders, catalog)
    for fault in faults:
        messages.tell(fault)
    return 1 if faults else 0


def _jobs(options: SweepOptions, catalog: Catalog) -> list[Job]:
    """A job for each point; they share the data."""
    first: Job | None = None
    jobs = []
    for point in options.points:
        wanted = replace(options.train, config=point.config)
        if first is None:
            first = prepare(wanted, catalog)
            jobs.append(first)
        else:
            jobs.append(_sibling(first, wanted, catalog))
    return jobs


def _sibling(job: Job, options: TrainOptions, catalog: Catalog) -> Job:
    """The job of ``options``, which differ from those of ``job`` in the config alone."""
    record = job.record
    stages = online.stages(options.config, record.spec, options.steps, record.online)
    needs_more = buffer.needs(stages) != buffer.needs(job.stages)
    if needs_more or options.init_from is not None:  # whose arrays may be others with these settings
        return prepare(options, catalog)
    sibling = replace(
        record,
        config=serialization.encode(options.config),
        stages=tuple((stage.name, stage.steps) for stage in stages),
    )
    return job._replace(record=sibling, stages=stages)


def _train(members: Sequence[Member], guard: Guard, q_limit: float | None) -> list[str]:
    """Train those that are not finished, side by side where one program can; returns what went wrong."""
    left = []
    for member in members:
        if finished(member.run.folder):
            print(f"{member.run.folder}: already finished")
        else:
            left.append(member)
    faults = []
    for group in groups(left):
        together = f" and {len(group) - 1} more, side by side" if len(group) > 1 else ""
        print(f"training {group[0].label}{together}", flush=True)
        outcomes: Mapping[str, Outcome]
        if len(group) > 1:
            outcomes = train(group, guard, q_limit)
        else:
            outcomes = {group[0].label: alone(group[0], guard, q_limit)}
        for member in group:
            outcome = outcomes[member.label]
            if outcome.is_complete:
                conclude(member.run.folder, show=False)
            faults += outcome.faults
    return faults


def _compare(root: Path, options: SweepOptions, folders: Sequence[Path], catalog: Catalog) -> None:
    """Print and write the table of the finished runs, and draw the score, or the return, over the value. Of runs that
    were not evaluated there are their last metrics, and what held-out episodes tell."""
    rows: list[Row] = []
    firsts: dict[Point, Row] = {}  # the line of each point's first goal, which is its score
    done: dict[str, Path] = {}  # label of a finished run -> its folder
    for point, folder in zip(options.points, folders, strict=True):
        if not finished(folder):
            continue
        record = Record.read(folder)
        if not rows:
            rows.append(data_row(record))
            title = heading(record)
        done[point.label] = folder
        for goal, evaluated in sound_evaluations(folder).items():
            row = run_row(label_of(point.label, goal), record, evaluated)
            firsts.setdefault(point, row)
            rows.append(row)
    if not rows:
        return
    print(title)
    tables.show(rows)
    text = [title, tables.table(rows)]
    if not firsts:
        metrics = _last_metrics(done)
        print(metrics)
        text.append(metrics)
    serialization.write_text(root / "table.txt", "\n".join([*text, ""]))
    figure = ""
    if firsts:
        figure = f", {FIGURE}"
        _draw(root / FIGURE, options.points, firsts, rows[0], record.data.name)
    else:
        judged = _held_out(done, options.train, catalog)  # which takes its time
        print(judged)
        serialization.write_text(root / "table.txt", "\n".join([*text, judged, ""]))
    print(f"written to {root}: a run directory for each value, table.txt{figure}")


def _last_metrics(done: Mapping[str, Path]) -> str:
    """The last metrics of the runs in ``done``, by their labels, and why there is no more of them."""
    columns = {}
    for label, folder in done.items():
        metrics = {}
        for name, values in final_metrics(folder).items():
            of_seeds = np.array(values, np.float64)
            sound = of_seeds[np.isfinite(of_seeds)]  # those that diverged are NaN
            metrics[name] = float(sound.mean()) if sound.size else np.nan
        columns[label] = metrics
    why = (
        "No run was evaluated, so there is neither a score nor a figure: an evaluation needs an environment (--env). "
        "These are the last metrics, means over the seeds; losses do not tell which policy is better."
    )
    lines = textwrap.wrap(why, announce.WIDTH, break_on_hyphens=False)
    return "\n".join(["", *lines, *tables.side_by_side(columns, announce.WIDTH), ""])


def _held_out(done: Mapping[str, Path], options: TrainOptions, catalog: Catalog) -> str:
    """What held-out episodes tell of the runs in ``done``, or what would."""
    if not options.data.holdout:
        advice = "Held-out episodes tell more: --holdout 0.2 keeps a fifth of them, and rlkit judge takes other data."
        return textwrap.fill(advice, announce.WIDTH, break_on_hyphens=False)
    agent = options.module if registry.is_typed(options.module) else None
    try:
        return str(judge.judgement(JudgeOptions(tuple(done.values()), agent=agent), catalog))
    except InputError as error:
        return f"not judged by the held-out episodes: {error}"


def _draw(path: Path, points: Sequence[Point], firsts: Mapping[Point, Row], data: Row, title: str) -> None:
    """Draw the score over the value, or the return where one of the runs has no score."""
    is_scored = all(row.score is not None for row in firsts.values())
    level = data.score if is_scored else data.returns
    try:
        figures.over_values(
            path,
            _lines(firsts, is_scored),
            title=title,
            xlabel=points[0].values[0][0],
            ylabel="normalised score" if is_scored else "return",
            levels={"data": level.value},
        )
    except (ImportError, OSError, RuntimeError, ValueError) as error:  # the runs are done, with or without the picture
        messages.tell(f"the figure could not be drawn: {error}")


def _lines(firsts: Mapping[Point, Row], is_scored: bool) -> list[Swept]:
    """A line over the values of the first setting for each combination of the others."""
    by_others: dict[str, dict[str, Row]] = {}
    for point, row in firsts.items():
        (_, value), *others = point.values
        label = ", ".join(f"{name}={text}" for name, text in others)
        by_others.setdefault(label, {})[value] = row
    lines = []
    for label, found in by_others.items():
        estimates = [row.score if is_scored else row.returns for row in found.values()]
        lines.append(Swept(label, list(found), estimates))
    return lines
