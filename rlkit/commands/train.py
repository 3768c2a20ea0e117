"""``rlkit train AGENT``: data in, a run directory out. What happens while it trains is in rlkit.runs.trainer."""

from __future__ import annotations

import contextlib
import functools
import glob
import math
import platform
import re
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np

from rlkit import buffer, online, ranges
from rlkit.buffer import Buffer
from rlkit.commands import Catalog, announce, collect, dry_run, environment, judge
from rlkit.commands.options import OF_PRESET, JudgeOptions, TrainOptions
from rlkit.datasets import DataOptions, Episodes, Normaliser, card, check_env, inspection, labels, sources, spaces
from rlkit.datasets import spec as spec_of
from rlkit.evaluation import statistics, task
from rlkit.evaluation.evaluate import longest
from rlkit.online import Online
from rlkit.ranges import Seed
from rlkit.runs import environments, loggers, registry, serialization
from rlkit.runs.before import Before
from rlkit.runs.job import Job
from rlkit.runs.lock import RunLock
from rlkit.runs.progress import Waiting
from rlkit.runs.record import DataRecord, EvaluationRecord, Parent, Record, Reference, check_longer
from rlkit.runs.run import Run, checkpoint_numbers, claim, finished
from rlkit.runs.scores import conclude
from rlkit.runs.stopping import Guard
from rlkit.runs.trainer import train
from rlkit.training.compilation import keep_compiled
from rlkit.types import InputError

PACKAGES = ("rlkit-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "gymnasium", "mujoco")


def run(options: TrainOptions, catalog: Catalog, before: Before | None = None) -> int:
    """Train as ``options`` say. Returns the exit code, see docs/reliability.md.

    before: another run, from whose end this one goes on. Raises InputError for what the user can correct, RunError for
    a run that cannot go on, Stop if it is asked to end.
    """
    _intervals(options, before)  # impossible numbers are refused before anything is read
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
        with Run(folder, job.record, wandb=options.wandb) as opened:
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
        print(announce.closing(job.record, folder, job.stages))
    if has_trained and options.data.holdout and job.make_env is None:
        judge_held_out(options, folder, catalog)
    for fault in faults:
        print(f"rlkit: {folder}: {fault}", file=sys.stderr)
    return 1 if faults else 0


def judge_held_out(options: TrainOptions, folder: Path, catalog: Catalog) -> None:
    """Print what the held-out episodes tell of the policy, or why nothing can be told."""
    agent = options.module if registry.is_typed(options.module) else None
    try:
        judge.run(JudgeOptions((folder,), agent=agent), catalog)
    except InputError as error:
        print(f"rlkit: {folder}: not judged: {error}", file=sys.stderr)


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


def resolve(options: TrainOptions, catalog: Catalog) -> Record:
    """The record that a run of ``options`` would have. The data are read; nothing is trained, and no run is written."""
    return prepare(options, catalog).record


def prepare(
    options: TrainOptions,
    catalog: Catalog,
    before: Before | None = None,
    guard: Guard | None = None,
    episodes: Episodes | None = None,
) -> Job:
    """Read the data, unless they are given as ``episodes``, find the environment, and build everything that training
    needs."""
    log_every, eval_every = _intervals(options, before)
    parent, origin = _origin(options, before)

    # --- data and environment: one that the user named is tried before the data are read ---
    found = environment.named(options, catalog, guard)
    if episodes is None:
        episodes = _load(options, catalog)
    if found is None:
        found = environment.of_data(options, episodes, catalog, guard)
    env_spec, env, make_env = found or (None, None, None)
    horizon = None
    if env is not None:
        episodes = check_env(episodes, env)
        horizon = task.time_limit(env)
    reference, unscored = _reference(options, env_spec, episodes, env, catalog, before)
    if unscored:
        print(f"rlkit: no scores: {unscored}", file=sys.stderr)

    # --- what the agent learns from ---
    normaliser = Normaliser.fit(episodes, options.data)
    spec = spec_of(episodes, horizon, normaliser, options.data.normalise)
    if env is not None and horizon is None:
        environment.say_endless(environment.name_of(env_spec, env), longest(spec))
    plans = _plans(options, before)
    stages = online.stages(options.config, spec, options.steps, plans)
    columns = buffer.needs(stages)
    uses_rewards = buffer.uses_rewards(stages)
    rows = Buffer.from_episodes(episodes, normaliser, columns, uses_rewards=uses_rewards)
    suspicious = inspection.serious(episodes.report.warnings, options.data.normalise)
    for sentence in [*suspicious, *labels.advice(episodes)]:
        print(f"rlkit: {episodes.name}: {sentence}", file=sys.stderr)
    stats = buffer.stats(rows)

    # --- the record ---
    devices = jax.devices()
    last_seed = options.seed + options.seeds - 1
    record = Record(
        agent=options.agent,
        module=options.module,
        config=serialization.encode(options.config),
        preset=options.preset,
        steps=options.steps,
        stages=tuple((stage.name, stage.steps) for stage in stages),
        seeds=tuple(range(options.seed, last_seed + 1)),
        log_every=log_every,
        eval_every=eval_every,
        data=_data_record(episodes, options),
        spec=spec,
        normaliser=normaliser.to_json(),
        stats={name: tuple(value.tolist()) for name, value in stats._asdict().items()},
        evaluation=_evaluation_record(options, env_spec, env, catalog),
        reference=reference,
        unscored=unscored,
        versions=_versions(),
        device=f"{len(devices)} x {devices[0].device_kind}",
        online=plans,
        online_from=len(online.stages(options.config, spec, options.steps, plans[:-1])) if plans else None,
        parent=parent,
        q_limit=options.q_limit,
        command=options.words,
        commit=_commit(),
    )
    if env is not None:
        environment.close(env)
    job = Job(record, stages, rows, stats, normaliser, make_env)
    if origin is None:
        return job
    if not origin.parent.begins:
        return job._replace(parent=origin.end(job))
    job = job._replace(parent=origin.start(job))
    other = origin.other_scales(job)
    if other:
        print(
            f"rlkit: {origin.folder} was trained with another {', '.join(other)} than these data give", file=sys.stderr
        )
    return job


def _load(options: TrainOptions, catalog: Catalog) -> Episodes:
    try:
        return collect.load(options.data, catalog)
    except InputError as error:
        if not options.dataset_note.startswith(OF_PRESET):
            raise
        raise InputError(f"the dataset {options.dataset_note}: {error}; --dataset names another one") from error


def _origin(options: TrainOptions, before: Before | None) -> tuple[Parent | None, Before | None]:
    """Where the run comes from, as its record says it, and, unless it has a checkpoint of its own by now, the run that
    it comes from."""
    has_begun = options.out is not None and bool(checkpoint_numbers(options.out / "checkpoints"))
    if before is not None:
        return before.parent, None if has_begun else before
    if options.init_from is None:
        return None, None
    if has_begun:
        parent = Record.read(options.out).parent
        if parent is not None and parent.begins and Path(parent.run) == options.init_from:
            return parent, None
    origin = Before.read(options.init_from, begins=True)
    origin.check_same(options.agent, options.module, options.seeds)
    return origin.parent, origin


def _plans(options: TrainOptions, before: Before | None) -> tuple[Online, ...]:
    """Every time that the run goes online."""
    plans = before.record.online if before else ()
    if options.online.steps:
        plans = (*plans, options.online)
    return plans


def _reference(
    options: TrainOptions,
    env_spec: str | None,
    episodes: Episodes,
    env: gymnasium.Env | None,
    catalog: Catalog,
    before: Before | None,
) -> tuple[Reference | None, str]:
    """Returns that scores are normalised with, and why there are none where they are known for another task: the
    dataset's own, in the environment that it names, else those that are known of the environment."""
    if before is not None and before.record.evaluation is not None:
        if env_spec == before.record.evaluation.environment:
            return before.record.reference, before.record.unscored
    is_named = env is not None and options.data.env is not None  # the data may name another one
    if episodes.reference and not is_named:
        return Reference(*episodes.reference, source=f"metadata of {episodes.name}"), ""
    known, unscored = environments.reference(env, catalog.references)
    if known is None and episodes.reference:
        unscored = unscored or f"the reference returns of {episodes.name} are those of the environment that it names"
    return known, unscored


def _evaluation_record(
    options: TrainOptions, env_spec: str | None, env: gymnasium.Env | None, catalog: Catalog
) -> EvaluationRecord | None:
    if env is None or options.eval_episodes == 0:
        return None
    env_id = env.spec.id if env.spec else ""
    episodes = options.eval_episodes or catalog.episodes(env_id)
    return EvaluationRecord(env_spec, episodes, options.eval_seed, options.imports)


def _intervals(options: TrainOptions, before: Before | None = None) -> tuple[int, int]:
    """(log_every, eval_every): the first divides the second. What is not given is chosen so, by the updates to come.

    Raises InputError for numbers that do not go together.
    """
    last_seed = options.seed + options.seeds - 1
    if last_seed not in ranges.find(Seed):
        raise InputError(f"--seeds {options.seeds}: the last seed, {last_seed}, must be {ranges.find(Seed)}")
    log_every = options.log_every
    updates = options.online.rounds * options.online.updates
    if before is None:
        updates += options.steps
    eval_every = options.eval_every or max(updates // 20, 1)
    if log_every is None:
        log_every = max(eval_every // 5, 1)
        while eval_every % log_every:
            log_every -= 1
    if options.eval_every is None:
        intervals = math.ceil(eval_every / log_every)
        eval_every = intervals * log_every
    if eval_every % log_every:
        raise InputError(f"--eval-every {eval_every} is not a multiple of --log-every {log_every}")
    return log_every, eval_every


def default_folder(options: TrainOptions) -> Path:
    names = []
    for dataset in map(Path, options.data.names):
        name = dataset.stem if dataset.suffix else "-".join(dataset.parts)
        letters = re.sub(r"[^\w.-]+", "-", name).strip("-")  # random:5000, a whole path, a pattern
        names.append(letters or dataset.parent.name)
    name = "+".join(names)
    now = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{options.agent}-{name}-{now}"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


@functools.cache
def _commit() -> str:
    """Of the code that trains, "-dirty" where it differs from the commit; "" where it is no git checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "--no-optional-locks", *words], capture_output=True, text=True, cwd=root, timeout=10
        )
        return done.stdout.strip()

    try:
        name = git("rev-parse", "--short", "HEAD")
        changes = git("status", "--porcelain", "--", "rlkit", "agents", "envs", "train.py")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f"{name}-dirty" if name and changes else name


def _from_anywhere(data: DataOptions) -> DataOptions:
    """``data`` with whole paths, so that the run can be gone on with from another folder."""
    names = []
    for name in data.names:
        path = Path(name).expanduser()
        is_path = path.exists() or (glob.has_magic(name) and path.parent.exists())
        names.append(str(path.absolute()) if is_path and not sources.ID.fullmatch(name) else name)
    root = data.data_root and data.data_root.expanduser().absolute()
    return replace(data, dataset=names[0] if len(names) == 1 else tuple(names), data_root=root)


def _data_record(episodes: Episodes, options: TrainOptions) -> DataRecord:
    returns = episodes.returns()
    if not len(returns):
        returns = np.array([np.nan])  # where no episode is whole, its mean is not known
    return DataRecord(
        name=episodes.name,
        fingerprint=episodes.fingerprint,
        episodes=episodes.report.episodes,
        steps=episodes.report.used,
        rows=len(episodes.flags),
        mean_return=statistics.estimate(returns[None]),
        observation_space=serialization.encode(spaces.to_json(episodes.observation_space)),
        action_space=serialization.encode(spaces.to_json(episodes.action_space)),
        options=serialization.encode(_from_anywhere(options.data)),
        names=episodes.names,
        notes=episodes.report.notes,
        warnings=tuple(warning.sentence for warning in episodes.report.warnings),
        card=card.card(episodes),
    )
