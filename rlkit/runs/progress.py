"""What a person sees while training runs: a bar on a terminal, lines of text elsewhere."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from rlkit.runs.stopping import Phase

QUIET_SECONDS = 10.0  # between lines of text
SETTLED_SECONDS = 1.0  # of work, from which on the time left is told: the first updates say little of it
NAMES: dict[Phase, str] = {"compilation": "compiling", "training": "training", "evaluation": "evaluating"}


class _Shown(AbstractContextManager):
    """Something that moves on a terminal until it is left."""

    _bar: Progress | None = None  # None where there is no terminal

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()


class Display(_Shown):
    """Shows how far a run of ``total`` updates, or of what ``unit`` names, has come, starting from ``done``.

    The time left is told by the work since: compiling, and the update that was compiled for, do not count.
    """

    def __init__(self, total: int, done: int = 0, unit: str = "updates"):
        self._total = total
        self._unit = unit
        self._done = done
        self._counted = 0  # updates in the seconds of work
        self._worked = 0.0  # seconds
        self._phase: Phase | None = None
        self._entered = time.monotonic()
        self._last_line = self._entered
        self._named: set[tuple[str, Phase]] = set()
        console = Console()
        if console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TextColumn("{task.fields[left]}"),
                console=console,
                expand=True,
            )
            self._task = self._bar.add_task("", total=total, completed=done, rate="", left="")

    def __enter__(self) -> Display:
        if self._bar:
            self._bar.start()
        return self

    def enter(self, phase: Phase, stage: str) -> None:
        """Name what begins now, in ``stage``. Without a bar each is named once, and compilation whenever it begins."""
        self._count_seconds()
        compiles_again = phase == "compilation" and self._phase != phase
        self._phase = phase
        if self._bar:
            self._bar.update(self._task, description=self._title(stage))
        elif compiles_again or (stage, phase) not in self._named:
            self._named.add((stage, phase))
            self.say(self._title(stage))

    def update(self, stage: str, done: int, rate: float | None) -> None:
        """Show ``done`` updates in all, in ``stage``, at ``rate`` of them a second, None where it is not known yet."""
        self._count_seconds()
        if self._phase != "compilation":
            self._counted += done - self._done
        self._done = done
        speed = ""
        if rate is not None:
            digits = 0 if rate >= 10 else 1
            speed = f"{rate:.{digits}f} {self._unit}/s"
        remaining = self._left()
        left = "" if remaining is None else f"{remaining} left"
        if self._bar:
            self._bar.update(self._task, description=self._title(stage), completed=done, rate=speed, left=left)
            return
        quiet = time.monotonic() - self._last_line
        if quiet >= QUIET_SECONDS:
            told = [f"{stage}: {done} of {self._total} {self._unit}", speed, left]
            self.say(", ".join(part for part in told if part))

    def say(self, text: str) -> None:
        """Print a line now."""
        self._last_line = time.monotonic()
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, flush=True)

    def _title(self, stage: str) -> str:
        return stage if self._phase is None else f"{stage}: {NAMES[self._phase]}"

    def _count_seconds(self) -> None:
        """Count the seconds since the last call as work, unless they were compilation or before the first update."""
        now = time.monotonic()
        has_begun = self._phase in (None, "training") or self._counted > 0
        if self._phase != "compilation" and has_begun:
            self._worked += now - self._entered
        self._entered = now

    def _left(self) -> timedelta | None:
        if self._worked < SETTLED_SECONDS or not self._counted:
            return None
        seconds = self._worked * (self._total - self._done) / self._counted
        return timedelta(seconds=round(seconds))


class Waiting(_Shown):
    """Says ``what`` is being done where nothing tells how far it has come: with the seconds that pass on a terminal, as
    a line elsewhere, which is left out if ``quiet``."""

    def __init__(self, what: str, *, quiet: bool = False):
        self._what = what
        self._quiet = quiet

    def __enter__(self) -> Waiting:
        console = Console()
        if console.is_terminal:
            text = TextColumn("{task.description}", markup=False)
            self._bar = Progress(SpinnerColumn(), text, TimeElapsedColumn(), console=console, transient=True)
            self._bar.add_task(self._what, total=None)
            self._bar.start()
        elif not self._quiet:
            print(self._what, flush=True)
        return self
