"""A value with an interval over episodes: the estimate, and what it is with other weights of the same episodes.

Estimators that were given the same weights see the same imagined patients in replicate r. So a difference between two
of them is taken replicate by replicate: what is good or bad luck for both cancels out, and the interval of the
difference is narrower than the two intervals beside each other suggest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95


class Replicated(NamedTuple):
    """An estimate with R replicates, and the 95 % interval that they make.

    It is the estimate, and on either side as many standard deviations of the replicates as Student's t says for R - 1
    degrees of freedom: 2.09 for 20, 1.97 for 200.
    """

    estimate: float
    replicates: np.ndarray  # [R], replicate r of the weights r

    @classmethod
    def of(cls, values: np.ndarray) -> Replicated:
        """From ``values`` [1 + R] of the weights of rlkit.ope.importance.bootstrap_weights, the estimate first."""
        return cls(float(values[0]), np.asarray(values[1:], np.float64))

    @property
    def half(self) -> float:
        """Half of the interval's width."""
        freedom = len(self.replicates) - 1
        return float(stdtrit(freedom, (1 + LEVEL) / 2) * self.replicates.std(ddof=1))

    @property
    def low(self) -> float:
        return self.estimate - self.half

    @property
    def high(self) -> float:
        return self.estimate + self.half

    def minus(self, other: Replicated) -> Replicated:
        """The difference, replicate by replicate. Both must have been made with the same weights of the episodes."""
        return Replicated(self.estimate - other.estimate, self.replicates - other.replicates)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> Replicated:
    """The mean of ``values`` [E], one for each episode, and with each of the weights [R, E]."""
    values = np.asarray(values, np.float64)
    replicates = (weights * values).sum(1) / weights.sum(1)
    return Replicated(float(values.mean()), replicates)
