"""Percent-BC: behaviour cloning of the best share of the episodes, by their return (Chen et al. 2021, arXiv 2106.01345,
section 5.3). An agent in a package of its own, which the tests install: nothing of rlkit knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from agents import bc
from rlkit.buffer import Buffer
from rlkit.columns import Column
from rlkit.ranges import Range
from rlkit.types import Key, Preset, Spec, Stage, Transitions


@dataclass(frozen=True)
class BestEpisodes:
    """[N] 1 in the rows of the best ``share`` of the episodes, else 0."""

    share: float

    def __call__(self, buffer: Buffer) -> np.ndarray:
        starts = np.flatnonzero(np.asarray(buffer.t) == 0)
        returns = np.add.reduceat(np.asarray(buffer.reward, np.float64), starts)
        count = max(int(self.share * len(starts)), 1)
        best = np.zeros(len(starts), np.float32)
        best[np.argsort(-returns, kind="stable")[:count]] = 1
        return np.repeat(best, np.diff(starts, append=len(buffer.flags)))


@dataclass(frozen=True)
class Config(bc.Config):
    """Hyper-parameters of percent-BC."""

    widths: bc.Widths = (256, 256)
    """Hidden layers of the policy."""
    learning_rate: bc.LearningRate = 3e-4
    """Adam's step size."""
    batch_size: bc.Count = 256
    """Steps in a batch."""
    share: Annotated[float, Range("(0, 1]")] = 0.1
    """Share of the episodes that are kept."""

    def stages(self, spec: Spec, steps: int) -> tuple[Stage, ...]:
        """One stage."""
        column = Column("best_episodes", BestEpisodes(self.share), uses_rewards=True)
        return (Stage("percent-bc", PercentBC(self, spec, needs=(column,)), steps),)


@dataclass(frozen=True)
class PercentBC(bc.BC):
    """Behaviour cloning that draws the rows of the best episodes alone."""

    def sample(self, buffer: Buffer, key: Key) -> Transitions:
        """Steps of the best episodes."""
        weight = buffer.gather(buffer.extra["best_episodes"], buffer.index)
        return buffer.take(buffer.draw(key, self.config.batch_size, weight), gamma=1.0)


PRESETS = {"paper": Preset(Config(), 100_000, "the paper's table 3 has 10 %, 25 %, 40 % and 100 %")}
