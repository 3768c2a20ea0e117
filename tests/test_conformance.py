"""What every agent of the registry must satisfy, whatever its method. Sizes are shrunk by type, never by name.

What needs further compilations of every agent is slow.
"""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import bits, random_episodes

import agents
from rlkit.acting import first_goal
from rlkit.buffer import Buffer, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.training import loop
from rlkit.training.sharding import make_mesh
from rlkit.types import Agent, Discrete, InputError, Learner, Percept

STEPS = 12
REPETITIONS = 1600
SEEDS = (0, 1)
COMPILED = []  # grows by one with each program that is compiled in this process


def _note_compilation(event, seconds, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(seconds)


jax.monitoring.register_event_duration_secs_listener(_note_compilation)


def shrink(config):
    """The same configuration with small networks of two hidden layers, small batches and few steps."""

    def small(value):
        if isinstance(value, tuple):
            return tuple(small(v) for v in value[:2])
        if dataclasses.is_dataclass(value):
            return shrink(value)
        return min(value, 12) if isinstance(value, int) and not isinstance(value, bool) else value

    return dataclasses.replace(config, **{f.name: small(getattr(config, f.name)) for f in dataclasses.fields(config)})


@dataclasses.dataclass
class Case:
    """One agent on one kind of data. Training is of two seeds always, so that one compiled program serves one device
    and another one eight."""

    module: object
    stages: tuple
    buffer: Buffer
    moments: object
    spec: object

    def fit(self, mesh, seeds=SEEDS, *, stages=None, buffer=None, log_every=6, **options):
        data = buffer or self.buffer, self.moments
        return loop.fit(stages or self.stages, *data, seeds, log_every=log_every, mesh=mesh, **options)


def cases():
    """Every agent and the VARIANTS of its file, with both kinds of actions; variants and choices are slow."""
    for name, entry in agents.REGISTRY.items():
        for changes in ({}, *getattr(importlib.import_module(entry.module), "VARIANTS", ())):
            for kind in ("continuous", "discrete"):
                marks = pytest.mark.slow if changes or kind == "discrete" else ()
                yield pytest.param((name, kind, changes), id="-".join((name, *changes, kind)), marks=marks)


def build(name, kind, changes):
    """The Case of one agent; InputError if it cannot have such actions."""
    module = importlib.import_module(agents.REGISTRY[name].module)
    data = from_episodes(random_episodes(discrete=kind == "discrete"))
    normaliser = Normaliser.fit(data, DataOptions(dataset="test"))
    seen = spec(data, None)
    stages = shrink(module.Config(**changes)).stages(seen, STEPS)
    buffer = Buffer.from_episodes(data, normaliser, tuple({n for s in stages for n in s.learner.needs}))
    return Case(module, stages, buffer, stats(buffer), seen)


@pytest.fixture(scope="module", params=cases())
def case(request):
    name, kind, changes = request.param
    try:
        return build(name, kind, changes)
    except InputError as refusal:
        assert len(str(refusal).splitlines()) == 1 and name in str(refusal)
        pytest.skip(f"refuses {kind} actions, in one line")


@pytest.fixture(scope="module")
def straight(case):
    """All that an uninterrupted training yields, with its arrays on the host, and which leaves were weakly typed."""
    found, weak = [], []
    for progress in case.fit(make_mesh(1, jax.devices()[:1])):
        named = jax.tree_util.tree_leaves_with_path((progress.state, progress.sums))
        weak += [(progress.stage, jax.tree_util.keystr(path)) for path, leaf in named if leaf.weak_type]
        found.append(progress._replace(state=jax.device_get(progress.state), sums=jax.device_get(progress.sums)))
    return found, weak


def final(progress):
    *_, last = progress
    return last


def ends(case, progress):
    """The state at the end of each stage."""
    found = {}
    for point in progress:
        found[point.stage] = jax.device_get(point.state)
    return [found[number] for number in range(len(case.stages))]


def seed(state, row):
    """The state of one of the seeds."""
    return jax.tree.map(lambda leaf: leaf[row], state)


def test_learners_are_hashable_hold_no_array_and_meet_the_protocol(case):
    for stage in case.stages:
        assert isinstance(stage.learner, Learner)
        assert hash(stage.learner) == hash(dataclasses.replace(stage.learner))
        assert not [x for x in jax.tree.leaves(dataclasses.asdict(stage.learner)) if hasattr(x, "dtype")]
    assert isinstance(case.stages[-1].learner, Agent)
    assert case.stages[-1].steps == STEPS


def test_every_preset_builds_and_names_its_source(case):
    for preset in case.module.PRESETS.values():
        assert preset.source and preset.steps > 0
        assert isinstance(preset.config, case.module.Config)
        assert preset.config.stages(case.spec, preset.steps)[-1].steps == preset.steps
        DataOptions(dataset="test", **preset.data)


def test_every_hyper_parameter_is_documented(case):
    source = importlib.import_module("inspect").getsource(case.module.Config)
    for field in dataclasses.fields(case.module.Config):
        after = source.split(f"\n    {field.name}:", 1)[1].split("\n", 1)[1]
        assert after.strip().startswith('"""'), field.name


def test_training_keeps_the_state_tree_moves_it_and_stays_finite(case, straight):
    before, shapes = None, None
    for progress in straight[0]:
        state = progress.state
        signature = jax.tree.map(lambda x: (x.shape, x.dtype), state)
        if progress.step == 0:
            assert progress.metrics == {}
            before, shapes = state, signature
            expected = loop.abstract_state(case.stages, progress.stage, case.buffer, case.moments, SEEDS)
            assert jax.tree.map(lambda x: (x.shape, x.dtype), expected) == signature
            continue
        assert signature == shapes
        assert all(bits(seed(before, row)) != bits(seed(state, row)) for row in range(len(SEEDS)))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
        assert progress.metrics and all(v.shape == (2,) and np.isfinite(v).all() for v in progress.metrics.values())
        assert all(name.count("/") == 1 for name in progress.metrics)


def test_no_leaf_of_the_state_is_weakly_typed(straight):
    """A checkpoint does not keep that: what is restored would be compiled for anew."""
    assert straight[1] == []


@pytest.mark.slow
def test_a_seed_has_its_own_bits_whatever_its_neighbours_and_its_place(case, mesh, straight):
    together, others = straight[0][-1].state, ends(case, case.fit(mesh, (2, SEEDS[0])))[-1]
    assert bits(seed(together, 0)) == bits(seed(others, 1))
    assert bits(seed(together, 0)) != bits(seed(together, 1))
    assert bits(seed(together, 1)) != bits(seed(others, 0))


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_bits_and_compiles_nothing(case, mesh, straight):
    compiled = len(COMPILED)
    assert compiled
    for stop in [(number, 6) for number in range(len(case.stages))] + [(0, case.stages[0].steps)]:
        (saved,) = (progress for progress in straight[0] if (progress.stage, progress.step) == stop)
        rest = list(case.fit(mesh, resume=saved))
        assert all((p.stage, p.step) > stop for p in rest)
        resumed = rest[-1].state if rest else saved.state
        assert bits(straight[0][-1].state) == bits(resumed)
    assert len(COMPILED) == compiled


@pytest.mark.slow
def test_eight_devices_equal_one(case, straight):
    wide = make_mesh(len(SEEDS))
    assert dict(wide.shape) == {"seed": 2, "batch": 4}
    one, eight = straight[0][-1].state, ends(case, case.fit(wide))[-1]
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        # a sum is as exact as its largest terms: where gradients are in the tens, 2e-4 of the whole array's size
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4 * max(1, np.abs(a).max()))


def test_nothing_is_compiled_or_transferred_in_silence_once_training_runs(case, mesh, straight):
    compiled = len(COMPILED)
    assert compiled
    with jax.transfer_guard("disallow"):
        for progress in case.fit(mesh):
            jax.block_until_ready(progress.state)
    assert len(COMPILED) == compiled
    assert bits(straight[0][-1].state) == bits(progress.state), "the same seeds give the same bits"


@pytest.mark.slow
def test_some_loss_falls_when_a_dozen_rows_are_repeated(case, mesh):
    """By a tenth at least, over the last quarter of the updates on average. The index keeps its length, and the loop
    its program."""
    few = case.buffer._replace(index=jnp.resize(case.buffer.index[:12], case.buffer.index.shape))
    longer = tuple(dataclasses.replace(stage, steps=REPETITIONS) for stage in case.stages)
    losses = [[] for _ in longer]
    for progress in case.fit(mesh, stages=longer, buffer=few, log_every=REPETITIONS // 80):
        if progress.metrics:
            metrics = progress.metrics
            losses[progress.stage].append([metrics[name] for name in sorted(metrics) if name.endswith("/loss")])
    for stage, found in zip(longer, losses, strict=True):
        first, late = np.array(found[0]), np.array(found[-len(found) // 4 :]).mean(0)
        assert (late < first - 0.1 * np.abs(first)).any(), (stage.name, first, late)


def test_acting_keeps_the_bounds_and_the_row(case, straight):
    agent = case.stages[-1].learner
    state = seed(straight[0][-1].state, 0)
    obs = jax.random.normal(jax.random.key(3), (5, *case.spec.observation.shape))
    keys = jax.random.split(jax.random.key(4), 5)

    def act(state, obs, key):
        percept = Percept(obs, jnp.float32(0), jnp.int32(0))
        memory = agent.observe(state, agent.begin(state, first_goal(agent)), percept)
        return [agent.act(state, memory, key, greedy=greedy)[0] for greedy in (True, False)]

    @jax.jit
    def both(state, obs, keys):
        """All rows together, and one by one."""
        return jax.vmap(act, in_axes=(None, 0, 0))(state, obs, keys), [act(state, obs[i], keys[i]) for i in range(5)]

    together, alone = both(state, obs, keys)
    for greedy, actions in enumerate(together):
        if isinstance(case.spec.action, Discrete):
            assert actions.dtype == jnp.int32 and 0 <= actions.min() and actions.max() < case.spec.action.n
        else:
            assert actions.shape[2:] == case.spec.action.shape and (jnp.abs(actions) <= 1).all()
        for row in range(5):
            np.testing.assert_allclose(actions[row], alone[row][greedy], rtol=1e-5, atol=1e-6)
