"""Parts a, b and c of a call: what the device can do, and how fast agents train on it."""

from __future__ import annotations

import functools
import importlib
import math
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agents import REGISTRY
from benchmarks.accelerator.files import Results, memory, one_line, size
from rlkit.buffer import Buffer, needs, stats
from rlkit.datasets.episodes import HAS_ACTION, HAS_NEXT, LABELLED, TERMINAL, Episodes
from rlkit.datasets.normaliser import Normaliser
from rlkit.loop import fit
from rlkit.sharding import make_mesh
from rlkit.types import Box, Discrete, InputError, Spec, Stage, State, Stats

SECONDS = 2.0  # of updates in one measurement of part b, after their compilation
CHUNK = 0.5  # seconds between two looks at the clock
BLOCK = 32  # updates of the inner loop in the remedy that part c tries
ROWS, OBS, ACTION = 200_000, 11, 3  # of made-up data, shaped like Hopper's
NEVER = 10**9  # updates that no measurement comes to

now = time.monotonic


def ceilings(results: Results, until: float) -> None:
    """Part a: the device, and the FLOP/s of matrix products of the networks' size and of one that fills the device."""
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit")
    results.tell(part="a", devices=jax.device_count(), platform=device.platform, memory=memory, cores=os.cpu_count())
    cases = [(1024, 256, 100)] + ([] if device.platform == "cpu" else [(8192, 8192, 20)])
    for rows, width, repeats in cases:
        for precision in ("float32", "default"):
            rate, error = _products(rows, width, repeats, precision, until)
            row = {"rows": rows, "width": width, "tflops": round(rate / 1e12, 3), "relative_error": error}
            results.tell(part="a", precision=precision, **row)


def _products(rows: int, width: int, repeats: int, precision: str, until: float) -> tuple[float, float]:
    """FLOP/s of the fastest of ten calls, or of as many as there is time for; and the relative error of one product
    against float64, which tells what a precision means on this device."""
    x = jax.random.normal(jax.random.key(0), (rows, width))
    w = jax.random.normal(jax.random.key(1), (width, width)) / math.sqrt(width)

    @jax.jit
    def product(x: Any, w: Any) -> Any:
        return jax.lax.fori_loop(0, repeats, lambda _, x: jnp.dot(x, w, precision=precision), x)

    few = np.asarray(x[:8], np.float64) @ np.asarray(w, np.float64)
    error = np.linalg.norm(np.asarray(jnp.dot(x, w, precision=precision))[:8] - few) / np.linalg.norm(few)
    jax.block_until_ready(product(x, w))
    seconds = math.inf
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(product(x, w))
        seconds = min(seconds, time.perf_counter() - start)
        if now() > until:
            break
    return repeats * 2 * rows * width**2 / seconds, float(f"{error:.2g}")


def rates(results: Results, agents: Sequence[str], until: float) -> None:
    """Part b. Only the last stage is timed, those before it make one update."""
    left = [(name, seeds) for name in agents for seeds in (1, 8)]
    while left and now() < until:
        name, seeds = left.pop(0)
        try:
            results.tell(part="b", agent=name, seeds=seeds, **_rate(name, seeds))
        except Exception as error:  # of one agent, for want of memory say: the others are still to be measured
            traceback.print_exc()
            results.tell(part="b", agent=name, seeds=seeds, failed=one_line(error))
    if left:
        results.tell(part="b", not_measured=[f"{name} x {seeds}" for name, seeds in left])


def _rate(name: str, seeds: int) -> dict[str, Any]:
    """Updates a second of one agent, and what they took."""
    setting, stages, buffer, moments = example(name)
    stages = [*(replace(stage, steps=1) for stage in stages[:-1]), replace(stages[-1], steps=NEVER)]
    began, chunks, compiled = now(), [], 0.0
    start, before = began, 0
    mesh = make_mesh(seeds, jax.devices()[:1])
    for progress in fit(stages, buffer, moments, range(seeds), log_every=NEVER, mesh=mesh, chunk_seconds=CHUNK):
        if progress.stage < len(stages) - 1 or not progress.step:
            continue
        if compiled:
            chunks.append((progress.step - before, now() - start))
        compiled = compiled or now() - began
        start, before = now(), progress.step
        if now() > began + compiled + SECONDS and chunks:
            break
    batch = jax.eval_shape(lambda: stages[-1].learner.sample(buffer, jax.random.key(0)))
    most = max(updates for updates, _ in chunks)
    long = [(updates, seconds) for updates, seconds in chunks if updates >= most / 2]  # those before say little
    return {
        "setting": setting,
        "batch": jax.tree.leaves(batch)[0].shape[0],
        "updates_s": float(f"{sum(n for n, _ in long) / sum(s for _, s in long):.4g}"),
        "compile_s": round(compiled, 1),  # of all stages, until the first update of the last one is done
        "state_mb": round(size(progress.state) / 1e6, 1),
        **memory(),
    }


def example(name: str) -> tuple[str, tuple[Stage, ...], Buffer, Stats]:
    """An agent on made-up data: the setting's name, its stages, the data and their moments.

    The setting is the preset for hopper/medium, or the defaults, which are the paper's, where an agent has none.
    Discrete actions are for the agents that need them.
    """
    module = importlib.import_module(REGISTRY[name].module)
    preset = "hopper/medium" if "hopper/medium" in module.PRESETS else None
    config = module.PRESETS[preset].config if preset else module.Config()
    observation = Box((OBS,), (-math.inf,) * OBS, (math.inf,) * OBS)
    try:
        stages = config.stages(Spec(observation, Box((ACTION,), (-1.0,) * ACTION, (1.0,) * ACTION), 1000), NEVER)
        buffer = made_up(ACTION, needs(stages))
    except InputError:
        stages = config.stages(Spec(observation, Discrete(ACTION), 1000), NEVER)
        buffer = made_up(0, needs(stages))
    return preset or "default", stages, buffer, stats(buffer)


def made_up(width: int, columns: Sequence[str]) -> Buffer:
    """Random rows of the shape of Hopper's data, one step in 250 terminal; without a ``width``, of discrete actions."""
    rng, zeros, ones = np.random.default_rng(0), np.zeros(width, np.float32), np.ones(width, np.float32)
    t = np.arange(ROWS, dtype=np.int32) % 250
    choices, amounts = rng.integers(0, ACTION, ROWS).astype(np.int32), rng.uniform(-1, 1, (ROWS, width))
    episodes = Episodes(
        name="made-up",
        fingerprint="",
        obs=rng.standard_normal((ROWS, OBS), np.float32),
        action=amounts.astype(np.float32) if width else choices,
        reward=rng.standard_normal(ROWS, np.float32),
        t=t,
        flags=np.where(t == 249, LABELLED | HAS_ACTION | TERMINAL, LABELLED | HAS_ACTION | HAS_NEXT).astype(np.uint8),
        **dict.fromkeys(("observation_space", "action_space", "env_spec", "reference", "report")),
    )
    obs, scalars = (np.zeros(OBS, np.float32), np.ones(OBS, np.float32)), np.float32([0, 1, 1, 0])
    return Buffer.from_episodes(episodes, Normaliser(*obs, zeros, ones, -ones, ones, np.int32(0), *scalars), columns)


def loops(results: Results, agents: Sequence[str], until: float) -> None:
    """Part c: the same updates in a loop whose length is an argument, as in rlkit.loop; in one of a length that the
    compiler knows; and, as a remedy, in blocks of a known length. Of one seed, where the loop itself weighs most."""
    for name in agents:
        if now() > until:
            break
        stages, buffer, state = _begun(name)
        results.tell(part="c", agent=name, **_loop_costs(stages[-1].learner, state, buffer, until))


def _begun(name: str) -> tuple[Sequence[Stage], Buffer, State]:
    """An agent's stages, made-up data, and a state of its last stage, before which each stage made one update."""
    _, stages, buffer, moments = example(name)
    stages = [*(replace(stage, steps=1) for stage in stages[:-1]), stages[-1]]
    mesh = make_mesh(1, jax.devices()[:1])
    steps = fit(stages, buffer, moments, (0,), log_every=1, mesh=mesh)
    last = next(progress for progress in steps if progress.stage == len(stages) - 1)
    return stages, buffer, jax.tree.map(lambda leaf: leaf[0], last.state)


def _loop_costs(learner: Any, state: State, buffer: Buffer, until: float) -> dict[str, Any]:
    """Microseconds of an update in each loop, their ratios, and whether the loops come to the same bits."""

    def body(i: Any, state: State) -> State:
        sample, update = jax.random.split(jax.random.fold_in(jax.random.key(1), i))
        return learner.update(state, learner.sample(buffer, sample), update, i)[0]

    def block(first: Any, length: int, state: State) -> State:
        return jax.lax.scan(lambda state, i: (body(first + i, state), None), state, jnp.arange(length))[0]

    @jax.jit
    def traced(state: State, count: Any) -> State:
        return jax.lax.fori_loop(0, count, body, state)

    @functools.partial(jax.jit, static_argnums=1)
    def static(state: State, count: int) -> State:
        return block(0, count, state)

    @jax.jit
    def blocks(state: State, count: Any) -> State:
        whole = count // BLOCK
        state = jax.lax.fori_loop(0, whole, lambda i, state: block(i * BLOCK, BLOCK, state), state)
        return jax.lax.fori_loop(whole * BLOCK, count, body, state)

    def seconds(loop: Callable[[], State]) -> tuple[float, State]:
        jax.block_until_ready(loop())  # compiled
        times = []
        while len(times) < 5 and (len(times) < 2 or now() < until):
            start = time.perf_counter()
            end = jax.block_until_ready(loop())
            times.append(time.perf_counter() - start)
        return min(times), end

    trial = seconds(lambda: traced(state, BLOCK))[0]
    count = BLOCK * max(1, min(50, int(0.5 / trial)))  # half a second
    times, ends = {}, {}
    for loop in (traced, static, blocks):
        times[loop.__name__], ends[loop.__name__] = seconds(functools.partial(loop, state, count))
    same = {f"{name}_same_bits": _equal(ends["traced"], ends[name]) for name in ("static", "blocks")}
    costs = {f"{name}_us": round(1e6 * value / count, 2) for name, value in times.items()}
    ratios = {f"traced_over_{name}": round(times["traced"] / times[name], 4) for name in ("static", "blocks")}
    return {"updates": count, **costs, **ratios, **same}


def _equal(one: State, other: State) -> bool:
    pairs = zip(jax.tree.leaves(jax.device_get(one)), jax.tree.leaves(jax.device_get(other)), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
