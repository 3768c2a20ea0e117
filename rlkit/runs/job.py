"""All that a run needs, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gymnasium

from rlkit.buffer import Buffer
from rlkit.datasets import Normaliser
from rlkit.evaluation.evaluate import Evaluator, longest
from rlkit.runs.record import Record
from rlkit.runs.run import Position
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
        """Whether a checkpoint and, in the last stage, an evaluation go with ``progress``."""
        stage = self.stages[progress.stage]
        is_last_update = progress.step == stage.steps
        return is_last_update or progress.step % self.record.eval_every == 0

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
