"""When training has gone wrong: what is not finite, and values that no return can have.

A metric whose quantity is ``q`` (``critic/q``, ``actor/q``) is a mean of Q, which estimates a discounted sum of
rewards: it cannot honestly exceed the largest reward times the steps of an episode. Bonuses and entropies that methods
add to the rewards may, so the default limit is a hundred times that; what explodes passes it soon, since it grows by a
factor in every target update.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

MARGIN = 100.0
ADVICE = "try smaller learning rates or scaled rewards in a new --out, or a larger --q-limit"


def default_limit(largest_reward: float, horizon: int) -> float:
    """The largest credible |Q|, given the largest |reward| as agents see it and the steps of the longest episode."""
    return MARGIN * max(largest_reward, 1e-3) * horizon


def diverged(metrics: Mapping[str, np.ndarray], finite: np.ndarray, limit: float) -> dict[int, str]:
    """What is wrong with each seed that diverged, by its number.

    metrics: [S] each. finite: [S], whether state and metrics are.
    """
    found = {}
    for seed, sound in enumerate(finite):
        values = {name: float(metrics[name][seed]) for name in sorted(metrics)}
        beyond = {name: value for name, value in values.items() if name.endswith("/q") and abs(value) > limit}
        broken = [name for name, value in values.items() if not np.isfinite(value)]
        if not sound:
            found[seed] = f"{broken[0]} is {values[broken[0]]}" if broken else "a parameter is not finite"
        elif beyond:
            name, value = next(iter(beyond.items()))
            found[seed] = f"{name} is {value:.3g}, beyond the limit of {limit:.3g}"
    return found


def without(metrics: Mapping[str, np.ndarray], seeds: Iterable[int]) -> dict[str, np.ndarray]:
    """The metrics, with NaN for ``seeds``."""
    lost = list(seeds)
    kept = {name: np.array(values, np.result_type(values, np.float32)) for name, values in metrics.items()}
    for values in kept.values():
        values[lost] = np.nan
    return kept
