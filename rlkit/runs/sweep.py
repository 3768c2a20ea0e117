"""The runs of a sweep: those whose learners differ in numbers alone train side by side, as one program.

Their seeds stand behind one another on the seed axis. Every run has a directory, checkpoints, logs and evaluations of
its own, as if it had been trained alone; `train` reads as rlkit.runs.trainer's does, with a loop over the runs inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import numpy as np

from rlkit import messages
from rlkit.evaluation.evaluate import Evaluator
from rlkit.runs import trainer
from rlkit.runs.checkpoint import Checkpoints
from rlkit.runs.job import Job
from rlkit.runs.pace import Pace
from rlkit.runs.progress import Display
from rlkit.runs.run import Run, checkpoint_numbers
from rlkit.runs.stopping import Guard, Phase
from rlkit.runs.trainer import CHUNK_SECONDS, KEEP, Limits
from rlkit.training import swept
from rlkit.training.loop import Progress, fit
from rlkit.training.sharding import make_mesh
from rlkit.types import RunError


class Member(NamedTuple):
    """A run of a sweep."""

    label: str  # the values that it has: "beta=3"
    job: Job
    run: Run


def groups(members: Sequence[Member]) -> list[list[Member]]:
    """The members, those together that one program can train from where they stand."""
    found: list[list[Member]] = []
    known: dict[str, bool] = {}
    for member in members:
        for group in found:
            if _fit_together([*group, member], known):
                group.append(member)
                break
        else:
            found.append([member])
    return found


def _fit_together(members: Sequence[Member], known: dict[str, bool]) -> bool:
    """``known``: the numbers that were tried before, as text, and whether they can be inputs of a program."""
    jobs = [member.job for member in members]
    if any(job.buffer is not jobs[0].buffer for job in jobs):  # they need other columns of the data
        return False
    if len({_updates(member) for member in members}) > 1:
        return False
    numbers = swept.by_stage([job.stages for job in jobs])
    if numbers is None:
        return False
    names = str([sorted(of_stage) for of_stage in numbers])
    if names not in known:
        first = jobs[0]
        known[names] = swept.can_be_inputs(first.stages, numbers, first.buffer, first.stats)
    return known[names]


def _updates(member: Member) -> int:
    """Updates of the last checkpoint; 0 where there is none."""
    numbers = checkpoint_numbers(member.run.folder / "checkpoints")
    return numbers[-1] if numbers else 0


class Outcome(NamedTuple):
    """How a run ended."""

    is_complete: bool  # its last update is made and evaluated
    faults: list[str]  # what went wrong


class _Part:
    """A member while it trains: its checkpoints, its limits, and how it fares."""

    def __init__(self, member: Member, q_limit: float | None, checkpoints: Checkpoints, shared: Evaluator | None):
        self.label, self.job, self.run = member
        self.checkpoints = checkpoints
        self.limits = Limits(self.job, q_limit)
        self.evaluator = shared.of(self.job.stages[-1].learner) if shared else None
        self.failure = ""  # why the latest evaluation failed
        self.error: RunError | None = None  # why it cannot go on

    def last(self) -> Progress | None:
        """Its last sound checkpoint, or that of the run that it begins with."""
        job = self.job
        seeds = job.record.seeds
        mesh = make_mesh(len(seeds))
        return self.checkpoints.last(job.stages, job.buffer, job.stats, seeds, mesh) or job.parent

    def begin(self, start: Progress | None) -> int:
        """Open its logs at ``start``; returns how many updates are done."""
        return trainer.begin(self.job, self.run, start, self.evaluator)

    def catch_up(self, start: Progress | None, guard: Guard, display: Display) -> None:
        """Make the evaluation that it was stopped before, if there is one."""
        shown = _Labelled(display, self.label)
        self.failure = trainer.catch_up(self.job, self.run, guard, self.evaluator, shown, start)

    def judge_and_log(self, progress: Progress, rate: float | None) -> None:
        """Note the seeds that have diverged, and log its metrics if there are any. Where all have diverged, the other
        members go on. ``rate``: that of all members together, each counted as one."""
        if self.error is not None:
            return
        try:
            if len(progress.finite):
                trainer.judge(self.job, self.run, progress, self.limits)
        except RunError as error:
            self.error = error
            messages.tell(f"{error}; the other runs go on")
            return
        if progress.metrics:
            trainer.log(self.run, progress, self.job.position(progress), rate)

    def evaluate(self, progress: Progress, guard: Guard, display: Display) -> None:
        """Evaluate it as it stands in ``progress``."""
        shown = _Labelled(display, self.label)
        self.failure = trainer.evaluate(self.job, self.run, guard, self.evaluator, shown, progress)


class _Labelled(NamedTuple):
    """The display as one member sees it: its lines begin with the member's label."""

    display: Display
    label: str

    def say(self, text: str) -> None:
        self.display.say(f"{self.label}: {text}")

    def enter(self, phase: Phase, stage: str) -> None:
        self.display.enter(phase, stage)


def train(members: Sequence[Member], guard: Guard, q_limit: float | None) -> dict[str, Outcome]:
    """Train ``members``, which `groups` has found to go together, to their end; returns how each ended, by label.

    Raises Stop, with a checkpoint of each, if ``guard`` was asked to stop, and RunError where the disk takes no more.
    """
    first = members[0].job
    copies = len(first.record.seeds)
    with ExitStack() as stack:
        # --- where they stand ---
        parts = _parts(members, q_limit, stack)
        starts = [part.last() for part in parts]
        places = {None if start is None else (start.stage, start.step, start.summed) for start in starts}
        if len(places) > 1:  # a damaged checkpoint was set aside
            return {member.label: alone(member, guard, q_limit) for member in members}
        for part in parts:
            trainer.check_room(part.job, part.run, None)
        done = [part.begin(start) for part, start in zip(parts, starts, strict=True)][0]
        display = stack.enter_context(Display(first.updates, done))
        for part, start in zip(parts, starts, strict=True):
            part.catch_up(start, guard, display)

        pace = Pace(first, guard, display, starts[0], done)
        for progress in fit(
            first.stages,
            first.buffer,
            first.stats,
            first.record.seeds * len(members),
            log_every=first.record.log_every,
            mesh=make_mesh(copies * len(members)),
            resume=_joined(starts),
            chunk_seconds=CHUNK_SECONDS,
            swept=_numbers(members),
        ):
            # --- advance ---
            position = pace.arrive(progress)
            stop = guard.code
            has_trained = progress.step > 0

            # --- judge and log ---
            if stop is not None and has_trained and not progress.metrics:
                progress = trainer.with_finite(progress)
            rate = pace.clock.close() if progress.metrics else None
            for number, part in enumerate(parts):
                part.judge_and_log(_metrics_of(progress, number, copies), rate)
            going = [(number, part) for number, part in enumerate(parts) if part.error is None]

            # --- save, and stop if that was asked for ---
            is_due = first.is_due(progress)
            is_saved = has_trained and (is_due or stop is not None)
            if is_saved or is_due:
                progress = _on_host(progress)
            if is_saved:
                for number, part in going:
                    part.checkpoints.save(position.updates, _part_of(progress, number, copies))
            if stop is not None:
                pace.stop(stop, position)
            if not going:
                break

            # --- evaluate and go on ---
            if is_due:
                for number, part in going:
                    part.evaluate(_part_of(progress, number, copies), guard, display)
            pace.go_on(progress)
    return {part.label: _outcome(part) for part in parts}


def _parts(members: Sequence[Member], q_limit: float | None, stack: ExitStack) -> list[_Part]:
    """The members with their checkpoints, which ``stack`` closes. They share the environments."""
    shared = members[0].job.evaluator()
    parts = []
    for member in members:
        checkpoints = Checkpoints(member.run.folder / "checkpoints", KEEP, member.job.record.identity())
        parts.append(_Part(member, q_limit, stack.enter_context(checkpoints), shared))
    return parts


def alone(member: Member, guard: Guard, q_limit: float | None) -> Outcome:
    """Train one member by itself; returns how it ended."""
    try:
        faults = trainer.train(member.job, member.run, guard, q_limit)
    except RunError as error:
        return Outcome(False, [str(error)])
    return _complete(member.run, faults)


def _numbers(members: Sequence[Member]) -> list[dict[str, np.ndarray]]:
    """For each stage the numbers in which the members differ, one for each seed of each."""
    copies = len(members[0].job.record.seeds)
    arrays = []
    for of_stage in swept.by_stage([member.job.stages for member in members]):
        named = {}
        for name, values in of_stage.items():
            named[name] = np.repeat(np.array(values, np.float32), copies)
        arrays.append(named)
    return arrays


def _joined(starts: Sequence[Progress | None]) -> Progress | None:
    """The members' checkpoints as one, their seeds behind one another."""
    first = starts[0]
    if first is None:
        return None

    def behind_one_another(*leaves: Any) -> np.ndarray:
        return np.concatenate(leaves)

    states = jax.device_get([start.state for start in starts])
    state = jax.tree.map(behind_one_another, *states)
    sums = {}
    for name in first.sums:
        sums[name] = np.concatenate([start.sums[name] for start in starts])
    return first._replace(state=state, sums=sums)


def _metrics_of(progress: Progress, number: int, copies: int) -> Progress:
    """Member ``number``'s metrics; the states are left out."""
    own = slice(number * copies, (number + 1) * copies)
    metrics = {name: values[own] for name, values in progress.metrics.items()}
    return progress._replace(state=None, sums={}, metrics=metrics, finite=progress.finite[own])


def _part_of(progress: Progress, number: int, copies: int) -> Progress:
    """Member ``number``'s share of ``progress``, as if it trained alone."""
    own = slice(number * copies, (number + 1) * copies)
    state, sums = jax.tree.map(lambda leaf: leaf[own], (progress.state, progress.sums))
    return _metrics_of(progress, number, copies)._replace(state=state, sums=sums)


def _on_host(progress: Progress) -> Progress:
    """``progress`` with its arrays in the memory of the host, where a member's share is cut out without a
    compilation."""
    state, sums = jax.device_get((progress.state, progress.sums))
    return progress._replace(state=state, sums=sums)


def _outcome(part: _Part) -> Outcome:
    try:
        if part.error is not None:
            raise part.error
        faults = trainer.faults(part.job, part.run, part.failure)
    except RunError as error:
        return Outcome(False, [str(error)])
    return _complete(part.run, faults)


def _complete(run: Run, faults: Sequence[str]) -> Outcome:
    return Outcome(True, [f"{run.folder}: {fault}" for fault in faults])
