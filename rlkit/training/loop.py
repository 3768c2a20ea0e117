"""The training loop: every agent, every stage, every device count.

A batch's path: ``fit`` (Python, a generator) -> ``_chunk`` (one jit, state donated) -> loop body -> learner.sample ->
shard_batch -> learner.update -> optim.descend. Seeds are a leading axis of the state, vmapped; on one CPU device they
take turns, a chunk each.

Randomness is counted, not carried: the key of an update is a function of the run's seed, the stage and the step alone,
so a run that was interrupted goes on to the same bits. How many updates make a chunk is decided by the clock, and
changes nothing: the number is an argument of the one compiled program, which adds the metrics to the sums so far.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlkit import ranges, ring
from rlkit.buffer import Buffer
from rlkit.optim import Net
from rlkit.training.sharding import per_seed, replicated, shard_batch
from rlkit.training.swept import Numbers, with_numbers
from rlkit.types import Array, InputError, Key, Learner, Metrics, Stage, State, Stats

if TYPE_CHECKING:
    from rlkit.training.collect import Collector, Live

_GROWTH = 4  # of a chunk over the one before: the first ones, which are short, say little of the rate


class Progress(NamedTuple):
    """Where training stands after ``step`` updates of stage number ``stage``.

    ``state`` has a leading seed axis on every leaf. It and ``sums`` are donated to the next chunk: save or evaluate
    them before advancing the generator. ``sums`` are those of the metrics over the updates since the last log line, [S]
    each. Where a log interval ends, ``metrics`` are the means over it, [S] each, and ``finite`` [S] says which seeds'
    state and metrics are; else they are empty. ``summed`` is the number of updates that the sums are of, 0 where they
    have been logged: a run may go on with another log interval. ``live`` is what an online stage needs beside the
    state; its replay is donated too.
    """

    stage: int
    step: int
    state: State
    sums: Metrics
    metrics: dict[str, np.ndarray]
    finite: np.ndarray
    live: Live | None = None
    summed: int = 0


def fit(
    stages: Sequence[Stage],
    buffer: Buffer,
    stats: Stats,
    seeds: Sequence[int],
    *,
    log_every: int,
    mesh: Mesh,
    resume: Progress | None = None,
    chunk_seconds: float = math.inf,
    collector: Collector | None = None,
    swept: Sequence[Numbers] = (),
) -> Iterator[Progress]:
    """Train ``stages`` one after another, one copy for each of ``seeds``.

    Yields at step 0 of every stage, every ``log_every`` updates and at the end of every stage, and in between so often
    that a chunk lasts at most about ``chunk_seconds``, or one update if that takes longer. The bits do not depend on
    how often.

    Args:
        stages: of the agent, from its Config. buffer: the data, with the columns that the stages need. stats: moments
        of the data, from rlkit.buffer.stats. seeds: S of them, 32 bits each. log_every: updates in a log interval.
        mesh: from rlkit.training.sharding.make_mesh. resume: goes on after this Progress as if training had never
        stopped. chunk_seconds: see above. collector: of the environments that online stages act in. swept: for each
        stage the numbers in which its learner differs from copy to copy, [S] each; none by default.

    Returns:
        A generator of Progress.

    Raises:
        InputError: a number in a learner, or in its Config, is out of its range, or the devices of the mesh cannot
        share a batch.

    Example:
        stages = bc.Config().stages(spec, 1000)
        for progress in fit(stages, buffer, stats(buffer), (0, 1), log_every=100, mesh=make_mesh(2)):
            print(progress.step, progress.metrics)
    """
    for stage in stages:
        ranges.check(stage.learner, f"stage {stage.name}")
    buffer, stats = jax.device_put((buffer, stats), replicated(mesh))
    seeds = np.asarray(seeds, np.uint32)
    seeds = jax.device_put(seeds, per_seed(mesh))
    swept = jax.device_put(list(swept) or [{}] * len(stages), per_seed(mesh))
    state = None
    for number, stage in enumerate(stages):
        if resume is not None and number < resume.stage:
            continue
        _check_batch(stage, buffer, mesh)
        init_keys, step_keys = _stage_keys(seeds, number)
        if resume is not None and number == resume.stage:
            progress = _resume_stage(resume, mesh)
            if resume.live is not None:
                collector.resume(stage, number, resume.live)
        else:
            progress = _start_stage(stage, number, mesh, init_keys, state, stats, swept[number])
            state = None  # the memory of the stage before is free from here on
            if stage.online is not None:
                collector.begin(stage, number, progress.state)
                progress = progress._replace(live=collector.live)
            yield progress
        dtypes = _metric_dtypes(stage.learner, mesh, progress.state, buffer, step_keys, swept[number])
        pace = _Pace(chunk_seconds)
        while progress.step < stage.steps:
            progress = _advance(
                stage, mesh, progress, buffer, step_keys, dtypes, log_every, pace, collector, swept[number]
            )
            yield progress
        state = progress.state
        if stage.after is not None and number + 1 < len(stages):
            # the key of the update that would come next: nothing else uses it
            keys = _next_keys(step_keys, stage.steps)
            state = _after(stage.after, mesh, state, buffer, keys)


def _start_stage(
    stage: Stage, number: int, mesh: Mesh, keys: Key, prev: State | None, stats: Stats, swept: Numbers
) -> Progress:
    """Step 0 of stage ``number``, after a stage that ended with ``prev``."""
    if stage.continues:
        state = prev
    else:
        state = _init(stage.learner, mesh, keys, prev, stats, swept)
    return _between_logs(number, 0, state, {})


def _resume_stage(resume: Progress, mesh: Mesh) -> Progress:
    """``resume`` with its arrays on the devices."""
    state = jax.device_put(resume.state, per_seed(mesh))
    sums = jax.device_put(resume.sums, per_seed(mesh))
    return resume._replace(state=state, sums=sums)


def _advance(
    stage: Stage,
    mesh: Mesh,
    progress: Progress,
    buffer: Buffer,
    keys: Key,
    dtypes: Mapping[str, np.dtype],
    log_every: int,
    pace: _Pace,
    collector: Collector | None,
    swept: Numbers,
) -> Progress:
    """Run one chunk of updates, which ends where the log interval or the stage does at the latest. Online it is cut
    where rounds begin, before which steps are collected."""
    state = progress.state
    sums = progress.sums
    step = progress.step
    summed = progress.summed
    if summed == 0:
        sums = _zero_sums(dtypes, len(keys), mesh)
    # --- run a chunk ---
    left_in_interval = log_every - step % log_every
    left_in_stage = stage.steps - step
    updates = pace.next(min(left_in_interval, left_in_stage))
    end = step + updates
    online = stage.online
    began = time.monotonic()
    while step < end:
        part = end - step
        replay = None
        if online is not None:
            if step % online.updates == 0:
                collector.run(state, online.target(step))
            part = min(part, online.left_in_round(step))
            replay = collector.replay
        share = None if online is None else online.share
        first, count = jax.device_put((np.int32(step), np.int32(part)), replicated(mesh))
        state, sums = _chunk(stage.learner, mesh, share, state, sums, buffer, replay, keys, first, count, swept)
        step += part
    jax.block_until_ready(sums)
    pace.took(updates, time.monotonic() - began)
    # --- the means of a log interval that has ended ---
    summed += updates
    progress = _between_logs(progress.stage, step, state, sums)._replace(summed=summed)
    if online is not None:
        progress = progress._replace(live=collector.live)
    if step % log_every != 0 and step != stage.steps:
        return progress
    totals = jax.device_get(sums)
    means = {name: total / summed for name, total in totals.items()}
    if online is not None:
        means |= collector.metrics()
    is_finite = jax.device_get(finite(state, sums))
    return progress._replace(metrics=means, finite=is_finite, summed=0)


def _between_logs(stage: int, step: int, state: State, sums: Metrics) -> Progress:
    """Progress where no log interval ends."""
    return Progress(stage, step, state, sums, metrics={}, finite=np.zeros(0, bool))


def _zero_sums(dtypes: Mapping[str, np.dtype], seeds: int, mesh: Mesh) -> Metrics:
    """The sums of the metrics at the start of a log interval."""
    zeros = {}
    for name, dtype in dtypes.items():
        zeros[name] = np.zeros(seeds, dtype)
    return jax.device_put(zeros, per_seed(mesh))


class _Pace:
    """How many updates the next chunk makes so that it lasts about ``seconds``."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._updates = 1  # the first chunk is compiled, which tells nothing of the rate

    def next(self, left: int) -> int:
        """At most ``left``, and all of them where chunks may last for ever."""
        if self._seconds == math.inf:
            return left
        return min(self._updates, left)

    def took(self, updates: int, seconds: float) -> None:
        """Learn that a chunk of ``updates`` took ``seconds``."""
        fitting = self._seconds * updates / max(seconds, 1e-9)
        largest = _GROWTH * self._updates
        self._updates = max(1, int(min(largest, fitting)))


def abstract_state(stages: Sequence[Stage], number: int, buffer: Buffer, stats: Stats, seeds: Sequence[int]) -> State:
    """Shapes and dtypes of the state of stage ``number``, as a checkpoint of it must have. ``buffer`` may be abstract
    itself."""
    keys = _abstract_keys(seeds)
    prev = _abstract_prev(stages, number, buffer, stats, seeds)
    if stages[number].continues:
        return prev
    init = functools.partial(_vmap_init, stages[number].learner)
    return jax.eval_shape(init, keys, prev, stats)


def _abstract_prev(stages: Sequence[Stage], number: int, buffer: Buffer, stats: Stats, seeds: Sequence[int]) -> State:
    """Shapes and dtypes of what stage ``number`` begins with; None for the first."""
    if number == 0:
        return None
    state = abstract_state(stages, number - 1, buffer, stats, seeds)
    after = stages[number - 1].after
    if after is None:
        return state
    return jax.eval_shape(jax.vmap(after, in_axes=(0, None, 0)), state, buffer, _abstract_keys(seeds))


def _abstract_keys(seeds: Sequence[int]) -> Key:
    def keys():
        init_keys, _ = _stage_keys(np.asarray(seeds, np.uint32), 0)
        return init_keys

    return jax.eval_shape(keys)


def restarted(
    stages: Sequence[Stage], number: int, state: State, buffer: Buffer, stats: Stats, seeds: Sequence[int]
) -> State:
    """A ``state`` of stage ``number`` from which training can begin anew: every optimiser in it (the ``opt`` of each
    rlkit.optim.Net: moments, and the count that its schedules run over) is as at step 0; all other arrays stay."""
    keys, _ = _stage_keys(np.asarray(seeds, np.uint32), number)

    def zeros(leaf: jax.ShapeDtypeStruct) -> Array:
        return jnp.zeros(leaf.shape, leaf.dtype)

    # what stands before the stage makes its parameters, which are not taken from here, and no part of an optimiser
    prev = jax.tree.map(zeros, _abstract_prev(stages, number, buffer, stats, seeds))
    first = jax.jit(_vmap_init, static_argnums=0)(stages[number].learner, keys, prev, stats)

    def begin(saved: Any, fresh: Any) -> Any:
        return saved._replace(opt=fresh.opt) if isinstance(saved, Net) else saved

    return jax.tree.map(begin, state, first, is_leaf=lambda part: isinstance(part, Net))


@functools.partial(jax.jit, static_argnums=1)
def _stage_keys(seeds: Array, number: int) -> tuple[Key, Key]:
    """Per seed [S]: the key that initialises the stage and the key that its steps are folded into."""

    def keys(seed):
        stage_key = jax.random.fold_in(jax.random.key(seed), number)
        init_key, step_key = jax.random.split(stage_key)
        return init_key, step_key

    return jax.vmap(keys)(seeds)


def _vmap_init(learner: Learner, keys: Key, prev: State | None, stats: Stats, swept: Numbers | None = None) -> State:
    """The state of every seed, of which every leaf has a dtype of its own.

    A weak dtype (of a bare Python number) does not survive a checkpoint, and a resumed run would compile again."""

    def strong(leaf):
        return jax.lax.convert_element_type(leaf, leaf.dtype)

    def init(key, prev, numbers):
        return with_numbers(learner, numbers).init(key, prev, stats)

    state = jax.vmap(init)(keys, prev, swept or {})
    return jax.tree.map(strong, state)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(learner: Learner, mesh: Mesh, keys: Key, prev: State | None, stats: Stats, swept: Numbers) -> State:
    state = _vmap_init(learner, keys, prev, stats, swept)
    return jax.lax.with_sharding_constraint(state, per_seed(mesh))


@functools.partial(jax.jit, static_argnums=1)
def _next_keys(keys: Key, step: int) -> Key:
    fold_in = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    return fold_in(keys, step)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _after(after: Callable[[State, Buffer, Key], State], mesh: Mesh, state: State, buffer: Buffer, keys: Key) -> State:
    """What a stage hands to the next. Seeds take turns, because ``after`` may look at every row of the data."""

    def one_seed(state_and_key):
        state, key = state_and_key
        return after(state, buffer, key)

    result = jax.lax.map(one_seed, (state, keys))
    return jax.lax.with_sharding_constraint(result, per_seed(mesh))


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3, 4))
def _chunk(
    learner: Learner,
    mesh: Mesh,
    share: float | None,
    state: State,
    sums: Metrics,
    buffer: Buffer,
    replay: Buffer | None,
    keys: Key,
    first: Array,
    count: Array,
    swept: Numbers | None = None,
) -> tuple[State, Metrics]:
    """``count`` updates of every seed from step ``first`` on; returns the state, and ``sums`` with their metrics added.

    The number of updates is traced: one compilation serves every chunk, so that its bits cannot depend on how a run
    was cut up. ``swept``: numbers that the learner has in place of its own, [S] each.
    """
    swept = swept or {}

    def one_seed(state, sums, key, replay, values):
        def body(i, carry):
            state, sums = carry
            state, metrics = _update(learner, mesh, share, state, buffer, replay, key, first + i, values)
            return state, jax.tree.map(jnp.add, sums, metrics)

        return jax.lax.fori_loop(0, count, body, (state, sums))

    def in_turn(seed):
        state, sums, key, number, values = seed
        # a ring is not sliced out, which would copy it: it is read at the seed's number
        own = None if replay is None else ring.of_seed(replay, number)
        return one_seed(state, sums, key, own, values)

    # one seed fills a CPU, and a seed axis, even of length 1, makes XLA's loops on it 1.4 times slower
    on_one_cpu = mesh.size == 1 and mesh.devices.item().platform == "cpu"
    numbers = jnp.arange(len(keys))
    if on_one_cpu and len(keys) == 1:
        # without the loop over seeds, which costs as much as two updates: online a chunk may be one update
        only = jax.tree.map(lambda leaf: leaf[0], (state, sums, keys, numbers, swept))
        result = jax.tree.map(lambda leaf: leaf[None], in_turn(only))
    elif on_one_cpu:
        result = jax.lax.map(in_turn, (state, sums, keys, numbers, swept))
    else:
        # `first` and `count` have no seed axis, so that a lax.cond on the step stays a branch
        result = jax.vmap(one_seed, spmd_axis_name="seed")(state, sums, keys, replay, swept)
    # sharded as the arguments were, or jit would compile again
    return jax.lax.with_sharding_constraint(result, per_seed(mesh))


# jitted for what jit remembers: the update is traced once, for the names of its metrics, for the chunk, and for another
# `fit` of the same stage, as after an interruption
@functools.partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def _update(
    learner: Learner,
    mesh: Mesh,
    share: float | None,
    state: State,
    buffer: Buffer,
    replay: Buffer | None,
    key: Key,
    step: Array,
    swept: Numbers,
) -> tuple[State, Metrics]:
    """Draw a batch and update one seed on it. ``swept``: numbers that the learner has in place of its own."""
    learner = with_numbers(learner, swept)
    key = jax.random.fold_in(key, step)
    sample_key, update_key = jax.random.split(key)
    if replay is None:
        batch = learner.sample(buffer, sample_key)
    else:
        batch = _mixed(learner, share, buffer, replay, sample_key)
    batch = shard_batch(batch, mesh)
    return learner.update(state, batch, update_key, step)


def _mixed(learner: Learner, share: float | None, buffer: Buffer, replay: Buffer, key: Key) -> Any:
    """A batch of which the first ``share`` is drawn from the data and the rest from the replay.

    None: where each row comes from is drawn, in proportion to how many both have.
    """
    data_key, replay_key, coin_key = jax.random.split(key, 3)
    collected = learner.sample(replay, replay_key)
    if share == 0:
        return collected
    columns = {name: buffer.extra[name] for name in replay.extra}  # other stages may need more
    recorded = learner.sample(buffer._replace(extra=columns), data_key)
    size = jax.tree.leaves(collected)[0].shape[0]
    if share is None:
        of_both = buffer.count + replay.count
        is_recorded = jax.random.uniform(coin_key, (size,)) * of_both < buffer.count
    else:
        is_recorded = jnp.arange(size) < round(share * size)

    def choose(a: Array, b: Array) -> Array:
        missing_axes = (1,) * (a.ndim - 1)
        return jnp.where(is_recorded.reshape(size, *missing_axes), a, b)

    return jax.tree.map(choose, recorded, collected)


def _metric_dtypes(
    learner: Learner, mesh: Mesh, state: State, buffer: Buffer, keys: Key, swept: Numbers
) -> dict[str, np.dtype]:
    """The names and dtypes of the metrics of an update."""

    # with a mesh, as within the chunk: what is traced without one would be traced there again
    somewhere = replicated(mesh)

    def without_seed_axis(leaf):
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=somewhere)

    state, key, swept = jax.tree.map(without_seed_axis, (state, keys, swept))
    step = jax.ShapeDtypeStruct((), np.int32, sharding=somewhere)
    _, metrics = _update.eval_shape(learner, mesh, None, state, buffer, None, key, step, swept)
    return {name: metric.dtype for name, metric in metrics.items()}


@jax.jit
def finite(state: State, sums: Metrics) -> Array:
    """Which seeds [S] have neither a NaN nor an infinity in their state and their metrics."""

    def one_seed(tree):
        is_finite = jnp.array(True)
        for leaf in jax.tree.leaves(tree):
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                is_finite = jnp.logical_and(is_finite, jnp.isfinite(leaf).all())
        return is_finite

    return jax.vmap(one_seed)((state, sums))


def _check_batch(stage: Stage, buffer: Buffer, mesh: Mesh) -> None:
    """Raises InputError unless the devices can share a batch of ``stage``."""

    def sample():
        return stage.learner.sample(buffer, jax.random.key(0))

    batch = jax.eval_shape(sample)
    first_leaf = jax.tree.leaves(batch)[0]
    size = first_leaf.shape[0]
    devices = mesh.shape["batch"]
    if size % devices:
        raise InputError(f"stage {stage.name}: a batch of {size} cannot be shared by {devices} devices; change either")
