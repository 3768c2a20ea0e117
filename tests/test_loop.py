"""The loop: how a run is cut into chunks changes no bit of it. At XLA's default level too."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import bits

from agents.bc import BC, Config
from rlkit.buffer import Buffer, abstract, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.testing import random_episodes
from rlkit.training import loop
from rlkit.training.loop import fit
from rlkit.training.sharding import make_mesh
from rlkit.types import Stage

pytestmark = pytest.mark.bits

SEEDS = (3, 4)
STEPS = 40


@pytest.fixture(scope="module")
def world():
    """(stages, buffer, stats) of a small behaviour cloning run."""
    episodes = from_episodes(random_episodes())
    buffer = Buffer.from_episodes(episodes, Normaliser.fit(episodes, DataOptions("none")))
    return Config(widths=(8,), batch_size=4).stages(spec(episodes, None), STEPS), buffer, stats(buffer)


def _fit(world, devices=1, **kwargs):
    mesh = make_mesh(len(SEEDS), jax.devices()[:devices])
    return fit(*world, SEEDS, log_every=15, mesh=mesh, **kwargs)


def _outcome(parts):
    """[steps yielded, metrics by step, final state], the latter two as bits."""
    steps, logged = [], {}
    for progress in parts:
        steps.append(progress.step)
        if progress.metrics:
            logged[progress.step] = bits(progress.metrics)
    return [steps, logged, bits(progress.state)]


@pytest.mark.parametrize("devices", [1, 2])
def test_the_bits_do_not_depend_on_how_the_run_is_cut_into_chunks(world, devices, caplog):
    with jax.log_compiles():
        steps, *single = _outcome(_fit(world, devices, chunk_seconds=0))
    assert caplog.text.count("Compiling jit(_chunk)") == 1
    assert steps == list(range(STEPS + 1)) and list(single[0]) == [15, 30, 40]
    caplog.clear()
    with jax.log_compiles():
        steps, *whole = _outcome(_fit(world, devices))
        assert steps == [0, 15, 30, 40]
        assert single == whole == _outcome(_fit(world, devices, chunk_seconds=1))[1:]
    assert "Compiling jit(_chunk)" not in caplog.text, "one compilation serves every length"


def test_a_run_that_stopped_in_the_middle_of_an_interval_goes_on_to_the_same_bits_and_metrics(world):
    _, logged, state = _outcome(_fit(world))
    for stop in (7, 15, 29, 40):
        for progress in _fit(world, chunk_seconds=0):
            if progress.step == stop:
                break
        saved = progress._replace(state=jax.device_get(progress.state), sums=jax.device_get(progress.sums))
        steps, rest, resumed = _outcome([saved, *_fit(world, resume=saved, chunk_seconds=0.01)])
        assert resumed == state
        assert rest == {step: metrics for step, metrics in logged.items() if step >= stop}
        assert steps[-1] == STEPS


def test_another_training_of_the_same_stage_traces_no_update(world, monkeypatch):
    """Tracing is Python's work, and as much of it as of compiling: a run that goes on must not pay for it again."""
    traced = []
    update = BC.update
    monkeypatch.setattr(BC, "update", lambda *arguments: traced.append(1) or update(*arguments))
    episodes = from_episodes(random_episodes())
    fresh = (Config(widths=(8,), batch_size=6).stages(spec(episodes, None), STEPS), *world[1:])
    _outcome(_fit(fresh))
    assert len(traced) == 1
    saved = next(_fit(fresh))
    assert len(traced) == 1
    _outcome(_fit(fresh, resume=saved))
    assert len(traced) == 1


def test_chunks_grow_to_what_fits_and_not_at_once():
    pace = loop._Pace(0.5)
    lengths = []
    for _ in range(8):
        lengths.append(pace.next(1000))
        pace.took(lengths[-1], lengths[-1] / 200)  # 200 updates/s: 100 in half a second
    assert lengths == [1, 4, 16, 64, 100, 100, 100, 100]
    assert pace.next(3) == 3
    pace.took(3, 60.0)
    assert pace.next(1000) == 1
    assert loop._Pace(float("inf")).next(1000) == 1000


def test_a_seed_alone_has_the_bits_that_it_has_in_a_set(world):
    """On one device, where seeds take turns."""
    *_, together = _fit(world)
    mesh = make_mesh(1, jax.devices()[:1])
    for number, seed in enumerate(SEEDS):
        *_, alone = fit(*world, (seed,), log_every=15, mesh=mesh)
        row = jax.tree.map(lambda leaf: leaf[number : number + 1], together.state)  # noqa: B023
        assert bits(alone.state) == bits(row)


def test_a_seed_that_is_not_finite_is_told_from_the_others(world):
    progress = next(iter(_fit(world)))
    spoilt = jax.tree.map(lambda leaf: leaf.at[(1,) + (0,) * (leaf.ndim - 1)].set(np.nan), progress.state.params)
    broken = progress._replace(state=progress.state._replace(params=spoilt))
    assert [p.finite.tolist() for p in _fit(world, resume=broken)] == [[True, False]] * 3
    assert [p.finite.tolist() for p in _fit(world)] == [[], *[[True, True]] * 3]


@dataclasses.dataclass(frozen=True)
class Rewards:
    """A stage's ``after``: the rewards of all rows plus noise, and the bias of the stage's last layer."""

    scale: float

    def __call__(self, state, buffer, key):
        return buffer.reward + self.scale * jax.random.normal(key, buffer.reward.shape), state.params["params"]


class Second(BC):
    """A learner whose state holds what the stage before was made into."""

    def init(self, key, prev, stats):
        return super().init(key, None, stats), prev

    def update(self, state, batch, key, step):
        net, metrics = super().update(state[0], batch, key, step)
        return (net, state[1]), metrics


@pytest.mark.parametrize("devices", [1, 2])
def test_what_a_stage_is_made_into_is_handed_on_and_a_resumed_run_has_the_same_bits(world, devices):
    (first,), buffer, moments = world
    second = Stage("second", Second(first.learner.config, first.learner.spec), 5)
    stages = (dataclasses.replace(first, steps=10, after=Rewards(0.5)), second)
    two = (stages, buffer, moments)
    ends, saved = {}, {}
    for progress in _fit(two, devices):
        ends[progress.stage] = saved[progress.stage, progress.step] = jax.device_get(progress)
    (_, (reward, kept)), before = ends[1].state, ends[0].state.params["params"]
    noise = (np.asarray(reward) - np.asarray(buffer.reward)) / 0.5
    assert reward.shape == (len(SEEDS), len(buffer.reward)) and abs(noise.std() - 1) < 0.15
    assert not np.array_equal(noise[0], noise[1]), "a key for each seed"
    assert bits(kept) == bits(before)
    expected = loop.abstract_state(stages, 1, buffer, moments, SEEDS)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), expected) == jax.tree.map(
        lambda x: (x.shape, x.dtype), ends[1].state
    )
    for stop in ((0, 0), (0, 10), (1, 0), (1, 5)):
        *_, last = [saved[stop], *_fit(two, devices, resume=saved[stop])]
        assert bits(last.state) == bits(ends[1].state)


@pytest.mark.parametrize("devices", [1, 2])
def test_no_seed_gets_a_copy_of_the_data(world, devices):
    """Memory that a chunk allocates beside its inputs and outputs, for four seeds on a million rows."""
    (stage,), small, moments = world
    mesh = make_mesh(4, jax.devices()[:devices])
    large = abstract(stage.learner.spec, 1_000_000, 999_000, ())
    init_keys, step_keys = jax.eval_shape(lambda: loop._stage_keys(np.arange(4, dtype=np.uint32), 0))
    state = loop.abstract_state([stage], 0, small, moments, range(4))
    sums = {"policy/loss": jax.ShapeDtypeStruct((4,), np.float32)}
    number = jax.ShapeDtypeStruct((), np.int32)
    program = loop._chunk.lower(
        stage.learner, mesh, None, state, sums, large, None, step_keys, number, number
    ).compile()
    rows = sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(large))
    assert rows > 30_000_000
    assert program.memory_analysis().temp_size_in_bytes < rows / 10


def test_another_log_interval_changes_no_update_and_its_first_mean_is_of_the_updates_since_the_last_line(world):
    """Whether the interval before had ended, at 15, or not, at 7."""
    stages, buffer, moments = world
    mesh = make_mesh(len(SEEDS), jax.devices()[:1])
    each = {}
    for progress in fit(stages, buffer, moments, SEEDS, log_every=1, mesh=mesh):
        if progress.metrics:
            each[progress.step] = progress.metrics["policy/loss"]
    last = bits(progress.state)
    for stop, first, line in ((7, 1, 8), (15, 16, 16), (29, 16, 32)):
        for progress in _fit(world, chunk_seconds=0):
            if progress.step == stop:
                break
        saved = jax.device_get(progress)
        resumed = list(fit(stages, buffer, moments, SEEDS, log_every=4, mesh=mesh, resume=saved))
        assert bits(resumed[-1].state) == last
        logged = {progress.step: progress.metrics["policy/loss"] for progress in resumed if progress.metrics}
        assert list(logged) == list(range(line, STEPS + 1, 4))
        mean = np.mean([each[step] for step in range(first, line + 1)], 0)
        np.testing.assert_allclose(logged[line], mean, rtol=1e-5)


def test_what_training_begins_anew_with_has_other_optimisers_and_the_same_arrays_else(world):
    (first,), buffer, moments = world
    second = Stage("second", Second(first.learner.config, first.learner.spec), 5)
    stages = (dataclasses.replace(first, steps=10, after=Rewards(0.5)), second)
    *_, end = _fit((stages, buffer, moments))
    state = jax.device_get(end.state)
    net, prev = loop.restarted(stages, 1, state, buffer, moments, SEEDS)
    assert bits(net.params) == bits(state[0].params) and bits(prev) == bits(state[1])
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(net.opt)), "Adam's moments and count"
    assert any((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(state[0].opt))
