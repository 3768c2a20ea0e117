"""``rlkit train AGENT``: data in, a run directory out. The loop at the heart of it is `_train`."""

from __future__ import annotations

import functools
import itertools
import platform
import resource
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import gymnasium
import jax
import numpy as np

from rlkit import buffer, loggers, plain, statistics
from rlkit.buffer import Buffer
from rlkit.checkpoint import Checkpoints
from rlkit.commands import World, dry_run
from rlkit.commands.options import TrainOptions
from rlkit.commands.report import conclude
from rlkit.compilation import keep_compiled
from rlkit.datasets import Episodes, Normaliser, check_env, load, spaces
from rlkit.datasets import spec as spec_of
from rlkit.evaluate import Evaluator, score
from rlkit.loop import fit
from rlkit.progress import Display
from rlkit.run import DataRecord, EvaluationRecord, Place, Record, Reference, Run, claim, finished
from rlkit.sharding import make_mesh
from rlkit.types import InputError, Stage, Stats

PACKAGES = ("rlkit-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "gymnasium", "mujoco")


class Job(NamedTuple):
    """All that a run needs, before anything is written. ``make_env`` is None where there is nothing to evaluate in."""

    record: Record
    stages: tuple[Stage, ...]
    buffer: Buffer
    stats: Stats
    normaliser: Normaliser
    make_env: Callable[[], gymnasium.Env] | None


def run(options: TrainOptions, world: World) -> int:
    """Train as ``options`` say. Returns the exit code; raises InputError for what the user can mend."""
    _intervals(options)  # impossible numbers are refused before anything is read
    folder = options.out or _default_folder(options)
    if not options.dry_run:
        claim(folder, options.resume)
    if options.wandb:
        loggers.import_wandb()
    keep_compiled()
    job = _prepare(options, world)
    if options.dry_run:
        print(dry_run.describe(job))
        return 0
    with Run(folder, job.record, wandb=options.wandb) as opened:
        if finished(folder):
            print(f"{folder}: already finished")
        else:
            _train(job, opened)
    conclude(folder)
    return 0


def _train(job: Job, run: Run) -> None:
    """Log, evaluate and save, from where the last checkpoint stands to the end of the last stage."""
    record, stages = job.record, job.stages
    before = list(itertools.accumulate((stage.steps for stage in stages), initial=0))
    mesh, evaluator = make_mesh(len(record.seeds)), _evaluator(job)
    with Checkpoints(run.folder / "checkpoints", keep=2) as checkpoints:
        start = checkpoints.last(stages, job.stats, record.seeds, mesh)
        done = before[start.stage] + start.step if start else 0
        run.begin(Place(start.stage, start.step, done) if start else None)
        with Display(before[-1], done) as display:
            if start:
                display.say(f"going on after {done} updates")
            clock = time.monotonic()
            for progress in fit(
                stages, job.buffer, job.stats, record.seeds, log_every=record.log_every, mesh=mesh, resume=start
            ):
                number, step, state, metrics = progress
                place = Place(number, step, before[number] + step)
                due = step % record.eval_every == 0 or step == stages[number].steps
                if metrics:
                    rate = (place.updates - done) / (time.monotonic() - clock)
                    run.metrics(place, metrics)
                    run.timing({"updates": place.updates, "updates_per_second": rate, **_memory()})
                    display.update(stages[number].name, place.updates, rate)
                if due and evaluator and number == len(stages) - 1:
                    evaluation = evaluator.run(state)
                    run.evaluation(place, evaluation.returns, evaluation.lengths)
                    display.say(f"after {step} updates: {_score(job, evaluation.returns)}")
                if due and step:
                    checkpoints.save(place.updates, progress)
                done, clock = place.updates, time.monotonic()


def _prepare(options: TrainOptions, world: World) -> Job:
    """Read the data, find the environment, and build everything that training needs."""
    log_every, eval_every = _intervals(options)
    episodes = load(options.data, roots=[world.datasets])
    env_spec, env = _environment(options, episodes, world)
    if env:
        episodes = check_env(episodes, env)
    normaliser = Normaliser.fit(episodes, options.data)
    horizon = env.spec.max_episode_steps if env and env.spec else None
    spec = spec_of(episodes, horizon)
    stages = options.config.stages(spec, options.steps)
    needs = sorted({column for stage in stages for column in stage.learner.needs})
    rows = Buffer.from_episodes(episodes, normaliser, needs)
    stats = buffer.stats(rows)
    evaluation = None
    if env:
        count = options.eval_episodes or world.episodes(env.spec.id if env.spec else "")
        evaluation = EvaluationRecord(env_spec, count, seed=0)
    record = Record(
        agent=options.agent,
        module=options.module,
        config=plain.encode(options.config),
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


def _evaluator(job: Job) -> Evaluator | None:
    if job.make_env is None:
        return None
    evaluation = job.record.evaluation
    agent = job.stages[-1].learner
    return Evaluator(agent, job.normaliser, job.make_env, episodes=evaluation.episodes, seed=evaluation.seed)


def _reference(episodes: Episodes, env: gymnasium.Env | None, world: World) -> Reference | None:
    """What scores are normalised with: the dataset's own numbers, else those of the environment."""
    if episodes.reference:
        return Reference(*episodes.reference, source=f"metadata of {episodes.name}")
    known = world.references.get(env.spec.id) if env and env.spec else None
    return Reference(*known) if known else None


def _intervals(options: TrainOptions) -> tuple[int, int]:
    """(log_every, eval_every), where not given so that the one divides the other. InputError for impossible numbers."""
    least = {"steps": 1, "seeds": 1, "seed": 0, "eval_episodes": 0, "eval_every": 1, "log_every": 1}
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise InputError(f"--{name.replace('_', '-')} {value}: must be at least {low}")
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


def _memory() -> dict[str, int]:
    """Largest memory so far: of the process, and of the device where it tells."""
    device = jax.devices()[0].memory_stats() or {}
    peak = {"device_peak_bytes": device["peak_bytes_in_use"]} if "peak_bytes_in_use" in device else {}
    return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, **peak}


def _data_record(episodes: Episodes, options: TrainOptions) -> DataRecord:
    returns = episodes.returns()[None]
    return DataRecord(
        name=episodes.name,
        fingerprint=episodes.fingerprint,
        episodes=episodes.report.episodes,
        steps=episodes.report.used,
        mean_return=statistics.estimate(returns),
        iqm=statistics.estimate(returns, statistics.iqm),
        observation_space=plain.encode(spaces.to_json(episodes.observation_space)),
        action_space=plain.encode(spaces.to_json(episodes.action_space)),
        options=plain.encode(options.data),
    )


def _score(job: Job, returns: np.ndarray) -> str:
    text = f"return {returns.mean():.1f}"
    if reference := job.record.reference:
        text += f", score {score(returns.mean(), (reference.random, reference.expert)):.1f}"
    return text
