"""The run that another one comes from: its record, and its last checkpoint to go on from, or to begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from rlkit import online
from rlkit.runs import integrity, serialization
from rlkit.runs.checkpoint import Checkpoints
from rlkit.runs.job import Job
from rlkit.runs.record import Parent, Record
from rlkit.runs.run import checkpoint_numbers
from rlkit.training.loop import Progress, finite, restarted
from rlkit.training.sharding import make_mesh
from rlkit.types import InputError, Stage


@dataclass(frozen=True)
class Before:
    """A run that another one comes from, at its last checkpoint."""

    folder: Path
    record: Record
    parent: Parent

    @classmethod
    def read(cls, folder: Path, *, begins: bool = False) -> Before:
        """The run in ``folder``. InputError if it has no checkpoint.

        begins: whether the other run begins with this one's arrays (`start`), or goes on where it ended (`end`).
        """
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
        return cls(folder, record, Parent(last, digest, str(folder), begins))

    def check_same(self, agent: str, module: str, seeds: int) -> None:
        """Raises InputError unless ``seeds`` copies of the agent in ``module`` can begin with the run's arrays."""
        mine = self.record
        if mine.module != module:
            raise InputError(f"--init-from {self.folder}: a run of {mine.agent} has other arrays than {agent}")
        number = len(mine.seeds)
        if number != seeds:
            raise InputError(f"--init-from {self.folder}: it has {number} seeds: add --seeds {number}")

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
        progress = self._last(job, job.stages)
        if progress is None or progress.stage != number:
            raise self._not_yet()
        return progress._replace(step=job.stages[number].steps, sums={}, live=None)

    def start(self, job: Job) -> Progress:
        """The run's last state as step 0 of the stage of ``job`` that acts, for another run to begin with.

        Parameters, targets and whatever else the state holds are the run's; the optimisers begin anew. Stages before
        that one are not trained again. Raises InputError where the state is not there yet, where a seed of it diverged,
        or where its arrays are not those that the job wants: the message lists them.
        """
        mine = self.record

        # --- its last state; what it did online went on with the stage that acts ---
        number = online.first_acting([stage for stage in job.stages if stage.online is None])
        acting = job.stages[number]
        later = [replace(acting, continues=True)] * (len(mine.stages) - 1 - number)
        progress = self._last(job, [*job.stages[: number + 1], *later])
        if progress is None or progress.stage < number:
            raise self._not_yet()
        is_sound = jax.device_get(finite(progress.state, {}))
        if not is_sound.all():
            lost = [mine.seeds[member] for member in np.flatnonzero(~is_sound)]
            raise InputError(f"--init-from {self.folder}: the seeds {lost} of it diverged: begin from another run")

        state = restarted(job.stages, number, progress.state, job.buffer, job.stats, job.record.seeds)
        return Progress(number, 0, state, sums={}, metrics={}, finite=np.zeros(0, bool))

    def other_scales(self, job: Job) -> list[str]:
        """Names of what the Normaliser of ``job`` scales otherwise than this run's."""
        mine = serialization.encode(self.record.normaliser)
        theirs = serialization.encode(job.record.normaliser)
        return [name for name, value in theirs.items() if mine.get(name) != value]

    def _last(self, job: Job, stages: Sequence[Stage]) -> Progress | None:
        mine = self.record
        mesh = make_mesh(len(mine.seeds), jax.devices()[:1])
        with Checkpoints(self.folder / "checkpoints", identity=mine.identity()) as checkpoints:
            return checkpoints.last(stages, job.buffer, job.stats, mine.seeds, mesh)

    def _not_yet(self) -> InputError:
        return InputError(f"{self.folder} has no checkpoint of its last stage yet: continue it with --resume auto")
