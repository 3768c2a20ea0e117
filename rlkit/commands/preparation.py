"""What `rlkit train` prepares before it trains: the options become a Job, and the record of what will be run."""

from __future__ import annotations

import functools
import glob
import math
import platform
import subprocess
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import gymnasium
import jax
import numpy as np

from rlkit import buffer, messages, online, ranges
from rlkit.buffer import Buffer
from rlkit.commands import Catalog, collect, environment
from rlkit.commands.options import OF_PRESET, TrainOptions
from rlkit.datasets import DataOptions, Episodes, Normaliser, card, check_env, inspection, labels, sources, spaces, sums
from rlkit.datasets import spec as spec_of
from rlkit.evaluation import statistics, task
from rlkit.evaluation.evaluate import longest
from rlkit.online import Online
from rlkit.ranges import Seed
from rlkit.runs import environments, serialization
from rlkit.runs.before import Before
from rlkit.runs.job import Job
from rlkit.runs.record import DataRecord, EvaluationRecord, Parent, Record, Reference
from rlkit.runs.run import checkpoint_numbers
from rlkit.runs.stopping import Guard
from rlkit.types import InputError, Spec, Stage, Stats

PACKAGES = ("rlkit-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "gymnasium", "mujoco")
EVALUATIONS = 20  # of a run, by default
CLOSEST = 100  # updates between them at least, by default


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
    spacing = intervals(options, before)
    parent, origin = _origin(options, before)
    world = _world(options, catalog, before, guard, episodes)
    material = _material(options, world, _plans(options, before))
    record = _record(options, catalog, world, material, spacing, parent)
    if world.env is not None:
        environment.close(world.env)
    job = Job(record, material.stages, material.rows, material.stats, material.normaliser, world.make_env)
    job = job._replace(sums=_seen(world.episodes, parent, origin), is_endless=material.is_endless)
    return job if origin is None else _from_origin(job, origin)


class _World(NamedTuple):
    """The data, and the environment in which a first step was taken; None of it where there is nothing to evaluate."""

    episodes: Episodes
    env_spec: str | None
    env: gymnasium.Env | None
    make_env: Callable[[], gymnasium.Env] | None
    reference: Reference | None
    unscored: str  # why there is no reference, where one is known for another task


def _world(
    options: TrainOptions, catalog: Catalog, before: Before | None, guard: Guard | None, episodes: Episodes | None
) -> _World:
    """Read the data, unless they are given, and find the environment: one that the user named is tried before that."""
    found = environment.named(options, catalog, guard)
    if episodes is None:
        episodes = _load(options, catalog)
    if found is None:
        found = environment.of_data(options, episodes, catalog, guard)
    env_spec, env, make_env = found or (None, None, None)
    if env is not None:
        episodes = check_env(episodes, env)
    reference, unscored = _reference(options, env_spec, episodes, env, catalog, before)
    if unscored:
        messages.tell(f"no scores: {unscored}")
    return _World(episodes, env_spec, env, make_env, reference, unscored)


class _Material(NamedTuple):
    """What the agent learns from, as it sees it, and its stages."""

    spec: Spec
    normaliser: Normaliser
    plans: tuple[Online, ...]
    stages: tuple[Stage, ...]
    rows: Buffer
    stats: Stats
    is_endless: bool  # whether its environment has no time limit


def _material(options: TrainOptions, world: _World, plans: tuple[Online, ...]) -> _Material:
    """Bring the data into the form in which the agent sees them. What looks wrong in them is said."""
    episodes, env = world.episodes, world.env
    horizon = None if env is None else task.time_limit(env)
    normaliser = Normaliser.fit(episodes, options.data)
    spec = spec_of(episodes, horizon, normaliser, options.data.normalise)
    if env is not None and plans:
        task.needed_time_limit(env)
    elif env is not None and horizon is None:
        environment.say_endless(environment.name_of(world.env_spec, env), longest(spec))
    stages = online.stages(options.config, spec, options.steps, plans)
    columns = buffer.needs(stages)
    uses_rewards = buffer.uses_rewards(stages)
    rows = Buffer.from_episodes(episodes, normaliser, columns, uses_rewards=uses_rewards)
    suspicious = inspection.serious(episodes.report.warnings, options.data.normalise)
    for sentence in [*suspicious, *labels.advice(episodes)]:
        messages.tell(f"{episodes.name}: {sentence}")
    return _Material(spec, normaliser, plans, stages, rows, buffer.stats(rows), env is not None and horizon is None)


def _record(
    options: TrainOptions,
    catalog: Catalog,
    world: _World,
    material: _Material,
    spacing: tuple[int, int],
    parent: Parent | None,
) -> Record:
    """Everything that run.json says of the run."""
    log_every, eval_every = spacing
    devices = jax.devices()
    plans = material.plans
    online_from = None
    if plans:
        online_from = len(online.stages(options.config, material.spec, options.steps, plans[:-1]))
    return Record(
        agent=options.agent,
        module=options.module,
        config=serialization.encode(options.config),
        preset=options.preset,
        steps=options.steps,
        stages=tuple((stage.name, stage.steps) for stage in material.stages),
        seeds=tuple(range(options.seed, options.seed + options.seeds)),
        log_every=log_every,
        eval_every=eval_every,
        data=_data_record(world.episodes, options),
        spec=material.spec,
        normaliser=material.normaliser.to_json(),
        stats={name: tuple(value.tolist()) for name, value in material.stats._asdict().items()},
        evaluation=_evaluation_record(options, world.env_spec, world.env, catalog),
        reference=world.reference,
        unscored=world.unscored,
        versions=_versions(),
        device=f"{len(devices)} x {devices[0].device_kind}",
        online=plans,
        online_from=online_from,
        parent=parent,
        q_limit=options.q_limit,
        command=options.words,
        commit=_commit(),
    )


def _from_origin(job: Job, origin: Before) -> Job:
    """The job as it goes on from the end of another run, or begins with that run's arrays."""
    if not origin.parent.begins:
        return job._replace(parent=origin.end(job))
    job = job._replace(parent=origin.start(job))
    other = origin.other_scales(job)
    if other:
        messages.tell(f"{origin.folder} was trained with another {', '.join(other)} than these data give")
    return job


def _seen(episodes: Episodes, parent: Parent | None, origin: Before | None) -> np.ndarray | None:
    """The sums of the episodes that training sees, those of the run that it goes on from too; None where those are not
    known."""
    own = sums.of(episodes)
    if parent is None:
        return own
    before = None if origin is None else sums.read(origin.folder)
    return None if before is None else np.union1d(own, before)


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


def intervals(options: TrainOptions, before: Before | None = None) -> tuple[int, int]:
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
    closest = max(min(updates, CLOSEST), 1)  # a short run is evaluated at its beginning and its end
    eval_every = options.eval_every or max(updates // EVALUATIONS, closest)
    if log_every is None:
        log_every = max(eval_every // 5, 1)
        while eval_every % log_every:
            log_every -= 1
    if options.eval_every is None:
        count = math.ceil(eval_every / log_every)
        eval_every = count * log_every
    if eval_every % log_every:
        raise InputError(f"--eval-every {eval_every} is not a multiple of --log-every {log_every}")
    return log_every, eval_every


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
