"""Where a run stands while `fit` trains it: told to the guard and the display, and measured by a clock."""

from __future__ import annotations

import time
from typing import NoReturn

from rlkit.runs.job import Job
from rlkit.runs.progress import Display
from rlkit.runs.run import Position
from rlkit.runs.stopping import Guard, Phase, Stop
from rlkit.training.loop import Progress


class Clock:
    """Updates a second while `fit` trains, since the last log line."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._count = 0
        self._began = time.monotonic()
        self._from = 0

    def start(self, updates: int) -> None:
        """Begin to count where `fit` goes on, after ``updates``."""
        self._began = time.monotonic()
        self._from = updates

    def count(self, updates: int) -> None:
        """Count up to ``updates``, to which `fit` has come."""
        self._seconds += time.monotonic() - self._began
        self._count += updates - self._from

    def close(self) -> float | None:
        """End the interval; returns its rate."""
        rate = self.rate()
        self._seconds = 0.0
        self._count = 0
        return rate

    def rate(self) -> float | None:
        """The rate so far; None where nothing has been counted yet."""
        if not self._count:
            return None
        seconds = max(self._seconds, 1e-9)
        return self._count / seconds


class Pace:
    """What is said and measured between two chunks of `fit`.

    Args:
        job: what is trained. start: where it goes on from, None for its beginning. done: its updates by then.

    The first chunk of a stage begins with its compilation, so that it does not count for the rate.
    """

    def __init__(self, job: Job, guard: Guard, display: Display, start: Progress | None, done: int):
        self._job = job
        self._guard = guard
        self._display = display
        self.clock = Clock()
        stage = job.next_stage(start).name if done < job.updates else ""
        self._enter("compilation", stage, done)

    def arrive(self, progress: Progress) -> Position:
        """`fit` has come to ``progress``, which is saved from here on."""
        self._guard.enter("saving")
        position = self._job.position(progress)
        if progress.step > 0:
            if self._phase == "training":
                self.clock.count(position.updates)
            stage = self._job.stages[progress.stage]
            self._display.update(stage.name, position.updates, self.clock.rate())
        return position

    def stop(self, code: int, position: Position) -> NoReturn:
        """Say where the run will go on from, and raise Stop with its exit code."""
        self._display.say(f"stopped after {position.updates} updates; --resume auto goes on from there")
        raise Stop(code)

    def go_on(self, progress: Progress) -> None:
        """`fit` goes on from ``progress``."""
        stage = self._job.stages[progress.stage]
        is_within_stage = 0 < progress.step < stage.steps
        phase: Phase = "training" if is_within_stage else "compilation"
        self._enter(phase, stage.name, self._job.position(progress).updates)

    def _enter(self, phase: Phase, stage: str, updates: int) -> None:
        self._phase = phase
        self._guard.enter(phase)
        if updates < self._job.updates:
            self._display.enter(phase, stage)
        self.clock.start(updates)
