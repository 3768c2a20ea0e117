"""How a run is stopped from outside: by SIGTERM, SIGINT, a time limit, or because nothing moves any more.

Python runs a signal's handler in the main thread, between two instructions. Compiling, waiting for a device and a step
of a simulator are one instruction each, however long they take. So a second thread reads the signals from a pipe as
they come, and says at once what will happen. If the main thread does not stop in time, the second thread ends the
process. It does so only in phases in which there is nothing to save; the files on the disk are whole at every moment.
Native code may hold Python's lock all the time: then the second thread does not run either, and faulthandler, which
needs no lock, ends the process.
"""

from __future__ import annotations

import faulthandler
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Literal, NoReturn

from rlkit import messages

TIME_LIMIT = 75  # exit code: EX_TEMPFAIL, "run me again"
STUCK = 70  # exit code: EX_SOFTWARE
GRACE = 0.7  # seconds that the main thread has to stop by itself
PULSE = 5.0  # seconds between pulses
_TICK = 0.2  # seconds
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

Phase = Literal["loading", "compilation", "training", "saving", "evaluation", "reporting"]
_SAVES: tuple[Phase, ...] = ("training", "saving")  # where stopping takes a checkpoint first
_WATCHED: tuple[Phase, ...] = ("training", "evaluation")


class Stop(BaseException):
    """The process was asked to end; ``code`` is its exit code. Not an Exception, which an environment might catch."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


class Guard(AbstractContextManager):
    """Listens while it is entered. Handlers are those of the process: enter it in the main thread, one at a time.

    Args:
        time_limit: seconds from now after which the run is to stop.
        watchdog: seconds after which a chunk of training, or an evaluation in which no environment has answered, counts
            as stuck; 0 is never.
        pulse: called every few seconds.
    """

    def __init__(self, time_limit: float | None, watchdog: float, pulse: Callable[[], None]):
        now = time.monotonic()
        self._deadline = math.inf if time_limit is None else now + time_limit
        self._watchdog = watchdog
        self._pulse = pulse
        self._phase: Phase = "loading"
        self._entered = now
        self._moved = now
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.code: int | None = None  # exit code, once the run is asked to stop
        self._asked = 0.0
        self._stuck = False
        self._signals = 0  # that have come

    def __enter__(self) -> Guard:
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        self._wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._handlers = {}
        for number in (*_SIGNALS, signal.SIGALRM):
            self._handlers[number] = signal.signal(number, self._handle)
        self._write = write
        self._unraisable = sys.unraisablehook
        sys.unraisablehook = self._swallowed
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        sys.unraisablehook = self._unraisable
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        os.close(self._read)
        os.close(self._write)

    def enter(self, phase: Phase) -> None:
        """Say what begins now. Raises Stop if the run was asked to stop and the new phase has nothing to save."""
        # The phase is set last. The second thread reads it first, and must not compare a new phase with an old time.
        now = time.monotonic()
        self._moved = now
        self._entered = now
        self._phase = phase
        self._arm()
        self.beat()

    def beat(self) -> None:
        """Say that something moves; raises Stop as `enter` does."""
        self._moved = time.monotonic()
        self._stuck = False
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.code is not None and self._phase not in _SAVES:
            raise Stop(self.code)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Answer a signal, in the main thread: stop here, if there is nothing to save."""
        if number in _SIGNALS:
            self._ask(128 + number)
        elif self._stuck and self._phase == "evaluation":
            raise TimeoutError(f"no answer within {self._watchdog:g} seconds")
        self._stop_if_asked()

    def _swallowed(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Report no Stop that was raised within a finaliser or a callback of the garbage collector.

        Python drops it there. It is raised again at the next phase, or the second thread ends the process.
        """
        if not issubclass(unraisable.exc_type, Stop):
            self._unraisable(unraisable)

    def _ask(self, code: int) -> None:
        if self.code is None:
            self.code = code
            self._asked = time.monotonic()

    def _watch(self) -> None:
        """Run in the second thread, to the end."""
        pulsed = time.monotonic()
        while True:
            is_over = self._over.is_set()  # read before the signals: those that came by then are still answered
            self._read_signals()
            if is_over:
                return
            now = time.monotonic()
            self._check_time_limit(now)
            self._end_if_ignored(now)
            self._check_movement(now)
            if now - pulsed >= PULSE:
                pulsed = now
                self._arm()
                self._pulse()

    def _read_signals(self) -> None:
        """Wait a tick for signals. The first asks the run to stop; the second ends it."""
        readable, _, _ = select.select([self._read], [], [], _TICK)
        if not readable:
            return
        for number in os.read(self._read, 64):
            if number not in _SIGNALS:
                continue
            self._signals += 1
            self._ask(128 + number)
            name = signal.Signals(number).name
            if self._signals > 1:
                self._end(self.code, f"{name} again: stopping now")
            self._announce(name)

    def _check_time_limit(self, now: float) -> None:
        if now >= self._deadline and self.code is None:
            self._ask(TIME_LIMIT)
            self._announce("time limit")
            self._wake()

    def _end_if_ignored(self, now: float) -> None:
        """End the process where the main thread had time to stop by itself and did not."""
        if self.code is None or self._phase in _SAVES:
            return
        since = max(self._asked, self._entered)
        if now - since > GRACE:
            self._end(self.code)

    def _check_movement(self, now: float) -> None:
        """Act where nothing moves: an environment that sleeps can be woken and counts as failed; a device cannot."""
        if not self._watchdog or self._phase not in _WATCHED:
            return
        still = now - self._moved
        if still <= self._watchdog:
            return
        if self._phase == "evaluation" and not self._stuck:
            self._stuck = True
            self._wake()
        elif self._phase != "evaluation" or still > self._watchdog + GRACE:
            faulthandler.dump_traceback(sys.__stderr__)
            what = "the environment" if self._phase == "evaluation" else "the device"
            self._end(STUCK, f"{what} has not answered for {self._watchdog:g} seconds (--watchdog) in {self._phase}")

    def _arm(self) -> None:
        """Have the stacks dumped and the process ended, with code 1, unless a pulse or a new phase comes in time."""
        if self._watchdog and self._phase in _WATCHED:
            faulthandler.dump_traceback_later(self._watchdog + 2 * PULSE, exit=True, file=sys.__stderr__)
        else:
            faulthandler.cancel_dump_traceback_later()

    def _wake(self) -> None:
        """Interrupt what the main thread waits for."""
        main = threading.main_thread()
        signal.pthread_kill(main.ident, signal.SIGALRM)

    def _announce(self, what: str) -> None:
        if self._phase in _SAVES:
            _say(f"{what}: stopping with a checkpoint when the updates that are running are done")
        else:
            _say(f"{what} during {self._phase}: there is nothing new to save; stopping")

    def _end(self, code: int, why: str = "") -> NoReturn:
        if why:
            _say(why)
        os._exit(code)


def _say(text: str) -> None:
    told = f"{messages.line(text)}\n"
    os.write(2, told.encode())  # not by print, which waits for a lock that the main thread may hold
