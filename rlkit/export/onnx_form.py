"""A policy of layers as an ONNX graph, written node by node: operators of opset 13, which every runtime knows.

obs [b, O] -> action [b, A] in the environment's units, before it is rounded to the space's dtype; or, of choices,
action [b] int64 and scores [b, n], their probabilities or values.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlkit.export import agreement, numpy_form
from rlkit.export.part import Part, Subject
from rlkit.networks.layers import Dense, LayerNorm, Network
from rlkit.runs import serialization
from rlkit.runs.policy import Policy
from rlkit.types import InputError

OPSET, IR_VERSION = 13, 8
GRAPH = "policy.onnx"
# Run with the folder as its argument and observations on its input, as agreement's; it may import onnxruntime too.
_ALONE = """
import io, sys

class OnlyRuntime:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"rlkit", "agents", "envs", "jax", "flax", "gymnasium"}:
            raise ImportError(f"{name} cannot be imported here")

sys.meta_path.insert(0, OnlyRuntime())
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(f"{sys.argv[1]}/policy.onnx", providers=["CPUExecutionProvider"])
rows = np.load(io.BytesIO(sys.stdin.buffer.read()))
outputs = []
for size in (1, 2, 7, len(rows)):
    parts = [session.run(None, {"obs": rows[first : first + size]}) for first in range(0, len(rows), size)]
    action, *scores = map(np.concatenate, zip(*parts))
    outputs.append(scores[0] if scores else action)
for array in (np.stack(outputs), action):
    buffer = io.BytesIO()
    np.save(buffer, array)
    sys.stdout.buffer.write(buffer.getvalue())
"""


def part_of(subject: Subject) -> Part:
    """The part of a policy, which comes with that for NumPy. Raises InputError where the policy is none of layers, or
    where a package is missing."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"--format onnx: it is written and tried with {package}: pip install 'rlkit-jax[onnx]'")
    policy, rows = subject.policy, subject.sample.rows
    beside = numpy_form.part_of(subject)
    network = numpy_form.network_of(policy)
    own = agreement.expected(policy, network.head, rows)
    said = {"onnx": {"file": GRAPH, "opset": OPSET, "input": "obs", "outputs": ["action", "scores"][: 1 + own.chooses]}}

    def check(folder: Path) -> float:
        outputs, actions = agreement.run_alone(_ALONE, folder, rows)
        largest = agreement.compare(outputs, own)
        if own.chooses:
            agreement.check_actions(actions, own)
        return max(largest, beside.check(folder))

    data = _Graph(policy, network).to_bytes(subject.contract)
    return Part({GRAPH: data}, beside.tensors, beside.said | said, check)


class _Graph:
    """Nodes and constants, added one after another; each method returns the name of what its node gives."""

    def __init__(self, policy: Policy, network: Network):
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._policy, self._network = policy, network

    def to_bytes(self, said: Mapping[str, Any]) -> bytes:
        """The model. ``said`` is kept in its metadata under "contract"."""
        from onnx import TensorProto, checker, helper

        normaliser = self._policy.normaliser
        width, outputs = normaliser.obs_mean.size, self._network.layers[-1].bias.size
        centred = self._add("Sub", "obs", self._constant(normaliser.obs_mean))
        x = self._add("Div", centred, self._constant(normaliser.obs_scale))
        for layer in self._network.layers:
            x = self._layer(x, layer)
        numbers = helper.make_tensor_value_info
        if self._network.head in ("softmax", "argmax"):
            self._choose(x)
            given = [
                numbers("action", TensorProto.INT64, ["b"]),
                numbers("scores", TensorProto.FLOAT, ["b", outputs]),
            ]
        else:
            self._scale(x)
            given = [numbers("action", TensorProto.FLOAT, ["b", outputs])]
        taken = [numbers("obs", TensorProto.FLOAT, ["b", width])]
        graph = helper.make_graph(self._nodes, "policy", taken, given, self._constants)
        versions = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=versions, ir_version=IR_VERSION, producer_name="rlkit")
        helper.set_model_props(model, {"contract": serialization.dumps(said)})
        checker.check_model(model, full_check=True)
        return model.SerializeToString()

    def _layer(self, x: str, layer: Dense | LayerNorm | Any) -> str:
        if isinstance(layer, Dense):
            return self._add("Gemm", x, self._constant(layer.kernel), self._constant(layer.bias))
        if not isinstance(layer, LayerNorm):
            return self._add("Relu", x)
        centred = self._add("Sub", x, self._add("ReduceMean", x, axes=[-1]))
        variance = self._add("ReduceMean", self._add("Mul", centred, centred), axes=[-1])
        shifted = self._add("Add", variance, self._constant(np.float32(layer.epsilon)))
        normed = self._add("Div", centred, self._add("Sqrt", shifted))
        scaled = self._add("Mul", normed, self._constant(layer.scale))
        return self._add("Add", scaled, self._constant(layer.bias))

    def _choose(self, x: str) -> None:
        scores = self._add("Softmax", x, axis=-1) if self._network.head == "softmax" else x
        self._add("Identity", scores, to="scores")
        chosen = self._add("ArgMax", scores, axis=-1, keepdims=0)
        self._add("Add", chosen, self._constant(np.int64(self._policy.action_space.start)), to="action")

    def _scale(self, x: str) -> None:
        """From what the last layer gives to the environment's units, within the bounds."""
        normaliser = self._policy.normaliser
        bounded = np.isfinite(normaliser.action_low) & np.isfinite(normaliser.action_high)
        if self._network.head == "clip":
            x = self._add("Clip", x, self._constant(np.float32(-1)), self._constant(np.float32(1)))
        else:
            x = self._add("Where", self._constant(bounded), self._add("Tanh", x), x)
        scaled = self._add("Mul", x, self._constant(normaliser.action_half))
        moved = self._add("Add", scaled, self._constant(normaliser.action_centre))
        raised = self._add("Max", moved, self._constant(normaliser.action_low))
        self._add("Min", raised, self._constant(normaliser.action_high), to="action")

    def _add(self, operator: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = to or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def _constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name
