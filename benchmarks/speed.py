"""Measure training speed on this machine against the matrix products it could make in the same time.

    python -m benchmarks.speed [--agents NAME ...]

Data are synthetic, Hopper-shaped, a million rows. On a CPU the process is pinned to one core and timed by its own
CPU-seconds, which other processes disturb less than the wall clock; on an accelerator by the wall clock. Each workload
is bracketed by measurements of the ceiling, float32 matrix products alone, and shares are of the higher of the two.
Prints a table and appends its rows to benchmarks/speed.csv.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

Clock = Callable[[], float]  # seconds
ROOT = Path(__file__).parent.parent
ROWS, OBS, ACTION = 1_000_000, 11, 3
CHUNKS = 9
REPEATS = 100  # products in one call
# MFLOP of matrix products that the official code of SAC-RND makes per sample of a batch, traced in it at batch 1024
OFFICIAL = {"sac-rnd:sac": 6492 / 1024, "sac-rnd:rnd": 1789 / 1024}
# Agents measured if none is named, and what differs from their defaults
WORKLOADS = (
    ("bc", {}), ("iql", {}), ("td3-bc", {}), ("awac", {}),
    ("sac-rnd", {"batch_size": 256}), ("sac-rnd", {"batch_size": 1024}), ("rebrac", {}),
    ("cql", {"chunk": 16}), ("cql", {}),
)  # fmt: skip
COLUMNS = (
    "date", "commit", "device", "versions", "workload", "batch", "median_updates_s", "min_updates_s", "max_updates_s",
    "mflop_official", "mflop_executed", "ceiling_before_gflops", "ceiling_after_gflops", "share_official",
    "share_executed", "compile_s", "peak_mb", "actions_s",
)  # fmt: skip
SHOWN = COLUMNS[COLUMNS.index("workload") :]


def main() -> None:
    """Pin, measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, default=None, help="CPU core to run on (default: the last one)")
    parser.add_argument("--agents", nargs="+", default=None, help="agents to measure, with their defaults")
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks" / "speed.csv")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # before jax counts the cores
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if options.core is None else options.core})
    print(" ".join(SHOWN))
    rows = []
    for row in measure(WORKLOADS if options.agents is None else [(name, {}) for name in options.agents]):
        rows.append(identity() | row)
        print(" ".join(f"{row[name]!s:>{len(name)}}" for name in SHOWN), flush=True)
    append(options.csv, rows)


def measure(workloads: Iterable[tuple[str, dict[str, Any]]]) -> Iterable[dict[str, Any]]:
    """One row per stage of each workload; the smallest first, since the peak of memory is the process's."""
    import jax

    from agents import REGISTRY
    from rlkit.buffer import stats
    from rlkit.types import Box, Spec

    buffer = synthetic()
    moments = stats(buffer)

    def box(width: int, bound: float) -> Box:
        return Box((width,), (-bound,) * width, (bound,) * width)

    spec = Spec(box(OBS, math.inf), box(ACTION, 1.0), horizon=1000)
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    for name, changes in workloads:
        config = importlib.import_module(REGISTRY[name].module).Config(**changes)
        setting = "".join(f" {key}={value}" for key, value in changes.items() if key != "batch_size")
        for row in workload(name, config, buffer, moments, spec, clock):
            yield row | {"workload": row["workload"] + setting}


def workload(name: str, config: Any, buffer: Any, moments: Any, spec: Any, clock: Clock) -> list[dict[str, Any]]:
    """A row for every stage of one agent, trained by ``fit`` as ``rlkit train`` does."""
    import jax

    from rlkit.training.loop import fit
    from rlkit.training.sharding import make_mesh

    stages = config.stages(spec, steps=1)
    buffer = buffer._replace(extra={need: buffer.extra[need] for stage in stages for need in stage.learner.needs})
    flops = executed(stages, buffer, moments)
    before = ceiling(clock)
    chunk = max(1, round(0.7 * before / flops[-1]))  # a second or so
    stages = [replace(stage, steps=chunk * (CHUNKS + 1)) for stage in stages]
    times: list[list[float]] = [[] for _ in stages]
    start = clock()
    for progress in fit(stages, buffer, moments, (0,), log_every=chunk, mesh=make_mesh(1, jax.devices()[:1])):
        jax.block_until_ready(progress.state)
        if progress.step:
            times[progress.stage].append(clock() - start)
        start = clock()
    last = {"actions_s": actions(stages[-1].learner, jax.tree.map(lambda x: x[0], progress.state), clock)}
    ceilings = (before, ceiling(clock))
    rows = [
        figures(label(name, stage.name), config.batch_size, chunk, np.array(seconds), count, ceilings)
        for stage, seconds, count in zip(stages, times, flops, strict=True)
    ]
    return [*rows[:-1], rows[-1] | last]


def label(agent: str, stage: str) -> str:
    """The agent's name, with the stage's where the agent has others."""
    return agent if agent == stage else f"{agent}:{stage}"


def figures(
    workload: str, batch: int, chunk: int, seconds: np.ndarray, flops: float, ceilings: tuple[float, float]
) -> dict[str, Any]:
    """Rates and shares of one stage from the seconds of its chunks; the first one includes compilation."""
    steady = np.median(seconds[1:])
    rates, official = chunk / seconds[1:], OFFICIAL[workload] * batch * 1e6 if workload in OFFICIAL else None
    peak = max(ceilings) * steady / chunk  # FLOPs that the ceiling makes in the time of one update
    return {
        "workload": workload,
        "batch": batch,
        "median_updates_s": f"{np.median(rates):.4g}",
        "min_updates_s": f"{rates.min():.4g}",
        "max_updates_s": f"{rates.max():.4g}",
        "mflop_official": "" if official is None else round(official / 1e6),
        "mflop_executed": round(flops / 1e6),
        "ceiling_before_gflops": round(ceilings[0] / 1e9, 1),
        "ceiling_after_gflops": round(ceilings[1] / 1e9, 1),
        "share_official": "" if official is None else f"{official / peak:.3f}",
        "share_executed": f"{flops / peak:.3f}",
        "compile_s": round(seconds[0] - steady, 1),
        "peak_mb": round(peak_memory() / 1e6),
        "actions_s": "",
    }


def ceiling(clock: Clock) -> float:
    """FLOP/s of the best of some float32 matrix products: of the size of the networks' layers, and on an accelerator
    also of one that fills it."""
    import jax

    sizes = [(1024, 256)] if jax.default_backend() == "cpu" else [(1024, 256), (8192, 8192)]
    best = 0.0
    for rows, width in sizes:
        x = jax.random.normal(jax.random.key(0), (rows, width))
        w = jax.random.normal(jax.random.key(1), (width, width)) / math.sqrt(width)
        product = jax.jit(lambda x, w: jax.lax.fori_loop(0, REPEATS, lambda _, x: x @ w, x))
        jax.block_until_ready(product(x, w))
        for _ in range(10):
            start = clock()
            jax.block_until_ready(product(x, w))
            best = max(best, REPEATS * 2 * rows * width**2 / (clock() - start))
    return best


def executed(stages: Sequence[Any], buffer: Any, moments: Any) -> list[float]:
    """FLOPs of the matrix products in one update of each stage, forward and backward, as they are traced.

    The branches of a condition count by their mean: an actor that moves at every second update, by half. The body of a
    scan counts as often as it runs.
    """
    import jax
    from jax.extend.core import jaxprs_in_params

    def count(jaxpr: Any) -> float:
        total = 0.0
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                (contracted, _), _ = eqn.params["dimension_numbers"]
                shape = eqn.invars[0].aval.shape
                total += 2 * eqn.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
            inner = [count(jaxpr) for jaxpr in jaxprs_in_params(eqn.params)]
            times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
            total += times * sum(inner) / (len(inner) if eqn.primitive.name == "cond" else 1)
        return total

    key, state, found = jax.random.key(0), None, []
    for stage in stages:
        state = jax.eval_shape(stage.learner.init, key, state, moments)
        batch = jax.eval_shape(lambda stage=stage: stage.learner.sample(buffer, key))
        found.append(count(jax.make_jaxpr(stage.learner.update)(state, batch, key, 0).jaxpr))
    return found


def actions(agent: Any, state: Any, clock: Clock) -> int:
    """Greedy actions a second for one environment: observation in, action out, one call each."""
    import jax

    from rlkit.acting import first_goal
    from rlkit.types import Percept

    @jax.jit
    def act(state: Any, obs: np.ndarray) -> Any:
        percept = Percept(obs, np.float32(0), np.int32(0))
        memory = agent.observe(state, agent.begin(state, first_goal(agent)), percept)
        return agent.act(state, memory, jax.random.key(0), greedy=True)[0]

    obs, best = np.zeros(OBS, np.float32), 0.0
    for _ in range(CHUNKS):
        start = clock()
        for _ in range(1000):
            np.asarray(act(state, obs))
        best = max(best, 1000 / (clock() - start))
    return round(best)


def synthetic() -> Any:
    """A buffer of a million rows with Hopper's shapes, one row in a thousand terminal, with extra columns."""
    import jax

    from rlkit import columns
    from rlkit.buffer import Buffer
    from rlkit.datasets.episodes import HAS_ACTION, HAS_NEXT, TERMINAL

    rng = np.random.default_rng(0)
    terminal = rng.random(ROWS) < 1e-3
    rows = Buffer(
        obs=rng.standard_normal((ROWS, OBS), np.float32),
        action=np.tanh(rng.standard_normal((ROWS, ACTION), np.float32)),
        reward=rng.standard_normal(ROWS, np.float32),
        t=np.arange(ROWS, dtype=np.int32) % 1000,
        flags=np.where(terminal, HAS_ACTION | TERMINAL, HAS_ACTION | HAS_NEXT).astype(np.uint8),
        index=np.arange(ROWS - 1, dtype=np.int32),
        extra={},
    )
    extra = columns.make(("next_action", "has_next_action", "return_to_go"), rows)
    return jax.device_put(rows._replace(extra=extra))


def peak_memory() -> int:
    """Bytes: the process's on a CPU, the device's on an accelerator that tells."""
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    unit = 1 if sys.platform == "darwin" else 1024
    return stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def identity() -> dict[str, str]:
    """When, which code, and where."""
    import flax
    import jax

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    device = jax.devices()[0].device_kind
    cpuinfo = Path("/proc/cpuinfo")
    if device == "cpu" and cpuinfo.exists():  # jax does not know the processor's name
        models = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        device = f"one core of {models[0]}" if models else device
    return {
        "date": datetime.date.today().isoformat(),
        "commit": git("rev-parse", "--short", "HEAD")
        + ("+" if git("status", "--porcelain", "rlkit", "agents") else ""),
        "device": device,
        "versions": f"python {platform.python_version()}, jax {jax.__version__}, flax {flax.__version__}",
    }


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to the CSV, with its header if it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
