"""``rlkit train AGENT``: data in, a run directory out. What happens while it trains is in rlkit.runs.trainer."""

from __future__ import annotations

import functools
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

import gymnasium
import jax
import numpy as np

from rlkit import buffer, ranges
from rlkit.buffer import Buffer
from rlkit.commands import World, dry_run
from rlkit.commands.options import TrainOptions
from rlkit.commands.report import conclude
from rlkit.datasets import Episodes, Normaliser, check_env, labels, load, spaces
from rlkit.datasets import spec as spec_of
from rlkit.evaluation import statistics
from rlkit.ranges import Seed
from rlkit.runs import loggers, serialization
from rlkit.runs.job import Job
from rlkit.runs.lock import RunLock
from rlkit.runs.run import DataRecord, EvaluationRecord, Record, Reference, Run, claim, finished
from rlkit.runs.stopping import Guard
from rlkit.runs.trainer import train
from rlkit.training.compilation import keep_compiled
from rlkit.types import InputError

PACKAGES = ("rlkit-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "gymnasium", "mujoco")


def run(options: TrainOptions, world: World) -> int:
    """Train as ``options`` say. Returns the exit code, see docs/reliability.md.

    Raises InputError for what the user can mend, RunError for a run that cannot go on, and Stop if it is asked to end.
    """
    _intervals(options)  # impossible numbers are refused before anything is read
    folder = options.out or _default_folder(options)
    if options.wandb:
        loggers.import_wandb()
    keep_compiled()
    if options.dry_run:
        print(dry_run.describe(_prepare(options, world)))
        return 0
    claim(folder, options.resume)
    with RunLock(folder) as lock, Guard(options.time_limit, options.watchdog, lock.touch) as guard:
        job = _prepare(options, world)
        with Run(folder, job.record, wandb=options.wandb) as opened:
            if finished(folder):
                print(f"{folder}: already finished")
                faults = []
            else:
                faults = train(job, opened, guard, options.q_limit)
        guard.enter("reporting")
        conclude(folder)
    for fault in faults:
        print(f"rlkit: {folder}: {fault}", file=sys.stderr)
    return 1 if faults else 0


def resolve(options: TrainOptions, world: World) -> Record:
    """The record that a run of ``options`` would have. The data are read; nothing is trained, and no run is written."""
    return _prepare(options, world).record


def _prepare(options: TrainOptions, world: World) -> Job:
    """Read the data, find the environment, and build everything that training needs."""
    log_every, eval_every = _intervals(options)
    episodes = load(options.data, roots=[world.datasets])
    env_spec, env = _environment(options, episodes, world)
    if env:
        episodes = check_env(episodes, env)
    normaliser = Normaliser.fit(episodes, options.data)
    horizon = env.spec.max_episode_steps if env and env.spec else None
    spec = spec_of(episodes, horizon, normaliser)
    stages = options.config.stages(spec, options.steps)
    rows = Buffer.from_episodes(episodes, normaliser, buffer.needs(stages))
    for sentence in labels.advice(episodes):
        print(f"rlkit: {episodes.name}: {sentence}", file=sys.stderr)
    stats = buffer.stats(rows)
    evaluation = None
    if env:
        count = options.eval_episodes or world.episodes(env.spec.id if env.spec else "")
        evaluation = EvaluationRecord(env_spec, count, seed=options.eval_seed)
    record = Record(
        agent=options.agent,
        module=options.module,
        config=serialization.encode(options.config),
        preset=options.preset,
        steps=options.steps,
        stages=tuple((stage.name, stage.steps) for stage in stages),
        seeds=tuple(range(options.seed, options.seed + options.seeds)),
        log_every=log_every,
        eval_every=eval_every,
        data=_data_record(episodes, options),
        spec=spec,
        normaliser=normaliser.to_json(),
        stats={name: tuple(value.tolist()) for name, value in stats._asdict().items()},
        evaluation=evaluation,
        reference=_reference(episodes, env, world),
        versions={"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        device=f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
    )
    make_env = functools.partial(world.make_env, env_spec) if env else None
    if env:
        env.close()
    return Job(record, stages, rows, stats, normaliser, make_env)


def _environment(
    options: TrainOptions, episodes: Episodes, world: World
) -> tuple[str, gymnasium.Env] | tuple[None, None]:
    """The environment that policies are evaluated in. Where there is none, says why: training goes on without.

    Raises InputError if one that the user named cannot be made.
    """
    env_spec = options.data.env or episodes.env_spec
    wanted = options.eval_episodes != 0
    why = "the data name no environment; --env names one" if wanted else "--eval-episodes is 0"
    if wanted and env_spec:
        try:
            env = world.make_env(env_spec)
        except InputError as error:
            if options.data.env:
                raise
            why = str(error)
        else:
            return env_spec, env
    print(f"rlkit: training without evaluation: {why}", file=sys.stderr)
    return None, None


def _reference(episodes: Episodes, env: gymnasium.Env | None, world: World) -> Reference | None:
    """What scores are normalised with: the dataset's own numbers, else those of the environment."""
    if episodes.reference:
        return Reference(*episodes.reference, source=f"metadata of {episodes.name}")
    known = world.references.get(env.spec.id) if env and env.spec else None
    return Reference(*known) if known else None


def _intervals(options: TrainOptions) -> tuple[int, int]:
    """(log_every, eval_every), where not given so that the one divides the other. InputError for numbers that do not go
    together."""
    last_seed = options.seed + options.seeds - 1
    if last_seed not in ranges.find(Seed):
        raise InputError(f"--seeds {options.seeds}: the last seed, {last_seed}, must be {ranges.find(Seed)}")
    log_every = options.log_every
    eval_every = options.eval_every or max(options.steps // 20, 1)
    if log_every is None:
        log_every = next(n for n in range(max(eval_every // 5, 1), 0, -1) if eval_every % n == 0)
    if options.eval_every is None:
        eval_every = -(-eval_every // log_every) * log_every
    if eval_every % log_every:
        raise InputError(f"--eval-every {eval_every} is not a multiple of --log-every {log_every}")
    return log_every, eval_every


def _default_folder(options: TrainOptions) -> Path:
    dataset = Path(options.data.dataset)
    name = dataset.stem if dataset.suffix else "-".join(dataset.parts)
    return Path("runs") / f"{options.agent}-{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _data_record(episodes: Episodes, options: TrainOptions) -> DataRecord:
    returns = (episodes.returns() if len(episodes.returns()) else np.array([np.nan]))[None]  # unknown throughout
    return DataRecord(
        name=episodes.name,
        fingerprint=episodes.fingerprint,
        episodes=episodes.report.episodes,
        steps=episodes.report.used,
        rows=len(episodes.flags),
        mean_return=statistics.estimate(returns),
        observation_space=serialization.encode(spaces.to_json(episodes.observation_space)),
        action_space=serialization.encode(spaces.to_json(episodes.action_space)),
        options=serialization.encode(options.data),
    )
