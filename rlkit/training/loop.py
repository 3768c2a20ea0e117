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
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlkit import ranges
from rlkit.buffer import Buffer
from rlkit.training.sharding import per_seed, replicated, shard_batch
from rlkit.types import Array, InputError, Key, Learner, Stage, State, Stats

_NONE: tuple[dict[str, np.ndarray], np.ndarray] = ({}, np.zeros(0, bool))  # metrics and finite of no interval
_GROWTH = 4  # of a chunk over the one before: the first ones, which are short, say little of the rate


class Progress(NamedTuple):
    """Where training stands after ``step`` updates of stage number ``stage``.

    ``state`` has a leading seed axis on every leaf. It and ``sums`` are donated to the next chunk: save or evaluate
    them before advancing the generator. ``sums`` are those of the metrics over the updates since the last log line, [S]
    each. Where a log interval ends, ``metrics`` are the means over it, [S] each, and ``finite`` [S] says which seeds'
    state and metrics are; else they are empty.
    """

    stage: int
    step: int
    state: State
    sums: dict[str, Array]
    metrics: dict[str, np.ndarray]
    finite: np.ndarray


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
) -> Iterator[Progress]:
    """Train ``stages`` one after another, one copy for each of ``seeds``.

    Yields at step 0 of every stage, every ``log_every`` updates and at the end of every stage; in between too, so often
    that a chunk lasts at most about ``chunk_seconds``, if an update does. The bits do not depend on it. With
    ``resume``, goes on after it as if it had never stopped. Raises InputError if a number in a learner, or in its
    Config, is out of its range, or if a batch cannot be shared by the mesh's devices.
    """
    for stage in stages:
        ranges.check(stage.learner, f"stage {stage.name}")
    buffer, stats = jax.device_put((buffer, stats), replicated(mesh))
    seeds = jax.device_put(np.asarray(seeds, np.uint32), per_seed(mesh))
    state = None
    for number, stage in enumerate(stages):
        if resume is not None and number < resume.stage:
            continue
        _check_batch(stage, buffer, mesh)
        init_keys, step_keys = _stage_keys(seeds, number)
        if resume is not None and number == resume.stage:
            state, step = jax.device_put(resume.state, per_seed(mesh)), resume.step
            sums = jax.device_put(resume.sums, per_seed(mesh))
        else:
            state, step, sums = _init(stage.learner, mesh, init_keys, state, stats), 0, {}
            yield Progress(number, step, state, sums, *_NONE)
        names, pace = _metrics(stage.learner, mesh, state, buffer, step_keys), _Pace(chunk_seconds)
        while step < stage.steps:
            if step % log_every == 0:
                zeros = {name: np.zeros(len(seeds), dtype) for name, dtype in names.items()}
                sums = jax.device_put(zeros, per_seed(mesh))
            updates = pace.next(min(log_every - step % log_every, stage.steps - step))
            first, count = jax.device_put((np.int32(step), np.int32(updates)), replicated(mesh))
            began = time.monotonic()
            state, sums = _chunk(stage.learner, mesh, state, sums, buffer, step_keys, first, count)
            jax.block_until_ready(sums)
            pace.took(updates, time.monotonic() - began)
            step += updates
            found = _NONE
            if step % log_every == 0 or step == stage.steps:
                interval = (step - 1) % log_every + 1
                means = {name: total / interval for name, total in jax.device_get(sums).items()}
                found = means, jax.device_get(finite(state, sums))
            yield Progress(number, step, state, sums, *found)
        if stage.after is not None and number + 1 < len(stages):
            # the key of the update that would come next: no other use is made of it
            state = _after(stage.after, mesh, state, buffer, _next_keys(step_keys, stage.steps))


class _Pace:
    """How many updates the next chunk makes so that it lasts about ``seconds``."""

    def __init__(self, seconds: float):
        self._seconds, self._updates = seconds, 1  # the first chunk is compiled, which tells nothing of the rate

    def next(self, left: int) -> int:
        """At most ``left``, and all of them where there is no hurry."""
        return left if self._seconds == math.inf else min(self._updates, left)

    def took(self, updates: int, seconds: float) -> None:
        """A chunk of ``updates`` took ``seconds``."""
        fitting = self._seconds * updates / max(seconds, 1e-9)
        self._updates = max(1, int(min(_GROWTH * self._updates, fitting)))


def abstract_state(stages: Sequence[Stage], number: int, buffer: Buffer, stats: Stats, seeds: Sequence[int]) -> State:
    """Shapes and dtypes of the state of stage ``number``, as a checkpoint of it must have. ``buffer`` may be abstract
    itself."""
    keys = jax.eval_shape(lambda: _stage_keys(np.asarray(seeds, np.uint32), 0)[0])
    state = None
    for place, stage in enumerate(stages[: number + 1]):
        state = jax.eval_shape(functools.partial(_vmap_init, stage.learner), keys, state, stats)
        if stage.after is not None and place < number:
            state = jax.eval_shape(jax.vmap(stage.after, in_axes=(0, None, 0)), state, buffer, keys)
    return state


@functools.partial(jax.jit, static_argnums=1)
def _stage_keys(seeds: Array, number: int) -> tuple[Key, Key]:
    """Per seed [S]: the key that initialises the stage and the key that its steps are folded into."""

    def keys(seed: Array) -> tuple[Key, Key]:
        both = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
        return both[0], both[1]

    return jax.vmap(keys)(seeds)


def _vmap_init(learner: Learner, keys: Key, prev: State | None, stats: Stats) -> State:
    """Every leaf has a dtype of its own: a weak one (of a bare Python number) does not survive a checkpoint, and a
    resumed run would compile anew."""
    state = jax.vmap(learner.init, in_axes=(0, 0, None))(keys, prev, stats)
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(learner: Learner, mesh: Mesh, keys: Key, prev: State | None, stats: Stats) -> State:
    return jax.lax.with_sharding_constraint(_vmap_init(learner, keys, prev, stats), per_seed(mesh))


@functools.partial(jax.jit, static_argnums=1)
def _next_keys(keys: Key, step: int) -> Key:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _after(after: Callable[[State, Buffer, Key], State], mesh: Mesh, state: State, buffer: Buffer, keys: Key) -> State:
    """What a stage hands to the next. Seeds take turns: it may look at every row of the data."""
    found = jax.lax.map(lambda seed: after(seed[0], buffer, seed[1]), (state, keys))
    return jax.lax.with_sharding_constraint(found, per_seed(mesh))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def _chunk(
    learner: Learner,
    mesh: Mesh,
    state: State,
    sums: dict[str, Array],
    buffer: Buffer,
    keys: Key,
    first: Array,
    count: Array,
) -> tuple[State, dict[str, Array]]:
    """``count`` updates of every seed from step ``first`` on; returns the state, and ``sums`` with their metrics added.

    The number of updates is traced: one compilation serves every chunk, so that its bits cannot depend on how a run
    was cut up.
    """

    def one_seed(state: State, sums: dict[str, Array], key: Key) -> tuple[State, dict[str, Array]]:
        def body(i: Array, carry: tuple[State, dict[str, Array]]) -> tuple[State, dict[str, Array]]:
            state, metrics = _update(learner, mesh, carry[0], buffer, key, first + i)
            return state, jax.tree.map(jnp.add, carry[1], metrics)

        return jax.lax.fori_loop(0, count, body, (state, sums))

    if mesh.size == 1 and mesh.devices.item().platform == "cpu":
        # one seed fills the device, and a seed axis, even of length 1, makes XLA's loops on a CPU 1.4 times slower
        after = jax.lax.map(lambda seed: one_seed(*seed), (state, sums, keys))
    else:
        # `first` and `count` have no seed axis, so that a lax.cond on the step stays a branch
        after = jax.vmap(one_seed, spmd_axis_name="seed")(state, sums, keys)
    return jax.lax.with_sharding_constraint(after, per_seed(mesh))  # as they came in, or jit would compile anew


def _update(
    learner: Learner, mesh: Mesh, state: State, buffer: Buffer, key: Key, step: Array
) -> tuple[State, dict[str, Array]]:
    sample_key, update_key = jax.random.split(jax.random.fold_in(key, step))
    batch = shard_batch(learner.sample(buffer, sample_key), mesh)
    return learner.update(state, batch, update_key, step)


def _metrics(learner: Learner, mesh: Mesh, state: State, buffer: Buffer, keys: Key) -> dict[str, np.dtype]:
    """The names and dtypes of the metrics of an update."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (state, keys))
    update = functools.partial(_update, learner, mesh)
    metrics = jax.eval_shape(lambda state, key: update(state, buffer, key, np.int32(0)), *one)[1]
    return {name: metric.dtype for name, metric in metrics.items()}


@jax.jit
def finite(state: State, sums: dict[str, Array]) -> Array:
    """Which seeds [S] have neither a NaN nor an infinity in their state and their metrics."""

    def one_seed(tree: Any) -> Array:
        numbers = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        return functools.reduce(jnp.logical_and, [jnp.isfinite(leaf).all() for leaf in numbers], jnp.array(True))

    return jax.vmap(one_seed)((state, sums))


def _check_batch(stage: Stage, buffer: Buffer, mesh: Mesh) -> None:
    batch = jax.eval_shape(lambda: stage.learner.sample(buffer, jax.random.key(0)))
    size, devices = jax.tree.leaves(batch)[0].shape[0], mesh.shape["batch"]
    if size % devices:
        raise InputError(f"stage {stage.name}: a batch of {size} cannot be shared by {devices} devices; change either")
