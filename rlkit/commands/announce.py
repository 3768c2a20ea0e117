"""What `rlkit train` says before it trains, and when it has ended: plain lines of at most 80 columns."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path

from rlkit import ring
from rlkit.acting import is_reactive
from rlkit.commands.options import TrainOptions
from rlkit.runs import environments, registry
from rlkit.runs.job import Job
from rlkit.runs.record import Record
from rlkit.runs.run import checkpoint_numbers
from rlkit.types import InputError, Stage

WIDTH = 80  # columns
TITLE = 13  # columns
# file of a run -> what is in it
FILES = {
    "result.json": "scores, and every episode's return",
    "curve.png": "the learning curve",
    "returns.png": "what came of each return that was asked for",
    "metrics.jsonl": "losses and evaluations, a line each",
}


def opening(job: Job, folder: Path, options: TrainOptions) -> str:
    """The header: what is trained on what, evaluated in what, for how long, with which seeds, on what, and where."""
    record = job.record
    rows = [("agent", _agent(record)), ("dataset", _dataset(record, options.dataset_note))]
    rows += [("  note", note) for note in record.data.notes]
    rows.append(("environment", _environment(record)))
    if record.parent is not None:
        rows.append(("begins with", _parent(record)))
    updates = [f"{stage.name} {stage.steps:,}" for stage in job.stages]
    rows.append(("updates", ", ".join(updates)))
    rows.append(("seeds", _seeds(record.seeds)))
    rows.append(("device", record.device))
    rows.append(("folder", str(folder)))
    lines: list[str] = []
    for title, text in rows:
        lines += _filled(f"{title:{TITLE}}", text)
    return "\n".join(lines)


def closing(job: Job, folder: Path) -> str:
    """Where everything of a run that has ended was written, and the commands that can come next."""
    written = {name: what for name, what in FILES.items() if (folder / name).exists()}
    numbers = checkpoint_numbers(folder / "checkpoints")
    if numbers:
        written[f"checkpoints/{numbers[-1]}"] = "parameters and optimisers"
    width = max(map(len, written))
    lines = [f"written to {folder}:"]
    lines += [f"  {name:{width}}  {what}" for name, what in written.items()]
    lines.append("next:")
    lines += [f"  {command}" for command in _next_commands(job, folder)]
    return "\n".join(lines)


def _filled(title: str, text: str) -> list[str]:
    return textwrap.wrap(
        title + text,
        WIDTH,
        subsequent_indent=" " * TITLE,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def _agent(record: Record) -> str:
    if record.preset is None:
        return record.agent
    return f"{record.agent}, preset {record.preset}"


def _dataset(record: Record, note: str) -> str:
    data = record.data
    text = f"{data.name}: {data.episodes:,} episodes, {data.steps:,} steps"
    return f"{text} ({note})" if note else text


def _environment(record: Record) -> str:
    evaluation = record.evaluation
    if evaluation is None:
        return "no evaluations"
    name = environments.environment_name(evaluation.environment)
    return f"{name}, {evaluation.episodes} episodes each {record.eval_every:,} updates, from seed {evaluation.seed:,}"


def _parent(record: Record) -> str:
    parent = record.parent
    where = f"checkpoint {parent.checkpoint} of {parent.run}"
    return f"{where}, the optimisers anew" if parent.begins else where


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 5:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _next_commands(job: Job, folder: Path) -> list[str]:
    record = job.record
    name = shlex.quote(str(folder))
    is_typed = registry.is_typed(record.module)
    agent = f" --agent {record.module}" if is_typed else ""
    commands = []
    evaluation = record.evaluation
    if evaluation is not None:
        own = agent + "".join(f" --import {module}" for module in evaluation.imports)
        if environments.is_typed(evaluation.environment):
            own += f" --env {evaluation.environment}"
        commands.append(f"rlkit evaluate {name} --episodes 100{own}")
        commands.append(f"rlkit report {name}")
        if _can_go_online(job.stages[-1]) and not job.is_endless:
            commands.append(f"rlkit finetune {name} --online.steps 10_000{own}")
    elif is_reactive(job.stages[-1].learner):
        held_out = "" if record.data.options.get("holdout") else " --dataset OTHERS"
        commands.append(f"rlkit judge {name}{held_out}{agent}")
    typed = f", agent={record.module!r}" if is_typed else ""
    commands.append(f"policy = rlkit.load({str(folder)!r}{typed})    # in Python")
    return commands


def _can_go_online(last: Stage) -> bool:
    """Whether the learner of the last stage can learn from steps that it collects, or from episodes."""
    try:
        ring.stored_columns(last.learner.needs)
    except InputError:
        return False
    return True
