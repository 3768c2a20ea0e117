"""``rlkit train AGENT``: data in, a run directory out. What happens while it trains is in rlkit.runs.trainer."""

from __future__ import annotations

import contextlib
import re
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rlkit import messages
from rlkit.commands import Catalog, announce, collect, dry_run, judge
from rlkit.commands.options import JudgeOptions, TrainOptions
from rlkit.commands.preparation import intervals, prepare
from rlkit.runs import loggers, registry
from rlkit.runs.before import Before
from rlkit.runs.job import Job
from rlkit.runs.lock import RunLock
from rlkit.runs.progress import Waiting
from rlkit.runs.record import Record, check_longer
from rlkit.runs.run import Run, claim, finished
from rlkit.runs.scores import conclude
from rlkit.runs.stopping import Guard
from rlkit.runs.trainer import train
from rlkit.training.compilation import keep_compiled
from rlkit.types import InputError


def run(options: TrainOptions, catalog: Catalog, before: Before | None = None) -> int:
    """Train as ``options`` say. Returns the exit code, see docs/reliability.md.

    before: another run, from whose end this one goes on. Raises InputError for what the user can correct, RunError for
    a run that cannot go on, Stop if it is asked to end.
    """
    intervals(options, before)  # impossible numbers are refused before anything is read
    folder = options.out or default_folder(options)
    if options.wandb:
        loggers.import_wandb()
    keep_compiled()
    if options.dry_run:
        with reading(options):
            job = prepare(options, catalog, before)
        print(dry_run.describe(job))
        return 0
    claim(folder, options.resume)
    with RunLock(folder) as lock, Guard(options.time_limit, options.watchdog, lock.touch) as guard:
        with reading(options):
            job = prepare(options, catalog, before, guard)
        check_length(job, folder, options.config)
        with Run(folder, job.record, wandb=options.wandb, sums=job.sums) as opened:
            if finished(folder):
                print(f"{folder}: already finished")
                faults = []
                has_trained = False
            else:
                print(announce.opening(job, folder, options))
                faults = train(job, opened, guard, options.q_limit)
                has_trained = True
        guard.enter("reporting")
        conclude(folder)
        print(announce.closing(job, folder))
    if has_trained and options.data.holdout and job.make_env is None:
        judge_held_out(options, folder, catalog)
    for fault in faults:
        messages.tell(f"{folder}: {fault}")
    return 1 if faults else 0


def judge_held_out(options: TrainOptions, folder: Path, catalog: Catalog) -> None:
    """Print what the held-out episodes tell of the policy, or why nothing can be told."""
    agent = options.module if registry.is_typed(options.module) else None
    try:
        judge.run(JudgeOptions((folder,), agent=agent), catalog)
    except InputError as error:
        messages.tell(f"{folder}: not judged: {error}")


def reading(options: TrainOptions) -> AbstractContextManager:
    """Says that the data are read; steps that are played show how far they have come by themselves."""
    is_played = any(name.startswith(f"{collect.RANDOM}:") for name in options.data.names)
    if is_played:
        return contextlib.nullcontext()
    return Waiting(f"reading {options.data.title}", quiet=options.dry_run)


def check_length(job: Job, folder: Path, config: Any) -> None:
    """Raises InputError where the run in ``folder`` cannot be made as long as ``job`` is, with the agent ``config``."""
    if not (folder / "run.json").exists():
        return
    recorded = Record.read(folder)
    is_same_run = not recorded.differences(job.record)
    if is_same_run and recorded.steps != job.record.steps:
        check_longer(recorded, job.record, config, folder)


def default_folder(options: TrainOptions) -> Path:
    names = []
    for dataset in map(Path, options.data.names):
        name = dataset.stem if dataset.suffix else "-".join(dataset.parts)
        letters = re.sub(r"[^\w.-]+", "-", name).strip("-")  # random:5000, a whole path, a pattern
        names.append(letters or dataset.parent.name)
    name = "+".join(names)
    now = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{options.agent}-{name}-{now}"
