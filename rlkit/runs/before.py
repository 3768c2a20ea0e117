"""The run that another one goes on from: its record, and its last checkpoint as the place to start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax

from rlkit.runs import integrity
from rlkit.runs.checkpoint import Checkpoints
from rlkit.runs.job import Job
from rlkit.runs.record import Parent, Record
from rlkit.runs.run import checkpoint_numbers
from rlkit.training.loop import Progress
from rlkit.training.sharding import make_mesh
from rlkit.types import InputError


@dataclass(frozen=True)
class Before:
    """A run that is gone on from, at its last checkpoint."""

    folder: Path
    record: Record
    parent: Parent

    @classmethod
    def read(cls, folder: Path) -> Before:
        """The run in ``folder``. InputError if it has no checkpoint."""
        record = Record.read(folder)
        numbers = checkpoint_numbers(folder / "checkpoints")
        if not numbers:
            raise InputError(f"{folder} has no checkpoint to go on from: train it first")
        last = numbers[-1]
        manifest = folder / "checkpoints" / str(last) / integrity.MANIFEST
        try:
            digest = integrity.digest(manifest)["sha256"]
        except OSError as error:
            raise InputError(f"{manifest} cannot be read ({error.strerror})") from None
        return cls(folder, record, Parent(last, digest, str(folder)))

    def end(self, job: Job) -> Progress:
        """The run's last state, as the end of its last stage, for ``job`` to go on from.

        Raises InputError where it is not there yet, or where the data are not those of the run.
        """
        mine = self.record
        if job.record.data.fingerprint != mine.data.fingerprint:
            raise InputError(
                f"{self.folder} was trained on other data ({mine.data.name}, {mine.data.fingerprint[:12]}) than are "
                f"found now ({job.record.data.name}, {job.record.data.fingerprint[:12]})"
            )
        number = len(mine.stages) - 1
        mesh = make_mesh(len(mine.seeds), jax.devices()[:1])
        with Checkpoints(self.folder / "checkpoints", identity=mine.identity()) as checkpoints:
            progress = checkpoints.last(job.stages, job.buffer, job.stats, mine.seeds, mesh)
        if progress is None or progress.stage != number:
            raise InputError(f"{self.folder} has no checkpoint of its last stage yet: continue it with --resume auto")
        return progress._replace(step=job.stages[number].steps, sums={}, live=None)
