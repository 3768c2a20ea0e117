"""policy.json, the contract: what a policy takes and gives, where it is from, and how it was judged."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

from rlkit.datasets.normaliser import CORL_EPSILON
from rlkit.export import features
from rlkit.export.features import Features, Named
from rlkit.export.loader import FORMAT
from rlkit.export.sample import Sample
from rlkit.runs.policy import Policy
from rlkit.runs.record import Record
from rlkit.runs.run import Evaluated
from rlkit.runs.serialization import encode

_PACKAGES = ("rlkit-jax", "jax", "flax", "numpy")


def describe(
    policy: Policy, record: Record, named: Features, sample: Sample, evaluated: Evaluated | None
) -> dict[str, Any]:
    """The contract but for what the files hold, as JSON values.

    policy: of the run with ``record``. named: what its numbers are called. sample: has their usual range. evaluated:
    the run's last evaluation, if it has one.
    """
    member = int(policy.about["member"])
    contract = {
        "format": FORMAT,
        "written": {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {name: metadata.version(name) for name in _PACKAGES},
        },
        "run": {
            "agent": record.agent,
            "config": record.config,
            "dataset": record.data.name,
            "fingerprint": record.data.fingerprint,
            "seed": record.seeds[member],
            "member": member,
            "updates": sum(updates for _, updates in record.stages),
            "acts": "greedy",
            "versions": record.versions,
        },
        "observation": _observation(policy.observation_space, named.observation, sample),
        "action": _action(policy.action_space, named.action),
        "statistics": _statistics(policy, record),
        "judged": _judged(record, member, evaluated),
    }
    return encode(contract)


def _observation(space: gymnasium.Space, named: Named, sample: Sample) -> dict[str, Any]:
    """``space``: flattened in the order of gymnasium.spaces.flatten."""
    low, high = features.bounds(space)
    numbers = []
    for place in range(len(low)):
        numbers.append(
            {
                "name": named.names[place] if named.names else None,
                "unit": named.units[place] if named.names else None,
                "low": low[place],
                "high": high[place],
                "usual": sample.usual[place],
            }
        )
    return {
        "named": bool(named.names),
        "names_from": named.source,
        "space": str(type(space).__name__),
        "dtype": "float32",
        "usual_range": sample.range_source,
        "features": numbers,
    }


def _action(space: gymnasium.Space, named: Named) -> dict[str, Any]:
    names = {"names": named.names or None, "units": named.units or None, "names_from": named.source}
    if isinstance(space, Discrete):
        return {"kind": "discrete", "choices": int(space.n), "start": int(space.start)} | names
    bounds = {"low": space.low.astype(np.float64), "high": space.high.astype(np.float64)}
    return {"kind": "continuous", "shape": space.shape, "dtype": str(space.dtype)} | bounds | names


def _statistics(policy: Policy, record: Record) -> dict[str, Any]:
    """How the numbers were made that the tensors hold, and how rewards reached the agent."""
    normalise = record.data.options.get("normalise", "none")
    normaliser = policy.normaliser
    return {
        "normalise": normalise,
        "epsilon": CORL_EPSILON if normalise == "standard" else 0.0,  # added to the standard deviation
        "reward": {
            "formula": "(reward - mean) / std * scale + shift",
            "mean": normaliser.reward_mean,
            "std": normaliser.reward_std,
            "scale": normaliser.reward_scale,
            "shift": normaliser.reward_shift,
        },
    }


def _judged(record: Record, member: int, evaluated: Evaluated | None) -> dict[str, Any] | None:
    if evaluated is None or record.evaluation is None:
        return None
    returns = evaluated.returns[member]
    return {
        "environment": record.evaluation.environment,
        "after_updates": evaluated.position.updates,
        "episodes": len(returns),
        "mean_return": float(returns.mean()),
        "least_return": float(returns.min()),
        "largest_return": float(returns.max()),
    }
