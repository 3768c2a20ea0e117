"""The conformance suite, for pytest: what every agent must satisfy, whatever its method.

    # test_my_agent.py
    import my_agent
    from rlkit.testing import Conformance

    class TestMyAgent(Conformance):
        module = my_agent  # with Config and PRESETS

It runs on data of a 3-dimensional world with 2-dimensional and with 3 discrete actions; an agent that refuses one kind
in one line is skipped for it. Sizes are shrunk by type: whole numbers above 12 to 12 and others to at most 2, tuples to
two entries. The test of many devices needs them: XLA_FLAGS=--xla_force_host_platform_device_count=4 makes four of one
processor.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from rlkit import online
from rlkit.acting import first_goal
from rlkit.buffer import Buffer, needs, stats
from rlkit.datasets import DataOptions, Normaliser, from_episodes, spec
from rlkit.training import loop
from rlkit.training.loop import Progress
from rlkit.training.sharding import make_mesh
from rlkit.types import Agent, Discrete, InputError, Learner, Percept, Spec, Stage, Stats

STEPS = 12
LOG_EVERY = 6
REPETITIONS = 1600
SEEDS = (0, 1)
LEAST_LEARNING_RATE = 3e-3
# what needs further compilations or many updates, for those who want a quick part of their suite
SLOW = {
    "test_a_seed_has_its_own_bits_whatever_its_neighbours_and_its_place",
    "test_an_interrupted_run_goes_on_to_the_same_bits_and_compiles_nothing",
    "test_many_devices_equal_one",
    "test_some_loss_falls_when_a_dozen_rows_are_repeated",
}

_compilations: list[float] = []  # seconds of each program that is compiled in this process


def _note_compilation(event: str, seconds: float, **_: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _compilations.append(seconds)


jax.monitoring.register_event_duration_secs_listener(_note_compilation)


def random_episodes(number: int = 6, steps: int = 20, discrete: bool = False, seed: int = 0) -> list[dict[str, Any]]:
    """Episodes of a 3-dimensional world with 2-dimensional (or 3 discrete) actions; every second one is terminal."""
    rng = np.random.default_rng(seed)
    episodes = []
    for i in range(number):
        observations = rng.normal(size=(steps + 1, 3)).astype(np.float32)
        if discrete:
            actions = rng.integers(0, 3, steps)
        else:
            actions = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
        last = steps - 1 if i % 2 else steps
        episodes.append(
            {
                "observations": observations,
                "actions": actions,
                "rewards": rng.normal(size=steps).astype(np.float32),
                "terminations": np.arange(steps) == last,
                "truncations": np.zeros(steps, bool),
            }
        )
    return episodes


def shrink(config: Any) -> Any:
    """The same configuration with small networks of two hidden layers, small batches and few steps, and with learning
    rates of 0.003 at least: what falls with the published ones after thousands of updates falls with these in a few
    hundred."""

    def small(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(small(entry) for entry in value[:2])
        if dataclasses.is_dataclass(value):
            return shrink(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return 12 if value > 12 else min(value, 2)
        return value

    changes = {}
    for field in dataclasses.fields(config):
        value = small(getattr(config, field.name))
        if field.name.endswith("learning_rate") and value:
            value = max(value, LEAST_LEARNING_RATE)
        if field.name.endswith("layers"):
            value = min(value, 1)
        changes[field.name] = value
    return dataclasses.replace(config, **changes)


@dataclasses.dataclass
class Case:
    """One agent on one kind of data. Training is of two seeds always, so that one compiled program serves one device
    and another one many."""

    module: ModuleType
    stages: tuple[Stage, ...]
    buffer: Buffer
    moments: Stats
    spec: Spec

    def fit(
        self,
        mesh: Mesh,
        seeds: Sequence[int] = SEEDS,
        *,
        stages: Sequence[Stage] | None = None,
        buffer: Buffer | None = None,
        log_every: int = LOG_EVERY,
        **options: Any,
    ) -> Iterator[Progress]:
        """Training of the case, or with what is given in place of its own."""
        data = buffer or self.buffer
        return loop.fit(stages or self.stages, data, self.moments, seeds, log_every=log_every, mesh=mesh, **options)


def build(module: ModuleType, kind: str, **changes: Any) -> Case:
    """The Case of the agent in ``module`` with "continuous" or "discrete" actions; InputError if it refuses them.

    changes: fields of its Config that differ from their defaults.
    """
    episodes = from_episodes(random_episodes(discrete=kind == "discrete"))
    normaliser = Normaliser.fit(episodes, DataOptions(dataset="test"))
    data_spec = spec(episodes, None)
    stages = shrink(module.Config(**changes)).stages(data_spec, STEPS)
    buffer = Buffer.from_episodes(episodes, normaliser, needs(stages))
    return Case(module, stages, buffer, stats(buffer), data_spec)


def _accepts(module: ModuleType, kind: str) -> bool:
    """Whether the agent takes actions of this kind."""
    try:
        build(module, kind)
    except InputError:
        return False
    return True


def final(progress: Iterable[Progress]) -> Progress:
    """The last of what a training yields."""
    *_, last = progress
    return last


def final_states(case: Case, progress: Iterable[Progress]) -> list[Any]:
    """The state at the end of each stage."""
    states = {}
    for point in progress:
        states[point.stage] = jax.device_get(point.state)
    return [states[number] for number in range(len(case.stages))]


def bits(tree: Any) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Name of a leaf -> data type, shape and bytes: what is equal here is equal to the last bit, NaN and -0.0 included.

    The bytes are copies, which stay when the leaves are donated.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaf_bits = {}
    for path, leaf in leaves:
        array = np.asarray(leaf)
        leaf_bits[jax.tree_util.keystr(path)] = (array.dtype.name, array.shape, array.tobytes())
    return leaf_bits


def of_seed(state: Any, number: int) -> Any:
    """The state of one of the seeds."""
    return jax.tree.map(lambda leaf: leaf[number], state)


def check_finite(tree: Any) -> None:
    """Raises AssertionError if a number in the tree is not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)


def _has_fallen(logged: Sequence[Sequence[np.ndarray]]) -> bool:
    """Whether one of the losses, of some seed, is lower by a tenth in the last quarter of the log than at its start."""
    first = np.array(logged[0])
    late = np.array(logged[-len(logged) // 4 :]).mean(0)
    return bool((late < first - 0.1 * np.abs(first)).any())


def one_device() -> Mesh:
    """A mesh of the first device."""
    return make_mesh(1, jax.devices()[:1])


class Conformance:
    """Tests of the agent in ``module``. A subclass whose name begins with Test is collected by pytest."""

    module: ModuleType

    @pytest.fixture(scope="class", params=("continuous", "discrete"))
    def case(self, request: pytest.FixtureRequest) -> Case:
        try:
            return build(self.module, request.param)
        except InputError as refusal:
            assert len(str(refusal).splitlines()) == 1, "a refusal is one line"
            pytest.skip(f"refuses {request.param} actions: {refusal}")

    @pytest.fixture(scope="class")
    def straight(self, case: Case) -> tuple[list[Progress], list[str]]:
        """All that an uninterrupted training yields, on the host, and the names of weakly typed leaves."""
        points, weak = [], []
        for progress in case.fit(one_device()):
            named = jax.tree_util.tree_leaves_with_path((progress.state, progress.sums))
            weak += [jax.tree_util.keystr(path) for path, leaf in named if leaf.weak_type]
            on_host = jax.device_get((progress.state, progress.sums))
            points.append(progress._replace(state=on_host[0], sums=on_host[1]))
        return points, weak

    # --- the protocol ---

    def test_learners_are_hashable_hold_no_array_and_meet_the_protocol(self, case):
        for stage in case.stages:
            assert isinstance(stage.learner, Learner)
            assert hash(stage.learner) == hash(dataclasses.replace(stage.learner))
            assert not [x for x in jax.tree.leaves(dataclasses.asdict(stage.learner)) if hasattr(x, "dtype")]
        assert isinstance(case.stages[-1].learner, Agent)
        assert case.stages[-1].steps == STEPS

    def test_every_preset_builds_and_names_its_source(self, case):
        for preset in case.module.PRESETS.values():
            assert preset.source and preset.steps > 0
            assert isinstance(preset.config, case.module.Config)
            assert preset.config.stages(case.spec, preset.steps)[-1].steps == preset.steps
            DataOptions(dataset="test", **preset.data)
            online.defaults(preset.config, preset)

    def test_every_hyper_parameter_is_documented(self, case):
        source = "".join(inspect.getsource(kind) for kind in case.module.Config.__mro__[:-1])
        for field in dataclasses.fields(case.module.Config):
            after = source.split(f"\n    {field.name}:", 1)[1].split("\n", 1)[1]
            assert after.strip().startswith('"""'), field.name

    # --- training ---

    def test_training_keeps_the_state_tree_moves_it_and_stays_finite(self, case, straight):
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
            for row in range(len(SEEDS)):
                assert bits(of_seed(before, row)) != bits(of_seed(state, row))
            check_finite(state)
            check_finite(progress.metrics)
            assert progress.metrics
            for name, values in progress.metrics.items():
                assert values.shape == (len(SEEDS),)
                assert name.count("/") == 1

    def test_no_leaf_of_the_state_is_weakly_typed(self, straight):
        """A checkpoint does not keep that: what is restored would be compiled for anew."""
        assert straight[1] == []

    def test_a_seed_has_its_own_bits_whatever_its_neighbours_and_its_place(self, case, straight):
        together = straight[0][-1].state
        others = final_states(case, case.fit(one_device(), (2, SEEDS[0])))[-1]
        assert bits(of_seed(together, 0)) == bits(of_seed(others, 1))
        assert bits(of_seed(together, 0)) != bits(of_seed(together, 1))
        assert bits(of_seed(together, 1)) != bits(of_seed(others, 0))

    def test_an_interrupted_run_goes_on_to_the_same_bits_and_compiles_nothing(self, case, straight):
        compiled = len(_compilations)
        assert compiled
        stops = [(number, LOG_EVERY) for number in range(len(case.stages))]
        for stop in [*stops, (0, case.stages[0].steps)]:
            (saved,) = (progress for progress in straight[0] if (progress.stage, progress.step) == stop)
            rest = list(case.fit(one_device(), resume=saved))
            assert all((p.stage, p.step) > stop for p in rest)
            resumed = rest[-1].state if rest else saved.state
            assert bits(straight[0][-1].state) == bits(resumed)
        assert len(_compilations) == compiled

    def test_many_devices_equal_one(self, case, straight):
        if len(jax.devices()) == 1:
            pytest.skip("there is one device")
        if isinstance(case.spec.action, Discrete) and _accepts(case.module, "continuous"):
            pytest.skip("the kind of action makes no difference to devices")
        one = straight[0][-1].state
        many = final_states(case, case.fit(make_mesh(len(SEEDS), jax.devices()[:4])))[-1]
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
            # a sum is as exact as its largest terms: where gradients are in the tens, 2e-4 of the whole array's size
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4 * max(1, np.abs(a).max()))

    def test_nothing_is_compiled_or_transferred_in_silence_once_training_runs(self, case, straight):
        compiled = len(_compilations)
        assert compiled
        with jax.transfer_guard("disallow"):
            for progress in case.fit(one_device()):
                jax.block_until_ready(progress.state)
        assert len(_compilations) == compiled
        assert bits(straight[0][-1].state) == bits(progress.state), "the same seeds give the same bits"

    def test_some_loss_falls_when_a_dozen_rows_are_repeated(self, case):
        """In each stage, by a tenth at least, over the last quarter of the updates so far on average; looked at after
        REPETITIONS / 16 updates, and then after twice as many each time. The index keeps its length, and the loop its
        program."""
        few = case.buffer._replace(index=jnp.resize(case.buffer.index[:12], case.buffer.index.shape))
        longer = tuple(dataclasses.replace(stage, steps=REPETITIONS) for stage in case.stages)
        ended = None
        for number, stage in enumerate(longer):
            logged = []
            for progress in case.fit(
                one_device(), stages=longer, buffer=few, log_every=REPETITIONS // 80, resume=ended
            ):
                if progress.metrics and progress.stage == number:
                    logged.append([v for name, v in sorted(progress.metrics.items()) if name.endswith("/loss")])
                    if len(logged) in (5, 10, 20, 40, 80) and _has_fallen(logged):
                        break
            assert _has_fallen(logged), (stage.name, logged[0], logged[-1])
            ended = progress._replace(step=stage.steps)

    # --- acting ---

    def test_acting_keeps_the_bounds_and_the_row(self, case, straight):
        agent = case.stages[-1].learner
        state = of_seed(straight[0][-1].state, 0)
        obs = jax.random.normal(jax.random.key(3), (5, *case.spec.observation.shape))
        keys = jax.random.split(jax.random.key(4), 5)

        def act(greedy, state, obs, key):
            percept = Percept(obs, jnp.float32(0), jnp.int32(0))
            memory = agent.observe(state, agent.begin(state, first_goal(agent)), percept)
            return agent.act(state, memory, key, greedy=greedy)[0]

        act_alone = jax.jit(act, static_argnums=0)
        act_together = jax.jit(
            lambda greedy, *lanes: jax.vmap(functools.partial(act, greedy), in_axes=(None, 0, 0))(*lanes),
            static_argnums=0,
        )
        for greedy in (True, False):
            actions = act_together(greedy, state, obs, keys)
            if isinstance(case.spec.action, Discrete):
                assert actions.dtype == jnp.int32 and 0 <= actions.min() and actions.max() < case.spec.action.n
            else:
                assert actions.shape[2:] == case.spec.action.shape and (jnp.abs(actions) <= 1).all()
            for row in range(5):
                alone = act_alone(greedy, state, obs[row], keys[row])
                np.testing.assert_allclose(actions[row], alone, rtol=1e-5, atol=1e-6)
