"""The training loop: every agent, every stage, every device count.

A batch's path: ``fit`` (Python, a generator) -> ``_chunk`` (one jit, state donated) -> scan body -> learner.sample ->
shard_batch -> learner.update -> optim.descend. Seeds are a leading axis of the state, vmapped; on one CPU device they
take turns, a chunk each.

Randomness is counted, not carried: the key of an update is a function of the run's seed, the stage and the step alone,
so a run that was interrupted goes on to the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlkit.buffer import Buffer
from rlkit.sharding import per_seed, replicated, shard_batch
from rlkit.types import Array, InputError, Key, Learner, Stage, State, Stats


class Progress(NamedTuple):
    """Where training stands after ``step`` updates of stage number ``stage``.

    ``state`` has a leading seed axis on every leaf and is donated to the next chunk: save or evaluate it before
    advancing the generator. ``metrics`` are means over the updates since the last yield, [S] each.
    """

    stage: int
    step: int
    state: State
    metrics: dict[str, np.ndarray]


def fit(
    stages: Sequence[Stage],
    buffer: Buffer,
    stats: Stats,
    seeds: Sequence[int],
    *,
    log_every: int,
    mesh: Mesh,
    resume: Progress | None = None,
) -> Iterator[Progress]:
    """Train ``stages`` one after another, one copy for each of ``seeds``.

    Yields at step 0 of every stage, every ``log_every`` updates and at the end of every stage. With ``resume``,
    goes on after it as if it had never stopped. Raises InputError if a batch cannot be shared by the mesh's devices.
    """
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
        else:
            state, step = _init(stage.learner, mesh, init_keys, state, stats), 0
            yield Progress(number, step, state, {})
        while step < stage.steps:
            updates = min(log_every - step % log_every, stage.steps - step)
            first = jax.device_put(np.int32(step), replicated(mesh))
            state, sums = _chunk(stage.learner, updates, mesh, state, buffer, step_keys, first)
            step += updates
            metrics = {name: total / updates for name, total in jax.device_get(sums).items()}
            yield Progress(number, step, state, metrics)


def abstract_state(stages: Sequence[Stage], number: int, stats: Stats, seeds: Sequence[int]) -> State:
    """Shapes and dtypes of the state of stage ``number``, as a checkpoint of it must have."""
    keys = jax.eval_shape(lambda: _stage_keys(np.asarray(seeds, np.uint32), 0)[0])
    state = None
    for stage in stages[: number + 1]:
        state = jax.eval_shape(functools.partial(_vmap_init, stage.learner), keys, state, stats)
    return state


@functools.partial(jax.jit, static_argnums=1)
def _stage_keys(seeds: Array, number: int) -> tuple[Key, Key]:
    """Per seed [S]: the key that initialises the stage and the key that its steps are folded into."""

    def keys(seed: Array) -> tuple[Key, Key]:
        both = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
        return both[0], both[1]

    return jax.vmap(keys)(seeds)


def _vmap_init(learner: Learner, keys: Key, prev: State | None, stats: Stats) -> State:
    return jax.vmap(learner.init, in_axes=(0, 0, None))(keys, prev, stats)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(learner: Learner, mesh: Mesh, keys: Key, prev: State | None, stats: Stats) -> State:
    return jax.lax.with_sharding_constraint(_vmap_init(learner, keys, prev, stats), per_seed(mesh))


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3,))
def _chunk(
    learner: Learner, updates: int, mesh: Mesh, state: State, buffer: Buffer, keys: Key, first: Array
) -> tuple[State, dict[str, Array]]:
    """``updates`` updates of every seed; returns the state and the sums of the metrics."""

    def update(state: State, key: Key, step: Array) -> tuple[State, dict[str, Array]]:
        sample_key, update_key = jax.random.split(jax.random.fold_in(key, step))
        batch = shard_batch(learner.sample(buffer, sample_key), mesh)
        return learner.update(state, batch, update_key, step)

    def one_seed(state: State, key: Key) -> tuple[State, dict[str, Array]]:
        def body(carry: Any, step: Array) -> tuple[Any, None]:
            state, metrics = update(carry[0], key, step)
            return (state, jax.tree.map(jnp.add, carry[1], metrics)), None

        shapes = jax.eval_shape(update, state, key, first)[1]
        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(body, (state, sums), first + jnp.arange(updates))[0]

    if mesh.size == 1 and mesh.devices.item().platform == "cpu":
        # one seed fills the device, and a seed axis, even of length 1, makes XLA's loops on a CPU 1.4 times slower
        return jax.lax.map(lambda seed: one_seed(*seed), (state, keys))
    # `first` has no seed axis, so that a lax.cond on the step stays a branch
    return jax.vmap(one_seed, spmd_axis_name="seed")(state, keys)


def _check_batch(stage: Stage, buffer: Buffer, mesh: Mesh) -> None:
    batch = jax.eval_shape(lambda: stage.learner.sample(buffer, jax.random.key(0)))
    size, devices = jax.tree.leaves(batch)[0].shape[0], mesh.shape["batch"]
    if size % devices:
        raise InputError(f"stage {stage.name}: a batch of {size} cannot be shared by {devices} devices; change either")
