"""When training has gone wrong: what is not finite, and values that no return can have.

A metric whose quantity is ``q`` (``critic/q``, ``actor/q``) is a mean of Q, which estimates a discounted sum over the
steps of an episode. Each step is worth the reward and what the method itself adds to it inside Q: the entropy times the
temperature, a penalty for leaving the data. A learner that adds something says how much it can be, as its property
``intrinsic_reward`` (SAC: the temperature at the start, times the action's dimensions, times the size of a dimension's
log-density). So Q cannot honestly exceed

    steps of the longest episode x (largest |reward| + intrinsic reward),

however small the rewards are. A temperature that rises later does so after the size of Q, which the same bound holds.
A critic that has learnt little says numbers about as large as its inputs, or as 1 where these are smaller, whatever
the rewards: below that no limit means anything.

The default limit is a hundred times the larger of the two. The margin is for what the bound leaves out: a discount
whose horizon is longer than the episodes, a penalty of many times its usual size, the first steps of an optimiser. What
explodes passes it soon all the same, since it grows by a factor in every target update.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rlkit.buffer import Buffer
from rlkit.types import Stage, Stats

MARGIN = 100.0
ADVICE = "try smaller learning rates or scaled rewards in a new --out, or a larger --q-limit"


def default_limit(largest_reward: float, intrinsic_reward: float, horizon: int, largest_input: float) -> float:
    """The largest credible |Q|.

    largest_reward: of |reward| as agents see it. intrinsic_reward: the largest size of what the method adds to it at a
    step. horizon: steps of the longest episode. largest_input: usual size of the largest observed number.
    """
    largest_return = horizon * (largest_reward + intrinsic_reward)
    return MARGIN * max(largest_return, largest_input, 1.0)


def limit_of(stages: Sequence[Stage], buffer: Buffer, stats: Stats, horizon: int) -> float:
    """The default limit for ``stages`` that learn from ``buffer``, whose moments are ``stats``."""
    intrinsic_reward = 0.0
    for stage in stages:
        added = getattr(stage.learner, "intrinsic_reward", 0.0)
        intrinsic_reward = max(intrinsic_reward, added)
    reward_size = np.abs(np.asarray(buffer.reward))
    input_size = np.abs(stats.obs_mean) + stats.obs_std
    largest_reward = float(reward_size.max())
    largest_input = float(input_size.max())
    return default_limit(largest_reward, intrinsic_reward, horizon, largest_input)


def diverged(metrics: Mapping[str, np.ndarray], finite: np.ndarray, limit: float) -> dict[int, str]:
    """What is wrong with each seed that diverged, by its number.

    metrics: [S] each. finite: [S], whether state and metrics are.
    """
    reasons = {}
    for seed, is_finite in enumerate(finite):
        values = {}
        for name in sorted(metrics):
            values[name] = float(metrics[name][seed])
        if is_finite:
            reason = _beyond(values, limit)
        else:
            reason = _not_finite(values)
        if reason is not None:
            reasons[seed] = reason
    return reasons


def _not_finite(values: Mapping[str, float]) -> str:
    """The first metric that is not finite, or that it must be a parameter."""
    for name, value in values.items():
        if not np.isfinite(value):
            return f"{name} is {value}"
    return "a parameter is not finite"


def _beyond(values: Mapping[str, float], limit: float) -> str | None:
    """The first mean of Q that is beyond ``limit``, or None."""
    for name, value in values.items():
        if name.endswith("/q") and abs(value) > limit:
            return f"{name} is {value:.3g}, beyond the limit of {limit:.3g}"
    return None


def without(metrics: Mapping[str, np.ndarray], seeds: Iterable[int]) -> dict[str, np.ndarray]:
    """The metrics, with NaN for ``seeds``."""
    diverged_seeds = list(seeds)
    masked = {}
    for name, values in metrics.items():
        dtype = np.result_type(values, np.float32)
        masked[name] = np.array(values, dtype)
        masked[name][diverged_seeds] = np.nan
    return masked
