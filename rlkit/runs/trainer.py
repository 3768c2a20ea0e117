"""What `rlkit train` does while it trains: `train` reads top to bottom; what it calls stands below."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Mapping

import jax
import numpy as np

from rlkit.evaluation.evaluate import Evaluation, EvaluationError, Evaluator, score
from rlkit.runs import checkpoint
from rlkit.runs.checkpoint import Checkpoints
from rlkit.runs.job import Job
from rlkit.runs.progress import Display
from rlkit.runs.run import Run
from rlkit.runs.stopping import Guard, Stop
from rlkit.training import divergence
from rlkit.training.loop import Progress, abstract_state, finite, fit
from rlkit.training.sharding import make_mesh
from rlkit.types import InputError, RunError

KEEP = 2  # checkpoints
CHUNK_SECONDS = 0.5  # a signal is answered when the running chunk has ended
LOGS = 2**20  # bytes to leave for what is not a checkpoint


def train(job: Job, run: Run, guard: Guard, q_limit: float | None) -> list[str]:
    """Train from where the last checkpoint stands to the end of the last stage; returns what went wrong on the way.

    Raises Stop, with a checkpoint, if ``guard`` was asked to stop, and RunError if nothing sound is left to train.
    """
    record, stages = job.record, job.stages
    mesh = make_mesh(len(record.seeds))
    if q_limit is None:
        q_limit = divergence.limit_of(stages, job.buffer, job.stats, record.spec.horizon)
    evaluator = job.evaluator()
    clock = Clock()
    failure = ""  # of the latest evaluation

    with Checkpoints(run.folder / "checkpoints", KEEP, record.identity()) as checkpoints:
        # --- where the run stands ---
        start = checkpoints.last(stages, job.buffer, job.stats, record.seeds, mesh)
        check_room(job, run)
        position = job.position(start) if start else None
        run.begin(position, len(evaluator.goals) if evaluator else 1)
        done = position.updates if position else 0
        with Display(job.updates, done) as display:
            if start:
                display.say(f"going on after {done} updates")
                if job.is_due(start) and not run.evaluated:  # it was stopped before its end
                    failure = evaluate(job, run, guard, evaluator, display, start)
            guard.enter("compilation")
            clock.start(done)

            # --- training ---
            for progress in fit(
                stages,
                job.buffer,
                job.stats,
                record.seeds,
                log_every=record.log_every,
                mesh=mesh,
                resume=start,
                chunk_seconds=CHUNK_SECONDS,
            ):
                guard.enter("saving")
                stop = guard.code
                stage = stages[progress.stage]
                position = job.position(progress)
                has_trained = progress.step > 0
                if has_trained:
                    display.update(stage.name, position.updates, clock.count(position.updates))

                # --- judge and log ---
                if progress.metrics:
                    judge(job, run, progress, q_limit)
                    run.metrics(position, divergence.without(progress.metrics, run.diverged))
                    run.timing({"updates": position.updates, "updates_per_second": clock.close(), **memory()})
                elif stop is not None and has_trained:  # what has diverged must not push out a sound checkpoint
                    sound = jax.device_get(finite(progress.state, progress.sums))
                    judge(job, run, progress._replace(finite=sound), q_limit)

                # --- save ---
                if has_trained and (stop is not None or job.is_due(progress)):
                    checkpoints.save(position.updates, progress)

                # --- stop ---
                if stop is not None:
                    display.say(f"stopped after {position.updates} updates; --resume auto goes on from there")
                    raise Stop(stop)

                # --- evaluate ---
                if job.is_due(progress):
                    failure = evaluate(job, run, guard, evaluator, display, progress)

                # --- go on: the first chunk of a stage begins with its compilation ---
                guard.enter("training" if has_trained and progress.step < stage.steps else "compilation")
                clock.start(position.updates)
    return faults(job, run, failure)


def judge(job: Job, run: Run, progress: Progress, q_limit: float) -> None:
    """Note the seeds that have diverged by ``progress``, in ``run.diverged``, and say so. RunError if all have."""
    seeds, known = job.record.seeds, run.diverged
    for number, reason in divergence.diverged(progress.metrics, progress.finite, q_limit).items():
        if number in known:
            continue
        known.add(number)
        stage = job.stages[progress.stage].name
        message = f"seed {seeds[number]} diverged by step {progress.step} of {stage}: {reason}"
        if len(known) < len(seeds):
            print(f"rlkit: {message}; the other seeds go on", file=sys.stderr)
            continue
        if progress.metrics:  # so that the run's folder says which seeds diverged: all
            run.metrics(job.position(progress), divergence.without(progress.metrics, known))
        numbers = checkpoint.numbers(run.folder / "checkpoints")
        last = f"the last good checkpoint is {numbers[-1]}" if numbers else "there is no checkpoint yet"
        raise RunError(f"{run.folder}: {message}; {last}; {divergence.ADVICE}")


def evaluate(
    job: Job, run: Run, guard: Guard, evaluator: Evaluator | None, display: Display, progress: Progress
) -> str:
    """Evaluate the seeds that have not diverged, in the last stage, and log the returns.

    An evaluation that fails is logged as invalid, and the reason is returned; else "".
    """
    if evaluator is None or progress.stage != len(job.stages) - 1:
        return ""
    position = job.position(progress)
    seeds = len(job.record.seeds)
    sound = np.array([number for number in range(seeds) if number not in run.diverged])
    state = progress.state
    if len(sound) < seeds:
        state = jax.tree.map(lambda leaf: leaf[sound], state)
    guard.enter("evaluation")
    try:
        played = evaluator.run(state, guard.beat)
    except (EvaluationError, TimeoutError) as error:
        guard.enter("saving")
        run.invalid(position, str(error))
        print(f"rlkit: the evaluation after {progress.step} updates is invalid: {error}", file=sys.stderr)
        return str(error)
    guard.enter("saving")
    goals = list(evaluator.goals)
    whole = among_all(played, sound, seeds)
    run.evaluation(position, whole.returns, whole.lengths, goals)
    for goal, returns in zip(goals, played.returns, strict=True):
        asked = f", asked for {goal}" if goal else ""
        display.say(f"after {progress.step} updates{asked}: {summary(job, returns)}")
    return ""


def among_all(played: Evaluation, sound: np.ndarray, seeds: int) -> Evaluation:
    """The evaluation of the seeds ``sound`` as one of all ``seeds``: the others have returns NaN and lengths 0."""
    goals, _, episodes = played.returns.shape
    returns = np.full((goals, seeds, episodes), np.nan)
    lengths = np.zeros((goals, seeds, episodes), np.int64)
    returns[:, sound] = played.returns
    lengths[:, sound] = played.lengths
    return Evaluation(returns, lengths)


def summary(job: Job, returns: np.ndarray) -> str:
    """Mean return, and score where the environment has reference returns."""
    text = f"return {returns.mean():.1f}"
    if reference := job.record.reference:
        text += f", score {score(returns.mean(), (reference.random, reference.expert)):.1f}"
    return text


def faults(job: Job, run: Run, failure: str) -> list[str]:
    """What went wrong in a run that came to its end. RunError if its last evaluation is invalid, for ``failure``."""
    if failure:
        raise RunError(
            f"{run.folder}: training is done, but its last evaluation is invalid ({failure}): mend the environment, "
            "and --resume auto makes it again"
        )
    lines = []
    if run.diverged:
        seeds = ", ".join(str(job.record.seeds[number]) for number in sorted(run.diverged))
        lines.append(f"seeds that diverged and are left out of the scores: {seeds}")
    if run.failed:
        lines.append(f"{run.failed} evaluations are invalid; metrics.jsonl says why")
    return lines


class Clock:
    """Updates a second while `fit` runs, since the last log line."""

    def __init__(self) -> None:
        self._seconds, self._count = 0.0, 0
        self._began, self._from = time.monotonic(), 0

    def start(self, updates: int) -> None:
        """`fit` goes on after ``updates``."""
        self._began, self._from = time.monotonic(), updates

    def count(self, updates: int) -> float:
        """`fit` has come to ``updates``; the rate so far."""
        self._seconds += time.monotonic() - self._began
        self._count += updates - self._from
        return self._count / max(self._seconds, 1e-9)

    def close(self) -> float:
        """The rate over the interval, which ends here."""
        rate = self._count / max(self._seconds, 1e-9)
        self._seconds, self._count = 0.0, 0
        return rate


def memory() -> Mapping[str, int]:
    """Largest memory so far in bytes: of the process, and of the device where it tells."""
    peaks = {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    device = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in device:
        peaks["device_peak_bytes"] = device["peak_bytes_in_use"]
    return peaks


def check_room(job: Job, run: Run) -> None:
    """InputError if the checkpoints to come have no room: a new one is written before the oldest is removed."""
    seeds = job.record.seeds
    states = [abstract_state(job.stages, n, job.buffer, job.stats, seeds) for n in range(len(job.stages))]
    saved = len(checkpoint.numbers(run.folder / "checkpoints"))
    need = max(map(checkpoint.size, states)) * max(KEEP + 1 - saved, 1) + LOGS
    free = shutil.disk_usage(run.folder).free
    if free < need:
        raise InputError(f"{run.folder}: the checkpoints need {need:,} bytes, and {free:,} are free: make room")
