"""What `rlkit train` does while it trains: `train` reads top to bottom; what it calls stands below."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable

import jax
import numpy as np

from rlkit import messages
from rlkit.buffer import Buffer
from rlkit.evaluation.evaluate import Evaluation, EvaluationError, Evaluator, score
from rlkit.runs import checkpoint
from rlkit.runs.checkpoint import Checkpoints
from rlkit.runs.job import Job
from rlkit.runs.pace import Pace
from rlkit.runs.progress import Display
from rlkit.runs.run import Position, Run, checkpoint_numbers
from rlkit.runs.stopping import Guard
from rlkit.training import divergence
from rlkit.training.collect import Collector
from rlkit.training.loop import Progress, abstract_state, finite, fit
from rlkit.training.sharding import make_mesh
from rlkit.types import InputError, RunError

KEEP = 2  # checkpoints
CHUNK_SECONDS = 0.5  # a signal is answered when the running chunk has ended
LOGS = 2**20  # bytes to leave for what is not a checkpoint


def train(
    job: Job, run: Run, guard: Guard, q_limit: float | None, shown_by: Callable[[int, int], Display] = Display
) -> list[str]:
    """Train from where the last checkpoint stands to the end of the last stage; returns what went wrong on the way.

    shown_by: makes the display of a number of updates, of which some are done.

    Raises Stop, with a checkpoint, if ``guard`` was asked to stop, and RunError if nothing sound is left to train.
    """
    record, stages = job.record, job.stages
    mesh = make_mesh(len(record.seeds))
    limits = Limits(job, q_limit)
    evaluator = job.evaluator()
    collector = job.collector(mesh, guard.beat)
    abstract_live = collector.abstract if collector else None

    with Checkpoints(run.folder / "checkpoints", KEEP, record.identity()) as checkpoints:
        start = checkpoints.last(stages, job.buffer, job.stats, record.seeds, mesh, abstract_live) or job.parent
        check_room(job, run, collector)
        done = begin(job, run, start, evaluator)
        with shown_by(job.updates, done) as display:
            failure = catch_up(job, run, guard, evaluator, display, start)  # of the latest evaluation
            pace = Pace(job, guard, display, start, done)
            for progress in fit(
                stages,
                job.buffer,
                job.stats,
                record.seeds,
                log_every=record.log_every,
                mesh=mesh,
                resume=start,
                chunk_seconds=CHUNK_SECONDS,
                collector=collector,
            ):
                # --- advance ---
                position = pace.arrive(progress)
                stop = guard.code
                has_trained = progress.step > 0

                # --- judge and log ---
                if progress.metrics:
                    judge(job, run, progress, limits)
                    log(run, progress, position, pace.clock.close())
                elif stop is not None and has_trained:
                    judge(job, run, with_finite(progress), limits)

                # --- save, and stop if that was asked for ---
                is_due = job.is_due(progress)
                if has_trained and (is_due or stop is not None):
                    checkpoints.save(position.updates, progress)
                if stop is not None:
                    pace.stop(stop, position)

                # --- evaluate and go on ---
                if is_due:
                    failure = evaluate(job, run, guard, evaluator, display, progress)
                pace.go_on(progress)
    return faults(job, run, failure)


def begin(job: Job, run: Run, start: Progress | None, evaluator: Evaluator | None) -> int:
    """Open the logs at ``start``, None for a new run; returns how many updates are done."""
    goals = len(evaluator.goals) if evaluator else 1
    if start is None:
        run.begin(None, goals)
        return 0
    position = job.position(start)
    run.begin(position, goals)
    return position.updates


def catch_up(
    job: Job, run: Run, guard: Guard, evaluator: Evaluator | None, display: Display, start: Progress | None
) -> str:
    """Make the evaluation that the run was stopped before, if there is one; returns why it failed, or ""."""
    if start is None:
        return ""
    begins_here = start is job.parent and job.record.parent.begins
    if not begins_here:
        display.say(f"going on after {job.position(start).updates} updates")
    if run.evaluated or not job.is_due(start):
        return ""
    return evaluate(job, run, guard, evaluator, display, start)


def log(run: Run, progress: Progress, position: Position, rate: float | None) -> None:
    """Write a line of metrics, in which seeds that diverged are NaN, and one of times and memory. ``rate``: updates a
    second, None where it is not known."""
    metrics = divergence.without(progress.metrics, run.diverged)
    run.metrics(position, metrics)
    measured: dict[str, float] = {"updates": position.updates}
    if rate is not None:
        measured["updates_per_second"] = rate
    run.timing(measured | memory())


def with_finite(progress: Progress) -> Progress:
    """``progress`` between two lines of metrics, with which of its seeds are finite: where it is saved, one that
    diverged must not push out a sound one."""
    return progress._replace(finite=jax.device_get(finite(progress.state, progress.sums)))


def judge(job: Job, run: Run, progress: Progress, limits: Limits) -> None:
    """Note the seeds that have diverged by ``progress``, in ``run.diverged``, and say so. RunError if all have."""
    seeds = job.record.seeds
    known = run.diverged
    stage = job.stages[progress.stage].name
    limit = limits.at(progress)
    for number, reason in divergence.diverged(progress.metrics, progress.finite, limit).items():
        if number in known:
            continue
        known.add(number)
        message = f"seed {seeds[number]} diverged by step {progress.step} of {stage}: {reason}"
        if len(known) < len(seeds):
            messages.tell(f"{message}; the other seeds go on")
            continue
        if progress.metrics:  # the run's folder must say that every seed diverged
            run.metrics(job.position(progress), divergence.without(progress.metrics, known))
        numbers = checkpoint_numbers(run.folder / "checkpoints")
        last = f"the last good checkpoint is {numbers[-1]}" if numbers else "there is no checkpoint yet"
        raise RunError(f"{run.folder}: {message}; {last}; {divergence.ADVICE}")


def evaluate(
    job: Job, run: Run, guard: Guard, evaluator: Evaluator | None, display: Display, progress: Progress
) -> str:
    """Evaluate the seeds that have not diverged, from `Job.first_acting` on, and log the returns.

    An evaluation that fails is logged as invalid, and the reason is returned; else "".
    """
    if evaluator is None or progress.stage < job.first_acting:
        return ""
    position = job.position(progress)
    seeds = len(job.record.seeds)
    numbers = [number for number in range(seeds) if number not in run.diverged]
    sound = np.array(numbers)
    state = progress.state
    if len(sound) < seeds:
        state = jax.tree.map(lambda leaf: leaf[sound], state)
    guard.enter("evaluation")
    display.enter("evaluation", job.stages[progress.stage].name)
    try:
        played = evaluator.run(state, guard.beat)
    except (EvaluationError, TimeoutError) as error:
        guard.enter("saving")
        run.invalid(position, str(error))
        messages.tell(f"the evaluation after {progress.step} updates is invalid: {error}")
        return str(error)
    guard.enter("saving")
    goals = list(evaluator.goals)
    stage = job.stages[progress.stage]
    where = " online" if stage.online else ""
    whole = among_all(played, sound, seeds)
    run.evaluation(position, whole, goals)
    for goal, returns, success in zip(goals, played.returns, played.success, strict=True):
        asked = f", asked for {goal}" if goal else ""
        display.say(f"after {progress.step} updates{where}{asked}: {summary(job, returns, success)}")
    return ""


def among_all(played: Evaluation, sound: np.ndarray, seeds: int) -> Evaluation:
    """The evaluation of the seeds ``sound`` as one of all ``seeds``: the others have returns and successes NaN, and
    lengths 0."""
    goals, _, episodes = played.returns.shape
    returns = np.full((goals, seeds, episodes), np.nan)
    lengths = np.zeros((goals, seeds, episodes), np.int64)
    success = np.full((goals, seeds, episodes), np.nan)
    returns[:, sound] = played.returns
    lengths[:, sound] = played.lengths
    success[:, sound] = played.success
    return Evaluation(returns, lengths, success)


def summary(job: Job, returns: np.ndarray, success: np.ndarray) -> str:
    """Mean return, score where the environment has reference returns, and rate of success where it tells one."""
    mean = returns.mean()
    words = [f"return {mean:.1f}"]
    reference = job.record.reference
    if reference is not None:
        normalised = score(mean, (reference.random, reference.expert))
        words.append(f"score {normalised:.1f}")
    if np.isfinite(success).all():
        words.append(f"success {100 * success.mean():.0f} %")
    return ", ".join(words)


def faults(job: Job, run: Run, failure: str) -> list[str]:
    """What went wrong in a run that came to its end. RunError if its last evaluation is invalid, for ``failure``."""
    if failure:
        raise RunError(
            f"{run.folder}: training is done, but its last evaluation is invalid ({failure}): repair the environment, "
            "and --resume auto makes it again"
        )
    lines = []
    if run.diverged:
        seeds = ", ".join(str(job.record.seeds[number]) for number in sorted(run.diverged))
        lines.append(f"seeds that diverged and are left out of the scores: {seeds}")
    if run.failed:
        lines.append(f"{run.failed} evaluations are invalid; metrics.jsonl says why")
    return lines


class Limits:
    """The largest |Q| that is credible, as the user gave it or by the rewards of the data and of what is collected."""

    def __init__(self, job: Job, given: float | None):
        self._job = job
        self._given = given
        self._by_data = 0.0
        if given is None:
            self._by_data = self._of(job.buffer)

    def at(self, progress: Progress) -> float:
        """The limit for the metrics of ``progress``."""
        if self._given is not None:
            return self._given
        if progress.live is None:
            return self._by_data
        return max(self._by_data, self._of(progress.live.replay))

    def _of(self, buffer: Buffer) -> float:
        return divergence.limit_of(self._job.stages, buffer, self._job.stats, self._job.record.spec.horizon)


def memory() -> dict[str, float]:
    """Largest memory so far in bytes: of the process, and of the device where it tells."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peaks: dict[str, float] = {"peak_bytes": usage.ru_maxrss * 1024}
    device = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in device:
        peaks["device_peak_bytes"] = device["peak_bytes_in_use"]
    return peaks


def check_room(job: Job, run: Run, collector: Collector | None) -> None:
    """InputError if the checkpoints to come have no room: a new one is written before the oldest is removed."""
    seeds = job.record.seeds
    sizes = []
    for number in range(len(job.stages)):
        state = abstract_state(job.stages, number, job.buffer, job.stats, seeds)
        stage = job.stages[number]
        live = collector.abstract(stage, state) if stage.online else None
        sizes.append(checkpoint.size((state, live)))
    saved = len(checkpoint_numbers(run.folder / "checkpoints"))
    to_come = max(KEEP + 1 - saved, 1)
    need = max(sizes) * to_come + LOGS
    free = shutil.disk_usage(run.folder).free
    if free < need:
        raise InputError(f"{run.folder}: the checkpoints need {need:,} bytes, and {free:,} are free: make room")
