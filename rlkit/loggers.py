"""Where scalars go besides metrics.jsonl. A logger may fail without harm to the run.

Both packages are slow to import and are imported when a run starts.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rlkit.types import InputError


class Logger(Protocol):
    """Takes scalars by name. ``errors`` are what it may raise when it fails."""

    errors: tuple[type[Exception], ...]

    def scalars(self, updates: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in ``folder``/tensorboard; what they say of updates after ``updates`` is dropped."""

    errors = (OSError, RuntimeError, ValueError)

    def __init__(self, folder: Path, updates: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=updates + 1)

    def scalars(self, updates: int, values: Mapping[str, float]) -> None:
        """Write ``values`` at ``updates``."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, updates)

    def close(self) -> None:
        """Flush."""
        self._writer.close()


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
    started: list[Logger] = [TensorBoard(folder, updates)]
    if wandb:
        package = import_wandb()
        try:
            started.append(WeightsAndBiases(folder, config))
        except (OSError, RuntimeError, ValueError, package.Error) as error:
            print(f"rlkit: Weights & Biases does not start and is off: {error}", file=sys.stderr)
    return started
