"""What happens while a run trains: log, judge, save, evaluate, and stop when asked to."""

from __future__ import annotations

import itertools
import resource
import shutil
import sys
import time
from typing import TYPE_CHECKING

import jax
import numpy as np

from rlkit import checkpoint, divergence
from rlkit.checkpoint import Checkpoints
from rlkit.evaluate import EvaluationError, Evaluator, longest, score
from rlkit.interrupts import Guard, Stop
from rlkit.loop import Progress, abstract_state, finite, fit
from rlkit.progress import Display
from rlkit.run import Place, Run
from rlkit.sharding import make_mesh
from rlkit.types import InputError, RunError, State

if TYPE_CHECKING:
    from rlkit.commands.train import Job

KEEP = 2  # checkpoints
CHUNK_SECONDS = 0.5  # a signal is answered when the running chunk has ended
LOGS = 2**20  # bytes to leave for what is not a checkpoint


def train(job: Job, run: Run, guard: Guard, q_limit: float | None) -> list[str]:
    """Train from where the last checkpoint stands to the end of the last stage; returns what went wrong on the way.

    Raises Stop, with a checkpoint, if ``guard`` was asked to stop, and RunError if nothing sound is left to train.
    """
    record, mesh = job.record, make_mesh(len(job.record.seeds))
    with Checkpoints(run.folder / "checkpoints", KEEP, record.identity()) as checkpoints:
        start = checkpoints.last(job.stages, job.buffer, job.stats, record.seeds, mesh)
        trainer = _Trainer(job, run, guard, checkpoints, q_limit)
        _check_room(job, run)
        place = trainer.place(start) if start else None
        run.begin(place)
        parts = fit(
            job.stages, job.buffer, job.stats, record.seeds,
            log_every=record.log_every, mesh=mesh, resume=start, chunk_seconds=CHUNK_SECONDS,
        )  # fmt: skip
        with Display(trainer.total, place.updates if place else 0) as display:
            if place:
                trainer.resume(display, place, start)
            for progress in parts:
                trainer.step(display, progress)
    return trainer.faults()


class _Trainer:
    """One training: every part of it that `fit` yields is passed to `step`."""

    def __init__(self, job: Job, run: Run, guard: Guard, checkpoints: Checkpoints, q_limit: float | None):
        self._job, self._run, self._guard, self._checkpoints = job, run, guard, checkpoints
        self._before = list(itertools.accumulate((stage.steps for stage in job.stages), initial=0))
        self.total = self._before[-1]
        if q_limit is None:
            q_limit = divergence.limit_of(job.stages, job.buffer, job.stats, job.record.spec.horizon)
        self._limit = q_limit
        self._evaluator = _evaluator(job)
        self._compiled = -1  # the stage of which a chunk has run in this process
        self._rate = _Rate()
        self._failure = ""  # of the latest evaluation

    def place(self, progress: Progress) -> Place:
        """Where ``progress`` stands."""
        return Place(progress.stage, progress.step, self._before[progress.stage] + progress.step)

    def resume(self, display: Display, place: Place, start: Progress) -> None:
        """Make the evaluation that was due where the run goes on, if it was stopped before its end."""
        display.say(f"going on after {place.updates} updates")
        if self._due(start) and not self._run.evaluated:
            self._evaluate(display, place, start.state)
        self._go_on(start)

    def step(self, display: Display, progress: Progress) -> None:
        """Log, judge, save and evaluate; raises Stop where the run was asked to stop."""
        place = self.place(progress)
        if progress.step:
            self._compiled = progress.stage
            display.update(self._job.stages[progress.stage].name, place.updates, self._rate.count(place.updates))
        self._guard.enter("saving")
        stop = self._guard.code
        if progress.metrics:
            self._run.metrics(place, self._judge(place, progress.metrics, progress.finite))
            self._run.timing({"updates": place.updates, "updates_per_second": self._rate.close(), **_memory()})
        elif stop is not None and progress.step:  # what has diverged must not push out a sound checkpoint
            self._judge(place, {}, jax.device_get(finite(progress.state, progress.sums)))
        if progress.step and (stop is not None or self._due(progress)):
            self._checkpoints.save(place.updates, progress)
        if stop is not None:
            display.say(f"stopped after {place.updates} updates; --resume auto goes on from there")
            raise Stop(stop)
        if self._due(progress):
            self._evaluate(display, place, progress.state)
        self._go_on(progress)

    def faults(self) -> list[str]:
        """What went wrong on the way. RunError if the last evaluation did."""
        if self._failure:
            raise RunError(
                f"{self._run.folder}: training is done, but its last evaluation is invalid ({self._failure}): mend the "
                "environment, and --resume auto makes it again"
            )
        seeds = ", ".join(str(self._job.record.seeds[number]) for number in sorted(self._run.diverged))
        found = [f"seeds that diverged and are left out of the scores: {seeds}"] if seeds else []
        if self._run.failed:
            found.append(f"{self._run.failed} evaluations are invalid; metrics.jsonl says why")
        return found

    def _go_on(self, progress: Progress) -> None:
        """Hand over to `fit`, whose first chunk of a stage begins with its compilation."""
        known = self._compiled == progress.stage and progress.step < self._job.stages[progress.stage].steps
        self._guard.enter("training" if known else "compilation")
        self._rate.start(self.place(progress).updates)

    def _due(self, progress: Progress) -> bool:
        """Whether a checkpoint and, in the last stage, an evaluation go with ``progress``."""
        over = progress.step == self._job.stages[progress.stage].steps
        return over or progress.step % self._job.record.eval_every == 0

    def _judge(self, place: Place, metrics: dict[str, np.ndarray], sound: np.ndarray) -> dict[str, np.ndarray]:
        """The metrics, with NaN for the seeds that have diverged by now. RunError if all have."""
        seeds, known = self._job.record.seeds, self._run.diverged
        for number, what in divergence.diverged(metrics, sound, self._limit).items():
            if number in known:
                continue
            known.add(number)
            told = f"seed {seeds[number]} diverged by step {place.step} of {self._job.stages[place.stage].name}: {what}"
            if len(known) == len(seeds):
                numbers = checkpoint.numbers(self._checkpoints.folder)
                last = f"the last good checkpoint is {numbers[-1]}" if numbers else "there is no checkpoint yet"
                if metrics:  # so that the run's folder says which seeds diverged: all
                    self._run.metrics(place, divergence.without(metrics, known))
                raise RunError(f"{self._run.folder}: {told}; {last}; {divergence.ADVICE}")
            print(f"rlkit: {told}; the other seeds go on", file=sys.stderr)
        return divergence.without(metrics, known)

    def _evaluate(self, display: Display, place: Place, state: State) -> None:
        """Evaluate the seeds that have not diverged. An evaluation that fails is logged as invalid."""
        if self._evaluator is None or place.stage != len(self._job.stages) - 1:
            return
        self._guard.enter("evaluation")
        lost = self._run.diverged
        sound = np.array([number for number in range(len(self._job.record.seeds)) if number not in lost])
        if lost:
            state = jax.tree.map(lambda leaf: leaf[sound], state)
        try:
            played = self._evaluator.run(state, self._guard.beat)
        except (EvaluationError, TimeoutError) as error:
            self._guard.enter("saving")
            self._failure = str(error)
            self._run.invalid(place, self._failure)
            print(f"rlkit: the evaluation after {place.step} updates is invalid: {error}", file=sys.stderr)
            return
        self._guard.enter("saving")
        self._failure = ""
        returns = np.full((len(self._job.record.seeds), played.returns.shape[1]), np.nan)
        lengths = np.zeros(returns.shape, np.int64)
        returns[sound], lengths[sound] = played
        self._run.evaluation(place, returns, lengths)
        display.say(f"after {place.step} updates: {_score(self._job, played.returns)}")


class _Rate:
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


def _check_room(job: Job, run: Run) -> None:
    """InputError if the checkpoints to come have no room: a new one is written before the oldest is removed."""
    seeds = job.record.seeds
    states = [abstract_state(job.stages, n, job.buffer, job.stats, seeds) for n in range(len(job.stages))]
    saved = len(checkpoint.numbers(run.folder / "checkpoints"))
    need = max(map(checkpoint.size, states)) * max(KEEP + 1 - saved, 1) + LOGS
    free = shutil.disk_usage(run.folder).free
    if free < need:
        raise InputError(f"{run.folder}: the checkpoints need {need:,} bytes, and {free:,} are free: make room")


def _evaluator(job: Job) -> Evaluator | None:
    if job.make_env is None:
        return None
    evaluation = job.record.evaluation
    return Evaluator(
        job.stages[-1].learner,
        job.normaliser,
        job.make_env,
        episodes=evaluation.episodes,
        seed=evaluation.seed,
        longest=longest(job.record.spec),
    )


def _memory() -> dict[str, int]:
    """Largest memory so far: of the process, and of the device where it tells."""
    device = jax.devices()[0].memory_stats() or {}
    peak = {"device_peak_bytes": device["peak_bytes_in_use"]} if "peak_bytes_in_use" in device else {}
    return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, **peak}


def _score(job: Job, returns: np.ndarray) -> str:
    text = f"return {returns.mean():.1f}"
    if reference := job.record.reference:
        text += f", score {score(returns.mean(), (reference.random, reference.expert)):.1f}"
    return text
