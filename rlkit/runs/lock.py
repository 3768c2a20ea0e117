"""One run, one process: the lock of a run directory.

The operating system drops a lock (flock) when the process that holds it ends, in whatever way. So a killed run does not
block the next one. On some network file systems other hosts do not see such a lock. Therefore the file also names host
and process, and its holder touches it every few seconds. If a lock of another host is not touched for a while, its
holder has ended; to see this, no clocks of two hosts need to agree.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from rlkit import messages
from rlkit.types import InputError

NAME = ".lock"
PATIENCE = 30.0  # seconds that another host's lock must be still; its holder touches it every rlkit.runs.stopping.PULSE
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RunLock(AbstractContextManager):
    """Holds the run directory ``folder`` while it is entered.

    The directory is made if need be, and removed again if it stays empty. Entering raises InputError if the directory
    is in use or cannot be written to.
    """

    def __init__(self, folder: Path, patience: float = PATIENCE):
        self._folder = folder
        self._path = folder / NAME
        self._patience = patience
        self._made: list[Path] = []
        self._locked = True  # False where the file system has no flock

    def __enter__(self) -> RunLock:
        try:
            self._make()
            self._handle = self._open()
            self._claim()
        except OSError as error:
            self._remove_made()
            raise InputError(f"{self._folder} cannot be written to ({error.strerror}): choose another --out") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._handle)
        self._remove_made()

    def touch(self) -> None:
        """Show that the holder is alive."""
        with contextlib.suppress(OSError):  # if the disk is full or gone, the next write says so
            os.utime(self._handle)

    def _make(self) -> None:
        folders = (self._folder, *self._folder.parents)
        missing = [folder for folder in folders if not folder.exists()]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._made = missing

    def _remove_made(self) -> None:
        for path in self._made:
            try:
                path.rmdir()
            except OSError:
                return  # it is in use

    def _open(self) -> int:
        """The lock file, opened and locked. It is opened again if its last holder has just removed it."""
        while True:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(handle)
                os.close(handle)
                raise self._taken(holder) from None
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    os.close(handle)
                    raise
                self._locked = False
            if self._path.exists() and os.path.samestat(os.fstat(handle), self._path.stat()):
                return handle
            os.close(handle)

    def _claim(self) -> None:
        """Write this host and process into the lock, unless a holder on another host is alive."""
        holder = _holder(self._handle)
        if holder and (holder["host"] != socket.gethostname() or not self._locked):
            who = f"process {holder['pid']} on {holder['host']}"
            messages.tell(f"{self._folder} has a lock of {who}; watching whether it lives")
            self._wait(holder)
        own = {"host": socket.gethostname(), "pid": os.getpid()}
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps(own).encode(), 0)

    def _wait(self, holder: dict[str, Any]) -> None:
        """Raise InputError if the lock is touched within the time that its holder would take to touch it."""
        touched = os.fstat(self._handle).st_mtime_ns
        until = time.monotonic() + self._patience
        while time.monotonic() < until:
            time.sleep(min(0.5, self._patience))
            if os.stat(self._path).st_mtime_ns != touched:
                os.close(self._handle)
                raise self._taken(holder)

    def _taken(self, holder: dict[str, Any] | None) -> InputError:
        who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
        return InputError(f"{self._folder} is in use by {who}: wait for it, stop it, or choose another --out")


def is_held(folder: Path) -> bool:
    """Whether a process of this host writes to the run directory now."""
    try:
        handle = os.open(folder / NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _holder(handle: int) -> dict[str, Any] | None:
    """Host and process that a lock file names; None if it names none."""
    try:
        form = json.loads(os.pread(handle, 4096, 0))
        return {"host": str(form["host"]), "pid": int(form["pid"])}
    except (ValueError, KeyError, TypeError):
        return None
