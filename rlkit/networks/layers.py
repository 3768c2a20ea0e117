"""Networks as lists of layers, for readers that have no jax (rlkit/export). Applied in order, a list is the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from rlkit.types import Array


class Dense(NamedTuple):
    """x @ kernel + bias."""

    kernel: Array  # [I, O]
    bias: Array  # [O]


class LayerNorm(NamedTuple):
    """(x - mean(x)) / sqrt(variance(x) + epsilon) * scale + bias, over the last axis."""

    scale: Array  # [I]
    bias: Array  # [I]
    epsilon: float


class Relu(NamedTuple):
    """max(x, 0)."""


Layers = tuple[Dense | LayerNorm | Relu, ...]


class Network(NamedTuple):
    """A greedy policy: from what an agent sees, [O], to its action.

    The head makes an action of what the last layer gives. tanh: of the components that have bounds, the others stay as
    they are. clip: to [-1, 1]. softmax: the likeliest choice, whose probabilities the agent tells (see
    rlkit.types.Agent). argmax: the choice of the largest value, which the agent tells too.
    """

    layers: Layers
    head: Literal["tanh", "clip", "softmax", "argmax"]


def dense(params: Mapping[str, Array]) -> Dense:
    """The layer with the parameters of one."""
    return Dense(params["kernel"], params["bias"])
