"""A policy of layers as tensors and a description of them, as rlkit.export.loader reads it."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlkit.acting import is_reactive, unwrapped
from rlkit.export import agreement
from rlkit.export.part import Part, Subject
from rlkit.export.sample import CHECKS
from rlkit.networks.layers import Dense, LayerNorm, Network
from rlkit.runs.policy import Policy
from rlkit.types import InputError


def network_of(policy: Policy) -> Network | None:
    """The layers of a policy's agent; None where it is none of layers."""
    agent, state = unwrapped(policy.agent, policy.state)
    give = getattr(agent, "network", None)
    if give is None or not is_reactive(agent):
        return None
    return give(state)


def part_of(subject: Subject) -> Part:
    """The part of a policy, which is tried on all observations; the first CHECKS are stored, with what the run's own
    code does. Raises InputError where the policy is none of layers."""
    policy, sample = subject.policy, subject.sample
    network = network_of(policy)
    if network is None:
        name = policy.about.get("agent", "this agent")
        raise InputError(
            f"--format numpy: {name} is no list of layers: choose --format stablehlo, which needs jax to act"
        )
    tensors, layers = _flat(network)
    own = agreement.expected(policy, network.head, sample.rows)
    tensors |= {
        "check.observation": sample.rows[:CHECKS],
        "check.output": own.output[:CHECKS],
        "check.size": own.size,
    }
    said = {
        "network": {"layers": layers, "head": network.head},
        "check": {"observations": CHECKS, "from": sample.source, "tolerance": agreement.TOLERANCE},
    }
    return Part({}, tensors, said, lambda folder: agreement.check_alone(folder, sample.rows, own))


def normaliser_tensors(policy: Policy) -> dict[str, np.ndarray]:
    """What every reader needs: from the environment's units and back."""
    normaliser = policy.normaliser
    tensors = {"obs_mean": normaliser.obs_mean, "obs_scale": normaliser.obs_scale}
    if normaliser.action_half.size:
        tensors |= {"action_centre": normaliser.action_centre, "action_half": normaliser.action_half}
    return tensors


def _flat(network: Network) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """The arrays of the layers by name, and the layers, which call them so; numbers stand for themselves."""
    tensors = {}
    layers = []
    for number, layer in enumerate(network.layers):
        entry: dict[str, Any] = {"kind": _kind(layer)}
        for field, value in layer._asdict().items():
            if np.ndim(value) == 0:
                entry[field] = float(value)
                continue
            name = f"layers.{number}.{field}"
            tensors[name] = np.asarray(value)
            entry[field] = name
        layers.append(entry)
    return tensors, layers


def _kind(layer: Any) -> str:
    if isinstance(layer, Dense):
        return "dense"
    return "layer_norm" if isinstance(layer, LayerNorm) else "relu"
