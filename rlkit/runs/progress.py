"""What a person sees while training runs: a bar on a terminal, lines of text elsewhere."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

QUIET_SECONDS = 10.0  # between lines of text


class Display(AbstractContextManager):
    """Shows how far a run of ``total`` updates, or of what ``unit`` names, has come, starting from ``done``."""

    def __init__(self, total: int, done: int = 0, unit: str = "updates"):
        self._total = total
        self._unit = unit
        self._first = done
        self._begun = time.monotonic()
        self._last_line = self._begun
        self._bar: Progress | None = None
        console = Console()
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=console,
                speed_estimate_period=120,
            )
            self._task = self._bar.add_task("", total=total, completed=done, rate="")

    def __enter__(self) -> Display:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, stage: str, done: int, rate: float) -> None:
        """Show ``done`` updates in all, in ``stage``, at ``rate`` of them a second."""
        digits = 0 if rate >= 10 else 1
        speed = f"{rate:.{digits}f} {self._unit}/s"
        if self._bar:
            self._bar.update(self._task, description=stage, completed=done, rate=speed)
            return
        quiet = time.monotonic() - self._last_line
        if quiet >= QUIET_SECONDS:
            self.say(f"{stage}: {done} of {self._total} {self._unit}, {speed}, {self._left(done)} left")

    def say(self, text: str) -> None:
        """Print a line now."""
        self._last_line = time.monotonic()
        if self._bar:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, flush=True)

    def _left(self, done: int) -> timedelta:
        elapsed = time.monotonic() - self._begun
        done_here = max(done - self._first, 1)
        seconds = elapsed * (self._total - done) / done_here
        return timedelta(seconds=round(seconds))
