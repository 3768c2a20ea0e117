"""A trained policy that needs NumPy alone: no jax, no package of its own, and nothing that is unpickled or imported.

``rlkit export`` writes this file as policy.py beside policy.json, which says what the policy takes and gives, and
weights.safetensors. The folder is read with suspicion: sums, sizes and shapes are checked, and then the policy must
give the actions that the training's own code gave for the observations that are stored with it.

    import policy  # where the folder is on Python's path; a copy of this file elsewhere reads it as well
    acting = policy.load("folder", names=["angle", "speed"])
    action = acting.act([0.1, -0.3])
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from pathlib import Path

import numpy as np

FORMAT = 1  # of policy.json
LARGEST_CONTRACT = 2**26  # bytes of policy.json
LARGEST_HEADER = 2**20  # bytes of the header of weights.safetensors
LARGEST_TOLERANCE = 1e-3  # that a contract may allow
DTYPES = {"F32": np.dtype("<f4"), "I32": np.dtype("<i4")}
MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError)


class Refused(ValueError):
    """The folder, or what is asked of it, is not what it must be. The message is one line: what is wrong, and where."""

    def __init__(self, message):
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


def load(folder, names=None, low=None, high=None):
    """The policy in ``folder``.

    Args:
        folder: what ``rlkit export`` wrote.
        names: of the numbers of the observations that will be given, in their order. None: where the policy knows
            names, observations must be mappings of them.
        low, high: the bounds of the actions that will be taken, if they are to be compared.

    Returns:
        A Policy that has given the stored actions for the stored observations.

    Raises:
        Refused: for a folder that is not what was written, for other names, another order or other bounds, and where
            the actions differ.
    """
    return Policy(folder, names, low, high)


class Policy:
    """A greedy policy. ``outside`` [O] counts, of the ``calls`` observations so far, how many lay beyond the usual
    range of each number; ``contract`` is policy.json."""

    def __init__(self, folder, names=None, low=None, high=None):
        self.folder = Path(folder)
        self.contract = read_contract(self.folder)
        try:
            data = read_file(self.folder, self.contract, "weights.safetensors")
            tensors = read_tensors(data, f"{folder}/weights.safetensors")
            self._read_spaces(tensors)
            self._read_network(tensors)
            self.largest_difference = self._replay(tensors)
        except Refused:
            raise
        except MALFORMED as error:
            reason = f"{type(error).__name__}: {error}"
            raise Refused(f"{folder}/policy.json: not a contract of format {FORMAT} ({reason})") from None
        self._takes_arrays = self._check_names(names)
        self._check_bounds(low, high)
        self.calls = 0
        self.outside = np.zeros(self.width, np.int64)

    # --- acting ---

    def act(self, observation):
        """The action for an observation [O], or N actions for N observations [N, O], in the environment's own units.

        observation: numbers, or a mapping from each name to a number or to N of them. Returns an array of the action
        space's shape and dtype, or one integer for a choice. Raises Refused for another width, other names, and what is
        not finite.
        """
        output = self.output(observation)
        if self.choices:
            chosen = output.argmax(-1) + self.start  # the first of several that are equal
            return int(chosen) if chosen.ndim == 0 else chosen
        return self._members(output)

    def output(self, observation):
        """float32 [..., A], the action before it is rounded to the space's dtype and bounds; for choices [..., n],
        their probabilities or values, of which the largest is taken."""
        values = self._read(observation)
        self._count(values)
        return self._apply(values)

    def _members(self, output):
        """Amounts [..., A] in the shape and dtype of the space, within its bounds."""
        exact = output.astype(np.float64).reshape(output.shape[:-1] + self.low.shape)
        if self.dtype.kind != "f":
            exact = np.rint(exact)
        return np.clip(exact, self.low, self.high).astype(self.dtype)

    def _count(self, values):
        rows = values.reshape(-1, self.width)
        self.calls += len(rows)
        self.outside += ((rows < self._usual[:, 0]) | (rows > self._usual[:, 1])).sum(0)

    def _apply(self, values):
        x = (values - self._mean) / self._scale
        for function, arguments in self._layers:
            x = function(x, **arguments)
        if self.head == "tanh":
            x = np.where(self._bounded, np.tanh(x), x)
        elif self.head == "clip":
            x = np.clip(x, -1, 1)
        elif self.head == "softmax":
            x = np.exp(x - x.max(-1, keepdims=True))
            return x / x.sum(-1, keepdims=True)
        if self.choices:
            return x
        return x * self._half + self._centre

    def _read(self, observation):
        """float32 [..., O]."""
        if hasattr(observation, "keys"):
            found = difference(self.names or [], list(observation.keys()), ordered=False)
            if found:
                raise Refused(f"observation: {found}")
            observation = np.stack([np.asarray(observation[name]) for name in self.names], -1)
        elif not self._takes_arrays:
            raise Refused("observation: give a mapping of names, or give their order to load: names=[...]")
        with np.errstate(over="ignore"):
            values = np.asarray(observation, np.float32)  # as in training, before the mean is taken off
        if values.shape[-1:] != (self.width,):
            raise Refused(f"observation: its shape is {list(values.shape)}, the policy takes {self.width} numbers")
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            place = int(wrong[0][-1])
            name = f" ({self.names[place]})" if self.names else ""
            raise Refused(f"observation: number {place}{name} is {values[tuple(wrong[0])]}: give finite numbers")
        return values

    # --- reading the folder ---

    def _read_spaces(self, tensors):
        observation, action = self.contract["observation"], self.contract["action"]
        features = observation["features"]
        self.width = len(features)
        self.names = [feature["name"] for feature in features] if observation["named"] else None
        self._usual = np.array([feature["usual"] for feature in features], np.float32).reshape(self.width, 2)
        self._mean, self._scale = tensors["obs_mean"], tensors["obs_scale"]
        require(self._mean.shape == self._scale.shape == (self.width,), "one mean and one scale for each feature")
        require((self._scale > 0).all(), "scales above 0")
        self.choices = int(action["choices"]) if action["kind"] == "discrete" else 0
        if self.choices:
            self.start, self.outputs = int(action["start"]), self.choices
            return
        self.dtype = np.dtype(action["dtype"])
        require(self.dtype.kind in "fiu", "actions that are numbers")
        self.low = np.array(action["low"], np.float64).reshape(action["shape"])
        self.high = np.array(action["high"], np.float64).reshape(action["shape"])
        self._bounded = (np.isfinite(self.low) & np.isfinite(self.high)).ravel()
        self._centre, self._half = tensors["action_centre"], tensors["action_half"]
        self.outputs = self.low.size
        require(self._centre.shape == self._half.shape == (self.outputs,), "a centre and a half for each action")
        require((self._half > 0).all(), "halves above 0")

    def _read_network(self, tensors):
        if "network" not in self.contract:
            raise Refused(
                f"{self.folder}: no layers for NumPy are in it: read it with its policy_jax.py, which needs jax"
            )
        self.head = self.contract["network"]["head"]
        require(self.head in (("softmax", "argmax") if self.choices else ("tanh", "clip")), "a head for its actions")
        self._layers = []
        for layer in self.contract["network"]["layers"]:
            arguments = {}
            for name, value in layer.items():
                if name != "kind":
                    arguments[name] = tensors[value] if isinstance(value, str) else np.float32(value)
            self._layers.append((LAYERS[layer["kind"]], arguments))

    def _replay(self, tensors):
        """The largest difference from the stored actions, as a share of half their range. Refused if too large."""
        observations, expected = tensors["check.observation"], tensors["check.output"]
        size, tolerance = tensors["check.size"], float(self.contract["check"]["tolerance"])
        require(len(observations) > 0 and 0 < tolerance <= LARGEST_TOLERANCE, "checks with a tolerance")
        found = self._apply(observations)
        require(found.shape == expected.shape == (len(observations), self.outputs), "an output for each action")
        share = np.abs(found - expected) / size
        if not (share <= tolerance).all():  # which NaN is not either
            row = int(np.argmin((share <= tolerance).all(-1)))
            raise Refused(
                f"{self.folder}: check {row}: the action differs by {share[row].max():.2g} of half its range from that "
                f"of the training's own code, {tolerance:g} are allowed: export the policy again"
            )
        return float(share.max())

    # --- what the caller says of its own values ---

    def _check_names(self, names):
        """Whether observations may come as arrays: their order is known to be the policy's, or cannot be known."""
        if names is None:
            if self.names is None:
                warnings.warn(
                    f"{self.folder}: its observations have no names, so their order cannot be checked: give the "
                    f"{self.width} numbers in the order of the training data",
                    stacklevel=4,
                )
            return self.names is None
        if self.names is None:
            raise Refused(
                f"{self.folder}: names were given, but the policy has none to compare: export with --features"
            )
        found = difference(self.names, list(names))
        if found:
            raise Refused(f"{self.folder}: names: {found}")
        return True

    def _check_bounds(self, low, high):
        for what, given in (("low", low), ("high", high)):
            if given is None:
                continue
            own = None if self.choices else getattr(self, what)
            if own is None or np.shape(given) != own.shape or not np.allclose(given, own, rtol=1e-5, atol=0):
                shown = "choices" if own is None else own.tolist()
                raise Refused(
                    f"{self.folder}: {what}: the policy's actions have {shown}, not {np.asarray(given).tolist()}"
                )


def difference(own, given, ordered=True):
    """The first difference between the policy's names and those that are given, as a phrase; empty if there is none."""
    unknown = [name for name in given if name not in own]
    missing = [name for name in own if name not in given]
    if unknown:
        place = given.index(unknown[0])
        instead = f", where the policy has {own[place]!r}" if ordered and place < len(own) else ""
        return f"{unknown[0]!r} is not a name that the policy knows{instead}"
    if missing:
        return f"{missing[0]!r} is missing, number {own.index(missing[0])} of {len(own)}"
    if len(given) != len(own):
        return f"{len(given)} names, but the policy has {len(own)}: one is there twice"
    for place, name in enumerate(given):
        if ordered and name != own[place]:
            return f"the same names in another order: number {place} is {name!r}, the policy's is {own[place]!r}"
    return ""


# --- layers, as policy.json lists them ---


def _dense(x, kernel, bias):
    return x @ kernel + bias


def _layer_norm(x, scale, bias, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + epsilon) * scale + bias


def _relu(x):
    return np.maximum(x, 0)


LAYERS = {"dense": _dense, "layer_norm": _layer_norm, "relu": _relu}


# --- files ---


def read_contract(folder):
    """policy.json of ``folder``. Refused if it is not what was written, or has another format."""
    path = Path(folder) / "policy.json"
    contract = _parsed(_bytes(path, LARGEST_CONTRACT), path)
    version = contract.get("format")
    if version != FORMAT:
        raise Refused(f"{path}: format {version!r}, this reader knows {FORMAT}: take the policy.py of its own folder")
    if contract.get("seal") != seal(contract):
        raise Refused(f"{path}: it was changed since it was written: export the policy again")
    return contract


def seal(contract):
    """SHA-256 of all that a contract says, but its seal."""
    rest = {name: value for name, value in contract.items() if name != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_file(folder, contract, name):
    """The bytes of a file of ``folder``. Refused if they are not those that the contract names."""
    path = Path(folder) / name
    written = contract["files"][name]
    data = _bytes(path, written["bytes"])
    if len(data) != written["bytes"]:
        raise Refused(f"{path}: {len(data)} bytes of {written['bytes']}: it was cut off; copy the folder again")
    if hashlib.sha256(data).hexdigest() != written["sha256"]:
        raise Refused(f"{path}: its SHA-256 is not that of policy.json: it was changed; copy the folder again")
    return data


def read_tensors(data, where):
    """Name -> array of the bytes of a safetensors file. Refused for anything but float32 and int32 without gaps."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(LARGEST_HEADER, len(data) - 8):
        raise Refused(f"{where}: a header of {length} bytes, which must be at most {LARGEST_HEADER} and in the file")
    header = _parsed(data[8 : 8 + length], where)
    body = data[8 + length :]
    tensors, end = {}, 0
    try:
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            tensors[name], end = _tensor(name, entry, body, end, where)
    except Refused:
        raise
    except MALFORMED as error:
        raise Refused(f"{where}: not the header of a safetensors file ({type(error).__name__}: {error})") from None
    if end != len(body):
        raise Refused(f"{where}: {len(body) - end} bytes belong to no tensor")
    return tensors


def _tensor(name, entry, body, begin, where):
    """The tensor that begins where the one before ends, and its own end."""
    if entry["dtype"] not in DTYPES:
        raise Refused(f"{where}: {name} holds {entry['dtype']}, only {' and '.join(DTYPES)} are read")
    shape = entry["shape"]
    is_shape = all(type(length) is int and length > 0 for length in shape)
    count = math.prod(shape) if is_shape else 0
    end = begin + 4 * count
    if not count or entry["data_offsets"] != [begin, end] or end > len(body):
        raise Refused(f"{where}: {name} of shape {shape} cannot lie at {entry['data_offsets']}")
    array = np.frombuffer(body, DTYPES[entry["dtype"]], count, begin).reshape(shape)
    if not np.isfinite(array).all():
        raise Refused(f"{where}: {name} holds numbers that are not finite")
    return array, end


def _bytes(path, most):
    try:
        size = path.stat().st_size
        if size <= most:
            return path.read_bytes()
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror})") from None
    raise Refused(f"{path}: {size} bytes, but at most {most} belong to it")


def _parsed(data, where):
    def refuse(text):
        raise ValueError(f"{text} is no JSON")

    try:
        value = json.loads(data, parse_constant=refuse)
    except MALFORMED as error:
        raise Refused(f"{where}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise Refused(f"{where}: not an object of JSON")
    return value


def require(holds, what):
    """ValueError unless ``holds``."""
    if not holds:
        raise ValueError(f"wanted: {what}")
