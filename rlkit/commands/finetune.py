"""``rlkit finetune RUN``: a run goes on online, in a run directory of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlkit.commands import Catalog, train
from rlkit.commands.options import FinetuneOptions, TrainOptions
from rlkit.runs import environments
from rlkit.runs.before import Before
from rlkit.runs.record import recorded_data
from rlkit.types import InputError


def run(options: FinetuneOptions, catalog: Catalog) -> int:
    """Go on as ``options`` say, on the run's own data and in its environment. Returns the exit code of `train.run`."""
    wanted, before = resolve(options)
    return train.run(wanted, catalog, before)


def resolve(options: FinetuneOptions) -> tuple[TrainOptions, Before]:
    """The options of the run that is to come, and the run from whose end it goes on. Raises InputError where nothing
    is to be collected, or where there is no such run."""
    if not options.online.steps:
        raise InputError("finetune collects steps in the environment: say how many with --online.steps")
    before = Before.read(options.run)
    record = before.record
    data = recorded_data(record, options.run)
    evaluation = record.evaluation
    episodes, seed = options.eval_episodes, options.eval_seed
    if options.env:
        data = replace(data, env=options.env)
    elif evaluation is not None:
        environments.again(evaluation, options.imports)  # it is in `data`, or the data name it again
    elif data.env:
        environments.check_imports_nothing(data.env)
    if evaluation is not None:
        episodes = evaluation.episodes if episodes is None else episodes
        seed = evaluation.seed if seed is None else seed
    wanted = TrainOptions(
        config=options.config,
        data=data,
        online=options.online,
        agent=record.agent,
        module=record.module,
        steps=record.steps,
        seeds=len(record.seeds),
        seed=record.seeds[0],
        out=options.out or _beside(options.run),
        preset=record.preset,
        resume=options.resume,
        eval_every=options.eval_every,
        eval_episodes=episodes,
        log_every=options.log_every,
        time_limit=options.time_limit,
        watchdog=options.watchdog,
        q_limit=options.q_limit,
        dry_run=options.dry_run,
        imports=options.imports,
        wandb=options.wandb,
        words=options.words,
    )
    if seed is not None:
        wanted = replace(wanted, eval_seed=seed)
    return wanted, before


def _beside(folder: Path) -> Path:
    """Where the run goes by default."""
    return folder.with_name(f"{folder.resolve().name}-online")
