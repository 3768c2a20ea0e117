"""What every agent of the registry must satisfy, whatever its method. Sizes are shrunk by type, never by name.

What needs further compilations of every agent is slow.
"""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_episodes

import agents
from rlkit import loop
from rlkit.acting import first_goal
from rlkit.buffer import Buffer, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.sharding import make_mesh
from rlkit.types import Agent, Discrete, InputError, Learner, Percept

STEPS = 12
REPETITIONS = 800


def shrink(config):
    """The same configuration with small networks, small batches and few steps."""

    def small(value):
        if isinstance(value, tuple):
            return tuple(small(v) for v in value)
        if dataclasses.is_dataclass(value):
            return shrink(value)
        return min(value, 12) if isinstance(value, int) and not isinstance(value, bool) else value

    return dataclasses.replace(config, **{f.name: small(getattr(config, f.name)) for f in dataclasses.fields(config)})


@dataclasses.dataclass
class Case:
    """One agent on one kind of data."""

    module: object
    stages: tuple
    buffer: Buffer
    moments: object
    spec: object

    def fit(self, mesh, seeds=(0,), log_every=6, resume=None, stages=None):
        return loop.fit(
            stages or self.stages, self.buffer, self.moments, seeds, log_every=log_every, mesh=mesh, resume=resume
        )


def cases():
    """Every agent and the VARIANTS of its file, with both kinds of actions; variants and choices are slow."""
    for name, entry in agents.REGISTRY.items():
        for changes in ({}, *getattr(importlib.import_module(entry.module), "VARIANTS", ())):
            for kind in ("continuous", "discrete"):
                marks = pytest.mark.slow if changes or kind == "discrete" else ()
                yield pytest.param((name, kind, changes), id="-".join((name, *changes, kind)), marks=marks)


@pytest.fixture(scope="module", params=cases())
def case(request):
    name, kind, changes = request.param
    module = importlib.import_module(agents.REGISTRY[name].module)
    data = from_episodes(random_episodes(discrete=kind == "discrete"))
    normaliser = Normaliser.fit(data, DataOptions(dataset="test"))
    seen = spec(data, None)
    try:
        stages = shrink(module.Config(**changes)).stages(seen, STEPS)
    except InputError as refusal:
        assert len(str(refusal).splitlines()) == 1 and name in str(refusal)
        pytest.skip(f"refuses {kind} actions, in one line")
    buffer = Buffer.from_episodes(data, normaliser, tuple({n for s in stages for n in s.learner.needs}))
    return Case(module, stages, buffer, stats(buffer), seen)


def final(progress):
    *_, last = progress
    return last


def same_bits(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def states(case, mesh, seeds=(0,)):
    """The state at the end of each stage."""
    ends = {}
    for progress in case.fit(mesh, seeds):
        ends[progress.stage] = jax.device_get(progress.state)
    return [ends[number] for number in range(len(case.stages))]


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


def test_training_keeps_the_state_tree_moves_it_and_stays_finite(case, mesh):
    before, shapes = None, None
    for progress in case.fit(mesh):
        state = jax.device_get(progress.state)
        signature = jax.tree.map(lambda x: (x.shape, x.dtype), state)
        if progress.step == 0:
            assert progress.metrics == {}
            before, shapes = state, signature
            expected = loop.abstract_state(case.stages, progress.stage, case.buffer, case.moments, (0,))
            assert jax.tree.map(lambda x: (x.shape, x.dtype), expected) == signature
            continue
        assert signature == shapes
        assert not same_bits(before, state)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
        assert progress.metrics and all(v.shape == (1,) and np.isfinite(v).all() for v in progress.metrics.values())
        assert all(name.count("/") == 1 for name in progress.metrics)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_another_does_not(case, mesh):
    first, again, other = states(case, mesh), states(case, mesh), states(case, mesh, (1,))
    assert same_bits(first, again)
    assert not same_bits(first, other)


@pytest.mark.slow
def test_a_set_of_seeds_equals_single_seeds(case, mesh):
    together = states(case, mesh, (3, 4))[-1]
    for row, seed in enumerate((3, 4)):
        alone = states(case, mesh, (seed,))[-1]
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[row], b[0], rtol=2e-3, atol=2e-4)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_bits(case, mesh):
    straight = jax.device_get(final(case.fit(mesh)).state)
    for stop in [(number, 6) for number in range(len(case.stages))] + [(0, case.stages[0].steps)]:
        for progress in case.fit(mesh):
            saved = progress._replace(state=jax.device_get(progress.state))
            if (progress.stage, progress.step) == stop:
                break
        rest = list(case.fit(mesh, resume=saved, log_every=6))
        assert all((p.stage, p.step) > stop for p in rest)
        resumed = rest[-1].state if rest else saved.state
        assert same_bits(straight, jax.device_get(resumed))


@pytest.mark.slow
def test_eight_devices_equal_one(case, mesh):
    seeds = (0, 1)
    wide = make_mesh(len(seeds))
    assert dict(wide.shape) == {"seed": 2, "batch": 4}
    one, eight = states(case, mesh, seeds)[-1], states(case, wide, seeds)[-1]
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        # a sum is as exact as its largest terms: where gradients are in the tens, 2e-4 of the whole array's size
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4 * max(1, np.abs(a).max()))


def test_nothing_is_compiled_or_transferred_in_silence_once_training_runs(case, mesh):
    list(case.fit(mesh))
    compiled = loop._chunk._cache_size(), loop._init._cache_size()
    with jax.transfer_guard("disallow"):
        for progress in case.fit(mesh):
            jax.block_until_ready(progress.state)
    assert (loop._chunk._cache_size(), loop._init._cache_size()) == compiled


@pytest.mark.slow
def test_some_loss_falls_when_one_batch_is_repeated(case):
    """By a tenth at least, over the last quarter of the repetitions on average."""
    state = None
    for stage in case.stages:
        learner = stage.learner
        state = jax.jit(learner.init)(jax.random.key(0), state, case.moments)
        batch = learner.sample(case.buffer, jax.random.key(1))

        def body(state, step, learner=learner, batch=batch):
            state, metrics = learner.update(state, batch, jax.random.fold_in(jax.random.key(2), step), step)
            return state, jnp.stack([metrics[name] for name in sorted(metrics) if name.endswith("/loss")])

        state, losses = jax.jit(lambda s, body=body: jax.lax.scan(body, s, jnp.arange(REPETITIONS)))(state)
        first, late = np.array(losses[0]), np.array(losses[-REPETITIONS // 4 :]).mean(0)
        assert (late < first - 0.1 * np.abs(first)).any(), (stage.name, first, late)
        if stage.after is not None:
            state = jax.jit(stage.after)(state, case.buffer, jax.random.key(3))


def test_acting_keeps_the_parameters_the_bounds_and_the_row(case, mesh):
    agent = case.stages[-1].learner
    state = jax.tree.map(lambda x: x[0], states(case, mesh)[-1])
    kept = jax.device_get(state)
    obs = jax.random.normal(jax.random.key(3), (5, *case.spec.observation.shape))
    keys = jax.random.split(jax.random.key(4), 5)

    def act(state, obs, key, greedy):
        percept = Percept(obs, jnp.float32(0), jnp.int32(0))
        memory = agent.observe(state, agent.begin(state, first_goal(agent)), percept)
        return agent.act(state, memory, key, greedy=greedy)[0]

    for greedy in (True, False):
        together = jax.vmap(act, in_axes=(None, 0, 0, None))(state, obs, keys, greedy)
        if isinstance(case.spec.action, Discrete):
            assert together.dtype == jnp.int32 and 0 <= together.min() and together.max() < case.spec.action.n
        else:
            assert together.shape[2:] == case.spec.action.shape and (jnp.abs(together) <= 1).all()
        for row in range(5):
            np.testing.assert_allclose(together[row], act(state, obs[row], keys[row], greedy), rtol=1e-5, atol=1e-6)
    assert same_bits(kept, state)
