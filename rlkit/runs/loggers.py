"""Where scalars go besides metrics.jsonl. A logger may fail without harm to the run.

Both packages are slow to import and are imported when a run starts.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rlkit import messages
from rlkit.types import InputError


class Logger(Protocol):
    """Takes scalars by name. ``errors`` are what it may raise when it fails."""

    errors: tuple[type[Exception], ...]

    def scalars(self, updates: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in ``folder``/tensorboard; what they say of updates after ``updates`` is dropped.

    Written in this thread and without a queue: tensorboardX's own SummaryWriter writes in another one, and waits for
    ever once that has died of a full disk.
    """

    errors = (OSError, RuntimeError, ValueError)

    def __init__(self, folder: Path, updates: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event = Event
        self._scalar = scalar
        events = folder / "tensorboard" / "events"
        events.parent.mkdir(exist_ok=True)
        suffix = f".{updates}.{os.getpid()}"  # names begin with the time in seconds
        self._writer = EventsWriter(str(events), suffix)
        log = SessionLog(status=SessionLog.START)
        self._write(updates + 1, session_log=log)
        self._writer.flush()

    def scalars(self, updates: int, values: Mapping[str, float]) -> None:
        """Write ``values`` at ``updates``."""
        for name, value in values.items():
            self._write(updates, summary=self._scalar(name, value))
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _write(self, updates: int, **content: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), step=updates, **content))


class WeightsAndBiases:
    """A run of the project "rlkit"; resumed under the id that it started with."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        wandb = import_wandb()
        self.errors = (OSError, RuntimeError, ValueError, wandb.Error)
        path = folder / "wandb-id"
        if not path.exists():
            path.write_text(secrets.token_hex(8), encoding="utf-8")
        name = path.read_text(encoding="utf-8")
        self._run = wandb.init(
            project="rlkit", id=name, name=folder.name, dir=str(folder), config=dict(config), resume="allow"
        )

    def scalars(self, updates: int, values: Mapping[str, float]) -> None:
        """Send ``values`` at ``updates``."""
        self._run.log(dict(values), step=updates)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


def import_wandb() -> Any:
    """The optional package; InputError if it is not installed."""
    try:
        import wandb
    except ModuleNotFoundError:
        raise InputError("--wandb needs a package that is not installed: pip install 'rlkit-jax[wandb]'") from None
    return wandb


def start(folder: Path, config: Mapping[str, Any], updates: int, *, wandb: bool) -> list[Logger]:
    """The loggers of a run that goes on after ``updates``."""
    started: list[Logger] = []
    try:
        started.append(TensorBoard(folder, updates))
    except TensorBoard.errors as error:
        messages.tell(f"TensorBoard does not start and is off: {error}")
    if wandb:
        package = import_wandb()
        try:
            started.append(WeightsAndBiases(folder, config))
        except (OSError, RuntimeError, ValueError, package.Error) as error:
            messages.tell(f"Weights & Biases does not start and is off: {error}")
    return started
