"""All that a run needs, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gymnasium
import numpy as np
from jax.sharding import Mesh

from rlkit import online
from rlkit.buffer import Buffer
from rlkit.datasets import Normaliser
from rlkit.evaluation.evaluate import Evaluator, longest
from rlkit.runs.record import Record
from rlkit.runs.run import Position
from rlkit.training.collect import Collector
from rlkit.training.loop import Progress
from rlkit.types import Stage, Stats


class Job(NamedTuple):
    """A run's record, and the objects that it describes."""

    record: Record
    stages: tuple[Stage, ...]
    buffer: Buffer
    stats: Stats
    normaliser: Normaliser
    make_env: Callable[[], gymnasium.Env] | None  # None: there is nothing to evaluate in
    parent: Progress | None = None  # of another run, from which this one goes on or begins
    sums: np.ndarray | None = None  # of the episodes that are trained on (rlkit.datasets.sums); None: not known
    is_endless: bool = False  # whether the environment has no time limit, so that nothing can be collected in it

    @property
    def updates(self) -> int:
        """Updates of all stages."""
        return sum(stage.steps for stage in self.stages)

    def position(self, progress: Progress) -> Position:
        """Position of ``progress`` in the run."""
        stages_before = self.stages[: progress.stage]
        updates_before = sum(stage.steps for stage in stages_before)
        return Position(progress.stage, progress.step, updates_before + progress.step)

    def is_due(self, progress: Progress) -> bool:
        """Whether a checkpoint and, where the agent acts already, an evaluation go with ``progress``."""
        stage = self.stages[progress.stage]
        if stage.continues and progress.step == 0:
            return False  # the stage before has ended with the same state
        is_last_update = progress.step == stage.steps
        return is_last_update or progress.step % self.record.eval_every == 0

    def next_stage(self, start: Progress | None) -> Stage:
        """The stage that is trained where a run goes on from ``start``, None for its beginning."""
        if start is None:
            return self.stages[0]
        is_over = start.step == self.stages[start.stage].steps
        return self.stages[start.stage + is_over]

    @property
    def first_acting(self) -> int:
        """Number of the first stage that is evaluated."""
        return online.first_acting(self.stages)

    def collector(self, mesh: Mesh, beat: Callable[[], None]) -> Collector | None:
        """Collector of the online stages; None where there is none."""
        if all(stage.online is None for stage in self.stages):
            return None
        return Collector(
            self.record.seeds, self.record.spec, self.normaliser, self.make_env, mesh, beat, data=self.buffer
        )

    def evaluator(self) -> Evaluator | None:
        """Evaluator of the last stage's agent; None where there is no environment."""
        evaluation = self.record.evaluation
        if self.make_env is None or evaluation is None:
            return None
        return Evaluator(
            self.stages[-1].learner,
            self.normaliser,
            self.make_env,
            episodes=evaluation.episodes,
            seed=evaluation.seed,
            longest=longest(self.record.spec),
        )
