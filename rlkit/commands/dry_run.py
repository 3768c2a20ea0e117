"""``--dry-run``: what would be run, how large it is, and the memory that it takes.

The data's memory is that of the Buffer. No more of them is in memory at once: columns go from the cache to the device a
block at a time (rlkit.datasets.blocks). benchmarks/memory.py compares the figure with the peak of training.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from rlkit.optim import Net
from rlkit.runs import serialization
from rlkit.runs.checkpoint import size
from rlkit.training.loop import abstract_state
from rlkit.training.sharding import make_mesh
from rlkit.types import Stage

if TYPE_CHECKING:
    from rlkit.runs.job import Job


def describe(job: Job) -> str:
    """The configuration, and for each stage its batch, its networks and its memory."""
    record = job.record
    lines = [serialization.pretty(_settings(job))]

    # --- stages: with one seed, and with as many as are trained ---
    largest = 0
    for number, stage in enumerate(job.stages):
        state = abstract_state(job.stages, number, job.buffer, job.stats, record.seeds[:1])
        largest = max(largest, size(state))
        lines.append("")
        lines.append(f"stage {stage.name}: {stage.steps} updates")
        lines += _batch(stage, job)
        lines += _networks(state)

    # --- memory ---
    seeds = len(record.seeds)
    data = size(job.buffer)
    states = largest * seeds
    lines.append("")
    replay = _replay(job)
    parts = f"data {_mib(data)} + states {seeds} x {_mib(largest)}"
    if replay:
        parts += f" + replay {_mib(replay)}"
    lines.append(f"memory: {parts} = {_mib(data + states + replay)}, and the batch's activations")
    return "\n".join(lines)


def _replay(job: Job) -> int:
    """Bytes of the largest replay, of all seeds; 0 where no stage is online."""
    mesh = make_mesh(1, jax.devices()[:1])
    collector = job.collector(mesh, lambda: None)
    sizes = [0]
    for number, stage in enumerate(job.stages):
        if stage.online is not None:
            state = abstract_state(job.stages, number, job.buffer, job.stats, job.record.seeds)
            live = collector.abstract(stage, state)
            sizes.append(size(live.replay))
    return max(sizes)


def _settings(job: Job) -> dict[str, Any]:
    record = job.record
    data = {"steps": record.data.steps}
    data |= record.data.options
    return {
        "agent": record.agent,
        "preset": record.preset,
        "config": record.config,
        "steps": record.steps,
        "seeds": record.seeds,
        "log_every": record.log_every,
        "eval_every": record.eval_every,
        "online": record.online,
        "evaluation": record.evaluation,
        "reference": record.reference,
        "data": data,
        "device": record.device,
    }


def _batch(stage: Stage, job: Job) -> list[str]:
    """Name, dtype and shape of each array of a batch."""
    batch = jax.eval_shape(stage.learner.sample, job.buffer, jax.random.key(0))
    lines = []
    leaves, _ = jax.tree_util.tree_flatten_with_path(batch)
    for path, leaf in leaves:
        name = _name(path)
        lines.append(f"  batch {name:16} {leaf.dtype}{list(leaf.shape)}")
    tokens = getattr(stage.learner, "tokens", None)
    if tokens is not None:
        _, first = leaves[0]
        windows = first.shape[0]
        lines.append(f"  tokens {tokens} of each window, {windows * tokens:,} of a batch")
    return lines


def _networks(state: Any) -> list[str]:
    """Parameters of each part of a state; the optimisers' moments are not counted."""
    networks = jax.tree.map(_parameters, state, is_leaf=_is_net)
    counts: Counter[str] = Counter()
    leaves, _ = jax.tree_util.tree_flatten_with_path(networks)
    for path, leaf in leaves:
        part = _name(path[:1])
        counts[part] += int(np.prod(leaf.shape))
    width = max(map(len, counts))
    lines = []
    for name, count in counts.items():
        lines.append(f"  parameters {name:{width}} {count:>12,}")
    return lines


def _is_net(part: Any) -> bool:
    return isinstance(part, Net)


def _parameters(part: Any) -> Any:
    return part.params if _is_net(part) else part


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _mib(size: float) -> str:
    mebibytes = size / 2**20
    return f"{mebibytes:.1f} MiB"
