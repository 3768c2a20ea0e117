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
from rlkit.runs.progress import Display
from rlkit.runs.run import Run, checkpoint_numbers
from rlkit.runs.stopping import Guard, Phase, Stop
from rlkit.runs.trainer import CHUNK_SECONDS, KEEP, Clock, Limits
from rlkit.training import divergence, swept
from rlkit.training.loop import Progress, finite, fit
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

    def judge(self, progress: Progress) -> None:
        """Note the seeds that have diverged; where all have, the other members go on."""
        try:
            trainer.judge(self.job, self.run, progress, self.limits)
        except RunError as error:
            self.error = error
            messages.tell(f"{error}; the other runs go on")


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
    record = first.record
    copies = len(record.seeds)
    mesh = make_mesh(copies * len(members))
    clock = Clock()
    shared = first.evaluator()
    with ExitStack() as stack:
        # --- where they stand ---
        parts = []
        for member in members:
            folder = member.run.folder / "checkpoints"
            checkpoints = stack.enter_context(Checkpoints(folder, KEEP, member.job.record.identity()))
            parts.append(_Part(member, q_limit, checkpoints, shared))
        starts = [part.last() for part in parts]
        places = {None if start is None else (start.stage, start.step, start.summed) for start in starts}
        if len(places) > 1:  # a damaged checkpoint was set aside
            return _one_after_another(members, guard, q_limit)
        for part in parts:
            trainer.check_room(part.job, part.run, None)
        done = 0
        for part, start in zip(parts, starts, strict=True):
            done = trainer.begin(part.job, part.run, start, part.evaluator)

        display = stack.enter_context(Display(first.updates, done))
        for part, start in zip(parts, starts, strict=True):
            shown = _Labelled(display, part.label)
            part.failure = trainer.catch_up(part.job, part.run, guard, part.evaluator, shown, start)
        phase: Phase = "compilation"  # that the next chunk begins with
        guard.enter(phase)
        if done < first.updates:
            display.enter(phase, first.next_stage(starts[0]).name)
        clock.start(done)
        for progress in fit(
            first.stages,
            first.buffer,
            first.stats,
            record.seeds * len(members),
            log_every=record.log_every,
            mesh=mesh,
            resume=_joined(starts),
            chunk_seconds=CHUNK_SECONDS,
            swept=_numbers(members),
        ):
            # --- advance ---
            guard.enter("saving")
            stop = guard.code
            stage = first.stages[progress.stage]
            position = first.position(progress)
            has_trained = progress.step > 0
            is_due = first.is_due(progress)
            if has_trained:
                if phase == "training":
                    clock.count(position.updates)
                display.update(stage.name, position.updates, clock.rate())
            rate = clock.close() if progress.metrics else None

            # --- judge, log and save ---
            if stop is not None and has_trained and not progress.metrics:
                is_finite = jax.device_get(finite(progress.state, progress.sums))
                progress = progress._replace(finite=is_finite)
            is_saved = has_trained and (is_due or stop is not None)
            on_host = progress
            if is_saved or is_due:  # there a member's share is cut out without a compilation
                state, sums = jax.device_get((progress.state, progress.sums))
                on_host = progress._replace(state=state, sums=sums)
            for number, part in enumerate(parts):
                if part.error is None and len(progress.finite):
                    part.judge(_metrics_of(progress, number, copies))
                if part.error is not None:
                    continue
                if progress.metrics:
                    _log(part, _metrics_of(progress, number, copies), rate)
                if is_saved:
                    part.checkpoints.save(position.updates, _part_of(on_host, number, copies))
            going = [part for part in parts if part.error is None]

            # --- stop ---
            if stop is not None:
                display.say(f"stopped after {position.updates} updates; --resume auto goes on from there")
                raise Stop(stop)
            if not going:
                break

            # --- evaluate ---
            for number, part in enumerate(parts):
                if part.error is None and is_due:
                    own = _part_of(on_host, number, copies)
                    shown = _Labelled(display, part.label)
                    part.failure = trainer.evaluate(part.job, part.run, guard, part.evaluator, shown, own)

            # --- go on ---
            is_within_stage = has_trained and progress.step < stage.steps
            phase = "training" if is_within_stage else "compilation"
            guard.enter(phase)
            if position.updates < first.updates:
                display.enter(phase, stage.name)
            clock.start(position.updates)
    return {part.label: _outcome(part) for part in parts}


def _one_after_another(members: Sequence[Member], guard: Guard, q_limit: float | None) -> dict[str, Outcome]:
    return {member.label: alone(member, guard, q_limit) for member in members}


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


def _log(part: _Part, progress: Progress, rate: float | None) -> None:
    """Lines of metrics and of times; ``rate`` is that of all members together, each counted as one."""
    position = part.job.position(progress)
    part.run.metrics(position, divergence.without(progress.metrics, part.run.diverged))
    part.run.timing(trainer.timing(position, rate))


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
