"""An exported policy acts as the run's own with NumPy alone, and what was not written so is refused in one line."""

import dataclasses
import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import _catalog
from gymnasium.spaces import Box, Dict, Discrete

import agents
import envs
from rlkit import networks
from rlkit.acting import AgentWrapper, Reactive
from rlkit.commands import export as export_command
from rlkit.commands import script
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.export import agreement, features, folder, loader, numpy_form, onnx_form, sample, stablehlo
from rlkit.export.loader import Refused
from rlkit.export.part import Subject
from rlkit.networks.layers import Dense, LayerNorm
from rlkit.runs import registry
from rlkit.runs.policy import Policy
from rlkit.runs.record import Record
from rlkit.testing import shrink
from rlkit.types import InputError, RunError, Stats

LAYERED = {
    "bc", "iql", "td3-bc", "rebrac", "awac", "sac", "sac-rnd", "cql", "edac", "discrete-cql", "semi-pessimistic"
}  # fmt: skip
WIDTH = 5
NAMES = ["angle", "speed", "heat", "load", "mode"]
AMOUNTS = Box(np.array([-0.5, -1.0], np.float32), np.array([0.5, 3.0], np.float32))
CHOICES = Discrete(4, start=1)


def make_episodes(action_space):
    """Numbers of different sizes, so that it matters where one of them goes."""
    rng = np.random.default_rng(0)
    action_space.seed(0)
    obs = rng.normal([1, -20, 300, 0, 2], [0.5, 4, 50, 1, 0.1], (121, WIDTH)).astype(np.float32)
    actions = np.stack([np.asarray(action_space.sample()) for _ in range(120)])
    episode = {"observations": obs, "actions": actions, "rewards": np.ones(120, np.float32)}
    return from_episodes([episode], action_space=action_space)


EPISODES = {"amounts": make_episodes(AMOUNTS), "choices": make_episodes(CHOICES)}
ZERO, ONE = np.zeros(WIDTH, np.float32), np.ones(WIDTH, np.float32)


class Wrapped(NamedTuple):
    base: Any


def random_state(stages, learner):
    """The state of ``learner``, with random numbers instead of those of a training, so that nothing is compiled."""
    if isinstance(learner, AgentWrapper):
        return Wrapped(random_state((), learner.base))
    actions = 0 if not hasattr(learner.spec.action, "shape") else learner.spec.action.shape[0]
    moments = Stats(ZERO, ONE, np.zeros(actions, np.float32), np.ones(actions, np.float32))
    state = None
    for each in [stage.learner for stage in stages[:-1]] + [learner]:
        state = jax.eval_shape(lambda prev, each=each: each.init(jax.random.key(0), prev, moments), state)
    rng = np.random.default_rng(1)

    def fill(leaf):
        fan_in = leaf.shape[-2] if len(leaf.shape) > 1 else 4
        return (rng.normal(size=leaf.shape) * 0.8 / np.sqrt(fan_in)).astype(leaf.dtype)

    return jax.tree.map(fill, state)


def policy_of(name, kind):
    """A policy of an agent with random numbers in its state; None where the agent refuses such actions."""
    episodes = EPISODES[kind]
    method = registry.named(agents.REGISTRY[name].module)
    try:
        stages = shrink(method.config()).stages(spec(episodes, None), 1)
    except InputError:
        return None
    learner = stages[-1].learner
    state = random_state(stages, learner) if name in LAYERED else {}
    return Policy(
        learner, state, NORMALISER[kind], episodes.observation_space, episodes.action_space, about={"agent": name}
    )


NORMALISER = {kind: Normaliser.fit(e, DataOptions("test", normalise="standard")) for kind, e in EPISODES.items()}
SAMPLE = sample.of_data(EPISODES["amounts"])


def said(policy, names=NAMES):
    """A contract, without what nothing here asks for."""
    usual = SAMPLE.usual.tolist()
    numbers = [{"name": name, "unit": None, "usual": usual[i]} for i, name in enumerate(names or [None] * WIDTH)]
    space = policy.action_space
    if isinstance(space, Discrete):
        action = {"kind": "discrete", "choices": int(space.n), "start": int(space.start)}
    else:
        action = {"kind": "continuous", "shape": list(space.shape), "dtype": str(space.dtype)}
        action |= {"low": space.low.tolist(), "high": space.high.tolist()}
    return {"format": 1, "observation": {"named": bool(names), "features": numbers}, "action": action}


def tensors_of(policy):
    """The arrays and the contract of a policy, and what the run's own code gives."""
    with jax.disable_jit():  # single operations are shared by all agents, and need no program for each
        part = numpy_form.part_of(Subject(policy, said(policy), SAMPLE))
        own = agreement.expected(policy, part.said["network"]["head"], SAMPLE.rows)
    return numpy_form.normaliser_tensors(policy) | part.tensors, said(policy) | part.said, own


class Exported(NamedTuple):
    folder: Path
    tensors: dict
    contract: dict
    own: agreement.Expected


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a policy of amounts."""
    path = tmp_path_factory.mktemp("exported")
    tensors, contract, own = tensors_of(policy_of("sac", "amounts"))
    folder.fill(path, contract, tensors)
    return Exported(path, tensors, contract, own)


# --- it acts alike ---


@pytest.mark.parametrize("kind", EPISODES)
@pytest.mark.parametrize("name", sorted(LAYERED))
def test_every_agent_of_layers_acts_alike_in_numpy(name, kind, tmp_path):
    """Over the rows that are tried, one by one and together; 2e-5 of half the range is a fifth of what is allowed."""
    policy = policy_of(name, kind)
    if policy is None:
        pytest.skip("refuses such actions")
    tensors, contract, own = tensors_of(policy)
    folder.fill(tmp_path, contract, tensors)
    try:
        acting = loader.load(tmp_path, NAMES)
    except Refused as refusal:
        pytest.fail(str(refusal))
    together = acting.output(SAMPLE.rows)
    assert together.dtype == np.float32 and np.ptp(together, 0).min() > 0.01 * own.size.min()
    assert (np.abs(together - own.output) < 2e-5 * own.size).all()
    alone = np.stack([acting.output(row) for row in SAMPLE.rows[:50]])
    np.testing.assert_allclose(alone, together[:50], atol=1e-5 * own.size.max())
    actions = acting.act(SAMPLE.rows)
    assert actions.dtype.kind == own.action.dtype.kind and policy.action_space.contains(acting.act(SAMPLE.rows[0]))
    agreement.check_actions(actions, own)


def test_no_other_agent_says_that_it_is_of_layers():
    for name in set(agents.REGISTRY) - LAYERED:
        stages = shrink(registry.named(agents.REGISTRY[name].module).config()).stages(
            spec(EPISODES["amounts"], None), 1
        )
        assert getattr(stages[-1].learner, "network", None) is None, name
    with pytest.raises(InputError, match="idql is no list of layers"):
        numpy_form.part_of(Subject(policy_of("idql", "amounts"), {}, SAMPLE))


def test_layers_of_every_kind():
    """LayerNorm before and after each activation, whose parameters are numbered through."""
    net = networks.MLP((6, 6), 2, out_bound=1.0, layer_norm=True, norm_first=True)
    obs = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), obs))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    x = obs
    for layer in net.layers(params):
        x = loader.LAYERS[numpy_form._kind(layer)](x, **layer._asdict())
    np.testing.assert_allclose(x, net.apply(params, obs), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="only networks with ReLU"):
        networks.MLP((6,), 2, out_bound=1.0, activation=np.tanh).layers(params)


def test_the_first_of_equal_choices_is_taken_from_where_the_space_begins(tmp_path):
    tensors, contract, _ = tensors_of(policy_of("discrete-cql", "choices"))
    last = contract["network"]["layers"][-1]
    tensors[last["kernel"]] = np.zeros_like(tensors[last["kernel"]])
    tensors[last["bias"]] = np.array([0, 7, 7, 1], np.float32)
    tensors["check.output"] = np.tile(tensors[last["bias"]], (16, 1))
    folder.fill(tmp_path, contract, tensors)
    assert loader.load(tmp_path, NAMES).act(SAMPLE.rows[0]) == CHOICES.start + 1


def test_actions_are_members_of_the_space(tmp_path):
    """Whole numbers are rounded, and what has a single bound is kept to it."""
    tensors, contract, _ = tensors_of(policy_of("bc", "amounts"))
    half = {"shape": [2], "dtype": "uint8", "low": [0, 0], "high": ["inf", 6]}
    bounded = np.array([False, True])
    tensors |= {"action_half": np.full(2, 20, np.float32), "action_centre": np.array([20, 5], np.float32)}
    plain = _linear(tensors, contract, SAMPLE.rows[:16])
    tensors["check.output"] = (
        np.where(bounded, np.tanh(plain), plain) * tensors["action_half"] + tensors["action_centre"]
    )
    contract = contract | {"action": contract["action"] | half}
    folder.fill(tmp_path, contract, tensors)
    acting = loader.load(tmp_path, NAMES)
    exact = acting.output(SAMPLE.rows)
    expected = np.clip(np.rint(exact), 0, [np.inf, 6])
    assert np.ptp(expected, 0).min() >= 2 and (expected != np.rint(exact)).any()
    np.testing.assert_array_equal(acting.act(SAMPLE.rows), expected)


def _linear(tensors, contract, rows):
    """What the last layer gives."""
    x = (rows - tensors["obs_mean"]) / tensors["obs_scale"]
    for layer in contract["network"]["layers"]:
        x = np.maximum(x, 0) if layer["kind"] == "relu" else x @ tensors[layer["kernel"]] + tensors[layer["bias"]]
    return x


def test_observations_are_cast_first_and_counted_where_they_are_unusual(exported):
    acting = loader.load(exported.folder, NAMES, low=AMOUNTS.low, high=AMOUNTS.high)
    row = SAMPLE.rows[0].astype(np.float64) + 1e-9
    np.testing.assert_array_equal(acting.act(row), acting.act(row.astype(np.float32)))
    calls, outside = acting.calls, acting.outside.copy()
    centre = SAMPLE.usual.mean(1)
    beyond = centre + [0, 0, 1000, 0, 0]
    acting.act(np.stack([centre, beyond]))
    assert acting.calls == calls + 2 and (acting.outside - outside).tolist() == [0, 0, 1, 0, 0]
    with pytest.raises(Refused, match=r"number 3 \(load\) is nan"):
        acting.act([0, 0, 0, np.nan, 0])
    with pytest.raises(Refused, match="the policy takes 5 numbers"):
        acting.act(np.zeros((2, 4)))
    with pytest.raises(Refused, match="high: the policy's actions have"):
        loader.load(exported.folder, NAMES, high=[0.5, 3.1])


# --- what is not what was written ---


def _float16(tensors, contract):
    return {name: a.astype(np.float16).astype(np.float32) if "layers" in name else a for name, a in tensors.items()}


def _swapped(tensors, contract):
    kernel = tensors["layers.0.kernel"]
    return tensors | {"layers.0.kernel": kernel[[1, 0, *range(2, WIDTH)]]}


MUTATIONS = {
    "two features swapped": _swapped,
    "no normaliser": lambda tensors, contract: tensors | {"obs_mean": ZERO, "obs_scale": ONE},
    "actions not unscaled": lambda tensors, contract: (
        tensors | {"action_centre": np.zeros(2, np.float32), "action_half": np.ones(2, np.float32)}
    ),
    "epsilon inside the root": lambda tensors, contract: (
        tensors | {"obs_scale": np.sqrt((tensors["obs_scale"] - 1e-3) ** 2 + 1e-3).astype(np.float32)}
    ),
    "float16": _float16,
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_policy_that_acts_otherwise_is_refused_when_it_is_loaded(mutation, exported, tmp_path):
    loader.load(exported.folder, NAMES)
    changed = MUTATIONS[mutation](dict(exported.tensors), exported.contract)
    folder.fill(tmp_path, exported.contract, changed)
    with pytest.raises(Refused, match="check .* of half its range .* export the policy again"):
        loader.load(tmp_path, NAMES)


def test_a_choice_has_checks_as_sharp(tmp_path):
    """Two features swapped change few of the choices, but the probabilities of all."""
    tensors, contract, _ = tensors_of(policy_of("bc", "choices"))
    folder.fill(tmp_path, contract, _swapped(tensors, contract))
    with pytest.raises(Refused, match="check "):
        loader.load(tmp_path, NAMES)


NAMINGS = {
    "reversed": (NAMES[::-1], "the same names in another order: number 0 is 'mode', the policy's is 'angle'"),
    "one missing": (NAMES[:2] + NAMES[3:], "'heat' is missing, number 2 of 5"),
    "one renamed": (
        ["angle", "velocity", *NAMES[2:]],
        "'velocity' is not a name that the policy knows, where .* 'speed'",
    ),
    "one twice": ([*NAMES, "angle"], "6 names, but the policy has 5: one is there twice"),
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_other_names_are_refused_by_their_first_difference(naming, exported):
    names, message = NAMINGS[naming]
    with pytest.raises(Refused, match=message):
        loader.load(exported.folder, names)


def test_names_give_the_order_or_must_be_given(exported, tmp_path):
    row = SAMPLE.rows[0]
    expected = loader.load(exported.folder, NAMES).act(row)
    acting = loader.load(exported.folder)
    backwards = {name: row[NAMES.index(name)] for name in NAMES[::-1]}
    np.testing.assert_array_equal(acting.act(backwards), expected)
    with pytest.raises(Refused, match=r"give their order to load: names=\[...\]"):
        acting.act(row)
    with pytest.raises(Refused, match="'heat' is missing"):
        acting.act({name: 0.0 for name in NAMES if name != "heat"})

    # --- a policy without names ---
    nameless = said(policy_of("sac", "amounts"), names=None)
    folder.fill(tmp_path, exported.contract | nameless, exported.tensors)
    with pytest.raises(Refused, match="names were given, but the policy has none"):
        loader.load(tmp_path, NAMES)
    with pytest.warns(UserWarning, match="no names, so their order cannot be checked"):
        acting = loader.load(tmp_path)
    np.testing.assert_array_equal(acting.act(row), expected)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage, name, message", [
    (_cut, "weights.safetensors", "bytes of .*: it was cut off"),
    (_flip, "weights.safetensors", "its SHA-256 is not that of policy.json"),
    (_cut, "policy.json", "not readable as JSON"),
    (lambda path: path.write_text(path.read_text().replace("speed", "speeD")), "policy.json", "it was changed since"),
    (lambda path: path.write_text(path.read_text().replace('"format": 1', '"format": 2')), "policy.json", "format 2"),
    (lambda path: path.write_text("[" * 100_000), "policy.json", "not readable as JSON"),
    (Path.unlink, "weights.safetensors", "cannot be read"),
    (_flip, "policy.py", "its SHA-256 is not that of policy.json"),
])  # fmt: skip
def test_a_damaged_folder_is_refused_in_one_line(damage, name, message, exported, tmp_path, rlkit_command):
    copied = tmp_path / "copied"
    shutil.copytree(exported.folder, copied)
    damage(copied / name)
    code, out, err = rlkit_command("inspect", copied)
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert re.search(message, err), err


def _entry(**changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize("header, message", [
    (_entry(dtype="F64"), "holds F64"),
    (_entry(shape=[3]), "cannot lie at"),
    (_entry(shape=[-2]), "cannot lie at"),
    (_entry(shape=[2**62, 4]), "cannot lie at"),
    (_entry(data_offsets=[4, 12]), "cannot lie at"),
    (_entry() | {"b": _entry()["a"]}, "cannot lie at"),
    (_entry(shape=[1], data_offsets=[0, 4]), "4 bytes belong to no tensor"),
    (_entry(shape=None), "not the header of a safetensors file"),
    ({"a": 3}, "not the header of a safetensors file"),
    ([1], "not an object of JSON"),
])  # fmt: skip
def test_tensors_of_another_form_are_refused(header, message):
    text = json.dumps(header).encode()
    with pytest.raises(Refused, match=message):
        loader.read_tensors(len(text).to_bytes(8, "little") + text + bytes(8), "file")


def test_a_header_that_is_too_long_is_not_parsed():
    for length in (2**20 + 1, 2**63, 1):
        with pytest.raises(Refused, match="a header of"):
            loader.read_tensors(length.to_bytes(8, "little") + b"{" * (2**20 + 8), "file")
    nan = np.array([1, np.nan], np.float32)
    with pytest.raises(Refused, match="not finite"):
        loader.read_tensors(folder.tensors.to_bytes({"a": nan}), "file")


def test_a_contract_of_nonsense_is_refused(exported, tmp_path):
    for changes in (
        {"action": {"kind": "continuous"}},
        {"network": {"layers": [{"kind": "exec"}], "head": "tanh"}},
        {"network": exported.contract["network"] | {"head": "argmax"}},
        {"check": {"tolerance": 10}},
        {"observation": 3},
    ):
        folder.fill(tmp_path, exported.contract | changes, exported.tensors)
        with pytest.raises(Refused, match="not a contract of format 1"):
            loader.load(tmp_path, NAMES)
    folder.fill(tmp_path, exported.contract, exported.tensors | {"obs_scale": ZERO})
    with pytest.raises(Refused, match="scales above 0"):
        loader.load(tmp_path, NAMES)


# --- before anything is written ---


@pytest.mark.parametrize("name, kind", [("td3-bc", "amounts"), ("bc", "choices")])
def test_it_is_run_with_numpy_alone_before_it_is_there(name, kind, tmp_path):
    policy = policy_of(name, kind)
    with jax.disable_jit():
        written = folder.write(policy, tmp_path / "policy", said(policy), SAMPLE)
    assert written["numpy"] < 2e-5
    assert [path.name for path in tmp_path.iterdir()] == ["policy"], "nothing is left beside it"
    assert sorted(path.name for path in (tmp_path / "policy").iterdir()) == [
        "policy.json",
        "policy.py",
        "weights.safetensors",
    ]
    with pytest.raises(InputError, match="is there already"), jax.disable_jit():
        folder.write(policy, tmp_path / "policy", said(policy), SAMPLE)


def test_a_policy_that_acts_otherwise_is_not_written(tmp_path, monkeypatch):
    policy = policy_of("td3-bc", "amounts")
    give = numpy_form.network_of(policy)
    first = give.layers[0]
    wrong = give._replace(layers=(Dense(first.kernel * 1.01, first.bias), *give.layers[1:]))
    monkeypatch.setattr(numpy_form, "network_of", lambda policy: wrong)
    with (
        pytest.raises(RunError, match="fails in a process .*check .*nothing was written"),
        jax.disable_jit(),
    ):
        folder.write(policy, tmp_path / "policy", said(policy), SAMPLE)
    assert list(tmp_path.iterdir()) == []


def test_the_process_has_numpy_alone(exported, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(exported.folder, copied)
    text = (copied / "policy.py").read_text()
    (copied / "policy.py").write_text(text.replace("import numpy", "import gymnasium\nimport numpy", 1))
    with pytest.raises(RunError, match="gymnasium cannot be imported here"):
        agreement.check_alone(copied, SAMPLE.rows, exported.own)


# --- programs for jax ---


@dataclasses.dataclass(frozen=True)
class Summing(Reactive):
    """Remembers what it saw and was given, draws, and plans two actions at once."""

    spec: Any

    def begin(self, state, goal):
        return {"sum": jnp.zeros(2), "steps": jnp.zeros((), jnp.int32)}

    def observe(self, state, memory, percept):
        seen = state["used"] * percept.obs[:2] + 0.1 * percept.reward
        return {"sum": memory["sum"] + seen, "steps": memory["steps"] + 1}

    def act(self, state, memory, key, *, greedy):
        first = jnp.sin(memory["sum"] + memory["steps"]) + 0.1 * jax.random.normal(key, (2,))
        return jnp.stack([jnp.tanh(first), jnp.tanh(2 * first)]), memory


def test_a_program_remembers_plans_and_begins_anew(tmp_path, monkeypatch):
    """20 steps are those of the run's own policy; so they are after a reset, and not without one."""
    pytest.importorskip("flatbuffers")
    episodes = EPISODES["amounts"]
    state = {"used": jnp.array([0.3, 0.2]), "unused": jnp.zeros(7)}
    agent = Summing(spec(episodes, None))
    policy = Policy(agent, state, NORMALISER["amounts"], episodes.observation_space, episodes.action_space)
    out = tmp_path / "policy"
    written = folder.write(policy, out, said(policy) | {"written": {"versions": {}}}, SAMPLE, ["stablehlo"])
    assert written["stablehlo"] < 1e-5
    assert list(loader.read_contract(out)["stablehlo"]["weights"]) == ["state['used']"]
    with pytest.raises(Refused, match="no layers for NumPy"):
        loader.load(out, NAMES)

    # --- read as a user reads it ---
    monkeypatch.syspath_prepend(out)
    for name in ("policy", "policy_jax"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    acting = importlib.import_module("policy_jax").load(out, NAMES)

    def play(actor):
        return np.stack([actor.act(row, reward=float(i)) for i, row in enumerate(SAMPLE.rows[:20])])

    expected = play(policy)
    np.testing.assert_allclose(play(acting), expected, atol=1e-5)
    assert np.abs(play(acting) - expected).max() > 1e-3
    acting.reset(seed=0)
    np.testing.assert_allclose(play(acting), expected, atol=1e-5)
    for name in ("policy", "policy_jax"):
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("name, extra", [("stablehlo", "export"), ("onnx", "onnx")])
def test_a_missing_package_is_named(name, extra, tmp_path, monkeypatch):
    policy = policy_of("td3-bc", "amounts")
    monkeypatch.setattr(stablehlo.importlib.util, "find_spec", lambda name: None)
    with jax.disable_jit(), pytest.raises(InputError, match=rf"pip install 'rlkit-jax\[{extra}\]'"):
        folder.write(policy, tmp_path / "policy", said(policy), SAMPLE, [name])
    assert list(tmp_path.iterdir()) == []


# --- graphs ---


@pytest.mark.parametrize("name, kind", [("awac", "amounts"), ("bc", "choices")])
def test_a_graph_acts_alike(name, kind, tmp_path):
    """Its metadata tell the names."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    policy = policy_of(name, kind)
    with jax.disable_jit():
        written = folder.write(policy, tmp_path / "policy", said(policy), SAMPLE, ["onnx"])
    assert written["onnx"] < 2e-5
    loader.load(tmp_path / "policy", NAMES)
    model = onnx.load(tmp_path / "policy" / "policy.onnx")
    features = json.loads(model.metadata_props[0].value)["observation"]["features"]
    assert [feature["name"] for feature in features] == NAMES


def test_a_graph_has_layer_norm(tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    policy = policy_of("td3-bc", "amounts")
    first, relu, *rest = numpy_form.network_of(policy).layers
    rng = np.random.default_rng(0)
    norm = LayerNorm(*rng.normal(size=(2, first.bias.size)).astype(np.float32), 1e-6)
    network = networks.Network((first, norm, relu, *rest), "tanh")
    session = runtime.InferenceSession(onnx_form._Graph(policy, network).to_bytes({}))
    (action,) = session.run(None, {"obs": SAMPLE.rows})
    x = policy.normaliser.obs(SAMPLE.rows)
    for layer in network.layers:
        x = loader.LAYERS[numpy_form._kind(layer)](x, **layer._asdict())
    np.testing.assert_allclose(action, policy.normaliser.env_action(np.tanh(x)), atol=1e-5)


# --- names of what it takes and gives ---


def features_file(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_file_gives_names_and_units(tmp_path):
    box = Box(-1, 1, (2,))
    path = features_file(tmp_path / "names.csv", ["angle, rad", "", "speed", "torque, N m"])
    told = features.of_run(box, Box(-2, 2, (1,)), (), (), path)
    assert told.observation == (("angle", "speed"), ("rad", None), "names.csv")
    assert told.action == (("torque",), ("N m",), "names.csv")
    told = features.of_run(box, Box(-2, 2, (1,)), ("angle", "speed"), (), path)
    assert told.observation.source == "the data" and told.observation.units == ("rad", None)
    with pytest.raises(
        InputError, match="the same names in another order: number 0 is 'angle', the policy's is 'speed'"
    ):
        features.of_run(box, Box(-2, 2, (1,)), ("speed", "angle"), (), path)
    with pytest.raises(InputError, match="3 names, but an observation has 4 numbers and an action 1"):
        features.of_run(Box(-1, 1, (4,)), Box(-2, 2, (1,)), (), (), path)
    with pytest.raises(InputError, match="'a' names two numbers"):
        features.of_run(box, CHOICES, (), (), features_file(path, ["a", "a"]))


def test_a_dict_space_names_its_numbers_in_the_order_of_flattening():
    space = Dict([("position", Box(-1, 1, (2,))), ("inner", Dict({"mode": Discrete(2), "heat": Box(0, 9, (1,))}))])
    told = features.of_run(space, CHOICES, (), (), None)
    assert told.observation.names == ("position[0]", "position[1]", "inner/heat", "inner/mode[0]", "inner/mode[1]")
    low, high = features.bounds(space)
    assert low.tolist() == [-1, -1, 0, 0, 0] and high.tolist() == [1, 1, 9, 1, 1]
    assert features.of_run(Box(-1, 1, (2,)), CHOICES, (), (), None).observation.names == ()


def test_observations_can_be_drawn_from_statistics():
    normaliser = NORMALISER["amounts"]
    seen = normaliser.obs(EPISODES["amounts"].obs)
    stats = {"obs_mean": seen.mean(0), "obs_std": seen.std(0), "obs_low": seen.min(0), "obs_high": seen.max(0)}
    drawn = sample.of_statistics({name: tuple(values.tolist()) for name, values in stats.items()}, normaliser)
    raw = EPISODES["amounts"].obs
    np.testing.assert_allclose(drawn.rows.mean(0), raw.mean(0), atol=0.1 * raw.std(0).max())
    assert (drawn.rows >= raw.min(0) - 1e-2).all() and drawn.rows.std(0).min() > 0.05
    np.testing.assert_allclose(drawn.usual[:, 1], raw.max(0), rtol=1e-4)


# --- the commands ---


def test_a_run_is_exported_and_inspected(trained, tmp_path, rlkit_command, capsys):
    names = features_file(tmp_path / "names.csv", ["cosine", "sine", "speed, rad/s", "torque, N m"])
    code, out, err = rlkit_command("export", trained, "--out", tmp_path / "policy", "--member", 1, "--features", names)
    assert code == 0 and err == "", err
    assert "bc, member 1: policy.json, policy.py, weights.safetensors" in out
    assert "numpy: tried in a process of its own on observations from the training data" in out
    assert "of half the range of an action (0.0001 are allowed)" in out
    assert export_command._rounding(CHOICES, 2e-7) == "", "choices have no range"
    code, out, err = rlkit_command("inspect", tmp_path / "policy")
    assert code == 0 and err == ""
    for part in ("bc, 40 updates on pendulum/mixed-v0", "N m", "speed  rad/s", "over 2 episodes", "16 observations"):
        assert part in out
    acting = loader.load(tmp_path / "policy", ["cosine", "sine", "speed"])
    own = export_command.policies.load(trained, member=1)
    row = np.array([0.6, 0.8, 1.5], np.float32)
    np.testing.assert_allclose(acting.act(row), own.act(row), atol=1e-5)
    code, _, err = rlkit_command("export", trained, "--out", tmp_path / "policy")
    assert code == 2 and "is there already" in err

    # --- from Python, where a format may be misspelt ---
    run = script.TrainedRun(trained, "bc", _catalog(envs.make))
    assert run.export(tmp_path / "again", member=1) == tmp_path / "again"
    again = loader.read_contract(tmp_path / "again")
    assert again["network"] == acting.contract["network"] and not again["observation"]["named"]
    with pytest.raises(InputError, match="must be of numpy, stablehlo, onnx"):
        run.export(tmp_path / "more", formats=["nunpy"])

    # --- the data have changed ---
    capsys.readouterr()
    record = Record.read(trained)
    changed = dataclasses.replace(record, data=dataclasses.replace(record.data, fingerprint="other"))
    drawn = export_command._sample(own, changed, trained, _catalog(envs.make))
    assert "recorded means" in drawn.source and drawn.rows.shape == (1016, 3)
    assert "mixed-v0 has changed since the training" in capsys.readouterr().err
